//! From a model to a gate, to text under it, and to what it changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{fail, only_run, succeed, trainer};

fn stdout(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

#[test]
fn a_gate_is_trained_used_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let prompts = ["да и нет", "да или нет", "no and yes", "да"];
    let lines = |language: &str| -> String {
        let line =
            |p: &&str| format!("{{\"prompt\": \"{p}\", \"answer\": \"да\", \"language\": \"{language}\"}}\n");
        prompts.iter().map(line).collect()
    };
    std::fs::write(at("prompts.jsonl"), lines("ru")).unwrap();
    std::fs::write(at("texts.txt"), "да и нет\nyes and no\n\nнет и да\nда\nno\n").unwrap();
    std::fs::write(at("more.jsonl"), "{\"text\": \"是和不是\"}\n").unwrap();
    // Random weights over bytes: it writes all scripts.
    let mut make = trainer();
    make.args(["run", "reverse-dense", "--set", &format!("run.dir={:?}", at("runs"))]);
    for set in [
        "data.task=\"\"",
        "run.steps=1",
        "rollout.prompts=2",
        "rollout.group=2",
        "eval.prompts=1",
        "eval.every=0",
        "model.hidden_size=24",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=12",
        "model.intermediate_size=24",
        "model.num_hidden_layers=1",
        "data.eval_share=0.25",
        "log.console=quiet",
    ] {
        make.args(["--set", set]);
    }
    make.args(["--set", &format!("data.path={:?}", at("prompts.jsonl"))]);
    succeed(&mut make);
    let run = only_run(&dir.path().join("runs"));

    let train = |output: &str| {
        let mut command = trainer();
        command.args(["gate", "train"]).arg(&run).args([
            &at("texts.txt"),
            &at("more.jsonl"),
            "--output",
            &at(output),
        ]);
        command.args(["--width", "8", "--steps", "5", "--positions", "16"]);
        command
    };
    let told = stdout(&mut train("gate"));
    assert!(
        told.contains("5 steps; on ") && told.contains("cyrillic") && told.contains("The gate: "),
        "{told}"
    );
    let (code, line) = fail(train("none").args(["--taxonomy", "script17"]));
    assert_eq!(
        (code, line.as_str()),
        (2, "error: gate: unknown taxonomy `script17` (known: paper4, script16)")
    );
    std::fs::write(at("bad.jsonl"), "{\"text\": \"да\"}\n{}\n").unwrap();
    let (_, line) =
        fail(trainer().args(["gate", "train"]).arg(&run).args([&at("bad.jsonl"), "--output", &at("x")]));
    assert!(line.contains("bad.jsonl, line 2: no text in `text`"), "{line}");
    // A surrogate alone is no character, and neither is a byte that UTF-8 lacks.
    for (bad, expected) in
        [(&br#"{"text": "\ud800"}"#[..], "line 3: "), (b"{\"text\": \"\xff\"}", "line 3: not UTF-8")]
    {
        let lines =
            [&b"{\"text\": \"\xd0\xb4\xd0\xb0\"}\n{\"text\": \"yes and no\"}\n"[..], bad, b"\n"].concat();
        std::fs::write(at("broken.jsonl"), lines).unwrap();
        let of = |more: &[&str]| {
            let mut command = trainer();
            command.args(["gate", "train"]).arg(&run).args([
                &at("broken.jsonl"),
                "--output",
                &at("y"),
                "--width",
                "8",
            ]);
            command.args(["--steps", "2", "--positions", "8"]).args(more);
            command
        };
        let (_, line) = fail(&mut of(&[]));
        assert!(line.contains("broken.jsonl") && line.contains(expected), "{line}");
        let told = succeed(&mut of(&["--skip-bad"]));
        assert!(String::from_utf8_lossy(&told.stderr).contains("broken.jsonl: 1 broken lines are left out"));
    }

    let gate = at("gate");
    let text =
        stdout(trainer().arg("generate").arg(&run).args(["да и ", "--gate", &gate, "--max-new-tokens", "9"]));
    assert!(text.starts_with("да и "), "{text:?}");
    // Drafted by itself, it writes the same.
    let drafted = trainer()
        .arg("generate")
        .arg(&run)
        .args(["да и ", "--gate", &gate, "--max-new-tokens", "9", "--draft"])
        .arg(&run)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(drafted.stdout).unwrap(), text);
    let (_, line) = fail(trainer().arg("generate").arg(&run).args(["да", "--gate", &at("nowhere")]));
    assert!(line.contains("nowhere"), "{line}");

    let eval = |prompts: &str| {
        let mut command = trainer();
        command.args(["gate", "eval"]).arg(&run).args([
            &at(prompts),
            "--gate",
            &gate,
            "--max-new-tokens",
            "20",
        ]);
        command
    };
    let told = stdout(&mut eval("prompts.jsonl"));
    for expected in ["ru         no gate", "ru         gate", "McNemar", "lcg/flip_rate"] {
        assert!(told.contains(expected), "{told}");
    }
    std::fs::write(at("unknown.jsonl"), lines("tlh")).unwrap();
    let (_, line) = fail(&mut eval("unknown.jsonl"));
    assert!(line.contains("unknown.jsonl, line 1") && line.contains("`tlh`"), "{line}");
    let (_, line) = fail(eval("unknown.jsonl").arg("--skip-bad"));
    assert!(line.contains("no prompts"), "{line}");
}
