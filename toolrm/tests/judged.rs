//! The command line where models are asked: prompts of every kind, oracles, the best of several, corrections, rewards.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use toolrm::json::{self, Dialect};
use toolrm::record::{self, Scored, Task, Verdict};
use toolrm::{Val, eq_json};

#[track_caller]
fn code(dir: &Path, args: &[&str], want: i32) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_toolrm")).current_dir(dir).args(args).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(want), "{args:?}\n{err}");
    err
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn records<R: record::Record>(dir: &Path, name: &str) -> Vec<R> {
    text(dir, name).lines().map(|l| record::read(l).unwrap()).collect()
}

fn rows(dir: &Path, name: &str) -> Vec<Val> {
    text(dir, name).lines().map(|l| json::parse(l, Dialect::Strict).unwrap()).collect()
}

/// Two steps: one with four candidates, one with two.
fn made() -> TempDir {
    let dir = TempDir::new().unwrap();
    let step = |id: &str| {
        format!(
            r#"{{"id":"{id}","source":"web","tools":[{{"name":"f","parameters":{{"type":"object","properties":{{"x":{{"type":"integer"}},"y":{{"type":"integer"}}}},"required":["x"]}}}}],"history":[{{"role":"user","content":"do {id}"}}],"gold":{{"content":"","calls":[{{"name":"f","arguments":{{"x":1,"y":2}}}}]}},"bfcl":{{"category":"simple_python","function":[{{"name":"f","parameters":{{"type":"dict","properties":{{"x":{{"type":"integer"}},"y":{{"type":"integer"}}}},"required":["x","y"]}}}}],"ground_truth":[{{"f":{{"x":[1],"y":[2]}}}}]}}}}"#
        )
    };
    let candidate = |id: &str, origin: &str, text: &str| {
        format!(r#"{{"step_id":"{id}","origin":"{origin}","text":"{text}","format":"pythonic"}}"#)
    };
    fs::write(dir.path().join("steps.jsonl"), [step("s1"), step("s2")].join("\n")).unwrap();
    let all = [
        candidate("s1", "right", "[f(x=1, y=2)]"),
        candidate("s1", "half", "[f(x=1, y=3)]"),
        candidate("s1", "wrong", "[f(x=0, y=0)]"),
        candidate("s1", "prose", "I cannot."),
        candidate("s2", "half", "[f(x=1)]"),
        candidate("s2", "wrong", "[g()]"),
    ];
    fs::write(dir.path().join("cand.jsonl"), all.join("\n")).unwrap();
    code(
        dir.path(),
        &["score", "--steps", "steps.jsonl", "--candidates", "cand.jsonl", "-o", "scored.jsonl"],
        0,
    );
    code(dir.path(), &["pairs", "scored.jsonl", "-o", "pairs.jsonl"], 0);
    dir
}

const PROMPTS: [&str; 4] = ["prompts", "pairs.jsonl", "--steps", "steps.jsonl"];

#[test]
fn an_oracle_is_right_in_tasks_of_every_kind() {
    let dir = made();
    let dir = dir.path();
    // Gold against three wrong ones and among these 1/2 > 0, 0: five; the second step 1 > 1/2 > 0: three.
    for (kind, tasks) in [("pairwise", 16), ("pointwise", 16), ("bon", 2)] {
        for variant in ["think", "no-think", "bare"] {
            let name = |what: &str| format!("{kind}-{variant}-{what}.jsonl");
            let more = if kind == "pairwise" { &["--both"][..] } else { &[] };
            let (asked, said, verdicts) = (name("tasks"), name("said"), name("verdicts"));
            code(
                dir,
                &[&PROMPTS[..], &["--kind", kind, "--variant", variant, "-o", &asked], more].concat(),
                0,
            );
            let err = code(dir, &["judge", &asked, "--backend", "oracle", "-o", &said], 0);
            assert!(err.contains(&format!("correct {tasks}, strict {tasks}")), "{kind} {variant}: {err}");
            if kind == "pairwise" {
                assert!(err.contains("Avg 100.00, W-Avg 100.00 (chance 25.00)"), "{err}");
            }
            code(dir, &["reward", &asked, &said, "-o", &verdicts], 0);
            let verdicts: Vec<Verdict> = records(dir, &verdicts);
            assert_eq!(verdicts.len(), tasks);
            assert!(verdicts.iter().all(|v| v.reward == Some(1.0) && v.correct == Some(true)));
        }
    }
    // All distinct responses of a step, in an order that the seed draws.
    let labels = |seed: &str| -> Vec<String> {
        let out = format!("bon-{seed}.jsonl");
        code(dir, &[&PROMPTS[..], &["--kind", "bon", "--seed", seed, "-o", &out]].concat(), 0);
        let tasks: Vec<Task> = records(dir, &out);
        let sizes: Vec<&Val> = tasks.iter().map(|t| t.meta.get("n").unwrap()).collect();
        assert!(eq_json(sizes[0], &Val::Int(4)) && eq_json(sizes[1], &Val::Int(3)), "{sizes:?}");
        assert_eq!(tasks.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["s1-bon", "s2-bon"]);
        tasks.into_iter().map(|t| t.label.unwrap()).collect()
    };
    let all: std::collections::BTreeSet<Vec<String>> = (0..12).map(|s| labels(&s.to_string())).collect();
    assert!(all.len() > 3, "{all:?}");
    let err = code(dir, &["judge", "pairs.jsonl", "--backend", "elsewhere", "-o", "x"], 2);
    assert!(err.contains("replay:FILE"), "{err}");
}

#[test]
fn prompts_of_too_many_tokens_are_dropped_and_counted() {
    let dir = made();
    let dir = dir.path();
    let tokenizer = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"}}"#;
    fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
    let guard = |kind: &str, most: usize, out: &str| {
        let most = most.to_string();
        let args = [
            "--kind",
            kind,
            "--variant",
            "bare",
            "--tokenizer",
            "tokenizer.json",
            "--max-prompt-tokens",
            &most,
            "-o",
            out,
        ];
        code(dir, &[&PROMPTS[..], &args].concat(), 0)
    };
    assert!(!guard("pairwise", 1000, "all.jsonl").contains("dropped"));
    let tasks: Vec<Task> = records(dir, "all.jsonl");
    let mut lengths: Vec<usize> = tasks.iter().map(|t| t.prompt.split_whitespace().count()).collect();
    lengths.sort_unstable();
    let most = lengths[lengths.len() / 4];
    let fit = lengths.iter().filter(|l| **l <= most).count();
    assert!(fit < lengths.len(), "{lengths:?}");
    let err = guard("pairwise", most, "some.jsonl");
    assert!(err.contains(&format!("dropped.too_long {}", lengths.len() - fit)), "{err}");
    let kept: Vec<Task> = records(dir, "some.jsonl");
    assert!(kept.len() == fit && kept.iter().all(|t| t.prompt.split_whitespace().count() <= most));
    assert!(guard("bon", 3, "none.jsonl").contains("dropped.too_long 2"));
    let alone = [&PROMPTS[..], &["--max-prompt-tokens", "5", "-o", "x.jsonl"]].concat();
    code(dir, &alone, 2);
    let none =
        [&PROMPTS[..], &["--max-prompt-tokens", "5", "--tokenizer", "no.json", "-o", "x.jsonl"]].concat();
    assert!(code(dir, &none, 3).contains("no.json"));
}

#[test]
fn answers_are_read_where_and_rewarded_as_said() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let task = r#"{"id":"t","kind":"pairwise","prompt":"?","label":"1"}"#;
    fs::write(dir.join("tasks.jsonl"), task).unwrap();
    let thought = r"<think>\n<choice>\n1\n</choice>\n</think>\n<choice>\n2\n</choice>";
    fs::write(dir.join("said.jsonl"), format!(r#"{{"task_id":"t","text":"{thought}"}}"#)).unwrap();
    for (args, choice, reward) in [
        (&[][..], 2, 0.0),
        (&["--scope", "any"][..], 1, 1.0),
        (&["--format-bonus", "0.1"][..], 2, 0.1),
        (&["--scope", "any", "--format-bonus", "0.05"][..], 1, 1.05),
    ] {
        let command = ["reward", "tasks.jsonl", "said.jsonl", "-o", "out.jsonl", "--force"];
        code(dir, &[&command[..], args].concat(), 0);
        let verdict: Verdict = records(dir, "out.jsonl").remove(0);
        assert_eq!((verdict.choice, verdict.reward), (Some(choice), Some(reward)), "{args:?}");
    }
    let args = ["reward", "tasks.jsonl", "said.jsonl", "-o", "out.jsonl", "--format-bonus", "0.2"];
    assert!(code(dir, &args, 2).contains("expected 0 to 0.1"));
}

#[test]
fn calls_are_rewarded_by_weighted_parts() {
    let dir = made();
    let dir = dir.path();
    let command =
        ["reward-calls", "--steps", "steps.jsonl", "--candidates", "cand.jsonl", "-o", "r.jsonl", "--force"];
    let rewards = |parts: &str| -> Vec<f64> {
        code(dir, &[&command[..], &["--parts", parts]].concat(), 0);
        rows(dir, "r.jsonl").iter().map(|r| r.get("reward").and_then(Val::to_f64).unwrap()).collect()
    };
    assert_eq!(rewards("rule"), [1.0, 0.5, 0.0, 0.0, 0.5, 0.0]);
    assert_eq!(rewards("rule=1,format=0.2"), [1.2, 0.7, 0.2, 0.0, 0.7, 0.2]);
    assert_eq!(rewards("bfcl=2"), [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let first = rows(dir, "r.jsonl").remove(0);
    assert_eq!(
        json::to_string(&first).unwrap(),
        r#"{"v":1,"step_id":"s1","origin":"right","reward":2.0,"parts":{"bfcl":1.0},"note":"ok"}"#
    );
    for (parts, what) in [
        ("rul=1", "\"rul\" is none of rule, bfcl"),
        ("rule=x", "expected a number"),
        ("rule=inf", "expected a number"),
    ] {
        assert!(code(dir, &[&command[..], &["--parts", parts]].concat(), 2).contains(what));
    }
    // A step without the entry, one that is not there, and an entry at fault cost their lines.
    let steps = text(dir, "steps.jsonl");
    let (with, _) = steps.lines().next().unwrap().split_once(",\"bfcl\"").unwrap();
    let bad = steps.lines().nth(1).unwrap().replace("simple_python", "simple_pyton");
    fs::write(dir.join("steps.jsonl"), format!("{with}}}\n{bad}")).unwrap();
    fs::write(
        dir.join("cand.jsonl"),
        text(dir, "cand.jsonl") + "\n{\"step_id\":\"s3\",\"origin\":\"m\",\"text\":\"\"}",
    )
    .unwrap();
    let err = code(dir, &[&command[..], &["--parts", "bfcl"]].concat(), 1);
    for want in [
        "cand.jsonl:1: s1: field.missing at bfcl",
        "cand.jsonl:5: s2: json.type at bfcl.category: no category \"simple_pyton\"; nearest: simple_python",
        "cand.jsonl:7: s3: id.unknown at step_id",
    ] {
        assert!(err.contains(want), "{want}\n{err}");
    }
}

fn answers(dir: &Path, name: &str, all: &[(&str, &str)]) -> String {
    let line = |(id, text): &(&str, &str)| {
        let row =
            Val::dict([("task_id", Val::from(*id)), ("text", Val::from(*text)), ("tokens_out", Val::Int(4))]);
        json::to_string(&row).unwrap() + "\n"
    };
    fs::write(dir.join(name), all.iter().map(line).collect::<String>()).unwrap();
    format!("replay:{name}")
}

#[test]
fn a_judge_chooses_among_the_responses_of_each_step() {
    let dir = made();
    let dir = dir.path();
    let bon = ["bon", "--steps", "steps.jsonl", "--scored", "scored.jsonl", "--variant", "bare"];
    // Whoever stands first wins: the gold response and its equal take part once.
    let first = answers(dir, "first.jsonl", &[("s1/0-0-list", "1"), ("s2/0-1-list", "1")]);
    let err = code(dir, &[&bon[..], &["--backend", &first, "-o", "first-out.jsonl"]].concat(), 0);
    assert!(
        err.contains("steps        2") && err.contains("2 strict, 0 soft, 0 unread") && err.contains("8 out"),
        "{err}"
    );
    let all: Vec<Scored> = records(dir, "scored.jsonl");
    let chosen: Vec<Scored> = records(dir, "first-out.jsonl");
    for (i, c) in chosen.iter().enumerate() {
        let of_step: Vec<&Scored> =
            all.iter().filter(|s| s.candidate.step_id == c.candidate.step_id).collect();
        let Some(Val::Int(index)) = c.candidate.meta.get("index") else { panic!("{c:?}") };
        assert_eq!(of_step[*index as usize].candidate.origin, c.candidate.origin);
        assert!(eq_json(c.candidate.meta.get("distinct").unwrap(), &Val::Int([4, 3][i])));
    }
    // The judge's answers are kept, so that the same command asks nobody again.
    let kept = text(dir, "first-out.jsonl.judge.jsonl");
    assert_eq!(kept.lines().count(), 2);
    let none = answers(dir, "none.jsonl", &[]);
    let again = [&bon[..], &["--backend", &none, "-o", "first-out.jsonl", "--force"]].concat();
    code(dir, &again, 0);
    assert_eq!(records::<Scored>(dir, "first-out.jsonl").len(), 2);
    // Another judge without answers is an error that names the first.
    let err = code(dir, &[&bon[..], &["--backend", &none, "-o", "none-out.jsonl"]].concat(), 3);
    assert!(err.contains("s1/0-0-list: none.jsonl has no completion"), "{err}");
    // A bracket of four: two matches, then one, each in both orders; ties go to the lower index.
    let ids = [
        "s1/0-0-ab",
        "s1/0-0-ba",
        "s1/0-1-ab",
        "s1/0-1-ba",
        "s2/0-2-ab",
        "s2/0-2-ba",
        "s1/6-0-ab",
        "s1/6-0-ba",
        "s2/6-1-ab",
        "s2/6-1-ba",
    ];
    let ties = answers(dir, "ties.jsonl", &ids.map(|id| (id, "1")));
    let err = code(
        dir,
        &[&bon[..], &["--backend", &ties, "--strategy", "knockout", "-o", "ties-out.jsonl"]].concat(),
        0,
    );
    assert!(err.contains("judge calls  10"), "{err}");
}

#[test]
fn numbers_of_a_reward_model_choose_among_the_responses_of_each_step() {
    let dir = made();
    let dir = dir.path();
    let all: Vec<Scored> = records(dir, "scored.jsonl");
    let index =
        |i: usize| all[..i].iter().filter(|s| s.candidate.step_id == all[i].candidate.step_id).count();
    let write = |name: &str, score: &dyn Fn(usize) -> String| {
        let line = |i: usize| {
            let step = &all[i].candidate.step_id;
            format!("{{\"step_id\": \"{step}\", \"index\": {}, \"score\": {}}}\n", index(i), score(i))
        };
        fs::write(dir.join(name), (0..all.len()).map(line).collect::<String>()).unwrap();
    };
    let bon = ["bon", "--steps", "steps.jsonl", "--scored", "scored.jsonl", "--strategy", "scalar"];
    let run = |scores: &str, output: &str, exit: i32| {
        code(dir, &[&bon[..], &["--scores", scores, "-o", output]].concat(), exit)
    };
    // The rule score itself is a perfect reward model.
    write("rule.jsonl", &|i| all[i].score.to_f64().to_string());
    let err = run("rule.jsonl", "rule-out.jsonl", 0);
    assert!(err.contains("selected     100.0 % right") && err.contains("judge calls  0"), "{err}");
    // Its negative chooses a wrong one wherever there is one.
    write("worst.jsonl", &|i| (-all[i].score.to_f64()).to_string());
    let err = run("worst.jsonl", "worst-out.jsonl", 0);
    assert!(err.contains("selected     0.0 % right"), "{err}");
    // A response without a number, one too many, a second one, and what is no number are errors that name it.
    let text = text(dir, "rule.jsonl");
    let lines: Vec<&str> = text.lines().collect();
    let err_of = |name: &str, lines: &[&str], exit: i32| {
        fs::write(dir.join(name), lines.join("\n")).unwrap();
        run(name, "no-out.jsonl", exit)
    };
    let err = err_of("few.jsonl", &lines[1..], 3);
    assert!(err.contains("field.missing: few.jsonl has no number of response 0 of step \"s1\""), "{err}");
    let more = "{\"step_id\": \"s1\", \"index\": 99, \"score\": 1}";
    let err = err_of("more.jsonl", &[&lines[..], &[more]].concat(), 3);
    assert!(err.contains("id.unknown: there is no response 99 of step \"s1\""), "{err}");
    let err = err_of("twice.jsonl", &[&lines[..], &[lines[0]]].concat(), 3);
    assert!(err.contains("id.duplicate: response 0 of step \"s1\" has two numbers"), "{err}");
    let err = err_of("text.jsonl", &["{\"step_id\": \"s1\", \"index\": 0, \"score\": \"1\"}"], 3);
    assert!(err.contains("text.jsonl:1") && err.contains("a number"), "{err}");
    // The two arguments go together; a judge needs a backend.
    let err = code(dir, &[&bon[..], &["-o", "no-out.jsonl"]].concat(), 2);
    assert!(err.contains("--strategy scalar and --scores need each other"), "{err}");
    let bon = ["bon", "--steps", "steps.jsonl", "--scored", "scored.jsonl", "-o", "no-out.jsonl"];
    let err = code(dir, &[&bon[..], &["--scores", "rule.jsonl"]].concat(), 2);
    assert!(err.contains("need each other"), "{err}");
    assert!(code(dir, &bon, 2).contains("expected --backend"));
    assert!(!dir.join("no-out.jsonl").exists());
}

#[test]
fn a_policy_corrects_its_responses() {
    let dir = made();
    let dir = dir.path();
    // In the file's order: half, wrong and prose of s1 are wrong, so are both of s2; `right` is accepted.
    let judge = answers(
        dir,
        "judge.jsonl",
        &[
            ("s1/0-0-point", "correct"),
            ("s1/0-1-point", "revise: y is 2"),
            ("s1/0-2-point", "revise"),
            ("s1/0-3-point", "correct"),
            ("s2/0-4-point", "revise"),
            ("s2/0-5-point", "revise"),
        ],
    );
    let fixed = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1, \"y\": 2}}\n</tool_call>";
    let policy = answers(
        dir,
        "policy.jsonl",
        &[
            ("s1/correct-0-1", fixed),
            ("s1/correct-0-2", "No."),
            ("s2/correct-0-4", fixed),
            ("s2/correct-0-5", "[f(x=9)]"),
        ],
    );
    let args = [
        "correct",
        "--steps",
        "steps.jsonl",
        "--scored",
        "scored.jsonl",
        "--variant",
        "bare",
        "--backend",
        &judge,
        "--policy",
        &policy,
        "-o",
        "out.jsonl",
    ];
    let err = code(dir, &args, 0);
    for want in [
        "responses    6",
        "right        16.7 % before, 50.0 % after",
        "fixed        2",
        "broken       0",
        "unchanged    4",
        "critiques    6, of 4.0 tokens",
    ] {
        assert!(err.contains(want), "{want}\n{err}");
    }
    let after: Vec<Scored> = records(dir, "out.jsonl");
    let scores: Vec<(&str, f64, &str)> =
        after.iter().map(|s| (s.candidate.origin.as_str(), s.score.to_f64(), s.message.as_str())).collect();
    assert_eq!(
        scores,
        [
            ("right", 1.0, "ok"),
            ("half", 1.0, "ok"),
            ("wrong", 0.0, "count_mismatch"),
            ("prose", 0.0, "parse_failed"),
            ("half", 1.0, "ok"),
            ("wrong", 0.0, "ok")
        ]
    );
    assert!(eq_json(
        after[1].candidate.meta.get("critiques").unwrap(),
        &Val::List(vec!["revise: y is 2".into()])
    ));
    assert!(eq_json(after[0].candidate.meta.get("accepted").unwrap(), &Val::Bool(true)));
}
