//! The port of llama.cpp's SPM algorithm against llama.cpp itself.
//!
//! A conversion tests itself with this port, so it must be right about what llama.cpp does, and the
//! types that it writes must be the ones that llama.cpp ends up with.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use yi::llama::{LoadParams, Model, Source, backend};
use yi_gguf::{Gguf, Metadata};
use yi_quantize::checkpoint::Folder;
use yi_quantize::tokenizer::{SourceTokenizer, SpmTokenizer, TokenType, Vocabulary, self_test};

const N_TEXTS: usize = 10_000;

fn golden() -> SourceTokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/yi-8layer");
    SourceTokenizer::load(&Folder::new(dir)).unwrap()
}

/// A GGUF file with a vocabulary and nothing else, as the port and as llama.cpp read it.
fn both(vocabulary: &Vocabulary) -> (SpmTokenizer, Model) {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama").unwrap();
    vocabulary.write_metadata(&mut metadata).unwrap();
    let port = SpmTokenizer::from_gguf(&metadata).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocabulary.gguf");
    let mut file = File::create(&path).unwrap();
    let gguf = Gguf::new(metadata, vec![]).unwrap();
    gguf.write_header(&mut file).unwrap();
    file.flush().unwrap();
    let file = File::open(&path).unwrap();
    let params = LoadParams {
        vocab_only: true,
        mmap: false, // without tensors the header is not padded, and llama.cpp refuses to map it
        ..LoadParams::default()
    };
    let source = Source::File { file: &file, path };
    let mut progress = |_| ControlFlow::Continue(());
    let model = Model::load(backend().unwrap(), &source, &params, &mut progress).unwrap();
    (port, model)
}

fn assert_same(port: &SpmTokenizer, model: &Model, text: &str) {
    for parse_special in [false, true] {
        let expected = model.tokenize(text, false, parse_special).unwrap();
        let expected: Vec<u32> = expected.iter().map(|&id| id.try_into().unwrap()).collect();
        let found = port.encode(text, parse_special);
        assert!(
            found == expected,
            "{text:?}, parse_special {parse_special}: llama.cpp {expected:?}, port {found:?}"
        );
    }
}

fn assert_same_on_random_texts(vocabulary: &Vocabulary, seed: u64) {
    let (port, model) = both(vocabulary);
    let mut random = Random(seed);
    for _ in 0..N_TEXTS {
        assert_same(&port, &model, &random.text(vocabulary));
    }
}

#[test]
fn port_equals_llama_cpp_on_yi() {
    assert_same_on_random_texts(golden().vocabulary(), 1);
}

#[test]
fn port_equals_llama_cpp_with_a_space_prefix() {
    let mut vocabulary = golden().vocabulary().clone();
    vocabulary.add_space_prefix = true;
    assert_same_on_random_texts(&vocabulary, 2);
}

#[test]
fn port_equals_llama_cpp_with_tokens_that_it_retypes() {
    use TokenType::{Control, Normal, Unused, UserDefined};
    let mut vocabulary = golden().vocabulary().clone();
    for (token, kind) in [
        ("<tool>", UserDefined),
        ("<tool><tool>", UserDefined),
        ("▁▁▁▁", UserDefined),
        ("ing▁", UserDefined),
        ("问题", Normal),
        ("<reponame>", Normal),
        ("<fim_prefix>", UserDefined),
        ("<|end|>", Normal),
        ("</s>", Normal),
        ("<|channel|>", Control),
        ("<|unused_1|>", Control),
        ("[PAD7]", Unused),
        ("[P", Normal),
        ("AD7]", Normal),
    ] {
        if vocabulary.tokens.iter().any(|present| present == token) {
            continue;
        }
        vocabulary.tokens.push(token.to_owned());
        vocabulary.scores.push(-9000.0);
        vocabulary.types.push(kind);
    }
    for prefix in [false, true] {
        vocabulary.add_space_prefix = prefix;
        assert_same_on_random_texts(&vocabulary, 3);
    }
}

#[test]
fn port_equals_llama_cpp_where_scores_are_equal() {
    let mut vocabulary = golden().vocabulary().clone();
    for score in &mut vocabulary.scores {
        *score = (*score / 200.0).trunc();
    }
    assert_same_on_random_texts(&vocabulary, 4);
    vocabulary.scores.fill(-1000.0);
    assert_same_on_random_texts(&vocabulary, 5);
}

#[test]
fn port_equals_llama_cpp_on_a_megabyte_without_spaces() {
    let (port, model) = both(golden().vocabulary());
    for unit in ["a", "theinonre", "的人工智能"] {
        assert_same(&port, &model, &unit.repeat((1 << 20) / unit.len()));
    }
}

#[test]
fn llama_cpp_keeps_the_types_and_ids_that_are_written() {
    let source = golden();
    let vocabulary = source.vocabulary();
    let mut metadata = Metadata::new();
    vocabulary.write_metadata(&mut metadata).unwrap();
    self_test(&source, &metadata).unwrap();

    let (_, model) = both(vocabulary);
    assert_eq!(model.n_vocab(), vocabulary.tokens.len());
    for (id, (token, kind)) in (0..).zip(vocabulary.tokens.iter().zip(&vocabulary.types)) {
        let attributes = model.attributes(id);
        assert_eq!(model.token_text(id), *token);
        let expected = (
            *kind == TokenType::Control,
            *kind == TokenType::Unknown,
            *kind == TokenType::UserDefined,
            *kind == TokenType::Byte,
        );
        let found = (
            attributes.is_control(),
            attributes.is_unknown(),
            attributes.is_user_defined(),
            attributes.is_byte(),
        );
        assert_eq!(found, expected, "{token}");
    }
    assert_eq!((model.bos(), model.eos()), (Some(1), Some(2)));
    assert!(!model.adds_bos());
    let ends: Vec<i32> = (0..4096).filter(|&id| model.is_end(id)).collect();
    assert_eq!(ends, [2, 7]);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A character of the range; the surrogates in it become spaces.
    fn char(&mut self, range: std::ops::Range<u32>) -> char {
        let c = range.start + self.below(range.len()) as u32;
        char::from_u32(c).unwrap_or(' ')
    }

    /// A text of mixed scripts, runs of spaces, control characters (no NUL), emoji, and tokens of
    /// the vocabulary, whole and cut.
    fn text(&mut self, vocabulary: &Vocabulary) -> String {
        let mut text = String::new();
        for _ in 0..self.below(12) {
            let n = 1 + self.below(6);
            match self.below(14) {
                0..3 => text.extend((0..n).map(|_| self.char(0x61..0x7b))),
                3 => text.extend((0..n).map(|_| self.char(0x20..0x7f))),
                4 => text.extend((0..n).map(|_| self.char(0x4e00..0x9fa6))),
                5 => text.extend((0..n).map(|_| self.char(0x30..0x3a))),
                6 | 7 => text.extend((0..n).map(|_| ' ')),
                8 => text.extend((0..n).map(|_| self.char(0x1..0x21))),
                9 => text.extend((0..n).map(|_| self.char(0x80..0x3000))),
                10 => text.extend((0..n).map(|_| self.char(0x1f300..0x1f700))),
                11 => text.extend((0..n).map(|_| self.char(0x1..0x11_0000))),
                12 => {
                    // special tokens are at the two ends of the vocabulary
                    let tokens = &vocabulary.tokens;
                    let ends = 4096 - 8..tokens.len();
                    let id = match self.below(2) {
                        0 => self.below(20),
                        _ => ends.start + self.below(ends.len()),
                    };
                    let token = &tokens[id];
                    let end = match self.below(4) {
                        0 => token.len() - 1,
                        _ => token.len(),
                    };
                    text.push_str(token.get(..end).unwrap_or(token));
                }
                _ => {
                    let token = &vocabulary.tokens[self.below(vocabulary.tokens.len())];
                    text.push_str(&token.replace('▁', " "));
                }
            }
        }
        text
    }
}
