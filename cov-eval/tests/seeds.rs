//! Keys are instances: no two indices, seeds or splits make the same one.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // the collisions are its output

use cov_eval::{InstanceKey, Split, TaskConfig, TaskId, task};
use rayon::prelude::*;

/// Content hashes, sorted.
fn hashes(id: TaskId, split: Split, length: u32, difficulty: u8, count: u64) -> Vec<String> {
    let version = task(id).version();
    let made = |index| {
        let key = InstanceKey { task: id, version, split, length, difficulty, base_seed: 11, index };
        task(id).generate(&key, &TaskConfig::default()).unwrap().content_hash
    };
    let mut hashes: Vec<String> = (0..count).into_par_iter().map(made).collect();
    hashes.sort_unstable();
    hashes
}

/// Of the smallest instances of each task, no two of a split are the same but for one in a thousand, and no two of different
/// splits at all.
fn check_splits(count: u64) {
    for &id in TaskId::ALL {
        let mut all: Vec<(String, Split)> = Vec::new();
        for &split in Split::ALL {
            let mut own = hashes(id, split, 256, 0, count);
            own.dedup();
            let collisions = count - own.len() as u64;
            println!("{id} {split}: {collisions} of {count} the same");
            assert!(1000 * collisions < count, "{id} {split}: {collisions} of {count}");
            all.extend(own.into_iter().map(|hash| (hash, split)));
        }
        all.sort_unstable();
        for pair in all.windows(2) {
            assert_ne!(pair[0].0, pair[1].0, "{id}: the same in {} and {}", pair[0].1, pair[1].1);
        }
    }
}

#[test]
fn splits_are_disjoint() {
    check_splits(1200);
}

/// `cargo test -p cov-eval --release --test seeds -- --ignored`
#[test]
#[ignore = "minutes"]
fn long_splits_are_disjoint() {
    check_splits(20_000);
}

#[test]
#[ignore = "an hour of processor time"]
fn long_cells_have_no_instance_twice() {
    for &id in TaskId::ALL {
        for length in [256, 1024, 8192] {
            for difficulty in 0..=3 {
                let mut own = hashes(id, Split::Train, length, difficulty, 10_000);
                own.dedup();
                let collisions = 10_000 - own.len();
                println!("{id} {length} difficulty {difficulty}: {collisions} of 10000 the same");
                let allowed = if difficulty == 0 { 9 } else { 0 };
                assert!(collisions <= allowed, "{id} {length} difficulty {difficulty}: {collisions}");
            }
        }
    }
}

/// Keys one seed on and one index back name other instances.
#[test]
fn seeds_and_indices_do_not_alias() {
    for &id in TaskId::ALL {
        let version = task(id).version();
        for index in 1..40 {
            let made = |base_seed, index| {
                let split = Split::Test;
                let key =
                    InstanceKey { task: id, version, split, length: 256, difficulty: 0, base_seed, index };
                task(id).generate(&key, &TaskConfig::default()).unwrap().content_hash
            };
            assert_ne!(made(11, index), made(12, index - 1), "{id} {index}");
        }
    }
}
