//! Opening an output: from the beginning, or where an earlier run left off.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{allocated_bytes, free_bytes, options, write_all_at};
use super::target::{is_same, is_same_file, same_file_in};
use super::{JournalFile, Output, OutputError, Part, Target, folder_error, names, write_error};
use crate::journal::{self, Header, Journal, Record};
use crate::manifest;
use crate::stamp::Stamp;

/// An output that can be written now, and what was there before.
#[derive(Debug)]
pub struct Opened {
    /// The output.
    pub output: Output,
    /// The journal that it continues. What its lines say may be believed only after the files have been compared
    /// with them.
    pub resumed: Option<Journal>,
    /// Whether something that an earlier run left unfinished was removed.
    pub replaced: bool,
}

impl Target {
    /// Creates the temporary files with room for all that will be in them, or opens those of an unfinished run.
    ///
    /// # Errors
    /// The disk has too little room; another process is writing this output; a file of the output is there
    /// already, or what an unfinished run left is read; what is to be resumed was another run, or its journal is
    /// damaged. Nothing has changed then, but that without [`resuming`](Target::resuming) what an unfinished run left
    /// may be gone.
    pub fn create(self, header: &Header) -> Result<Opened, OutputError> {
        let names = names::parts(self.name(), header.files.len());
        let manifest = names::manifest(&names[0]);
        let journal_path = self.in_dir(&names::journal(self.name(), names.len()));
        self.check_not_read(&journal_path)?;
        for name in names.iter().chain([&manifest]) {
            self.check_not_read(&self.in_dir(&names::partial(name)))?;
        }
        let mut journal_file = self.lock_journal(&journal_path)?;
        let journal_error = write_error(&journal_path);
        let mut bytes = Vec::new();
        (&mut journal_file)
            .take(journal::MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(&journal_error)?;
        let mut output = Output {
            files: self.files.clone(),
            dir: self.dir.clone(),
            force: self.force,
            parts: Vec::new(),
            manifest: self.in_dir(&manifest),
            manifest_partial: self.in_dir(&names::partial(&manifest)),
            journal: Mutex::new(JournalFile {
                file: journal_file,
                n_bytes: 0,
            }),
            journal_path,
            // What others left is theirs until it is replaced.
            keep: AtomicBool::new(!bytes.is_empty()),
        };
        let earlier = journal::parse(&bytes);
        let leftovers = match &earlier {
            Ok(Some(journal)) => journal.header.files.clone(),
            _ => Vec::new(),
        };
        let resumed = match self.resume {
            true => self.check_resumed(earlier, header, &output.journal_path)?,
            false => None,
        };
        if let Some(journal) = &resumed {
            self.undo_renames(journal, &names)?;
        }
        for name in &names {
            self.check_free(name, |_| false)?;
        }
        // Without its output a manifest of ours is worth nothing.
        self.check_free(&manifest, is_manifest)?;
        let mut replaced = false;
        if resumed.is_none() {
            let leftovers = leftovers.iter().map(|file| OsStr::new(&file.name));
            replaced = !bytes.is_empty();
            for name in leftovers.chain(names.iter().map(|n| n.as_os_str())) {
                replaced |= self.remove_partial(name)?;
            }
            self.remove_partial(&manifest)?;
            output.keep.store(false, Ordering::Relaxed);
        }
        for name in &names {
            let partial = self.in_dir(&names::partial(name));
            output.parts.push(Part {
                file: self.open_partial(&partial)?,
                partial,
                path: self.in_dir(name),
            });
        }
        self.reserve(&output.parts, header)?;
        output
            .begin_journal(header, resumed.as_ref())
            .map_err(journal_error)?;
        Ok(Opened {
            output,
            resumed,
            replaced,
        })
    }

    /// Opens and locks the journal, which stands for the whole output.
    fn lock_journal(&self, path: &Path) -> Result<File, OutputError> {
        let in_the_way = || OutputError::InTheWay { path: path.into() };
        loop {
            let file = match options().create(true).open(path) {
                // A link, or a folder.
                Err(_) if path.symlink_metadata().is_ok_and(|m| !m.is_file()) => {
                    return Err(in_the_way());
                }
                other => other.map_err(folder_error(&self.dir))?,
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(OutputError::Busy {
                        path: self.path.clone(),
                    });
                }
                // Where nothing can be locked, that no two runs write one output is up to the user.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Whoever held the lock may have removed the journal since it was opened here.
            let metadata = file.metadata().map_err(folder_error(&self.dir))?;
            let there = path.symlink_metadata();
            if there.is_ok_and(|there| is_same(&there, path, &metadata, path)) {
                return match is_plain(&metadata) {
                    true => Ok(file),
                    false => Err(in_the_way()),
                };
            }
        }
    }

    /// The journal of the run to be resumed, if there is one and it was a run like this.
    fn check_resumed(
        &self,
        earlier: Result<Option<Journal>, journal::Defect>,
        header: &Header,
        path: &Path,
    ) -> Result<Option<Journal>, OutputError> {
        let journal = earlier.map_err(|defect| OutputError::Journal {
            path: path.into(),
            line: defect.line,
            reason: defect.reason,
        })?;
        let difference = journal.as_ref().and_then(|j| j.header.difference(header));
        match difference {
            None => Ok(journal),
            Some(difference) => Err(OutputError::OtherRun {
                path: path.into(),
                difference,
            }),
        }
    }

    /// After a crash between the renames at the end, or before the journal was removed: gives our files their
    /// temporary names back, to be checked and renamed like all others.
    fn undo_renames(
        &self,
        journal: &Journal,
        names: &[std::ffi::OsString],
    ) -> Result<(), OutputError> {
        let Some(Record::Complete { files }) = journal.records.last() else {
            return Ok(());
        };
        for (name, stamp) in names.iter().zip(files) {
            let (path, partial) = (self.in_dir(name), self.in_dir(&names::partial(name)));
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            let found = Stamp::of_metadata(&metadata);
            // Renaming changes only the time of the last change of attributes.
            let is_ours = metadata.is_file() && found.inode != 0 && found.is_same_content(*stamp);
            if !is_ours {
                continue;
            }
            let undone = match partial.symlink_metadata() {
                Err(_) => self.files.rename(&path, &partial, false),
                // Where a rename is a second name and then the first one's removal, that may not have come.
                Ok(there) if is_same(&there, &partial, &metadata, &path) => {
                    self.files.remove(&path)
                }
                Ok(_) => Ok(()),
            };
            undone.map_err(write_error(&path))?;
        }
        Ok(())
    }

    /// Whether a file may get this name in the end.
    fn check_free(&self, name: &OsStr, is_worthless: fn(&Path) -> bool) -> Result<(), OutputError> {
        let path = self.in_dir(name);
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(OutputError::Write { path, source }),
            Ok(link) => {
                let mut inputs = self.inputs.iter();
                if let Some(input) = inputs.find_map(|input| same_file_in(input, &path)) {
                    return Err(OutputError::IsInput { path, input });
                }
                match link.is_file() {
                    false => Err(OutputError::NotRegular { path }),
                    true if self.force || is_worthless(&path) => Ok(()),
                    true => Err(OutputError::Exists { path }),
                }
            }
        }
    }

    /// Refuses a file that would be removed or written before the output is there, if it is read itself. What an
    /// unfinished run left may lie in the checkpoint's folder, as an output may.
    fn check_not_read(&self, path: &Path) -> Result<(), OutputError> {
        let mut inputs = self.inputs.iter();
        match inputs.find(|input| is_same_file(input, path)) {
            None => Ok(()),
            Some(input) => Err(OutputError::IsInput {
                path: path.into(),
                input: input.display().to_string(),
            }),
        }
    }

    /// Removes what an unfinished run left; whether there was something.
    fn remove_partial(&self, name: &OsStr) -> Result<bool, OutputError> {
        // A journal's text must not lead elsewhere.
        if Path::new(name).file_name() != Some(name) {
            return Ok(false);
        }
        let path = self.in_dir(&names::partial(name));
        match path.symlink_metadata() {
            Err(_) => return Ok(false),
            Ok(metadata) if !metadata.is_file() => return Err(OutputError::InTheWay { path }),
            Ok(_) => {}
        }
        self.check_not_read(&path)?;
        self.files.remove(&path).map_err(write_error(&path))?;
        Ok(true)
    }

    fn open_partial(&self, path: &PathBuf) -> Result<File, OutputError> {
        if path.symlink_metadata().is_err() {
            return self.files.create(path).map_err(folder_error(&self.dir));
        }
        let file = options().open(path);
        match file.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, file)) if is_plain(&metadata) => Ok(file),
            _ => Err(OutputError::InTheWay { path: path.clone() }),
        }
    }

    fn reserve(&self, parts: &[Part], header: &Header) -> Result<(), OutputError> {
        let folder_error = folder_error(&self.dir);
        let mut needed_bytes = 0u64;
        for (part, planned) in parts.iter().zip(&header.files) {
            let there = allocated_bytes(&part.file).map_err(&folder_error)?;
            let missing = planned.n_bytes.saturating_sub(there);
            needed_bytes = needed_bytes.saturating_add(missing);
        }
        let free = free_bytes(&self.dir).map_err(&folder_error)?;
        let no_space = |free_bytes| OutputError::NoSpace {
            dir: self.dir.clone(),
            free_bytes,
            needed_bytes,
        };
        if let Some(free) = free.filter(|free| *free < needed_bytes) {
            return Err(no_space(free));
        }
        for (part, planned) in parts.iter().zip(&header.files) {
            let reserved = self.files.reserve(&part.file, planned.n_bytes);
            reserved.map_err(|source| match (source.kind(), free) {
                (io::ErrorKind::StorageFull, Some(free)) => no_space(free),
                _ => OutputError::Write {
                    path: part.path.clone(),
                    source,
                },
            })?;
        }
        Ok(())
    }
}

impl Output {
    /// Cuts the journal's torn tail off, or begins a new one.
    fn begin_journal(&mut self, header: &Header, resumed: Option<&Journal>) -> io::Result<()> {
        let journal = self.journal.get_mut().unwrap_or_else(|e| e.into_inner());
        match resumed {
            Some(earlier) => {
                journal.n_bytes = earlier.n_bytes;
                journal.file.set_len(journal.n_bytes)?;
            }
            None => {
                journal.file.set_len(0)?;
                let line = journal::line(header)?;
                write_all_at(&*self.files, &journal.file, &line, 0)?;
                journal.n_bytes = line.len() as u64;
                self.files.sync_all(&journal.file)?;
            }
        }
        self.files.sync_folder(&self.dir);
        Ok(())
    }
}

/// A regular file with no second name: nobody else's.
#[cfg(unix)]
fn is_plain(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.is_file() && metadata.nlink() == 1
}

#[cfg(not(unix))]
fn is_plain(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file()
}

/// Whether a file is a manifest that this program wrote.
fn is_manifest(path: &Path) -> bool {
    let mut first = Vec::new();
    let n_bytes = manifest::FIRST_BYTES.len() as u64;
    let read = File::open(path).and_then(|file| file.take(n_bytes).read_to_end(&mut first));
    read.is_ok() && first == manifest::FIRST_BYTES
}
