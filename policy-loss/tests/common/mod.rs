//! Random batches and losses for the property tests.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use ndarray::{Array1, Array2};
use policy_loss::reference::Inputs;
use policy_loss::{
    Advantages, Base, Control, Correction, EntropyAggregation, EntropyBonus, KlKind, KlPenalty, Level,
    LossConfig, LossOutput, Mode, Normalizer, Objective, Opsm, Rejection, TokenBatch, TruncationTarget,
};
use proptest::prelude::*;

/// A ragged batch with everything in it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub offsets: Vec<usize>,
    pub logp: Vec<f64>,
    pub old: Vec<f64>,
    pub mu: Vec<f64>,
    pub reference: Vec<f64>,
    pub entropy: Vec<f64>,
    pub mask: Vec<bool>,
    pub adv: Vec<f64>,
    pub groups: Vec<u32>,
}

impl Batch {
    pub fn view(&self) -> TokenBatch<'_, f64> {
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

    pub fn run(&self, config: &LossConfig) -> LossOutput<f64> {
        self.run_with(config, &Normalizer::default())
    }

    pub fn run_with(&self, config: &LossConfig, normalizer: &Normalizer) -> LossOutput<f64> {
        config.clone().validate().unwrap().evaluate(&self.view(), normalizer).unwrap()
    }

    pub fn sequences(&self) -> usize {
        self.adv.len()
    }

    /// The rows `which`, in that order.
    pub fn rows(&self, which: &[usize]) -> Self {
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

    pub fn padded(&self) -> Inputs {
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

pub fn batches() -> impl Strategy<Value = Batch> {
    prop::collection::vec((0usize..7, -3.0f64..3.0, 0u32..3, any::<bool>()), 1..7).prop_flat_map(|rows| {
        let tokens: usize = rows.iter().map(|r| r.0).sum();
        let values = |size: f64| prop::collection::vec(-size..size, tokens);
        let kept = prop::collection::vec(prop::bool::weighted(0.8), tokens);
        (
            Just(rows),
            prop::collection::vec(-9.0f64..-5.0, tokens),
            values(3.0),
            values(1.5),
            values(1.5),
            kept,
        )
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

pub fn mini_rl(cap: f64, truncation_target: TruncationTarget) -> Objective {
    Objective::MiniRl {
        clip_low: 0.2,
        clip_high: 0.27,
        cap,
        truncation_target,
        no_clip: false,
        no_train_infer_is: false,
    }
}

pub fn ppo(clip_low: f64, clip_high: f64) -> Objective {
    Objective::PpoClip { clip_low, clip_high, dual_clip: None }
}

pub const VESPO: Objective = Objective::Vespo { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 };

/// Every objective, in an aggregation it may have.
pub fn losses() -> Vec<LossConfig> {
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

pub fn loss() -> impl Strategy<Value = LossConfig> {
    prop::sample::select(losses())
}

/// A loss with everything optional that it may have, and every other weighting it permits.
pub fn dressed() -> impl Strategy<Value = LossConfig> {
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
    let rejection = prop::sample::subsequence(rejections.to_vec(), 0..3);
    (loss(), correction, kl, rejection, prop::array::uniform6(any::<bool>())).prop_map(
        |(mut config, correction, kl, rejection, [entropy, same, opsm, top, by_length, on_policy])| {
            // The definition knows no clamps.
            config.log_ratio_clamp = None;
            config.rejection = rejection;
            config.kl = kl.map(|kind| KlPenalty { kind, beta: 0.3, clamp: false });
            let aggregation =
                if same { EntropyAggregation::SameAsPolicy } else { EntropyAggregation::TokenMean };
            config.entropy = entropy.then_some(EntropyBonus { coef: 0.1, aggregation });
            config.opsm = opsm.then_some(Opsm { delta: 0.1, keeps_denominator: same });
            config.on_policy = on_policy && same;
            if by_length {
                config.allow_length_weighting = true;
                config.aggregation = Mode::TokenMean.into();
            }
            let mut wear = |change: &dyn Fn(&mut LossConfig)| {
                let mut dressed = config.clone();
                change(&mut dressed);
                if dressed.clone().validate().is_ok() {
                    config = dressed;
                }
            };
            wear(&|c| c.entropy_top_share = top.then_some(0.5));
            if let Some((level, control, batch_normalize)) = correction {
                for base in [Base::Full, Base::Mismatch] {
                    let correction = Some(Correction { base, level, control, batch_normalize });
                    wear(&|c| c.correction = correction);
                }
            }
            config
        },
    )
}

pub fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()))
}

pub fn all_near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(*a, *b, tolerance))
}

/// The numbers of tokens that are not masked, by row.
pub fn lengths(batch: &Batch) -> Vec<f64> {
    let rows = batch.offsets.windows(2);
    rows.map(|w| batch.mask[w[0]..w[1]].iter().filter(|m| **m).count() as f64).collect()
}

/// The correction that most tests vary.
pub fn correction(base: Base, level: Level, control: Control) -> Option<Correction> {
    Some(Correction { base, level, control, batch_normalize: false })
}
