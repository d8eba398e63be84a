//! The algebra of objectives, aggregation and masks, over random ragged batches.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use policy_loss::reference;
use policy_loss::{
    Advantages, EntropyAggregation, EntropyBonus, KlKind, KlPenalty, LossConfig, Metrics, Mode, Normalizer,
    Objective, TokenBatch, TruncationTarget,
};
use proptest::prelude::*;

/// One token of log-ratio `delta` and advantage `a`: its loss and coefficient `c = −∂ℓ/∂logp`.
fn token(objective: Objective, delta: f64, a: f64) -> (f64, f64) {
    let (logp, adv) = ([delta - 10.0], [a]);
    let batch = TokenBatch {
        logp_old: Some(&[-10.0]),
        ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&adv))
    };
    let loss = LossConfig::new(objective, Mode::TokenSum).validate().unwrap();
    let out = loss.evaluate(&batch, &Normalizer::default()).unwrap();
    (out.loss, -out.grad_logp[0])
}

fn sapo(tau: f64) -> Objective {
    Objective::Sapo { tau_pos: tau, tau_neg: tau }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_fast_path_is_the_definition(batch in batches(), config in dressed()) {
        let fast = batch.run(&config);
        let exact = reference::evaluate(&config, &batch.padded(), &Normalizer::default());
        prop_assert!(near(fast.loss, exact.loss, 1e-10), "{} against {}", fast.loss, exact.loss);
        for i in 0..batch.sequences() {
            for at in batch.offsets[i]..batch.offsets[i + 1] {
                let t = at - batch.offsets[i];
                prop_assert!(near(fast.grad_logp[at], exact.grad_logp[[i, t]], 1e-10));
                prop_assert!(near(fast.grad_entropy[at], exact.grad_entropy[[i, t]], 1e-10));
            }
        }
        // And in f32: the same numbers, rounded on the way in and out.
        let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
        let wide = |v: &[f64]| v.iter().map(|x| f64::from(*x as f32)).collect::<Vec<f64>>();
        let (logp, old, mu, reference, entropy, adv) = (narrow(&batch.logp), narrow(&batch.old), narrow(&batch.mu),
            narrow(&batch.reference), narrow(&batch.entropy), narrow(&batch.adv));
        let view = TokenBatch {
            logp_old: Some(&old), logp_mu: Some(&mu), logp_ref: Some(&reference), entropy: Some(&entropy),
            mask: Some(&batch.mask), groups: Some(&batch.groups),
            ..TokenBatch::new(&batch.offsets, &logp, Advantages::PerSequence(&adv))
        };
        let rounded = Batch { logp: wide(&batch.logp), old: wide(&batch.old), mu: wide(&batch.mu),
            reference: wide(&batch.reference), entropy: wide(&batch.entropy), adv: wide(&batch.adv), ..batch.clone() };
        let single = config.clone().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
        let double = rounded.run(&config);
        for (a, b) in single.grad_logp.iter().zip(&double.grad_logp) {
            prop_assert!((f64::from(*a) - b).abs() <= 1e-6 * b.abs() + 1e-30);
        }
    }

    // P1
    #[test]
    fn on_policy_every_objective_is_reinforce(batch in batches(), which in 0usize..14, tau in 1e-3f64..1e3) {
        let mut batch = batch;
        (batch.old, batch.mu) = (batch.logp.clone(), batch.logp.clone());
        let mut loss = losses()[which].clone();
        if let Objective::Sapo { .. } = loss.objective {
            loss.objective = sapo(tau);
        }
        // With one weight for all tokens, the coefficient is what differs.
        let config = LossConfig { aggregation: Mode::SeqMeanTokenMean.into(), allow_length_weighting: true, ..loss };
        let reinforce = LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenMean);
        let (a, b) = (batch.run(&config), batch.run(&reinforce));
        prop_assert!(all_near(&a.grad_logp, &b.grad_logp, 1e-12), "{:?}", config.objective);
        let switched = Batch { old: vec![-1.0; batch.old.len()], ..batch.clone() };
        let on_policy = LossConfig { on_policy: true, ..config };
        prop_assert!(all_near(&switched.run(&on_policy).grad_logp, &b.grad_logp, 1e-12));
    }

    // P2
    #[test]
    fn gradients_are_finite_differences(batch in batches(), which in 0usize..8, at in 0usize..40) {
        let sequence = Mode::SeqMeanTokenMean;
        let plain = LossConfig::new(Objective::Reinforce {}, sequence);
        let kl = |kind, config: LossConfig| LossConfig { kl: Some(KlPenalty { kind, beta: 0.5, clamp: true }), ..config };
        let config = [
            LossConfig::new(ppo(0.2, 0.28), Mode::TokenMean),
            LossConfig::new(Objective::PpoClip { clip_low: 0.2, clip_high: 0.28, dual_clip: Some(1.5) }, Mode::TokenMean),
            LossConfig::new(Objective::Gspo { clip_low: 0.2, clip_high: 0.28 }, sequence),
            LossConfig::new(Objective::Gmpo { clip_low: 0.4, clip_high: 0.4 }, sequence),
            LossConfig::new(Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 }, sequence),
            kl(KlKind::K2, plain.clone()),
            kl(KlKind::K3, plain),
            kl(KlKind::K3Is, LossConfig::new(ppo(0.2, 0.2), sequence)),
        ][which].clone();
        prop_assume!(!batch.logp.is_empty());
        let at = at % batch.logp.len();
        let moved = |step: f64| {
            let mut moved = batch.clone();
            moved.logp[at] += step;
            moved.run(&config)
        };
        let (plus, minus) = (moved(1e-6), moved(-1e-6));
        // A kink between the two: another gradient on either side.
        prop_assume!(near(plus.grad_logp[at], minus.grad_logp[at], 1e-3));
        let difference = (plus.loss - minus.loss) / 2e-6;
        let gradient = batch.run(&config).grad_logp[at];
        prop_assert!(near(gradient, difference, 1e-8), "{gradient} against {difference}");
    }

    // P2: with the weight frozen, the loss of these objectives is linear in logp.
    #[test]
    fn detached_weights_make_the_loss_linear(batch in batches(), which in 0usize..8) {
        let config = losses().into_iter().filter(|c| matches!(c.objective, Objective::Reinforce {} | Objective::Cispo { .. }
            | Objective::MiniRl { .. } | Objective::DppoTv { .. } | Objective::DppoKl { .. } | Objective::Vespo { .. })).nth(which);
        let Some(config) = config else { return Ok(()) };
        let out = batch.run(&config);
        let linear: f64 = (0..batch.logp.len()).filter(|t| batch.mask[*t]).map(|t| out.grad_logp[t] * batch.logp[t]).sum();
        prop_assert!(near(out.loss, linear, 1e-10), "{}: {} against {linear}", config.objective.name(), out.loss);
    }

    // P2
    #[test]
    fn the_entropy_gradient_is_a_finite_difference(batch in batches(), which in 0usize..14, at in 0usize..40, same in any::<bool>()) {
        prop_assume!(!batch.logp.is_empty());
        let aggregation = if same { EntropyAggregation::SameAsPolicy } else { EntropyAggregation::TokenMean };
        let config = LossConfig { entropy: Some(EntropyBonus { coef: 0.3, aggregation }), ..losses()[which].clone() };
        let at = at % batch.logp.len();
        let moved = |step: f64| {
            let mut moved = batch.clone();
            moved.entropy[at] += step;
            moved.run(&config).loss
        };
        prop_assert!(near(batch.run(&config).grad_entropy[at], (moved(0.5) - moved(-0.5)) / 1.0, 1e-10));
    }

    // P3
    #[test]
    fn sapo_gate(u in -0.99f64..3.0, more in 1e-3f64..1.0, tau in 1e-3f64..50.0) {
        // One token with ratio 1 + u: loss −f(r), coefficient r·f'(r).
        let at = |u: f64, tau: f64| {
            let (loss, c) = token(sapo(tau), u.ln_1p(), 1.0);
            (-loss, c / (1.0 + u))
        };
        let (f, slope) = at(u, tau);
        prop_assert!(f >= 0.0 && f <= 4.0 / tau);
        prop_assert!((0.0..=1.0 + 1e-12).contains(&slope));
        prop_assert!(near(at(0.0, tau).1, 1.0, 1e-12) && (u.abs() < 1e-3 || slope < 1.0));
        // Increasing, strictly where f64 can tell.
        prop_assert!(at(u + more, tau).0 >= f && (tau > 5.0 || at(u + more, tau).0 > f));
        if u.abs() < 0.99 {
            let (mirror, mirror_slope) = at(-u, tau);
            prop_assert!(near(f + mirror, 4.0 / tau, 1e-9));
            prop_assert!(near(slope, mirror_slope, 1e-9));
        }
        let (small, small_slope) = at(u, 1e-5);
        prop_assert!(near(small - 2e5, u, 1e-4) && near(small_slope, 1.0, 1e-6));
        // The largest coefficients, and that they are reached.
        for (tau, largest, r) in [(1.0, 1.574675, 2.0601), (1.05, 1.536256, 1.9916)] {
            prop_assert!((1.0 + u) * at(u, tau).1 <= largest + 1e-6);
            prop_assert!((r * at(r - 1.0, tau).1 - largest).abs() < 1e-5, "{}", r * at(r - 1.0, tau).1);
        }
    }

    // P3
    #[test]
    fn sapo_coherence_is_bounded_by_the_variance(deltas in prop::collection::vec(-3.0f64..3.0, 1..8), a in -1.0f64..1.0, tau in 0.1f64..5.0) {
        let (logp, old): (Vec<f64>, Vec<f64>) = (deltas.iter().map(|d| d - 5.0).collect(), vec![-5.0; deltas.len()]);
        let (offsets, adv) = ([0, deltas.len()], [a]);
        let batch = TokenBatch { logp_old: Some(&old[..]), ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv)) };
        let out = LossConfig::new(sapo(tau), Mode::TokenSum).validate().unwrap().evaluate(&batch, &Normalizer::default()).unwrap();
        let n = deltas.len() as f64;
        let mean = deltas.iter().sum::<f64>() / n;
        let var = deltas.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n;
        prop_assert!(near(out.metrics.get("gate/var").unwrap(), var, 1e-12));
        let gap = out.metrics.get("gate/coherence_gap").unwrap();
        prop_assert!(gap <= tau * tau / 4.0 * var + 1e-12);
        let gate = |z: f64| 1.0 / (tau * z / 2.0).cosh().powi(2);
        let average = deltas.iter().map(|z| gate(*z)).sum::<f64>() / n;
        prop_assert!(near(gap, (average - gate(mean)).abs(), 1e-12));
    }

    // P4
    #[test]
    fn sequence_ratio(deltas in prop::collection::vec(-2.0f64..2.0, 1..8), shift in -0.5f64..0.5) {
        let ratio = |deltas: &[f64]| {
            let logp: Vec<f64> = deltas.iter().map(|d| d - 5.0).collect();
            let old = vec![-5.0; deltas.len()];
            let offsets = [0, deltas.len()];
            let batch = TokenBatch { logp_old: Some(&old[..]), ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&[1.0])) };
            let gspo = Objective::Gspo { clip_low: 0.99, clip_high: 1e9 };
            let out = LossConfig::new(gspo, Mode::SeqMeanTokenMean).validate().unwrap().evaluate(&batch, &Normalizer::default()).unwrap();
            prop_assert!(near(-out.loss, out.metrics.get("seq_ratio/mean").unwrap(), 1e-12));
            Ok(-out.loss)
        };
        let s = ratio(&deltas)?;
        let mut turned = deltas.clone();
        turned.reverse();
        prop_assert!(near(ratio(&turned)?, s, 1e-12));
        let twice: Vec<f64> = deltas.iter().chain(&deltas).copied().collect();
        prop_assert!(near(ratio(&twice)?, s, 1e-12));
        let moved: Vec<f64> = deltas.iter().map(|d| d + shift).collect();
        prop_assert!(near(ratio(&moved)?, s * shift.exp(), 1e-12));
        if deltas.len() == 1 {
            prop_assert!(near(s, deltas[0].exp(), 1e-12));
        }
    }

    // P5
    #[test]
    fn wider_clips_clip_less(batch in batches(), low in 0.0f64..0.9, high in 0.0f64..2.0, more in 0.0f64..0.5, delta in -3.0f64..3.0, a in -3.0f64..3.0) {
        let clipped = |low: f64, high: f64| batch.run(&LossConfig::new(ppo(low, high), Mode::TokenMean)).metrics.get("clip/frac").unwrap_or(0.0);
        prop_assert!(clipped(low + more, high + more) <= clipped(low, high));
        prop_assert!(-token(ppo(low, high), delta, a).0 <= delta.exp() * a + 1e-12);
        prop_assert!(near(token(ppo(1.0, f64::INFINITY), delta, a).0, -delta.exp() * a, 1e-12));
    }

    // P6, P7 and the last of P1
    #[test]
    fn identities_between_objectives(batch in batches()) {
        let same = Batch { mu: batch.old.clone(), ..batch.clone() };
        let g = |b: &Batch, objective| b.run(&LossConfig::new(objective, Mode::SeqMeanTokenSum)).grad_logp;
        let open = mini_rl(f64::INFINITY, TruncationTarget::Full);
        prop_assert!(all_near(&g(&same, open), &g(&same, ppo(0.2, 0.27)), 1e-12));
        prop_assert!(all_near(&g(&batch, open), &g(&batch, mini_rl(f64::INFINITY, TruncationTarget::Mismatch)), 1e-12));
        let cispo = g(&batch, Objective::Cispo { ratio_min: 0.0, ratio_max: f64::INFINITY });
        prop_assert!(all_near(&cispo, &g(&batch, ppo(1.0, f64::INFINITY)), 1e-12));
        let full = correction(policy_loss::Base::Full, policy_loss::Level::Token, policy_loss::Control::None {});
        let weighted = LossConfig { correction: full, ..LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenSum) };
        prop_assert!(all_near(&same.run(&weighted).grad_logp, &g(&same, ppo(1.0, f64::INFINITY)), 1e-12));
        let of = |objective| batch.run(&LossConfig::new(objective, Mode::SeqMeanTokenMean));
        let (a, b) = (of(Objective::GspoToken { clip_low: 0.2, clip_high: 0.2 }), of(Objective::Gspo { clip_low: 0.2, clip_high: 0.2 }));
        prop_assert!(near(a.loss, b.loss, 1e-12) && all_near(&a.grad_logp, &b.grad_logp, 1e-12));
    }

    // P8
    #[test]
    fn dual_clip_is_the_two_sided_delta(delta in -3.0f64..3.0, a in -3.0f64..3.0, low in 0.0f64..0.9, high in 0.0f64..1.0, more in 0.0f64..3.0,
        edge in prop::option::of(-0.01f64..0.01)) {
        let bound = 1.0 + high + more;
        // Half of the ratios lie next to the bound.
        let delta = edge.map_or(delta, |edge| bound.ln() + edge);
        let (loss, c) = token(Objective::PpoClip { clip_low: low, clip_high: high, dual_clip: Some(bound) }, delta, a);
        // INTELLECT-2: −min(min(r, δ)·A, clip(r)·A).
        let r = delta.exp();
        let (unclipped, clipped) = (r.min(bound) * a, r.clamp(1.0 - low, 1.0 + high) * a);
        prop_assert!(near(loss, -unclipped.min(clipped), 1e-12));
        let moves = f64::from(u8::from(unclipped <= clipped && r < bound));
        prop_assert!(near(c, moves * a * r, 1e-12));
    }

    // P9
    #[test]
    fn scaling_advantages_scales_the_loss(batch in batches(), config in loss(), a in 0.1f64..5.0) {
        let scaled = Batch { adv: batch.adv.iter().map(|v| v * a).collect(), ..batch.clone() };
        let (one, many) = (batch.run(&config), scaled.run(&config));
        prop_assert!(near(many.loss, a * one.loss, 1e-10));
        let expected: Vec<f64> = one.grad_logp.iter().map(|g| a * g).collect();
        prop_assert!(all_near(&many.grad_logp, &expected, 1e-10));
    }

    // P10, P18
    #[test]
    fn micro_batches_add_up_to_the_batch(batch in batches(), config in dressed(), cut in 0usize..7) {
        let n = batch.sequences();
        let whole = batch.run(&config);
        let normalizer = config.clone().validate().unwrap().normalizer(&batch.view()).unwrap();
        let counts = lengths(&batch);
        if config.rejection.is_empty() && config.opsm.is_none() {
            prop_assert_eq!(normalizer.tokens, Some(counts.iter().sum::<f64>()));
            prop_assert_eq!(normalizer.seqs, Some(counts.iter().filter(|n| **n > 0.0).count() as f64));
        }
        let cut = cut.min(n);
        let parts: Vec<Vec<usize>> = vec![(0..cut).collect(), (cut..n).rev().collect()];
        let (mut loss, mut gradient, mut metrics) = (0.0, vec![0.0; batch.logp.len()], Metrics::default());
        for rows in parts.iter().filter(|r| !r.is_empty()) {
            let part = batch.rows(rows);
            let out = part.run_with(&config, &normalizer);
            loss += out.loss;
            metrics.merge(&out.metrics);
            for (place, i) in rows.iter().enumerate() {
                let len = batch.offsets[i + 1] - batch.offsets[*i];
                gradient[batch.offsets[*i]..][..len].copy_from_slice(&out.grad_logp[part.offsets[place]..][..len]);
            }
        }
        prop_assert!(near(loss, whole.loss, 1e-12));
        prop_assert!(all_near(&gradient, &whole.grad_logp, 1e-12));
        for (name, value) in whole.metrics.finish() {
            let merged = metrics.get(name).unwrap();
            prop_assert!(near(merged, value, 1e-9), "{name}: {merged} against {value}");
        }
        let doubled = batch.run_with(&config, &Normalizer { grad_world_scale: 2.0, ..normalizer });
        prop_assert!(near(doubled.loss, 2.0 * whole.loss, 1e-12));
    }

    // P10: fully masked rows and padding change nothing.
    #[test]
    fn padding_changes_nothing(batch in batches(), config in dressed(), pad in 0usize..3) {
        let mut padded = Batch { offsets: vec![0], logp: vec![], old: vec![], mu: vec![], reference: vec![],
            entropy: vec![], mask: vec![], ..batch.clone() };
        let mut place = Vec::new();
        let columns = |b: &mut Batch, values: [f64; 5], keep: bool| {
            for (column, v) in [&mut b.logp, &mut b.old, &mut b.mu, &mut b.reference, &mut b.entropy].into_iter().zip(values) {
                column.push(v);
            }
            b.mask.push(keep);
        };
        for i in 0..batch.sequences() {
            for t in batch.offsets[i]..batch.offsets[i + 1] {
                place.push(padded.logp.len());
                columns(&mut padded, [batch.logp[t], batch.old[t], batch.mu[t], batch.reference[t], batch.entropy[t]], batch.mask[t]);
            }
            (0..pad).for_each(|_| columns(&mut padded, [f64::NAN; 5], false));
            padded.offsets.push(padded.logp.len());
        }
        // A masked row of a group of its own.
        columns(&mut padded, [1e30; 5], false);
        padded.offsets.push(padded.logp.len());
        padded.adv.push(f64::NAN);
        padded.groups.push(77);
        let (a, b) = (batch.run(&config), padded.run(&config));
        prop_assert_eq!(a.loss.to_bits(), b.loss.to_bits());
        let gradient: Vec<f64> = place.iter().map(|t| b.grad_logp[*t]).collect();
        prop_assert_eq!(&a.grad_logp, &gradient);
        prop_assert_eq!(a.metrics.finish(), b.metrics.finish());
    }

    // P11
    #[test]
    fn masked_values_are_never_read(batch in batches(), config in dressed(), per_token in any::<bool>(),
        garbage in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e30)]) {
        let each: Vec<f64> = batch.offsets.windows(2).zip(&batch.adv).flat_map(|(w, a)| vec![*a; w[1] - w[0]]).collect();
        let clean_mass = vec![-0.1; each.len()];
        let dirty = |values: &[f64]| values.iter().zip(&batch.mask).map(|(v, keep)| if *keep { *v } else { garbage }).collect::<Vec<f64>>();
        let soiled = Batch { logp: dirty(&batch.logp), old: dirty(&batch.old), mu: dirty(&batch.mu),
            reference: dirty(&batch.reference), entropy: dirty(&batch.entropy), ..batch.clone() };
        let run = |b: &Batch, adv: &[f64], mass: &[f64]| {
            let advantages = if per_token { Advantages::PerToken(adv) } else { Advantages::PerSequence(&b.adv) };
            let view = TokenBatch { advantages, log_kept_mass: Some(mass), ..b.view() };
            config.clone().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap()
        };
        let (a, b) = (run(&batch, &each, &clean_mass), run(&soiled, &dirty(&each), &dirty(&clean_mass)));
        prop_assert_eq!(a.loss.to_bits(), b.loss.to_bits());
        prop_assert_eq!(&a.metrics, &b.metrics);
        for (i, (x, y)) in a.grad_logp.iter().zip(&b.grad_logp).enumerate() {
            prop_assert_eq!(x.to_bits(), y.to_bits());
            prop_assert_eq!(a.grad_entropy[i].to_bits(), b.grad_entropy[i].to_bits());
            if !batch.mask[i] {
                prop_assert_eq!(x.to_bits(), 0.0f64.to_bits());
                prop_assert_eq!(a.grad_entropy[i].to_bits(), 0.0f64.to_bits());
            }
        }
    }
}
