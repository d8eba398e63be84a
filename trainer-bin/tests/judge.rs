//! A model of this machine among scored responses: the best of several, and corrections.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{fail, only_run, small, succeed, trainer};
use toolrm::record::{self, Candidate, Scored, Step};
use toolrm::{Format, Map, Mode, ScoreOptions, score_candidate};

/// Two steps with responses right and wrong, and a judge over bytes that has learned nothing.
fn made(dir: &Path) -> (String, String, PathBuf) {
    let step = |id: &str| {
        format!(
            r#"{{"id":"{id}","source":"web","tools":[{{"name":"f","parameters":{{"type":"object","properties":{{"x":{{"type":"integer"}}}},"required":["x"]}}}}],"history":[{{"role":"user","content":"do {id}"}}],"gold":{{"content":"","calls":[{{"name":"f","arguments":{{"x":1}}}}]}}}}"#
        )
    };
    let steps = [step("s1"), step("s2")];
    let read: Vec<Step> = steps.iter().map(|s| record::read(s).unwrap()).collect();
    let scored = |(step, origin, text): (usize, &str, &str)| {
        let candidate = Candidate {
            step_id: read[step].id.clone(),
            origin: origin.into(),
            text: text.into(),
            format: Format::Pythonic,
            meta: Map::default(),
        };
        let scored =
            score_candidate(candidate, "web", &read[step].calls, &ScoreOptions::default(), Mode::Lenient);
        record::line(&scored).unwrap()
    };
    let all = [
        (0, "right", "[f(x=1)]"),
        (0, "wrong", "[f(x=2)]"),
        (0, "other", "[g()]"),
        (1, "right", "[f(x=1)]"),
        (1, "wrong", "[f(y=1)]"),
    ];
    let write = |name: &str, lines: &[String]| {
        std::fs::write(dir.join(name), lines.join("\n")).unwrap();
        dir.join(name).display().to_string()
    };
    let (steps, scored) = (write("steps.jsonl", &steps), write("scored.jsonl", &all.map(scored)));
    let set = [
        "run.steps=1",
        "model.max_position_embeddings=2048",
        "warm_start.steps=0",
        "rollout.max_new_tokens=4",
    ];
    // A task of the trainer's own: its tokenizer must write any byte, so that the data are a file.
    std::fs::write(dir.join("data.jsonl"), "{\"prompt\": \"a\", \"answer\": \"b\"}\n".repeat(20)).unwrap();
    let data = format!("data.path={}", dir.join("data.jsonl").display());
    succeed(&mut small(&dir.join("runs"), &[&set[..], &["data.task=", &data]].concat()));
    (steps, scored, only_run(&dir.join("runs")))
}

fn rows(path: &Path) -> Vec<Scored> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| record::read(line).unwrap()).collect()
}

#[test]
fn a_judge_of_this_machine_chooses_and_corrects() {
    let dir = tempfile::tempdir().unwrap();
    let (steps, scored, judge) = made(dir.path());
    let verb = |verb: &str, more: &[&str]| {
        let mut command = trainer();
        command
            .args([verb, judge.to_str().unwrap(), &steps, &scored, "--raw", "--max-tokens", "2"])
            .args(more);
        command
    };
    let said = |command: &mut std::process::Command| String::from_utf8(succeed(command).stdout).unwrap();
    // The odds of the verdicts choose, without an answer drawn; the same twice, and the choices are responses of the file.
    let output = dir.path().join("best.jsonl");
    let to = ["--strategy", "scalar", "--variant", "bare", "--output", output.to_str().unwrap()];
    let first = said(&mut verb("bon", &to));
    assert!(first.contains("steps        2") && first.contains("judge calls  0"), "{first}");
    let chosen = rows(&output);
    assert_eq!(said(&mut verb("bon", &to)), first);
    assert_eq!(chosen.len(), 2);
    for (row, responses) in chosen.iter().zip([["right", "wrong", "other"].as_slice(), &["right", "wrong"]]) {
        let toolrm::Val::Int(index) = row.candidate.meta.get("index").unwrap() else { panic!("{row:?}") };
        assert_eq!(responses[*index as usize], row.candidate.origin);
    }
    let right = chosen.iter().filter(|s| s.score == toolrm::Rational::ONE).count();
    assert!(first.contains(&format!("selected     {:.1} % right", 50.0 * right as f64)), "{first}");
    let (_, line) = fail(&mut verb("bon", &["--strategy", "scalar", "--variant", "think"]));
    assert!(line.contains("gives no number"), "{line}");

    // A bracket asks: three responses are two matches and two are one, each in both orders. Answers are kept.
    let output = dir.path().join("bracket.jsonl");
    let text = said(&mut verb("bon", &["--variant", "bare", "-o", output.to_str().unwrap()]));
    assert!(text.contains("judge calls  6"), "{text}");
    let kept = dir.path().join("bracket.jsonl.judge.jsonl");
    assert_eq!(std::fs::read_to_string(kept).unwrap().lines().count(), 6);

    // All five are criticised. What cannot be read as a verdict asks for another answer, which is random bytes: right ones break.
    let output = dir.path().join("corrected.jsonl");
    let to = ["--variant", "bare", "--output", output.to_str().unwrap()];
    let text = said(&mut verb("correct", &to));
    assert!(text.contains("responses    5") && text.contains("right        40.0 % before"), "{text}");
    let after = rows(&output);
    assert_eq!(after.len(), 5);
    let right = after.iter().filter(|s| s.score == toolrm::Rational::ONE).count();
    assert!(text.contains(&format!("{:.1} % after", 20.0 * right as f64)), "{text}");
    assert!(after.iter().all(|s| s.candidate.meta.get("critiques").is_some()));
    // Nothing is asked again; no round changes nothing; another policy is opened, and must be there.
    assert_eq!(said(&mut verb("correct", &to)), text);
    let text = said(&mut verb(
        "correct",
        &["--variant", "bare", "--rounds", "0", "--policy", judge.to_str().unwrap()],
    ));
    assert!(text.contains("40.0 % before, 40.0 % after") && text.contains("unchanged    5"), "{text}");
    let (_, line) = fail(&mut verb("correct", &["--policy", "no/such"]));
    assert!(line.contains("no/such"), "{line}");
    let (_, line) = fail(&mut verb("correct", &["--variant", "thought"]));
    assert!(line.contains("expected think, no_think or bare"), "{line}");
}
