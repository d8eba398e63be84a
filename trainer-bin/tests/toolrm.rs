//! Rewards about calls of tools: of a policy by its calls, of a judge by its choices, of a policy by a judge.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use common::{fail, metrics, only_run, small, succeed, trainer};
use serde_json::{Value, json};

fn file(dir: &Path, name: &str, rows: impl IntoIterator<Item = Value>) -> String {
    let lines: Vec<String> = rows.into_iter().map(|row| row.to_string()).collect();
    let path = dir.join(name);
    std::fs::write(&path, lines.join("\n")).unwrap();
    path.display().to_string()
}

/// One step of a small model over bytes.
fn run(dir: &Path, name: &str, data: &str, part: &str, set: &[&str]) -> PathBuf {
    let dir = dir.join(name);
    let data = format!("data.path={data}");
    let parts = format!("reward.parts=[{part}]");
    let all = [
        "run.steps=1",
        "data.task=",
        &data,
        &parts,
        "model.max_position_embeddings=256",
        "guard.patience=100",
    ];
    succeed(&mut small(&dir, &[&all[..], set].concat()));
    only_run(&dir)
}

fn samples(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("rollouts/step-000001.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_judge_is_rewarded_by_labels_and_then_rewards_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = (0..20).map(|i| {
        json!({"id": format!("t{i}"), "kind": "pairwise", "prompt": format!("{i}: "),
        "label": if i % 2 == 0 { "1" } else { "2" }})
    });
    let tasks = file(dir.path(), "tasks.jsonl", tasks);
    let critique = r#"{ kind = "critique", variant = "bare" }"#;
    let set = ["data.answer_column=label", "rollout.max_new_tokens=1", "rollout.group=64"];
    let judge = run(dir.path(), "judge", &tasks, critique, &set);
    let read: Vec<(String, f64)> = samples(&judge)
        .iter()
        .map(|s| (s["response"].as_str().unwrap().to_owned(), s["reward"].as_f64().unwrap()))
        .collect();
    // Among 384 random bytes there are right digits; nothing else is rewarded.
    assert!(read.iter().any(|(_, reward)| *reward == 1.0));
    assert!(
        read.iter().all(|(text, reward)| *reward == 0.0 || ["1", "2"].contains(&text.trim())),
        "{read:?}"
    );

    let questions = (0..20).map(|i| json!({"prompt": format!("say {i}")}));
    let questions = file(dir.path(), "questions.jsonl", questions);
    let part = format!(
        r#"{{ kind = "judge", judge = {{ model = "{}", chat = false, variant = "bare", max_tokens = 1 }} }}"#,
        judge.display()
    );
    let set = ["rollout.max_new_tokens=4", "eval.every=1"];
    let policy = run(dir.path(), "policy", &questions, &part, &set);
    let rows = metrics(&policy);
    // Every match gives one point to two samples; a group of one (evaluation) has nobody to meet.
    assert_eq!(rows[1]["reward/mean"], 0.5);
    assert_eq!(rows[0]["eval/heldout/reward"], 0.5);
}

/// A server that prefers the longer response.
fn longer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = |mut stream: TcpStream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
            if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        let part = |n: u32| {
            let start = prompt.find(&format!("<response_{n}>\n")).unwrap();
            prompt.find(&format!("\n</response_{n}>")).unwrap() - start
        };
        let text = format!("<choice>\n{}\n</choice>", if part(1) >= part(2) { 1 } else { 2 });
        let body = json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes());
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || answer(stream));
        }
    });
    base
}

#[test]
fn a_judge_on_a_server_decides_who_wins() {
    let dir = tempfile::tempdir().unwrap();
    let questions = (0..20).map(|i| json!({"prompt": format!("say {i}")}));
    let questions = file(dir.path(), "questions.jsonl", questions);
    let part = format!(
        r#"{{ kind = "judge", judge = {{ model = "m", server = "{}", variant = "think", both = true }} }}"#,
        longer()
    );
    let policy =
        run(dir.path(), "policy", &questions, &part, &["rollout.max_new_tokens=6", "rollout.group=2"]);
    let samples = samples(&policy);
    let mut decided = 0;
    for pair in samples.chunks(2) {
        let said = |s: &Value| s["response"].as_str().unwrap().trim().len();
        let reward = |s: &Value| s["reward"].as_f64().unwrap();
        assert_eq!(reward(&pair[0]) + reward(&pair[1]), 1.0);
        if said(&pair[0]) != said(&pair[1]) {
            decided += 1;
            assert_eq!(reward(&pair[0]) > reward(&pair[1]), said(&pair[0]) > said(&pair[1]), "{pair:?}");
        }
    }
    assert!(decided > 0, "{samples:?}");
}

#[test]
fn a_policy_is_rewarded_for_its_calls() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is to be called, so that random text is right as long as it is no call.
    let answer = json!({"gold": [], "format": "hermes", "tools": []}).to_string();
    let rows = (0..20).map(|i| json!({"prompt": format!("{i}"), "answer": answer}));
    let data = file(dir.path(), "calls.jsonl", rows);
    let parts = r#"{ kind = "tool_score" }, { kind = "tool_score", measure = "toolrl", name = "toolrl", weight = 0.5 }"#;
    let policy = run(dir.path(), "policy", &data, parts, &["eval.every=1"]);
    let rows = metrics(&policy);
    assert_eq!(
        (&rows[1]["reward/part/tool_score"], &rows[1]["reward/part/toolrl"]),
        (&json!(1.0), &json!(3.0))
    );
    assert_eq!((&rows[1]["reward/mean"], &rows[1]["eval/heldout/exact"]), (&json!(2.5), &json!(1.0)));
}

#[test]
fn settings_and_data_at_fault_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let answer = json!({"gold": [{"name": "f"}]}).to_string();
    let data = file(dir.path(), "calls.jsonl", (0..20).map(|_| json!({"prompt": "a", "answer": answer})));
    let data = format!("data.path={data}");
    for (part, what) in [
        (r#"{ kind = "tool_score" }"#, "gold[0].arguments"),
        (r#"{ kind = "tool_score", measure = "bfc" }"#, "expected one of rule, bfcl"),
        (r#"{ kind = "exact", measure = "bfcl" }"#, "`measure` belongs to tool_score"),
        (r#"{ kind = "critique", variant = "thinking" }"#, "expected think, no_think or bare"),
        (r#"{ kind = "critique", bonus = 0.5 }"#, "expected 0 to 0.1"),
        (r#"{ kind = "judge" }"#, "judge needs"),
        (r#"{ kind = "judge", judge = { model = "no/such" } }"#, "there is no no/such"),
        (r#"{ kind = "judge", judge = { model = "m", server = "localhost" } }"#, "expected http://"),
    ] {
        let parts = format!("reward.parts=[{part}]");
        let set = ["run.steps=1", "data.task=", &data, &parts, "eval.every=0"];
        let (code, error) = fail(&mut small(&dir.path().join("runs"), &set));
        assert!(code != 0 && error.contains(what), "{error}");
    }
    let (_, error) = fail(trainer().args(["judge", "no/such", "tasks.jsonl", "-o", "x"]));
    assert!(error.contains("tasks.jsonl"), "{error}");
}
