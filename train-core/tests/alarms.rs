//! A guard that is told to stop a run says why, and what was trained is kept.
#![allow(missing_docs, clippy::unwrap_used)]

use train_core::config::Layers;
use train_core::rundir::RunDir;
use train_core::trainer::{TrainError, Trainer};

#[test]
fn an_alarm_stops_the_run_with_its_checkpoint_and_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = Layers::preset("sort").unwrap();
    for set in [
        "data.levels=[2]",
        "model.hidden_size=12",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=6",
        "model.initializer_range=0.3",
        "rollout.prompts=2",
        "rollout.max_new_tokens=8",
        "rollout.precision=bf16",
        "warm_start.steps=0",
        "eval.every=0",
        "ckpt.every=0",
        "guard.action=stop",
        "guard.mismatch_max=1e-9",
        "guard.patience=2",
        "guard.zero_variance_max=1.0",
        "guard.truncated_max=1.0",
    ] {
        layers.set(set, "test").unwrap();
    }
    let config = layers.resolve().unwrap();
    let mut trainer = Trainer::create(config, RunDir::create(dir.path(), "alarm").unwrap()).unwrap();
    let before = trainer.step().unwrap();
    assert!(before.alarms.is_empty() && before.checkpoint.is_none());
    let Err(TrainError::Guard { name, message }) = trainer.step() else { panic!("the run went on") };
    assert_eq!(name, "mismatch");
    assert!(message.contains("; discrepancy dominates (k3 of sampler and trainer "), "{message}");
    // Both steps are in the checkpoint that nobody had asked for.
    let path = trainer.dir.path().to_path_buf();
    drop(trainer);
    let (resumed, _) = Trainer::resume(&path, false).unwrap();
    assert_eq!(resumed.steps_done(), 2);
    let events = std::fs::read_to_string(path.join("events.jsonl")).unwrap();
    assert!(events.contains("discrepancy dominates"), "{events}");
}
