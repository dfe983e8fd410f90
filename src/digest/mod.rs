//! Checksums of chunks of device memory.
//!
//! A chunk is cut into leaves of [`LEAF`] bytes (the last may be shorter). Each
//! leaf has its XXH3-128 (seed 0, default secret); the chunk's digest is the
//! XXH3-128 of these, 16 bytes each in little endian. Leaves are independent, so
//! that a GPU can work on all of them at once and give the same result.
//!
//! They find damage, not forgery: who can write a snapshot can also write its
//! digests.

mod gpu;
pub(crate) mod hex;

pub use gpu::{GpuDigestError, GpuDigests, Span};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::OnceLock;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Length of a leaf, in bytes.
pub const LEAF: usize = 16 << 10;

/// 128 bits that stand for a chunk; 32 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(#[serde(with = "hex")] u128);

impl Digest {
    /// From its low and high 64 bits.
    pub const fn from_halves(low: u64, high: u64) -> Digest {
        Digest((high as u128) << 64 | low as u128)
    }

    /// Its low and high 64 bits.
    pub const fn halves(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Digest({self})")
    }
}

/// The digest of a chunk.
pub fn digest(bytes: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(bytes);
    digester.finish()
}

/// A digest in the making.
#[derive(Default)]
pub struct Digester(Xxh3);

impl Digester {
    /// Adds the next bytes of the chunk: whole leaves, or all that is left.
    pub fn update(&mut self, bytes: &[u8]) {
        for leaf in bytes.chunks(LEAF) {
            self.0.update(&xxh3_128(leaf).to_le_bytes());
        }
    }

    /// The digest, when all bytes were added.
    pub fn finish(self) -> Digest {
        Digest(self.0.digest128())
    }
}

/// The digest of a chunk, from those of its leaves in order: low and high 64 bits.
pub fn of_leaves(leaves: &[[u64; 2]]) -> Digest {
    let mut root = Xxh3::new();
    for [low, high] in leaves {
        root.update(&Digest::from_halves(*low, *high).0.to_le_bytes());
    }
    Digest(root.digest128())
}

/// The digest of a chunk of `bytes` zeroes, without going over them.
pub fn of_zeros(bytes: usize) -> Digest {
    static ZEROS: [u8; LEAF] = [0; LEAF];
    static WHOLE: OnceLock<u128> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| xxh3_128(&ZEROS)).to_le_bytes();
    let mut root = Xxh3::new();
    for _ in 0..bytes / LEAF {
        root.update(&whole);
    }
    let rest = bytes % LEAF;
    if rest > 0 {
        root.update(&xxh3_128(&ZEROS[..rest]).to_le_bytes());
    }
    Digest(root.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not of zeroes, and different everywhere.
    fn bytes(count: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(count as u64);
        (0..count).map(|_| rng.u8(..)).collect()
    }

    const LENGTHS: [usize; 9] = [
        1,
        240,
        4096,
        LEAF - 1,
        LEAF,
        LEAF + 1,
        3 * LEAF + 5,
        2 << 20,
        4 << 20,
    ];

    #[test]
    fn a_digest_is_the_hash_of_the_hashes_of_the_leaves() {
        for length in LENGTHS {
            let bytes = bytes(length);
            let hashes: Vec<u128> = bytes.chunks(LEAF).map(xxh3_128).collect();
            let joined: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            assert_eq!(digest(&bytes), Digest(xxh3_128(&joined)), "{length}");
            let leaves: Vec<_> = hashes.iter().map(|hash| Digest(*hash).halves()).collect();
            assert_eq!(of_leaves(&leaves), digest(&bytes), "{length}");
        }
    }

    #[test]
    fn zeroes_need_not_be_gone_over() {
        for length in LENGTHS {
            assert_eq!(of_zeros(length), digest(&vec![0; length]), "{length}");
        }
    }

    /// Snapshots outlive the program that made them.
    #[test]
    fn digests_stay_what_they_are() {
        let counting: Vec<u8> = (0..40_000u32).map(|number| number as u8).collect();
        assert_eq!(
            digest(&counting).to_string(),
            "4416ff8b8764475d538a646ae6853942"
        );
        // XXH3-128 of nothing, from the reference implementation.
        assert_eq!(
            of_leaves(&[]).to_string(),
            "99aa06d3014798d86001c324468d497f"
        );
    }

    #[test]
    fn text_and_back() {
        let digest = digest(b"x");
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(text, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        for wrong in [
            "\"\"".to_owned(),
            text.to_uppercase(),
            text.replacen('"', "\"+", 1),
            text.replacen('"', "\"0", 1),
            "1".to_owned(),
        ] {
            assert!(serde_json::from_str::<Digest>(&wrong).is_err(), "{wrong}");
        }
    }
}
