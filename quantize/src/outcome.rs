//! What a run has finished, noted in the journal as it goes on.

use std::sync::mpsc::Receiver;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::journal::Record;
use crate::output::Output;
use crate::pipeline::Finished;
use crate::plan::Plan;
use crate::resume::Earlier;
use crate::weights::Weights;

/// What became of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorOutcome {
    /// Of its bytes in the output.
    pub sha256: Digest,
    /// Sum of the squared differences between the weights and what the output holds in their place. 0 for weights
    /// that it holds exactly.
    #[serde(with = "bits")]
    pub sum_sq_error: f64,
    /// Sum of the squared weights; 0 where no difference was looked for, since there can be none.
    #[serde(with = "bits")]
    pub sum_sq: f64,
}

impl TensorOutcome {
    /// The root of the mean squared difference of `n_params` weights.
    pub fn rms_error(&self, n_params: u64) -> f64 {
        (self.sum_sq_error / n_params as f64).sqrt()
    }

    /// The difference's norm as a share of the weights'.
    pub fn relative_error(&self) -> f64 {
        match self.sum_sq_error {
            0.0 => 0.0,
            error => (error / self.sum_sq).sqrt(),
        }
    }
}

/// Numbers as their bits: decimal digits may not read back as the same number.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(x.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// What is finished.
#[derive(Debug)]
pub struct Outcome {
    /// Each tensor, in the plan's order.
    pub tensors: Vec<Option<TensorOutcome>>,
    /// The digest of each source file, in the order of [`Weights::files`].
    pub sources: Vec<Option<Digest>>,
}

/// What everything has become.
#[derive(Debug)]
pub struct Complete {
    /// As in [`Outcome`].
    pub tensors: Vec<TensorOutcome>,
    /// As in [`Outcome`].
    pub sources: Vec<Digest>,
}

impl Outcome {
    /// What is finished before the run begins.
    pub fn new(earlier: &Earlier) -> Self {
        let tensors = earlier.tensors.iter().map(|tensor| {
            let intact = tensor.as_ref().filter(|t| t.is_intact);
            intact.map(|t| t.outcome)
        });
        let sources = earlier.sources.iter();
        Self {
            tensors: tensors.collect(),
            sources: sources.map(|s| s.sha256.filter(|_| s.is_done)).collect(),
        }
    }

    /// Everything, if it is finished.
    pub fn complete(&self) -> Option<Complete> {
        Some(Complete {
            tensors: self.tensors.iter().copied().collect::<Option<_>>()?,
            sources: self.sources.iter().copied().collect::<Option<_>>()?,
        })
    }

    /// Tensors that are finished.
    pub fn n_tensors(&self) -> usize {
        self.tensors.iter().flatten().count()
    }

    /// Brings to the disk and notes in the journal what the pipeline finishes, until it ends. While the disk is
    /// busy more comes together, so the slower it is the fewer the entries.
    ///
    /// # Errors
    /// The disk's. The pipeline notices when it has something to report.
    pub fn keep(
        &mut self,
        finished: &Receiver<Finished>,
        plan: &Plan,
        weights: &Weights,
        output: &Output,
    ) -> Result<(), Error> {
        while let Ok(first) = finished.recv() {
            let batch: Vec<Finished> = std::iter::once(first).chain(finished.try_iter()).collect();
            let records: Vec<Record> = batch.iter().map(|f| record(f, plan, weights)).collect();
            output.record(&records)?;
            for finished in batch {
                match finished {
                    Finished::Tensor { index, outcome, .. } => self.tensors[index] = Some(outcome),
                    Finished::Source { file, sha256 } => self.sources[file] = Some(sha256),
                }
            }
        }
        Ok(())
    }
}

fn record(finished: &Finished, plan: &Plan, weights: &Weights) -> Record {
    match *finished {
        Finished::Tensor {
            index,
            outcome,
            source_prefix_sha256,
        } => Record::Tensor {
            name: plan.tensors[index].named.gguf_name.clone(),
            outcome,
            source_prefix_sha256,
        },
        Finished::Source { file, sha256 } => Record::Source {
            name: weights.files[file].name.clone(),
            sha256,
        },
    }
}
