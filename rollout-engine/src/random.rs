//! Random numbers without generator state.
//!
//! Every draw is a function of `(seed, stream, key, position)`, computed by ChaCha8. Nothing is carried from
//! one draw to the next, so a sample does not depend on what else is in the batch, on the number of threads,
//! on the order of arrival or on a restart.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a random number is for. Two streams never share a draw, even under equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Initial weights.
    Init = 1,
    /// Generated prompts and the order of a data set.
    Data = 2,
    /// Tokens drawn by the policy.
    Sample = 3,
    /// The order of mini-batches.
    Shuffle = 4,
    /// Held-out prompts and other evaluation choices.
    Eval = 5,
    /// Tokens drawn again because a gate denied the first.
    Gate = 6,
}

/// A generator for one key: ChaCha8 keyed by `(seed, stream, key)`.
///
/// Use it where a caller wants many numbers for one purpose, such as one weight matrix or one prompt.
///
/// ```
/// use rand::RngCore;
/// use rollout_engine::random::{Stream, keyed_rng};
/// let mut a = keyed_rng(7, Stream::Data, [1, 2]);
/// let mut b = keyed_rng(7, Stream::Data, [1, 2]);
/// assert_eq!(a.next_u64(), b.next_u64());
/// assert_ne!(a.next_u64(), keyed_rng(7, Stream::Data, [1, 3]).next_u64());
/// ```
pub fn keyed_rng(seed: u64, stream: Stream, key: [u64; 2]) -> ChaCha8Rng {
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(stream as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&key[0].to_le_bytes());
    bytes[24..].copy_from_slice(&key[1].to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// The uniform number in `[0, 1)` (53 bits) at `position` of the stream that `(seed, stream, key)` names.
pub fn uniform_at(seed: u64, stream: Stream, key: [u64; 2], position: u64) -> f64 {
    let mut rng = keyed_rng(seed, stream, key);
    rng.set_word_pos(u128::from(position) * 2);
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}
