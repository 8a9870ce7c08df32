//! A mapped model's weights stay in the system's page cache: a second start reads nothing from the disk.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Stdio;

use crate::args;
use crate::util::models;
use crate::util::program::yi_command;

/// Runs the program to its first tokens; the blocks of 512 bytes that were read from a disk for it.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn blocks_read(model: &Path) -> i64 {
    let arguments = args![
        "run", "-m", model, "-t", "1", "-n", "2", "--temp", "0", "-p", "x", "--repack", "off"
    ];
    let child = yi_command()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: the child is ours and nobody else waits for it; both results are written during the call, and a
    // rusage of zeros is a valid one.
    unsafe {
        let mut status = 0;
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        assert_eq!(status, 0, "the program failed");
        usage.ru_inblock
    }
}

/// Has the system forget what it has of a file.
fn drop_from_cache(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: the descriptor is open.
    let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(failed, 0);
}

#[test]
fn a_second_start_reads_nothing_from_the_disk() {
    // A copy that nobody else has mapped.
    let path = models::path_of("page-cache");
    fs::copy(models::demo(), &path).unwrap();
    drop_from_cache(&path);
    let cold = blocks_read(&path);
    if cold == 0 {
        println!("nothing was tested: this file system's reads are not counted, or it is memory");
        return;
    }
    // The system may need the memory for others meanwhile; a program that reads does so each time.
    let warm: Vec<i64> = (0..10).map(|_| blocks_read(&path)).collect();
    assert!(warm.contains(&0), "cold {cold}, then {warm:?} blocks");
    fs::remove_file(&path).unwrap();
}
