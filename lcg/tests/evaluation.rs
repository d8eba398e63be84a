//! Metrics: section 15, its quirks and its numbers.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use lcg::lcb::{LanguageId, PassRates, ScriptLid, normalise, pass_rates, split_words};
use lcg::metrics::{
    Letters, Rate, ScriptConfusion, expected_families, mcnemar, paired_bootstrap, strip_code, switches,
};
use lcg::{FamilySet, Taxonomy};

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} for {expected}");
}

#[test]
fn intervals() {
    let of = |count, total| Rate { count, total }.interval().unwrap();
    for (count, total, low, high) in [(48, 400, 9.17, 15.55), (2, 400, 0.14, 1.80), (0, 400, 0.0, 0.95)] {
        let [a, b] = of(count, total);
        near(100.0 * a, low, 0.005);
        near(100.0 * b, high, 0.005);
    }
    assert_eq!(of(400, 400)[1], 1.0);
    assert_eq!((Rate::default().value(), Rate::default().interval()), (None, None));
}

#[test]
fn paired_tests() {
    let pairs = |both: usize, first: usize, second: usize| {
        let of = |pair, count| std::iter::repeat_n(pair, count);
        of((true, true), both).chain(of((true, false), first)).chain(of((false, true), second))
    };
    // Two-sided binomial tails: 2·(1 + 10)/2¹⁰ and 2/2⁶.
    near(mcnemar(pairs(50, 9, 1)), 22.0 / 1024.0, 1e-12);
    near(mcnemar(pairs(3, 0, 6)), 2.0 / 64.0, 1e-12);
    assert_eq!(mcnemar(pairs(3, 0, 0)), 1.0);
    assert_eq!(mcnemar(pairs(3, 5, 5)), 1.0);
    assert!(mcnemar(pairs(0, 2000, 0)) < 1e-300);

    let differences: Vec<f64> = (0..400).map(|i| f64::from(i % 5) / 4.0).collect();
    let [low, high] = paired_bootstrap(&differences, 2000, 7).unwrap();
    // Mean ½, standard error √(0.125/400) = 0.0177.
    near(low, 0.5 - 1.96 * 0.01768, 0.004);
    near(high, 0.5 + 1.96 * 0.01768, 0.004);
    assert_eq!(paired_bootstrap(&differences, 2000, 7), Some([low, high]));
    assert_eq!(paired_bootstrap(&[], 10, 7), None);
}

#[test]
fn code_points() {
    let taxonomy = Taxonomy::script16();
    let of = |language: &str| expected_families(&taxonomy, language).unwrap();
    let rate = Letters::of(&taxonomy, "סביר他 fine 42").foreign(of("he"));
    assert_eq!(rate, Rate { count: 5, total: 9 });
    near(rate.value().unwrap(), 0.555555555556, 1e-12);
    assert_eq!(of("ja"), taxonomy.set(&["han", "kana"], "test").unwrap());
    assert_eq!(of("sr"), taxonomy.set(&["latin", "cyrillic"], "test").unwrap());
    assert!(expected_families(&taxonomy, "tlh").unwrap_err().to_string().contains("`tlh`"));
    assert_eq!(Letters::of(&taxonomy, "42 — !").foreign(FamilySet::EMPTY).value(), None);

    let mut row = ScriptConfusion::default();
    for response in ["да", "да 中中", "да ok", "!"] {
        row.add(&taxonomy, of("ru"), response);
    }
    let family = |name| taxonomy.family(name).unwrap();
    assert_eq!(row.confused, Rate { count: 2, total: 4 });
    assert_eq!(row.rate(family("han")), Rate { count: 1, total: 4 });
    assert_eq!(row.rate(family("cyrillic")), Rate { count: 3, total: 4 });
    assert_eq!(row.letters.0[family("han")], 2);
    assert_eq!(row.letters.foreign(of("ru")), Rate { count: 4, total: 10 });
    assert_eq!(switches(&taxonomy, of("ru"), "да 中中 да ok 中"), 3);
}

#[test]
fn code_is_not_confusion() {
    let cases = [
        ("да `let x` да", "да   да"),
        ("да\n```rust\nlet x;\n``` да", "да\n  да"),
        ("$x + y$ и $$\\alpha\nb$$ и \\(a\\) и \\[b\\]", "  и   и   и  "),
        ("см. https://a.b/c?d да", "см.  да"),
        ("www.a.b", ""),
        ("5 $ и\n6 $ да", "5 $ и\n6 $ да"),
        ("` да", "` да"),
    ];
    for (text, expected) in cases {
        assert_eq!(strip_code(text), expected);
    }
}

/// Labels by a mark in the line: `!0.28` is right with that score, `?` is wrong.
struct Marked;

impl LanguageId for Marked {
    fn name(&self) -> &'static str {
        "marked"
    }
    fn identify(&self, line: &str) -> (String, f64) {
        let score = if line.contains("low") { 0.28 } else { 0.9 };
        (if line.contains("wrong") { "en" } else { "ar" }.to_owned(), score)
    }
}

fn rates(responses: &[&str], language: &str) -> PassRates {
    let english =
        ["experience", "the", "Paris", "line"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
    pass_rates(responses, language, &Marked, &split_words, &english)
}

#[test]
fn pass_rates_of_the_specification() {
    let responses = [
        "a b c d e\nf g h i j",
        "a b c d e\nwrong b c d e\na b c d e",
        "a b experience d e",
        "a b c d\na",
        "a b c d e",
        "low b c d e",
    ];
    let found = rates(&responses, "ar");
    assert_eq!((found.responses, found.line_errors, found.word_errors), (5, 2, Some(1)));
    near(found.lpr(), 0.6, 1e-12);
    near(found.wpr().unwrap(), 0.666666666667, 1e-12);
    near(found.lcpr().unwrap(), 0.631578947368, 1e-12);
    near(found.line_accuracy.unwrap(), 0.733333333333, 1e-12);
}

#[test]
fn quirks_of_the_benchmark() {
    let none = rates(&[], "ar");
    assert_eq!((none.lpr(), none.wpr(), none.line_accuracy), (1.0, Some(1.0), None));
    // Only the words of surviving lines are searched.
    assert_eq!(rates(&["experience\na b c d e"], "ar").word_errors, Some(0));
    // A capital, three letters, or a language that is not searched: no error.
    assert_eq!(rates(&["a b Experience d e", "a b the d e", "a b Paris d e"], "ar").word_errors, Some(0));
    assert_eq!(rates(&["a b experience d e"], "fr").word_errors, None);
    // Both rates 0.
    let worst = PassRates { responses: 2, line_errors: 2, word_errors: Some(1), line_accuracy: None };
    assert_eq!((worst.lpr(), worst.wpr(), worst.lcpr()), (0.0, Some(0.0), Some(0.0)));
    assert_eq!(normalise(" a, b—c، «d»\nQ: e"), "a b c «d»");
    assert_eq!(normalise("Q: a\n Q: b"), "Q a\n Q b", "only after a newline");
}

#[test]
fn scripts_that_a_language_owns() {
    let lid = ScriptLid::default();
    let cases = [
        ("ja", "これは日本語の文章です"),
        ("zh", "这是一个中文句子"),
        ("ko", "이것은 한국어 문장입니다"),
        ("ru", "это русское предложение"),
        ("el", "αυτή είναι μια πρόταση"),
        ("ar", "هذه جملة عربية"),
        ("he", "זה משפט בעברית"),
        ("hi", "यह हिंदी वाक्य है"),
        ("th", "นี่คือประโยคภาษาไทย"),
        ("unknown", "this is English"),
        ("unknown", "42"),
    ];
    for (language, text) in cases {
        assert_eq!(lid.identify(text).0, language, "{text}");
    }
    assert_eq!(lid.identify("42").1, 0.0);
    assert_eq!(lid.identify("да ok").1, 0.5);
}
