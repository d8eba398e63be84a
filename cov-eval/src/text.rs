//! Words, lines, n-grams.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// Words of a text as byte ranges: maximal runs of alphanumerics, with single `'`, `’` and `-` inside them, and `.`
/// and `,` between digits.
pub fn words(text: &str) -> Vec<Range<usize>> {
    if text.is_ascii() { ascii_words(text.as_bytes()) } else { any_words(text) }
}

/// [`words`] of any text.
fn any_words(text: &str) -> Vec<Range<usize>> {
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

/// A text with its words.
pub(crate) struct Scan<'a> {
    text: &'a str,
    pub(crate) words: Vec<Range<usize>>,
    /// Lines that are not blank.
    pub(crate) lines: usize,
}

/// Words of a run.
const RUN: usize = 8;

/// The hash of a run is a polynomial of its words' hashes at this point.
const POINT: u64 = 0x9e37_79b9_7f4a_7c15;

/// A byte in each of the eight of a word, times this, is that byte in all of them.
pub(crate) const EACH: u64 = 0x0101_0101_0101_0101;

/// What makes a letter of ASCII lower case, and leaves the other characters of a word.
const LOWER: u64 = 0x20 * EACH;

pub(crate) fn scan(text: &str) -> Scan<'_> {
    Scan { text, words: words(text), lines: filled_lines(text) }
}

/// The lines of a text, each with the place where it begins.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    memchr::memchr_iter(b'\n', text.as_bytes()).chain([text.len()]).map(move |end| {
        let line = (start, &text[start..end]);
        start = end + 1;
        line
    })
}

/// Lines that are not blank.
fn filled_lines(text: &str) -> usize {
    let starts_filled = |line: &str| line.bytes().next().is_some_and(|b| b.is_ascii_graphic());
    lines(text).filter(|(_, line)| starts_filled(line) || !line.trim().is_empty()).count()
}

/// 64-bit hashes of words, without regard to case.
fn word_hashes(text: &str, words: &[Range<usize>]) -> Vec<u64> {
    words.iter().map(|word| hash_of(text, word)).collect()
}

/// The hash of a word of a text, without regard to case.
fn hash_of(text: &str, word: &Range<usize>) -> u64 {
    if text[word.clone()].is_ascii() {
        return word_hash(text.as_bytes(), word.clone(), LOWER);
    }
    let lower: String = text[word.clone()].chars().flat_map(char::to_lowercase).collect();
    word_hash(lower.as_bytes(), 0..lower.len(), 0)
}

/// Eight bytes of a text from a place on, the first one lowest; zeros beyond its end.
pub(crate) fn eight(text: &[u8], at: usize) -> u64 {
    match text[at..].first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => text[at..].iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte)),
    }
}

/// The hash of a word of a text, eight bytes at a time, with these bits set in each eight.
pub(crate) fn word_hash(text: &[u8], word: Range<usize>, set: u64) -> u64 {
    word.clone().step_by(8).fold(POINT, |hash, at| {
        let (bytes, count) = (eight(text, at) | set, word.end - at);
        let bytes = if count < 8 { bytes & ((1 << (8 * count)) - 1) } else { bytes };
        let wide = u128::from(hash ^ bytes) * u128::from(POINT);
        (wide as u64) ^ ((wide >> 64) as u64)
    })
}

/// The hash of a run of words.
fn run_hash(rolling: u64) -> u64 {
    // Low bits of a polynomial know only low bits of the words; tables look at those first.
    (rolling ^ (rolling >> 32)).wrapping_mul(POINT)
}

/// A hash of each run of `n` words.
fn runs(hashes: &[u64], n: usize) -> Vec<u64> {
    let oldest = POINT.wrapping_pow(n as u32);
    let mut rolling = 0u64;
    let mut runs = Vec::with_capacity(hashes.len().saturating_sub(n - 1));
    for (i, &word) in hashes.iter().enumerate() {
        rolling = rolling.wrapping_mul(POINT).wrapping_add(word);
        if i >= n {
            rolling = rolling.wrapping_sub(hashes[i - n].wrapping_mul(oldest));
        }
        if i + 1 >= n {
            runs.push(run_hash(rolling));
        }
    }
    runs
}

/// How many of eight bytes of ASCII are letters or digits, up to the first that is not.
fn alphanumeric(bytes: u64) -> usize {
    // The highest bit of `byte + 0x80 - n` says whether a byte of ASCII is at least `n`.
    let at_least = |bytes: u64, n: u64| bytes.wrapping_add((0x80 - n) * EACH);
    let within = |bytes, from: u8, to: u8| at_least(bytes, from.into()) & !at_least(bytes, u64::from(to) + 1);
    let found = within(bytes | LOWER, b'a', b'z') | within(bytes, b'0', b'9');
    (!found & (0x80 * EACH)).trailing_zeros() as usize / 8
}

/// [`words`] of a text that is ASCII.
fn ascii_words(text: &[u8]) -> Vec<Range<usize>> {
    let joins = |at: usize| {
        let between = |good: fn(&u8) -> bool| good(&text[at - 1]) && text.get(at + 1).is_some_and(good);
        match text.get(at) {
            Some(b'\'' | b'-') => between(u8::is_ascii_alphanumeric),
            Some(b'.' | b',') => between(u8::is_ascii_digit),
            _ => false,
        }
    };
    let mut found = Vec::with_capacity(text.len() / 5);
    let mut at = 0;
    while at < text.len() {
        if !text[at].is_ascii_alphanumeric() {
            at += 1;
            continue;
        }
        let start = at;
        loop {
            let run = alphanumeric(eight(text, at));
            at += run;
            if run < 8 {
                if !joins(at) {
                    break;
                }
                at += 1;
            }
        }
        found.push(start..at);
        // This one is in no word.
        at += 1;
    }
    found
}

/// A hasher of keys that are hashes already.
#[derive(Debug, Clone, Default)]
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

/// The words of a text that others may copy, and its runs of [`RUN`] words.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    words: Hashes,
    runs: Hashes,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let hashes = word_hashes(text, &words(text));
        Self { runs: runs(&hashes, RUN).into_iter().collect(), words: hashes.into_iter().collect() }
    }

    /// Whether more than 60 % of the runs of a text are in this one too.
    pub(crate) fn is_copied_in(&self, scan: &Scan<'_>) -> bool {
        let total = scan.words.len().saturating_sub(RUN - 1);
        // Runs that are looked at, and those of them that are the text's own.
        let (mut seen, mut own) = (0, 0);
        while seen < total && 5 * own < 2 * total {
            let run = &scan.words[seen..seen + RUN];
            // A word that is not in the source is in none of its runs: most often one look settles up to eight.
            let is_own_word = |word: &Range<usize>| !self.words.contains(&hash_of(scan.text, word));
            if let Some(last) = run.iter().rposition(is_own_word) {
                let next = (seen + last + 1).min(total);
                own += next - seen;
                seen = next;
            } else {
                let add =
                    |rolling: u64, word| rolling.wrapping_mul(POINT).wrapping_add(hash_of(scan.text, word));
                own += usize::from(!self.runs.contains(&run_hash(run.iter().fold(0, add))));
                seen += 1;
            }
        }
        total > 0 && 5 * own < 2 * total
    }
}

/// The share of the runs of `n` words of a text that are different; 1 for a text of fewer words.
pub(crate) fn distinct_share(text: &str, words: &[Range<usize>], n: usize) -> f64 {
    let runs = runs(&word_hashes(text, words), n);
    let seen: Hashes = runs.iter().copied().collect();
    if runs.is_empty() { 1.0 } else { seen.len() as f64 / runs.len() as f64 }
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
    use proptest::prelude::*;

    #[test]
    fn copies_are_seen() {
        let source = Source::new("a b c d e f g h i j");
        let copied = |text: &str| source.is_copied_in(&scan(text));
        assert!(copied("A B c d e f g h") && copied("x a b c d e f g h i j"));
        assert!(!copied("a b c d e f g h x") && !copied("a b c") && !copied(""));
        assert!(!copied("b a c d e f g h"));
        // 13 runs of the source among 21, and among 22.
        let words = |from: u32, to: u32| (from..to).map(|i| format!("w{i} ")).collect::<String>();
        let long = Source::new(&words(0, 20));
        assert!(long.is_copied_in(&scan(&words(0, 28))) && !long.is_copied_in(&scan(&words(0, 29))));
        // Beside letters that are not ASCII, the same words are the same runs.
        assert!(copied("a b c d e f g h i é"));
    }

    proptest! {
        #[test]
        fn both_readings_see_the_same_words(text in "[azAZ09@`/:\\[{ .,'\\-\n\t\r\u{b}_]{0,80}") {
            prop_assert_eq!(ascii_words(text.as_bytes()), any_words(&text));
            prop_assert_eq!(scan(&text).lines, count(&text).1);
            // Beside letters that are not ASCII, the same words have the same hashes.
            let (own, wide) = (words(&text), format!("{text} é"));
            prop_assert_eq!(word_hashes(&text, &own), word_hashes(&wide, &any_words(&wide)[..own.len()]));
        }

        /// The definition: the share of hashes of runs that are among those of the source.
        #[test]
        fn copies_are_counted(source in "([a-dA-D] ){0,40}", text in "([a-e] ){0,40}") {
            let runs_of = |text: &str| runs(&word_hashes(text, &words(text)), RUN);
            let (theirs, all) = (runs_of(&source), runs_of(&text));
            let copied = all.iter().filter(|run| theirs.contains(run)).count();
            prop_assert_eq!(Source::new(&source).is_copied_in(&scan(&text)), 5 * copied > 3 * all.len());
        }
    }

    #[test]
    fn refusals() {
        assert!(is_refusal("  I'm sorry, but"));
        assert!(!is_refusal("The clerk said: I'm sorry"));
    }
}
