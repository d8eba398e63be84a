//! A conversation that goes on is one sequence: its turns come out as from one pass over everything.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use moe_routing::RouteMode;
use proptest::prelude::*;
use qwen3::{Batch, Config, Decoder, ForwardOptions, Model, VisualItems};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{Engine, EngineOptions, Generation, Request, SamplingParams};

fn model(moe: bool) -> Model {
    let kind = if moe { "qwen3_moe" } else { "qwen3" };
    let config = Config::from_json(&format!(
        r#"{{ "model_type": "{kind}", "vocab_size": 20, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 48,
            "tie_word_embeddings": true, "num_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.3,
            "moe_intermediate_size": 16, "norm_topk_prob": true }}"#
    ))
    .unwrap();
    Model::init(config, |i| keyed_rng(11, Stream::Init, [i as u64, 0])).unwrap()
}

fn engine(model: &Model, max_rows: usize, keep_ended: bool) -> Engine {
    let options = EngineOptions { max_rows, record_routes: true, policy_version: 2, keep_ended };
    Engine::new(Arc::new(Decoder::new(model, 48).unwrap()), options).unwrap()
}

fn request(prompt: &[u32], samples: u64, params: &Arc<SamplingParams>) -> Request {
    let samples = (0..samples).map(|i| [3, i]).collect();
    let items = VisualItems::default();
    Request { id: 3, prompt: prompt.to_vec(), items, samples, seed: 5, params: params.clone() }
}

fn params(max_new_tokens: usize, temperature: f32) -> Arc<SamplingParams> {
    Arc::new(SamplingParams { max_new_tokens, temperature, stop_tokens: vec![1], ..Default::default() })
}

/// Tokens, and the log-probabilities of those that were drawn, by place.
type Seen = (Vec<u32>, Vec<(usize, f32)>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn turns_are_those_of_one_pass_over_the_whole(
        prompt in prop::collection::vec(0u32..20, 1..6), max_rows in 1usize..12, moe: bool,
        answers in prop::collection::vec(prop::collection::vec(0u32..20, 0..5), 1..4),
        new in 1usize..6, samples in 1u64..4,
    ) {
        let model = model(moe);
        let mut engine = engine(&model, max_rows, true);
        let first = engine.generate(vec![request(&prompt, samples, &params(new, 1.0))]).unwrap();
        let mut whole: Vec<Seen> = vec![(prompt, Vec::new()); samples as usize];
        let take = |(tokens, drawn): &mut Seen, g: &Generation| {
            drawn.extend(g.logps.iter().enumerate().map(|(i, logp)| (tokens.len() + i, *logp)));
            tokens.extend(&g.tokens);
        };
        whole.iter_mut().zip(&first).for_each(|(whole, g)| take(whole, g));
        let mut last = first;
        for answer in &answers {
            // Some samples read more than others, and in another order.
            for g in last.iter().rev() {
                let answer = [answer.as_slice(), &vec![7; g.sample]].concat();
                engine.resume(3, g.sample, &answer).unwrap();
                whole[g.sample].0.extend(answer);
            }
            last = engine.generate(Vec::new()).unwrap();
            prop_assert_eq!(last.iter().map(|g| g.sample).collect::<Vec<_>>(), (0..samples as usize).collect::<Vec<_>>());
            whole.iter_mut().zip(&last).for_each(|(whole, g)| take(whole, g));
        }
        for ((tokens, drawn), g) in whole.iter().zip(&last) {
            let batch = Batch::pack([&tokens[..tokens.len() - 1]]);
            let routing = RouteMode::Record { policy_version: 2 };
            let hidden = model.forward(&batch, &ForwardOptions { routing, no_grad: true }).unwrap();
            let scores = model.log_probs(&hidden.states, &tokens[1..], 1.0).unwrap();
            let logps = scores.logp.to_vec1::<f32>().unwrap();
            for (place, logp) in drawn {
                prop_assert_eq!(logps[place - 1].to_bits(), logp.to_bits());
            }
            prop_assert_eq!(g.routes.as_ref(), hidden.traces.first());
            prop_assert_eq!(g.routes.is_some(), moe);
        }
    }

    #[test]
    fn a_resumed_turn_is_that_of_a_cold_request(
        prompt in prop::collection::vec(0u32..20, 1..6), answer in prop::collection::vec(0u32..20, 0..5), new in 1usize..6,
    ) {
        let model = model(true);
        let greedy = params(new, 0.0);
        let mut warm = engine(&model, 8, true);
        let first = warm.generate(vec![request(&prompt, 1, &greedy)]).unwrap();
        warm.resume(3, 0, &answer).unwrap();
        let second = warm.generate(Vec::new()).unwrap();
        let everything = [&prompt[..], &first[0].tokens, &answer].concat();
        let cold = engine(&model, 8, false).generate(vec![request(&everything, 1, &greedy)]).unwrap();
        prop_assert_eq!(second, cold);
    }
}

#[test]
fn draws_of_a_later_turn_are_new_ones() {
    // Logits that do not depend on what was read: turns then differ by their random numbers alone.
    let model = model(false);
    let mut engine = engine(&model, 8, true);
    let always = Arc::new(SamplingParams { max_new_tokens: 6, temperature: 1e4, ..Default::default() });
    let first = engine.generate(vec![request(&[2], 1, &always)]).unwrap();
    engine.resume(3, 0, &[2]).unwrap();
    let second = engine.generate(Vec::new()).unwrap();
    assert_ne!(first[0].tokens, second[0].tokens);
}

#[test]
fn what_cannot_go_on_is_refused() {
    let model = model(true);
    let five = params(5, 1.0);
    let refusal = |engine: &mut Engine, sample, tokens: &[u32]| {
        engine.resume(3, sample, tokens).unwrap_err().to_string()
    };
    let mut forgetful = engine(&model, 8, false);
    forgetful.generate(vec![request(&[2, 3], 1, &five)]).unwrap();
    assert_eq!(
        refusal(&mut forgetful, 0, &[4]),
        "request 3: samples go on in an engine with keep_ended alone"
    );
    let mut engine = engine(&model, 8, true);
    engine.generate(vec![request(&[2, 3], 1, &five)]).unwrap();
    assert_eq!(refusal(&mut engine, 1, &[4]), "request 3: sample 1 has not ended, or goes on already");
    assert_eq!(refusal(&mut engine, 0, &[20]), "request 3: token id 20 is outside the vocabulary of 20");
    let long = refusal(&mut engine, 0, &[4; 46]);
    assert!(long.contains("leaves no room for a response in a context of 48"), "{long}");
    // None of these took the sample away.
    engine.resume(3, 0, &[4]).unwrap();
    assert_eq!(refusal(&mut engine, 0, &[4]), "request 3: sample 0 has not ended, or goes on already");
}
