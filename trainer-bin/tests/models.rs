//! The verbs that take a model: they go from a run to text and back to files.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{fail, only_run, small, succeed, trainer};

fn stdout(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).unwrap()
}

/// `model` told how conversations look.
fn teach_to_chat(model: &Path, template: &str) {
    let path = model.join("tokenizer_config.json");
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config["chat_template"] = template.into();
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn from_a_run_to_text_and_files() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&mut small(&dir.path().join("runs"), &["run.steps=1"]));
    let run = only_run(&dir.path().join("runs"));
    let greedy = ["--temperature", "0", "--max-new-tokens", "6"];

    let text = stdout(trainer().args(["generate"]).arg(&run).arg("12=").args(greedy));
    assert!(text.starts_with("12=") && text.ends_with('\n') && text.len() <= 10, "{text:?}");
    let (code, line) = fail(trainer().arg("generate").arg(&run).arg("a"));
    assert_eq!((code, line.as_str()), (2, "error: tokenizer: no token for 'a' in \"a\""));
    let (code, line) = fail(trainer().arg("generate").arg(&run).args(["1", "--top-p", "0"]));
    assert_eq!(
        (code, line.as_str()),
        (2, "error: sampling parameter top_p is 0, expected above 0, at most 1")
    );

    let copy = dir.path().join("copy");
    succeed(trainer().arg("convert").arg(&run).arg(&copy));
    let (code, line) = fail(trainer().arg("convert").arg(&run).arg(&copy));
    assert_eq!(code, 2);
    assert!(line.ends_with("copy exists already"), "{line}");
    assert_eq!(stdout(trainer().arg("generate").arg(&copy).arg("12=").args(greedy)), text);
    let half = dir.path().join("half");
    succeed(trainer().arg("convert").arg(&copy).arg(&half).args(["--dtype", "bf16"]));
    let bytes = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert!(bytes(&half) < bytes(&copy) * 2 / 3);

    let shards = dir.path().join("shards");
    succeed(trainer().arg("convert").arg(&copy).arg(&shards).args([
        "--dtype",
        "f16",
        "--max-shard-size",
        "10KB",
    ]));
    assert!(
        shards.join("model.safetensors.index.json").is_file() && !shards.join("model.safetensors").exists()
    );
    let back = dir.path().join("back");
    succeed(trainer().arg("convert").arg(&shards).arg(&back).args(["--dtype", "f16"]));
    assert!(bytes(&back) < bytes(&copy) * 2 / 3);
    let (_, line) = fail(trainer().arg("convert").arg(&copy).arg("x").args(["--max-shard-size", "5GiB"]));
    assert!(line.contains("expected a whole number with KB, MB, GB or TB"), "{line}");
    let (code, line) = fail(trainer().arg("convert").arg(&copy).arg(dir.path().join("m.gguf")));
    assert_eq!((code, line.contains("has no name in GGUF files")), (2, true), "{line}");

    let json = dir.path().join("bench.json");
    let timed = ["--batch", "2", "--length", "16", "--decode", "1,3", "--prompt", "4", "--steps", "1"];
    let said = stdout(
        trainer().arg("bench").arg(&copy).args(timed).args(["--response", "5"]).arg("--json").arg(&json),
    );
    let titles =
        ["Training step of 32 tokens", "A step of 3 sequences", "RL step of 8 samples, 5 tokens each"];
    assert!(titles.iter().all(|title| said.contains(title)), "{said}");
    let figures: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    // A token and layer pair takes 2 of the 4 experts of the small model through three products, thrice as many
    // operations forward and backward as forward.
    let experts = &figures["training"]["components"]["experts"]["flops"];
    assert_eq!(experts.as_f64().unwrap(), f64::from(2 * 16 * 2 * 2 * 3 * 3 * 2 * 16 * 8));
    assert_eq!(figures["decoding"][1]["batch"], 3);
    // Logits of the prompt's last token, and of every token of the 8 samples but the last.
    let config = std::fs::read_to_string(copy.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let logits = config["vocab_size"].as_f64().unwrap() * f64::from(1 + 8 * 4);
    let head = |figures: &serde_json::Value| figures["components"]["head"]["flops"].as_f64().unwrap();
    assert_eq!(figures["rl"]["generation"]["head"]["flops"].as_f64().unwrap(), 2.0 * 16.0 * logits);
    assert_eq!(head(&figures["decoding"][1]), 3.0 * head(&figures["decoding"][0]));
    let (code, line) = fail(trainer().arg("bench").arg(&copy).args(["--length", "129"]));
    assert_eq!((code, line.as_str()), (2, "error: sequences of 129 tokens, the model's context is 128"));

    let said = stdout(trainer().arg("inspect").arg(&copy).args(["--batch", "2", "--length", "64"]));
    assert!(said.contains("qwen3_moe, 2 layers of 16, 2 query and 1 key/value heads of 8"), "{said}");
    assert!(said.contains("model.layers.*.mlp.experts.*.up_proj.weight"), "{said}");
    // Two layers' keys and values of 8 numbers, for 128 tokens.
    assert!(said.lines().any(|l| l.starts_with("keys and values") && l.ends_with(" 16.00 KiB")), "{said}");
    let (code, line) = fail(trainer().arg("inspect").arg(&copy).args(["--length", "129"]));
    assert_eq!(code, 2);
    assert!(line.contains("--length 129: expected 1 or more, and at most the context of 128"), "{line}");

    let chat = |lines: &str, more: &[&str]| {
        let mut command = trainer();
        command.arg("chat").arg(&copy).args(greedy).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A child that refuses at once does not read.
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        let out = child.wait_with_output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(chat("12\n", &[]), (String::new(), "error: the model has no chat template\n".into()));
    teach_to_chat(&copy, "{% for m in messages %}{{ (m.content | length) ~ mode }}{% endfor %}");
    let (said, complaint) = chat("12\n\n3\n", &["--variable", "mode=="]);
    assert_eq!(said.lines().count(), 2, "{said:?} {complaint}");
    let first = stdout(trainer().arg("generate").arg(&copy).arg("2=").args(greedy));
    assert_eq!(said.lines().next(), first.strip_prefix("2=").unwrap().lines().next());
    teach_to_chat(&copy, "{{ raise_exception('not you') }}");
    assert!(chat("12\n", &[]).1.ends_with("error: chat template: not you (line 1)\n"));
}

#[test]
fn models_that_are_none() {
    for verb in [&["generate", "/nowhere", "x"][..], &["chat", "/nowhere"], &["inspect", "/nowhere"]] {
        let (code, line) = fail(trainer().args(verb));
        assert_eq!((code, line.contains("/nowhere/config.json: No such file")), (2, true), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    std::fs::write(&path, "GGUF, or not").unwrap();
    let (code, line) = fail(trainer().arg("inspect").arg(&path));
    assert_eq!((code, line.contains("broken.gguf: ")), (2, true), "{line}");
    let (code, line) = fail(trainer().args(["--set", &format!("model.path={}", path.display())]));
    assert_eq!((code, line.contains("broken.gguf: ")), (2, true), "{line}");
}

/// A vision tower is counted with the decoder: the parameters of the file, and memory that grows with patches.
#[test]
fn towers_are_inspected() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models/qwen3_vl");
    let said = |patches: &str| {
        stdout(trainer().arg("inspect").arg(&model).args(["--length", "128", "--patches", patches]))
    };
    let text = said("64");
    assert!(text.contains("vision tower: 4 blocks of 32, 4 heads, inner width 64, patches of 4"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("all ") && l.ends_with(" 175392")), "{text}");
    assert!(text.contains("model.visual.blocks.*.attn.qkv.weight"), "{text}");
    assert!(text.contains("Training passes of 1 × 128 tokens and 64 patches"), "{text}");
    let kept = |text: &str| {
        let line = text.lines().find(|l| l.starts_with("kept for the backward")).unwrap().to_owned();
        let (value, unit) = (line.split_whitespace().rev().nth(1).unwrap().to_owned(), line);
        value.parse::<f64>().unwrap() * if unit.ends_with("MiB") { 1024.0 } else { 1.0 }
    };
    assert!(kept(&said("256")) > 1.5 * kept(&text));
}
