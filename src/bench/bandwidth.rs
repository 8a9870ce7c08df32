//! How fast this machine reads memory: the ceiling of decoding, which reads all weights for each token.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Larger than any cache, and not so large that a small machine would have to swap.
const BUFFER_BYTES: u64 = 512 << 20;
/// Passes over the buffer, of which the fastest counts.
const PASSES: usize = 5;

/// Bytes a second that `n_threads` threads read together; `None` when there is no memory to read.
///
/// Takes less than half a second on most machines. `available_bytes` is what the process may use; a quarter
/// of it at most is used.
#[must_use]
pub fn read_bandwidth(n_threads: usize, available_bytes: Option<u64>) -> Option<f64> {
    let bytes = available_bytes.map_or(BUFFER_BYTES, |available| BUFFER_BYTES.min(available / 4));
    let n_words = usize::try_from(bytes / 8).ok()?;
    let per_thread = n_words / n_threads.max(1);
    if per_thread == 0 {
        return None;
    }
    let mut buffer: Vec<u64> = Vec::new();
    buffer.try_reserve_exact(n_words).ok()?;
    // Written, so that each page is one of its own and not the page of zeros.
    buffer.extend(0..n_words as u64);
    let mut best: Option<f64> = None;
    for _ in 0..PASSES {
        let start = Instant::now();
        thread::scope(|scope| {
            for part in buffer.chunks(per_thread) {
                scope.spawn(move || {
                    black_box(part.iter().fold(0u64, |sum, &word| sum.wrapping_add(word)))
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let speed = (buffer.len() * 8) as f64 / seconds;
        if seconds > 0.0 && best.is_none_or(|best| speed > best) {
            best = Some(speed);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_some_bytes_in_a_second() {
        let speed = read_bandwidth(2, Some(64 << 20)).unwrap();
        assert!(speed.is_finite() && speed > 0.0);
        assert_eq!(read_bandwidth(2, Some(0)), None);
    }
}
