//! Long answers of a model and of a file, verified.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{fail, only_run, succeed, trainer};

const FILES: [&str; 6] =
    ["run.json", "generations.jsonl", "scores.jsonl", "summary.json", "report.html", "plots/scores.svg"];

fn files(directory: &Path) -> Vec<String> {
    FILES.iter().map(|name| std::fs::read_to_string(directory.join(name)).unwrap()).collect()
}

/// A run whose model has random weights over bytes.
fn random_model(dir: &Path) -> PathBuf {
    let at = |name: &str| dir.join(name);
    std::fs::write(at("prompts.jsonl"), "{\"prompt\": \"{a}\", \"answer\": \"b\"}\n".repeat(4)).unwrap();
    let mut make = trainer();
    make.args(["run", "reverse-dense"]);
    for set in [
        &format!("run.dir={:?}", at("runs")),
        &format!("data.path={:?}", at("prompts.jsonl")),
        "data.task=\"\"",
        "data.eval_share=0.25",
        "run.steps=1",
        "rollout.prompts=2",
        "rollout.group=2",
        "eval.prompts=1",
        "eval.every=0",
        "model.hidden_size=16",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=8",
        "model.intermediate_size=16",
        "model.num_hidden_layers=1",
        "model.max_position_embeddings=4096",
        "log.console=quiet",
    ] {
        make.args(["--set", set]);
    }
    succeed(&mut make);
    only_run(&at("runs"))
}

#[test]
fn a_killed_evaluation_of_a_model_ends_as_if_it_had_not_been() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = random_model(dir.path());
    let cov = |output: &str, rows: &str| -> Command {
        let mut command = trainer();
        command.arg("cov").arg(&model).arg(at(output)).args([
            "--raw",
            "--tasks",
            "kv_dict,fsm",
            "--lengths",
            "256",
        ]);
        command.args(["--difficulties", "0", "-n", "4", "--samples", "2", "--rows", rows]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    succeed(&mut cov("whole", "16"));
    let whole = files(&at("whole"));
    assert_eq!(whole[1].lines().count(), 16);

    let mut child = cov("killed", "2").spawn().unwrap();
    let answers = || std::fs::read_to_string(at("killed/generations.jsonl")).unwrap_or_default();
    while answers().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended without an answer");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answers().lines().count() < 16, "it ended before it could be killed");
    succeed(&mut cov("killed", "2"));
    assert_eq!(files(&at("killed")), whole);

    let (code, error) =
        fail(cov("whole", "16").args(["--seed", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(code, 2);
    assert!(error.ends_with("it differs in asked.sampling.seed"), "{error}");
}

#[test]
fn files_are_scored_and_what_cannot_be_asked_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let plan = ["--tasks", "fsm", "--lengths", "256", "-n", "2"];
    let version = cov_eval::task(cov_eval::TaskId::Fsm).version();
    let answer =
        |index| format!("{{\"instance_id\": \"fsm/v{version}/test/256/d1/0/{index}\", \"text\": \"\"}}\n");
    std::fs::write(at("answers.jsonl"), answer(0)).unwrap();
    let mut score = trainer();
    score.arg("cov").arg(at("answers.jsonl")).arg(at("run")).args(plan);
    let out = score.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(text.contains("**Incomplete**: 1 of 2 answers are missing."), "{text}");
    std::fs::write(at("answers.jsonl"), answer(0) + &answer(1)).unwrap();
    let text = String::from_utf8(succeed(&mut score).stdout).unwrap();
    assert!(text.contains("| fsm | 256 | 1 | 2 of 2 | 0.0 |"), "{text}");

    for (arguments, expected) in [
        (vec!["no/such"], "no/such"),
        (vec!["http://localhost:1/v1", "--key-variable", "KEEL_NO_KEY"], "KEEL_NO_KEY"),
        (vec!["no/such", "--lengths", "100"], "100"),
    ] {
        let (_, error) = fail(trainer().args(["cov", arguments[0]]).arg(at("other")).args(&arguments[1..]));
        assert!(error.contains(expected), "{error}");
    }
}

/// A judge that says nothing readable leaves scores as they are; what it said is kept, and read again by the same command.
#[test]
fn a_model_judges_answers_without_changing_their_scores() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let model = random_model(dir.path());
    let id = cov_eval::TaskId::SalesReport;
    let version = cov_eval::task(id).version();
    let answer = |index| {
        format!(
            "{{\"instance_id\": \"{id}/v{version}/test/256/d1/0/{index}\", \"text\": \"Sales rose by {index} tenths.\"}}\n"
        )
    };
    std::fs::write(at("answers.jsonl"), answer(0) + &answer(1)).unwrap();
    let cov = |output: &str| {
        let mut command = trainer();
        command.arg("cov").arg(at("answers.jsonl")).arg(at(output));
        command.args(["--raw", "--tasks", "sales_report", "--lengths", "256", "-n", "2"]);
        command
    };
    succeed(&mut cov("alone"));
    let mut judge = cov("judged");
    judge.arg("--judge").arg(&model);
    let out = judge.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(3), "{text}");
    assert!(text.contains("| `sales_report` | 0 | 2 |"), "{text}");
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    assert_eq!(read("judged/scores.jsonl"), read("alone/scores.jsonl"));
    // Items of two answers, in two batches each that are asked three times.
    let kept = read("judged/judge.jsonl");
    assert_eq!(kept.lines().count(), 2 * 2 * 3, "{kept}");
    assert_eq!(judge.output().unwrap().status.code(), Some(3));
    assert_eq!(read("judged/judge.jsonl"), kept);

    let (_, error) = fail(cov("other").args(["--judge", "no/such"]));
    assert!(error.contains("no/such"), "{error}");
}
