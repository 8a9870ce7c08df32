//! The test of each conversion: the source's ids and llama.cpp's must be the same.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use yi_gguf::{Metadata, Value};

use super::{SourceTokenizer, SpmTokenizer, TokenType, TokenizerError};

/// Texts on which tokenizers differ.
const SAMPLE: &[&str] = &[
    "",
    "Hello",
    "The capital of France is Paris, and the river that runs through it is called the Seine.",
    "In 1998, Dr. O'Brien-Smith didn't pay $1,234.56 (or 7.5%) for \"it\"; she paid nothing!",
    "人工智能是计算机科学的一个分支，它企图了解智能的实质。",
    "今天天气怎么样？我想去 Beijing 看看，顺便买 3 本 Python 书。",
    "「繁體字」與『简体字』——……《红楼梦》第一回：甄士隱夢幻識通靈",
    "日本語のテキスト、한국어 문장, русский текст, العربية, ελληνικά, हिन्दी, ไทย",
    " leading space",
    "  two leading spaces",
    "trailing space ",
    "trailing spaces   ",
    "a  b   c    d     e                                e",
    " ",
    "  ",
    "                ",
    "\n",
    "\n\n",
    "a\n\n\nb\r\nc\r",
    "\t\tindented\twith tabs\n \n  \n",
    "def f(x: int) -> int:\n    if x < 2:\n        return x\n    return f(x - 1) + f(x - 2)\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2.5e-3f; } // 注释",
    "{\"key\": [1, 2, null, true], \"名字\": \"值\"}",
    "https://example.com/a_b?c=d&e=%20f#g user@example.com C:\\temp\\x.txt",
    "0 1 22 333 4444 55555 666666 3.14159 2023-11-23 １２３ ½ ² Ⅳ",
    "é è ü ñ ß Å A\u{30a} e\u{301} ﬁ ＡＢＣ ㍿ ｶﾞ",
    "😀 👩\u{200d}💻 🇨🇳 🏳️\u{200d}🌈 🚀🚀🚀",
    "𠮷野家 𝒳𝒴 \u{10ffff} \u{e000} \u{fffd}",
    "zero\u{200b}width \u{feff}bom \u{ad}soft\u{a0}nbsp\u{3000}ideographic\u{2028}line",
    "\u{1}\u{2}\u{7f}\u{80}\u{9f}",
    "▁",
    "▁▁Hello▁ a▁b ▁ ▁",
    "<0x0A><0x00> <0xFF> <0xZZ>",
    "<s></s><unk><pad> <s> a </s>",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\n你是一个助手。<|im_end|>\n<|im_start|>user\n 1+1=?<|im_end|>\n",
    "<|im_end <|im_end| |im_end|> <|im_end|><|im_end|> <|im_sep|>",
    "<|startoftext|>The<|endoftext|>text<|Human|> hi <|Assistant|>",
    "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的的",
    "=================================================== ---------- ########## ..........",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
];

/// Most steps to test tokens with. Each costs a search for every special token, since llama.cpp looks
/// for them in turn, and up to its length squared, since each merge looks up what it has so far. Yi
/// needs a tenth of this; a hostile file may have millions of special tokens, or very long ones, and
/// gets those tested that fit.
const MAX_STEPS: u64 = 200_000_000;

/// [`self_test`] of one source, once: what has passed for the plan need not be tested again in the finished file, unless
/// that says anything else about the tokenizer.
#[derive(Debug, Default)]
pub struct SelfTest {
    /// What passed last.
    passed: Mutex<Vec<(String, Value)>>,
}

impl SelfTest {
    /// # Errors
    /// As [`self_test`].
    pub fn run(&self, source: &SourceTokenizer, gguf: &Metadata) -> Result<(), TokenizerError> {
        let is_read = |key: &str| key.starts_with("tokenizer.") || key == "general.name";
        let read: Vec<(String, Value)> = (gguf.iter())
            .filter(|(key, _)| is_read(key))
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        let passed = || self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.is_empty() && *passed() == read {
            return Ok(());
        }
        self_test(source, gguf)?;
        *passed() = read;
        Ok(())
    }
}

/// Compares the source's tokenizer with llama.cpp's algorithm on a file's metadata, on all threads of the rayon pool that
/// it is called in.
///
/// The texts: a fixed bilingual sample, each special token alone and in a sentence, and each
/// ordinary token. Control tokens must never come out of plain text.
///
/// # Errors
/// The first text whose ids differ, or a vocabulary that llama.cpp could not load.
pub fn self_test(source: &SourceTokenizer, gguf: &Metadata) -> Result<(), TokenizerError> {
    let vocabulary = source.vocabulary();
    if vocabulary.remove_extra_whitespaces {
        return Err(TokenizerError::UnsupportedSentencePiece {
            file: source.file().to_owned(),
            setting: "normalizer_spec.remove_extra_whitespaces".to_owned(),
            found: "true".to_owned(),
        });
    }
    let spm = SpmTokenizer::from_gguf(gguf)?;
    for text in SAMPLE {
        compare(source, &spm, text)?;
    }
    let is_special = |kind: &&TokenType| {
        matches!(
            kind,
            TokenType::Control | TokenType::Unknown | TokenType::UserDefined
        )
    };
    let n_specials = vocabulary.types.iter().filter(is_special).count();
    let mut n_steps = 0;
    let mut tested = Vec::with_capacity(vocabulary.tokens.len());
    for (id, token) in (0u32..).zip(&vocabulary.tokens) {
        let cost = 1 + n_specials as u64 + (token.len() as u64).pow(2);
        if n_steps + cost <= MAX_STEPS {
            n_steps += cost;
            tested.push(id);
        }
    }
    let error = |&id: &u32| {
        let (token, kind) = (
            &vocabulary.tokens[id as usize],
            vocabulary.types[id as usize],
        );
        test_token(source, &spm, id, token, kind).err()
    };
    let first_error = match rayon::current_thread_index() {
        Some(_) => tested.par_iter().find_map_first(error),
        // Rayon would start as many threads as the machine has, whatever the user says.
        None => tested.iter().find_map(error),
    };
    first_error.map_or(Ok(()), Err)
}

fn test_token(
    source: &SourceTokenizer,
    spm: &SpmTokenizer,
    id: u32,
    token: &str,
    kind: TokenType,
) -> Result<(), TokenizerError> {
    match kind {
        TokenType::Normal | TokenType::Unused => {
            let text = token.replace('\u{2581}', " ");
            compare_plain(source, spm, &text)
        }
        TokenType::Control | TokenType::Unknown | TokenType::UserDefined => {
            for text in [
                token.to_owned(),
                format!("see {token} 或{token}\n{token}{token}x"),
            ] {
                compare(source, spm, &text)?;
                let control = kind == TokenType::Control;
                if control && spm.encode(&text, false).contains(&id) {
                    return Err(TokenizerError::ControlFromText { text, id });
                }
            }
            Ok(())
        }
        TokenType::Byte => Ok(()),
    }
}

fn compare(source: &SourceTokenizer, spm: &SpmTokenizer, text: &str) -> Result<(), TokenizerError> {
    compare_plain(source, spm, text)?;
    let expected = source.encode_with_special(text)?;
    same(source, text, true, &expected, &spm.encode(text, true))
}

fn compare_plain(
    source: &SourceTokenizer,
    spm: &SpmTokenizer,
    text: &str,
) -> Result<(), TokenizerError> {
    same(
        source,
        text,
        false,
        &source.encode(text)?,
        &spm.encode(text, false),
    )
}

fn same(
    source: &SourceTokenizer,
    text: &str,
    parse_special: bool,
    expected: &[u32],
    found: &[u32],
) -> Result<(), TokenizerError> {
    if expected == found {
        return Ok(());
    }
    let n_same = expected
        .iter()
        .zip(found)
        .take_while(|(a, b)| a == b)
        .count();
    Err(TokenizerError::SelfTest {
        file: source.file().to_owned(),
        text: text.to_owned(),
        parse_special,
        source_ids: excerpt(expected, n_same),
        gguf_ids: excerpt(found, n_same),
    })
}

/// The ids around the first difference.
fn excerpt(ids: &[u32], n_same: usize) -> String {
    let from = n_same.saturating_sub(2);
    let to = ids.len().min(n_same + 6);
    let shown = ids.get(from..to).unwrap_or_default();
    let shown: Vec<String> = shown.iter().map(u32::to_string).collect();
    format!(
        "[{}{}{}]",
        if from > 0 { "… " } else { "" },
        shown.join(" "),
        if to < ids.len() { " …" } else { "" }
    )
}
