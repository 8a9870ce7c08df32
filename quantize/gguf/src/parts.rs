//! Models in several files: `NAME-00001-of-00003.gguf` and so on, as llama.cpp names them.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::gguf::Gguf;

/// One file of a model, open: what was checked is what is used, whatever happens to the path.
#[derive(Debug)]
pub struct Part {
    /// Where it was found.
    pub path: PathBuf,
    /// Its header.
    pub gguf: Gguf,
    /// Its position is not specified.
    pub file: File,
}

impl Gguf {
    /// Opens a model: the file at `path` and, if that is the first of several, all the others.
    /// Whether the files belong together is asked by [`check_split_model`](crate::check_split_model).
    ///
    /// # Errors
    /// What [`open`](Gguf::open) gives for one of them; a first file whose name does not tell those
    /// of the others.
    pub fn open_parts(path: &Path) -> Result<Vec<Part>, Error> {
        let (gguf, file) = Gguf::open(path)?;
        let number = |key| gguf.metadata().unsigned(key).ok().flatten().unwrap_or(0);
        let (number, count) = (number("split.no"), number("split.count"));
        let mut parts = vec![Part {
            path: path.to_owned(),
            gguf,
            file,
        }];
        if number == 0 && (2..=u64::from(u16::MAX)).contains(&count) {
            let prefix = prefix_of_first(path, count).ok_or_else(|| Error::PartName {
                path: path.to_owned(),
                count,
            })?;
            for index in 1..count {
                let path = part_path(&prefix, index, count);
                let (gguf, file) = Gguf::open(&path)?;
                parts.push(Part { path, gguf, file });
            }
        }
        Ok(parts)
    }
}

/// The path of part `index`, counted from 0, of `count`: `{prefix}-00001-of-00003.gguf` is the first
/// of three.
pub fn part_path(prefix: &Path, index: u64, count: u64) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!("-{:05}-of-{count:05}.gguf", index + 1));
    path.into()
}

/// What the paths of all parts begin with, from that of the first.
fn prefix_of_first(path: &Path, count: u64) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let prefix = name.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    // Not with_file_name, which would give the folder itself for an empty prefix.
    Some(path.parent()?.join(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_as_llama_cpp_names_them() {
        let prefix = prefix_of_first(Path::new("/m/yi-00001-of-00012.gguf"), 12).unwrap();
        let path = part_path(&prefix, 11, 12);
        assert_eq!(path, Path::new("/m/yi-00012-of-00012.gguf"));
        for wrong in [
            "/m/yi.gguf",
            "/m/yi-00002-of-00012.gguf",
            "/m/yi-00001-of-00011.gguf",
        ] {
            assert_eq!(prefix_of_first(Path::new(wrong), 12), None, "{wrong}");
        }
    }
}
