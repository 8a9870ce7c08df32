//! Recognises files that are not GGUF, so that an error can say what to do instead.

/// What a file without the GGUF magic seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LooksLike {
    /// A text file of three lines in place of the content.
    GitLfsPointer,
    /// A safetensors file.
    Safetensors,
    /// A zip archive, as PyTorch writes its checkpoints.
    Zip,
    /// A gzip, xz, bzip2 or zstd file.
    Compressed,
    /// One of the formats that came before GGUF.
    OldGgml,
    /// A web page, as a failed download leaves it.
    Html,
    /// A JSON file.
    Json,
    /// Only zeros at the start, as an unfinished download leaves them.
    Blank,
}

impl LooksLike {
    /// Recognises a file by its first bytes (16 are enough; fewer are taken).
    pub(crate) fn from_start(start: &[u8]) -> Option<LooksLike> {
        let old = [
            b"lmgg", b"fmgg", b"tjgg", b"algg", b"ggml", b"ggjt", b"ggmf", b"ggla",
        ];
        let text = start.trim_ascii_start();
        if start.starts_with(b"version https://") {
            Some(LooksLike::GitLfsPointer)
        } else if start.get(8) == Some(&b'{') && starts_with_small_length(start) {
            Some(LooksLike::Safetensors)
        } else if start.starts_with(b"PK\x03\x04") {
            Some(LooksLike::Zip)
        } else if [&b"\x1f\x8b"[..], b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd"]
            .iter()
            .any(|magic| start.starts_with(magic))
        {
            Some(LooksLike::Compressed)
        } else if old.iter().any(|magic| start.starts_with(&magic[..])) {
            Some(LooksLike::OldGgml)
        } else if text.starts_with(b"<") {
            Some(LooksLike::Html)
        } else if text.starts_with(b"{") {
            Some(LooksLike::Json)
        } else if start.iter().all(|&byte| byte == 0) {
            Some(LooksLike::Blank)
        } else {
            None
        }
    }

    pub(crate) fn hint(self) -> String {
        match self {
            LooksLike::GitLfsPointer => {
                "this is a Git LFS pointer, not the model itself: run `git lfs pull`"
            }
            LooksLike::Safetensors => {
                "this looks like a safetensors file: convert its folder with yi-quantize"
            }
            LooksLike::Zip => {
                "this is a zip archive, as PyTorch writes its checkpoints: get the safetensors \
                 version and convert it with yi-quantize"
            }
            LooksLike::Compressed => "this is a compressed file: unpack it first",
            LooksLike::OldGgml => {
                "this is a format from before GGUF: download or convert the model again"
            }
            LooksLike::Html => "this looks like a web page: the download may have failed",
            LooksLike::Json => "this looks like a JSON file, not a model",
            LooksLike::Blank => "the file begins with zeros: a download or copy may be unfinished",
        }
        .to_owned()
    }
}

/// A safetensors file begins with the length of its header, which is at most 100 MB.
fn starts_with_small_length(start: &[u8]) -> bool {
    start
        .first_chunk()
        .is_some_and(|length| u64::from_le_bytes(*length) <= 100_000_000)
}
