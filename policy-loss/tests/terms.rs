//! The algebra of what an objective is combined with: corrections, penalties, aggregation, and of extremes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use policy_loss::{
    Advantages, Base, Control, KlKind, KlPenalty, Level, LossConfig, Mode, Normalizer, Objective, TokenBatch,
    TruncationTarget, Warning,
};
use proptest::prelude::*;

fn distribution(size: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-2.0f64..2.0, size).prop_map(|z| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.iter().map(|z| z.exp() / sum).collect()
    })
}

/// Value and gradient to logp of a KL estimate at one token.
fn kl(kind: KlKind, logp: f64, old: f64, reference: f64, clamp: bool) -> (f64, f64) {
    let (logp, old, reference) = ([logp], [old], [reference]);
    let view = TokenBatch {
        logp_old: Some(&old),
        logp_ref: Some(&reference),
        ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&[0.0]))
    };
    let config = LossConfig {
        kl: Some(KlPenalty { kind, beta: 1.0, clamp }),
        ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenSum)
    };
    let out = config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
    (out.loss, out.grad_logp[0])
}

/// `E_b[∂k/∂logp · ∇_z log p]`, for categorical `p` with logits `z`, under behaviour `b`.
fn expected(kind: KlKind, p: &[f64], behaviour: &[f64], q: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; p.len()];
    for y in 0..p.len() {
        let (_, g) = kl(kind, p[y].ln(), behaviour[y].ln(), q[y].ln(), false);
        for (v, out) in gradient.iter_mut().enumerate() {
            *out += behaviour[y] * g * (f64::from(u8::from(v == y)) - p[v]);
        }
    }
    gradient
}

/// `∇_z KL(p‖q)` and `∇_z KL(q‖p)`.
fn kl_gradients(p: &[f64], q: &[f64]) -> (f64, Vec<f64>, Vec<f64>) {
    let kl: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
    let forward = p.iter().zip(q).map(|(p, q)| p * ((p / q).ln() - kl)).collect();
    (kl, forward, p.iter().zip(q).map(|(p, q)| p - q).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    // P13
    #[test]
    fn corrections(batch in batches()) {
        let weights = |b: &Batch, level, control| {
            let correction = correction(Base::Mismatch, level, control);
            b.run(&LossConfig { correction, ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean) })
        };
        let plain = batch.run(&LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean));
        let wide = Control::Truncate { max: 1e300, min: 0.0 };
        for level in [Level::Token, Level::SeqProduct, Level::SeqGeo] {
            let raw = weights(&batch, level, Control::None {});
            prop_assert!(all_near(&raw.grad_logp, &weights(&batch, level, wide).grad_logp, 1e-12));
            let masked = weights(&batch, level, Control::Mask { min: 0.0, max: 1.5 });
            let cut = weights(&batch, level, Control::Truncate { max: 1.5, min: 0.0 });
            for (m, t) in masked.grad_logp.iter().zip(&cut.grad_logp) {
                prop_assert!(m.abs() <= t.abs() + 1e-15);
            }
            let same = Batch { mu: batch.old.clone(), ..batch.clone() };
            for control in [Control::None {}, wide, Control::Mask { min: 0.5, max: 2.0 }, Control::SeqGeoBandTokenWeight { min: 1.0, max: 1.0 }] {
                let one = weights(&same, level, control);
                prop_assert!(all_near(&one.grad_logp, &plain.grad_logp, 1e-12));
                if let Some(ess) = one.metrics.get("is/ess") {
                    prop_assert!(near(ess, 1.0, 1e-12));
                }
            }
            if let Some(ess) = raw.metrics.get("is/ess") {
                let constant = near(raw.metrics.get("is/min").unwrap(), raw.metrics.get("is/max").unwrap(), 1e-9);
                prop_assert!(ess <= 1.0 + 1e-12 && (constant || ess < 1.0));
            }
        }
        // The sequence weight is the product of the token weights, and the n-th power of the geometric one. Weights
        // multiply the gradient and nothing flows into them.
        for i in 0..batch.sequences() {
            let row = batch.rows(&[i]);
            let kept: Vec<usize> = (0..row.logp.len()).filter(|t| row.mask[*t]).collect();
            if kept.is_empty() { continue }
            let rho = |t: usize| (row.old[t] - row.mu[t]).exp();
            let product: f64 = kept.iter().map(|t| rho(*t)).product();
            let of = |level| weights(&row, level, Control::None {});
            prop_assert!(near(of(Level::SeqProduct).metrics.get("is/max").unwrap(), product, 1e-9));
            prop_assert!(near(of(Level::SeqGeo).metrics.get("is/max").unwrap().powi(kept.len() as i32), product, 1e-9));
            let plain = row.run(&LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)).grad_logp;
            for &t in &kept {
                prop_assert!(near(of(Level::Token).grad_logp[t], rho(t) * plain[t], 1e-9));
                prop_assert!(near(of(Level::SeqProduct).grad_logp[t], product * plain[t], 1e-9));
            }
        }
        // The full ratio depends on logp, and still nothing flows into it.
        let full = LossConfig { correction: correction(Base::Full, Level::Token, Control::None {}),
            ..LossConfig::new(Objective::Reinforce {}, Mode::TokenSum) };
        let weighted = batch.run(&full).grad_logp;
        for i in 0..batch.sequences() {
            for t in (batch.offsets[i]..batch.offsets[i + 1]).filter(|t| batch.mask[*t]) {
                prop_assert!(near(weighted[t], -(batch.logp[t] - batch.mu[t]).exp() * batch.adv[i], 1e-9));
            }
        }
    }

    // P13: batch_normalize makes the mean 1.
    #[test]
    fn normalised_weights_have_mean_one(batch in batches(), which in 0usize..3) {
        let level = [Level::Token, Level::SeqProduct, Level::SeqGeo][which];
        let mut correction = correction(Base::Mismatch, level, Control::None {});
        let config = |c| LossConfig { correction: c, ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean) };
        let raw = batch.run(&config(correction));
        if let Some(c) = &mut correction { c.batch_normalize = true }
        let normalised = batch.run(&config(correction));
        // Over tokens, or over sequences with a token.
        let n = lengths(&batch);
        let row_weight = |i: usize| {
            let of = batch.rows(&[i]);
            let d: f64 = (0..of.logp.len()).filter(|t| of.mask[*t]).map(|t| of.old[t] - of.mu[t]).sum();
            if level == Level::SeqProduct { d.exp() } else { (d / n[i]).exp() }
        };
        let rows: Vec<usize> = (0..n.len()).filter(|i| n[*i] > 0.0).collect();
        prop_assume!(!rows.is_empty());
        let mean = match level {
            Level::Token => raw.metrics.get("is/mean").unwrap(),
            _ => rows.iter().map(|i| row_weight(*i)).sum::<f64>() / rows.len() as f64,
        };
        let expected: Vec<f64> = raw.grad_logp.iter().map(|g| g / mean).collect();
        prop_assert!(all_near(&normalised.grad_logp, &expected, 1e-9));
    }

    // P14
    #[test]
    fn kl_estimates(p in distribution(4), q in distribution(4), b in distribution(4), x in -2.0f64..2.0, delta in -2.0f64..2.0) {
        let (value, forward, backward) = kl_gradients(&p, &q);
        let is = |kind, behaviour: &[f64], wanted: &[f64]| all_near(&expected(kind, &p, behaviour, &q), wanted, 1e-9);
        prop_assert!(is(KlKind::K1, &p, &[0.0; 4]));
        prop_assert!(is(KlKind::K2, &p, &forward) && is(KlKind::K1Plus, &p, &forward) && is(KlKind::K3Plus, &p, &forward));
        prop_assert!(is(KlKind::K3, &p, &backward));
        prop_assert!(is(KlKind::K3Is, &b, &forward));
        for kind in [KlKind::K1, KlKind::K3] {
            let mean: f64 = (0..4).map(|y| p[y] * kl(kind, p[y].ln(), p[y].ln(), q[y].ln(), false).0).sum();
            prop_assert!(near(mean, value, 1e-12));
        }
        let at = |kind| kl(kind, -5.0, -5.0 - delta, -5.0 - x, true);
        for kind in [KlKind::K2, KlKind::K3] {
            prop_assert!(at(kind).0 > 0.0 || x == 0.0);
            prop_assert_eq!(kl(kind, -5.0, -5.0, -5.0, true), (0.0, 0.0));
        }
        let ratio = delta.exp();
        prop_assert!(near(kl(KlKind::K3Is, -5.0, -5.0 - delta, -5.0 - x, false).1, ratio * at(KlKind::K2).1, 1e-12));
    }

    // P17
    #[test]
    fn aggregations_agree_up_to_a_scalar_when_lengths_are_equal(groups in 1usize..4, size in 1usize..4, len in 1usize..4, seed in prop::collection::vec(-1.0f64..1.0, 27)) {
        let rows = groups * size;
        let n = rows * len;
        let logp: Vec<f64> = seed[..n].iter().map(|s| s - 3.0).collect();
        let old: Vec<f64> = seed[..n].iter().map(|s| s * 0.5 - 3.0).collect();
        let offsets: Vec<usize> = (0..=rows).map(|i| i * len).collect();
        let adv: Vec<f64> = (0..rows).map(|i| i as f64 - 1.3).collect();
        let ids: Vec<u32> = (0..rows).map(|i| (i % groups) as u32).collect();
        let view = TokenBatch { logp_old: Some(&old), groups: Some(&ids), ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv)) };
        let loss = |mode| LossConfig::new(ppo(0.2, 0.2), mode).validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
        let token = loss(Mode::TokenMean);
        for (mode, scale) in [(Mode::SeqMeanTokenMean, 1.0), (Mode::GroupTokenMean, 1.0), (Mode::SeqMeanTokenSum, len as f64),
            (Mode::SeqMeanTokenSumNorm { len: 4.0 }, len as f64 / 4.0), (Mode::TokenSum, n as f64)] {
            let out = loss(mode);
            prop_assert!(near(out.loss, token.loss * scale, 1e-12), "{mode:?}");
            let expected: Vec<f64> = token.grad_logp.iter().map(|g| g * scale).collect();
            prop_assert!(all_near(&out.grad_logp, &expected, 1e-12), "{mode:?}");
        }
    }

    // P17
    #[test]
    fn the_token_mean_is_the_mean_of_sequence_means_weighted_by_length(batch in batches()) {
        let config = LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean);
        let n = lengths(&batch);
        let weighted: f64 = (0..batch.sequences()).map(|i| n[i] * batch.rows(&[i]).run(&config).loss).sum();
        let total: f64 = n.iter().sum();
        prop_assert!(near(batch.run(&config).loss, weighted / total.max(1.0), 1e-12));
    }

    // Its definition: the policy loss less that of the same batch with π_θ = π_old and the same mismatch.
    #[test]
    fn the_centred_loss_is_zero_at_the_start(batch in batches(), which in 0usize..15, control in 0usize..3) {
        let config = losses().get(which).cloned().unwrap_or(LossConfig::new(Objective::Reinforce {}, Mode::TokenMean));
        let control = [Control::None {}, Control::Truncate { max: 1.5, min: 0.2 }, Control::Mask { min: 0.5, max: 2.0 }][control];
        let corrected = [(Base::Full, Level::Token), (Base::Mismatch, Level::Token), (Base::Mismatch, Level::SeqProduct)].map(|(base, level)|
            LossConfig { correction: correction(base, level, control), ..config.clone() });
        for config in corrected.into_iter().filter(|c| c.clone().validate().is_ok()).chain([config]) {
            let start = Batch { old: batch.logp.clone(),
                mu: (0..batch.mu.len()).map(|t| batch.mu[t] + batch.logp[t] - batch.old[t]).collect(), ..batch.clone() };
            let (now, then) = (batch.run(&config), start.run(&config));
            let expected = now.metrics.get("loss/policy").unwrap() - then.metrics.get("loss/policy").unwrap();
            prop_assert!(near(now.metrics.get("loss/policy_centered").unwrap(), expected, 1e-9), "{:?}", config.correction);
            prop_assert!(then.metrics.get("loss/policy_centered").unwrap().abs() < 1e-9);
        }
    }

    // §13.7
    #[test]
    fn extremes_give_numbers(which in 0usize..20, correct in any::<bool>(), delta in prop_oneof![Just(-200.0f64), Just(200.0), Just(0.0)],
        d in prop_oneof![Just(-200.0f64), Just(200.0), Just(0.0)], adv in prop_oneof![Just(1e6f64), Just(-1e6), Just(0.0)]) {
        let sapo = |tau| LossConfig::new(Objective::Sapo { tau_pos: tau, tau_neg: tau }, Mode::TokenMean);
        let more = [sapo(1e-3), sapo(1e3), LossConfig::new(ppo(0.0, 0.0), Mode::TokenMean),
            LossConfig::new(mini_rl(f64::INFINITY, TruncationTarget::Full), Mode::TokenMean),
            LossConfig::new(mini_rl(f64::INFINITY, TruncationTarget::Mismatch), Mode::TokenMean),
            LossConfig::new(Objective::Cispo { ratio_min: 0.0, ratio_max: f64::INFINITY }, Mode::TokenMean)];
        let mut config = losses().into_iter().chain(more).nth(which).unwrap();
        config.kl = Some(KlPenalty { kind: KlKind::K3Is, beta: 0.1, clamp: true });
        let corrected = LossConfig { correction: correction(Base::Mismatch, Level::SeqProduct, Control::None {}), ..config.clone() };
        if correct && corrected.clone().validate().is_ok() {
            config = corrected;
        }
        let logp = [-500.0f32];
        let (old, mu, adv) = ([-500.0 - delta as f32], [-500.0 - (delta + d) as f32], [adv as f32]);
        let view = TokenBatch { logp_old: Some(&old), logp_mu: Some(&mu), logp_ref: Some(&mu), groups: Some(&[0]),
            ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&adv)) };
        let out = config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
        prop_assert!(out.loss.is_finite() && out.grad_logp[0].is_finite(), "{} {}", out.loss, out.grad_logp[0]);
        for (name, v) in out.metrics.finish() {
            prop_assert!(v.is_finite(), "{name} is {v}");
        }
    }
}

#[test]
fn e20_categorical_kl() {
    let softmax = |z: [f64; 3]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.map(|z| z.exp() / sum)
    };
    let (p, q, b) = (softmax([0.2, -0.5, 0.9]), softmax([0.0, 0.1, 0.3]), [0.2, 0.5, 0.3]);
    let forward = [-0.033129133, -0.129622378, 0.162751510];
    let backward = [-0.004560259, -0.178409385, 0.182969643];
    let same =
        |a: &[f64], b: &[f64]| a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-8, "{a} {b}"));
    same(&expected(KlKind::K1, &p, &p, &q), &[0.0; 3]);
    same(&expected(KlKind::K2, &p, &p, &q), &forward);
    same(&expected(KlKind::K3Is, &p, &b, &q), &forward);
    same(&expected(KlKind::K3, &p, &p, &q), &backward);
    // Value and variance of the estimators under p.
    let moments = |kind| {
        let k: Vec<f64> = (0..3).map(|y| kl(kind, p[y].ln(), p[y].ln(), q[y].ln(), true).0).collect();
        let mean: f64 = (0..3).map(|y| p[y] * k[y]).sum();
        (mean, (0..3).map(|y| p[y] * (k[y] - mean).powi(2)).sum::<f64>())
    };
    let ((k1, var1), (k3, var3)) = (moments(KlKind::K1), moments(KlKind::K3));
    same(&[k1, k3], &[0.100413182; 2]);
    assert!((var1 - 0.1688).abs() < 5e-5 && (var3 - 0.0204).abs() < 5e-5, "{var1} {var3}");
}

#[test]
fn kl_gradients_vanish_where_a_clamp_is_active() {
    // x beyond ±20, and estimates beyond 10.
    for kind in
        [KlKind::K1, KlKind::K2, KlKind::K3, KlKind::Abs, KlKind::K1Plus, KlKind::K3Plus, KlKind::K3Is]
    {
        assert_eq!(kl(kind, -1.0, -1.0, -26.0, true).1, 0.0, "{kind:?}");
        assert!(kl(kind, -1.0, -1.0, -26.0, true).0 <= 10.0, "{kind:?}");
    }
    assert_eq!(kl(KlKind::K2, -1.0, -1.0, -6.0, true), (10.0, 0.0));
    // Where the ratio is clamped (Δ = −30), nothing flows through it: r·(1 − e^{−x}) remains of r·x.
    let (_, g) = kl(KlKind::K3Is, -31.0, -1.0, -32.0, true);
    let wanted = (-20.0f64).exp() * (1.0 - (-1.0f64).exp());
    assert!((g - wanted).abs() < 1e-12 * wanted, "{g} {wanted}");
}

#[test]
fn a_clamped_ratio_passes_no_gradient_but_a_detached_weight_does() {
    // Δ = 25 with A > 0: the ratio is e^20, a constant.
    let (logp, old) = ([-1.0], [-26.0]);
    let view = TokenBatch {
        logp_old: Some(&old),
        logp_mu: Some(&old),
        ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&[1.0]))
    };
    let of = |objective| {
        let loss = LossConfig::new(objective, Mode::SeqMeanTokenMean).validate().unwrap();
        let out = loss.evaluate(&view, &Normalizer::default()).unwrap();
        assert_eq!(out.metrics.get("ratio/saturated_frac"), Some(1.0));
        assert_eq!(out.metrics.get("ratio/log_max"), Some(25.0));
        -out.grad_logp[0]
    };
    let open = f64::INFINITY;
    for objective in [
        ppo(1.0, open),
        Objective::Gspo { clip_low: 0.2, clip_high: open },
        Objective::Gmpo { clip_low: 0.4, clip_high: open },
        Objective::Sapo { tau_pos: 1e-9, tau_neg: 1.0 },
    ] {
        assert_eq!(of(objective), 0.0, "{objective:?}");
    }
    let cap = 20f64.exp();
    for objective in [
        Objective::Cispo { ratio_min: 0.0, ratio_max: open },
        mini_rl(open, TruncationTarget::Mismatch),
        Objective::DppoTv { delta_low: 1.0, delta_high: 1.0, cap: open },
    ] {
        let objective = match objective {
            Objective::MiniRl { clip_low, clip_high, cap, truncation_target, .. } => Objective::MiniRl {
                clip_low,
                clip_high,
                cap,
                truncation_target,
                no_clip: true,
                no_train_infer_is: false,
            },
            other => other,
        };
        assert!((of(objective) / cap - 1.0).abs() < 1e-12, "{objective:?}");
    }
}

#[test]
fn what_is_seldom_meant_is_said() {
    let warnings = |config: LossConfig, len: usize| {
        let values = vec![-1.0; len];
        let offsets = [0, len];
        let view = TokenBatch {
            logp_old: Some(&values[..]),
            logp_mu: Some(&values),
            ..TokenBatch::new(&offsets, &values, Advantages::PerSequence(&[1.0]))
        };
        config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap().warnings
    };
    let of = |level| LossConfig {
        correction: correction(Base::Mismatch, level, Control::None {}),
        ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)
    };
    assert_eq!(warnings(of(Level::SeqProduct), 512), []);
    assert_eq!(warnings(of(Level::SeqGeo), 513), []);
    assert_eq!(warnings(of(Level::SeqProduct), 513), [Warning::LongSequenceProduct { mean_len: 513.0 }]);
    let open = warnings(LossConfig::new(ppo(1.0, 0.2), Mode::TokenMean), 1);
    assert_eq!(open, [Warning::LowerClipOff { clip_low: 1.0 }]);
    assert!(open[0].to_string().starts_with("objective.clip_low is 1:"));
}
