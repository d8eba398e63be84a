//! The benchmark of reward models.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;
use toolrm::bench::{
    Answer, Answers, BenchPair, BuildOptions, Level, ModelResult, averages, build_pairs, score_generative,
    score_scalar, wilson,
};
use toolrm::bfcl::{EntryReader, NamePolicy};
use toolrm::{Format, Mode, ParseFail, parse};

/// Pairs of each split of the published benchmark.
const SPLITS: [u64; 9] = [137, 71, 301, 390, 212, 1283, 34, 60, 495];

#[test]
fn published_rows_give_published_averages() {
    let of = |rows: [f64; 9]| {
        let (avg, w_avg) = averages(rows.into_iter().zip(SPLITS).collect::<Vec<_>>());
        (format!("{avg:.2}"), format!("{w_avg:.2}"))
    };
    let first = [83.21, 80.28, 90.03, 92.56, 71.23, 66.02, 94.12, 88.33, 52.12];
    let second = [84.67, 84.51, 94.02, 90.00, 72.17, 73.97, 100.00, 80.00, 64.85];
    assert_eq!(of(first), ("79.77".into(), "71.87".into()));
    assert_eq!(of(second), ("82.69".into(), "77.61".into()));
    assert_eq!(SPLITS.iter().sum::<u64>(), 2983);
}

#[test]
fn intervals_are_those_of_wilson() {
    // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for (right, total, low, high) in
        [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    {
        let (a, b) = wilson(right, total);
        assert!((a - low).abs() < 5e-5 && (b - high).abs() < 5e-5, "{right} of {total}: {a} to {b}");
    }
    assert_eq!(wilson(0, 0), (0.0, 1.0));
}

fn bench(n: usize) -> Vec<BenchPair> {
    (0..n)
        .map(|i| BenchPair {
            id: format!("p{i}"),
            split: ["simple", "multiple", "parallel"][i % 3].into(),
            error_type: ["a", "b"][i % 2].into(),
            intensity: (i % 7) as f64 / 7.0,
            complexity: (i % 5) as u64,
        })
        .collect()
}

fn answer(choice: Option<u64>) -> Option<Answer> {
    let level = if choice.is_some() { Level::Strict } else { Level::Failed };
    Some(Answer { choice, level, tokens: Some(10) })
}

fn judge(pairs: &[BenchPair], f: impl Fn(usize, usize) -> Option<u64>) -> HashMap<&str, Answers> {
    let both = |i| [answer(f(i, 0)), answer(f(i, 1))];
    pairs.iter().enumerate().map(|(i, p)| (p.id.as_str(), both(i))).collect()
}

#[test]
fn judges_of_known_worth() {
    let pairs = bench(3000);
    let oracle = score_generative(&pairs, &judge(&pairs, |_, order| Some(1 + order as u64)));
    assert_eq!(
        (oracle.averages(), oracle.consistency, oracle.first_share),
        ((1.0, 1.0), Some(1.0), Some(0.5))
    );
    let ones = score_generative(&pairs, &judge(&pairs, |_, _| Some(1)));
    assert_eq!(
        (ones.averages(), ones.per_order, ones.first_share),
        ((0.0, 0.0), [Some(1.0), Some(0.0)], Some(1.0))
    );
    assert_eq!(ones.consistency, Some(0.0));
    let mute = score_generative(&pairs, &judge(&pairs, |_, _| None));
    assert_eq!((mute.all.right, mute.levels[&Level::Failed], mute.first_share), (0, 6000, None));
    // A fair coin.
    let coin = |i: usize, order: usize| {
        let x = (2 * i + order) as u64;
        let x = (x ^ 0x5bf0_3635).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(1 + ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63))
    };
    let coin = score_generative(&pairs, &judge(&pairs, coin));
    let (low, high) = wilson(coin.all.right, coin.all.total);
    assert!(low < coin.chance && coin.chance < high, "{low} to {high}");
    assert_eq!(coin.mean_tokens, Some(10.0));
    let scores: HashMap<&str, (f64, f64)> = pairs.iter().map(|p| (p.id.as_str(), (1.0, 1.0))).collect();
    let equal = score_scalar(&pairs, &scores);
    assert_eq!((equal.all.right, equal.chance), (0, 0.5));
    let scores: HashMap<&str, (f64, f64)> = pairs.iter().map(|p| (p.id.as_str(), (1.0, 0.5))).collect();
    assert_eq!(score_scalar(&pairs, &scores).averages(), (1.0, 1.0));
    let text = oracle.to_markdown(true);
    assert!(text.contains("(chance 25.00)") && text.contains("one order alone (chance 50.00)"), "{text}");
}

#[test]
fn a_pair_without_both_orders_is_excluded() {
    let pairs = bench(4);
    let mut answers = judge(&pairs, |_, order| Some(1 + order as u64));
    answers.insert("p1", [answer(Some(1)), None]);
    answers.remove("p2");
    let report = score_generative(&pairs, &answers);
    assert_eq!((report.excluded, report.all.total, report.all.right), (2, 2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_files_changes_nothing(choices in prop::collection::vec((prop::option::of(1u64..4), prop::option::of(1u64..4)), 1..60), turn in any::<prop::sample::Index>()) {
        let pairs = bench(choices.len());
        let answers = judge(&pairs, |i, order| if order == 0 { choices[i].0 } else { choices[i].1 });
        let report = score_generative(&pairs, &answers);
        let mut turned = pairs.clone();
        turned.rotate_left(turn.index(pairs.len()));
        prop_assert_eq!(&score_generative(&turned, &answers), &report);
        // Every table adds up to all pairs.
        for table in [&report.splits, &report.error_types, &report.intensity, &report.complexity] {
            prop_assert_eq!(table.values().map(|c| c.total).sum::<u64>(), report.all.total);
            prop_assert_eq!(table.values().map(|c| c.right).sum::<u64>(), report.all.right);
        }
    }
}

#[test]
fn wrong_results_become_pairs() {
    let question = r#"{"id":"multiple_7","question":[[{"role":"user","content":"?"}]],"function":[{"name":"a.b","parameters":{"type":"dict","properties":{"x":{"type":"integer"},"s":{"type":"string"}},"required":["x"]}}]}"#;
    let answer = r#"{"id":"multiple_7","ground_truth":[{"a.b":{"x":[1],"s":["","New York"]}}]}"#;
    let entry = EntryReader::new().entry(question, Some(answer)).unwrap();
    let result = |origin: &str, text: &str| {
        let calls: Result<_, ParseFail> = parse(text, Format::Pythonic, Mode::Bfcl).map(|p| p.calls);
        ModelResult { origin: origin.to_owned(), text: text.to_owned(), calls }
    };
    let results = [
        result("right", "[a_b(x=1)]"),
        result("right too", "[a_b(x=1, s='new-york')]"),
        result("value", "[a_b(x=2)]"),
        result("value again", "[a_b( x = 2 )]"),
        result("another value", "[a_b(x=3)]"),
        result("float", "[a_b(x=1.0)]"),
        result("prose", "I cannot."),
        result("prose too", "I cannot."),
        result("name", "[a.b(x=1)]"),
        result("twice", "[a_b(x=1), a_b(x=1)]"),
    ];
    let options = BuildOptions { names: NamePolicy::DotToUnderscore, cap: None };
    let built = build_pairs(&entry, "multiple", &results, &options);
    let of: Vec<(&str, &str)> = built
        .pairs
        .iter()
        .map(|p| {
            (p.rejected.origin.as_str(), p.meta.get("error_type").and_then(toolrm::Val::as_str).unwrap())
        })
        .collect();
    let value = "value_error:others";
    let want = [
        ("value", value),
        ("another value", value),
        ("prose", "ast_decoder:decoder_failed"),
        ("twice", "multiple_function_checker:wrong_count"),
    ];
    assert_eq!(of, want);
    assert_eq!(built.dropped["valid"], 2);
    // As values 1.0 and 1 are equal, and the dotted name is the tool's own.
    assert_eq!((built.dropped["equal_to_gold"], built.dropped["repeated"]), (2, 2));
    let sides = built.pairs.iter().flat_map(|p| [&p.chosen, &p.rejected]).filter_map(|r| r.calls.as_ref());
    assert!(sides.flatten().all(|c| c.name == "a.b"), "no side spells names otherwise");
    let capped = build_pairs(&entry, "multiple", &results, &BuildOptions { cap: Some(1), ..options });
    assert_eq!((capped.pairs.len(), capped.dropped["beyond_cap"]), (3, 1));
}
