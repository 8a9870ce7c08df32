//! Why weights cannot be quantized.

use yi_gguf::DType;

/// Why [`quantize_rows`](super::quantize_rows) refuses its input. Rows and columns count from 0
/// within the rows given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A weight is NaN or infinite.
    #[error("row {row}, column {col}: weight is {value}, expected a finite number")]
    NotFinite {
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The weight: NaN or infinite.
        value: f32,
    },
    /// A finite weight is out of the range of the target type: of the type itself (F16, BF16), or
    /// of the F16 scale or minimum of its block.
    #[error("row {row}, column {col}: weight {value:e} is out of the range of {dtype}")]
    OutOfRange {
        /// Row of the weight.
        row: usize,
        /// Column of the weight; in a block type, of the largest weight (by magnitude) of the
        /// block.
        col: usize,
        /// The weight.
        value: f32,
        /// The target type.
        dtype: DType,
    },
    /// Importances so large that the sums over a block's weights overflow: without them it would have a finite
    /// representation.
    #[error("row {row}, column {col}: importance {importance:e} leaves no finite {dtype} block")]
    ImportanceRange {
        /// Row of the block.
        row: usize,
        /// Column of the largest importance of the block.
        col: usize,
        /// The importance.
        importance: f32,
        /// The target type.
        dtype: DType,
    },
    /// There is no kernel for the target type.
    #[error("quantizing to {dtype} is not supported")]
    Unsupported {
        /// The target type.
        dtype: DType,
    },
    /// The rows are not whole blocks of the target type.
    #[error("rows of {n_cols} weights are not whole {dtype} blocks of {block_len} weights")]
    PartialBlock {
        /// Weights per row.
        n_cols: usize,
        /// Weights per block of the target type.
        block_len: usize,
        /// The target type.
        dtype: DType,
    },
    /// The weights are not whole rows.
    #[error("{n_weights} weights are not whole rows of {n_cols}")]
    PartialRow {
        /// Weights given.
        n_weights: usize,
        /// Weights per row.
        n_cols: usize,
    },
    /// The importance matrix has another number of columns.
    #[error("importance of {found} columns for rows of {expected} weights")]
    ImportanceLength {
        /// Weights per row.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// The output buffer has the wrong size.
    #[error("output buffer has {found} bytes, expected {expected}")]
    OutputLength {
        /// Bytes that the rows take in the target type.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

impl KernelError {
    /// The same error with its row, counted within the rows given, turned into the tensor's row.
    pub fn map_row(mut self, tensor_row: impl FnOnce(usize) -> usize) -> Self {
        if let Self::NotFinite { row, .. }
        | Self::OutOfRange { row, .. }
        | Self::ImportanceRange { row, .. } = &mut self
        {
            *row = tensor_row(*row);
        }
        self
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFinite { .. } => Some(
                "the checkpoint is damaged or its training diverged: compare its files' checksums"
                    .into(),
            ),
            Self::OutOfRange {
                dtype: DType::BF16, ..
            } => Some("keep this tensor in F32".into()),
            Self::OutOfRange { .. } => Some("keep this tensor in BF16 or F32".into()),
            Self::ImportanceRange { .. } => Some(
                "the importance matrix is damaged: compute it again, or quantize without it".into(),
            ),
            _ => None,
        }
    }
}
