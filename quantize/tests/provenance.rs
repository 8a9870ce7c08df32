//! The manifest and the metadata say where an output comes from: against digests taken here, and the schema.

mod util;

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use util::{TestCheckpoint, names_in};
use yi_gguf::Gguf;
use yi_quantize::error::Error;
use yi_quantize::file_type::FileType;
use yi_quantize::output::OutputError;
use yi_quantize::request::{Request, Split};

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn manifest_of(output: &Path) -> Value {
    let mut path = output.as_os_str().to_owned();
    path.push(".manifest.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Compares all bytes of the output's files with what the manifest says of them.
fn assert_covers(manifest: &Value, files: &[Vec<u8>]) {
    let outputs = manifest["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), files.len());
    let mut lines = String::new();
    for (index, (output, bytes)) in outputs.iter().zip(files).enumerate() {
        assert_eq!(output["n_bytes"], bytes.len());
        let mut position = output["header_bytes"].as_u64().unwrap() as usize;
        assert_eq!(output["header_sha256"], sha256(&bytes[..position]));
        for tensor in manifest["tensors"].as_array().unwrap() {
            if tensor["output"] != index {
                continue;
            }
            let start = tensor["offset"].as_u64().unwrap() as usize;
            let end = start + tensor["n_bytes"].as_u64().unwrap() as usize;
            assert!(bytes[position..start].iter().all(|byte| *byte == 0));
            assert_eq!(tensor["sha256"], sha256(&bytes[start..end]));
            position = end;
            let [name, dtype, sha256] =
                ["name", "type", "sha256"].map(|key| tensor[key].as_str().unwrap());
            lines += &format!("{name} {dtype} {sha256}\n");
        }
        assert!(bytes[position..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(manifest["tensors_sha256"], sha256(lines.as_bytes()));
}

#[test]
fn the_manifest_covers_every_byte_of_input_and_output() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write_sharded();
    checkpoint.write_file("README.md", "---\nlicense: apache-2.0\n---\n");
    checkpoint.write_file("notes.txt", "not read, not named");
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("x.gguf");
    util::convert(checkpoint.path(), &output, FileType::Q4_K_M).unwrap();
    let manifest = manifest_of(&output);
    assert_covers(&manifest, &[std::fs::read(&output).unwrap()]);

    let sources = manifest["sources"].as_array().unwrap();
    let names: Vec<&str> = sources
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    let mut expected = names_in(checkpoint.path());
    expected.retain(|name| name != "notes.txt");
    assert_eq!(names, expected);
    for source in sources {
        let bytes =
            std::fs::read(checkpoint.path().join(source["name"].as_str().unwrap())).unwrap();
        assert_eq!(source["n_bytes"], bytes.len());
        assert_eq!(source["sha256"], sha256(&bytes));
    }
    assert_eq!(manifest["request"]["file_type"], "Q4_K_M");
}

#[test]
fn errors_are_those_of_the_weights_that_are_in_the_file() {
    let checkpoint = TestCheckpoint::new();
    let output = checkpoint.write().convert(FileType::Q8_0).unwrap();
    let manifest = manifest_of(&output);
    let bytes = std::fs::read(&output).unwrap();
    let entry = |name: &str| {
        let tensors = manifest["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap().clone()
    };
    let tensor = entry("blk.1.ffn_down.weight");
    let source = checkpoint
        .tensors
        .iter()
        .find(|t| t.name == "model.layers.1.mlp.down_proj.weight")
        .unwrap();
    let (mut error, mut total) = (0.0, 0.0);
    let start = tensor["offset"].as_u64().unwrap() as usize;
    // Q8_0: an F16 scale and 32 signed bytes.
    let blocks = bytes[start..].as_chunks::<34>().0.iter();
    for (block, weights) in blocks.zip(source.bytes.as_chunks::<64>().0) {
        let (mantissa, exponent) = (u16::from_le_bytes([block[0], block[1]]), -15 - 10);
        let scale = f64::from((mantissa & 0x3ff) | 0x400)
            * 2f64.powi(i32::from(mantissa >> 10 & 0x1f) + exponent);
        for (q, x) in block[2..].iter().zip(weights.as_chunks::<2>().0) {
            let x = f64::from(f32::from_bits(u32::from(u16::from_le_bytes(*x)) << 16));
            // ggml multiplies in single precision.
            let q = f64::from((scale as f32) * f32::from(*q as i8));
            error += (x - q) * (x - q);
            total += x * x;
        }
    }
    let n = (source.bytes.len() / 2) as f64;
    for (key, expected) in [
        ("rms_error", (error / n).sqrt()),
        ("relative_error", (error / total).sqrt()),
    ] {
        let found = tensor[key].as_f64().unwrap();
        assert!(
            (found / expected - 1.0).abs() < 1e-12,
            "{key}: {found} {expected}"
        );
    }
    // Norms become F32.
    assert_eq!(entry("output_norm.weight")["rms_error"], 0.0);
}

#[test]
fn the_metadata_says_the_same_in_short() {
    let checkpoint = TestCheckpoint::new();
    let output = checkpoint.write().convert(FileType::Q8_0).unwrap();
    let manifest = manifest_of(&output);
    let (gguf, _) = Gguf::open(&output).unwrap();
    let text = |key: &str| gguf.metadata().str(key).unwrap().unwrap().to_owned();
    let texts = |key: &str| gguf.metadata().strings(key).unwrap().unwrap().to_vec();
    let of_sources = |key: &str| -> Vec<String> {
        let sources = manifest["sources"].as_array().unwrap().iter();
        sources
            .map(|s| s[key].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(text("yi_quantize.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(text("yi_quantize.request"), manifest["request"].to_string());
    assert_eq!(texts("yi_quantize.source.files"), of_sources("name"));
    assert_eq!(texts("yi_quantize.source.sha256"), of_sources("sha256"));
    assert_eq!(
        text("yi_quantize.tensors_sha256"),
        manifest["tensors_sha256"]
    );
}

#[test]
fn split_and_requantized_outputs_have_one_too() {
    let checkpoint = TestCheckpoint::new();
    let first = checkpoint.write().convert(FileType::BF16).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut request = Request::new(FileType::Q4_0);
    request.split = Some(Split::MaxBytes(400_000));
    util::quantize(&first, &out.path().join("x.gguf"), &request, None).unwrap();
    // Its name is that of the first file.
    let manifest = manifest_of(&out.path().join(&names_in(out.path())[0]));
    let files: Vec<Vec<u8>> = names_in(out.path())
        .iter()
        .filter(|name| name.ends_with(".gguf"))
        .map(|name| std::fs::read(out.path().join(name)).unwrap())
        .collect();
    assert!(files.len() > 1);
    assert_covers(&manifest, &files);
    // The source's own origin has made room for this output's.
    let sources = manifest["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0]["name"], "BF16.gguf");
    assert_eq!(
        sources[0]["sha256"],
        sha256(&std::fs::read(&first).unwrap())
    );
}

#[test]
fn a_manifest_stays_with_its_files_whatever_else_the_same_name_becomes() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let out = tempfile::tempdir().unwrap();
    let run = |file_type, max_bytes: Option<u64>| {
        let mut request = Request::new(file_type);
        request.split = max_bytes.map(Split::MaxBytes);
        let output = out.path().join("x.gguf");
        util::quantize(checkpoint.path(), &output, &request, None).unwrap();
        let manifests = names_in(out.path()).into_iter();
        let manifests = manifests.filter(|name| name.ends_with(".manifest.json"));
        let read = |name: String| (std::fs::read(out.path().join(&name)).unwrap(), name);
        manifests.map(read).collect::<Vec<_>>()
    };
    let two_parts = run(FileType::Q8_0, Some(700_000));
    let three_parts = run(FileType::F16, Some(620_000));
    let whole = run(FileType::Q4_0, None);
    assert_eq!(whole.len(), 3);
    assert!(
        two_parts
            .iter()
            .all(|manifest| three_parts.contains(manifest))
    );
    assert!(three_parts.iter().all(|manifest| whole.contains(manifest)));
}

#[test]
fn a_manifest_is_replaced_where_its_output_is_gone_and_nothing_else_is() {
    let checkpoint = TestCheckpoint::new();
    checkpoint.write();
    let out = tempfile::tempdir().unwrap();
    let output = out.path().join("x.gguf");
    let convert = || util::convert(checkpoint.path(), &output, FileType::Q8_0);
    convert().unwrap();
    std::fs::remove_file(&output).unwrap();
    convert().unwrap();
    std::fs::remove_file(&output).unwrap();
    let manifest = out.path().join("x.gguf.manifest.json");
    std::fs::write(&manifest, "precious").unwrap();
    let error = convert().unwrap_err();
    assert!(
        matches!(&error, Error::Output(OutputError::Exists { path }) if *path == manifest),
        "{error}"
    );
    assert_eq!(std::fs::read(&manifest).unwrap(), b"precious");
    assert_eq!(names_in(out.path()), ["x.gguf.manifest.json"]);
}

/// Whether `value` is what the schema asks for: the part of JSON Schema that ours uses.
fn check(value: &Value, schema: &Value, root: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap();
        return check(value, root.pointer(pointer).unwrap(), root, at);
    }
    for (rule, argument) in schema.as_object().unwrap() {
        match rule.as_str() {
            "const" => assert_eq!(value, argument, "{at}"),
            "type" => {
                let is_it = match argument.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("{other}"),
                };
                assert!(is_it, "{at}: {value}");
            }
            "required" => {
                for key in argument.as_array().unwrap() {
                    assert!(value.get(key.as_str().unwrap()).is_some(), "{at}: {key}");
                }
            }
            "additionalProperties" => {
                for key in value.as_object().unwrap().keys() {
                    assert!(schema["properties"].get(key).is_some(), "{at}: {key}");
                }
            }
            "properties" => {
                for (key, schema) in argument.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(value, schema, root, &format!("{at}.{key}"));
                    }
                }
            }
            "items" => {
                for item in value.as_array().unwrap() {
                    check(item, argument, root, &format!("{at}[]"));
                }
            }
            "minItems" => {
                assert!(value.as_array().unwrap().len() as u64 >= argument.as_u64().unwrap());
            }
            "minimum" => assert!(
                value.as_f64().unwrap() >= argument.as_f64().unwrap(),
                "{at}"
            ),
            "pattern" => {
                let pattern = regex::Regex::new(argument.as_str().unwrap()).unwrap();
                assert!(pattern.is_match(value.as_str().unwrap()), "{at}: {value}");
            }
            "$schema" | "$defs" | "title" => {}
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_manifest_is_as_its_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let checkpoint = TestCheckpoint::new();
    let output = checkpoint.write().convert(FileType::Q5_K_S).unwrap();
    check(&manifest_of(&output), &schema, &schema, "manifest");
}
