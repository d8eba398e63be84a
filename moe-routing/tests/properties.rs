//! The algebra of routing, over random logits.

use moe_routing::{AuxForm, Dispatch, Error, Router, gates, gates_backward, load_balance, top_k, z_loss};
use proptest::prelude::*;

fn routers() -> impl Strategy<Value = Router> {
    prop_oneof![
        any::<bool>().prop_map(|renorm| Router::SoftmaxTopK { renorm }),
        (any::<bool>(), 0.5f32..3.0).prop_map(|(renorm, scale)| Router::SigmoidTopK {
            renorm,
            bias: vec![],
            scale
        }),
    ]
}

/// Experts, top-k, logits, and for every token K distinct ids that need not be the best.
fn case() -> impl Strategy<Value = (usize, usize, Vec<f64>, Vec<u32>)> {
    sized(
        (1usize..9, 1usize..6).prop_flat_map(|(experts, tokens)| (Just(experts), 1..=experts, Just(tokens))),
    )
}

fn sized(
    sizes: impl Strategy<Value = (usize, usize, usize)>,
) -> impl Strategy<Value = (usize, usize, Vec<f64>, Vec<u32>)> {
    sizes.prop_flat_map(|(experts, k, tokens)| {
        let all: Vec<u32> = (0..experts as u32).collect();
        let rows = prop::collection::vec(Just(all).prop_shuffle(), tokens);
        let ids = rows.prop_map(move |rows| rows.into_iter().flat_map(|r| r.into_iter().take(k)).collect());
        (Just(experts), Just(k), prop::collection::vec(-4.0f64..4.0, tokens * experts), ids)
    })
}

proptest! {
    #[test]
    fn gradients_match_finite_differences((experts, k, logits, ids) in case(), router in routers()) {
        let d_gates: Vec<f64> = (0..ids.len()).map(|i| ((i * 37) % 11) as f64 / 5.0 - 1.0).collect();
        let value = |logits: &[f64]| -> f64 {
            gates(logits, experts, &ids, k, &router).unwrap().iter().zip(&d_gates).map(|(g, d)| g * d).sum()
        };
        let gradient = gates_backward(&logits, experts, &ids, k, &router, &d_gates).unwrap();
        let mut counts = vec![0u32; experts];
        ids.iter().for_each(|id| counts[*id as usize] += 1);
        let (_, balance) = load_balance(&logits, experts, &counts, k, AuxForm::Hf).unwrap();
        let (_, z) = z_loss(&logits, experts);
        for i in 0..logits.len() {
            let step = |f: &dyn Fn(&[f64]) -> f64| {
                let (mut up, mut down) = (logits.clone(), logits.clone());
                up[i] += 1e-5;
                down[i] -= 1e-5;
                (f(&up) - f(&down)) / 2e-5
            };
            prop_assert!((step(&value) - gradient[i]).abs() < 1e-7);
            prop_assert!((step(&|l| load_balance(l, experts, &counts, k, AuxForm::Hf).unwrap().0) - balance[i]).abs() < 1e-7);
            prop_assert!((step(&|l| z_loss(l, experts).0) - z[i]).abs() < 1e-6);
        }
    }

    #[test]
    fn renormalised_gates_add_to_their_scale_and_ignore_outsiders((experts, k, logits, ids) in case(), scale in 0.5f32..3.0) {
        for (router, sum) in [
            (Router::SoftmaxTopK { renorm: true }, 1.0),
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
    fn softmax_routing_ignores_a_shift((experts, k, logits, ids) in case(), shift in -50.0f64..50.0, renorm: bool) {
        let router = Router::SoftmaxTopK { renorm };
        let moved: Vec<f64> = logits.iter().map(|s| s + shift).collect();
        let a = gates(&logits, experts, &ids, k, &router).unwrap();
        let b = gates(&moved, experts, &ids, k, &router).unwrap();
        for (a, b) in a.iter().zip(&b) {
            prop_assert!((a - b).abs() < 1e-9);
        }
        prop_assert_eq!(top_k(&logits, experts, k, &router).unwrap(), top_k(&moved, experts, k, &router).unwrap());
    }

    #[test]
    fn replay_away_from_the_natural_choice_still_trains(
        (experts, k, logits, _) in sized((2usize..5, 0usize..4, 1usize..6).prop_map(|(k, more, t)| (2 * k + more, k, t))),
    ) {
        let router = Router::SoftmaxTopK { renorm: true };
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

    #[test]
    fn balance_forms_differ_by_k((experts, k, logits, ids) in case()) {
        let mut counts = vec![0u32; experts];
        ids.iter().for_each(|id| counts[*id as usize] += 1);
        let (switch, gradient) = load_balance(&logits, experts, &counts, k, AuxForm::Switch).unwrap();
        let (hf, _) = load_balance(&logits, experts, &counts, k, AuxForm::Hf).unwrap();
        prop_assert!((hf - k as f64 * switch).abs() < 1e-9);
        for row in gradient.chunks_exact(experts) {
            prop_assert!(row.iter().sum::<f64>().abs() < 1e-12);
        }
        let flat = vec![0.3; logits.len()];
        let (balanced, _): (f64, _) = load_balance(&flat, experts, &counts, k, AuxForm::Switch).unwrap();
        prop_assert!((balanced - 1.0).abs() < 1e-9);
    }
}

#[test]
fn bad_input_is_named() {
    let router = Router::SoftmaxTopK { renorm: true };
    assert!(matches!(top_k(&[0.0, f64::NAN], 2, 1, &router), Err(Error::Logit { token: 0, expert: 1, .. })));
    assert!(matches!(top_k(&[0.0, f64::INFINITY], 2, 1, &router), Err(Error::Logit { expert: 1, .. })));
    let off = [0.0, f64::NEG_INFINITY];
    assert_eq!(top_k(&off, 2, 1, &router).unwrap(), [0]);
    assert!(matches!(top_k(&off, 2, 2, &router), Err(Error::TooFewExperts { enabled: 1, .. })));
    assert!(matches!(top_k(&[0.0f32], 1, 2, &router), Err(Error::TopK { top_k: 2, experts: 1 })));
    for ids in [[0, 0], [0, 2]] {
        assert!(matches!(gates(&[0.0, 1.0], 2, &ids, 2, &router), Err(Error::Ids { token: 0, .. })));
        assert!(matches!(Dispatch::new(&ids, 1, 2, 2), Err(Error::Ids { token: 0, .. })));
    }
    assert!(matches!(gates(&[0.0, 1.0], 2, &[0], 2, &router), Err(Error::Shape { what: "ids", .. })));
    assert_eq!(top_k::<f32>(&[], 4, 2, &router).unwrap(), [0u32; 0]);
}
