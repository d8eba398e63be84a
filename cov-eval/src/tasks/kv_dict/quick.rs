//! Reading a dictionary with which nothing is wrong but places and count, in one pass over its bytes.
//!
//! A string is taken to be as long as all should be: then it ends in a quote, and its alphabet rules out whatever else could
//! end it. Strings are nowhere copied, and what they must not have in common is compared by hashes, for which two may be taken
//! for equal that are not. Whatever is not plain in this sense is left to the reading that all answers can have.

use super::verify::{Tally, stands_alone};
use super::{KvDictTargets, random};
use crate::text::word_hash;

/// What a dictionary holds of which every entry is strict JSON and valid, looks random, and has no string of another: the same
/// as the thorough reading finds.
pub(super) fn read(targets: &KvDictTargets, visible: &str) -> Option<Tally> {
    match targets.length {
        8 => sized::<8>(targets, visible),
        32 => sized::<32>(targets, visible),
        _ => None,
    }
}

/// Hashes of beginnings and ends.
struct Stems {
    /// A part of each hash, from its place on; 0 where there is none.
    slots: Vec<u16>,
    /// Bytes of a stem.
    length: usize,
}

/// Set in the hashes of ends.
const END: u64 = 0x8080_0000_0000_8080;

impl Stems {
    /// With room for so many.
    fn with_capacity(stems: usize, length: usize) -> Self {
        Self { slots: vec![0; (4 * stems).next_power_of_two()], length }
    }

    /// Whether a hash is new.
    fn insert(&mut self, hash: u64) -> bool {
        let last = self.slots.len() - 1;
        let tag = (hash as u16) | 1;
        let mut at = (hash >> 32) as usize & last;
        while self.slots[at] != 0 {
            if self.slots[at] == tag {
                return false;
            }
            at = (at + 1) & last;
        }
        self.slots[at] = tag;
        true
    }

    /// Whether the beginning of the string of `n` bytes at a place of a text is new.
    fn start(&mut self, text: &[u8], at: usize) -> bool {
        self.insert(word_hash(text, at..at + self.length, 0))
    }

    /// Whether its end is.
    fn end(&mut self, text: &[u8], end: usize) -> bool {
        self.insert(word_hash(text, end - self.length..end, 0) ^ END)
    }
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_uppercase() | (byte == b'_')
}

fn is_value(byte: u8) -> bool {
    byte.is_ascii_lowercase() | byte.is_ascii_digit()
}

/// The next place that is not white space.
fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// A string of `N` bytes in double quotes, all of them good, and where it ends.
fn string<const N: usize>(text: &[u8], at: usize, good: impl Fn(u8) -> bool) -> Option<(&[u8; N], usize)> {
    let rest = text.get(at..)?;
    let inner = rest.get(1..)?.first_chunk::<N>()?;
    let quoted = rest[0] == b'"' && rest.get(N + 1) == Some(&b'"');
    // All bytes are looked at, so that many are at once.
    (quoted && inner.iter().fold(true, |all, &b| all & good(b))).then_some((inner, at + N + 2))
}

fn sized<const N: usize>(targets: &KvDictTargets, visible: &str) -> Option<Tally> {
    let text = visible.as_bytes();
    let start = memchr::memchr(b'{', text)?;
    let most = (text.len() - start) / (2 * N + 6) + 1;
    let reserved = targets.pinned.len() + targets.forbidden.len();
    let mut stems = Stems::with_capacity(4 * most + reserved, random::stem_length(N));
    if !targets.reserved_keys().filter(|key| key.len() == N).all(|key| stems.start(key.as_bytes(), 0)) {
        return None;
    }
    let mut first_at = vec![None; targets.pinned.len()];
    let (mut total, mut pinned) = (0, 0);
    let mut at = start + 1;
    let end = loop {
        let from = space(text, at);
        let (key, after) = string::<N>(text, from, is_key)?;
        at = space(text, after);
        if text.get(at) != Some(&b':') {
            return None;
        }
        let at_value = space(text, at + 1);
        let (value, after) = string::<N>(text, at_value, is_value)?;
        let (key_at, key_end, value_at) = (from + 1, from + 1 + N, at_value + 1);
        if !stems.start(text, value_at) {
            return None;
        }
        if stems.start(text, key_at) {
            let fresh = stems.end(text, key_end) & stems.end(text, value_at + N);
            if !(fresh && random::varied(key) && random::varied(value)) {
                return None;
            }
        } else {
            // A given entry, for the first time, or nothing that this reading knows.
            let is_it = |pin: &super::Pinned| pin.key.as_bytes() == key && pin.value.as_bytes() == value;
            let place = first_at.get_mut(targets.pinned.iter().position(is_it)?)?;
            if place.replace((total, from as u32..after as u32)).is_some() {
                return None;
            }
            pinned += 1;
        }
        total += 1;
        at = space(text, after);
        match text.get(at)? {
            b',' => at += 1,
            b'}' => break at + 1,
            _ => return None,
        }
    };
    let fillers = total - pinned;
    Some(Tally {
        first_at,
        total,
        fillers,
        valid: fillers,
        keys_valid: fillers,
        values_valid: fillers,
        random: fillers,
        forbidden: 0,
        unique_keys: total,
        unique_values: total,
        strict: true,
        complete: true,
        alone: stands_alone(visible, &(start..end)),
        end,
    })
}
