//! A sample depends on its prompt, key, seed and weights alone, and what is recorded of it is what training
//! computes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use moe_routing::{MissingPolicy, RouteMode, RouteTrace};
use proptest::prelude::*;
use qwen3::{Batch, Config, Decoder, ForwardOptions, Model, VisualItems};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{Engine, EngineOptions, Error, Finish, Generation, Request, SamplingParams};

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

fn engine(model: &Model, options: EngineOptions) -> Engine {
    Engine::new(Arc::new(Decoder::new(model, 48).unwrap()), options).unwrap()
}

fn request(id: u64, prompt: Vec<u32>, samples: u64, params: &Arc<SamplingParams>) -> Request {
    let samples = (0..samples).map(|i| [id, i]).collect();
    Request { id, prompt, items: VisualItems::default(), samples, seed: 5, params: params.clone() }
}

type Comparable = (Vec<u32>, Vec<u32>, Vec<u32>, Finish, Option<RouteTrace>);

fn comparable(g: &Generation) -> Comparable {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect();
    (g.tokens.clone(), bits(&g.logps), bits(&g.truncated_logps), g.finish, g.routes.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_sample_does_not_depend_on_the_batch(
        prompts in prop::collection::vec(prop::collection::vec(0u32..20, 1..12), 1..6),
        samples in 1u64..5, max_rows in 1usize..20, new in 1usize..12, moe: bool, top_k in 0usize..4,
    ) {
        let model = model(moe);
        let params = Arc::new(SamplingParams {
            max_new_tokens: new, stop_tokens: vec![1], top_k, temperature: 0.9, ..Default::default()
        });
        let run = |requests: Vec<Request>, max_rows: usize| -> BTreeMap<(u64, usize), Comparable> {
            let mut engine = engine(&model, EngineOptions { max_rows, record_routes: moe, policy_version: 2, ..Default::default() });
            let all = engine.generate(requests).unwrap();
            all.iter().map(|g| ((g.request, g.sample), comparable(g))).collect()
        };
        let requests: Vec<Request> =
            prompts.iter().enumerate().map(|(i, p)| request(i as u64, p.clone(), samples, &params)).collect();
        let together = run(requests.clone(), 256);
        prop_assert_eq!(together.len(), prompts.len() * samples as usize);
        let mut backwards = requests.clone();
        backwards.reverse();
        prop_assert_eq!(&run(backwards, max_rows), &together);
        for request in requests {
            let id = request.id;
            for (key, alone) in run(vec![request], max_rows) {
                prop_assert_eq!(&alone, &together[&key]);
                prop_assert_eq!(key.0, id);
            }
        }
    }

    #[test]
    fn recorded_log_probabilities_are_those_of_the_training_forward(
        prompt in prop::collection::vec(0u32..20, 1..12), new in 1usize..12, moe: bool,
        temperature in prop_oneof![Just(1.0f32), Just(0.6)],
    ) {
        let model = model(moe);
        let params = Arc::new(SamplingParams { max_new_tokens: new, stop_tokens: vec![1], temperature, ..Default::default() });
        let mut engine = engine(&model, EngineOptions { max_rows: 7, record_routes: true, policy_version: 2, ..Default::default() });
        for g in engine.generate(vec![request(0, prompt.clone(), 3, &params)]).unwrap() {
            let mut tokens = prompt.clone();
            tokens.extend_from_slice(&g.tokens);
            let inputs = &tokens[..tokens.len() - 1];
            let batch = Batch::pack([inputs]);
            let routing = RouteMode::Record { policy_version: 2 };
            let hidden = model.forward(&batch, &ForwardOptions { routing, no_grad: true }).unwrap();
            let scores = model.log_probs(&hidden.states, &tokens[1..], f64::from(temperature)).unwrap();
            let from = prompt.len() - 1;
            prop_assert_eq!(&scores.logp.to_vec1::<f32>().unwrap()[from..], &g.logps[..]);
            prop_assert_eq!(&scores.entropy.to_vec1::<f32>().unwrap()[from..], &g.entropies[..]);
            // The trace of a shared prompt, cut into steps, is that of one cold pass …
            prop_assert_eq!(g.routes.as_ref(), hidden.traces.first());
            prop_assert_eq!(g.routes.is_some(), moe);
            // … and belongs to the whole sequence as well, whose last token was never fed.
            let Some(trace) = &g.routes else { continue };
            let traces = [trace];
            let routing = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
            for tokens in [inputs, &tokens] {
                let options = ForwardOptions { routing, no_grad: true };
                let hidden = model.forward(&Batch::pack([tokens]), &options).unwrap();
                let states = hidden.states.narrow(0, 0, inputs.len()).unwrap();
                let scores = model.log_probs(&states, &[&prompt[1..], &g.tokens].concat(), f64::from(temperature)).unwrap();
                prop_assert_eq!(&scores.logp.to_vec1::<f32>().unwrap()[from..], &g.logps[..]);
            }
        }
    }
}

#[test]
fn samples_follow_the_distribution() {
    let model = model(false);
    let params = Arc::new(SamplingParams { max_new_tokens: 1, ..Default::default() });
    let draws = 6000;
    let mut engine = engine(&model, EngineOptions::default());
    let all = engine.generate(vec![request(0, vec![3, 4], draws, &params)]).unwrap();
    let batch = Batch::pack([[3u32, 4].as_slice()]);
    let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
    let logits = model.logits(&hidden.states).unwrap().to_vec2::<f32>().unwrap().remove(1);
    let total: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
    // Pearson's χ² with 19 degrees of freedom: 43.8 is passed by one seed in a thousand; the seed is fixed.
    let chi2: f64 = logits
        .iter()
        .enumerate()
        .map(|(token, z)| {
            let expected = f64::from(*z).exp() / total * draws as f64;
            let found = all.iter().filter(|g| g.tokens == [token as u32]).count() as f64;
            (found - expected).powi(2) / expected
        })
        .sum();
    assert!(chi2 < 43.8, "χ² = {chi2}");
}

#[test]
fn truncation_keeps_what_it_says() {
    let logits = [1.0f32, 3.0, 2.0, 2.0, -1.0];
    let draw = |params: &SamplingParams, u: f64| rollout_engine::draw(&logits, params, u).unwrap();
    let tokens = |params: SamplingParams| -> Vec<u32> {
        let mut seen: Vec<u32> = (0..1000).map(|i| draw(&params, f64::from(i) / 1000.0).token).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(tokens(SamplingParams::default()), [0, 1, 2, 3, 4]);
    assert_eq!(tokens(SamplingParams { top_k: 2, ..Default::default() }), [1, 2]);
    assert_eq!(tokens(SamplingParams { top_p: 0.5, ..Default::default() }), [1]);
    assert_eq!(tokens(SamplingParams { min_p: 0.3, ..Default::default() }), [1, 2, 3]);
    assert_eq!(tokens(SamplingParams { temperature: 0.0, ..Default::default() }), [1]);
    let whole = draw(&SamplingParams::default(), 0.3);
    let cut = draw(&SamplingParams { top_k: 2, ..Default::default() }, 0.3);
    let p = |t: usize| f64::from(logits[t]).exp();
    let kept = (p(1) + p(2)) / (0..5).map(p).sum::<f64>();
    assert_eq!(cut.token, 1);
    assert_eq!(whole.token, 1);
    assert_eq!(cut.logp, whole.logp);
    assert!((f64::from(cut.truncated_logp) - (f64::from(cut.logp) - kept.ln())).abs() < 1e-6);
    assert_eq!(draw(&SamplingParams { temperature: 0.0, ..Default::default() }, 0.9).truncated_logp, 0.0);
}

#[test]
fn responses_end_where_they_must() {
    let model = model(false);
    let params = Arc::new(SamplingParams { max_new_tokens: 100, ..Default::default() });
    let mut engine = engine(&model, EngineOptions::default());
    let all = engine.generate(vec![request(0, vec![3; 40], 4, &params)]).unwrap();
    // 48 places: 40 prompt tokens, and 9 more of which the last is never fed.
    assert!(all.iter().all(|g| g.tokens.len() == 9 && g.finish == Finish::Length));
    let params = Arc::new(SamplingParams {
        max_new_tokens: 100,
        stop_tokens: (0..20).collect(),
        ..Default::default()
    });
    let all = engine.generate(vec![request(0, vec![3; 40], 4, &params)]).unwrap();
    assert!(all.iter().all(|g| g.tokens.len() == 1 && g.finish == Finish::Stop));
}

#[test]
fn bad_requests_are_named() {
    let model = model(false);
    let mut engine = engine(&model, EngineOptions::default());
    let good = Arc::new(SamplingParams::default());
    let mut refuse = |prompt: Vec<u32>, params: &Arc<SamplingParams>| {
        engine.submit(request(7, prompt, 1, params)).unwrap_err().to_string()
    };
    assert_eq!(refuse(vec![], &good), "request 7: the prompt has no tokens");
    assert_eq!(refuse(vec![20], &good), "request 7: token id 20 is outside the vocabulary of 20");
    assert_eq!(
        refuse(vec![1; 48], &good),
        "request 7: the prompt has 48 tokens, which leaves no room for a response in a context of 48"
    );
    let with = |f: &dyn Fn(&mut SamplingParams)| {
        let mut params = SamplingParams::default();
        f(&mut params);
        Arc::new(params)
    };
    assert!(
        refuse(vec![1], &with(&|p| p.temperature = f32::NAN))
            .starts_with("sampling parameter temperature is NaN")
    );
    assert!(refuse(vec![1], &with(&|p| p.top_p = 0.0)).starts_with("sampling parameter top_p is 0"));
    assert!(refuse(vec![1], &with(&|p| p.min_p = 1.5)).starts_with("sampling parameter min_p is 1.5"));
    assert!(
        refuse(vec![1], &with(&|p| p.max_new_tokens = 0))
            .starts_with("sampling parameter max_new_tokens is 0")
    );
    let nothing = rollout_engine::draw(&[f32::NEG_INFINITY; 3], &good, 0.5);
    assert!(matches!(nothing, Err(Error::NonFiniteLogits)));
    assert!(matches!(rollout_engine::draw(&[0.0, f32::NAN], &good, 0.5), Err(Error::NonFiniteLogits)));
}

#[test]
fn a_running_sample_can_be_watched() {
    let model = model(false);
    let params = Arc::new(SamplingParams { max_new_tokens: 5, ..Default::default() });
    let mut engine = engine(&model, EngineOptions::default());
    engine.submit(request(3, vec![1, 2], 2, &params)).unwrap();
    assert_eq!(engine.so_far(3, 0), None);
    let mut seen = Vec::new();
    let ended = loop {
        let ended = engine.step().unwrap();
        if !ended.is_empty() {
            break ended;
        }
        seen.push(engine.so_far(3, 1).unwrap().to_vec());
        assert_eq!(engine.so_far(3, 2), None);
    };
    assert_eq!(seen.len(), 4);
    for (n, tokens) in seen.iter().enumerate() {
        assert_eq!(*tokens, ended[1].tokens[..=n]);
    }
    assert_eq!(engine.so_far(3, 1), None);
}
