//! What a run has finished, noted in the journal as it goes on.

use std::sync::mpsc::Receiver;

use crate::digest::Digest;
use crate::error::Error;
use crate::journal::Record;
use crate::output::Output;
use crate::pipeline::Finished;
use crate::plan::Plan;
use crate::resume::Earlier;
use crate::weights::Weights;

/// Digests of everything that is finished.
#[derive(Debug)]
pub struct Outcome {
    /// Of the bytes of each tensor in the output, in the plan's order.
    pub tensors: Vec<Option<Digest>>,
    /// Of each source file, in the order of [`Weights::files`].
    pub sources: Vec<Option<Digest>>,
}

/// Digests of everything.
#[derive(Debug)]
pub struct Complete {
    /// As in [`Outcome`].
    pub tensors: Vec<Digest>,
    /// As in [`Outcome`].
    pub sources: Vec<Digest>,
}

impl Outcome {
    /// What is finished before the run begins.
    pub fn new(earlier: &Earlier) -> Self {
        let tensors = earlier.tensors.iter().map(|tensor| {
            let intact = tensor.as_ref().filter(|t| t.is_intact);
            intact.map(|t| t.sha256)
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
            output
                .record(&records)
                .map_err(|source| Error::Write { source })?;
            for finished in batch {
                match finished {
                    Finished::Tensor { index, sha256, .. } => self.tensors[index] = Some(sha256),
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
            sha256,
            source_prefix_sha256,
        } => Record::Tensor {
            name: plan.tensors[index].named.gguf_name.clone(),
            sha256,
            source_prefix_sha256,
        },
        Finished::Source { file, sha256 } => Record::Source {
            name: weights.files[file].name.clone(),
            sha256,
        },
    }
}
