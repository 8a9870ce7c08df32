//! Folders of files that must be there after a crash: keys and the audit log.

use std::io;
use std::path::Path;

/// Forces the name of a file that is new, or was renamed, to the disk; on other systems than Unix this does nothing.
#[cfg(unix)]
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
pub fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}
