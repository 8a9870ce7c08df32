//! Which models are served, and by which names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::settings::ModelTable;
use super::{ServeArgs, ServedArgs};
use crate::error::Error;
use crate::model::folder::ModelFolder;

/// A model that is to be served.
#[derive(Debug)]
pub struct Named {
    /// What clients call it.
    pub id: String,
    /// Its file, or the first of its files.
    pub path: PathBuf,
    /// How it is served.
    pub args: ServedArgs,
    /// It was named, and not found in a folder.
    pub is_named: bool,
}

fn usage(message: String, hint: &'static str) -> Error {
    Error::Usage { message, hint }
}

/// All models: those of `-m` first, then those of the file's tables, then what else is in the folder.
///
/// # Errors
/// When there is none, two have the same name, or a table has no file.
pub fn all(args: &ServeArgs, tables: &[ModelTable]) -> Result<Vec<Named>, Error> {
    let has_paths = !args.model.is_empty() || tables.iter().any(|table| table.path.is_some());
    let folder = match &args.models_dir {
        Some(folder) => Some(ModelFolder::new(folder.clone())),
        None if has_paths => None,
        None => ModelFolder::from_environment(),
    };
    let resolve = |path: &Path| {
        let in_folder = || folder.as_ref()?.find(path.to_str()?);
        if path.exists() {
            return path.to_owned();
        }
        in_folder().unwrap_or_else(|| ModelFolder::resolve(path))
    };
    let mut found: Vec<(String, PathBuf, bool)> = Vec::new();
    for model in &args.model {
        let (name, path) = split(model)?;
        let path = resolve(path);
        let id = name.map_or_else(|| stem(&path), str::to_owned);
        if found.iter().any(|(known, ..)| *known == id) {
            return Err(usage(
                format!("two models have the name {id:?}"),
                "give one of them another name: -m NAME=FILE",
            ));
        }
        found.push((id, path, true));
    }
    for table in tables {
        if let Some(path) = &table.path
            && !found.iter().any(|(known, ..)| *known == table.name)
        {
            found.push((table.name.clone(), resolve(path), true));
        }
    }
    if let Some(folder) = &folder {
        let entries = folder.list().map_err(|source| Error::Read {
            name: folder.path().display().to_string(),
            source,
        })?;
        let known: HashSet<String> = found.iter().map(|(id, ..)| id.clone()).collect();
        let new = entries.into_iter().filter(|e| !known.contains(&e.name));
        found.extend(new.map(|entry| (entry.name, entry.path, false)));
    }
    if let Some(alias) = &args.alias {
        let [(id, ..)] = &mut found[..] else {
            return Err(usage(
                format!("--alias is for one model; there are {}", found.len()),
                "name each of them: -m NAME=FILE",
            ));
        };
        id.clone_from(alias);
    }
    if found.is_empty() {
        let message = match &folder {
            Some(folder) => format!("there is no model in {}", folder.path().display()),
            None => "there is no model to serve".to_owned(),
        };
        return Err(usage(
            message,
            "-m FILE, or a folder of GGUF files: --models-dir DIR or YI_MODELS",
        ));
    }
    let has_table = |id: &str| tables.iter().find(|table| table.name == id);
    let is_known = |table: &&ModelTable| found.iter().any(|(id, ..)| *id == table.name);
    if let Some(table) = tables.iter().find(|table| !is_known(table)) {
        return Err(usage(
            format!("models.{}: there is no model of that name", table.name),
            "give its file there: model = \"FILE\"",
        ));
    }
    let is_single = found.len() == 1;
    let named = found.into_iter().map(|(id, path, is_named)| {
        let args = has_table(&id).map_or(&args.served, |table| &table.args.served);
        let mut args = args.clone();
        args.preload |= is_single;
        Named {
            id,
            path,
            args,
            is_named,
        }
    });
    Ok(named.collect())
}

/// `NAME=FILE`, or a file alone, whose name may have such a sign.
fn split(argument: &Path) -> Result<(Option<&str>, &Path), Error> {
    let parts = argument.to_str().and_then(|text| text.split_once('='));
    let Some((name, path)) = parts.filter(|(name, _)| !name.contains(['/', '\\'])) else {
        return Ok((None, argument));
    };
    if argument.exists() {
        return Ok((None, argument));
    }
    if name.is_empty() || path.is_empty() {
        return Err(usage(
            format!(
                "-m is {:?}; it must be NAME=FILE",
                argument.display().to_string()
            ),
            "",
        ));
    }
    Ok((Some(name), Path::new(path)))
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
