//! Whether strings look random: no constants, runs, sequences, or stems with a counter.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// Characters of a beginning or end that no two random strings of `length` have in common: 12 of 32, 5 of 8.
pub(super) fn stem_length(length: usize) -> usize {
    (3 * length / 8).max(5)
}

/// How often a random string of `length` may have one character: 8 of 32, 3 of 8.
pub(super) fn most_of_one(length: usize) -> usize {
    (length / 4).max(3)
}

/// Strings seen so far: the first one with each beginning and with each end.
#[derive(Default)]
pub(super) struct Seen<'a> {
    by_start: HashMap<&'a str, &'a str, FixedState>,
    by_end: HashMap<&'a str, &'a str, FixedState>,
}

impl<'a> Seen<'a> {
    /// With room for so many strings.
    pub(super) fn with_capacity(strings: usize) -> Self {
        let map = || HashMap::with_capacity_and_hasher(strings, FixedState::default());
        Self { by_start: map(), by_end: map() }
    }

    /// Whether `text` looks random after those seen before; it is among them from now on. A repetition of the whole
    /// string is not a matter of this check.
    pub(super) fn looks_random(&mut self, text: &'a str) -> bool {
        let fresh = self.fresh_stems(text);
        fresh && varied_text(text)
    }

    fn fresh_stems(&mut self, text: &'a str) -> bool {
        let stem = stem_length(text.len());
        if text.len() < stem || !text.is_ascii() {
            return true;
        }
        let start = *self.by_start.entry(&text[..stem]).or_insert(text);
        let end = *self.by_end.entry(&text[text.len() - stem..]).or_insert(text);
        start == text && end == text
    }
}

/// No character too often, no run of 5, no 8 successive code points.
fn varied_text(text: &str) -> bool {
    if text.is_ascii() && text.len() < 256 {
        return varied(text.as_bytes());
    }
    let chars: Vec<u32> = text.chars().map(u32::from).collect();
    varied_chars(&chars)
}

fn varied_chars(chars: &[u32]) -> bool {
    let mut sorted = chars.to_vec();
    sorted.sort_unstable();
    let most = sorted.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
    let short = longest(chars, |a, b| a == b) <= 4 && longest(chars, |a, b| a + 1 == b) < 8;
    most <= most_of_one(chars.len()) && short
}

/// The longest run in which each follows the one before it.
fn longest<T: Copy>(text: &[T], follows: impl Fn(T, T) -> bool) -> usize {
    text.chunk_by(|&a, &b| follows(a, b)).map(<[T]>::len).max().unwrap_or(0)
}

/// The same of at most 255 bytes of ASCII.
#[inline]
pub(super) fn varied(text: &[u8]) -> bool {
    // Characters that share a place here are counted together, which may be too many: then they are counted apart.
    let most = most_of_one(text.len()) as u8;
    let rare = counts::<32>(text).iter().fold(0, |m, &n| m.max(n)) <= most
        || counts::<128>(text).iter().all(|&n| n <= most);
    // A run of five has four pairs of equals, and eight in a row seven of neighbours: nearly no string has so many at all.
    rare && (pairs(text, 0) < 4 || longest(text, |a, b| a == b) <= 4)
        && (pairs(text, 1) < 7 || longest(text, |a, b| a + 1 == b) < 8)
}

/// How often bytes occur that are the same modulo `N`.
fn counts<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut counts = [0u8; N];
    text.iter().for_each(|&b| counts[usize::from(b) % N] += 1);
    counts
}

/// How many bytes are followed by one that is greater by so much; of a text of 17 to 32 bytes, some are counted twice.
fn pairs(text: &[u8], step: u8) -> u8 {
    let follows = |(a, b): (&u8, &u8)| u8::from(a.wrapping_add(step) == *b);
    let sixteen = |t: &[u8; 17]| t[..16].iter().zip(&t[1..]).map(follows).sum::<u8>();
    match (text.first_chunk(), text.last_chunk()) {
        (Some(first), Some(last)) if text.len() <= 33 => sixteen(first) + sixteen(last),
        _ => text.iter().zip(text.iter().skip(1)).map(follows).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_pass_says_the_same(text in "[ABCDEFGHIJ\u{0}]{0,40}", tail in "(ABCDEFGH)?(AAAAA)?") {
            let text = text + &tail;
            let wide: Vec<u32> = text.chars().map(u32::from).collect();
            prop_assert_eq!(varied(text.as_bytes()), varied_chars(&wide));
        }
    }

    #[test]
    fn patterns_are_seen() {
        for (text, random) in [
            ("QZKVTXWB_LMNRAFUCYDEHGPJIOSQKXZV", true),
            ("AAAAAAAAAXBXCXDXEXFXGXHXIXJXKXLX", false),
            ("AAAAAXQZKVTXWB_LMNRAFUCYDEHGPJIO", false),
            ("AAAAXQZKVTXWB_LMNRAFUCYDEHGPJIOS", true),
            ("QZKVABCDEFGHTXWB_LMNRAFUCYDEHGPJ", false),
            ("QZKVABCDEFGXTXWB_LMNRAFUCYDEHGPJ", true),
            ("KKKKAAAB", false),
            ("KKKQAAAB", true),
        ] {
            assert_eq!(Seen::default().looks_random(text), random, "{text}");
        }
    }

    #[test]
    fn stems_are_seen() {
        let mut seen = Seen::default();
        let first = "QZKVTXWB_LMNRAFUCYDEHGPJIOSQKXZV";
        assert!(seen.looks_random(first));
        assert!(seen.looks_random(first));
        assert!(!seen.looks_random("QZKVTXWB_LMNAAFUCYDEHGPJIOSQKXZW"));
        assert!(!seen.looks_random("BBKVTXWBCLMNRAFUCYDEHGPJIOSQKXZV"));
    }
}
