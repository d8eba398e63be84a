//! How much a text is of other scripts than it should be, and how sure that is.

use std::fmt;

use crate::error::{Error, Result};
use crate::family::{FamilySet, Taxonomy};
use crate::table::{FamilyTable, View};
use crate::utf8::Pending;
use crate::vocab::Kind;

/// A count of a total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Those that are counted.
    pub count: u64,
    /// All.
    pub total: u64,
}

impl Rate {
    /// The share; `None` of nothing.
    pub fn value(&self) -> Option<f64> {
        (self.total > 0).then(|| self.count as f64 / self.total as f64)
    }

    /// Wilson's interval of 95 %; `None` of nothing.
    pub fn interval(&self) -> Option<[f64; 2]> {
        const Z: f64 = 1.959_963_984_540_054;
        let (p, n) = (self.value()?, self.total as f64);
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        // At the ends the formula is exact, its rounding is not.
        let low = if self.count == 0 { 0.0 } else { middle - half };
        let high = if self.count == self.total { 1.0 } else { middle + half };
        Some([low, high])
    }

    /// Counts one more.
    pub fn add(&mut self, counted: bool) {
        self.count += u64::from(counted);
        self.total += 1;
    }
}

/// In percent, with its interval: `12.00 % [9.17, 15.55]`; `n/a` of nothing.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value(), self.interval()) {
            (Some(p), Some([low, high])) => {
                f.pad(&format!("{:.2} % [{:.2}, {:.2}]", 100.0 * p, 100.0 * low, 100.0 * high))
            }
            _ => f.pad("n/a"),
        }
    }
}

/// McNemar's exact two-sided test of paired outcomes, such as a response with and without a gate: the probability of pairs as
/// uneven as these under no difference. 1 where no pair differs.
pub fn mcnemar(pairs: impl IntoIterator<Item = (bool, bool)>) -> f64 {
    let (mut first, mut second) = (0u64, 0u64);
    for (a, b) in pairs {
        first += u64::from(a && !b);
        second += u64::from(b && !a);
    }
    let n = first + second;
    // ln of 2⁻ⁿ·C(n, k), summed over k up to the smaller count.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=first.min(second) {
        tail += log_term.exp();
        log_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// A 95 % interval of the mean of paired differences, by resampling prompts `rounds` times; `None` of nothing.
pub fn paired_bootstrap(differences: &[f64], rounds: u32, seed: u64) -> Option<[f64; 2]> {
    let n = u32::try_from(differences.len()).ok().filter(|n| *n > 0)?;
    let mean = |round: u32| {
        let noise = crate::Noise { seed, sequence: 0, position: round };
        let pick = |i: u32| (u64::from(noise.bits(i / 4)[i as usize % 4]) * u64::from(n)) >> 32;
        (0..n).map(|i| differences[pick(i) as usize]).sum::<f64>() / f64::from(n)
    };
    let mut means: Vec<f64> = (0..rounds.max(1)).map(mean).collect();
    means.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| means[(share * (means.len() - 1) as f64).round() as usize];
    Some([at(0.025), at(0.975)])
}

/// The scripts of a language, by ISO 639-1 code.
const SCRIPTS: &[(&str, &[&str])] = &[
    ("ja", &["Han", "Hiragana", "Katakana"]),
    ("zh", &["Han"]),
    ("ko", &["Hangul"]),
    ("sr", &["Cyrillic", "Latin"]),
    ("ru", &["Cyrillic"]),
    ("uk", &["Cyrillic"]),
    ("be", &["Cyrillic"]),
    ("bg", &["Cyrillic"]),
    ("mk", &["Cyrillic"]),
    ("kk", &["Cyrillic"]),
    ("mn", &["Cyrillic"]),
    ("el", &["Greek"]),
    ("ar", &["Arabic"]),
    ("fa", &["Arabic"]),
    ("ur", &["Arabic"]),
    ("he", &["Hebrew"]),
    ("hi", &["Devanagari"]),
    ("mr", &["Devanagari"]),
    ("ne", &["Devanagari"]),
    ("bn", &["Bengali"]),
    ("ta", &["Tamil"]),
    ("te", &["Telugu"]),
    ("th", &["Thai"]),
    ("lo", &["Lao"]),
    ("km", &["Khmer"]),
    ("my", &["Myanmar"]),
    ("hy", &["Armenian"]),
    ("ka", &["Georgian"]),
    ("am", &["Ethiopic"]),
    ("en", &["Latin"]),
    ("fr", &["Latin"]),
    ("de", &["Latin"]),
    ("es", &["Latin"]),
    ("pt", &["Latin"]),
    ("it", &["Latin"]),
    ("nl", &["Latin"]),
    ("pl", &["Latin"]),
    ("tr", &["Latin"]),
    ("vi", &["Latin"]),
    ("id", &["Latin"]),
];

/// The families that a language is written in.
///
/// # Errors
/// [`Error::UnknownLanguage`] for a code that the table lacks.
pub fn expected_families(taxonomy: &Taxonomy, language: &str) -> Result<FamilySet> {
    let unknown = || Error::UnknownLanguage { language: language.to_owned() };
    let (_, scripts) = SCRIPTS.iter().find(|(code, _)| *code == language).ok_or_else(unknown)?;
    Ok(scripts.iter().filter_map(|name| taxonomy.family_of_script(name)).collect())
}

/// Letters by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Letters(pub [u64; 32]);

impl Letters {
    /// Counts the characters of a text that are of a family other than symbols.
    pub fn of(taxonomy: &Taxonomy, text: &str) -> Self {
        let mut letters = Self::default();
        for family in text.chars().flat_map(|c| taxonomy.letter(c).iter()) {
            letters.0[family] += 1;
        }
        letters
    }

    /// Those of no expected family, of all: the code-point confusion rate. Add up the counts of many texts for its micro
    /// average.
    pub fn foreign(&self, expected: FamilySet) -> Rate {
        let sum = |keep: &dyn Fn(usize) -> bool| (0..32).filter(|f| keep(*f)).map(|f| self.0[f]).sum();
        Rate { count: sum(&|f| !expected.contains(f)), total: sum(&|_| true) }
    }

    /// The families that occur.
    pub fn families(&self) -> FamilySet {
        (0..32).filter(|f| self.0[*f] > 0).collect()
    }

    /// Adds the counts of another text.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }
}

/// Responses of one expectation, and what scripts they hold: a row of the confusion matrix, and rates of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptConfusion {
    /// Letters of all responses.
    pub letters: Letters,
    /// Responses with a letter of each family.
    pub with: [u64; 32],
    /// Responses with a letter that is not expected.
    pub confused: Rate,
}

impl ScriptConfusion {
    /// Adds a response, without what [`strip_code`] takes off if that is wanted.
    pub fn add(&mut self, taxonomy: &Taxonomy, expected: FamilySet, response: &str) {
        let letters = Letters::of(taxonomy, response);
        letters.families().iter().for_each(|f| self.with[f] += 1);
        self.confused.add(!letters.families().without(expected).is_empty());
        self.letters.add(&letters);
    }

    /// The share of responses with a letter of `family`.
    pub fn rate(&self, family: usize) -> Rate {
        Rate { count: self.with[family], total: self.confused.total }
    }
}

/// Places where a text leaves what it was written in: letters of no expected family that differ from the letter before.
pub fn switches(taxonomy: &Taxonomy, expected: FamilySet, text: &str) -> u64 {
    let (mut last, mut count) = (FamilySet::EMPTY, 0);
    for letter in text.chars().map(|c| taxonomy.letter(c)).filter(|l| !l.is_empty()) {
        count += u64::from(letter != last && !letter.meets(expected));
        last = letter;
    }
    count
}

/// A letter of no expected family that differs from the letter before it: where a response leaves what it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The place of the token that the letter begins in.
    pub token: usize,
    /// The letter's family.
    pub family: usize,
    /// Whether the token before that is one of symbols alone, such as a space or a bracket: a way in that the rules leave open,
    /// since the model is committed behind it.
    pub after_symbol: bool,
}

/// The entries of a response, token by token; letters that tokens share count where they begin.
///
/// # Errors
/// [`Error::TokenOutOfRange`].
pub fn entries(table: &FamilyTable, expected: FamilySet, tokens: &[u32]) -> Result<Vec<Entry>> {
    let (vocabulary, taxonomy) = (table.vocabulary(), table.taxonomy());
    let (mut pending, mut begun, mut last) = (Pending::default(), 0, FamilySet::EMPTY);
    // Whether each token is text without a part of a letter.
    let mut symbols = Vec::with_capacity(tokens.len());
    let mut entries = Vec::new();
    for (place, token) in tokens.iter().enumerate() {
        let at = *token as usize;
        if at >= vocabulary.len() {
            return Err(Error::TokenOutOfRange { token: *token, vocab_size: vocabulary.len() });
        }
        let is_text = matches!(vocabulary.kind(at), Kind::Text | Kind::InvalidByte);
        symbols.push(is_text);
        if !is_text {
            pending = Pending::default();
            continue;
        }
        for byte in vocabulary.bytes(at) {
            let finished = pending.push(*byte);
            if pending.bytes().len() == 1 || finished.is_some_and(|c| c.is_ascii()) {
                begun = place;
            }
            let letter = finished.map_or(FamilySet::EMPTY, |c| taxonomy.letter(c));
            let Some(family) = letter.iter().next() else { continue };
            symbols[begun..=place].fill(false);
            if letter != last && !letter.meets(expected) {
                let after_symbol = begun.checked_sub(1).is_some_and(|before| symbols[before]);
                entries.push(Entry { token: begun, family, after_symbol });
            }
            last = letter;
        }
    }
    Ok(entries)
}

/// A text without fenced code, inline code, URLs and LaTeX, where Latin letters are legitimate in any language. Spans that never
/// close stay.
pub fn strip_code(text: &str) -> String {
    const SPANS: [(&str, &str); 6] =
        [("```", "```"), ("$$", "$$"), ("`", "`"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")];
    let (mut rest, mut kept) = (text, String::with_capacity(text.len()));
    'text: while let Some(c) = rest.chars().next() {
        for (open, close) in SPANS {
            let inside = rest.strip_prefix(open).filter(|inside| !inside.is_empty());
            let Some(end) = inside.and_then(|inside| inside.find(close)) else { continue };
            // Inline spans stay on their line: two prices are no formula.
            let whole = &rest[..open.len() + end + close.len()];
            if open.len() == 1 && whole.contains('\n') {
                continue;
            }
            kept.push(' ');
            rest = &rest[whole.len()..];
            continue 'text;
        }
        if ["https://", "http://", "www."].iter().any(|start| rest.starts_with(start)) {
            rest = rest.find(char::is_whitespace).map_or("", |end| &rest[end..]);
            continue;
        }
        kept.push(c);
        rest = &rest[c.len_utf8()..];
    }
    kept
}

/// The share of annotated legitimate switches that a gate leaves possible: families of tokens there, what was denied, and the token
/// of the reference. To be reported beside every confusion: a gate that forbids everything has none.
pub fn keep_rate<'a>(switches: impl IntoIterator<Item = (View<'a>, FamilySet, u32)>) -> Rate {
    let mut rate = Rate::default();
    switches.into_iter().for_each(|(view, denied, token)| rate.add(!view.denies(denied, token as usize)));
    rate
}
