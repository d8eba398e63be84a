//! Random routing cases.
#![allow(dead_code, missing_docs, unreachable_pub)]

use moe_routing::Router;
use proptest::prelude::*;

pub fn softmaxes() -> impl Strategy<Value = Router> {
    prop_oneof![any::<bool>().prop_map(|renorm| Router::SoftmaxTopK { renorm }), Just(Router::TopKSoftmax),]
}

pub fn routers() -> impl Strategy<Value = Router> {
    prop_oneof![
        softmaxes(),
        (any::<bool>(), 0.5f32..3.0).prop_map(|(renorm, scale)| Router::SigmoidTopK {
            renorm,
            bias: vec![],
            scale
        }),
    ]
}

/// Experts, top-k, logits, and for every token K distinct ids that need not be the best.
pub type Case = (usize, usize, Vec<f64>, Vec<u32>);

pub fn case() -> impl Strategy<Value = Case> {
    sized(
        (1usize..9, 1usize..6).prop_flat_map(|(experts, tokens)| (Just(experts), 1..=experts, Just(tokens))),
    )
}

pub fn sized(sizes: impl Strategy<Value = (usize, usize, usize)>) -> impl Strategy<Value = Case> {
    sizes.prop_flat_map(|(experts, k, tokens)| {
        let logits = prop::collection::vec(-4.0f64..4.0, tokens * experts);
        (Just(experts), Just(k), logits, ids(experts, k, tokens))
    })
}

/// `[rows · k]`, distinct in a row.
pub fn ids(experts: usize, k: usize, rows: usize) -> impl Strategy<Value = Vec<u32>> {
    let all: Vec<u32> = (0..experts as u32).collect();
    let rows = prop::collection::vec(Just(all).prop_shuffle(), rows);
    rows.prop_map(move |rows| rows.into_iter().flat_map(|r| r.into_iter().take(k)).collect())
}

/// The central difference of `f` in one entry.
pub fn slope(values: &[f64], i: usize, step: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    let (mut up, mut down) = (values.to_vec(), values.to_vec());
    up[i] += step;
    down[i] -= step;
    (f(&up) - f(&down)) / (2.0 * step)
}
