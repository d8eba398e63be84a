//! Reinforcement learning of a model that sees: the same log-probabilities in sampling and training, and exact resume.
#![allow(missing_docs, clippy::unwrap_used)]

use train_core::config::{Config, Layers};
use train_core::data::{GeneratedSource, TextCodec};
use train_core::rundir::RunDir;
use train_core::trainer::Trainer;

const SETTINGS: &[&str] = &[
    "model.architecture=\"qwen3_vl\"",
    "model.hidden_size=32",
    "model.intermediate_size=48",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=16",
    "model.mrope_section=[4, 2, 2]",
    "model.vision_hidden_size=16",
    "model.vision_intermediate_size=24",
    "model.vision_num_heads=2",
    "data.task=\"shapes\"",
    "data.levels=[2, 4]",
    "rollout.prompts=4",
    "reward.parts=[{ kind = \"ended\", weight = 1.0 }]",
    "rollout.group=4",
    "rollout.max_new_tokens=3",
    "loss.objective=\"sapo\"",
    "update.minibatches=2",
    "eval.prompts=6",
    "eval.every=1",
    "ckpt.every=1",
    "run.steps=3",
];

fn config(more: &[&str]) -> Config {
    let mut layers = Layers::defaults();
    SETTINGS.iter().chain(more).for_each(|setting| layers.set(setting, "--set").unwrap());
    layers.resolve().unwrap()
}

fn weights(trainer: &Trainer) -> Vec<u32> {
    let values = |p: &qwen3::Parameter| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let model = &trainer.learner.model;
    model.parameters().iter().flat_map(values).map(f32::to_bits).collect()
}

#[test]
fn what_is_sampled_is_what_is_trained_and_a_resumed_run_ends_the_same() {
    for positions in ["qwen3_vl", "mrope_i", "vanilla"] {
        let more = [format!("model.position_scheme=\"{positions}\"")];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut whole = Trainer::create(config(&more), RunDir::create(dir.path(), "whole").unwrap()).unwrap();
        let start = weights(&whole);
        for _ in 0..3 {
            let report = whole.step().unwrap();
            // The sampler shares a prompt's picture between samples, and so does training: not a bit is lost.
            assert_eq!(report.row.get("mismatch/max_abs"), Some(0.0), "{positions}");
            assert!(report.row.get("eval/heldout/exact").is_some());
        }
        let tower = whole.learner.model.text().parameters().len();
        assert!(whole.learner.model.parameters().len() > tower);
        assert!(weights(&whole) != start, "{positions}: nothing was learned");

        let mut cut = Trainer::create(config(&more), RunDir::create(dir.path(), "cut").unwrap()).unwrap();
        cut.step().unwrap();
        let path = cut.dir.path().to_owned();
        drop(cut);
        let (mut resumed, _) = Trainer::resume(&path, false).unwrap();
        resumed.step().unwrap();
        resumed.step().unwrap();
        assert!(weights(&resumed) == weights(&whole), "{positions}: the weights differ");
    }
}

#[test]
fn pictures_need_a_model_that_sees() {
    let config = config(&["model.architecture=\"qwen3\""]);
    let codec = TextCodec::characters("0123456789 sxot?=").unwrap();
    let error = GeneratedSource::new(&config.data, codec, None, 0, 2).err().unwrap().to_string();
    assert!(error.contains("needs a model with a vision tower"), "{error}");
}
