//! Checks of the tokenizer that the metadata describes.
//!
//! Source: `llama-vocab.cpp`. Its loader asserts (which ends the process) that no token is there
//! twice, and its tokenizers index, recurse and throw on what the loader has let pass: an
//! exception in a tokenizer ends the process too, because it crosses into Rust.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::error::{Error, shown};
use crate::model::missing;
use crate::model_error::ModelError;
use crate::names::{PRE_TOKENIZERS, PRE_TOKENIZERS_WITH_BOS};
use crate::value::{Array, MAX_STRINGS, Metadata, Value};

pub(crate) const MODEL_KEY: &str = "tokenizer.ggml.model";
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const SCORES_KEY: &str = "tokenizer.ggml.scores";
const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// Longest token in bytes. Real ones have some hundred; llama.cpp's tries recurse once per byte.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// Token type 6: a byte, written `<0xZZ>`.
const TYPE_BYTE: i32 = 6;

/// The tokenizer algorithms, by llama.cpp's names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    None,
    Spm,
    Wpm,
    Bpe,
    Ugm,
    Rwkv,
    Plamo2,
    Test,
}

fn family(model: &str) -> Option<Family> {
    Some(match model {
        "no_vocab" | "none" => Family::None,
        "llama" => Family::Spm,
        "bert" => Family::Wpm,
        "gpt2" | "hybriddna" | "whitespace" | "gemma4" => Family::Bpe,
        "t5" => Family::Ugm,
        "rwkv" => Family::Rwkv,
        "plamo2" => Family::Plamo2,
        "test" => Family::Test,
        _ => return None,
    })
}

/// Whether this `tokenizer.ggml.model` means that there is no vocabulary.
pub(crate) fn is_none(model: &str) -> bool {
    family(model) == Some(Family::None)
}

/// Number of tokens that llama.cpp makes: 0 if the file has no list and does not say.
pub(crate) fn n_tokens(metadata: &Metadata) -> Result<u64, Error> {
    if has_list(metadata)? {
        return Ok(metadata.strings(TOKENS_KEY)?.map_or(0, <[_]>::len) as u64);
    }
    let architecture = metadata.str("general.architecture")?.unwrap_or_default();
    let stated = metadata.u32(&format!("{architecture}.vocab_size"))?;
    Ok(stated.unwrap_or(0).into())
}

fn has_list(metadata: &Metadata) -> Result<bool, Error> {
    Ok(!metadata.str(MODEL_KEY)?.is_some_and(is_none))
}

/// Checks all of it. The keys' types have been checked before.
pub(crate) fn check(metadata: &Metadata) -> Result<(), Error> {
    let model = metadata.str(MODEL_KEY)?.ok_or_else(|| missing(MODEL_KEY))?;
    let family = family(model).ok_or_else(|| ModelError::UnknownTokenizer {
        found: shown(model),
    })?;
    if family == Family::None {
        // llama.cpp makes that many empty tokens, before it looks at a tensor.
        return match n_tokens(metadata)? {
            found @ MAX_STRINGS.. => Err(ModelError::TooManyTokens { found }.into()),
            _ => Ok(()),
        };
    }
    let pre = match model {
        "gemma4" => "gemma4",
        _ => metadata.str("tokenizer.ggml.pre")?.unwrap_or_default(),
    };
    if family == Family::Bpe {
        check_pair_encoding(metadata, pre)?;
    }
    if family == Family::Ugm {
        check_charsmap(metadata)?;
    }
    let tokens = metadata
        .strings(TOKENS_KEY)?
        .ok_or_else(|| missing(TOKENS_KEY))?;
    check_tokens(tokens)?;
    check_scores(metadata, tokens.len())?;
    check_types(metadata, family, tokens)?;
    check_ids(metadata, tokens.len())?;
    match family {
        Family::Spm => check_spm_bytes(tokens)?,
        Family::Rwkv => check_rwkv_bytes(tokens)?,
        Family::Plamo2 => check_plamo2_bytes(metadata, tokens)?,
        _ => {}
    }
    check_special(metadata, family, pre, tokens.len())
}

fn check_pair_encoding(metadata: &Metadata, pre: &str) -> Result<(), Error> {
    if !pre.is_empty() && PRE_TOKENIZERS.binary_search(&pre).is_err() {
        return Err(ModelError::UnknownPreTokenizer { found: shown(pre) }.into());
    }
    let merges = match metadata.strings(MERGES_KEY)? {
        Some(merges) => merges,
        None if pre == "kimi-k2" => return Ok(()),
        None => return Err(missing(MERGES_KEY)),
    };
    // The separator is the first space after the first byte: a part may itself be a space.
    let is_pair = |merge: &str| {
        let space = merge.bytes().skip(1).position(|byte| byte == b' ');
        space.is_some_and(|at| at + 2 < merge.len())
    };
    match merges.iter().position(|merge| !is_pair(merge)) {
        None => Ok(()),
        Some(index) => Err(ModelError::BadMerge {
            index: index as u64,
            found: shown(&merges[index]),
        }
        .into()),
    }
}

/// The map that normalizes text before a unigram tokenizer: a length, so many bytes of an array,
/// then at least one byte of replacements.
fn check_charsmap(metadata: &Metadata) -> Result<(), Error> {
    let key = "tokenizer.ggml.precompiled_charsmap";
    let (start, bytes) = match metadata.get(key) {
        Some(Value::Array(Array::U8(bytes))) => (bytes.first_chunk().copied(), bytes.len()),
        Some(Value::Array(Array::I8(bytes))) => {
            let start = bytes.first_chunk::<4>();
            (start.map(|start| start.map(|byte| byte as u8)), bytes.len())
        }
        _ => return Ok(()),
    };
    let stated = start.map(u32::from_le_bytes);
    match stated {
        Some(stated) if u64::from(stated) + 4 < bytes as u64 => Ok(()),
        _ => Err(ModelError::BadCharsmap {
            stated: stated.unwrap_or(0).into(),
            bytes: bytes as u64,
        }
        .into()),
    }
}

/// llama.cpp reads a token up to its first NUL, names an empty one after its index, and asserts
/// that no two are equal.
fn check_tokens(tokens: &[String]) -> Result<(), Error> {
    if tokens.is_empty() {
        return Err(ModelError::NoTokens.into());
    }
    if let Some(index) = tokens
        .iter()
        .position(|token| token.len() > MAX_TOKEN_BYTES)
    {
        return Err(ModelError::TokenTooLong {
            index: index as u64,
            bytes: tokens[index].len() as u64,
        }
        .into());
    }
    let text = |index: usize| tokens[index].split('\0').next().unwrap_or_default();
    let twice = |first: usize, second: usize| ModelError::DuplicateToken {
        first: first as u64,
        second: second as u64,
        text: shown(&tokens[second]),
    };
    let named = || (0..tokens.len()).filter(|&i| !text(i).is_empty());
    if may_have_equals(named().map(text)) {
        // Sorted indices take less memory than a set of all texts would.
        let mut sorted: Vec<usize> = named().collect();
        sorted.sort_unstable_by(|&a, &b| text(a).cmp(text(b)).then(a.cmp(&b)));
        for pair in sorted.windows(2) {
            if text(pair[0]) == text(pair[1]) {
                return Err(twice(pair[0], pair[1]).into());
            }
        }
    }
    for index in named() {
        let number = text(index)
            .strip_prefix("[EMPTY_")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(empty) = number.and_then(|number| number.parse::<usize>().ok())
            && empty < tokens.len()
            && text(empty).is_empty()
            && number == Some(empty.to_string().as_str())
        {
            return Err(twice(index.min(empty), index.max(empty)).into());
        }
    }
    Ok(())
}

/// Whether two texts have the same hash. Sorting numbers takes a small part of the time that sorting texts takes.
fn may_have_equals<'a>(texts: impl Iterator<Item = &'a str>) -> bool {
    let hash = BuildHasherDefault::<DefaultHasher>::default();
    let mut hashes: Vec<u64> = texts.map(|text| hash.hash_one(text)).collect();
    hashes.sort_unstable();
    hashes.windows(2).any(|pair| pair[0] == pair[1])
}

fn check_length(key: &str, found: usize, n_tokens: usize) -> Result<(), Error> {
    if found != n_tokens {
        return Err(ModelError::TokenizerLength {
            key: key.to_owned(),
            found: found as u64,
            n_tokens: n_tokens as u64,
        }
        .into());
    }
    Ok(())
}

fn check_scores(metadata: &Metadata, n_tokens: usize) -> Result<(), Error> {
    match metadata.get(SCORES_KEY) {
        Some(Value::Array(Array::F32(scores))) => {
            check_length(SCORES_KEY, scores.len(), n_tokens)?;
            match scores.iter().position(|score| score.is_nan()) {
                None => Ok(()),
                Some(index) => Err(ModelError::NanScore {
                    index: index as u64,
                }
                .into()),
            }
        }
        Some(Value::Array(scores)) => check_length(SCORES_KEY, scores.len(), n_tokens),
        _ => Ok(()),
    }
}

fn check_types(metadata: &Metadata, family: Family, tokens: &[String]) -> Result<(), Error> {
    let Some(types) = metadata.i32s(TYPES_KEY)? else {
        return Ok(());
    };
    check_length(TYPES_KEY, types.len(), tokens.len())?;
    for (index, (&found, token)) in types.iter().zip(tokens).enumerate() {
        // 0 is "undefined", which llama.cpp never shows; it takes what it does not know for it.
        if !(0..=TYPE_BYTE).contains(&found) {
            return Err(ModelError::BadTokenType {
                index: index as u64,
                found,
            }
            .into());
        }
        let needs_byte = match family {
            Family::Spm | Family::Ugm | Family::Bpe => byte_of(token).is_none(),
            Family::Wpm => true, // it aborts on any
            _ => false,
        };
        if found == TYPE_BYTE && needs_byte {
            return Err(ModelError::BadByteToken {
                index: index as u64,
                text: shown(token),
            }
            .into());
        }
    }
    Ok(())
}

/// The byte of a token `<0xZZ>`.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_pair = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_pair.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Every id that names a token. `padding_token_id` is left out: files whose padding token was
/// added without a row of the embedding are common, and llama.cpp ignores such an id.
fn check_ids(metadata: &Metadata, n_tokens: usize) -> Result<(), Error> {
    for name in [
        "bos",
        "eos",
        "eot",
        "eom",
        "unknown",
        "seperator",
        "mask",
        "fim_pre",
        "fim_suf",
        "fim_mid",
        "fim_pad",
        "fim_rep",
        "fim_sep",
        "prefix",
        "suffix",
        "middle",
    ] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        if let Some(found) = metadata.u32(&key)?
            && u64::from(found) >= n_tokens as u64
        {
            return Err(ModelError::TokenIdPastEnd {
                key,
                found: found.into(),
                n_tokens: n_tokens as u64,
            }
            .into());
        }
    }
    Ok(())
}

/// What no token covers is tokenized byte by byte, with `<0xZZ>` (in capitals) or the token of
/// that one character; the lookup throws if there is neither.
fn check_spm_bytes(tokens: &[String]) -> Result<(), Error> {
    let mut found = [false; 256];
    for token in tokens {
        match token.as_bytes() {
            &[byte] if byte != 0 => found[usize::from(byte)] = true,
            _ if token.len() == 6 => {
                if let Some(byte) = byte_of(token)
                    && *token == format!("<0x{byte:02X}>")
                {
                    found[usize::from(byte)] = true;
                }
            }
            _ => {}
        }
    }
    // The other bytes are in no UTF-8 text.
    let needed = (0x00..=0xBF).chain(0xC2..=0xF4);
    check_bytes(needed.filter(|&byte| !found[usize::from(byte)]))
}

/// The tokenizer goes along the longest token that could match, and stands still for ever if not
/// even its first byte is a token. The loader asserts that a line feed is one.
fn check_rwkv_bytes(tokens: &[String]) -> Result<(), Error> {
    let mut first = [false; 256];
    let mut alone = [false; 256];
    first[usize::from(b'\n')] = true;
    for token in tokens {
        let text = unescape_rwkv(token);
        if let Some(&byte) = text.first() {
            first[usize::from(byte)] = true;
            alone[usize::from(byte)] |= text.len() == 1;
        }
    }
    check_bytes((0..=255).filter(|&byte| first[usize::from(byte)] && !alone[usize::from(byte)]))
}

/// Every byte has a token of type byte, and token 0 is none of them.
fn check_plamo2_bytes(metadata: &Metadata, tokens: &[String]) -> Result<(), Error> {
    let types = metadata.i32s(TYPES_KEY)?.unwrap_or_default();
    let mut found = [false; 256];
    for (token, &token_type) in tokens.iter().zip(types).skip(1) {
        if token_type != TYPE_BYTE {
            continue;
        }
        if let Some(byte) = byte_of(token) {
            found[usize::from(byte)] = true;
        }
    }
    check_bytes((0..=255).filter(|&byte| !found[usize::from(byte)]))
}

fn check_bytes(mut missing: impl Iterator<Item = u8>) -> Result<(), Error> {
    match missing.next() {
        None => Ok(()),
        Some(byte) => Err(ModelError::MissingByteTokens {
            byte,
            n_missing: 1 + missing.count() as u64,
        }
        .into()),
    }
}

/// `\t`, `\n`, `\r`, `\xZZ`, and any other character after a backslash for itself.
fn unescape_rwkv(token: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b't') => text.push(b'\t'),
            Some(b'n') => text.push(b'\n'),
            Some(b'r') => text.push(b'\r'),
            Some(b'x') => {
                let mut digit = || bytes.next().and_then(|c| char::from(c).to_digit(16));
                if let (Some(high), Some(low)) = (digit(), digit()) {
                    text.push((high * 16 + low) as u8);
                }
            }
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

/// Tokens that are put before or after each text must exist: llama.cpp asserts it when it
/// tokenizes. Each family has ids and switches that hold without a key.
fn check_special(
    metadata: &Metadata,
    family: Family,
    pre: &str,
    n_tokens: usize,
) -> Result<(), Error> {
    let (bos, eos, sep) = match family {
        Family::Spm | Family::Plamo2 => (Some(1), Some(2), None),
        Family::Wpm => (Some(101), None, Some(102)),
        Family::Bpe => match pre {
            "gemma4" if metadata.str(MODEL_KEY)? == Some("gemma4") => (None, None, None),
            "chatglm-bpe" | "glm4" | "glm5" => (None, Some(11), None),
            _ => (Some(11), Some(11), None),
        },
        Family::Ugm => (None, Some(1), None),
        Family::None | Family::Rwkv | Family::Test => return Ok(()),
    };
    let switch = |name: &str| metadata.bool(&format!("tokenizer.ggml.add_{name}_token"));
    let always_bos = matches!(pre, "gemma4" | "granite-embed-multi-311m");
    let add_bos = switch("bos")?.unwrap_or(match family {
        Family::Spm => true,
        Family::Bpe => PRE_TOKENIZERS_WITH_BOS.binary_search(&pre).is_ok(),
        _ => false,
    });
    let add_bos = match family {
        Family::Wpm => true,
        Family::Bpe => add_bos || always_bos,
        _ => add_bos,
    };
    let add_eos = switch("eos")?.unwrap_or(family == Family::Ugm) && family != Family::Wpm;
    for (added, name, default) in [
        (add_bos, "bos", bos),
        (add_eos, "eos", eos),
        (family == Family::Wpm, "seperator", sep),
    ] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let exists = default.is_some_and(|id| id < n_tokens) || metadata.u32(&key)?.is_some();
        if added && !exists {
            return Err(ModelError::MissingSpecialToken { key }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_tokens_are_two_hexadecimal_digits() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for token in [
            "<0xZZ>", "<0x-1>", "<0x+1>", "<0x0A", "<0xA>", "<0x0AA>", "", "\n",
        ] {
            assert_eq!(byte_of(token), None, "{token}");
        }
    }

    #[test]
    fn rwkv_escapes() {
        assert_eq!(unescape_rwkv(r"a\n\x0ab\\"), b"a\n\nb\\");
        assert_eq!(unescape_rwkv(r"\x"), b"");
    }
}
