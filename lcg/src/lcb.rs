//! Pass rates of the Language Confusion Benchmark (Marchisio et al., arXiv 2406.20052), by its own rules.

use std::collections::{BTreeMap, HashSet};

use crate::family::Taxonomy;
use crate::metrics::Letters;

/// Languages for which words are searched too.
const WORD_LANGUAGES: [&str; 6] = ["ar", "hi", "ja", "ko", "ru", "zh"];
const LEAST_WORDS: usize = 5;
const LEAST_SCORE: f64 = 0.3;

/// Names the language of a line. Rates of different identifiers do not compare: give its name with them.
pub trait LanguageId {
    /// The identifier's name.
    fn name(&self) -> &str;
    /// ISO 639-1 code, or `unknown`, and a score from 0 to 1.
    fn identify(&self, line: &str) -> (String, f64);
}

/// Decides the languages that own a script by the share of its letters, and takes Arabic, Devanagari and Cyrillic for `ar`, `hi`
/// and `ru`. Latin is `unknown`: letters do not tell.
#[derive(Clone, Debug)]
pub struct ScriptLid(Taxonomy);

impl Default for ScriptLid {
    fn default() -> Self {
        Self(Taxonomy::script16())
    }
}

impl LanguageId for ScriptLid {
    fn name(&self) -> &str {
        "script"
    }

    fn identify(&self, line: &str) -> (String, f64) {
        let letters = Letters::of(&self.0, line).0;
        let total: u64 = letters.iter().sum();
        let count = |name: &str| self.0.family(name).map_or(0, |f| letters[f]);
        let (han, kana) = (count("han"), count("kana"));
        let candidates = [
            // A tenth of kana is Japanese; Chinese has none.
            ("ja", if 10 * kana >= han + kana { han + kana } else { 0 }),
            ("zh", if 10 * kana < han + kana { han } else { 0 }),
            ("ko", count("hangul")),
            ("ru", count("cyrillic")),
            ("el", count("greek")),
            ("ar", count("arabic")),
            ("he", count("hebrew")),
            ("hi", count("devanagari")),
            ("th", count("thai")),
            ("unknown", count("latin")),
        ];
        let best = candidates.iter().fold(("unknown", 0), |best, c| if c.1 > best.1 { *c } else { best });
        (best.0.to_owned(), if total == 0 { 0.0 } else { best.1 as f64 / total as f64 })
    }
}

/// The rates of one set of responses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PassRates {
    /// Responses with a line of five words.
    pub responses: usize,
    /// Of those, the ones with a line in another language.
    pub line_errors: usize,
    /// Of those without, the ones with an English word; `None` for languages that are not searched.
    pub word_errors: Option<usize>,
    /// Mean share of right lines.
    pub line_accuracy: Option<f64>,
}

impl PassRates {
    /// Line pass rate: responses without a wrong line. 1 of nothing, as the benchmark has it.
    pub fn lpr(&self) -> f64 {
        1.0 - self.line_errors as f64 / self.responses.max(1) as f64
    }

    /// Word pass rate, of responses without a wrong line.
    pub fn wpr(&self) -> Option<f64> {
        let right = (self.responses - self.line_errors).max(1) as f64;
        self.word_errors.map(|errors| 1.0 - errors as f64 / right)
    }

    /// Harmonic mean of both.
    pub fn lcpr(&self) -> Option<f64> {
        let (lpr, wpr) = (self.lpr(), self.wpr()?);
        Some(if lpr + wpr == 0.0 { 0.0 } else { 2.0 * lpr * wpr / (lpr + wpr) })
    }
}

/// Cuts at the first `Q:` on a new line, trims, and drops ASCII punctuation.
pub fn normalise(response: &str) -> String {
    let end = response.find("\nQ:").unwrap_or(response.len());
    let keep = |c: char| match c {
        '—' => Some(' '),
        '،' => None,
        c if c.is_ascii_punctuation() => None,
        c => Some(c),
    };
    response[..end].trim().chars().filter_map(keep).collect()
}

/// Splits at white space: the words of a line in all languages but Chinese and Japanese, which need a segmenter.
pub fn split_words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The rates of responses in which `language` is expected. `words` cuts a line into words; `english` are the words that count as
/// errors (the benchmark's list has lower-case words of more than three letters).
pub fn pass_rates<S: AsRef<str>>(
    responses: &[S],
    language: &str,
    identifier: &dyn LanguageId,
    words: &dyn Fn(&str) -> Vec<String>,
    english: &HashSet<String>,
) -> PassRates {
    let searched = WORD_LANGUAGES.contains(&language);
    let mut rates =
        PassRates { responses: 0, line_errors: 0, word_errors: searched.then_some(0), line_accuracy: None };
    let mut accuracy = 0.0;
    for response in responses {
        let text = normalise(response.as_ref());
        let lines: Vec<(&str, Vec<String>)> = text
            .split('\n')
            .map(|line| (line, words(line)))
            .filter(|(_, w)| w.len() >= LEAST_WORDS)
            .collect();
        if lines.is_empty() {
            continue;
        }
        rates.responses += 1;
        let right = |(line, _): &&(&str, Vec<String>)| {
            let (label, score) = identifier.identify(line);
            label == language && score > LEAST_SCORE
        };
        let right = lines.iter().filter(right).count();
        accuracy += right as f64 / lines.len() as f64;
        if right < lines.len() {
            rates.line_errors += 1;
        } else if let Some(errors) = &mut rates.word_errors {
            let is_english = |word: &String| {
                let word = word.trim();
                word.chars().count() > 3 && word.chars().all(char::is_lowercase) && english.contains(word)
            };
            *errors += usize::from(lines.iter().flat_map(|(_, words)| words).any(is_english));
        }
    }
    rates.line_accuracy = (rates.responses > 0).then(|| accuracy / rates.responses as f64);
    rates
}

/// Averages of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Averages {
    /// Of line pass rates; `None` of no cell.
    pub lpr: Option<f64>,
    /// Of word pass rates; `None` where no language has one.
    pub wpr: Option<f64>,
}

/// Averages of cells `(language, rates)`, one for each language of each source of prompts: over the sources of a language, then over
/// languages. Languages whose words are not searched have no part in the second.
pub fn averages<S: AsRef<str>>(cells: &[(S, PassRates)]) -> Averages {
    let average = |rate: &dyn Fn(&PassRates) -> Option<f64>| {
        let mut languages: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (language, rates) in cells {
            if let Some(rate) = rate(rates) {
                languages.entry(language.as_ref()).or_default().push(rate);
            }
        }
        let mean = |rates: Vec<f64>| rates.iter().sum::<f64>() / rates.len() as f64;
        let of_languages: Vec<f64> = languages.into_values().map(mean).collect();
        (!of_languages.is_empty()).then(|| mean(of_languages))
    };
    Averages { lpr: average(&|rates| Some(rates.lpr())), wpr: average(&PassRates::wpr) }
}
