//! Keys and values.

use yi_gguf::{Error, Gguf, Metadata, Value};

use crate::util::{File, array_key, key, read, refuses, string, string_key};

#[test]
fn an_empty_key() {
    refuses!(
        File::with_key(key(b"", 0, &[1])).read(),
        Error::EmptyKey { index: 3 }
    );
}

#[test]
fn a_key_twice() {
    let file = File::with_key(key(b"a.number", 0, &[1]));
    refuses!(file.read(), Error::DuplicateKey { key } if key == "a.number");
}

#[test]
fn an_overlong_key() {
    let file = File::with_key(key(&vec![b'k'; 65_536], 0, &[1]));
    refuses!(
        file.read(),
        Error::KeyTooLong {
            index: 3,
            bytes: 65_536
        }
    );
    assert!(
        File::with_key(key(&vec![b'k'; 65_535], 0, &[1]))
            .read()
            .is_ok()
    );
}

#[test]
fn a_key_with_nul() {
    let file = File::with_key(key(b"general\0architecture", 0, &[1]));
    refuses!(file.read(), Error::KeyHasNul { key } if key == "general\\0architecture");
}

#[test]
fn a_key_that_is_not_utf_8() {
    let file = File::with_key(key(b"caf\xe9", 0, &[1]));
    let key_start = file
        .bytes()
        .windows(4)
        .position(|w| w == b"caf\xe9")
        .unwrap() as u64;
    refuses!(file.read(), Error::NotUtf8 { offset, .. } if *offset == key_start + 3);
}

#[test]
fn a_key_whose_length_runs_past_the_end() {
    let mut bytes = File::empty().bytes();
    bytes.truncate(24);
    bytes[16] = 1; // one key
    bytes.extend(5000u64.to_le_bytes());
    bytes.extend([0; 20]);
    refuses!(
        read(&bytes),
        Error::LengthPastEnd {
            offset: 24,
            len: 5000,
            left: 20,
            ..
        }
    );
}

#[test]
fn an_unknown_value_type() {
    for found in [13, 255, u32::MAX] {
        let file = File::with_key(key(b"k", found, &[0; 8]));
        refuses!(file.read(), Error::UnknownValueType { found: id, .. } if *id == found);
    }
}

#[test]
fn an_unknown_element_type() {
    let file = File::with_key(array_key("k", 99, 1, &[0; 8]));
    refuses!(file.read(), Error::UnknownValueType { found: 99, .. });
}

#[test]
fn an_array_of_arrays() {
    let file = File::with_key(array_key("k", 9, 1, &[0; 16]));
    refuses!(file.read(), Error::NestedArray { key } if key == "k");
}

#[test]
fn a_string_longer_than_the_file() {
    for len in [10_000, 1 << 32, 1 << 63, u64::MAX] {
        let file = File::with_key(key(b"k", 8, &u64::to_le_bytes(len)));
        refuses!(file.read(), Error::LengthPastEnd { len: found, .. } if *found == len);
    }
}

#[test]
fn an_array_longer_than_the_file() {
    // 2^61 elements of 8 bytes are 2^64 bytes, which wraps to 0.
    for (element, len) in [
        (0, 1 << 20),
        (10, 1 << 61),
        (4, 1 << 62),
        (8, u64::MAX),
        (12, 1000),
    ] {
        let file = File::with_key(array_key("k", element, len, &[]));
        refuses!(file.read(), Error::LengthPastEnd { len: found, .. } if *found == len);
    }
}

#[test]
fn a_string_in_an_array_longer_than_the_file() {
    let file = File::with_key(array_key(
        "k",
        8,
        2,
        &[string(b"fine"), vec![255; 8]].concat(),
    ));
    refuses!(file.read(), Error::LengthPastEnd { what, .. } if what.contains("element 1"));
}

#[test]
fn a_string_that_is_not_utf_8() {
    let file = File::with_key(string_key("general.name", b"\xff\xfe"));
    refuses!(file.read(), Error::NotUtf8 { what, .. } if what.contains("general.name"));
}

#[test]
fn a_bool_of_2() {
    let file = File::with_key(key(b"flag", 7, &[2]));
    refuses!(file.read(), Error::BadBool { key, found: 2, .. } if key == "flag");
}

#[test]
fn a_bool_of_2_in_an_array() {
    let file = File::with_key(array_key("flags", 7, 3, &[0, 1, 2]));
    let at = file
        .bytes()
        .windows(3)
        .position(|w| w == [0, 1, 2])
        .unwrap() as u64
        + 2;
    refuses!(file.read(), Error::BadBool { offset, .. } if *offset == at);
}

fn with_alignment(value_type: u32, value: &[u8]) -> Result<Gguf, Error> {
    File::with_key(key(b"general.alignment", value_type, value)).read()
}

#[test]
fn an_alignment_of_0() {
    let result = with_alignment(4, &0u32.to_le_bytes());
    refuses!(result, Error::AlignmentNotPowerOfTwo { found: 0 });
}

#[test]
fn an_alignment_of_13() {
    let result = with_alignment(4, &13u32.to_le_bytes());
    refuses!(result, Error::AlignmentNotPowerOfTwo { found: 13 });
}

#[test]
fn an_alignment_of_2_to_the_31() {
    let result = with_alignment(4, &(1u32 << 31).to_le_bytes());
    refuses!(result, Error::AlignmentTooLarge { found: 0x8000_0000 });
}

#[test]
fn an_alignment_of_another_type() {
    for (value_type, value) in [(10, &32u64.to_le_bytes()[..]), (5, &32i32.to_le_bytes())] {
        let result = with_alignment(value_type, value);
        refuses!(result, Error::WrongType { key, .. } if key == "general.alignment");
    }
}

#[test]
fn an_alignment_twice() {
    let mut file = File::with_key(key(b"general.alignment", 4, &32u32.to_le_bytes()));
    file.keys
        .push(key(b"general.alignment", 4, &64u32.to_le_bytes()));
    refuses!(file.read(), Error::DuplicateKey { .. });
}

#[test]
fn control_characters_and_long_texts_do_not_reach_the_terminal() {
    let name = [b"\x1b[2J\x07\xe2\x80\xae".as_slice(), &[b'x'; 5000]].concat();
    let file = File::with_key(key(&name, 77, &[]));
    let error = refuses!(file.read(), Error::UnknownValueType { .. });
    assert!(error.to_string().len() < 300);
}

#[test]
fn a_million_equal_keys_are_refused_at_the_second() {
    let mut file = File::empty();
    file.keys = vec![key(b"k", 0, &[1]); 60_000];
    refuses!(file.read(), Error::DuplicateKey { .. });
}

#[test]
fn sixty_thousand_different_keys_pass() {
    let mut file = File::empty();
    file.keys = (0..60_000)
        .map(|i| key(format!("{i}").as_bytes(), 0, &[1]))
        .collect();
    assert_eq!(file.read().unwrap().metadata().len(), 60_000);
}

#[test]
fn a_writer_cannot_make_what_a_reader_refuses() {
    let mut metadata = Metadata::new();
    refuses!(metadata.insert("", 1u8), Error::EmptyKey { index: 0 });
    refuses!(metadata.insert("a\0b", 1u8), Error::KeyHasNul { .. });
    refuses!(
        metadata.insert("k".repeat(65_536), 1u8),
        Error::KeyTooLong { .. }
    );
    metadata.insert("k", 1u8).unwrap();
    refuses!(metadata.insert("k", 2u8), Error::DuplicateKey { .. });
    metadata.insert("general.alignment", 48u32).unwrap();
    let result = Gguf::new(metadata, Vec::new());
    refuses!(result, Error::AlignmentNotPowerOfTwo { found: 48 });
    let mut metadata = Metadata::new();
    metadata.insert("huge", vec![0u8; 1 << 28]).unwrap();
    refuses!(
        Gguf::new(metadata, Vec::new()),
        Error::HeaderTooLarge { .. }
    );
}

#[test]
fn getters_take_one_type_and_name_the_other() {
    let mut metadata = Metadata::new();
    for (key, value) in [
        ("u32", Value::U32(1)),
        ("i8", Value::I8(-1)),
        ("u64", Value::U64(u64::MAX)),
        ("text", Value::from("text")),
    ] {
        metadata.insert(key, value).unwrap();
    }
    assert_eq!(metadata.u32("u32").unwrap(), Some(1));
    assert_eq!(metadata.u32("absent").unwrap(), None);
    assert_eq!(metadata.unsigned("u64").unwrap(), Some(u64::MAX));
    let error = refuses!(metadata.u32("text"), Error::WrongType { .. });
    assert_eq!(error.to_string(), "key 'text' is string, expected u32");
    refuses!(
        metadata.unsigned("i8"),
        Error::NegativeValue { found: -1, .. }
    );
    refuses!(metadata.unsigned("text"), Error::WrongType { .. });
    refuses!(metadata.strings("u32"), Error::WrongType { .. });
}
