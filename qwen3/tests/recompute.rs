//! Layers that run again in the backward give the bits of layers that are kept.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use candle_core::Tensor;
use common::{random_model, tiny, vl};
use moe_routing::{MissingPolicy, RouteMode, RouteTrace};
use proptest::prelude::*;
use qwen3::ops::HeadLogProbs;
use qwen3::{Architecture, Batch, Config, ForwardOptions, Hidden, Model, Parameter, VisualItems};

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// A loss of log-probabilities, entropies and, with experts, router logits; and the bits of states and gradients.
fn gradients(
    hidden: &Hidden,
    head: &Tensor,
    parameters: &[Parameter],
    tokens: &[u32],
    chunk: usize,
    aux: bool,
) -> Vec<Vec<u32>> {
    let targets: Vec<u32> = tokens.iter().map(|t| (t + 1) % 16).collect();
    let op = HeadLogProbs::new(targets.into(), 0.9, chunk, Default::default());
    let scores = hidden.states.apply_op2(head, op).unwrap();
    let weights: Vec<f32> = (0..2 * tokens.len()).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.5).collect();
    let weights = Tensor::from_vec(weights, scores.shape(), scores.device()).unwrap();
    let mut loss = (scores * weights).unwrap().sum_all().unwrap();
    if aux {
        for logits in &hidden.router_logits {
            loss = (loss + logits.sqr().unwrap().mean_all().unwrap()).unwrap();
        }
    }
    let store = loss.backward().unwrap();
    let mut all = vec![bits(&hidden.states)];
    all.extend(hidden.router_logits.iter().map(bits));
    // The head's gradient of an untied model, too.
    all.extend(parameters.iter().map(|p| bits(store.get(p.var.as_tensor()).expect(&p.name))));
    all
}

fn run(model: &Model, batch: &Batch, routing: RouteMode<'_>, chunk: usize, aux: bool) -> Vec<Vec<u32>> {
    let hidden = model.forward(batch, &ForwardOptions { routing, no_grad: false }).unwrap();
    let head =
        if model.config().tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let head = model.parameters().iter().find(|p| p.name == head).unwrap().var.as_tensor();
    gradients(&hidden, head, model.parameters(), &batch.tokens, chunk, aux)
}

/// Groups of segments behind a shared prefix.
fn batch(groups: &[(usize, Vec<usize>)]) -> Batch {
    let mut batch = Batch::new();
    let mut next = 0u32;
    let mut tokens = |n: usize| {
        (0..n)
            .map(|_| {
                next += 7;
                next % 16
            })
            .collect::<Vec<_>>()
    };
    for (prefix, own) in groups {
        let prefix = batch.push(&tokens(*prefix), None);
        for n in own {
            batch.push(&tokens(*n), Some(prefix));
        }
    }
    batch
}

fn configs() -> impl Strategy<Value = Config> {
    let architecture =
        prop_oneof![Just(Architecture::Llama), Just(Architecture::Qwen3), Just(Architecture::Qwen3Moe)];
    (architecture, any::<bool>(), 1usize..4, 3usize..20).prop_map(|(architecture, tied, layers, hidden)| {
        Config {
            tie_word_embeddings: tied,
            num_hidden_layers: layers,
            hidden_size: hidden,
            head_dim: 4,
            ..tiny(architecture)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gradients_have_the_bits_of_those_without(
        config in configs(), aux in any::<bool>(), chunk in 1usize..40, seed in 0u64..1000,
        groups in prop::collection::vec((1usize..6, prop::collection::vec(1usize..5, 0..3)), 1..4),
    ) {
        let batch = batch(&groups);
        let mut model = random_model(config, seed);
        let expected = run(&model, &batch, RouteMode::Natural, chunk, aux);
        model.set_recompute(true);
        prop_assert!(run(&model, &batch, RouteMode::Natural, chunk, aux) == expected);
    }
}

/// With experts that the router would not choose.
#[test]
fn replayed_experts_run_again() {
    let mut model = random_model(tiny(Architecture::Qwen3Moe), 5);
    let batch = batch(&[(4, vec![3, 2]), (5, vec![])]);
    let record = ForwardOptions { routing: RouteMode::Record { policy_version: 0 }, no_grad: true };
    let recorded = model.forward(&batch, &record).unwrap().traces;
    let other = |trace: &RouteTrace, sequence: &[u32]| {
        let mut out = RouteTrace::new(trace.shape().clone(), 0);
        for (row, at) in sequence.iter().enumerate() {
            // The rows of a shared prefix have the same experts in both sequences.
            let ids: Vec<u32> = (0..3).flat_map(|layer| [(*at + layer) % 8, (*at + layer + 3) % 8]).collect();
            assert_eq!(trace.ids(row, 0).unwrap().count(), 2);
            out.push(batch.tokens[*at as usize], &ids).unwrap();
        }
        out
    };
    let traces: Vec<RouteTrace> =
        recorded.iter().zip(batch.sequences()).map(|(trace, rows)| other(trace, &rows)).collect();
    let traces: Vec<&RouteTrace> = traces.iter().collect();
    let replay = RouteMode::Replay { traces: &traces, missing: MissingPolicy::Error };
    let natural = run(&model, &batch, RouteMode::Natural, 100, true);
    let expected = run(&model, &batch, replay, 100, true);
    assert!(expected != natural);
    model.set_recompute(true);
    assert!(run(&model, &batch, replay, 100, true) == expected);
}

#[test]
fn towers_too() {
    for moe in [false, true] {
        let (_dir, mut model) = vl::model(&vl::config_json(moe));
        let batch = Batch::pack([&vl::INPUT[..], &[4, 9]]);
        let items = VisualItems { prompt_lens: vec![vl::INPUT.len(), 0], ..vl::items() };
        let run = |model: &qwen3::VlModel| {
            let hidden = model.forward(&batch, &items, &ForwardOptions::default()).unwrap();
            let head = if moe { "lm_head.weight" } else { "model.language_model.embed_tokens.weight" };
            let head = model.parameters().iter().find(|p| p.name == head).unwrap().var.as_tensor().clone();
            gradients(&hidden, &head, model.parameters(), &batch.tokens, 8, true)
        };
        let expected = run(&model);
        model.set_recompute(true);
        assert!(run(&model) == expected);
        model.freeze_vision();
        assert!(run(&model)[..] == expected[..run(&model).len()]);
    }
}

/// A graph can be differentiated again, and where a loss does not read the states, the router still learns.
#[test]
fn any_loss_on_the_outputs_has_a_gradient() {
    let mut model = random_model(tiny(Architecture::Qwen3Moe), 2);
    let batch = batch(&[(6, vec![])]);
    let run = |model: &Model| {
        let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
        let loss = hidden.router_logits[1].sqr().unwrap().sum_all().unwrap();
        let store = [loss.backward().unwrap(), loss.backward().unwrap()];
        let found = |store: &candle_core::backprop::GradStore| {
            let gradients = model.parameters().iter().map(|p| store.get(p.var.as_tensor()).map(bits));
            gradients.collect::<Vec<_>>()
        };
        assert!(found(&store[0]) == found(&store[1]));
        found(&store[0])
    };
    let expected = run(&model);
    model.set_recompute(true);
    let found = run(&model);
    for ((found, expected), p) in found.iter().zip(&expected).zip(model.parameters()) {
        // What the loss does not reach has no gradient, or one of zeros from the layer that it leaves.
        match expected {
            Some(_) => assert!(found == expected, "{}", p.name),
            None => assert!(found.iter().flatten().all(|bits| *bits == 0), "{}", p.name),
        }
    }
}
