//! Whatever a user gets wrong: one clear line, an exit code other than 0, nothing finished lost.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{fail, metrics, only_run, small, succeed, trainer};

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[track_caller]
fn refuses(set: &[&str], code: i32, expected: &str) {
    let dir = tempdir();
    let (found, line) = fail(&mut small(&dir.path().join("runs"), set));
    assert!(line.contains(expected), "{line}");
    assert_eq!(found, code, "{line}");
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn configurations() {
    refuses(&["update.lrr=1"], 2, "unknown key `update.lrr` (--set); did you mean `update.lr`?");
    refuses(&["update.lr=fast"], 2, "update.lr (--set): invalid type: string \"fast\", expected f64");
    refuses(&["rollout.prompts=0"], 2, "rollout.prompts = 0 (--set): expected 1 or more");
    refuses(&["update.minibatches=7"], 2, "a batch of 6 groups cannot be split so often");
    refuses(&["loss.objective=sapoo"], 2, "unknown objective preset `sapoo` (known: sapo,");
    refuses(&["loss.objective=gspo", "loss.correction=tis"], 2, "use gspo_token");
    refuses(&["update.routing=r3", "model.architecture=qwen3"], 2, "no experts to replay");
    refuses(&["data.task=revers"], 2, "expected one of reverse, sort");
    refuses(&["reward.parts=[{ kind = \"regex\", pattern = \"(\" }]"], 3, "pattern: regex parse error");
    refuses(&["model.num_key_value_heads=3"], 2, "3 does not divide the 2 query heads");
    let dir = tempdir();
    let broken = file(dir.path(), "broken.toml", "[update\nlr = 1");
    let (code, line) = fail(trainer().arg(&broken));
    assert_eq!(code, 2);
    assert!(line.contains("broken.toml") && line.contains("line 1"), "{line}");
    let (code, line) = fail(trainer().arg("nowhere.toml"));
    assert_eq!((code, line.as_str()), (2, "error: nowhere.toml: no such file"));
    let (code, line) = fail(trainer().arg("revers"));
    assert_eq!(code, 2);
    assert!(line.contains("unknown preset `revers`; there are: reverse, reverse-dense"), "{line}");
    let wrong =
        Command::env(&mut trainer(), "TRAINER__UPDATE__LR", "x").args(["config", "check"]).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("environment variable TRAINER__UPDATE__LR"));
}

#[test]
fn models_and_data() {
    refuses(&["model.path=/nowhere/model"], 2, "/nowhere/model/config.json: No such file");
    refuses(&["data.chat=true"], 2, "the model has no chat template");
    refuses(&["rollout.max_new_tokens=200"], 2, "more than the context of 128");
    let dir = tempdir();
    let data = |text: &str| format!("data.path={}", file(dir.path(), "data.jsonl", text));
    refuses(&["data.path=/nowhere.jsonl"], 2, "/nowhere.jsonl: No such file");
    refuses(&[&data("")], 2, "data.jsonl has no prompts");
    refuses(&[&data("{\"prompt\": \"a\"}\nnonsense\n")], 2, "data.jsonl, line 2: expected");
    refuses(&[&data("{\"question\": \"a\"}\n")], 2, "line 1: no column `prompt` (there are: question)");
    refuses(&[&data("{\"prompt\": 3}\n")], 2, "column `prompt` is 3, expected a string");
    let long = format!("{{\"prompt\": \"{}\"}}\n", "x".repeat(300));
    refuses(
        &[&data(&long)],
        2,
        "prompt 0 has 300 tokens; with 12 new ones that is more than the context of 128",
    );
    refuses(&[&data(&long), "data.too_long=drop"], 2, "has no prompts (1 were too long)");
    let no_answers = data("{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n");
    refuses(&[&no_answers, "run.steps=2"], 3, "has no answer");
}

/// A reward command as a configuration value.
fn command(script: &str, timeout: f64) -> String {
    format!(
        "reward.parts=[{{ kind = \"command\", command = [\"sh\", \"-c\", '''{script}'''], timeout = {timeout} }}]"
    )
}

#[test]
fn reward_commands() {
    let steps = "run.steps=2";
    refuses(&[steps, &command("sleep 60", 0.3)], 3, "`sh` took longer than 0.3 s and was stopped");
    refuses(&[steps, &command("echo oh no >&2; exit 3", 20.0)], 3, "failed (exit status: 3): oh no");
    refuses(&[steps, &command("cat >/dev/null; echo 1", 20.0)], 3, "wrote 1 lines for 12 samples");
    refuses(&[steps, &command("while read l; do echo NaN; done", 20.0)], 3, "got \"NaN\"");
    refuses(
        &[steps, "reward.parts=[{ kind = \"command\", command = [\"/nowhere/judge\"] }]"],
        3,
        "cannot start `/nowhere/judge`",
    );
    refuses(
        &[steps, "reward.on_error=drop", &command("exit 1", 20.0)],
        3,
        "12 of 12 samples could not be scored",
    );
    // A judge that works, and one that fails for a few samples, which are dropped and counted.
    let dir = tempdir();
    let script =
        "i=0; while read l; do i=$((i+1)); if [ $i = 5 ]; then echo broken; else echo $((i%3)); fi; done";
    let drop = ["run.steps=2", "reward.on_error=drop", "eval.every=0", &command(script, 20.0)];
    succeed(&mut small(dir.path(), &drop));
    let rows = metrics(&only_run(dir.path()));
    assert_eq!(rows[1]["reward/errors"], 1.0);
    assert_eq!(rows[1]["reward/max"], 2.0);
}

#[test]
fn storage() {
    refuses(&["run.dir=/dev/null/runs"], 5, "/dev/null/runs: Not a directory");
    let (code, line) = fail(trainer().args(["resume", "/nowhere/run"]));
    assert_eq!(code, 5);
    assert!(line.contains("/nowhere/run"), "{line}");
    let (code, line) = fail(trainer().args(["report", "/nowhere/run"]));
    assert_eq!(code, 2);
    assert!(line.contains("is not a run directory"), "{line}");
}

/// Files may grow to a limit only, as on a full disk: the run stops, and goes on when there is room again.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing_that_was_finished() {
    let dir = tempdir();
    let steps = ["run.steps=60", "log.rollout_groups=0"];
    let mut inner = small(dir.path(), &steps);
    let args: Vec<String> = inner.get_args().map(|a| format!("'{}'", a.to_string_lossy())).collect();
    let script =
        format!("trap '' XFSZ; ulimit -f 160; exec {} {}", env!("CARGO_BIN_EXE_trainer"), args.join(" "));
    inner = Command::new("sh");
    let (code, line) = fail(inner.args(["-c", &script]));
    assert_eq!(code, 5);
    assert!(line.contains("metrics.jsonl: File too large"), "{line}");
    let run = only_run(dir.path());
    let before = metrics_of_whole_lines(&run);
    assert!(before > 8, "{before} steps before the disk was full");
    succeed(trainer().arg("resume").arg(&run));
    assert_eq!(metrics(&run).len(), 61);
    let whole = tempdir();
    succeed(&mut small(whole.path(), &steps));
    assert_eq!(metrics(&run), metrics(&only_run(whole.path())));
}

#[cfg(unix)]
fn metrics_of_whole_lines(run: &Path) -> usize {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.split_inclusive('\n').filter(|l| l.ends_with('\n')).count()
}
