//! Where an output comes from: a JSON file beside it, and a few keys in its metadata.
//!
//! Both depend on the input and the request only, and not on when, where or with how many threads the output was
//! made. `docs/manifest.md` describes them.

use serde::Serialize;
use yi_gguf::{Gguf, Metadata, TensorSpec};

use crate::digest::{Digest, Hasher};
use crate::error::Error;
use crate::input::Input;
use crate::outcome::{Complete, TensorOutcome};
use crate::plan::Plan;
use crate::request::Request;

/// What kind of JSON file it is.
const SCHEMA: &str = "yi-quantize.manifest";
const SCHEMA_VERSION: u32 = 1;
/// How every manifest begins.
pub(crate) const FIRST_BYTES: &[u8] = b"{\n  \"schema\": \"yi-quantize.manifest\",";
/// In which metadata there are keys of ours.
pub(crate) const KEY_PREFIX: &str = "yi_quantize.";

/// A file that the output was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceFile {
    /// Without the folder.
    pub name: String,
    /// Its length.
    pub n_bytes: u64,
    /// Of its bytes.
    pub sha256: Digest,
}

/// All files of the input, by name. `weights`: the digests of [`Weights::files`](crate::weights::Weights::files),
/// or nothing as long as they are not known.
pub fn sources(input: &Input, weights: Option<&[Digest]>) -> Vec<SourceFile> {
    let files = input.weights().files.iter().enumerate();
    let weights = files.map(|(index, file)| SourceFile {
        name: file.name.clone(),
        n_bytes: file.map.bytes().len() as u64,
        sha256: weights.map_or(Digest::PLACEHOLDER, |digests| digests[index]),
    });
    let mut sources: Vec<SourceFile> = weights.collect();
    sources.extend_from_slice(input.small_files());
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

/// Sets the keys of ours. As long as digests are not known, others in their place keep the room: all are equally
/// long.
pub fn write_metadata(
    metadata: &mut Metadata,
    request: &Request,
    sources: &[SourceFile],
    tensors_sha256: Digest,
) -> Result<(), yi_gguf::Error> {
    let names: Vec<String> = sources.iter().map(|s| s.name.clone()).collect();
    let digests: Vec<String> = sources.iter().map(|s| s.sha256.to_string()).collect();
    metadata.set(format!("{KEY_PREFIX}version"), env!("CARGO_PKG_VERSION"))?;
    metadata.set(format!("{KEY_PREFIX}request"), request.canonical())?;
    metadata.set(format!("{KEY_PREFIX}source.files"), names)?;
    metadata.set(format!("{KEY_PREFIX}source.sha256"), digests)?;
    metadata.set(
        format!("{KEY_PREFIX}tensors_sha256"),
        tensors_sha256.to_string(),
    )
}

/// One digest for all tensors: of a line `NAME TYPE SHA256` for each.
fn tensors_sha256(plan: &Plan, outcomes: &[TensorOutcome]) -> Digest {
    let mut hasher = Hasher::default();
    for (tensor, outcome) in plan.tensors.iter().zip(outcomes) {
        let (name, sha256) = (&tensor.named.gguf_name, outcome.sha256);
        let line = format!("{name} {} {sha256}\n", tensor.dtype);
        hasher.update(line.as_bytes());
    }
    hasher.digest()
}

/// The first file's header with the digests in it that the planned one has no more than room for.
pub fn finished_header(plan: &Plan, input: &Input, complete: &Complete) -> Result<Gguf, Error> {
    let planned = &plan.parts[0];
    let mut found = Metadata::new();
    write_metadata(
        &mut found,
        &plan.request,
        &sources(input, Some(&complete.sources)),
        tensors_sha256(plan, &complete.tensors),
    )?;
    let mut metadata = Metadata::new();
    for (key, value) in planned.metadata().iter() {
        metadata.insert(key, found.get(key).unwrap_or(value).clone())?;
    }
    let tensors = planned.tensors().iter().map(|info| TensorSpec {
        name: info.name().to_owned(),
        dims: info.dims().to_vec(),
        dtype: info.dtype(),
    });
    Ok(Gguf::new(metadata, tensors.collect())?)
}

/// The manifest of a finished output. `headers`: the bytes of each file before its tensors.
pub fn manifest(plan: &Plan, input: &Input, headers: &[Vec<u8>], complete: &Complete) -> Vec<u8> {
    let outputs = plan.parts.iter().zip(headers).map(|(gguf, header)| Output {
        n_bytes: gguf.file_bytes(),
        header_bytes: header.len(),
        header_sha256: Digest::of(header),
    });
    let tensors = plan.tensors.iter().enumerate().map(|(index, tensor)| {
        let place = plan.place(index);
        Tensor {
            name: &tensor.named.gguf_name,
            dtype: tensor.dtype.name(),
            shape: &tensor.named.source.shape,
            output: place.part,
            offset: place.bytes.start,
            n_bytes: tensor.output_bytes(),
            sha256: complete.tensors[index].sha256,
            rms_error: complete.tensors[index].rms_error(tensor.n_params()),
            relative_error: complete.tensors[index].relative_error(),
        }
    });
    let manifest = Manifest {
        schema: SCHEMA,
        schema_version: SCHEMA_VERSION,
        program: Program {
            name: "yi-quantize",
            version: env!("CARGO_PKG_VERSION"),
        },
        request: &plan.request,
        sources: sources(input, Some(&complete.sources)),
        outputs: outputs.collect(),
        tensors: tensors.collect(),
        tensors_sha256: tensors_sha256(plan, &complete.tensors),
    };
    // Numbers and text only: nothing in it can fail.
    let mut bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[derive(Serialize)]
struct Manifest<'a> {
    schema: &'static str,
    schema_version: u32,
    program: Program,
    request: &'a Request,
    sources: Vec<SourceFile>,
    outputs: Vec<Output>,
    tensors: Vec<Tensor<'a>>,
    tensors_sha256: Digest,
}

#[derive(Serialize)]
struct Program {
    name: &'static str,
    version: &'static str,
}

/// A file of the output.
#[derive(Serialize)]
struct Output {
    n_bytes: u64,
    header_bytes: usize,
    header_sha256: Digest,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    dtype: &'static str,
    /// Outermost dimension first.
    shape: &'a [u64],
    /// In which file it is.
    output: usize,
    /// From that file's start.
    offset: u64,
    n_bytes: u64,
    sha256: Digest,
    rms_error: f64,
    relative_error: f64,
}
