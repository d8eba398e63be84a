//! The algebra of routing, over random logits.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{case, routers, sized, slope, softmaxes};
use moe_routing::{
    AuxForm, Dispatch, Error, ExpertCounts, Router, gates, gates_backward, load_balance, margins,
    router_entropy, top_k, z_loss,
};
use proptest::prelude::*;

const RENORM: Router = Router::SoftmaxTopK { renorm: true };
const PLAIN: Router = Router::SoftmaxTopK { renorm: false };

fn weights(len: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 37) % 11) as f64 / 5.0 - 1.0).collect()
}

proptest! {
    #[test]
    fn gradients_match_finite_differences((experts, k, logits, ids) in case(), router in routers()) {
        let d_gates = weights(ids.len());
        let value = |logits: &[f64]| -> f64 {
            gates(logits, experts, &ids, k, &router).unwrap().iter().zip(&d_gates).map(|(g, d)| g * d).sum()
        };
        let gradient = gates_backward(&logits, experts, &ids, k, &router, &d_gates).unwrap();
        for i in 0..logits.len() {
            prop_assert!((slope(&logits, i, 1e-5, value) - gradient[i]).abs() < 1e-7);
        }
    }

    #[test]
    fn natural_gradients_match_finite_differences_away_from_ties((experts, k, logits, _) in case(), router in routers()) {
        prop_assume!(margins(&logits, experts, k, &router).unwrap().iter().all(|m| *m > 1e-3));
        let ids = top_k(&logits, experts, k, &router).unwrap();
        let d_gates = weights(ids.len());
        let value = |logits: &[f64]| -> f64 {
            let ids = top_k(logits, experts, k, &router).unwrap();
            gates(logits, experts, &ids, k, &router).unwrap().iter().zip(&d_gates).map(|(g, d)| g * d).sum()
        };
        // The order of slots may change with the logits; weights that belong to slots would make that a jump.
        prop_assume!(ids.chunks_exact(k).zip(logits.chunks_exact(experts)).all(|(ids, row)| {
            ids.is_sorted_by(|a, b| row[*a as usize] > row[*b as usize] + 1e-3)
        }));
        let gradient = gates_backward(&logits, experts, &ids, k, &router, &d_gates).unwrap();
        for i in 0..logits.len() {
            prop_assert!((slope(&logits, i, 1e-5, value) - gradient[i]).abs() < 1e-7);
        }
    }

    #[test]
    fn renormalised_gates_add_to_their_scale_and_ignore_outsiders((experts, k, logits, ids) in case(), scale in 0.5f32..3.0) {
        for (router, sum) in [
            (RENORM, 1.0),
            (Router::TopKSoftmax, 1.0),
            (Router::SigmoidTopK { renorm: true, bias: vec![], scale }, f64::from(scale)),
        ] {
            let g = gates(&logits, experts, &ids, k, &router).unwrap();
            for row in g.chunks_exact(k) {
                prop_assert!(row.iter().all(|g| *g >= 0.0));
                prop_assert!((row.iter().sum::<f64>() - sum).abs() < 1e-6);
            }
            let d: Vec<f64> = (0..ids.len()).map(|i| i as f64 - 1.5).collect();
            let gradient = gates_backward(&logits, experts, &ids, k, &router, &d).unwrap();
            for (token, row) in gradient.chunks_exact(experts).enumerate() {
                for (expert, d) in row.iter().enumerate() {
                    if !ids[token * k..][..k].contains(&(expert as u32)) {
                        prop_assert_eq!(*d, 0.0);
                    }
                }
            }
        }
    }

    #[test]
    fn unnormalised_gates_move_every_logit(
        (experts, k, logits, ids) in sized((1usize..4, 1usize..5, 1usize..6).prop_map(|(k, more, t)| (k + more, k, t))),
    ) {
        // With all γ > 0 the inner sum is positive, so each expert outside the choice gets −p · inner < 0.
        let d: Vec<f64> = (0..ids.len()).map(|i| 0.5 + (i % 3) as f64).collect();
        let gradient = gates_backward(&logits, experts, &ids, k, &PLAIN, &d).unwrap();
        for (token, row) in gradient.chunks_exact(experts).enumerate() {
            for (expert, d) in row.iter().enumerate() {
                if !ids[token * k..][..k].contains(&(expert as u32)) {
                    prop_assert!(*d < 0.0);
                }
            }
        }
    }

    #[test]
    fn a_softmax_over_the_choice_is_a_renormalised_softmax((experts, k, logits, ids) in case()) {
        let d = weights(ids.len());
        prop_assert_eq!(
            top_k(&logits, experts, k, &RENORM).unwrap(),
            top_k(&logits, experts, k, &Router::TopKSoftmax).unwrap()
        );
        let all = gates(&logits, experts, &ids, k, &PLAIN).unwrap();
        let chosen = gates(&logits, experts, &ids, k, &Router::TopKSoftmax).unwrap();
        for (all, chosen) in all.chunks_exact(k).zip(chosen.chunks_exact(k)) {
            let sum: f64 = all.iter().sum();
            prop_assert!(all.iter().zip(chosen).all(|(p, g)| (p / sum - g).abs() < 1e-12));
        }
        prop_assert_eq!(
            gates_backward(&logits, experts, &ids, k, &RENORM, &d).unwrap(),
            gates_backward(&logits, experts, &ids, k, &Router::TopKSoftmax, &d).unwrap()
        );
    }

    #[test]
    fn softmax_routing_ignores_a_shift(
        (experts, k, logits, ids) in case(), shift in -50.0f64..50.0, router in softmaxes(),
    ) {
        let moved: Vec<f64> = logits.iter().map(|s| s + shift).collect();
        let d = weights(ids.len());
        let both = |s: &[f64]| {
            let mut all = gates(s, experts, &ids, k, &router).unwrap();
            all.extend(gates_backward(s, experts, &ids, k, &router, &d).unwrap());
            all
        };
        for (a, b) in both(&logits).iter().zip(&both(&moved)) {
            prop_assert!((a - b).abs() < 1e-9);
        }
        prop_assert_eq!(top_k(&logits, experts, k, &router).unwrap(), top_k(&moved, experts, k, &router).unwrap());
    }

    #[test]
    fn replay_away_from_the_natural_choice_still_trains(
        (experts, k, logits, _) in sized((2usize..5, 0usize..4, 1usize..6).prop_map(|(k, more, t)| (2 * k + more, k, t))),
        router in routers(),
    ) {
        let natural = top_k(&logits, experts, k, &router).unwrap();
        let others: Vec<u32> = natural
            .chunks_exact(k)
            .flat_map(|row| (0..experts as u32).filter(|e| !row.contains(e)).take(k).collect::<Vec<_>>())
            .collect();
        prop_assert!(gates(&logits, experts, &others, k, &router).unwrap().iter().all(|g| *g > 0.0));
        let d: Vec<f64> = (0..others.len()).map(|i| (i % k) as f64).collect();
        let gradient = gates_backward(&logits, experts, &others, k, &router, &d).unwrap();
        for (token, ids) in others.chunks_exact(k).enumerate() {
            prop_assert!(ids.iter().any(|e| gradient[token * experts + *e as usize] != 0.0));
        }
    }

    #[test]
    fn the_order_of_recorded_ids_changes_no_bit((experts, k, logits, ids) in case(), router in routers()) {
        let logits: Vec<f32> = logits.iter().map(|s| *s as f32).collect();
        let reversed: Vec<u32> = ids.chunks_exact(k).flat_map(|r| r.iter().rev().copied()).collect();
        let d: Vec<f32> = weights(ids.len()).iter().map(|d| *d as f32).collect();
        let d_reversed: Vec<f32> = d.chunks_exact(k).flat_map(|r| r.iter().rev().copied()).collect();
        let g = gates(&logits, experts, &ids, k, &router).unwrap();
        let back: Vec<f32> = gates(&logits, experts, &reversed, k, &router)
            .unwrap()
            .chunks_exact(k)
            .flat_map(|r| r.iter().rev().copied().collect::<Vec<_>>())
            .collect();
        prop_assert_eq!(g, back);
        prop_assert_eq!(
            gates_backward(&logits, experts, &ids, k, &router, &d).unwrap(),
            gates_backward(&logits, experts, &reversed, k, &router, &d_reversed).unwrap()
        );
    }

    #[test]
    fn every_expert_chosen_leaves_no_choice(
        (experts, k, logits, ids) in sized((1usize..6, 1usize..6).prop_map(|(e, t)| (e, e, t))), router in routers(),
    ) {
        let sorted = |ids: &[u32]| {
            let mut rows: Vec<u32> = ids.to_vec();
            rows.chunks_exact_mut(k).for_each(<[u32]>::sort_unstable);
            rows
        };
        let natural = top_k(&logits, experts, k, &router).unwrap();
        prop_assert_eq!(sorted(&natural), sorted(&ids));
        let by_expert = |ids: &[u32]| {
            let g = gates(&logits, experts, ids, k, &router).unwrap();
            let mut all = vec![0.0; logits.len()];
            for (slot, (id, g)) in ids.iter().zip(g).enumerate() {
                all[slot / k * experts + *id as usize] = g;
            }
            all
        };
        prop_assert_eq!(by_expert(&natural), by_expert(&ids));
    }

    #[test]
    fn tokens_are_independent((experts, k, logits, ids) in case(), router in routers(), turn in 0usize..6) {
        let tokens = logits.len() / experts;
        let turn = turn % tokens;
        let rotate = |v: &[f64], n: usize| { let mut v = v.to_vec(); v.rotate_left(turn * n); v };
        let rotate_ids = |v: &[u32]| { let mut v = v.to_vec(); v.rotate_left(turn * k); v };
        let (moved, moved_ids) = (rotate(&logits, experts), rotate_ids(&ids));
        prop_assert_eq!(
            rotate_ids(&top_k(&logits, experts, k, &router).unwrap()),
            top_k(&moved, experts, k, &router).unwrap()
        );
        prop_assert_eq!(
            rotate(&gates(&logits, experts, &ids, k, &router).unwrap(), k),
            gates(&moved, experts, &moved_ids, k, &router).unwrap()
        );
        let d = weights(ids.len());
        prop_assert_eq!(
            rotate(&gates_backward(&logits, experts, &ids, k, &router, &d).unwrap(), experts),
            gates_backward(&moved, experts, &moved_ids, k, &router, &rotate(&d, k)).unwrap()
        );
    }

    #[test]
    fn groups_limit_the_choice_and_nothing_else(
        (groups, keep, best, spare, tokens) in (1usize..5, 1usize..4, 1usize..3, 0usize..3, 1usize..5),
        seed in prop::collection::vec(-4.0f64..4.0, 100),
        inner in prop_oneof![
            softmaxes(),
            prop::collection::vec(-0.3f32..0.3, 20).prop_map(|bias| Router::SigmoidTopK { renorm: true, bias, scale: 2.0 }),
        ],
    ) {
        let keep = keep.min(groups);
        let size = best + spare;
        let (experts, k) = (groups * size, keep * best);
        let inner = match inner {
            Router::SigmoidTopK { renorm, bias, scale } => Router::SigmoidTopK { renorm, bias: bias[..experts].to_vec(), scale },
            other => other,
        };
        let logits: Vec<f64> = seed.iter().cycle().take(tokens * experts).copied().enumerate().map(|(i, s)| s + i as f64 * 1e-3).collect();
        let router = Router::GroupLimited { groups, keep, router: Box::new(inner.clone()) };
        let ids = top_k(&logits, experts, k, &router).unwrap();
        // The definition: full scores, groups by the sum of their best, then the best of the kept groups.
        for (row, ids) in logits.chunks_exact(experts).zip(ids.chunks_exact(k)) {
            let scores: Vec<f64> = match &inner {
                Router::SigmoidTopK { bias, .. } => row.iter().zip(bias).map(|(s, b)| 1.0 / (1.0 + (-s).exp()) + f64::from(*b)).collect(),
                Router::SoftmaxTopK { .. } => inner.probabilities(row),
                _ => row.to_vec(),
            };
            let descending = |mut v: Vec<f64>| { v.sort_by(|a, b| b.total_cmp(a)); v };
            let score = |g: usize| descending(scores[g * size..][..size].to_vec())[..best].iter().sum::<f64>();
            let mut order: Vec<usize> = (0..groups).collect();
            order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
            let kept = &order[..keep];
            let mut allowed: Vec<usize> = (0..experts).filter(|e| kept.contains(&(e / size))).collect();
            allowed.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            prop_assert_eq!(ids.iter().map(|e| *e as usize).collect::<Vec<_>>(), allowed[..k].to_vec());
        }
        prop_assert_eq!(
            gates(&logits, experts, &ids, k, &router).unwrap(),
            gates(&logits, experts, &ids, k, &inner).unwrap()
        );
        if groups == keep {
            prop_assert_eq!(ids, top_k(&logits, experts, k, &inner).unwrap());
        }
    }

    #[test]
    fn dispatch_is_a_stable_permutation((experts, k, logits, ids) in case()) {
        let tokens = logits.len() / experts;
        let d = Dispatch::new(&ids, tokens, experts, k).unwrap();
        for (slot, id) in ids.iter().enumerate() {
            let position = d.inverse()[slot] as usize;
            prop_assert_eq!(d.order()[position] as usize, slot);
            prop_assert_eq!(d.token_of()[position] as usize, slot / k);
            prop_assert!(d.rows_of(*id as usize).contains(&position));
        }
        for expert in 0..experts {
            let rows = d.rows_of(expert);
            prop_assert_eq!(rows.len(), ids.iter().filter(|id| **id as usize == expert).count());
            prop_assert!(d.token_of()[rows].is_sorted());
        }
    }

    #[test]
    fn top_k_takes_the_largest((experts, k, logits, _) in case(), router in routers()) {
        let ids = top_k(&logits, experts, k, &router).unwrap();
        for (row, ids) in logits.chunks_exact(experts).zip(ids.chunks_exact(k)) {
            let worst = ids.iter().map(|e| row[*e as usize]).fold(f64::INFINITY, f64::min);
            let beaten = (0..experts).filter(|e| !ids.contains(&(*e as u32))).all(|e| row[e] <= worst);
            prop_assert!(beaten);
            prop_assert!(ids.is_sorted_by(|a, b| row[*a as usize] >= row[*b as usize]));
        }
    }
}

#[test]
fn distinct_logits_with_equal_probabilities_are_told_apart() {
    // Beside exp(0) the three others are 0 in f32.
    let logits = [0.0f32, -110.0, -109.0, -108.0];
    assert_eq!(RENORM.probabilities(&logits)[1..], [0.0, 0.0, 0.0]);
    assert_eq!(top_k(&logits, 4, 2, &RENORM).unwrap(), [0, 3]);
    let groups = Router::GroupLimited { groups: 4, keep: 2, router: Box::new(PLAIN) };
    assert_eq!(top_k(&logits, 4, 2, &groups).unwrap(), [0, 3]);
    assert_eq!(gates(&logits, 4, &[1, 2], 2, &RENORM).unwrap()[1], 1.0 / (1.0 + (-1.0f32).exp()));
}

#[test]
fn extreme_logits_stay_finite() {
    for router in
        [RENORM, PLAIN, Router::TopKSoftmax, Router::SigmoidTopK { renorm: true, bias: vec![], scale: 2.5 }]
    {
        for logits in [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]] {
            let g: Vec<f64> = gates(&logits, 3, &[1, 0], 2, &router).unwrap();
            let d = gates_backward(&logits, 3, &[1, 0], 2, &router, &[1.0, -1.0]).unwrap();
            let counts = ExpertCounts::of(&[1, 0], 3).unwrap();
            let (loss, d_loss) = load_balance(&logits, &counts, 2, &router, AuxForm::Switch).unwrap();
            let entropy = router_entropy(&logits, 3, &router).unwrap().unwrap();
            assert!(g.iter().chain(&d).chain(&d_loss).chain([&loss, &entropy]).all(|v| v.is_finite()));
        }
    }
    // All σ underflow in f32: gates of 0, not NaN.
    let sigmoid = Router::SigmoidTopK { renorm: true, bias: vec![], scale: 1.0 };
    assert_eq!(gates(&[-1e4f32, -1e4], 2, &[0, 1], 2, &sigmoid).unwrap(), [0.0, 0.0]);
    let silent = Router::SigmoidTopK { renorm: true, bias: vec![], scale: 0.0 };
    assert_eq!(gates_backward(&[0.3, 0.1], 2, &[0, 1], 2, &silent, &[1.0, 2.0]).unwrap(), [0.0, 0.0]);
}

#[test]
fn bad_input_is_named() {
    for router in [RENORM, PLAIN, Router::TopKSoftmax] {
        for bad in [f64::NAN, f64::INFINITY] {
            let logits = [0.0, bad];
            assert!(matches!(top_k(&logits, 2, 1, &router), Err(Error::Logit { token: 0, expert: 1, .. })));
            // Also where the recorded choice does not read it.
            assert!(matches!(gates(&logits, 2, &[0], 1, &router), Err(Error::Logit { expert: 1, .. })));
            assert!(matches!(z_loss(&logits, 2), Err(Error::Logit { expert: 1, .. })));
            assert!(matches!(router_entropy(&logits, 2, &router), Err(Error::Logit { expert: 1, .. })));
        }
        let off = [0.0, f64::NEG_INFINITY];
        assert_eq!(top_k(&off, 2, 1, &router).unwrap(), [0]);
        assert!(matches!(top_k(&off, 2, 2, &router), Err(Error::TooFewExperts { enabled: 1, .. })));
        assert!(matches!(gates(&off, 2, &[1], 1, &router), Err(Error::Disabled { token: 0, .. })));
        assert_eq!(gates(&off, 2, &[1, 0], 2, &router).unwrap(), [0.0, 1.0]);
        let none = [f64::NEG_INFINITY; 2];
        assert!(matches!(router_entropy(&none, 2, &router), Err(Error::TooFewExperts { .. })));
    }
    let router = RENORM;
    assert!(matches!(top_k(&[0.0f32], 1, 2, &router), Err(Error::TopK { top_k: 2, experts: 1 })));
    assert!(matches!(top_k::<f32>(&[], 0, 0, &router), Err(Error::TopK { top_k: 0, experts: 0 })));
    for ids in [[0, 0], [0, 2]] {
        assert!(matches!(gates(&[0.0, 1.0], 2, &ids, 2, &router), Err(Error::Ids { token: 0, .. })));
        assert!(matches!(Dispatch::new(&ids, 1, 2, 2), Err(Error::Ids { token: 0, .. })));
    }
    assert!(matches!(gates(&[0.0, 1.0], 2, &[0], 2, &router), Err(Error::Shape { what: "ids", .. })));
    assert_eq!(top_k::<f32>(&[], 4, 2, &router).unwrap(), [0u32; 0]);

    let counts = ExpertCounts::of(&[0], 2).unwrap();
    let crooked = load_balance(&[0.0; 3], &counts, 1, &router, AuxForm::Hf);
    assert!(matches!(crooked, Err(Error::Shape { what: "router_logits", found: 3, expected: 2 })));
    assert_eq!(load_balance::<f64>(&[], &counts, 1, &router, AuxForm::Hf).unwrap(), (0.0, vec![]));
    assert_eq!(z_loss::<f64>(&[], 3).unwrap(), (0.0, vec![]));
    assert!(matches!(z_loss::<f64>(&[], 0), Err(Error::NoExperts)));
    assert!(matches!(ExpertCounts::of(&[], 0), Err(Error::NoExperts)));
    assert!(matches!(ExpertCounts::of(&[2], 2), Err(Error::Ids { .. })));
}

#[test]
fn routers_without_a_meaning_are_named() {
    let grouped = |groups, keep, router| Router::GroupLimited { groups, keep, router: Box::new(router) };
    let message = |router: Router| router.validate(8, 4).unwrap_err().to_string();
    assert_eq!(message(grouped(3, 1, RENORM)), "router groups: 3, expected a divisor of 8 experts");
    assert_eq!(
        message(grouped(4, 3, RENORM)),
        "router keep: 3, expected a divisor of top_k = 4, at most 4 groups"
    );
    assert_eq!(
        message(grouped(8, 2, RENORM)),
        "router groups: 8, expected groups of at least top_k / keep = 2 experts"
    );
    let nested = grouped(2, 2, grouped(2, 2, RENORM));
    assert_eq!(message(nested), "router router: group_limited, expected a family without groups");
    let sigmoid = |bias, scale| Router::SigmoidTopK { renorm: true, bias, scale };
    assert_eq!(message(sigmoid(vec![0.0; 7], 1.0)), "bias has 7 elements, expected 8");
    assert_eq!(message(sigmoid(vec![], f32::NAN)), "router bias and scale: NaN, expected finite numbers");
    let read: Router = serde_json::from_str(
        r#"{ "kind": "group_limited", "groups": 8, "keep": 4,
             "router": { "kind": "sigmoid_top_k", "renorm": true, "bias": [], "scale": 2.5 } }"#,
    )
    .unwrap();
    assert_eq!(read, grouped(8, 4, sigmoid(vec![], 2.5)));
}
