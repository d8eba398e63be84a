//! Rollouts that run ahead of training: in their order, at most so many steps old, the same after a restart.
#![allow(clippy::unwrap_used)]

use train_core::config::{Config, Layers};
use train_core::metrics::Row;
use train_core::rundir::RunDir;
use train_core::trainer::Trainer;

fn config(staleness: usize, more: &[&str]) -> Config {
    let mut layers = Layers::preset("reverse").unwrap();
    let small = [
        "run.steps=6",
        "model.hidden_size=16",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=8",
        "model.moe_intermediate_size=8",
        "rollout.prompts=6",
        "rollout.group=4",
        "rollout.max_new_tokens=6",
        "data.levels=[2, 3]",
        "data.advance_at=0.001",
        "data.advance_after=2",
        "warm_start.steps=4",
        "eval.every=0",
        "ckpt.every=1",
        "ckpt.keep_last=10",
        "update.lr=0.01",
    ];
    let staleness = format!("rollout.max_staleness={staleness}");
    for set in small.iter().chain([&staleness.as_str()]).chain(more) {
        layers.set(set, "test").unwrap();
    }
    layers.resolve().unwrap()
}

/// All that a step measured but the clock and the memory.
fn measured(row: &Row) -> Vec<(String, u64)> {
    let apart = |name: &str| name.starts_with("time/") || name.starts_with("mem/") || name.contains("per_s");
    row.values().filter(|(name, _)| !apart(name)).map(|(name, v)| (name.to_owned(), v.to_bits())).collect()
}

fn weights(trainer: &Trainer) -> Vec<u32> {
    let values = |p: &qwen3::Parameter| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    trainer.learner.model.parameters().iter().flat_map(values).map(f32::to_bits).collect()
}

fn create(config: Config, dir: &tempfile::TempDir) -> Trainer {
    Trainer::create(config, RunDir::create(dir.path(), "run").unwrap()).unwrap()
}

/// The rows of a whole run and its last weights.
fn run(config: Config) -> (Vec<Row>, Vec<u32>) {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = create(config, &dir);
    let mut rows = Vec::new();
    while !trainer.is_done() {
        rows.push(trainer.step().unwrap().row);
    }
    (rows, weights(&trainer))
}

#[test]
fn batches_are_as_old_as_allowed_and_no_older() {
    let staleness = |most| -> Vec<f64> {
        run(config(most, &[])).0.iter().map(|row| row.get("rollout/staleness").unwrap()).collect()
    };
    assert_eq!(staleness(0), [0.0; 6]);
    assert_eq!(staleness(1), [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(staleness(2), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    assert_eq!(staleness(9), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn only_batches_sampled_ahead_differ_from_those_in_turn() {
    let (in_turn, weights_in_turn) = run(config(0, &[]));
    let (ahead, weights_ahead) = run(config(1, &[]));
    assert_eq!(measured(&in_turn[0]), measured(&ahead[0]));
    assert!(weights_in_turn != weights_ahead);
    for (row, stale) in ahead.iter().zip([false, true, true, true, true, true]) {
        // Under the same weights sampler and trainer agree to the last bit; a step apart they do not.
        assert_eq!(row.get("mismatch/max_abs"), (!stale).then_some(0.0));
        assert_eq!(row.get("stale/max_abs").is_some_and(|gap| gap > 0.0), stale);
    }
}

#[test]
fn a_run_that_was_cut_ends_as_if_it_had_not_been() {
    for more in [&[][..], &["update.routing=\"r3\"", "update.minibatches=2"]] {
        let (whole, expected) = run(config(2, more));
        for cut in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let mut first = create(config(2, more), &dir);
            let mut rows: Vec<Row> = (0..cut).map(|_| first.step().unwrap().row).collect();
            let path = first.dir.path().to_owned();
            drop(first);
            let (mut resumed, _) = Trainer::resume(&path, false).unwrap();
            while !resumed.is_done() {
                rows.push(resumed.step().unwrap().row);
            }
            assert!(weights(&resumed) == expected, "cut after {cut}: the weights differ");
            let all = |rows: &[Row]| rows.iter().map(measured).collect::<Vec<_>>();
            assert_eq!(all(&rows), all(&whole), "cut after {cut}");
        }
    }
}

#[test]
fn images_are_refused() {
    let mut layers = Layers::preset("reverse").unwrap();
    for set in ["model.architecture=\"qwen3_vl\"", "data.task=\"shapes\"", "rollout.max_staleness=1"] {
        layers.set(set, "test").unwrap();
    }
    let error = layers.resolve().unwrap_err().to_string();
    assert!(error.contains("rollout.max_staleness") && error.contains("pixels"), "{error}");
}
