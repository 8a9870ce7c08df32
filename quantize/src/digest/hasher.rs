//! SHA-256 as bytes pass by: of one stream, or of two at once.

use sha2::block_api::compress256;

use super::Digest;
#[cfg(target_arch = "x86_64")]
use super::sha_ni::ShaNi;

/// Bytes that SHA-256 takes at a time.
const BLOCK: usize = 64;

/// Computes a [`Digest`] of bytes as they pass by.
#[derive(Clone)]
pub struct Hasher {
    state: [u32; 8],
    n_bytes: u64,
    /// The last `n_bytes % BLOCK` bytes come first.
    rest: [u8; BLOCK],
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            // FIPS 180-4, section 5.3.3.
            state: [
                0x6a09_e667,
                0xbb67_ae85,
                0x3c6e_f372,
                0xa54f_f53a,
                0x510e_527f,
                0x9b05_688c,
                0x1f83_d9ab,
                0x5be0_cd19,
            ],
            n_bytes: 0,
            rest: [0; BLOCK],
        }
    }
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.fill(bytes);
        self.absorb(bytes);
    }

    /// Takes the next bytes of two streams: in the time of the longer one, where the CPU has instructions for it.
    pub fn update_both(streams: [(&mut Self, &[u8]); 2]) {
        let [(a, bytes_a), (b, bytes_b)] = streams;
        #[cfg(target_arch = "x86_64")]
        if let Some(sha) = ShaNi::new() {
            let (rest_a, rest_b) = (a.fill(bytes_a), b.fill(bytes_b));
            let blocks = [rest_a.as_chunks().0, rest_b.as_chunks().0];
            let n_bytes = BLOCK * sha.compress([&mut a.state, &mut b.state], blocks);
            a.absorb(&rest_a[n_bytes..]);
            b.absorb(&rest_b[n_bytes..]);
            return;
        }
        a.update(bytes_a);
        b.update(bytes_b);
    }

    /// The digest of all bytes so far.
    pub fn digest(&self) -> Digest {
        let mut end = self.clone();
        // A one, zeros up to the end of a block, and there the number of bits.
        let mut padding = [0; 2 * BLOCK];
        padding[0] = 0x80;
        let n_zeros = (2 * BLOCK - 9 - self.n_rest()) % BLOCK;
        let n_bits = (8 * self.n_bytes).to_be_bytes();
        padding[1 + n_zeros..][..8].copy_from_slice(&n_bits);
        end.update(&padding[..9 + n_zeros]);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(end.state) {
            *bytes = word.to_be_bytes();
        }
        Digest(digest)
    }

    fn n_rest(&self) -> usize {
        (self.n_bytes % BLOCK as u64) as usize
    }

    /// Counts `bytes` and completes the block that was begun; what of them is left.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let n_rest = self.n_rest();
        self.n_bytes += bytes.len() as u64;
        if n_rest == 0 {
            return bytes;
        }
        let (first, bytes) = bytes.split_at(bytes.len().min(BLOCK - n_rest));
        self.rest[n_rest..][..first.len()].copy_from_slice(first);
        if n_rest + first.len() == BLOCK {
            compress256(&mut self.state, &[self.rest]);
        }
        bytes
    }

    /// Takes bytes that have been counted, from the beginning of a block on.
    fn absorb(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks();
        compress256(&mut self.state, blocks);
        self.rest[..rest.len()].copy_from_slice(rest);
    }
}

/// Whether this CPU has instructions for SHA-256, which make it four times as fast.
pub fn has_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return ShaNi::new().is_some();
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("sha2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn bytes(n: usize, seed: usize) -> Vec<u8> {
        (0..n)
            .map(|i| (i * i + 31 * i * seed + seed) as u8)
            .collect()
    }

    fn expected(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    #[test]
    fn every_length_has_the_digest_of_the_sha2_crate() {
        for n in (0..300).chain([4095, 4096, 100_003]) {
            assert_eq!(
                Digest::of(&bytes(n, n)),
                expected(&bytes(n, n)),
                "{n} bytes"
            );
        }
    }

    #[test]
    fn two_streams_in_pieces_of_any_lengths_have_their_own_digests() {
        let lengths = [0, 1, 55, 63, 64, 65, 127, 128, 500, 1000, 4096, 5000];
        let (mut a, mut b) = (Hasher::default(), Hasher::default());
        let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
        for (i, n_a) in lengths.into_iter().enumerate() {
            for (j, n_b) in lengths.into_iter().enumerate() {
                let (piece_a, piece_b) = (bytes(n_a, i), bytes(n_b, 100 + j));
                Hasher::update_both([(&mut a, &piece_a), (&mut b, &piece_b)]);
                all_a.extend(piece_a);
                all_b.extend(piece_b);
                assert_eq!(a.digest(), expected(&all_a), "{n_a} and {n_b} more bytes");
                assert_eq!(b.digest(), expected(&all_b), "{n_a} and {n_b} more bytes");
            }
        }
    }
}
