//! A folder of models, each with a name.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::ModelFile;

/// The environment variable that names the folder.
pub const FOLDER_VARIABLE: &str = "YI_MODELS";

/// How deep folders in the folder are looked into.
const MAX_DEPTH: usize = 4;
/// The most files that are looked at.
const MAX_FILES: usize = 10_000;

/// A folder whose GGUF files are models: `yi-6b/chat-Q4_K_M.gguf` has the name `yi-6b/chat-Q4_K_M`, and so
/// has a model in parts, `yi-6b/chat-Q4_K_M-00001-of-00003.gguf`.
#[derive(Debug, Clone)]
pub struct ModelFolder(PathBuf);

/// A model in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: the path in the folder, without the ending.
    pub name: String,
    /// Its file, or the first of its files.
    pub path: PathBuf,
}

impl ModelFolder {
    /// A folder; it need not exist.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        ModelFolder(folder)
    }

    /// The folder that `YI_MODELS` names.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        std::env::var_os(FOLDER_VARIABLE)
            .filter(|folder| !folder.is_empty())
            .map(|folder| ModelFolder(PathBuf::from(folder)))
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All models, sorted by name.
    ///
    /// # Errors
    /// When the folder cannot be read; folders in it that cannot are passed over.
    pub fn list(&self) -> std::io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut n_files = 0;
        let mut open = vec![(self.0.clone(), 0)];
        while let Some((folder, depth)) = open.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if depth == 0 => return Err(error),
                Err(_) => continue,
            };
            for entry in entries.flatten() {
                n_files += 1;
                if n_files > MAX_FILES {
                    break;
                }
                let path = entry.path();
                if path.is_dir() {
                    if depth < MAX_DEPTH {
                        open.push((path, depth + 1));
                    }
                } else if let Some(name) = self.name_of(&path) {
                    found.push(Entry { name, path });
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The file of a model's name; `None` where there is none.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(inside) {
            return None;
        }
        let direct = [name.to_owned(), format!("{name}.gguf")];
        let direct = direct.into_iter().map(|file| self.0.join(file));
        direct.into_iter().find(|path| path.is_file()).or_else(|| {
            let all = self.list().ok()?;
            let entry = all.into_iter().find(|entry| entry.name == name)?;
            Some(entry.path)
        })
    }

    /// The path itself where it exists, or else the file of the model with that name.
    #[must_use]
    pub fn resolve(path: &Path) -> PathBuf {
        let by_name = || Self::from_environment()?.find(path.to_str()?);
        if path.exists() {
            return path.to_owned();
        }
        by_name().unwrap_or_else(|| path.to_owned())
    }

    /// The name of a model's first file; `None` for other files.
    fn name_of(&self, path: &Path) -> Option<String> {
        let inner = path.strip_prefix(&self.0).ok()?.to_str()?;
        let name = inner.strip_suffix(".gguf")?.replace('\\', "/");
        let Some((stem, number)) = part_number(&name) else {
            return Some(name);
        };
        (number == 1).then(|| stem.to_owned())
    }
}

/// A part's stem and number: `m-00002-of-00003` is part 2 of `m`.
fn part_number(name: &str) -> Option<(&str, u32)> {
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(())?;
    Some((stem, number.parse().ok()?))
}

impl Entry {
    /// Opens the file, without asking whether llama.cpp could run it.
    ///
    /// # Errors
    /// When it is no GGUF file.
    pub fn open(&self) -> Result<ModelFile, crate::error::Error> {
        ModelFile::open_unchecked(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_without_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for name in [
            "b.gguf",
            "a/c-Q4_0.gguf",
            "a/part-00001-of-00002.gguf",
            "a/part-00002-of-00002.gguf",
            "not-00001-of-2.gguf",
            "readme.txt",
        ] {
            write(name);
        }
        let models = ModelFolder::new(folder.path().to_owned());
        let names: Vec<String> = models.list().unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, ["a/c-Q4_0", "a/part", "b", "not-00001-of-2"]);
        let found = |name: &str| {
            let path = models.find(name)?;
            let inner = path.strip_prefix(folder.path()).unwrap();
            Some(inner.to_str().unwrap().to_owned())
        };
        assert_eq!(found("b").as_deref(), Some("b.gguf"));
        assert_eq!(found("b.gguf").as_deref(), Some("b.gguf"));
        assert_eq!(
            found("a/part").as_deref(),
            Some("a/part-00001-of-00002.gguf")
        );
        for outside in ["", "c", "../b", "/etc/passwd", "a"] {
            assert_eq!(found(outside), None, "{outside}");
        }
    }
}
