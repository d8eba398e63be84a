//! Answers of no worth get next to nothing: means over 100 instances a cell, against the bounds of the suite.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // the table is its output

use cov_eval::{InstanceKey, Intake, Split, TaskConfig, TaskId, task};
use rayon::prelude::*;

/// The highest mean that a null may reach.
fn bound(id: TaskId, null: &str) -> f64 {
    let column = match id {
        TaskId::Fsm => 0,
        TaskId::KvDict => 1,
        TaskId::ParaOrder => 2,
        TaskId::SalesReport => 3,
        TaskId::KgBio => 4,
        TaskId::ApNews => 5,
        TaskId::CodeFix => 6,
    };
    let row = match null {
        "empty" | "blank" | "refusal" => [0.0; 7],
        "prompt" | "material" => [0.02, 0.0, 0.15, 0.0, 0.02, 0.0, 0.0],
        "constant" => [0.02, 0.0, 0.15, 0.05, 0.05, 0.02, 0.02],
        "random" => [0.05, 0.05, 0.13, 0.05, 0.10, 0.05, 0.12],
        "cheat" | "dump" | "lines" | "both" => [0.05, 0.30, 0.20, 0.10, 0.15, 0.05, 0.12],
        other => panic!("no bound for {other}"),
    };
    row[column]
}

#[test]
fn nulls_stay_under_their_bounds() {
    check(&[1024]);
}

/// `cargo test -p cov-eval --release -- --ignored`
#[test]
#[ignore = "minutes"]
fn long_nulls_stay_under_their_bounds() {
    check(&[8192]);
}

fn check(lengths: &[u32]) {
    println!("{:<11} {:>6} {:>2}  {:<9} {:>7} {:>6}", "task", "length", "d", "null", "mean", "bound");
    let mut over = Vec::new();
    for &id in TaskId::ALL {
        for &length in lengths {
            for difficulty in 0..=3 {
                let one = |index: u64| {
                    let version = task(id).version();
                    let key = InstanceKey {
                        task: id,
                        version,
                        split: Split::Val,
                        length,
                        difficulty,
                        base_seed: 5,
                        index,
                    };
                    let instance = task(id).generate(&key, &TaskConfig::default()).unwrap();
                    let nulls = task(id).nulls(&instance);
                    let score = |(name, text): (&'static str, String)| {
                        (name, task(id).verify(&instance, &Intake::from(text.as_str())).score)
                    };
                    nulls.into_iter().map(score).collect::<Vec<_>>()
                };
                let scores: Vec<Vec<(&str, f64)>> = (0..100u64).into_par_iter().map(one).collect();
                for (i, &(name, _)) in scores[0].iter().enumerate() {
                    let mean = scores.iter().map(|s| s[i].1).sum::<f64>() / 100.0;
                    let bound = bound(id, name);
                    println!("{id:<11} {length:>6} {difficulty:>2}  {name:<9} {mean:>7.4} {bound:>6.3}");
                    if mean > bound {
                        over.push(format!("{id} {length} d{difficulty} {name}: {mean} over {bound}"));
                    }
                }
            }
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}
