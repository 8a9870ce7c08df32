//! The names of the files around an output.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::digest::Digest;

/// Longest file name that usual file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// `.NAME.partial`: a file of the output while it is being written.
pub(super) fn partial(name: &OsStr) -> OsString {
    around(".", name, ".partial")
}

/// `.NAME.journal`: what of it is finished. Outputs whose files have the same names share one, as `x` and `x.gguf`
/// do where they are split.
pub(super) fn journal(name: &OsStr, n_parts: usize) -> OsString {
    if n_parts == 1 {
        return around(".", name, ".journal");
    }
    let mut whole = stem(name).to_owned();
    whole.push(".gguf");
    around(".", &whole, ".journal")
}

/// `NAME.manifest.json`: where it comes from. Of a split output, `NAME` is its first file's.
pub(super) fn manifest(name: &OsStr) -> OsString {
    around("", name, ".manifest.json")
}

/// A name that is too long with its additions is cut; a digest keeps it apart from others.
fn around(before: &str, name: &OsStr, after: &str) -> OsString {
    let mut whole = OsString::from(before);
    if before.len() + name.len() + after.len() <= MAX_NAME_BYTES {
        whole.push(name);
    } else {
        let digest = Digest::of(name.as_encoded_bytes()).to_string();
        let room = MAX_NAME_BYTES - before.len() - after.len() - 17;
        let text = name.to_string_lossy();
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = ends.take_while(|end| *end <= room).last().unwrap_or(0);
        whole.push(&text[..end]);
        whole.push("-");
        whole.push(&digest[..16]);
    }
    whole.push(after);
    whole
}

/// The names of an output's files: its own, or `NAME-00001-of-00003.gguf` and so on.
pub(super) fn parts(name: &OsStr, n_parts: usize) -> Vec<OsString> {
    if n_parts == 1 {
        return vec![name.to_owned()];
    }
    (1..=n_parts)
        .map(|part| {
            let mut part_name = stem(name).to_owned();
            part_name.push(format!("-{part:05}-of-{n_parts:05}.gguf"));
            part_name
        })
        .collect()
}

/// What llama-gguf-split counts up after: the name but for an extension that the user gave.
fn stem(name: &OsStr) -> &OsStr {
    match name.as_encoded_bytes().strip_suffix(b".gguf") {
        Some(stem) if !stem.is_empty() => Path::new(name).file_stem().unwrap_or(name),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_what_a_folder_can_hold_and_apart() {
        assert_eq!(partial("x.gguf".as_ref()), ".x.gguf.partial");
        let long = ["易".repeat(85), "x".repeat(255), "x".repeat(254) + "y"];
        let short = long.each_ref().map(|name| partial(name.as_ref()));
        assert!(short.iter().all(|name| name.len() <= MAX_NAME_BYTES));
        assert!(short[0] != short[1] && short[1] != short[2]);
        assert!(short[0].to_str().unwrap().starts_with(".易"));
    }

    #[test]
    fn parts_are_named_as_llama_gguf_split_names_them() {
        let names = |name: &str| parts(name.as_ref(), 2);
        assert_eq!(names("x.gguf")[1], "x-00002-of-00002.gguf");
        assert_eq!(names("x")[0], "x-00001-of-00002.gguf");
        assert_eq!(names(".gguf")[0], ".gguf-00001-of-00002.gguf");
        assert_eq!(parts("x.bin".as_ref(), 1), ["x.bin"]);
    }

    #[test]
    fn outputs_with_the_same_files_have_the_same_journal() {
        let names = |n_parts| ["x", "x.gguf"].map(|name| journal(name.as_ref(), n_parts));
        assert_eq!(names(2), [".x.gguf.journal"; 2]);
        assert_eq!(names(1), [".x.journal", ".x.gguf.journal"]);
    }
}
