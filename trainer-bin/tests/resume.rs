//! A run that is killed and resumed ends as if it had not been; so does one with another number of threads.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{fail, metrics, only_run, small, succeed, trainer, weights};

/// Kills with SIGKILL once `rows` rows of metrics are there. Says whether it came in time.
fn kill_at(mut child: Child, dir: &Path, rows: usize) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        let found = std::fs::read_dir(dir).unwrap().flatten().any(|run| {
            let text = std::fs::read_to_string(run.path().join("metrics.jsonl")).unwrap_or_default();
            text.lines().count() >= rows
        });
        if found {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn kill_and_resume(set: &[&str]) {
    let steps = ["run.steps=40"];
    let set: Vec<&str> = steps.iter().chain(set).copied().collect();
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    succeed(&mut small(whole.path(), &set));
    let whole = only_run(whole.path());

    // Places of the kills, other ones at every run of this test.
    let clock =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as usize;
    let places = [3 + clock % 9, 14 + clock / 9 % 9, 27 + clock / 81 % 9];
    let quiet = |command: &mut std::process::Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut child = quiet(&mut small(killed.path(), &set));
    let mut kills = 0;
    for place in places {
        kills += usize::from(kill_at(child, killed.path(), place));
        child = quiet(trainer().arg("resume").arg(only_run(killed.path())));
    }
    assert_eq!(kills, 3, "the run ended before it could be killed");
    assert!(child.wait().unwrap().success());
    let killed = only_run(killed.path());
    assert_eq!(metrics(&whole), metrics(&killed));
    assert_eq!(weights(&whole, 40), weights(&killed, 40));
    let events = std::fs::read_to_string(killed.join("events.jsonl")).unwrap();
    assert!(events.contains("\"resumed\""));
    // `diff` sees it the same way.
    let out = succeed(trainer().arg("diff").arg(&whole).arg(&killed));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("the runs are the same in all 41 rows"));
}

#[test]
fn a_killed_run_ends_as_if_it_had_not_been() {
    kill_and_resume(&[]);
}

#[test]
fn so_does_one_with_minibatches_replay_a_reference_and_dynamic_sampling() {
    kill_and_resume(&[
        "update.minibatches=2",
        "update.routing=r2",
        "loss.kl_coef=0.01",
        "loss.entropy_coef=0.01",
        "filter.zero_variance=drop",
        "filter.dynamic=true",
        "filter.patience=1000",
        "update.router_aux_coef=0.01",
        "warm_start.steps=3",
        "warm_start.prompts=8",
    ]);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let runs: Vec<_> = ["1", "2", "3"]
        .iter()
        .map(|threads| {
            let dir = tempfile::tempdir().unwrap();
            let set = ["run.steps=12", "update.minibatches=2", "rollout.prompts=40"];
            succeed(small(dir.path(), &set).env("RAYON_NUM_THREADS", threads));
            let run = only_run(dir.path());
            (metrics(&run), weights(&run, 12))
        })
        .collect();
    assert!(runs[0] == runs[1] && runs[1] == runs[2]);
    // Another seed is another run.
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut small(
        dir.path(),
        &["run.steps=12", "update.minibatches=2", "rollout.prompts=40", "run.seed=1"],
    ));
    assert_ne!(weights(&only_run(dir.path()), 12), runs[0].1);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_again_without_a_second_row_of_step_0() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut small(dir.path(), &["run.steps=3"]));
    let run = only_run(dir.path());
    let (rows, last) = (metrics(&run), weights(&run, 3));
    std::fs::remove_dir_all(run.join("ckpt/step-000003")).unwrap();
    succeed(trainer().arg("resume").arg(&run));
    assert_eq!(metrics(&run), rows);
    assert_eq!(weights(&run, 3), last);
}

#[test]
fn a_run_killed_in_its_supervised_steps_begins_again_in_its_directory() {
    let set = ["run.steps=3", "warm_start.steps=300", "warm_start.prompts=8"];
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    succeed(&mut small(whole.path(), &set));
    let whole = only_run(whole.path());
    let mut child = small(killed.path(), &set).stderr(Stdio::piped()).spawn().unwrap();
    // Its steps are told as they go.
    let told = std::io::BufReader::new(child.stderr.take().unwrap());
    let line = std::io::BufRead::lines(told).map(Result::unwrap).find(|l| l.starts_with("supervised step"));
    assert!(line.unwrap().starts_with("supervised step   30 of 300  loss "));
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = only_run(killed.path());
    assert!(!killed.join("metrics.jsonl").exists());
    let said = succeed(trainer().arg("resume").arg(&killed)).stderr;
    assert!(String::from_utf8_lossy(&said).contains("There is no checkpoint yet: the run begins again."));
    assert_eq!(metrics(&whole), metrics(&killed));
    assert_eq!(weights(&whole, 3), weights(&killed, 3));
    // Where results are, their checkpoints must be too.
    std::fs::remove_dir_all(killed.join("ckpt")).unwrap();
    let (_, line) = fail(trainer().arg("resume").arg(&killed));
    assert!(line.contains("no usable checkpoint"), "{line}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut small(dir.path(), &["run.steps=8"]));
    let run = only_run(dir.path());
    let newest = run.join("ckpt/step-000008/model.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let whole = weights(&run, 4);
    let out = succeed(trainer().arg("resume").arg(&run));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("passed over a checkpoint")
            && said.contains("model.safetensors is not what was written"),
        "{said}"
    );
    assert!(said.contains("Going on after step 4 of 8"), "{said}");
    assert_ne!(weights(&run, 8), whole);
}

#[test]
fn a_changed_configuration_is_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut small(dir.path(), &["run.steps=4", "eval.prompts=37", "eval.every=2"]));
    let run = only_run(dir.path());
    let file = run.join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("steps = 4", "steps = 6");
    std::fs::write(&file, text).unwrap();
    let (code, line) = common::fail(trainer().arg("resume").arg(&run));
    assert_eq!(code, 5);
    assert!(line.contains("--allow-changes"), "{line}");
    succeed(trainer().arg("resume").arg(&run).arg("--allow-changes"));
    assert_eq!(metrics(&run).len(), 7);

    // Other held-out prompts: nothing says what they gained.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("steps = 6", "steps = 8").replace("prompts = 37", "prompts = 38"))
        .unwrap();
    succeed(trainer().arg("resume").arg(&run).arg("--allow-changes"));
    let rows = metrics(&run);
    assert!(rows[6]["eval/heldout/gain"].is_f64() && rows[8]["eval/heldout/reward"].is_f64(), "{rows:?}");
    assert!(rows[8]["eval/heldout/gain"].is_null(), "{rows:?}");
}
