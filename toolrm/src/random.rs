//! Random numbers as hashes of a seed and a key: there is no generator state, so order and threads cannot matter.

/// 64 random bits for `(seed, key, position)`.
pub(crate) fn bits(seed: u64, key: &str, position: u64) -> u64 {
    let inner = xxhash_rust::xxh3::xxh3_64_with_seed(key.as_bytes(), seed);
    let mut block = [0; 16];
    block[..8].copy_from_slice(&inner.to_le_bytes());
    block[8..].copy_from_slice(&position.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64_with_seed(&block, seed)
}

/// A number below `n`, which is not 0; biased by less than `n` / 2⁶⁴.
pub(crate) fn below(n: usize, bits: u64) -> usize {
    ((u128::from(bits) * n as u128) >> 64) as usize
}

/// The draws of one key, one after another.
pub(crate) struct Draws<'a> {
    seed: u64,
    key: &'a str,
    position: u64,
}

impl<'a> Draws<'a> {
    pub(crate) fn new(seed: u64, key: &'a str, stream: u64) -> Self {
        Draws { seed, key, position: stream << 32 }
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.position += 1;
        below(n, bits(self.seed, self.key, self.position))
    }
}
