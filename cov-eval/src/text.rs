//! Words, lines, n-grams.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Words of a text as byte ranges: maximal runs of alphanumerics, with single `'`, `’` and `-` inside them, and `.`
/// and `,` between digits.
pub fn words(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::with_capacity(text.len() / 6);
    let mut chars = text.char_indices().peekable();
    let mut start = None;
    let mut last = ' ';
    while let Some((at, c)) = chars.next() {
        if c.is_alphanumeric() {
            start.get_or_insert(at);
        } else if let Some(from) = start {
            let next = chars.peek().map_or(' ', |&(_, next)| next);
            let joins = match c {
                '\'' | '’' | '-' => next.is_alphanumeric() && last.is_alphanumeric(),
                '.' | ',' => next.is_ascii_digit() && last.is_ascii_digit(),
                _ => false,
            };
            if !joins {
                found.push(from..at);
                start = None;
            }
        }
        last = c;
    }
    if let Some(from) = start {
        found.push(from..text.len());
    }
    found
}

/// Words, and lines that are not blank.
pub(crate) fn count(text: &str) -> (usize, usize) {
    (words(text).len(), text.lines().filter(|line| !line.trim().is_empty()).count())
}

/// A hasher of keys that are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

type Hashes = HashSet<u64, BuildHasherDefault<Identity>>;

/// 64-bit hashes of the runs of `n` words, without regard to case.
fn ngrams(text: &str, n: usize) -> impl Iterator<Item = u64> {
    let word_hash = |range: Range<usize>| {
        let fold = |hash: u64, c: char| (hash ^ u64::from(u32::from(c))).wrapping_mul(0x0000_0100_0000_01b3);
        text[range].chars().flat_map(char::to_lowercase).fold(0xcbf2_9ce4_8422_2325, fold)
    };
    let hashes: Vec<u64> = words(text).into_iter().map(word_hash).collect();
    let mix = |hash: u64, word: &u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let grams: Vec<u64> = hashes.windows(n).map(|window| window.iter().fold(0, mix)).collect();
    grams.into_iter()
}

/// The share of the runs of `n` words of `text` that are in `source` too; 0 for a text of fewer words.
pub(crate) fn overlap(text: &str, source: &str, n: usize) -> f64 {
    let known: Hashes = ngrams(source, n).collect();
    let (mut total, mut shared) = (0u64, 0u64);
    for gram in ngrams(text, n) {
        total += 1;
        shared += u64::from(known.contains(&gram));
    }
    if total == 0 { 0.0 } else { shared as f64 / total as f64 }
}

/// The share of the runs of `n` words that are different; 1 for a text of fewer words.
pub(crate) fn distinct_share(text: &str, n: usize) -> f64 {
    let mut seen = Hashes::default();
    let mut total = 0u64;
    for gram in ngrams(text, n) {
        total += 1;
        seen.insert(gram);
    }
    if total == 0 { 1.0 } else { seen.len() as f64 / total as f64 }
}

/// Whether a text begins as refusals do. Informational.
pub(crate) fn is_refusal(text: &str) -> bool {
    const PHRASES: [&str; 7] =
        ["i cannot", "i can't", "i can’t", "i'm sorry", "i’m sorry", "i am unable", "as an ai"];
    let start: String = text.trim_start().chars().take(40).flat_map(char::to_lowercase).collect();
    PHRASES.iter().any(|phrase| start.starts_with(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_cases() {
        let cases = [
            ("", ""),
            ("one two", "one|two"),
            ("don't stop", "don't|stop"),
            ("don’t", "don’t"),
            ("'quoted'", "quoted"),
            ("well-known fact", "well-known|fact"),
            ("dash -- dash", "dash|dash"),
            ("a--b", "a|b"),
            ("1,234.5 units", "1,234.5|units"),
            ("end. Next", "end|Next"),
            ("3.", "3"),
            ("v1.x", "v1|x"),
            ("x.1", "x|1"),
            ("a,b", "a|b"),
            ("tail-", "tail"),
            ("-head", "head"),
            ("$5.50 (10%)", "5.50|10"),
            ("été à Paris", "été|à|Paris"),
            ("漢字 かな", "漢字|かな"),
            ("a_b", "a|b"),
            ("1-2-3", "1-2-3"),
            ("rock'n'roll", "rock'n'roll"),
            ("x''y", "x|y"),
        ];
        for (text, expected) in cases {
            let found: Vec<&str> = words(text).into_iter().map(|r| &text[r]).collect();
            assert_eq!(found.join("|"), expected, "{text:?}");
        }
    }

    #[test]
    fn overlap_is_a_share() {
        let source = "a b c d e f g h i j";
        assert_eq!(overlap("A B c d e f g h", source, 8), 1.0);
        assert_eq!(overlap("a b c d e f g h x", source, 8), 0.5);
        assert_eq!(overlap("a b c", source, 8), 0.0);
        assert_eq!(overlap("b a c d e f g h", source, 8), 0.0);
    }

    #[test]
    fn refusals() {
        assert!(is_refusal("  I'm sorry, but"));
        assert!(!is_refusal("The clerk said: I'm sorry"));
    }
}
