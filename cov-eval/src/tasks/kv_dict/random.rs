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

/// Strings seen so far, by their beginnings and ends.
#[derive(Default)]
pub(super) struct Seen<'a> {
    stems: HashMap<(bool, &'a str), &'a str, FixedState>,
}

impl<'a> Seen<'a> {
    /// Whether `text` looks random after those seen before; it is among them from now on. A repetition of the whole
    /// string is not a matter of this check.
    pub(super) fn looks_random(&mut self, text: &'a str) -> bool {
        let fresh = self.fresh_stems(text);
        fresh && varied(text)
    }

    fn fresh_stems(&mut self, text: &'a str) -> bool {
        let stem = stem_length(text.len());
        if text.len() < stem || !text.is_ascii() {
            return true;
        }
        let stems = [(false, &text[..stem]), (true, &text[text.len() - stem..])];
        let shared = stems.iter().any(|stem| self.stems.get(stem).is_some_and(|&other| other != text));
        for stem in stems {
            self.stems.entry(stem).or_insert(text);
        }
        !shared
    }
}

/// No character too often, no run of 5, no 8 successive code points.
fn varied(text: &str) -> bool {
    if text.is_ascii() && text.len() < 256 {
        return varied_ascii(text.as_bytes());
    }
    let chars: Vec<u32> = text.chars().map(u32::from).collect();
    varied_chars(&chars)
}

fn varied_chars(chars: &[u32]) -> bool {
    let mut sorted = chars.to_vec();
    sorted.sort_unstable();
    let most = sorted.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap_or(0);
    let longest = |follows: fn(u32, u32) -> bool| {
        let mut longest = 0;
        let mut length = 0;
        for (i, &c) in chars.iter().enumerate() {
            length = if i > 0 && follows(chars[i - 1], c) { length + 1 } else { 1 };
            longest = longest.max(length);
        }
        longest
    };
    most <= most_of_one(chars.len()) && longest(|a, b| a == b) <= 4 && longest(|a, b| a + 1 == b) < 8
}

/// The same in one pass.
fn varied_ascii(text: &[u8]) -> bool {
    let (mut counts, mut most) = ([0u8; 128], 0);
    let (mut same, mut rising) = (1, 1);
    let (mut longest_same, mut longest_rising) = (1, 1);
    let mut before = 0xff;
    for &b in text {
        let count = &mut counts[usize::from(b & 0x7f)];
        *count += 1;
        most = most.max(*count);
        same = if b == before { same + 1 } else { 1 };
        rising = if b == before.wrapping_add(1) { rising + 1 } else { 1 };
        longest_same = longest_same.max(same);
        longest_rising = longest_rising.max(rising);
        before = b;
    }
    usize::from(most) <= most_of_one(text.len()) && longest_same <= 4 && longest_rising < 8
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
            prop_assert_eq!(varied_ascii(text.as_bytes()), varied_chars(&wide));
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
