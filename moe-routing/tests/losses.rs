//! Router losses and load, over random logits.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{case, routers, slope};
use moe_routing::{AuxForm, Error, ExpertCounts, Router, load_balance, router_entropy, update_bias, z_loss};
use proptest::prelude::*;

const RENORM: Router = Router::SoftmaxTopK { renorm: true };

proptest! {
    #[test]
    fn gradients_match_finite_differences((experts, k, logits, ids) in case(), router in routers()) {
        let counts = ExpertCounts::of(&ids, experts).unwrap();
        let balance = |l: &[f64]| load_balance(l, &counts, k, &router, AuxForm::Hf).unwrap();
        let (d_balance, d_z) = (balance(&logits).1, z_loss(&logits, experts).unwrap().1);
        for i in 0..logits.len() {
            prop_assert!((slope(&logits, i, 1e-5, |l| balance(l).0) - d_balance[i]).abs() < 1e-7);
            prop_assert!((slope(&logits, i, 1e-5, |l| z_loss(l, experts).unwrap().0) - d_z[i]).abs() < 1e-6);
        }
    }

    #[test]
    fn balance_forms_differ_by_k((experts, k, logits, ids) in case(), router in routers()) {
        let counts = ExpertCounts::of(&ids, experts).unwrap();
        let (switch, gradient) = load_balance(&logits, &counts, k, &router, AuxForm::Switch).unwrap();
        let (hf, _) = load_balance(&logits, &counts, k, &router, AuxForm::Hf).unwrap();
        prop_assert!((hf - k as f64 * switch).abs() < 1e-9);
        if !matches!(router, Router::SigmoidTopK { .. }) {
            for row in gradient.chunks_exact(experts) {
                prop_assert!(row.iter().sum::<f64>().abs() < 1e-12);
            }
        }
        let flat = vec![0.3; logits.len()];
        let (balanced, _): (f64, _) = load_balance(&flat, &counts, k, &router, AuxForm::Switch).unwrap();
        prop_assert!((balanced - 1.0).abs() < 1e-9);
        let p = router.probabilities(&logits[..experts]);
        prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        if matches!(router, Router::SigmoidTopK { .. }) {
            let sigma: Vec<f64> = logits[..experts].iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect();
            let sum: f64 = sigma.iter().sum();
            prop_assert!(p.iter().zip(&sigma).all(|(p, s)| (p - s / sum).abs() < 1e-12));
        }
    }

    #[test]
    fn counts_of_the_whole_batch_serve_every_part((experts, k, logits, ids) in case(), cut in 1usize..6) {
        let tokens = logits.len() / experts;
        let cut = cut.min(tokens);
        let mut merged = ExpertCounts::of(&ids[..cut * k], experts).unwrap();
        merged.merge(&ExpertCounts::of(&ids[cut * k..], experts).unwrap()).unwrap();
        let whole = load_balance(&logits, &merged, k, &RENORM, AuxForm::Switch).unwrap().0;
        let part = |s: &[f64]| {
            s.len() as f64 / logits.len() as f64 * load_balance(s, &merged, k, &RENORM, AuxForm::Switch).unwrap().0
        };
        let parts = part(&logits[..cut * experts]) + part(&logits[cut * experts..]);
        prop_assert!((whole - parts).abs() < 1e-12);
    }

    #[test]
    fn z_loss_is_a_square((experts, _, logits, _) in case()) {
        let (loss, gradient) = z_loss(&logits, experts).unwrap();
        prop_assert!(loss >= 0.0);
        // Moved so that every log-sum-exp is 0, the loss is 0 and so is its gradient.
        let still: Vec<f64> = logits
            .chunks_exact(experts)
            .flat_map(|row| {
                let lse = row.iter().map(|s| s.exp()).sum::<f64>().ln();
                row.iter().map(move |s| s - lse).collect::<Vec<_>>()
            })
            .collect();
        let (zero, flat) = z_loss(&still, experts).unwrap();
        prop_assert!(zero.abs() < 1e-24 && flat.iter().all(|d| d.abs() < 1e-12));
        for (row, d) in logits.chunks_exact(experts).zip(gradient.chunks_exact(experts)) {
            let lse = row.iter().map(|s| s.exp()).sum::<f64>().ln();
            let mean = 2.0 * lse / (logits.len() / experts) as f64;
            prop_assert!((d.iter().sum::<f64>() - mean).abs() < 1e-9);
        }
    }

    #[test]
    fn entropy_lies_between_one_expert_and_all((experts, _, logits, _) in case(), router in routers()) {
        let entropy = router_entropy(&logits, experts, &router).unwrap().unwrap();
        prop_assert!((0.0..=(experts as f64).ln() + 1e-12).contains(&entropy));
        let flat = router_entropy(&vec![1.0; logits.len()], experts, &router).unwrap().unwrap();
        prop_assert!((flat - (experts as f64).ln()).abs() < 1e-12);
    }
}

#[test]
fn load_says_how_uneven() {
    let even = ExpertCounts::of(&[0, 1, 2, 3], 4).unwrap();
    assert_eq!((even.max_over_mean(), even.cv(), even.dead_experts()), (Some(1.0), Some(0.0), 0));
    let one = ExpertCounts::of(&[2, 2, 2, 2], 4).unwrap();
    assert_eq!((one.max_over_mean(), one.dead_experts()), (Some(4.0), 3));
    assert!((one.cv().unwrap() - 3f64.sqrt()).abs() < 1e-12);
    let none = ExpertCounts::of(&[], 4).unwrap();
    assert_eq!((none.max_over_mean(), none.cv(), none.dead_experts()), (None, None, 4));
}

#[test]
fn biases_move_towards_balance() {
    let mut bias = [0.0, 0.1, 0.2, 0.0];
    update_bias(&mut bias, &ExpertCounts::of(&[0, 0, 0, 1, 2, 2, 3, 3], 4).unwrap(), 0.01).unwrap();
    assert_eq!(bias, [-0.01, 0.11, 0.2, 0.0]);
    let error = update_bias(&mut bias, &ExpertCounts::of(&[0], 2).unwrap(), 0.01);
    assert!(matches!(error, Err(Error::Shape { what: "bias", .. })));
}
