//! A GGUF file of any depth, made by repeating a small one's layers: a scale run needs no checkpoint of
//! that size, and no time to quantize it.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use yi_gguf::{Gguf, Metadata, TensorInfo, TensorSpec};

use crate::Error;

/// Writes `out` with `n_layers` layers: layer i is layer i modulo the number of layers of `small`.
pub fn repeat_layers(small: &Path, out: &Path, n_layers: u32) -> Result<(), Error> {
    let (source, mut source_file) = Gguf::open(small)?;
    let arch = source
        .metadata()
        .str("general.architecture")?
        .ok_or("general.architecture is missing")?;
    let block_count_key = format!("{arch}.block_count");
    let n_source = source
        .metadata()
        .u32(&block_count_key)?
        .ok_or(format!("{block_count_key} is missing"))?;
    if n_source == 0 || n_layers == 0 {
        return Err("there must be at least one layer".into());
    }

    let mut metadata = Metadata::new();
    for (key, value) in source.metadata().iter() {
        if key == block_count_key {
            metadata.insert(key, n_layers)?;
        } else {
            metadata.insert(key, value.clone())?;
        }
    }
    let plan = repeated(source.tensors(), n_source, n_layers)?;
    let specs = plan
        .iter()
        .map(|(name, tensor)| TensorSpec {
            name: name.clone(),
            dims: tensor.dims().to_vec(),
            dtype: tensor.dtype(),
        })
        .collect();
    let target = Gguf::new(metadata, specs)?;

    let folder = out
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write_error = |e: io::Error| format!("{}: {e}", out.display());
    // As any other file: the process's umask takes away what it should.
    let readable = Permissions::from_mode(0o666);
    let mut temporary = tempfile::Builder::new()
        .permissions(readable)
        .tempfile_in(folder)
        .map_err(write_error)?;
    let mut header = BufWriter::new(temporary.as_file_mut());
    target
        .write_header(&mut header)
        .and_then(|()| header.flush())
        .map_err(write_error)?;
    drop(header);
    for ((_, from), to) in plan.iter().zip(target.tensors()) {
        copy(
            &mut source_file,
            source.tensor_file_range(from).start,
            temporary.as_file_mut(),
            &target,
            to,
        )
        .map_err(write_error)?;
    }
    temporary
        .as_file()
        .set_len(target.file_bytes())
        .map_err(write_error)?;
    temporary.persist(out).map_err(|e| write_error(e.error))?;

    eprintln!(
        "{}: {} tensors, {n_layers} layers, {} bytes",
        out.display(),
        plan.len(),
        target.file_bytes()
    );
    Ok(())
}

/// The new file's tensors, each with the one it is a copy of. What stands before, in and after the layers
/// stays there.
fn repeated(
    tensors: &[TensorInfo],
    n_source: u32,
    n_layers: u32,
) -> Result<Vec<(String, &TensorInfo)>, Error> {
    let mut before = Vec::new();
    let mut after = Vec::new();
    let mut blocks: Vec<Vec<(&str, &TensorInfo)>> = vec![Vec::new(); n_source as usize];
    for tensor in tensors {
        let block = tensor
            .name()
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        match block {
            Some((layer, part)) => blocks
                .get_mut(layer.parse::<usize>()?)
                .ok_or(format!(
                    "'{}' is past block_count {n_source}",
                    tensor.name()
                ))?
                .push((part, tensor)),
            None if blocks.iter().all(Vec::is_empty) => {
                before.push((tensor.name().to_string(), tensor))
            }
            None => after.push((tensor.name().to_string(), tensor)),
        }
    }
    let layers = (0..n_layers).flat_map(|layer| {
        let block = &blocks[(layer % n_source) as usize];
        block
            .iter()
            .map(move |(part, tensor)| (format!("blk.{layer}.{part}"), *tensor))
    });
    Ok(before.into_iter().chain(layers).chain(after).collect())
}

fn copy(
    source: &mut File,
    start: u64,
    target_file: &mut File,
    target: &Gguf,
    to: &TensorInfo,
) -> io::Result<()> {
    source.seek(SeekFrom::Start(start))?;
    target_file.seek(SeekFrom::Start(target.tensor_file_range(to).start))?;
    let n_copied = io::copy(&mut source.take(to.n_bytes()), target_file)?;
    if n_copied != to.n_bytes() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the small file became shorter",
        ));
    }
    Ok(())
}
