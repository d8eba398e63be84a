//! Recorded experts are replayed, or the update fails and names the sample; it never routes on quietly.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use rollout_engine::{Engine, EngineOptions, Request, SamplingParams};
use train_core::config::Layers;
use train_core::learner::{Learner, UpdateReport};
use train_core::sample::Sample;
use train_core::types::{Prompt, SampleKey};

fn model() -> qwen3::Model {
    let config = qwen3::Config::from_json(
        r#"{ "model_type": "qwen3_moe", "vocab_size": 16, "hidden_size": 12, "intermediate_size": 16,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6,
             "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 32,
             "tie_word_embeddings": true, "num_experts": 6, "num_experts_per_tok": 2, "initializer_range": 0.3,
             "moe_intermediate_size": 8, "norm_topk_prob": true }"#,
    )
    .unwrap();
    let stream = rollout_engine::random::Stream::Init;
    qwen3::Model::init(config, |i| rollout_engine::random::keyed_rng(7, stream, [i as u64, 0])).unwrap()
}

fn samples(model: &qwen3::Model) -> Vec<Sample> {
    let decoder = Arc::new(qwen3::Decoder::new(model, 32).unwrap());
    let options = EngineOptions { record_routes: true, ..EngineOptions::default() };
    let params = Arc::new(SamplingParams { max_new_tokens: 5, ..SamplingParams::default() });
    let request = |id: u64| Request {
        id,
        prompt: vec![3, 4 + id as u32],
        items: qwen3::VisualItems::default(),
        samples: (0..2).map(|k| [id, k]).collect(),
        seed: 1,
        params: params.clone(),
    };
    let mut engine = Engine::new(decoder, options).unwrap();
    let generations = engine.generate(vec![request(0), request(1)]).unwrap().into_iter();
    generations
        .map(|g| {
            let prompt = Prompt {
                id: g.request,
                task: "test".into(),
                tokens: vec![3, 4 + g.request as u32],
                text: String::new(),
                answer: None,
                images: Default::default(),
                columns: std::collections::BTreeMap::new(),
            };
            let key = SampleKey { prompt: g.request, epoch: 0, index: g.sample as u32 };
            let advantage = if g.sample == 0 { 1.0 } else { -1.0 };
            let sample = Sample::new(key, Arc::new(prompt), g.request as u32, String::new(), g);
            Sample { advantage, ..sample }
        })
        .collect()
}

fn update(set: &[&str], change: impl FnOnce(&mut Vec<Sample>)) -> Result<UpdateReport, String> {
    let mut layers = Layers::preset("reverse").unwrap();
    set.iter().for_each(|s| layers.set(s, "test").unwrap());
    let config = layers.resolve().unwrap();
    let model = model();
    let mut samples = samples(&model);
    change(&mut samples);
    let loss = config.loss_choice().unwrap().loss;
    Learner::new(model, loss, &config).update(&mut samples, 1).map_err(|e| e.to_string())
}

#[test]
fn replay_runs_what_was_recorded() {
    for (routing, minibatches) in [("r3", 1), ("r3", 2), ("r2", 2)] {
        let (routing, minibatches) =
            (format!("update.routing={routing}"), format!("update.minibatches={minibatches}"));
        let report = update(&[&routing, &minibatches, "rollout.prompts=2"], |_| {}).unwrap();
        // The first mini-batch runs under the weights that recorded; the second may already choose otherwise.
        assert!(report.discrepancy.exact_match().unwrap() > 0.5);
        assert_eq!(report.mismatch.unwrap().max_abs, 0.0);
    }
    // With one update the old policy is the current one: R2 has nothing to replay.
    assert_eq!(update(&["update.routing=r2"], |_| {}).unwrap().discrepancy.exact_match(), None);
}

#[test]
fn routes_that_cannot_be_replayed_name_their_sample() {
    let refuse = |change: fn(&mut Vec<Sample>)| update(&["update.routing=r3"], change).err().unwrap();
    assert_eq!(
        refuse(|s| s[3].routes = None),
        "update.routing: no experts are recorded for sample 1 of prompt 1 (epoch 0)"
    );
    let swapped = refuse(|s| s[2].routes = s[0].routes.clone());
    let named = "update.routing: sample 0 of prompt 1 (epoch 0): the trace was recorded for other tokens";
    assert!(swapped.starts_with(named), "{swapped}");
    let forgotten = refuse(|s| s[1].routes.as_mut().unwrap().invalidate(2..3));
    assert_eq!(
        forgotten,
        "update.routing: sample 1 of prompt 0 (epoch 0): no experts are recorded for row 2"
    );
}
