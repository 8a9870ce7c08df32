//! The heap that llama.cpp, its libraries and this program share.

/// Gives pages that are free back to the system.
///
/// glibc keeps what a burst of requests has freed, in the heaps of all threads that took part, since allocations that
/// live on lie between. Elsewhere this does nothing: allocators there give pages back by themselves.
pub fn return_free_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number of bytes to keep, and is safe in a process with threads.
    unsafe {
        libc::malloc_trim(0);
    }
}
