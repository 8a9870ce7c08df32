//! `yi tokenize`: the tokens of a text.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::input;
use super::output::write_json;
use crate::engine::tokenize::Tokenizer;
use crate::error::Error;
use crate::llama::{LoadParams, TokenId};
use crate::model::folder::ModelFolder;
use crate::model::{Check, ModelFile};

/// Arguments of `yi tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// The model; a file with a tokenizer and no tensors will do
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// The text; - = standard input, which is also read when no text is given
    #[arg(allow_hyphen_values = true)]
    text: Option<String>,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Take the spellings of special tokens in the text, such as <|im_start|>, as these tokens
    #[arg(long)]
    special: bool,
    /// Leave out the start and end tokens that the file asks for
    #[arg(long)]
    no_bos: bool,
    /// Print the numbers only, as a list
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Print {"ids":[...],"pieces":[...]}
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Tokens<'a> {
    ids: &'a [TokenId],
    pieces: Vec<String>,
}

/// Prints the tokens.
pub fn run(args: &TokenizeArgs) -> Result<(), Error> {
    let text = text(args)?;
    let file = ModelFile::open(&ModelFolder::resolve(&args.model), Check::Vocabulary)?;
    if !yi_gguf::has_vocabulary(file.metadata()) {
        return Err(Error::NoTokenizer {
            path: file.path().to_owned(),
        });
    }
    let params = LoadParams {
        vocab_only: true,
        // A file without tensors may end with its header, which llama.cpp refuses to map.
        mmap: false,
        ..LoadParams::default()
    };
    let model = file.load(&params, &mut |_| ControlFlow::Continue(()))?;
    let tokenizer = file.tokenizer(model)?;
    let ids = if args.special {
        tokenizer.encode_with_special(&text, !args.no_bos)?
    } else {
        tokenizer.encode(&text, !args.no_bos)?
    };
    print(args, &tokenizer, &ids).map_err(Error::Write)
}

fn text(args: &TokenizeArgs) -> Result<String, Error> {
    match (args.text.as_deref(), &args.file) {
        (Some("-"), _) => input::read_stdin(),
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(path)) => input::read_text(path),
        (None, None) if io::stdin().is_terminal() => Err(Error::Usage {
            message: "there is no text to tokenize".to_owned(),
            hint: "give one as an argument, with -f FILE or on standard input",
        }),
        (None, None) => input::read_text(Path::new("-")),
    }
}

fn print(args: &TokenizeArgs, tokenizer: &Tokenizer, ids: &[TokenId]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let piece =
        |&id: &TokenId| String::from_utf8_lossy(&tokenizer.piece_with_special(id)).into_owned();
    if args.json {
        let pieces = ids.iter().map(piece).collect();
        write_json(&mut out, &Tokens { ids, pieces })?;
    } else if args.ids {
        let mut line = String::new();
        for (i, id) in ids.iter().enumerate() {
            let _ = write!(line, "{}{id}", if i == 0 { "" } else { ", " });
        }
        writeln!(out, "[{line}]")?;
    } else {
        for id in ids {
            writeln!(out, "{id:6} -> '{}'", piece(id).escape_debug())?;
        }
    }
    out.flush()
}
