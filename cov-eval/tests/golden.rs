//! The instances of a version never change, and neither do words and sentences. `COV_EVAL_BLESS=1` writes the file of hashes anew,
//! after a version was raised.

#![allow(clippy::unwrap_used)]

use std::ops::Range;

use cov_eval::{InstanceKey, Split, TaskConfig, TaskId, length_score, sentences, task, words};

/// Lines of a text and the pieces that it has.
fn check_pieces(lines: &str, pieces: impl Fn(&str) -> Vec<Range<usize>>) {
    assert!(lines.lines().count() >= 60);
    for line in lines.lines() {
        let case: Vec<String> = serde_json::from_str(line).unwrap();
        let found: Vec<&str> = pieces(&case[0]).into_iter().map(|range| &case[0][range]).collect();
        assert_eq!(found, case[1..], "{:?}", case[0]);
    }
}

#[test]
fn words_and_sentences() {
    check_pieces(include_str!("golden/words.jsonl"), words);
    check_pieces(include_str!("golden/sentences.jsonl"), sentences);
}

#[test]
fn content_hashes() {
    let mut text = String::new();
    for &id in TaskId::ALL {
        for length in [1024, 2048, 4096, 8192] {
            for difficulty in 0..=3 {
                for index in 0..3 {
                    let version = task(id).version();
                    let key = InstanceKey {
                        task: id,
                        version,
                        split: Split::Test,
                        length,
                        difficulty,
                        base_seed: 0,
                        index,
                    };
                    let instance = task(id).generate(&key, &TaskConfig::default()).unwrap();
                    text.push_str(&format!("{} {}\n", instance.content_hash, instance.id));
                }
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/hashes.txt");
    if std::env::var_os("COV_EVAL_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (found, expected) in text.lines().zip(golden.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}

/// An oracle of a prose task has the length that is asked for.
#[test]
fn oracles_have_their_length() {
    for length in [1024, 2048, 4096, 8192] {
        for index in 0..50 {
            let id = TaskId::ParaOrder;
            let version = task(id).version();
            let key = InstanceKey {
                task: id,
                version,
                split: Split::Test,
                length,
                difficulty: 1,
                base_seed: 1,
                index,
            };
            let instance = task(id).generate(&key, &TaskConfig::default()).unwrap();
            let target = cov_eval::target_words(length);
            let found = words(&task(id).oracle(&instance)).len() as f64 / f64::from(target);
            // The tags are words too.
            assert!((found - 1.0).abs() < 0.05, "{}: {found}", instance.id);
            assert_eq!(length_score((found * f64::from(target)) as usize, target), 1.0);
        }
    }
}
