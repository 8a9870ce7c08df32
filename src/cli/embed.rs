//! `yi embed`: texts as vectors.

use std::io::{self, BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::args::threads;
use super::compute::resolve_threads;
use super::output::write_json;
use super::{input, signal};
use crate::engine::{EngineError, Normalization};
use crate::error::Error;
use crate::llama::{Kernels, Pooling};
use crate::model::folder::ModelFolder;
use crate::model::loaded::{EmbedParams, Model};
use crate::model::{Check, ModelFile};

/// Arguments of `yi embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// The model, a GGUF file, or a model's name in the folder YI_MODELS
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// The texts; each gives a vector
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// A text to embed; may be repeated
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// Read a text from a file; may be repeated; standard input is read when no text is given
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Each line of the files is a text of its own
    #[arg(long)]
    lines: bool,
    /// How a text's tokens become one vector: mean, cls (the first), last, or none: a vector for each token
    /// [default: the file's, or mean]
    #[arg(long, value_name = "HOW")]
    pooling: Option<Pooling>,
    /// -1 = as it comes, 0 = up to 32760, 1 = taxicab, 2 = length 1, or another p-norm
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..))]
    embd_normalize: i32,
    /// Most tokens of one text [default: 2048, or as many as the model was trained with]
    #[arg(short, long, value_name = "N", value_parser = super::args::count)]
    ctx_size: Option<u32>,
    /// Threads [default: the fast physical cores, within the container's quota and the affinity mask]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Kernels for several tokens at once: own, which are faster where the CPU and the weights' types have them, or
    /// ggml
    #[arg(long, value_name = "WHOSE", default_value_t)]
    kernels: Kernels,
    /// Print {"model":…,"data":[{"index":…,"embedding":[…]}],"usage":{"prompt_tokens":…}} in place of a line
    /// of numbers for each text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Embeddings {
    object: &'static str,
    model: String,
    data: Vec<Embedding>,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vectors,
}

/// A text's vector, or as in llama-server those of its tokens.
#[derive(Serialize)]
#[serde(untagged)]
enum Vectors {
    OfText(Vec<f32>),
    OfTokens(Vec<Vec<f32>>),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Prints a vector for each text.
pub fn run(args: &EmbedArgs) -> Result<(), Error> {
    let texts = texts(args)?;
    signal::install();
    let file = ModelFile::open(&ModelFolder::resolve(&args.model), Check::Model)?;
    let load = file.load_params()?;
    let model = Model::load(file, &load, &mut |_| ControlFlow::Continue(()))?;
    let inputs = texts
        .iter()
        .map(|text| model.tokenizer().encode(text, true))
        .collect::<Result<Vec<_>, _>>()?;
    let longest = inputs.iter().map(Vec::len).max().unwrap_or(1);
    let defaults = model.embed_params();
    let most = args.ctx_size.unwrap_or(defaults.n_ctx);
    if longest > most as usize {
        return Err(EngineError::ContextLengthExceeded {
            n_prompt: longest,
            n_predict: None,
            n_ctx: most as usize,
        }
        .into());
    }
    let params = EmbedParams {
        // Memory for what is there, and not for what might be.
        n_ctx: most.min(u32::try_from(longest.max(MIN_BATCH)).unwrap_or(most)),
        pooling: args.pooling,
        n_threads: resolve_threads(args.threads),
        kernels: args.kernels,
        shares_processors: false,
    };
    let mut embedder = model.embedder(&params, signal::stop_flag())?;
    let normalization = Normalization::from_number(args.embd_normalize).unwrap_or_default();
    signal::catch(true);
    let vectors = embedder.embed(&inputs, normalization)?;
    let n_tokens = inputs.iter().map(Vec::len).sum();
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if args.json {
        let by_token = embedder.is_by_token();
        let mut vectors = vectors.into_iter();
        let of_text = inputs.iter().map_while(|input| {
            if by_token {
                Some(Vectors::OfTokens(
                    vectors.by_ref().take(input.len()).collect(),
                ))
            } else {
                vectors.next().map(Vectors::OfText)
            }
        });
        let data = of_text.enumerate();
        let embeddings = Embeddings {
            object: "list",
            model: model.file().name(),
            data: data
                .map(|(index, embedding)| Embedding {
                    object: "embedding",
                    index,
                    embedding,
                })
                .collect(),
            usage: Usage {
                prompt_tokens: n_tokens,
                total_tokens: n_tokens,
            },
        };
        write_json(&mut out, &embeddings)
    } else {
        vectors.iter().try_for_each(|vector| {
            let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
            writeln!(out, "{}", numbers.join(" "))
        })
    };
    printed.and_then(|()| out.flush()).map_err(Error::Write)
}

/// So many tokens of short texts are computed at once.
const MIN_BATCH: usize = 512;

fn texts(args: &EmbedArgs) -> Result<Vec<String>, Error> {
    let mut texts = args.texts.clone();
    texts.extend(args.prompt.iter().cloned());
    let mut add = |text: String| {
        if args.lines {
            texts.extend(
                text.lines()
                    .filter(|line| !line.is_empty())
                    .map(str::to_owned),
            );
        } else {
            texts.push(text);
        }
    };
    for path in &args.file {
        add(input::read_text(path)?);
    }
    if args.texts.is_empty() && args.prompt.is_empty() && args.file.is_empty() {
        add(input::read_stdin()?);
    }
    if texts.is_empty() {
        return Err(Error::Usage {
            message: "there is no text to embed".to_owned(),
            hint: "give texts as arguments, with -f FILE or on standard input",
        });
    }
    Ok(texts)
}
