//! The arguments as they were given, without side effects, and the request that they make.

use std::path::PathBuf;

use clap::Parser;

use crate::error::Error;
use crate::file_type::FileType;
use crate::kernels::Isa;
use crate::recipe::{Budget, Recipe};
use crate::request::{self, Request, Split};

/// More than any machine can use; far more would only bring the system to its limits.
const MAX_THREADS: i64 = 4096;

/// Turns a Hugging Face checkpoint or a GGUF model into a quantized GGUF file, in one pass and without a temporary
/// copy.
#[derive(Debug, Parser)]
#[command(name = "yi-quantize", max_term_width = 100)]
pub struct Args {
    /// Folder of a checkpoint (config.json, *.safetensors and a tokenizer), or a GGUF file; of a split model the first
    pub(super) input: PathBuf,
    /// File to write; it appears whole or not at all
    pub(super) output: PathBuf,
    /// Type of the weights; not with a size or a recipe, which say it for each matrix
    #[arg(
        value_name = "TYPE",
        ignore_case = true,
        required_unless_present_any = BY_MATRIX,
        conflicts_with_all = BY_MATRIX,
    )]
    file_type: Option<FileType>,
    /// Threads to quantize with [default: the cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub(super) threads: Option<u16>,
    /// Instruction set of the kernels; the output is the same with each [default: the best the CPU has]
    #[arg(long, value_name = "NAME", value_parser = isa)]
    pub(super) isa: Option<Isa>,
    /// Print what would be written, tensor by tensor, and stop
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Replace OUTPUT if it exists
    #[arg(long)]
    pub(super) force: bool,
    /// Go on with what an interrupted run of the same command left, if it left something
    #[arg(long)]
    pub(super) resume: bool,
    /// Print the plan or the summary as one JSON object on stdout
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    sizing: Sizing,
    #[command(flatten)]
    choices: Choices,
}

/// What gives each matrix a type of its own.
const BY_MATRIX: [&str; 3] = ["target_size", "fit_ram", "recipe"];

/// What such a type leaves no room for.
const TYPE_CHOICES: [&str; 6] = [
    "tensor_type",
    "tensor_type_file",
    "output_tensor_type",
    "token_embedding_type",
    "leave_output_tensor",
    "pure",
];

/// A type for each matrix, chosen by its measured error.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sizes")]
struct Sizing {
    /// Largest size of the output, as in 18GiB, 18G or 7.5GiB: each matrix gets the type that makes the model's
    /// expected error smallest
    #[arg(long, value_name = "SIZE", conflicts_with_all = TYPE_CHOICES)]
    target_size: Option<String>,
    /// The same for what this machine's memory holds beside the system and a context of 4096 tokens
    #[arg(long, conflicts_with = "target_size", conflicts_with_all = TYPE_CHOICES)]
    fit_ram: bool,
    /// Save the types that were chosen
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    save_recipe: Option<PathBuf>,
    /// The types that were saved
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["target_size", "fit_ram"],
        conflicts_with_all = TYPE_CHOICES,
    )]
    recipe: Option<PathBuf>,
}

/// What becomes of which tensor.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Choices")]
struct Choices {
    /// Importance matrix from llama-imatrix: errors in columns that matter count more
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Type of the tensors whose names the regular expression is found in; repeatable, the first match holds
    #[arg(long, value_name = "REGEX=TYPE")]
    tensor_type: Vec<String>,
    /// More of them, one a line; repeatable
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Vec<PathBuf>,
    /// Type of the output matrix
    #[arg(long, value_name = "TYPE", conflicts_with = "leave_output_tensor")]
    output_tensor_type: Option<String>,
    /// Type of the token embedding
    #[arg(long, value_name = "TYPE")]
    token_embedding_type: Option<String>,
    /// Leave the output matrix as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// The same type for all matrices, without the mixture that goes with TYPE
    #[arg(long)]
    pure: bool,
    /// Quantize again what is quantized already; it loses more than quantizing the original
    #[arg(long)]
    allow_requantize: bool,
    /// Change the output's metadata; TYPE is int, float, bool or str; repeatable
    #[arg(long, value_name = "KEY=TYPE:VALUE")]
    override_kv: Vec<String>,
    /// Cut the output into files of at most so many bytes: 500M and 2G count by 1000, MiB and GiB by 1024
    #[arg(long, value_name = "SIZE")]
    split_max_size: Option<String>,
    /// Cut the output as a split input is cut
    #[arg(long, conflicts_with = "split_max_size")]
    keep_split: bool,
}

impl Args {
    /// Files that are read, beside the input.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let choices = &self.choices;
        choices
            .imatrix
            .iter()
            .chain(&choices.tensor_type_file)
            .chain(&self.sizing.recipe)
            .cloned()
    }

    /// The importance matrix's file.
    pub(super) fn imatrix(&self) -> Option<&PathBuf> {
        self.choices.imatrix.as_ref()
    }

    /// The size to choose types for.
    pub(super) fn budget(&self) -> Result<Option<Budget>, Error> {
        Ok(match &self.sizing.target_size {
            Some(size) => Some(Budget::Bytes(request::byte_size(size)?)),
            None => self.sizing.fit_ram.then_some(Budget::Ram),
        })
    }

    /// Where to save the types chosen.
    pub(super) fn save_recipe(&self) -> Option<&PathBuf> {
        self.sizing.save_recipe.as_ref()
    }

    /// What is asked for, checked as far as it can be without the model.
    pub(super) fn request(&self) -> Result<Request, Error> {
        let choices = &self.choices;
        let dtype = |name: &Option<String>| name.as_deref().map(request::dtype).transpose();
        let types = choices.tensor_type.iter();
        let mut tensor_types = types
            .map(|text| request::tensor_type(text))
            .collect::<Result<Vec<_>, _>>()?;
        for path in &choices.tensor_type_file {
            tensor_types.extend(request::tensor_types(path)?);
        }
        let overrides = choices.override_kv.iter();
        let request = Request {
            pure: choices.pure,
            leave_output_tensor: choices.leave_output_tensor,
            output_tensor_type: dtype(&choices.output_tensor_type)?,
            token_embedding_type: dtype(&choices.token_embedding_type)?,
            tensor_types,
            kv_overrides: overrides
                .map(|text| request::kv_override(text))
                .collect::<Result<_, _>>()?,
            allow_requantize: choices.allow_requantize,
            split: match &choices.split_max_size {
                Some(size) => Some(Split::MaxBytes(request::byte_size(size)?)),
                None => choices.keep_split.then_some(Split::Keep),
            },
            // Without a type there is a size or a recipe, which replace it.
            ..Request::new(self.file_type.unwrap_or(FileType::Q4_K_M))
        };
        Ok(match &self.sizing.recipe {
            Some(path) => Recipe::load(path)?.applied_to(&request),
            None => request,
        })
    }
}

/// One of those that the CPU has.
fn isa(name: &str) -> Result<Isa, String> {
    let available = Isa::available();
    let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
    let found = available.iter().find(|isa| isa.name() == name);
    found
        .copied()
        .ok_or_else(|| format!("this CPU has {}", names.join(", ")))
}
