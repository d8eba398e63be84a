//! SmolLM2-135M-Instruct from its GGUF file: tokens, conversations and greedy continuations as transformers has them
//! (`tests/oracles/smollm2.py`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qwen3::Decoder;
use rollout_engine::{Engine, EngineOptions, Request, SamplingParams};
use serde_json::Value;
use train_core::chat::Chat;
use train_core::config::Layers;
use train_core::data::TextCodec;
use train_core::rundir::RunDir;
use train_core::setup::{read_architecture, read_codec, read_model};
use train_core::trainer::Trainer;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn expected() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/smollm2/expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn codec() -> TextCodec {
    read_codec(&model(), &read_architecture(&model()).unwrap()).unwrap()
}

/// Two steps of `configs/smollm2_arith.toml`, in small: the weights move, and the sampler agrees with the learner.
#[test]
#[ignore = "needs the file of scripts/get-smollm2.sh"]
fn the_arithmetic_run_trains() {
    let mut layers = Layers::defaults();
    layers.file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/smollm2_arith.toml")).unwrap();
    for set in
        ["run.steps=2", "rollout.prompts=2", "rollout.group=4", "eval.every=0", "filter.zero_variance=keep"]
    {
        layers.set(set, "test").unwrap();
    }
    layers.set(&format!("model.path={}", model().display()), "test").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::create(dir.path(), "arithmetic").unwrap();
    let mut trainer = Trainer::create(layers.resolve().unwrap(), run).unwrap();
    let before = trainer.learner.model.text().to_tensors().unwrap();
    for _ in 0..2 {
        let report = trainer.step().unwrap();
        assert!(
            report.row.get("mismatch/max_abs").unwrap() < 1e-4,
            "{:?}",
            report.row.get("mismatch/max_abs")
        );
        println!("reward {:?}", report.row.get("reward/mean"));
    }
    assert_ne!(trainer.learner.model.text().to_tensors().unwrap(), before);
    let text = std::fs::read_to_string(trainer.dir.file("rollouts/step-000001.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    println!("{} → {} ({})", sample["prompt"], sample["response"], sample["answer"]);
    // The template's tokens are what the policy read, the question alone is what people and rewards do.
    assert!(!sample["prompt"].as_str().unwrap().contains("<|im_start|>"));
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
#[ignore = "needs the file of scripts/get-smollm2.sh"]
fn texts_and_conversations_have_the_right_tokens() {
    let (codec, expected) = (codec(), expected());
    for case in expected["texts"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(codec.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
        assert_eq!(codec.decode(&ids(&case["ids"])), text);
    }
    for case in expected["chats"].as_array().unwrap() {
        let messages = case["messages"].as_array().unwrap().clone();
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        assert_eq!(codec.encode_chat(&chat).unwrap(), ids(&case["ids"]), "{}", case["messages"]);
    }
    // The vocabulary has no token for this byte.
    let error = codec.encode("a\u{16}").unwrap_err().to_string();
    assert_eq!(error, "tokenizer: no token for '\\u{16}' in \"a\\u{16}\"");
}

#[test]
#[ignore = "needs the file of scripts/get-smollm2.sh"]
fn greedy_continuations_are_those_of_transformers() {
    let (codec, expected) = (codec(), expected());
    let mut cases: Vec<(String, Vec<u32>, Vec<u32>)> = Vec::new();
    for case in expected["prompts"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        cases.push((prompt.into(), codec.encode(prompt).unwrap(), ids(&case["continuation"])));
    }
    // The first of these wins by only 0.08 in logit, which f32 still tells.
    let question = Chat::prompt("", "What is the capital of France?");
    let answer = vec![504, 3575, 282, 4649, 314, 7042, 30, 2];
    cases.push(("the question".into(), codec.encode_chat(&question).unwrap(), answer));
    assert_eq!(cases.len(), 11);
    let decoder = Arc::new(Decoder::new(&read_model(&model()).unwrap(), 256).unwrap());
    let mut engine = Engine::new(decoder, EngineOptions::default()).unwrap();
    let request = |(id, (_, prompt, continuation)): (usize, &(String, Vec<u32>, Vec<u32>))| Request {
        id: id as u64,
        prompt: prompt.clone(),
        items: Default::default(),
        samples: vec![[0, 0]],
        seed: 0,
        params: Arc::new(SamplingParams {
            temperature: 0.0,
            max_new_tokens: continuation.len(),
            stop_tokens: codec.stop_tokens().to_vec(),
            ..SamplingParams::default()
        }),
    };
    let generations = engine.generate(cases.iter().enumerate().map(request).collect()).unwrap();
    for ((prompt, _, continuation), generation) in cases.iter().zip(generations) {
        assert_eq!(generation.tokens, *continuation, "{prompt}: {:?}", codec.decode(&generation.tokens));
    }
}
