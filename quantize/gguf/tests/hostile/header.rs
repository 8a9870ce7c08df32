//! Magic, version, counts, and files that end too early.

use std::fs;
use std::io::{self, Read};

use yi_gguf::{Error, Gguf, LooksLike};

use crate::util::{File, array_key, read, refuses, string_key};

#[test]
fn a_right_file_passes() {
    let gguf = File::valid().read().unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 32));
    assert_eq!(
        gguf.tensor_file_range(&gguf.tensors()[1]).end,
        gguf.file_bytes()
    );
    assert_eq!(gguf.tensor("one").unwrap().data_range(), 0..40);
}

#[test]
fn version_2_passes() {
    let mut file = File::valid();
    file.version = 2;
    assert_eq!(file.read().unwrap().version(), 2);
}

#[test]
fn an_empty_file() {
    let error = refuses!(read(b""), Error::EmptyFile);
    assert!(error.hint().is_some());
}

#[test]
fn a_file_shorter_than_the_magic() {
    refuses!(
        read(b"GG"),
        Error::Truncated {
            needed: 4,
            left: 2,
            ..
        }
    );
}

#[test]
fn bad_magic() {
    let mut file = File::valid();
    file.magic = *b"G\x07UF";
    refuses!(
        file.read(),
        Error::BadMagic {
            found: [b'G', 7, b'U', b'F'],
            looks_like: None
        }
    );
}

#[test]
fn files_of_other_kinds_are_named_in_the_hint() {
    let cases: [(&[u8], LooksLike, &str); 9] = [
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            LooksLike::GitLfsPointer,
            "git lfs",
        ),
        (
            b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}",
            LooksLike::Safetensors,
            "yi-quantize",
        ),
        (
            b"PK\x03\x04\0\0\0\0archive/data.pkl",
            LooksLike::Zip,
            "PyTorch",
        ),
        (b"\x1f\x8b\x08\0\0\0\0\0", LooksLike::Compressed, "unpack"),
        (b"tjgg\x03\0\0\0", LooksLike::OldGgml, "again"),
        (b"<!DOCTYPE html><html>", LooksLike::Html, "download"),
        (b"{\"model_type\": \"llama\"}", LooksLike::Json, "JSON"),
        (&[0; 100], LooksLike::Blank, "unfinished"),
        (b"\0\0\0\0", LooksLike::Blank, "unfinished"),
    ];
    for (bytes, expected, in_hint) in cases {
        let error = refuses!(
            read(bytes),
            Error::BadMagic { looks_like: Some(found), .. } if *found == expected
        );
        assert!(error.hint().unwrap().contains(in_hint), "{error}");
    }
}

#[test]
fn version_0() {
    let mut file = File::valid();
    file.version = 0;
    refuses!(file.read(), Error::UnsupportedVersion { found: 0 });
}

#[test]
fn version_1() {
    let mut file = File::valid();
    file.version = 1;
    refuses!(file.read(), Error::Version1);
}

#[test]
fn a_future_version() {
    let mut file = File::valid();
    file.version = 4;
    refuses!(file.read(), Error::UnsupportedVersion { found: 4 });
}

#[test]
fn a_big_endian_file() {
    let mut file = File::valid();
    file.version = 3u32.swap_bytes();
    refuses!(file.read(), Error::ByteSwapped { found: 0x0300_0000 });
}

#[test]
fn a_negative_number_of_tensors() {
    let mut file = File::valid();
    file.n_tensors = Some(-1);
    refuses!(
        file.read(),
        Error::NegativeCount {
            what: "tensors",
            found: -1
        }
    );
}

#[test]
fn a_negative_number_of_keys() {
    let mut file = File::valid();
    file.n_keys = Some(i64::MIN);
    refuses!(
        file.read(),
        Error::NegativeCount {
            what: "keys",
            found: i64::MIN
        }
    );
}

#[test]
fn more_tensors_than_the_file_can_hold() {
    for n in [100, 1 << 31, i64::MAX] {
        let mut file = File::valid();
        file.n_tensors = Some(n);
        refuses!(
            file.read(),
            Error::CountPastEnd { what: "tensors", found, .. } if *found == n as u64
        );
    }
}

#[test]
fn more_keys_than_the_file_can_hold() {
    for n in [100, 1 << 40, i64::MAX] {
        let mut file = File::valid();
        file.n_keys = Some(n);
        refuses!(file.read(), Error::CountPastEnd { what: "keys", found, .. } if *found == n as u64);
    }
}

/// What a reader says that never ends, for files that are mostly holes.
struct Holes<'a>(&'a [u8]);

impl Read for Holes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => io::repeat(0).read(buffer),
            n => Ok(n),
        }
    }
}

#[test]
fn more_keys_than_are_read() {
    let mut file = File::valid();
    file.n_keys = Some(1 << 20);
    let bytes = file.bytes();
    let result = Gguf::read(&mut Holes(&bytes), 1 << 40);
    refuses!(result, Error::TooManyKeys { found: 0x10_0000 });
}

#[test]
fn more_tensors_than_are_read() {
    let mut file = File::valid();
    file.n_tensors = Some(1 << 20);
    let bytes = file.bytes();
    let result = Gguf::read(&mut Holes(&bytes), 1 << 40);
    refuses!(result, Error::TooManyTensors { found: 0x10_0000 });
}

#[test]
fn an_array_larger_than_a_header_may_be() {
    let bytes = File::with_key(array_key("huge", 10, 1 << 30, &[])).bytes();
    let result = Gguf::read(&mut Holes(&bytes), 1 << 40);
    refuses!(result, Error::HeaderTooLarge { bytes, .. } if *bytes > 1 << 33);
}

#[test]
fn more_strings_than_are_read() {
    let bytes = File::with_key(array_key("huge", 8, 1 << 23, &[])).bytes();
    let result = Gguf::read(&mut Holes(&bytes), 1 << 40);
    refuses!(
        result,
        Error::TooManyStrings {
            found: 0x80_0001..,
            ..
        }
    );
}

#[test]
fn a_file_cut_at_every_byte_of_the_header() {
    let bytes = File::valid().bytes();
    let header = bytes.len() - 128;
    for n in 1..header {
        let error = read(&bytes[..n]).expect_err("cut");
        assert!(
            matches!(
                error,
                Error::Truncated { .. }
                    | Error::CountPastEnd { .. }
                    | Error::LengthPastEnd { .. }
                    | Error::TensorPastEnd { .. }
            ),
            "{n}: {error:?}"
        );
        assert!(error.hint().unwrap().contains("cut short"));
    }
}

#[test]
fn a_file_cut_in_its_data() {
    let bytes = File::valid().bytes();
    let error = refuses!(
        read(&bytes[..bytes.len() - 1]),
        Error::TensorPastEnd { tensor, end, file_bytes } if tensor == "two" && *end == file_bytes + 1
    );
    assert!(error.hint().is_some());
}

#[test]
fn a_file_that_shrinks_while_it_is_read() {
    let bytes = File::valid().bytes();
    let result = Gguf::read(&mut &bytes[..50], bytes.len() as u64);
    refuses!(result, Error::Shrunk { .. });
}

#[test]
fn bytes_after_the_data_pass_and_do_not_count() {
    let mut bytes = File::valid().bytes();
    let n = bytes.len() as u64;
    bytes.extend(b"trailing");
    assert_eq!(read(&bytes).unwrap().file_bytes(), n);
}

#[test]
fn the_last_padding_may_be_missing() {
    let mut file = File::empty();
    file.tensors.push(crate::util::tensor(b"t", &[3], 0, 0));
    file.n_data = 12;
    let bytes = file.bytes();
    assert_eq!(file.read().unwrap().file_bytes(), bytes.len() as u64);
}

#[test]
fn a_path_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing.gguf");
    let error = refuses!(Gguf::open(&path), Error::At { .. });
    assert!(error.to_string().contains("missing.gguf"));
}

#[test]
fn a_folder_in_place_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    refuses!(
        Gguf::open(folder.path()),
        Error::At { source, .. } if matches!(**source, Error::NotAFile)
    );
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("no mkfifo here: not tested");
        return;
    }
    refuses!(Gguf::open(&path), Error::At { source, .. } if matches!(**source, Error::NotAFile));
}

#[test]
fn an_error_of_an_opened_file_names_it_and_keeps_the_hint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    let error = refuses!(Gguf::open(&path), Error::At { .. });
    assert!(error.to_string().contains("model.gguf: magic is"));
    assert!(error.hint().unwrap().contains("git lfs pull"));
    fs::write(&path, File::with_key(string_key("k", b"v")).bytes()).unwrap();
    assert!(Gguf::open(&path).is_ok());
}
