//! Metrics: section 15, its quirks and its numbers.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;

use lcg::lcb::{Averages, LanguageId, PassRates, ScriptLid, averages, normalise, pass_rates, split_words};
use lcg::metrics::{
    Letters, Rate, ScriptConfusion, entries, expected_families, mcnemar, paired_bootstrap, strip_code,
    switches,
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
    // As they are printed.
    assert_eq!(format!("{}", Rate { count: 48, total: 400 }), "12.00 % [9.17, 15.55]");
    assert_eq!(format!("{:<5}|", Rate::default()), "n/a  |");
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
fn entries_into_other_scripts() {
    // 0 а, 1 a space, 2 " yes", 3 (, 4 中 and the first byte of 文, 5 the rest of it, 6 and 7 the bytes of é, 8 a broken start.
    let texts: [&[u8]; 9] = [
        "а".as_bytes(),
        b" ",
        b" yes",
        b"(",
        &[0xE4, 0xB8, 0xAD, 0xE6],
        &[0x96, 0x87],
        &[0xC3],
        &[0xA9],
        &[0xE4, 0xB8],
    ];
    let table = common::of_bytes(Taxonomy::script16(), texts.map(<[u8]>::to_vec));
    let expected = expected_families(table.taxonomy(), "ru").unwrap();
    let of = |tokens: &[u32]| -> Vec<(usize, &str, bool)> {
        let entries = entries(&table, expected, tokens).unwrap();
        entries.iter().map(|e| (e.token, table.taxonomy().name(e.family), e.after_symbol)).collect()
    };
    // A space within the token is not a token of symbols before it; a second letter of a family is no entry.
    assert_eq!(of(&[0, 2, 2]), [(1, "latin", false)]);
    assert_eq!(of(&[0, 1, 2]), [(2, "latin", true)]);
    // A letter counts where it begins: in token 4, behind a bracket. The one over two tokens goes on with its family.
    assert_eq!(of(&[0, 3, 4, 5, 0, 4, 5]), [(2, "han", true), (5, "han", false)]);
    // Bytes of a letter are no symbols, wherever it ends.
    assert_eq!(of(&[0, 1, 6, 7, 4, 5]), [(2, "latin", true), (4, "han", false)]);
    // What never becomes a letter is none, and the first of a response is behind nothing.
    assert_eq!(of(&[8, 2]), [(1, "latin", true)]);
    assert_eq!(of(&[2]), [(0, "latin", false)]);
    assert!(entries(&table, expected, &[9]).unwrap_err().to_string().contains('9'));
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

// Property 33: the benchmark's quirks, one by one.

#[test]
fn an_empty_set_passes() {
    let none = rates(&[], "ar");
    assert_eq!((none.responses, none.lpr(), none.wpr(), none.line_accuracy), (0, 1.0, Some(1.0), None));
}

#[test]
fn responses_are_cut_trimmed_and_lose_punctuation() {
    let punctuation: String = (0..=127u8).map(char::from).filter(char::is_ascii_punctuation).collect();
    assert_eq!(punctuation.len(), 32);
    assert_eq!(normalise(&format!("a{punctuation}b")), "ab");
    assert_eq!(normalise(" a, b—c، «d»\nQ: e"), "a b c «d»");
    assert_eq!(normalise("Q: a\n Q: b"), "Q a\n Q b", "only after a newline");
    assert_eq!(normalise("a\nQ: b\nQ: c"), "a", "at the first");
}

#[test]
fn lines_below_five_words_are_dropped_and_responses_without_a_line_skipped() {
    let four = rates(&["wrong b c d"], "ar");
    assert_eq!((four.responses, four.line_errors, four.line_accuracy), (0, 0, None));
    let five = rates(&["wrong b c d e", "wrong b c d"], "ar");
    assert_eq!((five.responses, five.line_errors, five.line_accuracy), (1, 1, Some(0.0)));
    // Punctuation makes no word.
    assert_eq!(rates(&["a b c d !"], "ar").responses, 0);
}

#[test]
fn a_line_of_a_low_score_or_an_unknown_language_is_wrong() {
    struct Scored(&'static str, f64);
    impl LanguageId for Scored {
        fn name(&self) -> &'static str {
            "scored"
        }
        fn identify(&self, _: &str) -> (String, f64) {
            (self.0.to_owned(), self.1)
        }
    }
    let errors = |label, score| {
        pass_rates(&["a b c d e"], "ar", &Scored(label, score), &split_words, &HashSet::new()).line_errors
    };
    assert_eq!([errors("ar", 0.31), errors("ar", 0.3), errors("ar", 0.0)], [0, 1, 1]);
    assert_eq!([errors("unknown", 1.0), errors("fa", 1.0)], [1, 1]);
}

#[test]
fn words_are_searched_only_in_responses_without_a_wrong_line() {
    let mixed = rates(&["a b experience d e\nwrong b c d e"], "ar");
    assert_eq!((mixed.line_errors, mixed.word_errors, mixed.wpr()), (1, Some(0), Some(1.0)));
    // Only the words of surviving lines.
    assert_eq!(rates(&["experience\na b c d e"], "ar").word_errors, Some(0));
    assert_eq!(
        rates(&["a b experience d e\nexperience b c d e"], "ar").word_errors,
        Some(1),
        "one a response"
    );
}

#[test]
fn an_english_word_is_lower_case_and_longer_than_three_letters() {
    assert_eq!(
        rates(&["a b Experience d e", "a b the d e", "a b Paris d e", "a b other d e"], "ar").word_errors,
        Some(0)
    );
    assert_eq!(rates(&["a b line d e"], "ar").word_errors, Some(1), "four letters");
}

#[test]
fn words_are_searched_in_six_languages() {
    let searched = |language: &str| rates(&["a b experience d e"], language).word_errors.is_some();
    assert!(["ar", "hi", "ja", "ko", "ru", "zh"].into_iter().all(searched));
    assert!(!["fr", "he", "th", "en", "el", "fa"].into_iter().any(searched));
}

#[test]
fn accuracy_is_the_mean_over_responses() {
    let rates = rates(&["a b c d e\na b c d e\nwrong b c d e", "wrong b c d e"], "ar");
    near(rates.line_accuracy.unwrap(), 2.0 / 3.0 / 2.0, 1e-12);
}

#[test]
fn of_two_rates_of_nothing_the_harmonic_mean_is_nothing() {
    let worst = PassRates { responses: 2, line_errors: 2, word_errors: Some(1), line_accuracy: None };
    assert_eq!((worst.lpr(), worst.wpr(), worst.lcpr()), (0.0, Some(0.0), Some(0.0)));
}

#[test]
fn averages_are_over_sources_then_languages() {
    let cell = |responses, line_errors, word_errors| PassRates {
        responses,
        line_errors,
        word_errors,
        line_accuracy: None,
    };
    let cells = [("ar", cell(10, 5, Some(1))), ("ar", cell(4, 0, Some(1))), ("fr", cell(10, 10, None))];
    let found = averages(&cells);
    // Arabic: (½ + 1)/2 and (⅘ + ¾)/2; French: 0, and no words.
    near(found.lpr.unwrap(), 0.75 / 2.0, 1e-12);
    near(found.wpr.unwrap(), 0.775, 1e-12);
    assert_eq!(averages(&cells[2..]), Averages { lpr: Some(0.0), wpr: None });
    assert_eq!(averages::<&str>(&[]), Averages { lpr: None, wpr: None });
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
