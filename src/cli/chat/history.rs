//! Where the lines typed before are kept.

use std::path::PathBuf;

/// The history file, in the user's folder for state; `None` when the environment names none.
pub fn path() -> Option<PathBuf> {
    state_folder().map(|folder| folder.join("yi").join("history"))
}

#[cfg(not(any(target_os = "macos", windows)))]
fn state_folder() -> Option<PathBuf> {
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local").join("state")))
}

#[cfg(target_os = "macos")]
fn state_folder() -> Option<PathBuf> {
    absolute("XDG_STATE_HOME").or_else(|| {
        Some(
            absolute("HOME")?
                .join("Library")
                .join("Application Support"),
        )
    })
}

#[cfg(windows)]
fn state_folder() -> Option<PathBuf> {
    absolute("LOCALAPPDATA")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Makes the folder of the history file, for the user alone.
pub fn make_folder(history: &std::path::Path) -> std::io::Result<()> {
    let Some(folder) = history.parent() else {
        return Ok(());
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(folder)
}
