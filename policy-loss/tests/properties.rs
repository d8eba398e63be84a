//! The algebra of the objectives, over random ragged batches.
#![allow(missing_docs, clippy::unwrap_used)]

use ndarray::{Array1, Array2};
use policy_loss::reference::{self, Inputs};
use policy_loss::{
    AdvantageEstimator, Advantages, Base, Control, Correction, EntropyAggregation, EntropyBonus, KlKind,
    KlPenalty, Level, LossConfig, LossOutput, Metrics, Mode, Normalizer, Objective, Opsm, PRESETS, Rejection,
    SingletonPolicy, TokenBatch, TruncationTarget,
};
use proptest::prelude::*;

/// A ragged batch with everything in it.
#[derive(Clone, Debug)]
struct Batch {
    offsets: Vec<usize>,
    logp: Vec<f64>,
    old: Vec<f64>,
    mu: Vec<f64>,
    reference: Vec<f64>,
    entropy: Vec<f64>,
    mask: Vec<bool>,
    adv: Vec<f64>,
    groups: Vec<u32>,
}

impl Batch {
    fn view(&self) -> TokenBatch<'_, f64> {
        TokenBatch {
            logp_old: Some(&self.old),
            logp_mu: Some(&self.mu),
            logp_ref: Some(&self.reference),
            entropy: Some(&self.entropy),
            mask: Some(&self.mask),
            groups: Some(&self.groups),
            ..TokenBatch::new(&self.offsets, &self.logp, Advantages::PerSequence(&self.adv))
        }
    }

    fn run(&self, config: &LossConfig) -> LossOutput<f64> {
        self.run_with(config, &Normalizer::default())
    }

    fn run_with(&self, config: &LossConfig, normalizer: &Normalizer) -> LossOutput<f64> {
        config.clone().validate().unwrap().evaluate(&self.view(), normalizer).unwrap()
    }

    fn sequences(&self) -> usize {
        self.adv.len()
    }

    /// The rows `which`, in that order.
    fn rows(&self, which: &[usize]) -> Self {
        let tokens: Vec<usize> = which.iter().flat_map(|i| self.offsets[*i]..self.offsets[*i + 1]).collect();
        let take = |v: &[f64]| tokens.iter().map(|t| v[*t]).collect();
        let mut offsets = vec![0];
        which
            .iter()
            .for_each(|i| offsets.push(offsets[offsets.len() - 1] + self.offsets[*i + 1] - self.offsets[*i]));
        Self {
            offsets,
            logp: take(&self.logp),
            old: take(&self.old),
            mu: take(&self.mu),
            reference: take(&self.reference),
            entropy: take(&self.entropy),
            mask: tokens.iter().map(|t| self.mask[*t]).collect(),
            adv: which.iter().map(|i| self.adv[*i]).collect(),
            groups: which.iter().map(|i| self.groups[*i]).collect(),
        }
    }

    fn padded(&self) -> Inputs {
        let width = self.offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let at = |i: usize, t: usize| Some(self.offsets[i] + t).filter(|at| *at < self.offsets[i + 1]);
        let shape = (self.sequences(), width);
        let pad = |v: &[f64]| Array2::from_shape_fn(shape, |(i, t)| at(i, t).map_or(f64::NAN, |at| v[at]));
        Inputs {
            logp: pad(&self.logp),
            logp_old: pad(&self.old),
            logp_mu: pad(&self.mu),
            logp_ref: pad(&self.reference),
            entropy: pad(&self.entropy),
            mask: Array2::from_shape_fn(shape, |(i, t)| at(i, t).is_some_and(|at| self.mask[at])),
            advantages: Array2::from_shape_fn(shape, |(i, _)| self.adv[i]),
            groups: Array1::from(self.groups.clone()),
        }
    }
}

fn batches() -> impl Strategy<Value = Batch> {
    prop::collection::vec((0usize..7, -3.0f64..3.0, 0u32..3, any::<bool>()), 1..7).prop_flat_map(|rows| {
        let tokens: usize = rows.iter().map(|r| r.0).sum();
        let values = || prop::collection::vec(-1.5f64..1.5, tokens);
        let kept = prop::collection::vec(prop::bool::weighted(0.8), tokens);
        (Just(rows), prop::collection::vec(-8.0f64..-3.5, tokens), values(), values(), values(), kept)
            .prop_map(|(rows, logp, delta, d, x, kept)| {
                let mut offsets = vec![0];
                let mut mask = kept;
                for (len, _, _, empty) in &rows {
                    let start = offsets[offsets.len() - 1];
                    offsets.push(start + len);
                    // Some rows are masked as a whole.
                    if *empty && rows.len() > 2 && start % 3 == 0 {
                        mask[start..start + len].fill(false);
                    }
                }
                let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f64>>();
                let old = less(&logp, &delta);
                Batch {
                    offsets,
                    mu: less(&old, &d),
                    reference: less(&logp, &x),
                    entropy: d.iter().map(|d| d.abs()).collect(),
                    old,
                    logp,
                    mask,
                    adv: rows.iter().map(|r| r.1).collect(),
                    groups: rows.iter().map(|r| r.2).collect(),
                }
            })
    })
}

fn mini_rl(cap: f64, truncation_target: TruncationTarget) -> Objective {
    Objective::MiniRl {
        clip_low: 0.2,
        clip_high: 0.27,
        cap,
        truncation_target,
        no_clip: false,
        no_train_infer_is: false,
    }
}

fn ppo(clip_low: f64, clip_high: f64) -> Objective {
    Objective::PpoClip { clip_low, clip_high, dual_clip: None }
}

const VESPO: Objective = Objective::Vespo { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 };

/// Every objective, in an aggregation it may have.
fn losses() -> Vec<LossConfig> {
    let sequence = Mode::SeqMeanTokenMean;
    let (low, high) = (0.2, 0.28);
    vec![
        LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenSum),
        LossConfig::new(ppo(low, high), Mode::GroupTokenMean),
        LossConfig::new(
            Objective::PpoClip { clip_low: low, clip_high: high, dual_clip: Some(1.5) },
            Mode::TokenMean,
        ),
        LossConfig::new(Objective::Gspo { clip_low: low, clip_high: high }, sequence),
        LossConfig::new(Objective::GspoToken { clip_low: low, clip_high: high }, sequence),
        LossConfig::new(Objective::Luspo { clip_low: low, clip_high: high }, Mode::SeqMeanTokenSum),
        LossConfig::new(Objective::Gmpo { clip_low: 0.4, clip_high: 0.4 }, sequence),
        LossConfig::new(Objective::Cispo { ratio_min: 0.0, ratio_max: 1.28 }, Mode::TokenMean),
        LossConfig::new(mini_rl(2.0, TruncationTarget::Full), Mode::SeqMeanTokenSum),
        LossConfig::new(mini_rl(2.0, TruncationTarget::Mismatch), Mode::SeqMeanTokenSumNorm { len: 9.0 }),
        LossConfig::new(Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 }, sequence),
        LossConfig::new(Objective::DppoTv { delta_low: 0.05, delta_high: 0.05, cap: 3.0 }, Mode::TokenMean),
        LossConfig::new(Objective::DppoKl { delta_low: 0.02, delta_high: 0.02, cap: 3.0 }, Mode::TokenSum),
        LossConfig::new(VESPO, Mode::TokenMean),
    ]
}

fn loss() -> impl Strategy<Value = LossConfig> {
    prop::sample::select(losses())
}

/// A loss with everything optional that it may have.
fn dressed() -> impl Strategy<Value = LossConfig> {
    let control = prop_oneof![
        Just(Control::None {}),
        Just(Control::Truncate { max: 1.5, min: 0.2 }),
        Just(Control::Mask { min: 0.5, max: 2.0 }),
        Just(Control::SeqGeoBandTokenWeight { min: 0.8, max: 1.3 }),
    ];
    let level = prop_oneof![Just(Level::Token), Just(Level::SeqProduct), Just(Level::SeqGeo)];
    let kinds =
        [KlKind::K1, KlKind::K2, KlKind::K3, KlKind::Abs, KlKind::K1Plus, KlKind::K3Plus, KlKind::K3Is];
    let rejections = [
        Rejection::TokenRatio { lo: 0.4, hi: 2.5 },
        Rejection::TokenK2 { max: 0.8 },
        Rejection::TokenK3 { max: 0.8 },
        Rejection::SeqGeoRatio { lo: 0.7, hi: 1.5 },
        Rejection::SeqSumRatio { lo: 0.2, hi: 6.0 },
        Rejection::SeqMeanK3 { max: 0.6 },
        Rejection::SeqMaxK3 { max: 1.0 },
        Rejection::Veto { min: 0.3 },
    ];
    let correction = prop::option::of((level, control, any::<bool>()));
    let kl = prop::option::of(prop::sample::select(kinds.to_vec()));
    let more = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (loss(), correction, kl, prop::sample::subsequence(rejections.to_vec(), 0..3), more).prop_map(
        |(mut config, correction, kl, rejection, (entropy, same, opsm, top))| {
            config.rejection = rejection;
            config.kl = kl.map(|kind| KlPenalty { kind, beta: 0.3, clamp: true });
            let aggregation =
                if same { EntropyAggregation::SameAsPolicy } else { EntropyAggregation::TokenMean };
            config.entropy = entropy.then_some(EntropyBonus { coef: 0.1, aggregation });
            config.opsm = opsm.then_some(Opsm { delta: 0.1, keeps_denominator: same });
            config.entropy_top_share = top.then_some(0.5);
            if let Some((level, control, batch_normalize)) = correction {
                let base = if matches!(config.objective, Objective::Reinforce {}) {
                    Base::Full
                } else {
                    Base::Mismatch
                };
                let dressed = LossConfig {
                    correction: Some(Correction { base, level, control, batch_normalize }),
                    ..config.clone()
                };
                if dressed.clone().validate().is_ok() {
                    config = dressed;
                }
            }
            config
        },
    )
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
}

fn all_near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(*a, *b, tolerance))
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
        // And in f32, away from the bounds that rounding may push a token across.
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
            prop_assert!((f64::from(*a) - b).abs() <= 1e-5 * b.abs() + 1e-9);
        }
    }

    #[test]
    fn gradients_are_finite_differences(batch in batches(), which in 0usize..7, token in 0usize..40) {
        // Objectives whose gradient flows through the ratio, in f64 away from kinks.
        let sequence = Mode::SeqMeanTokenMean;
        let config = [
            LossConfig::new(ppo(0.2, 0.28), Mode::TokenMean),
            LossConfig::new(Objective::PpoClip { clip_low: 0.2, clip_high: 0.28, dual_clip: Some(1.5) }, Mode::TokenMean),
            LossConfig::new(Objective::Gspo { clip_low: 0.2, clip_high: 0.28 }, sequence),
            LossConfig::new(Objective::Gmpo { clip_low: 0.4, clip_high: 0.4 }, sequence),
            LossConfig::new(Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 }, sequence),
            LossConfig { kl: Some(KlPenalty { kind: KlKind::K3, beta: 0.5, clamp: true }), ..LossConfig::new(Objective::Reinforce {}, sequence) },
            LossConfig { kl: Some(KlPenalty { kind: KlKind::K3Is, beta: 0.5, clamp: true }), ..LossConfig::new(ppo(0.2, 0.2), sequence) },
        ][which].clone();
        prop_assume!(!batch.logp.is_empty());
        let token = token % batch.logp.len();
        let at = |step: f64| {
            let mut moved = batch.clone();
            moved.logp[token] += step;
            moved.run(&config)
        };
        let (plus, minus) = (at(1e-6), at(-1e-6));
        // A kink between the two: another gradient on either side.
        prop_assume!(near(plus.grad_logp[token], minus.grad_logp[token], 1e-3));
        let difference = (plus.loss - minus.loss) / 2e-6;
        prop_assert!(near(batch.run(&config).grad_logp[token], difference, 1e-5));
    }

    #[test]
    fn on_policy_every_objective_is_reinforce(batch in batches(), which in 0usize..14, len in 1usize..6) {
        let mut batch = batch;
        (batch.old, batch.mu) = (batch.logp.clone(), batch.logp.clone());
        let _ = len;
        let loss = losses()[which].clone();
        // With one weight for all tokens, the coefficient is what differs.
        let config = LossConfig { aggregation: Mode::SeqMeanTokenMean.into(), allow_length_weighting: true, ..loss };
        let reinforce = LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenMean);
        let (a, b) = (batch.run(&config), batch.run(&reinforce));
        prop_assert!(all_near(&a.grad_logp, &b.grad_logp, 1e-12), "{:?}", config.objective);
        let switched = Batch { old: vec![-1.0; batch.old.len()], ..batch.clone() };
        let on_policy = LossConfig { on_policy: true, correction: None, ..config };
        let fresh = Batch { mu: switched.logp.clone(), ..switched };
        prop_assert!(all_near(&fresh.run(&on_policy).grad_logp, &b.grad_logp, 1e-12));
    }

    #[test]
    fn masked_values_are_never_read(batch in batches(), config in dressed(), garbage in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(1e30)]) {
        let mut dirty = batch.clone();
        for (i, keep) in batch.mask.iter().enumerate() {
            if !keep {
                for values in [&mut dirty.logp, &mut dirty.old, &mut dirty.mu, &mut dirty.reference, &mut dirty.entropy] {
                    values[i] = garbage;
                }
            }
        }
        let (a, b) = (batch.run(&config), dirty.run(&config));
        prop_assert_eq!(a.loss.to_bits(), b.loss.to_bits());
        prop_assert_eq!(&a.metrics, &b.metrics);
        for (i, (x, y)) in a.grad_logp.iter().zip(&b.grad_logp).enumerate() {
            prop_assert_eq!(x.to_bits(), y.to_bits());
            if !batch.mask[i] {
                prop_assert_eq!(x.to_bits(), 0.0f64.to_bits());
            }
        }
    }

    #[test]
    fn micro_batches_add_up_to_the_batch(batch in batches(), config in loss(), cut in 0usize..7) {
        prop_assume!(config.aggregation.mode != Mode::GroupTokenMean);
        let n = batch.sequences();
        let whole = batch.run(&config);
        let lengths: Vec<usize> = batch.offsets.windows(2).map(|w| batch.mask[w[0]..w[1]].iter().filter(|m| **m).count()).collect();
        let normalizer = Normalizer {
            tokens: Some(lengths.iter().sum::<usize>() as f64),
            seqs: Some(lengths.iter().filter(|n| **n > 0).count() as f64),
            ..Normalizer::default()
        };
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

    #[test]
    fn scaling_advantages_scales_the_loss(batch in batches(), config in loss(), a in 0.1f64..5.0) {
        let scaled = Batch { adv: batch.adv.iter().map(|v| v * a).collect(), ..batch.clone() };
        let (one, many) = (batch.run(&config), scaled.run(&config));
        prop_assert!(near(many.loss, a * one.loss, 1e-10));
        let expected: Vec<f64> = one.grad_logp.iter().map(|g| a * g).collect();
        prop_assert!(all_near(&many.grad_logp, &expected, 1e-10));
    }

    #[test]
    fn sapo_gate(u in -0.99f64..3.0, tau in 1e-3f64..50.0) {
        // One token with ratio 1 + u: loss −f(r), coefficient r·f'(r).
        let at = |u: f64, tau: f64| {
            let logp = [(1.0 + u).ln() - 10.0];
            let batch = TokenBatch { logp_old: Some(&[-10.0]), ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&[1.0])) };
            let loss = LossConfig::new(Objective::Sapo { tau_pos: tau, tau_neg: tau }, Mode::TokenSum).validate().unwrap();
            let out = loss.evaluate(&batch, &Normalizer::default()).unwrap();
            (-out.loss, -out.grad_logp[0] / (1.0 + u))
        };
        let (f, slope) = at(u, tau);
        prop_assert!(f >= 0.0 && f <= 4.0 / tau);
        prop_assert!((0.0..=1.0 + 1e-12).contains(&slope));
        if u.abs() < 0.99 {
            let (mirror, mirror_slope) = at(-u, tau);
            prop_assert!(near(f + mirror, 4.0 / tau, 1e-9));
            prop_assert!(near(slope, mirror_slope, 1e-9));
        }
        let (small, small_slope) = at(u, 1e-5);
        prop_assert!(near(small - 2e5, u, 1e-4) && near(small_slope, 1.0, 1e-6));
        let peak = (1.0 + u) * at(u, 1.0).1;
        prop_assert!(peak <= 1.574675 + 1e-6);
    }

    #[test]
    fn sequence_ratio(deltas in prop::collection::vec(-2.0f64..2.0, 1..8), shift in -0.5f64..0.5) {
        let ratio = |deltas: &[f64]| {
            let logp: Vec<f64> = deltas.iter().map(|d| d - 5.0).collect();
            let old = vec![-5.0; deltas.len()];
            let batch = TokenBatch { logp_old: Some(&old[..]), ..TokenBatch::new(&[0, 0], &[], Advantages::PerSequence(&[1.0])) };
            let offsets = [0, deltas.len()];
            let batch = TokenBatch { offsets: &offsets, logp: &logp, ..batch };
            let gspo = Objective::Gspo { clip_low: 0.99, clip_high: 1e9 };
            let out = LossConfig::new(gspo, Mode::SeqMeanTokenMean).validate().unwrap().evaluate(&batch, &Normalizer::default()).unwrap();
            -out.loss
        };
        let s = ratio(&deltas);
        let mut turned = deltas.clone();
        turned.reverse();
        prop_assert!(near(ratio(&turned), s, 1e-12));
        let twice: Vec<f64> = deltas.iter().chain(&deltas).copied().collect();
        prop_assert!(near(ratio(&twice), s, 1e-12));
        let moved: Vec<f64> = deltas.iter().map(|d| d + shift).collect();
        prop_assert!(near(ratio(&moved), s * shift.exp(), 1e-12));
        if deltas.len() == 1 {
            prop_assert!(near(s, deltas[0].exp(), 1e-12));
        }
    }

    #[test]
    fn wider_clips_clip_less(batch in batches(), low in 0.0f64..0.9, high in 0.0f64..2.0, more in 0.0f64..0.5) {
        let clipped = |low: f64, high: f64| batch.run(&LossConfig::new(ppo(low, high), Mode::TokenMean)).metrics.get("clip/frac").unwrap_or(0.0);
        prop_assert!(clipped(low + more, high + more) <= clipped(low, high));
        let free = batch.run(&LossConfig::new(ppo(1.0, 1e9), Mode::TokenMean));
        prop_assert!(free.loss <= batch.run(&LossConfig::new(ppo(low, high), Mode::TokenMean)).loss + 1e-12);
    }

    #[test]
    fn identities_between_objectives(batch in batches()) {
        let same = Batch { mu: batch.old.clone(), ..batch.clone() };
        let g = |b: &Batch, objective| b.run(&LossConfig::new(objective, Mode::SeqMeanTokenSum)).grad_logp;
        let open = mini_rl(f64::INFINITY, TruncationTarget::Full);
        prop_assert!(all_near(&g(&same, open), &g(&same, ppo(0.2, 0.27)), 1e-12));
        prop_assert!(all_near(&g(&batch, open), &g(&batch, mini_rl(f64::INFINITY, TruncationTarget::Mismatch)), 1e-12));
        let cispo = g(&batch, Objective::Cispo { ratio_min: 0.0, ratio_max: f64::INFINITY });
        prop_assert!(all_near(&cispo, &g(&batch, ppo(1.0, f64::INFINITY)), 1e-12));
        let correction = Correction { base: Base::Full, level: Level::Token, control: Control::None {}, batch_normalize: false };
        let weighted = LossConfig { correction: Some(correction), ..LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenSum) };
        prop_assert!(all_near(&same.run(&weighted).grad_logp, &g(&same, ppo(1.0, f64::INFINITY)), 1e-12));
        let token = LossConfig::new(Objective::GspoToken { clip_low: 0.2, clip_high: 0.2 }, Mode::SeqMeanTokenMean);
        let gspo = LossConfig::new(Objective::Gspo { clip_low: 0.2, clip_high: 0.2 }, Mode::SeqMeanTokenMean);
        let (a, b) = (batch.run(&token), batch.run(&gspo));
        prop_assert!(near(a.loss, b.loss, 1e-12) && all_near(&a.grad_logp, &b.grad_logp, 1e-12));
    }

    #[test]
    fn corrections(batch in batches()) {
        let weights = |b: &Batch, level, control| {
            let correction = Correction { base: Base::Mismatch, level, control, batch_normalize: false };
            let config = LossConfig { correction: Some(correction), ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean) };
            (b.run(&config), b.run(&LossConfig { correction: None, ..config }))
        };
        let wide = Control::Truncate { max: 1e300, min: 0.0 };
        for level in [Level::Token, Level::SeqProduct, Level::SeqGeo] {
            let (raw, plain) = weights(&batch, level, Control::None {});
            prop_assert!(all_near(&raw.grad_logp, &weights(&batch, level, wide).0.grad_logp, 1e-12));
            let masked = weights(&batch, level, Control::Mask { min: 0.0, max: 1.5 }).0;
            let cut = weights(&batch, level, Control::Truncate { max: 1.5, min: 0.0 }).0;
            for (m, t) in masked.grad_logp.iter().zip(&cut.grad_logp) {
                prop_assert!(m.abs() <= t.abs() + 1e-15);
            }
            let same = Batch { mu: batch.old.clone(), ..batch.clone() };
            let (one, _) = weights(&same, level, Control::Mask { min: 0.5, max: 2.0 });
            prop_assert!(all_near(&one.grad_logp, &same.run(&LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)).grad_logp, 1e-12));
            if let Some(ess) = raw.metrics.get("is/ess") {
                prop_assert!(ess <= 1.0 + 1e-12);
                prop_assert!(near(one.metrics.get("is/ess").unwrap(), 1.0, 1e-12));
            }
            let _ = plain;
        }
        // The sequence weight is the product of the token weights, and the n-th power of the geometric one.
        for i in 0..batch.sequences() {
            let row = batch.rows(&[i]);
            let n = row.mask.iter().filter(|m| **m).count();
            if n == 0 { continue }
            let of = |level| weights(&row, level, Control::None {}).0.metrics.get("is/max").unwrap();
            let product: f64 = (0..row.logp.len()).filter(|t| row.mask[*t]).map(|t| (row.old[t] - row.mu[t]).exp()).product();
            prop_assert!(near(of(Level::SeqProduct), product, 1e-9));
            prop_assert!(near(of(Level::SeqGeo).powi(n as i32), product, 1e-9));
        }
    }

    #[test]
    fn aggregations_agree_up_to_a_scalar_when_lengths_are_equal(rows in 1usize..5, len in 1usize..5, seed in prop::collection::vec(-1.0f64..1.0, 25)) {
        let n = rows * len;
        let logp: Vec<f64> = seed[..n].iter().map(|s| s - 3.0).collect();
        let old: Vec<f64> = seed[..n].iter().map(|s| s * 0.5 - 3.0).collect();
        let offsets: Vec<usize> = (0..=rows).map(|i| i * len).collect();
        let adv: Vec<f64> = (0..rows).map(|i| i as f64 - 1.3).collect();
        let view = TokenBatch { logp_old: Some(&old), ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv)) };
        let loss = |mode| LossConfig::new(ppo(0.2, 0.2), mode).validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap().loss;
        let token = loss(Mode::TokenMean);
        prop_assert!(near(loss(Mode::SeqMeanTokenMean), token, 1e-12));
        prop_assert!(near(loss(Mode::SeqMeanTokenSum), token * len as f64, 1e-12));
        let norm = loss(Mode::SeqMeanTokenSumNorm { len: 4.0 });
        prop_assert!(near(norm, token * len as f64 / 4.0, 1e-12));
        prop_assert!(near(loss(Mode::TokenSum), token * n as f64, 1e-12));
    }

    #[test]
    fn advantages(rewards in prop::collection::vec(-5.0f64..5.0, 2..20), a in 0.1f64..10.0, b in -100.0f64..100.0, groups in 1u32..4) {
        let ids: Vec<u32> = (0..rewards.len() as u32).map(|i| i % groups).collect();
        let of = |e: AdvantageEstimator, r: &[f64]| e.estimate(r, &ids, None, SingletonPolicy::Zero).unwrap();
        let std = AdvantageEstimator::GroupMeanStd { eps: 0.0, ddof: 1 };
        let moved: Vec<f64> = rewards.iter().map(|r| a * r + b).collect();
        let plain = of(std, &rewards);
        prop_assume!(plain.degenerate_groups == of(std, &moved).degenerate_groups);
        prop_assert!(all_near(&plain.values, &of(std, &moved).values, 1e-6));
        let mean = of(AdvantageEstimator::GroupMean {}, &rewards).values;
        let rloo = of(AdvantageEstimator::Rloo {}, &rewards).values;
        for group in 0..groups {
            let of_group: Vec<usize> = (0..ids.len()).filter(|i| ids[*i] == group).collect();
            for values in [&plain.values, &mean, &rloo] {
                prop_assert!(of_group.iter().map(|i| values[*i]).sum::<f64>().abs() < 1e-9);
            }
            let n = of_group.len() as f64;
            for i in of_group.iter().filter(|_| n > 1.0) {
                prop_assert!(near(rloo[*i], n / (n - 1.0) * mean[*i], 1e-9));
            }
        }
        let scaled: Vec<f64> = rewards.iter().map(|r| a * r).collect();
        let expected: Vec<f64> = mean.iter().map(|m| a * m).collect();
        let linear = of(AdvantageEstimator::GroupMean {}, &scaled).values;
        prop_assert!(all_near(&linear, &expected, 1e-9));
    }

    #[test]
    fn extremes_give_numbers(which in 0usize..14, delta in prop_oneof![Just(-200.0f64), Just(200.0), Just(0.0)], adv in prop_oneof![Just(1e6f64), Just(-1e6), Just(0.0)]) {
        let (logp, old) = ([-200.0 + delta.min(0.0)], [-200.0 - delta.max(0.0)]);
        let (adv, mu) = ([adv], old);
        let view = TokenBatch { logp_old: Some(&old), logp_mu: Some(&mu), groups: Some(&[0]), ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&adv)) };
        let out = losses()[which].clone().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
        prop_assert!(out.loss.is_finite() && out.grad_logp[0].is_finite());
        prop_assert!(out.metrics.finish().values().all(|v| v.is_finite()));
    }
}

#[test]
fn empty_batches_give_zero() {
    for config in losses() {
        for (offsets, logp, mask, adv, groups) in [
            (vec![0], vec![], vec![], vec![], vec![]),
            (vec![0, 0, 2], vec![-1.0; 2], vec![false; 2], vec![1.0; 2], vec![0, 1]),
        ] {
            let view = TokenBatch {
                logp_old: Some(&logp),
                logp_mu: Some(&logp),
                mask: Some(&mask),
                groups: Some(&groups),
                ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv))
            };
            let out =
                config.clone().validate().unwrap().evaluate::<f64>(&view, &Normalizer::default()).unwrap();
            assert_eq!(out.loss, 0.0);
            assert!(out.grad_logp.iter().all(|g| *g == 0.0));
            assert_eq!(out.metrics.get("loss/empty"), Some(1.0));
        }
    }
}

#[test]
fn invalid_combinations_are_refused() {
    let refuse = |config: LossConfig| config.validate().unwrap_err().to_string();
    let correction =
        |base, level| Some(Correction { base, level, control: Control::None {}, batch_normalize: false });
    let ppo_mean = LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean);
    assert!(refuse(LossConfig::new(ppo(-0.1, 0.2), Mode::TokenMean)).contains("clip_low is -0.1"));
    assert!(
        refuse(LossConfig::new(Objective::Sapo { tau_pos: 0.0, tau_neg: 1.0 }, Mode::TokenMean))
            .contains("tau_pos is 0")
    );
    let dual = Objective::PpoClip { clip_low: 0.2, clip_high: 0.3, dual_clip: Some(1.2) };
    assert!(
        refuse(LossConfig::new(dual, Mode::TokenMean)).contains("dual_clip is 1.2, expected 1 + clip_high")
    );
    let gspo = Objective::Gspo { clip_low: 0.1, clip_high: 0.1 };
    assert!(refuse(LossConfig::new(gspo, Mode::TokenMean)).contains("weight sequences by length"));
    let token = LossConfig {
        correction: correction(Base::Mismatch, Level::Token),
        ..LossConfig::new(gspo, Mode::SeqMeanTokenMean)
    };
    assert!(refuse(token).contains("use gspo_token"));
    assert!(
        refuse(LossConfig { correction: correction(Base::Full, Level::Token), ..ppo_mean.clone() })
            .contains("counted twice")
    );
    let reinforce = LossConfig::new(Objective::Reinforce {}, Mode::TokenMean);
    assert!(
        refuse(LossConfig { correction: correction(Base::Mismatch, Level::Token), ..reinforce })
            .contains("left out")
    );
    let mini = LossConfig::new(mini_rl(5.0, TruncationTarget::Full), Mode::SeqMeanTokenSum);
    assert!(
        refuse(LossConfig { correction: correction(Base::Mismatch, Level::Token), ..mini.clone() })
            .contains("already")
    );
    assert!(refuse(LossConfig { bypass: true, ..mini.clone() }).contains("bypass"));
    assert!(LossConfig::preset("grpo2", 8).unwrap_err().to_string().contains("known: sapo, grpo"));
    for name in PRESETS {
        LossConfig::preset(name, 8).unwrap().0.validate().unwrap();
    }
    // What an objective needs must be given.
    let loss = mini.validate().unwrap();
    let view = TokenBatch {
        logp_old: Some(&[-1.0]),
        ..TokenBatch::new(&[0, 1], &[-1.0], Advantages::PerSequence(&[1.0]))
    };
    let error = loss.evaluate::<f64>(&view, &Normalizer::default()).unwrap_err();
    assert_eq!(error.to_string(), "mini_rl needs logp_mu");
    let loss = ppo_mean.validate().unwrap();
    let nan = TokenBatch {
        logp_old: Some(&[-1.0, f64::NAN]),
        ..TokenBatch::new(&[0, 2], &[-1.0, -1.0], Advantages::PerSequence(&[1.0]))
    };
    assert_eq!(
        loss.evaluate(&nan, &Normalizer::default()).unwrap_err().to_string(),
        "logp_old is NaN at sequence 0, token 1"
    );
    let positive = TokenBatch {
        logp_old: Some(&[-1.0]),
        ..TokenBatch::new(&[0, 1], &[0.5], Advantages::PerSequence(&[1.0]))
    };
    assert_eq!(
        loss.evaluate(&positive, &Normalizer::default()).unwrap_err().to_string(),
        "logp is 0.5 at sequence 0, token 0"
    );
    let short = TokenBatch {
        logp_old: Some(&[]),
        ..TokenBatch::new(&[0, 1], &[-1.0], Advantages::PerSequence(&[1.0]))
    };
    assert_eq!(
        loss.evaluate::<f64>(&short, &Normalizer::default()).unwrap_err().to_string(),
        "logp_old has 0 elements, expected 1"
    );
    let varying = TokenBatch {
        logp_old: Some(&[-1.0, -1.0]),
        ..TokenBatch::new(&[0, 2], &[-1.0, -1.0], Advantages::PerToken(&[1.0, 2.0]))
    };
    let loss = LossConfig::new(gspo, Mode::SeqMeanTokenMean).validate().unwrap();
    assert!(
        loss.evaluate::<f64>(&varying, &Normalizer::default())
            .unwrap_err()
            .to_string()
            .contains("varies within sequence 0")
    );
}

#[test]
fn exact_expectations_of_kl_gradients() {
    // E20: categorical p and q; E_p[∇logp · dk/dlogp] for each estimator.
    let softmax = |z: [f64; 3]| {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.map(|z| z.exp() / sum)
    };
    let (p, q) = (softmax([0.2, -0.5, 0.9]), softmax([0.0, 0.1, 0.3]));
    let expected = |kind, behaviour: [f64; 3]| {
        let mut gradient = [0.0; 3];
        for y in 0..3 {
            let (logp, old, reference) = ([p[y].ln()], [behaviour[y].ln()], [q[y].ln()]);
            let view = TokenBatch {
                logp_old: Some(&old),
                logp_ref: Some(&reference),
                ..TokenBatch::new(&[0, 1], &logp, Advantages::PerSequence(&[0.0]))
            };
            let config = LossConfig {
                kl: Some(KlPenalty { kind, beta: 1.0, clamp: false }),
                ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenSum)
            };
            let g = config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap().grad_logp[0];
            for v in 0..3 {
                gradient[v] += behaviour[y] * g * (f64::from(u8::from(v == y)) - p[v]);
            }
        }
        gradient
    };
    let forward = [-0.033129133, -0.129622378, 0.162751510];
    let backward = [-0.004560259, -0.178409385, 0.182969643];
    let same = |a: [f64; 3], b: [f64; 3]| {
        a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-8, "{a} {b}"));
    };
    same(expected(KlKind::K1, p), [0.0; 3]);
    same(expected(KlKind::K2, p), forward);
    same(expected(KlKind::K3, p), backward);
    same(expected(KlKind::K3Is, [0.2, 0.5, 0.3]), forward);
}
