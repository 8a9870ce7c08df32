//! What the output asks of the file system: few operations, in one place, so that tests can make each of them fail.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use tempfile::TempPath;

/// The operations, as the system does them. A test's own type replaces some.
pub trait Files: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist, to read and to write, with the permissions that the umask leaves.
    fn create(&self, path: &Path) -> io::Result<File> {
        options().create_new(true).open(path)
    }

    /// Gives the file its length and, where the system can, the room on the disk for it. Bytes without content
    /// read as zeros.
    fn reserve(&self, file: &File, n_bytes: u64) -> io::Result<()> {
        reserve(file, n_bytes)
    }

    /// Writes some of `bytes` at `offset` from the file's start; how many.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        write_at(file, bytes, offset)
    }

    /// Brings the file's content to the disk.
    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Brings the file's content and all that is known about it to the disk.
    fn sync_all(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Renames a file; only with `replace` where one of the new name exists.
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        if replace {
            return std::fs::rename(from, to);
        }
        // It knows how each system renames without replacing.
        let mut temporary = TempPath::try_from_path(from)?;
        temporary.disable_cleanup(true);
        let renamed = temporary.persist_noclobber(to).map_err(|e| e.error);
        renamed.or_else(|error| rename_if_free(from, to, error))
    }

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Makes renames in a folder last. They have happened, and the files are whole: a folder that may be written
    /// but not read, or that the system cannot sync, is no reason to report a failure.
    fn sync_folder(&self, dir: &Path) {
        #[cfg(unix)]
        let _ = File::open(dir).and_then(|d| d.sync_all());
        #[cfg(not(unix))]
        let _ = dir;
    }
}

/// The real file system.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Files for System {}

/// Where the system knows neither such a rename nor a second name for a file, `error` says so. What appears between
/// the look and the rename is lost then, which is all that such a system has to offer.
fn rename_if_free(from: &Path, to: &Path, error: io::Error) -> io::Result<()> {
    use io::ErrorKind::{NotFound, PermissionDenied, Unsupported};
    let is_free = to.symlink_metadata().is_err_and(|e| e.kind() == NotFound);
    match error.kind() {
        PermissionDenied | Unsupported if is_free => std::fs::rename(from, to),
        _ => Err(error),
    }
}

/// [`Files::write_at`] until all is written.
pub(super) fn write_all_at(
    files: &dyn Files,
    file: &File,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match files.write_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => (bytes, offset) = (&bytes[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads exactly `bytes.len()` bytes at `offset`.
pub(super) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match read_at(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (bytes, offset) = (&mut bytes[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// To read and to write, with permissions for all but what the umask takes, and never through a link.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.mode(0o666).custom_flags(no_follow.bits() as i32);
    }
    options
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, offset)
}

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
fn reserve(file: &File, n_bytes: u64) -> io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, n_bytes.max(1)) {
        Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(e.into()),
        // Where room cannot be reserved, it is looked for when it is needed.
        _ => file.set_len(n_bytes),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
fn reserve(file: &File, n_bytes: u64) -> io::Result<()> {
    file.set_len(n_bytes)
}

/// Bytes that the user may still write in `dir`; `None` where the system does not say.
#[cfg(unix)]
pub(super) fn free_bytes(dir: &Path) -> io::Result<Option<u64>> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.checked_mul(stat.f_frsize))
}

#[cfg(not(unix))]
pub(super) fn free_bytes(_: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

/// Bytes of the disk that a file already has.
#[cfg(unix)]
pub(super) fn allocated_bytes(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    // POSIX counts in units of 512 bytes, whatever the file system's block is.
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

#[cfg(not(unix))]
pub(super) fn allocated_bytes(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_rename_that_keeps_what_is_there_a_free_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, "ours").unwrap();
        let rename = |kind: io::ErrorKind| rename_if_free(&from, &to, kind.into());
        rename(io::ErrorKind::StorageFull).unwrap_err();
        std::fs::write(&to, "theirs").unwrap();
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported] {
            rename(kind).unwrap_err();
            assert_eq!(std::fs::read(&to).unwrap(), b"theirs");
            std::fs::remove_file(&to).unwrap();
            rename(kind).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"ours");
            std::fs::rename(&to, &from).unwrap();
            std::fs::write(&to, "theirs").unwrap();
        }
    }
}
