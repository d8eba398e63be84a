//! Lines, n-grams, and what is told by them.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::words::{Words, words};

/// Words, and lines that are not blank.
pub(crate) fn count(text: &str) -> (usize, usize) {
    (Words::of(text).count(), filled_lines(text))
}

/// Words of a run.
const RUN: usize = 8;

/// The hash of a run is a polynomial of its words' hashes at this point.
const POINT: u64 = 0x9e37_79b9_7f4a_7c15;

/// A byte in each of the eight of a word, times this, is that byte in all of them.
pub(crate) const EACH: u64 = 0x0101_0101_0101_0101;

/// What makes a letter of ASCII lower case, and leaves the other characters of a word.
const LOWER: u64 = 0x20 * EACH;

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
pub(crate) fn filled_lines(text: &str) -> usize {
    let starts_filled = |line: &str| line.bytes().next().is_some_and(|b| b.is_ascii_graphic());
    lines(text).filter(|(_, line)| starts_filled(line) || !line.trim().is_empty()).count()
}

/// 64-bit hashes of words, without regard to case.
fn word_hashes(text: &str, words: &[Range<usize>]) -> Vec<u64> {
    words.iter().map(|word| hash_of(text, word)).collect()
}

/// The hash of a word of a text, without regard to case.
fn hash_of(text: &str, word: &Range<usize>) -> u64 {
    let (hash, all) = hash_and_all(text.as_bytes(), word.clone(), LOWER);
    if all & (0x80 * EACH) == 0 {
        return hash;
    }
    let lower: String = text[word.clone()].chars().flat_map(char::to_lowercase).collect();
    word_hash(lower.as_bytes(), 0..lower.len(), 0)
}

/// Eight bytes of a text from a place on, the first one lowest; zeros beyond its end.
#[inline]
pub(crate) fn eight(text: &[u8], at: usize) -> u64 {
    match text[at..].first_chunk() {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => text[at..].iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte)),
    }
}

/// The hash of a word of a text, eight bytes at a time, with these bits set in each eight.
pub(crate) fn word_hash(text: &[u8], word: Range<usize>, set: u64) -> u64 {
    hash_and_all(text, word, set).0
}

/// [`word_hash`], and the bits that any of its eights has.
#[inline]
fn hash_and_all(text: &[u8], word: Range<usize>, set: u64) -> (u64, u64) {
    let (mut hash, mut all, mut at) = (POINT, 0, word.start);
    while at < word.end {
        let (bytes, count) = (eight(text, at) | set, word.end - at);
        let bytes = if count < 8 { bytes & ((1 << (8 * count)) - 1) } else { bytes };
        let wide = u128::from(hash ^ bytes) * u128::from(POINT);
        hash = (wide as u64) ^ ((wide >> 64) as u64);
        all |= bytes;
        at += 8;
    }
    (hash, all)
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
    pub(crate) fn is_copied_in(&self, mut words: Words<'_>) -> bool {
        let (text, total) = (words.text(), words.count().saturating_sub(RUN - 1));
        // Runs that are looked at, and those of them that are the text's own.
        let (mut seen, mut own) = (0, 0);
        // Where in the run before a word of its own was, or else that run's polynomial: all but its last word are known then.
        let (mut guess, mut known) = (RUN - 1, None);
        while seen < total && 5 * own < 2 * total {
            let words = &words.find(seen + RUN)[..seen + RUN];
            let (run, last) = (&words[seen..], &words[seen + RUN - 1]);
            // A word that is not in the source is in none of its runs: most often one look settles up to eight.
            let is_own = |word: &Range<usize>| !self.words.contains(&hash_of(text, word));
            let found = match known {
                Some(_) => is_own(last).then_some(RUN - 1),
                None if is_own(&run[guess]) => Some(guess),
                None => run.iter().rposition(is_own),
            };
            if let Some(at) = found {
                let next = (seen + at + 1).min(total);
                own += next - seen;
                (seen, guess, known) = (next, at, None);
            } else {
                let add = |rolling: u64, word| rolling.wrapping_mul(POINT).wrapping_add(hash_of(text, word));
                let without_first = |rolling: u64| {
                    let oldest = hash_of(text, &words[seen - 1]);
                    rolling.wrapping_sub(oldest.wrapping_mul(POINT.wrapping_pow(RUN as u32 - 1)))
                };
                let rolling = match known {
                    Some(rolling) => add(without_first(rolling), last),
                    None => run.iter().fold(0, add),
                };
                own += usize::from(!self.runs.contains(&run_hash(rolling)));
                (seen, known) = (seen + 1, Some(rolling));
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
    let text = text.trim_start();
    if text.bytes().next().is_some_and(|b| b.is_ascii() && !b"aAiI".contains(&b)) {
        return false;
    }
    let start: String = text.chars().take(40).flat_map(char::to_lowercase).collect();
    PHRASES.iter().any(|phrase| start.starts_with(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn copied_in(source: &Source, text: &str) -> bool {
        source.is_copied_in(Words::of(text))
    }

    #[test]
    fn copies_are_seen() {
        let source = Source::new("a b c d e f g h i j");
        let copied = |text: &str| copied_in(&source, text);
        assert!(copied("A B c d e f g h") && copied("x a b c d e f g h i j"));
        assert!(!copied("a b c d e f g h x") && !copied("a b c") && !copied(""));
        assert!(!copied("b a c d e f g h"));
        // 13 runs of the source among 21, and among 22.
        let words = |from: u32, to: u32| (from..to).map(|i| format!("w{i} ")).collect::<String>();
        let long = Source::new(&words(0, 20));
        assert!(copied_in(&long, &words(0, 28)) && !copied_in(&long, &words(0, 29)));
        // Beside letters that are not ASCII, the same words are the same runs.
        assert!(copied("a b c d e f g h i é"));
    }

    proptest! {
        #[test]
        fn lines_and_words_are_found(text in "[azAZ09@`/:\\[{ .,'\\-\n\t\r\u{b}_]{0,80}") {
            prop_assert_eq!(count(&text).1, text.lines().filter(|line| !line.trim().is_empty()).count());
            // Beside letters that are not ASCII, the same words have the same hashes.
            let (own, wide) = (words(&text), format!("{text} é"));
            prop_assert_eq!(word_hashes(&text, &own), word_hashes(&wide, &words(&wide)[..own.len()]));
        }

        /// The definition: the share of hashes of runs that are among those of the source.
        #[test]
        fn copies_are_counted(source in "([a-dA-D] ){0,40}", text in "([a-e] ){0,40}") {
            let runs_of = |text: &str| runs(&word_hashes(text, &words(text)), RUN);
            let (theirs, all) = (runs_of(&source), runs_of(&text));
            let copied = all.iter().filter(|run| theirs.contains(run)).count();
            prop_assert_eq!(copied_in(&Source::new(&source), &text), 5 * copied > 3 * all.len());
        }
    }

    #[test]
    fn refusals() {
        assert!(is_refusal("  I'm sorry, but"));
        assert!(!is_refusal("The clerk said: I'm sorry"));
    }
}
