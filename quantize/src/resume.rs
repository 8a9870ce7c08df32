//! What an earlier run finished, compared with the files before it is believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::journal::{Journal, Record};
use crate::outcome::TensorOutcome;
use crate::output::Output;
use crate::plan::Plan;
use crate::weights::Weights;

/// Bytes of the output that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What need not be done again, and what must turn out the same.
#[derive(Debug)]
pub struct Earlier {
    /// In the plan's order.
    pub tensors: Vec<Option<EarlierTensor>>,
    /// In the order of [`Weights::files`].
    pub sources: Vec<EarlierSource>,
}

/// A tensor that the journal calls finished.
#[derive(Debug, Clone)]
pub struct EarlierTensor {
    /// What it became.
    pub outcome: TensorOutcome,
    /// Of its source file up to its end, when it was made.
    pub source_prefix_sha256: Digest,
    /// Whether the bytes in the output are still those.
    pub is_intact: bool,
}

/// A source file.
#[derive(Debug, Clone, Default)]
pub struct EarlierSource {
    /// Of the whole file, if it was read to its end.
    pub sha256: Option<Digest>,
    /// Nothing of it needs to be read: all of its tensors are finished, and the system says that it has not
    /// changed.
    pub is_done: bool,
}

impl Earlier {
    /// Nothing was finished.
    pub fn nothing(plan: &Plan, weights: &Weights) -> Self {
        Self {
            tensors: vec![None; plan.tensors.len()],
            sources: vec![EarlierSource::default(); weights.files.len()],
        }
    }

    /// Reads back what the journal calls finished: a tensor whose bytes are others is made again.
    pub fn verify(
        journal: &Journal,
        plan: &Plan,
        weights: &Weights,
        output: &Output,
        pool: &ThreadPool,
        cancelled: &AtomicBool,
    ) -> Result<Self, Error> {
        let mut tensors = HashMap::new();
        let mut sources = HashMap::new();
        // Of two records of one name, the later one counts.
        for record in &journal.records {
            match record {
                Record::Tensor {
                    name,
                    outcome,
                    source_prefix_sha256,
                } => {
                    tensors.insert(name.as_str(), (*outcome, *source_prefix_sha256));
                }
                Record::Source { name, sha256 } => {
                    sources.insert(name.as_str(), *sha256);
                }
                Record::Complete { .. } => {}
            }
        }
        let verify_tensor = |index: usize| {
            let name = plan.tensors[index].named.gguf_name.as_str();
            let Some((outcome, source_prefix_sha256)) = tensors.get(name).copied() else {
                return Ok(None);
            };
            let found = tensor_sha256(plan, index, output, cancelled)?;
            Ok(Some(EarlierTensor {
                outcome,
                source_prefix_sha256,
                is_intact: found == Some(outcome.sha256),
            }))
        };
        let indices = 0..plan.tensors.len();
        let tensors: Vec<Option<EarlierTensor>> = pool.install(|| {
            let tensors = indices.into_par_iter().map(verify_tensor);
            tensors.collect::<Result<_, Error>>()
        })?;

        let mut all_intact = vec![true; weights.files.len()];
        for (tensor, earlier) in plan.tensors.iter().zip(&tensors) {
            let is_intact = earlier.as_ref().is_some_and(|t| t.is_intact);
            all_intact[tensor.named.source.file] &= is_intact;
        }
        let verify_source = |(file, all_intact): (&crate::weights::WeightFile, bool)| {
            let sha256 = sources.get(file.name.as_str()).copied();
            let is_same = journal.header.stamp(&file.name) == Some(file.map.stamp());
            EarlierSource {
                sha256,
                is_done: sha256.is_some() && all_intact && is_same,
            }
        };
        let sources = weights.files.iter().zip(all_intact).map(verify_source);
        Ok(Self {
            sources: sources.collect(),
            tensors,
        })
    }

    /// Tensors that need not be made again.
    pub fn n_finished(&self) -> usize {
        let tensors = self.tensors.iter().flatten();
        tensors.filter(|tensor| tensor.is_intact).count()
    }
}

/// Of a tensor's bytes in the output; `None` if what follows it is no padding.
fn tensor_sha256(
    plan: &Plan,
    index: usize,
    output: &Output,
    cancelled: &AtomicBool,
) -> Result<Option<Digest>, Error> {
    let place = plan.place(index);
    let mut hasher = Hasher::default();
    let mut bytes = vec![0; READ_BYTES];
    let mut read = |range: std::ops::Range<u64>, take: &mut dyn FnMut(&[u8])| {
        let mut offset = range.start;
        while offset < range.end {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let n = (range.end - offset).min(READ_BYTES as u64) as usize;
            output.read_exact_at(place.part, &mut bytes[..n], offset)?;
            take(&bytes[..n]);
            offset += n as u64;
        }
        Ok(())
    };
    read(place.bytes.clone(), &mut |bytes| hasher.update(bytes))?;
    let mut is_padded = true;
    let padding = place.bytes.end..place.padded_end;
    read(padding, &mut |bytes| {
        is_padded &= bytes.iter().all(|byte| *byte == 0)
    })?;
    Ok(is_padded.then(|| hasher.digest()))
}
