//! What will be written, decided before any weight is read: a pure function of input and request.

use std::ops::Range;

use yi_gguf::{DType, Gguf};

use crate::arch::NamedTensor;
use crate::choose::{self, Chooser};
use crate::digest::Digest;
use crate::error::Error;
use crate::file_type::FileType;
use crate::imatrix::{Imatrix, ImatrixError};
use crate::input::Input;
use crate::manifest;
use crate::model_facts::ModelFacts;
use crate::request::{Request, RequestError, Split};
use crate::split;

/// Weights of the longest row that is quantized; known models have a few ten thousand. Each thread holds a row at a
/// time, so this bounds the memory.
const MAX_COLS: u64 = 1 << 24;

/// A tensor of the output.
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
    /// What an error in each column counts, where it is known: `n_cols` values.
    pub importance: Option<&'a [f32]>,
}

impl PlannedTensor<'_> {
    /// Bytes in the input.
    pub fn source_bytes(&self) -> u64 {
        (self.n_rows * self.source_row_bytes()) as u64
    }

    /// Bytes of one row in the input.
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

    /// Whether its rows keep their bytes.
    pub fn is_copy(&self) -> bool {
        self.dtype == self.named.source_dtype
    }

    /// The row length first.
    pub(crate) fn dims(&self) -> Vec<u64> {
        self.named.source.shape.iter().rev().copied().collect()
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

/// The whole output: the header of each file, and where each tensor's bytes come from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What was asked for, the importance matrix included.
    pub request: Request,
    /// Header and layout of each output file; one, unless the output is split.
    pub parts: Vec<Gguf>,
    /// In the order of the parts and of [`Gguf::tensors`] within each.
    pub tensors: Vec<PlannedTensor<'a>>,
    /// Where each tensor goes.
    places: Vec<Place>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Plans the output for an opened input.
    ///
    /// # Errors
    /// Tensors that are missing, left over or of another shape than `config.json` says; choices that do not go
    /// with the model; rows, metadata or sizes that are too large; a vocabulary larger than the embedding; a
    /// tokenizer that llama.cpp would read differently.
    pub fn new(
        input: &'a Input,
        request: &Request,
        imatrix: Option<&'a Imatrix>,
    ) -> Result<Self, Error> {
        let mut named = input.tensors()?;
        if request.split == Some(Split::Keep) {
            named.sort_by_key(|t| (t.source.file, t.source.bytes.start));
        }
        let n_params = named.iter().map(|t| t.source.shape.iter().product::<u64>());
        let mut metadata = input.metadata(request.file_type, n_params.sum())?;
        choose::override_metadata(&mut metadata, &request.kv_overrides)?;
        if let Some(imatrix) = imatrix {
            imatrix.write_metadata(&mut metadata)?;
        }
        let request = Request {
            imatrix: imatrix.map(|imatrix| imatrix.id().clone()),
            ..request.clone()
        };
        let sources = manifest::sources(input, None);
        manifest::write_metadata(&mut metadata, &request, &sources, Digest::PLACEHOLDER)?;
        let facts = ModelFacts::new(&metadata);
        facts.check_supported()?;

        let names: Vec<&str> = named.iter().map(|t| t.gguf_name.as_str()).collect();
        let mut chooser = Chooser::new(&request, &facts, imatrix.is_some(), &names)?;
        let mut tensors = Vec::with_capacity(named.len());
        for named in named {
            let dtype = chooser.choose(&named)?;
            tensors.push(plan_tensor(named, dtype, imatrix)?);
        }
        let mut warnings = chooser.warnings();
        if let Some(imatrix) = imatrix {
            check_imatrix(imatrix, &tensors, &mut warnings)?;
        }

        let parts = split::lay_out(metadata, &tensors, request.split, input)?;
        // What the finished files must pass: better known now than after half an hour's work.
        check_parts(&parts).map_err(|source| {
            if request.kv_overrides.is_empty() {
                Error::Gguf(source)
            } else {
                RequestError::Overridden { source }.into()
            }
        })?;
        input.self_test(parts[0].metadata())?;
        Ok(Self {
            request,
            places: places(&parts),
            parts,
            tensors,
            warnings,
        })
    }

    /// Where tensor `index` lies in the output.
    pub fn place(&self, index: usize) -> &Place {
        &self.places[index]
    }

    /// Weights of all tensors.
    pub fn n_params(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::n_params).sum()
    }

    /// Bytes of all tensors in the input.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::source_bytes).sum()
    }

    /// Bytes of all tensors in the output, without padding.
    pub fn output_bytes(&self) -> u64 {
        self.tensors.iter().map(PlannedTensor::output_bytes).sum()
    }

    /// Bytes of all output files.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(Gguf::file_bytes).sum()
    }

    /// Bits of tensor data per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.output_bytes() as f64 * 8.0 / self.n_params() as f64
    }
}

/// Bytes of all tensors that [`Plan::new`] would plan for a type without further choices. Lays nothing out
/// and tests no tokenizer, so all types can be compared at once.
///
/// # Errors
/// Tensors that are missing, left over or of another shape than `config.json` says; an input that is
/// quantized already.
pub fn output_bytes(input: &Input, file_type: FileType) -> Result<u64, Error> {
    let named = input.tensors()?;
    let request = Request::new(file_type);
    let n_params = named.iter().map(|t| t.source.shape.iter().product::<u64>());
    let facts = ModelFacts::new(&input.metadata(file_type, n_params.sum())?);
    let names: Vec<&str> = named.iter().map(|t| t.gguf_name.as_str()).collect();
    let mut chooser = Chooser::new(&request, &facts, false, &names)?;
    let mut bytes = 0;
    for named in named {
        let dtype = chooser.choose(&named)?;
        bytes += plan_tensor(named, dtype, None)?.output_bytes();
    }
    Ok(bytes)
}

fn places(parts: &[Gguf]) -> Vec<Place> {
    let files = parts.iter().enumerate();
    let places = files.flat_map(|(part, gguf)| {
        gguf.tensors().iter().map(move |info| {
            let bytes = gguf.tensor_file_range(info);
            Place {
                part,
                // The data section begins at a multiple of the alignment.
                padded_end: bytes.end.next_multiple_of(gguf.alignment()),
                bytes,
            }
        })
    });
    places.collect()
}

/// Checks the headers of all files of a model as llama.cpp will see them.
pub(crate) fn check_parts(parts: &[Gguf]) -> Result<(), yi_gguf::Error> {
    match parts {
        [single] => yi_gguf::check_model(single),
        parts => yi_gguf::check_split_model(parts),
    }
}

fn plan_tensor<'a>(
    named: NamedTensor<'a>,
    dtype: DType,
    imatrix: Option<&'a Imatrix>,
) -> Result<PlannedTensor<'a>, Error> {
    // The weights lie in a mapped file, and a type takes at most 16 times another's bytes: products fit.
    let n_cols = named.source.shape.last().copied().unwrap_or(1);
    if n_cols > MAX_COLS {
        return Err(Error::LongRow {
            tensor: named.source.name.clone(),
            n_cols,
            max_cols: MAX_COLS,
        });
    }
    let n_rows = named.source.shape.iter().rev().skip(1).product::<u64>();
    let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
    let mut tensor = PlannedTensor {
        named,
        dtype,
        n_cols: n_cols as usize,
        n_rows: n_rows as usize,
        row_bytes: row_bytes as usize,
        importance: None,
    };
    if let Some(imatrix) = imatrix
        && !tensor.is_copy()
    {
        let name = tensor.named.gguf_name.as_str();
        match imatrix.values(name) {
            // llama-imatrix counts how often a token came, where it has an entry for the embedding at all.
            Some(values) if values.len() != tensor.n_cols && !choose::is_embedding(name) => {
                return Err(ImatrixError::Size {
                    tensor: name.to_owned(),
                    found: values.len(),
                    expected: tensor.n_cols,
                }
                .into());
            }
            values => tensor.importance = values.filter(|values| values.len() == tensor.n_cols),
        }
    }
    Ok(tensor)
}

/// Tells of matrices that are quantized without importance; refuses a matrix for another model.
fn check_imatrix(
    imatrix: &Imatrix,
    tensors: &[PlannedTensor],
    warnings: &mut Vec<String>,
) -> Result<(), ImatrixError> {
    let is_known = |name: &str| tensors.iter().any(|t| t.named.gguf_name == name);
    if !imatrix.names().any(is_known) {
        return Err(ImatrixError::Foreign {
            n_entries: imatrix.names().len(),
            example: imatrix
                .names()
                .next()
                .unwrap_or_default()
                .escape_default()
                .to_string(),
        });
    }
    // llama-imatrix leaves those two out by default.
    let missing: Vec<&str> = tensors
        .iter()
        .filter(|t| t.dtype.block_len() > 1 && !t.is_copy() && t.importance.is_none())
        .map(|t| t.named.gguf_name.as_str())
        .filter(|name| !choose::is_embedding(name) && *name != "output.weight")
        .collect();
    if let [first, ..] = missing.as_slice() {
        warnings.push(format!(
            "the importance matrix has nothing for {} of the tensors, `{first}` for one: they are quantized without",
            missing.len()
        ));
    }
    Ok(())
}
