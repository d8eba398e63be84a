//! From log-probabilities to logits: the candle operations against the definition.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/worked.rs"]
mod worked;

use candle_core::{DType, Device, Tensor, Var};
use common::*;
use policy_loss::op::{linear_log_probs, log_probs, loss_tensor, masked_log_probs};
use policy_loss::reference::{LogitRow, logit_row};
use policy_loss::{
    Advantages, EntropyAggregation, EntropyBonus, LossConfig, LossOutput, Mode, Normalizer, Objective,
    TokenBatch,
};
use proptest::prelude::*;
use worked::close;

/// logp, entropy and dlogits of one row by the op, whose loss has gradients `g` and `h`.
fn by_op(logits: &[f32], target: usize, temperature: f64, g: f32, h: f32) -> (f64, f64, Vec<f64>) {
    let logits = Var::from_slice(logits, (1, logits.len()), &Device::Cpu).unwrap();
    let out = log_probs(&logits, &[target as u32], temperature).unwrap();
    let found = out.to_vec2::<f32>().unwrap();
    let upstream = Tensor::new(&[[g, h]], &Device::Cpu).unwrap();
    let store = (out * upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let d = store.get(&logits).unwrap().to_vec2::<f32>().unwrap();
    (found[0][0].into(), found[0][1].into(), d[0].iter().map(|d| f64::from(*d)).collect())
}

#[test]
fn e16_logits() {
    let row = |a: [f64; 5], y, t, g, h, stats: [f64; 3], sum_p2: Option<f64>, expected: [f64; 5]| {
        let LogitRow { lse, logp, entropy, sum_p2: found, grad } = logit_row(&a, y, t, g, h);
        for (name, found, expected) in
            [("lse", lse, stats[0]), ("logp", logp, stats[1]), ("entropy", entropy, stats[2])]
        {
            close(name, found, expected, 1e-8);
        }
        if let Some(sum_p2) = sum_p2 {
            close("Σp²", found, sum_p2, 1e-8);
        }
        grad.iter().zip(expected).for_each(|(f, e)| close("dlogits", *f, e, 1e-8));
        let (logp, entropy, grad) = by_op(&a.map(|a| a as f32), y, t, g as f32, h as f32);
        close("logp in f32", logp, stats[1], 4e-6);
        close("entropy in f32", entropy, stats[2], 4e-6);
        grad.iter().zip(expected).for_each(|(f, e)| close("dlogits in f32", *f, e, 2e-5 * e.abs() + 2e-8));
    };
    let a = [2.0, 1.0, 0.0, -1.0, 0.5];
    let d = [0.144313891, -0.198981126, 0.018006829, 0.006344030, 0.030316376];
    row(a, 1, 1.0, -0.25, -0.01, [2.574437940, -1.574437940, 1.206489208], Some(0.382267054), d);
    let d = [0.255791969, -0.299266603, 0.013049406, 0.002930622, 0.027494606];
    row(a, 1, 0.7, -0.25, -0.01, [3.213534387, -1.784962958, 0.928339989], None, d);
    let d = [-0.024069414, -0.016257267, 0.086747738, -0.043355580, -0.003065476];
    row([0.1, -0.3, 3.0, 0.7, -2.0], 2, 1.0, 0.5, -0.01, [3.181407121, -0.181407121, 0.636462104], None, d);
}

#[test]
fn banned_tokens_have_no_probability() {
    let z = [1.0, f32::NEG_INFINITY, 0.5, f32::NEG_INFINITY];
    let (logp, entropy, grad) = by_op(&z, 0, 1.0, -0.25, -0.01);
    let kept = logit_row(&[1.0, 0.5], 0, 1.0, -0.25, -0.01);
    close("logp", logp, kept.logp, 1e-6);
    close("entropy", entropy, kept.entropy, 1e-6);
    close("gradient", grad[0], kept.grad[0], 1e-6);
    assert_eq!((grad[1], grad[3]), (0.0, 0.0));
    let wide = logit_row(&z.map(f64::from), 0, 1.0, -0.25, -0.01);
    close("definition", wide.entropy, kept.entropy, 1e-12);
    // A banned target, and large logits.
    assert_eq!(by_op(&z, 1, 1.0, 0.0, 0.0).0, f64::NEG_INFINITY);
    let (logp, entropy, grad) = by_op(&[1e4, -1e4, 9999.0], 2, 1.0, -1.0, 0.0);
    close("logp", logp, -1.0 - (-1.0f64).exp().ln_1p(), 4e-6 * 1e4);
    assert!(entropy.is_finite() && grad.iter().all(|g| g.is_finite()));
}

#[test]
fn bad_targets_and_shapes_are_named() {
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let refuse = |targets: &[u32], t| log_probs(&logits, targets, t).unwrap_err().to_string();
    assert!(refuse(&[0], 1.0).contains("1 targets for 2 rows"));
    assert!(refuse(&[0, 3], 1.0).contains("target token 3 is outside the vocabulary of 3"));
    assert!(refuse(&[0, 1], 0.0).contains("temperature is 0"));
    let logp = Tensor::new(&[-1.0f32, -1.0], &Device::Cpu).unwrap();
    let batch = TokenBatch::new(&[0, 1], &[-1.0], Advantages::PerSequence(&[1.0]));
    let loss = LossConfig::new(Objective::Reinforce {}, Mode::TokenMean).validate().unwrap();
    let out = loss.evaluate::<f64>(&batch, &Normalizer::default()).unwrap();
    let error = loss_tensor(&out, &logp, None).unwrap_err().to_string();
    assert!(error.contains("logp has 2 elements, the evaluated batch 1 tokens"), "{error}");
    let one = Tensor::new(&[-1.0f32], &Device::Cpu).unwrap();
    let error = loss_tensor(&out, &one, Some(&logp)).unwrap_err().to_string();
    assert!(error.contains("entropy has 2 elements"), "{error}");
    let whole = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    assert!(loss_tensor(&out, &whole, None).unwrap_err().to_string().contains("must be f32 or f64"));
}

/// Rows of logits with targets and a temperature.
fn rows() -> impl Strategy<Value = (Vec<Vec<f32>>, Vec<usize>, f64)> {
    (1usize..6, 2usize..37, 0.6f64..1.3).prop_flat_map(|(rows, vocabulary, temperature)| {
        let logits = prop::collection::vec(prop::collection::vec(-6.0f32..6.0, vocabulary), rows);
        (logits, prop::collection::vec(0..vocabulary, rows), Just(temperature))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // P15, on the op and on the definition.
    #[test]
    fn rows_of_logits((logits, targets, t) in rows(), g in -1.0f32..1.0, h in -1.0f32..1.0, shift in -3.0f32..3.0, turn in 0usize..36) {
        for (row, y) in logits.iter().zip(targets) {
            let wide: Vec<f64> = row.iter().map(|z| f64::from(*z)).collect();
            let exact = logit_row(&wide, y, t, g.into(), h.into());
            let (logp, entropy, grad) = by_op(row, y, t, g, h);
            let v = row.len() as f64;
            prop_assert!(exact.grad.iter().sum::<f64>().abs() < 1e-12);
            prop_assert!(exact.entropy >= 0.0 && exact.entropy <= v.ln() + 1e-12);
            prop_assert!(exact.sum_p2 >= 1.0 / v - 1e-12 && exact.sum_p2 <= 1.0 + 1e-12);
            let slack = 4e-6 * exact.lse.abs().max(1.0);
            prop_assert!((logp - exact.logp).abs() <= slack && (entropy - exact.entropy).abs() <= slack);
            prop_assert!(entropy >= -slack && entropy <= v.ln() + slack);
            prop_assert!(grad.iter().zip(&exact.grad).all(|(a, b)| (a - b).abs() <= 2e-5 * b.abs() + 2e-6));
            prop_assert!(grad.iter().sum::<f64>().abs() < 5e-6);
            // A constant on the row.
            let moved: Vec<f64> = wide.iter().map(|z| z + f64::from(shift)).collect();
            let again = logit_row(&moved, y, t, g.into(), h.into());
            prop_assert!(near(again.logp, exact.logp, 1e-12) && near(again.entropy, exact.entropy, 1e-12));
            prop_assert!(all_near(&again.grad, &exact.grad, 1e-12));
            let moved: Vec<f32> = row.iter().map(|z| z + shift).collect();
            prop_assert!(all_near(&by_op(&moved, y, t, g, h).2, &grad, 1e-5));
            // Another order of the vocabulary.
            let turn = turn % row.len();
            let (mut turned, mut expected) = (row.clone(), grad.clone());
            turned.rotate_left(turn);
            expected.rotate_left(turn);
            prop_assert!(all_near(&by_op(&turned, (y + row.len() - turn) % row.len(), t, g, h).2, &expected, 1e-5));
            let (mut turned, mut expected) = (wide, exact.grad);
            turned.rotate_left(turn);
            expected.rotate_left(turn);
            let again = logit_row(&turned, (y + row.len() - turn) % row.len(), t, g.into(), h.into());
            prop_assert!(all_near(&again.grad, &expected, 1e-12));
        }
    }

    // P15 by finite differences of the definition's own values.
    #[test]
    fn the_backward_formula_is_a_finite_difference((logits, targets, t) in rows(), g in -1.0f64..1.0, h in -1.0f64..1.0) {
        let wide: Vec<f64> = logits[0].iter().map(|z| f64::from(*z)).collect();
        let value = |z: &[f64]| {
            let row = logit_row(z, targets[0], t, 0.0, 0.0);
            g * row.logp + h * row.entropy
        };
        let grad = logit_row(&wide, targets[0], t, g, h).grad;
        for v in 0..wide.len() {
            let moved = |step: f64| {
                let mut z = wide.clone();
                z[v] += step;
                value(&z)
            };
            prop_assert!(near(grad[v], (moved(1e-6) - moved(-1e-6)) / 2e-6, 1e-8));
        }
    }

    // The op gives the loss and the gradients of `evaluate`, times what comes from upstream; masked positions get +0.0,
    // whatever is in them.
    #[test]
    fn the_tensor_is_the_evaluated_loss(batch in batches(), config in dressed(), upstream in prop_oneof![4 => -3.0f64..3.0, 1 => Just(f64::NAN)], single in any::<bool>()) {
        prop_assume!(!batch.logp.is_empty());
        let out = batch.run(&config);
        let dirty = |v: &[f64]| v.iter().zip(&batch.mask).map(|(v, keep)| if *keep { *v } else { f64::NAN }).collect::<Vec<f64>>();
        let dtype = if single { DType::F32 } else { DType::F64 };
        let var = |v: &[f64]| Var::from_tensor(&Tensor::new(dirty(v), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
        let (logp, entropy) = (var(&batch.logp), var(&batch.entropy));
        let loss = loss_tensor(&out, &logp, Some(&entropy)).unwrap();
        let rounding = if single { 1e-6 } else { 1e-15 };
        let value = loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
        prop_assert!(near(value, out.loss, rounding));
        let store = loss.affine(upstream, 0.0).unwrap().backward().unwrap();
        let gradient = |var: &Var| store.get(var).map(|g| g.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap());
        let times = |g: &[f64]| g.iter().map(|g| g * upstream).collect::<Vec<f64>>();
        let found = gradient(&logp).unwrap();
        for (g, keep) in found.iter().zip(&batch.mask) {
            prop_assert!(*keep || g.to_bits() == 0.0f64.to_bits());
        }
        if upstream.is_nan() {
            return Ok(());
        }
        prop_assert!(all_near(&found, &times(&out.grad_logp), rounding));
        match gradient(&entropy) {
            Some(found) => prop_assert!(all_near(&found, &times(&out.grad_entropy), rounding)),
            None => prop_assert!(out.grad_entropy.iter().all(|h| *h == 0.0)),
        }
    }

    // P19: logits → log-probabilities and entropies → loss, forward and back, against the definition row by row.
    #[test]
    fn layers_agree((logits, targets, t) in rows(), which in 0usize..14, seed in -1.0f64..1.0, masked in 0usize..6) {
        let n = logits.len();
        let config = LossConfig { entropy: Some(EntropyBonus { coef: 0.05, aggregation: EntropyAggregation::TokenMean }), ..losses()[which].clone() };
        let wide: Vec<Vec<f64>> = logits.iter().map(|r| r.iter().map(|z| f64::from(*z)).collect()).collect();
        let plain: Vec<LogitRow> = wide.iter().zip(&targets).map(|(z, y)| logit_row(z, *y, t, 0.0, 0.0)).collect();
        // Well away from every kink: what is tested is the chain.
        let old: Vec<f64> = plain.iter().enumerate().map(|(i, r)| r.logp - 0.05 - 0.01 * seed * i as f64).collect();
        prop_assume!(old.iter().all(|o| *o < 0.0));
        let mask: Vec<bool> = (0..n).map(|i| i != masked).collect();
        let (offsets, groups) = ([0, n.div_ceil(2), n], [0, 1]);
        let run = |logp: &[f64], entropy: &[f64]| -> LossOutput<f64> {
            let view = TokenBatch { logp_old: Some(&old), logp_mu: Some(&old), entropy: Some(entropy), mask: Some(&mask), groups: Some(&groups),
                ..TokenBatch::new(&offsets, logp, Advantages::PerSequence(&[1.0, -0.7])) };
            config.clone().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap()
        };
        let column = |f: fn(&LogitRow) -> f64| plain.iter().map(f).collect::<Vec<f64>>();
        let exact = run(&column(|r| r.logp), &column(|r| r.entropy));

        let mut flat = logits.concat();
        if masked < n {
            let vocabulary = logits[0].len();
            flat[masked * vocabulary..(masked + 1) * vocabulary].fill(f32::NAN);
        }
        let var = Var::from_vec(flat, (n, logits[0].len()), &Device::Cpu).unwrap();
        let ids: Vec<u32> = targets.iter().map(|y| *y as u32).collect();
        let scores = log_probs(&var, &ids, t).unwrap();
        let split = |i| scores.narrow(1, i, 1).unwrap().flatten_all().unwrap();
        let (logp, entropy) = (split(0), split(1));
        let values = |t: &Tensor| t.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect::<Vec<f64>>();
        let out = run(&values(&logp), &values(&entropy));
        let loss = loss_tensor(&out, &logp, Some(&entropy)).unwrap();
        prop_assert!(near(loss.to_scalar::<f32>().unwrap().into(), exact.loss, 1e-4));
        let store = loss.backward().unwrap();
        let found = store.get(&var).unwrap().to_vec2::<f32>().unwrap();
        for i in 0..n {
            let expected = logit_row(&wide[i], targets[i], t, exact.grad_logp[i], exact.grad_entropy[i]).grad;
            for (f, e) in found[i].iter().zip(expected) {
                prop_assert!(if mask[i] { (f64::from(*f) - e).abs() <= 1e-4 * (1.0 + e.abs()) } else { f.to_bits() == 0 }, "row {i}: {f} against {e}");
            }
        }
    }
}

/// Values and gradients to both inputs of the head, by chunks of `chunk` rows, or by whole logits for `None`.
fn by_head(
    [hidden, weight]: &[Tensor; 2],
    targets: &[u32],
    mask: &[bool],
    upstream: &Tensor,
    chunk: Option<usize>,
) -> [Vec<f32>; 3] {
    let [hidden, weight] = [hidden, weight].map(|t| Var::from_tensor(t).unwrap());
    let out = match chunk {
        Some(chunk) => linear_log_probs(&hidden, &weight, targets, Some(mask), 0.8, chunk),
        None => {
            let logits = hidden.matmul(&weight.t().unwrap()).unwrap();
            masked_log_probs(&logits, targets, Some(mask), 0.8)
        }
    }
    .unwrap();
    let store = (&out * upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = |t: &Var| store.get(t).unwrap().clone();
    [out, gradient(&hidden), gradient(&weight)].map(|t| t.flatten_all().unwrap().to_vec1().unwrap())
}

#[test]
fn the_head_in_chunks_is_the_head() {
    let (rows, size, vocabulary) = (13, 9, 31);
    let wave =
        |n: usize, scale: f32| (0..n).map(|i| scale * (i as f32 * 12.9898).sin()).collect::<Vec<f32>>();
    let tensor =
        |n: usize, m: usize, scale: f32| Tensor::from_vec(wave(n * m, scale), (n, m), &Device::Cpu).unwrap();
    let inputs = [tensor(rows, size, 1.0), tensor(vocabulary, size, 1.5)];
    let upstream = tensor(rows, 2, 0.7);
    let targets: Vec<u32> = (0..rows as u32).map(|r| r * 7 % vocabulary as u32).collect();
    for masked in [vec![], vec![0, 5, 12], (0..rows).collect()] {
        let mask: Vec<bool> = (0..rows).map(|r| !masked.contains(&r)).collect();
        let whole = by_head(&inputs, &targets, &mask, &upstream, None);
        for chunk in [1, 4, 13, 100] {
            let found = by_head(&inputs, &targets, &mask, &upstream, Some(chunk));
            for (found, expected) in found.iter().zip(&whole) {
                assert_eq!(found.len(), expected.len());
                let size = expected.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
                for (f, e) in found.iter().zip(expected) {
                    assert!((f - e).abs() <= 2e-6 * size.max(1.0) * 4.0, "chunk {chunk}: {f}, expected {e}");
                }
            }
            // What is in a masked row, NaN included, does not matter, in any bit.
            let mut poisoned = inputs[0].to_vec2::<f32>().unwrap();
            masked.iter().for_each(|r| poisoned[*r].fill(f32::NAN));
            let poisoned = [Tensor::new(poisoned, &Device::Cpu).unwrap(), inputs[1].clone()];
            let again = by_head(&poisoned, &targets, &mask, &upstream, Some(chunk));
            let bits = |all: &[Vec<f32>; 3]| all.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&again), bits(&found), "chunk {chunk}");
            for r in &masked {
                assert!(found[0][2 * r..2 * r + 2].iter().all(|v| v.to_bits() == 0));
                assert!(found[1][size * r..size * (r + 1)].iter().all(|v| v.to_bits() == 0));
            }
        }
    }
}

#[test]
fn a_head_that_does_not_fit_is_refused() {
    let zeros = |n: usize, m: usize| Tensor::zeros((n, m), DType::F32, &Device::Cpu).unwrap();
    let refuse = |targets: &[u32], mask: Option<&[bool]>, temperature: f64, chunk: usize| {
        linear_log_probs(&zeros(3, 2), &zeros(5, 2), targets, mask, temperature, chunk)
            .unwrap_err()
            .to_string()
    };
    for (error, expected) in [
        (refuse(&[0, 1], None, 1.0, 1), "2 targets for 3 rows of hidden states"),
        (refuse(&[0, 1, 2], None, 1.0, 0), "chunk is 0, expected at least one row"),
        (refuse(&[0, 5, 2], None, 1.0, 1), "target token 5 is outside the vocabulary of 5"),
        (refuse(&[0, 1, 2], Some(&[true]), 1.0, 1), "mask has 1 elements, there are 3 targets"),
        (refuse(&[0, 1, 2], None, f64::NAN, 1), "temperature is NaN, expected a positive number"),
    ] {
        assert!(error.starts_with(expected), "{error}");
    }
}
