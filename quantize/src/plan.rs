//! What will be written, decided before any weight is read: a pure function of checkpoint and request.

use std::ops::Range;

use yi_gguf::{DType, Gguf, TensorSpec};

use crate::arch::llama::{self, NamedTensor};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::file_type::FileType;
use crate::metadata;
use crate::mixture::{self, Category, Mixture};
use crate::model_facts::ModelFacts;
use crate::tokenizer;

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The recipe.
    pub file_type: FileType,
}

/// A tensor of the output file.
#[derive(Debug)]
pub struct PlannedTensor<'a> {
    /// Where it comes from.
    pub named: NamedTensor<'a>,
    /// What it becomes.
    pub dtype: DType,
    /// Elements per row.
    pub n_cols: usize,
    /// Rows.
    pub n_rows: usize,
    /// Bytes of one row in the output.
    pub row_bytes: usize,
}

impl PlannedTensor<'_> {
    /// Bytes in the checkpoint.
    pub fn source_bytes(&self) -> u64 {
        (self.n_rows * self.source_row_bytes()) as u64
    }

    /// Bytes of one row in the checkpoint.
    pub fn source_row_bytes(&self) -> usize {
        let dtype = self.named.source_dtype;
        self.n_cols / dtype.block_len() as usize * dtype.block_bytes() as usize
    }

    /// Bytes in the output.
    pub fn output_bytes(&self) -> u64 {
        (self.n_rows * self.row_bytes) as u64
    }

    /// Weights.
    pub fn n_params(&self) -> u64 {
        (self.n_rows * self.n_cols) as u64
    }
}

/// Where a tensor lies in the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, by its place in [`Plan::parts`].
    pub part: usize,
    /// From the file's start.
    pub bytes: Range<u64>,
    /// Where the zeros after it end and the next tensor may begin.
    pub padded_end: u64,
}

/// The whole output file: its header, and where each tensor's bytes come from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Header and layout of the output.
    pub gguf: Gguf,
    /// In the order of [`Gguf::tensors`].
    pub tensors: Vec<PlannedTensor<'a>>,
}

impl<'a> Plan<'a> {
    /// Plans the output for an opened checkpoint.
    ///
    /// # Errors
    /// Tensors that are missing, left over or of another shape than `config.json` says; metadata or sizes that
    /// GGUF cannot hold; a vocabulary larger than the embedding; a tokenizer that llama.cpp would read differently.
    pub fn new(checkpoint: &'a Checkpoint, request: Request) -> Result<Self, Error> {
        let config = &checkpoint.config;
        let named = llama::name_tensors(config, &checkpoint.weights)?;
        let n_params = named.iter().map(|t| t.source.shape.iter().product::<u64>());
        let metadata = metadata::build(checkpoint, request.file_type, n_params.sum())?;
        let facts = ModelFacts::new(&metadata);
        let names = named.iter().map(|t| t.gguf_name.as_str());
        let mut mixture = Mixture::new(request.file_type, &facts, false, names);
        let tensors: Vec<PlannedTensor> = named
            .into_iter()
            .map(|named| plan_tensor(named, request, &mut mixture))
            .collect();

        let specs = tensors.iter().map(|t| TensorSpec {
            name: t.named.gguf_name.clone(),
            dims: t.named.source.shape.iter().rev().copied().collect(),
            dtype: t.dtype,
        });
        let gguf = Gguf::new(metadata, specs.collect())?;
        // What the finished file must pass: better known now than after half an hour's work.
        yi_gguf::check_model(&gguf)?;
        tokenizer::self_test(&checkpoint.tokenizer, gguf.metadata())?;
        Ok(Self { gguf, tensors })
    }

    /// The headers of the files that the output has, in order.
    pub fn parts(&self) -> &[Gguf] {
        std::slice::from_ref(&self.gguf)
    }

    /// Where tensor `index` lies in the output.
    pub fn place(&self, index: usize) -> Place {
        let gguf = &self.gguf;
        let bytes = gguf.tensor_file_range(&gguf.tensors()[index]);
        Place {
            part: 0,
            // The data section begins at a multiple of the alignment.
            padded_end: bytes.end.next_multiple_of(gguf.alignment()),
            bytes,
        }
    }

    /// Weights of all tensors.
    pub fn n_params(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::n_params).sum()
    }

    /// Bytes of all tensors in the checkpoint.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::source_bytes).sum()
    }

    /// Bytes of all tensors in the output, without padding.
    pub fn output_bytes(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::output_bytes).sum()
    }

    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.output_bytes() as f64 * 8.0 / self.n_params() as f64
    }
}

fn plan_tensor<'a>(
    named: NamedTensor<'a>,
    request: Request,
    mixture: &mut Mixture,
) -> PlannedTensor<'a> {
    // Shapes agree with config.json, whose numbers are capped so that these products fit.
    let dims: Vec<u64> = named.source.shape.iter().rev().copied().collect();
    let n_cols = dims[0];
    let n_rows = dims[1..].iter().product::<u64>();
    let file_type = request.file_type;
    let dtype = if !mixture::allows_quantization(&named.gguf_name, &dims) {
        DType::F32
    } else if file_type.is_quantized() {
        let category = Category::of(&named.gguf_name);
        mixture::fallback(mixture.next(category, n_cols, None), n_cols)
    } else {
        file_type.default_dtype()
    };
    let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
    PlannedTensor {
        named,
        dtype,
        n_cols: n_cols as usize,
        n_rows: n_rows as usize,
        row_bytes: row_bytes as usize,
    }
}
