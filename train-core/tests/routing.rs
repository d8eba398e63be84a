//! Recorded experts are replayed, or the update fails and names the sample; it never routes on quietly.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use moe_routing::RouteTrace;
use qwen3::Precision;
use rollout_engine::{Engine, EngineOptions, Request, SamplingParams};
use train_core::config::{Layers, Routing};
use train_core::learner::{Divergence, Learner, UpdateReport};
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

fn samples(model: &qwen3::Model, precision: Precision) -> Vec<Sample> {
    let decoder = Arc::new(qwen3::Decoder::with_precision(model, 32, precision).unwrap());
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
                follow_ups: Vec::new(),
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
    run(set, change).map(|(report, _)| report)
}

fn run(set: &[&str], change: impl FnOnce(&mut Vec<Sample>)) -> Result<(UpdateReport, Vec<Sample>), String> {
    let mut layers = Layers::preset("reverse").unwrap();
    set.iter().for_each(|s| layers.set(s, "test").unwrap());
    let config = layers.resolve().unwrap();
    let mut model = model();
    model.set_matmul_precision(config.model.matmul_precision);
    let mut samples = samples(&model, config.rollout.precision);
    change(&mut samples);
    let loss = config.loss_choice().unwrap().loss;
    let report = Learner::new(model, loss, &config).update(&mut samples, 0).map_err(|e| e.to_string())?;
    Ok((report, samples))
}

/// The metrics that the report of an update becomes.
fn judge(set: &[&str]) -> train_core::verdict::Verdict {
    let report = update(set, |_| {}).unwrap();
    let mut row = train_core::metrics::Row::new(1);
    row.update(&report);
    train_core::verdict::verdict(&|name| row.get(name), "natural", "bf16").unwrap()
}

#[test]
fn replay_runs_what_was_recorded() {
    for (routing, minibatches) in [("r3", 1), ("r3", 2), ("r2", 2)] {
        let (routing, minibatches) =
            (format!("update.routing={routing}"), format!("update.minibatches={minibatches}"));
        for products in ["f32", "bf16"] {
            let products = format!("model.matmul_precision={products}");
            let report = update(&[&routing, &minibatches, &products, "rollout.prompts=2"], |_| {}).unwrap();
            // The first mini-batch runs under the weights that recorded; the second may already choose otherwise.
            assert!(report.discrepancy.exact_match().unwrap() > 0.5);
            assert_eq!(report.mismatch.max_abs(), Some(0.0));
        }
    }
    // With one update the old policy is the current one: R2 has nothing to replay.
    assert_eq!(update(&["update.routing=r2"], |_| {}).unwrap().coverage, None);
}

#[test]
fn experts_under_the_wrong_tokens_show_as_discrepancy() {
    // The tokens are right, so that the digest is too, but every row holds the experts of the one before.
    let shift = |samples: &mut Vec<Sample>| {
        for sample in samples {
            let trace = sample.routes.take().unwrap();
            let fed: Vec<u32> = sample.prompt.tokens.iter().chain(&sample.response).copied().collect();
            let mut shifted = RouteTrace::new(trace.shape().clone(), 0);
            for (row, token) in fed.iter().take(trace.len()).enumerate() {
                let from = row.saturating_sub(1);
                let ids: Vec<u32> = (0..2).flat_map(|layer| trace.ids(from, layer).unwrap()).collect();
                shifted.push(*token, &ids).unwrap();
            }
            sample.routes = Some(shifted);
        }
    };
    let set = ["update.routing=r3"];
    let right = update(&set, |_| {}).unwrap();
    assert_eq!((right.mismatch.max_abs(), right.flips.exact_match()), (Some(0.0), Some(1.0)));
    let shifted = update(&set, shift).unwrap();
    assert!(shifted.mismatch.max_abs().unwrap() > 1e-3, "{:?}", shifted.mismatch);
    assert!(shifted.flips.exact_match().unwrap() < 0.9);
}

#[test]
fn a_trace_that_begins_a_row_late_is_refused() {
    let error = update(&["update.routing=r3"], |samples| {
        let trace = samples[1].routes.take().unwrap();
        let fed: Vec<u32> = samples[1].prompt.tokens.iter().chain(&samples[1].response).copied().collect();
        let mut late = RouteTrace::new(trace.shape().clone(), 0);
        for row in 1..trace.len() {
            let ids: Vec<u32> = (0..2).flat_map(|layer| trace.ids(row, layer).unwrap()).collect();
            late.push(fed[row], &ids).unwrap();
        }
        samples[1].routes = Some(late);
    });
    let error = error.err().unwrap();
    assert!(error.starts_with("update.routing: sample 1 of prompt 0 (epoch 0): "), "{error}");
}

#[test]
fn unknown_experts_are_routed_naturally_where_that_is_asked_for_and_counted() {
    let set = ["update.routing=r3", "update.missing_routes=natural"];
    let (report, samples) = run(&set, |samples| {
        samples[3].routes = None;
        samples[1].routes.as_mut().unwrap().invalidate(2..3);
    })
    .unwrap();
    let coverage = report.coverage.unwrap();
    // The prompt of sample 3 is one of two rows that only it could have covered with its own pass.
    assert_eq!(coverage.fallback_rows, samples[3].fed() as u64 + 1);
    assert!(coverage.share().unwrap() < 1.0);
    // What the router chooses under the weights that sampled is what would have been recorded.
    assert_eq!(report.mismatch.max_abs(), Some(0.0));
    let whole = update(&set, |_| {}).unwrap().coverage.unwrap();
    assert_eq!((whole.fallback_rows, whole.share()), (0, Some(1.0)));
    // A record of other tokens is no missing record.
    let swapped = update(&set, |s| s[2].routes = s[0].routes.clone()).err().unwrap();
    assert!(swapped.contains("recorded for other tokens"), "{swapped}");
}

#[test]
fn a_sampler_of_other_numbers_is_scored_again() {
    for routing in ["natural", "r2", "r3"] {
        let routing = format!("update.routing={routing}");
        let set = [&routing, "rollout.precision=bf16", "update.minibatches=2", "rollout.prompts=2"];
        let (report, samples) = run(&set, |_| {}).unwrap();
        let gap = report.mismatch.max_abs().unwrap();
        assert!(gap > 0.0 && gap < 1.0, "{gap}");
        let mut again = Divergence::default();
        samples.iter().for_each(|s| again.add(&s.logp_old, &s.logp_mu));
        assert_eq!(report.mismatch, again);
        // The experts of a sampler of other numbers are compared with the trainer's, whatever is replayed.
        assert!(report.flips.exact_match().is_some(), "{routing}");
        // The first mini-batch trains under the weights and the experts that the old policy was scored with.
        let unmoved = samples.iter().filter(|s| s.logp_old == s.logp_trained).count();
        assert!((2..4).contains(&unmoved), "{routing}: {unmoved}");
    }
    // One update trains on the old policy itself.
    let (report, samples) = run(&["rollout.precision=q8"], |_| {}).unwrap();
    assert!(samples.iter().all(|s| s.logp_old == s.logp_trained && s.logp_old != s.logp_mu));
    assert!(report.mismatch.max_abs().unwrap() > 0.0);
}

#[test]
fn staleness_and_discrepancy_are_told_apart() {
    use train_core::verdict::Cause;
    let stale = judge(&["update.minibatches=2", "rollout.prompts=2", "update.lr=0.02"]);
    assert_eq!(stale.cause, Cause::Staleness, "{}", stale.text);
    let discrepant = judge(&["rollout.precision=bf16"]);
    assert_eq!(discrepant.cause, Cause::Discrepancy, "{}", discrepant.text);
    let neither = judge(&[]);
    assert_eq!(neither.cause, Cause::Neither, "{}", neither.text);
}

#[test]
fn the_recipe_goes_by_updates_and_experts() {
    let resolve = |set: &str, experts| {
        let mut layers = Layers::preset("reverse").unwrap();
        for set in ["update.routing=auto", set] {
            layers.set(set, "test").unwrap();
        }
        layers.resolve().unwrap().update.routing_for(experts)
    };
    let of = |n: usize| resolve(&format!("update.minibatches={n}"), true);
    assert_eq!([1, 2, 4, 8].map(of), [Routing::Natural, Routing::R2, Routing::R3, Routing::R3]);
    assert_eq!(resolve("update.epochs=2", true), Routing::R2);
    assert_eq!(resolve("update.minibatches=4", false), Routing::Natural);
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
