//! The recipe for a size: `--target-size` and `--fit-ram`.
//!
//! Every matrix counts alike, by the error of its output relative to that output: what a layer adds to the residual
//! stream, or makes of it, is disturbed by that share, however large the matrix is. So small matrices (attention keys
//! and values under grouped queries) get many bits, for few bytes, and large ones as many as the budget leaves.

use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use yi_gguf::{DType, Metadata};

use super::allot::{Choice, allot};
use super::measure::{Measured, measure};
use super::{Recipe, RecipeError};
use crate::error::Error;
use crate::file_type::FileType;
use crate::imatrix::Imatrix;
use crate::input::Input;
use crate::kernels::Isa;
use crate::memory;
use crate::mixture;
use crate::pipeline::Workers;
use crate::plan::{Plan, PlannedTensor};
use crate::request::Request;

/// How large the output may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// All output files together.
    Bytes(u64),
    /// What this machine's memory holds beside the system and a context.
    Ram,
}

/// Tokens of context that `--fit-ram` leaves room for, if the model has as many.
const RAM_N_CTX: u64 = 4096;

/// What is expected of a recipe, beside Q4_K_M with the same importance matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// As asked for, or as the machine's memory allows.
    pub budget_bytes: u64,
    /// Mean over the matrices of the relative error of their outputs.
    pub error: f64,
    /// The same of Q4_K_M.
    pub q4_k_m_error: f64,
    /// Bytes of the file that Q4_K_M makes.
    pub q4_k_m_bytes: u64,
}

impl Prediction {
    /// For a person: the planned size and what is expected of it.
    pub fn describe(&self, plan: &Plan) -> String {
        format!(
            "predicted error {:.3} % of each matrix's output in {} of {} bytes; Q4_K_M: {:.3} % in {}",
            100.0 * self.error,
            plan.file_bytes(),
            self.budget_bytes,
            100.0 * self.q4_k_m_error,
            self.q4_k_m_bytes,
        )
    }

    /// For a program.
    pub fn json(&self) -> Value {
        json!({
            "budget_bytes": self.budget_bytes,
            "mean_relative_error": self.error,
            "q4_k_m": { "mean_relative_error": self.q4_k_m_error, "file_bytes": self.q4_k_m_bytes },
        })
    }
}

/// What types are chosen for.
#[derive(Clone, Copy)]
pub struct Sizing<'a> {
    /// Where the weights are.
    pub input: &'a Input,
    /// All else that is asked for.
    pub request: &'a Request,
    /// What an error in each column counts.
    pub imatrix: Option<&'a Imatrix>,
}

impl Sizing<'_> {
    /// Measures the matrices and chooses their types.
    ///
    /// # Errors
    /// As [`Plan::new`]; a budget that the smallest types pass; weights that are not finite; an interruption.
    pub fn for_budget(
        &self,
        budget: Budget,
        workers: Workers,
        cancelled: &AtomicBool,
    ) -> Result<(Recipe, Prediction), Error> {
        workers
            .pool()?
            .install(|| for_budget(*self, budget, workers.isa, cancelled))
    }
}

fn for_budget(
    sizing: Sizing,
    budget: Budget,
    isa: Isa,
    cancelled: &AtomicBool,
) -> Result<(Recipe, Prediction), Error> {
    let Sizing {
        input,
        request,
        imatrix,
    } = sizing;
    let q4_k_m = Request {
        file_type: FileType::Q4_K_M,
        recipe: None,
        // Its matrices may need larger files than those of the recipe.
        split: None,
        ..request.clone()
    };
    let plan = Plan::new(input, &q4_k_m, imatrix)?;
    let budget_bytes = match budget {
        Budget::Bytes(n) => n,
        Budget::Ram => ram_budget(plan.parts[0].metadata())?,
    };
    let matrices: Vec<&PlannedTensor> = plan.tensors.iter().filter(|t| is_matrix(t)).collect();
    let measured = measure(&matrices, input.weights(), isa, cancelled)?;

    let alignment = plan.parts[0].alignment();
    let choices: Vec<Vec<Choice>> = matrices
        .iter()
        .zip(&measured)
        .map(|(tensor, types)| types.iter().map(|m| choice(tensor, m, alignment)).collect())
        .collect();
    // All that is not a matrix: headers, norms, padding.
    let matrix_bytes = matrices
        .iter()
        .map(|t| t.output_bytes().next_multiple_of(alignment));
    let mut fixed_bytes = plan.file_bytes().saturating_sub(matrix_bytes.sum());
    // The header names the recipe, so its length depends on it a little. What is set aside grows with
    // each recipe that did not fit, until one does or none is left.
    let mut recipe;
    let mut chosen;
    loop {
        let smallest: u64 = choices.iter().map(|c| least_bytes(c)).sum();
        chosen = budget_bytes
            .checked_sub(fixed_bytes)
            .and_then(|left| allot(&choices, left))
            .ok_or(RecipeError::TooSmall {
                budget_bytes,
                needed_bytes: fixed_bytes + smallest,
            })?;
        let types = || matrices.iter().zip(&measured).zip(&chosen);
        let named = types().map(|((t, m), &c)| (t.named.gguf_name.clone(), m[c].dtype));
        let file_type = most_common(types().map(|((t, m), &c)| (m[c].dtype, t.n_params())));
        recipe = Recipe::new(file_type, named);
        let planned = Plan::new(input, &recipe.clone().applied_to(request), imatrix)?;
        if planned.file_bytes() <= budget_bytes {
            break;
        }
        let chosen_bytes = choices.iter().zip(&chosen).map(|(c, &i)| c[i].n_bytes);
        fixed_bytes = planned.file_bytes().saturating_sub(chosen_bytes.sum());
    }

    let mean =
        |errors: &mut dyn Iterator<Item = f64>| errors.sum::<f64>() / matrices.len().max(1) as f64;
    let chosen_errors = measured
        .iter()
        .zip(&chosen)
        .map(|(m, &c)| m[c].relative_error);
    let q4_k_m_errors = matrices
        .iter()
        .zip(&measured)
        .map(|(t, m)| error_of(m, t.dtype));
    let prediction = Prediction {
        budget_bytes,
        error: mean(&mut chosen_errors.into_iter()),
        q4_k_m_error: mean(&mut q4_k_m_errors.into_iter()),
        q4_k_m_bytes: plan.file_bytes(),
    };
    Ok((recipe, prediction))
}

/// Whether a tensor has a choice of types.
fn is_matrix(tensor: &PlannedTensor) -> bool {
    mixture::allows_quantization(&tensor.named.gguf_name, &tensor.dims())
}

fn choice(tensor: &PlannedTensor, measured: &Measured, alignment: u64) -> Choice {
    let n_blocks = tensor.n_params() / measured.dtype.block_len();
    Choice {
        n_bytes: (n_blocks * measured.dtype.block_bytes()).next_multiple_of(alignment),
        error: measured.relative_error,
    }
}

fn least_bytes(choices: &[Choice]) -> u64 {
    choices.iter().map(|c| c.n_bytes).min().unwrap_or(0)
}

/// Q4_K_M's types are all measured, or are the source's own.
fn error_of(measured: &[Measured], dtype: DType) -> f64 {
    let found = measured.iter().find(|m| m.dtype == dtype);
    found.map_or(0.0, |m| m.relative_error)
}

/// The simplest recipe whose default is the type of most weights.
fn most_common(types: impl Iterator<Item = (DType, u64)>) -> FileType {
    let mut n_weights = [0u64; FileType::ALL.len()];
    for (dtype, n) in types {
        if let Some(i) = FileType::ALL
            .iter()
            .position(|f| f.default_dtype() == dtype)
        {
            n_weights[i] += n;
        }
    }
    let most = (0..n_weights.len()).rev().max_by_key(|&i| n_weights[i]);
    most.map_or(FileType::Q4_K_M, |i| FileType::ALL[i])
}

/// Memory less an eighth for the system, the cache, the mask and 1 GiB for the computation.
fn ram_budget(metadata: &Metadata) -> Result<u64, RecipeError> {
    const COMPUTE_BYTES: u64 = 1 << 30;
    const N_UBATCH: u64 = 512;
    let total_bytes = memory::total_bytes().ok_or(RecipeError::UnknownMemory)?;
    let trained = metadata
        .str("general.architecture")
        .ok()
        .flatten()
        .and_then(|a| {
            metadata
                .unsigned(&format!("{a}.context_length"))
                .ok()
                .flatten()
        });
    let n_ctx = trained.unwrap_or(RAM_N_CTX).min(RAM_N_CTX);
    let reserved_bytes = (total_bytes / 8)
        .saturating_add(memory::kv_cache_bytes(metadata, n_ctx).unwrap_or(0))
        .saturating_add(memory::mask_bytes(n_ctx, N_UBATCH))
        .saturating_add(COMPUTE_BYTES);
    total_bytes
        .checked_sub(reserved_bytes)
        .filter(|&left| left > 0)
        .ok_or(RecipeError::NoMemory {
            total_bytes,
            reserved_bytes,
            n_ctx,
        })
}
