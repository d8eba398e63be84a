//! Settings of runs under a gate.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;

use train_core::config::{Config, Layers};

/// A tiny model over bytes, and prompts in five scripts.
pub(crate) fn settings(dir: &Path) -> Vec<String> {
    let texts = [
        "да и нет",
        "yes and no",
        "是和不是",
        "はいといいえ",
        "네 그리고 아니요",
        "ναι και όχι",
        "نعم ولا",
        "כן ולא",
    ];
    let lines: String =
        texts.iter().map(|t| format!("{}\n", serde_json::json!({ "prompt": t, "answer": t }))).collect();
    let data = dir.join("prompts.jsonl");
    std::fs::write(&data, lines).unwrap();
    let mut settings = vec![format!("data.path={:?}", data.display().to_string())];
    let rest = [
        "data.task=\"\"",
        "data.eval_share=0.25",
        "model.architecture=qwen3",
        "model.hidden_size=24",
        "model.intermediate_size=32",
        "model.num_hidden_layers=1",
        "model.num_attention_heads=2",
        "model.num_key_value_heads=1",
        "model.head_dim=12",
        "model.initializer_range=0.3",
        "rollout.prompts=4",
        "rollout.group=4",
        "rollout.max_new_tokens=12",
        "update.minibatches=2",
        "update.lr=3e-3",
        "eval.every=25",
        "eval.prompts=2",
        "eval.temperature=1.0",
        "ckpt.every=0",
        "run.steps=50",
        "reward.parts=[{ kind = \"regex\", pattern = \"[a-z]\", weight = 1.0 }]",
    ];
    settings.extend(rest.map(str::to_owned));
    settings
}

pub(crate) const GATED: [&str; 5] = [
    "gate.enabled=true",
    "gate.predictor=direct",
    "gate.labels={ rule = { mass = 0.1 } }",
    "gate.rules={ require_letter = false, first_token = \"gate_only\" }",
    "gate.eval_off_every=2",
];

pub(crate) fn config(settings: &[String], more: &[&str]) -> Result<Config, String> {
    let mut layers = Layers::preset("reverse").unwrap();
    for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
        layers.set(setting, "test").unwrap();
    }
    layers.resolve().map_err(|e| e.to_string())
}
