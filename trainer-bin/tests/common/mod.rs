//! Running the binary.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A run small enough for a test: every part of the default run, in small.
pub const SMALL: [&str; 12] = [
    "rollout.prompts=6",
    "rollout.group=4",
    "eval.prompts=12",
    "eval.every=5",
    "ckpt.every=4",
    "model.hidden_size=16",
    "model.moe_intermediate_size=8",
    "model.num_attention_heads=2",
    "model.num_key_value_heads=1",
    "model.head_dim=8",
    "data.levels=[2,3]",
    "data.advance_at=0.0",
];

pub fn trainer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.env_remove("RAYON_NUM_THREADS");
    command
}

/// `trainer` with the small settings and more.
pub fn small(dir: &Path, set: &[&str]) -> Command {
    let mut command = trainer();
    command.args(["--set", &format!("run.dir={}", dir.display())]);
    for assignment in SMALL.iter().chain(set) {
        command.args(["--set", assignment]);
    }
    command
}

/// Runs to the end; panics with what was said when it fails.
pub fn succeed(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{:?}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    out
}

/// Runs to the end, which must be a failure: its exit code and its `error:` line.
pub fn fail(command: &mut Command) -> (i32, String) {
    let out = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let line = stderr
        .lines()
        .rev()
        .find(|l| l.starts_with("error:"))
        .unwrap_or_else(|| panic!("no error line in {stderr}"));
    (out.status.code().unwrap(), line.to_owned())
}

/// Metrics without what the clock decides.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let clock = |name: &str| ["time/", "perf/", "mem/"].iter().any(|p| name.starts_with(p));
    text.lines()
        .map(|line| {
            let Value::Object(row) = serde_json::from_str(line).unwrap() else { panic!("{line}") };
            Value::Object(row.into_iter().filter(|(name, _)| !clock(name)).collect())
        })
        .collect()
}

pub fn weights(run: &Path, step: u64) -> Vec<u8> {
    std::fs::read(run.join(format!("ckpt/step-{step:06}/model.safetensors"))).unwrap()
}

/// The only run in `dir`.
pub fn only_run(dir: &Path) -> PathBuf {
    let runs: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs[0].clone()
}
