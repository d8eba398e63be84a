//! The definition: padded `[N, T]` arrays in `f64`, formula by formula, written to be read.
//!
//! It shares the configuration types with the fast path and no arithmetic. It knows neither clamps nor non-finite
//! policies: compare it on finite inputs whose log-ratios stay within the clamp.

use ndarray::{Array1, Array2};

use crate::aggregation::{Mode, Normalizer, SeqCount};
use crate::config::LossConfig;
use crate::correction::{Base, Control, Level, Rejection};
use crate::objective::{Objective, TruncationTarget};
use crate::penalty::{EntropyAggregation, KlKind};

/// Padded inputs, all `[N, T]` but `groups` `[N]`. Absent inputs are given as zeros and must not be needed.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// `log π_θ`.
    pub logp: Array2<f64>,
    /// `log π_old`.
    pub logp_old: Array2<f64>,
    /// `log μ`; `log π_old` where the sampler's are unknown.
    pub logp_mu: Array2<f64>,
    /// `log π_ref`.
    pub logp_ref: Array2<f64>,
    /// Entropies.
    pub entropy: Array2<f64>,
    /// Tokens that count.
    pub mask: Array2<bool>,
    /// Advantages.
    pub advantages: Array2<f64>,
    /// Prompt of each row.
    pub groups: Array1<u32>,
}

/// Loss and gradients.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The loss.
    pub loss: f64,
    /// `∂L/∂logp`.
    pub grad_logp: Array2<f64>,
    /// `∂L/∂entropy`.
    pub grad_entropy: Array2<f64>,
}

/// What a row of logits amounts to.
#[derive(Clone, Debug)]
pub struct LogitRow {
    /// `log Σ e^z` of `z = logits / temperature`, nats.
    pub lse: f64,
    /// `log p` of the target, nats.
    pub logp: f64,
    /// Entropy, nats.
    pub entropy: f64,
    /// `Σ p²`: for baselines that weigh by the size of the gradient.
    pub sum_p2: f64,
    /// `∂L/∂logits`.
    pub grad: Vec<f64>,
}

/// One row of logits `[vocabulary]`, and the gradient of a loss with `∂L/∂logp = g` and `∂L/∂entropy = h`.
pub fn logit_row(logits: &[f64], target: usize, temperature: f64, g: f64, h: f64) -> LogitRow {
    let z: Vec<f64> = logits.iter().map(|a| a / temperature).collect();
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = top + z.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
    let p: Vec<f64> = z.iter().map(|z| (z - lse).exp()).collect();
    // A banned token has p = 0, and 0·log 0 is 0.
    let log_p = |v: usize| if p[v] > 0.0 { z[v] - lse } else { 0.0 };
    let entropy = -(0..z.len()).map(|v| p[v] * log_p(v)).sum::<f64>();
    let hit = |v: usize| if v == target { 1.0 } else { 0.0 };
    LogitRow {
        lse,
        logp: z[target] - lse,
        entropy,
        sum_p2: p.iter().map(|p| p * p).sum(),
        grad: (0..z.len())
            .map(|v| (g * (hit(v) - p[v]) - h * p[v] * (log_p(v) + entropy)) / temperature)
            .collect(),
    }
}

/// Evaluates the definition.
pub fn evaluate(config: &LossConfig, x: &Inputs, normalizer: &Normalizer) -> Outputs {
    let (n_seq, len) = x.logp.dim();
    let old = if config.on_policy { &x.logp } else { &x.logp_old };
    let delta = &x.logp - old;
    let d = old - &x.logp_mu;
    let valid = |i: usize| (0..len).filter(move |t| x.mask[[i, *t]]);

    // Rejection changes the mask.
    let mut mask = x.mask.clone();
    for i in 0..n_seq {
        let rho: Vec<f64> = valid(i).map(|t| d[[i, t]].exp()).collect();
        for (place, t) in valid(i).enumerate() {
            mask[[i, t]] &= config.rejection.iter().all(|r| accepts(r, &rho, place));
        }
    }
    let kept = |i: usize| (0..len).filter(|t| mask[[i, *t]]).collect::<Vec<_>>();

    // The off-policy sequence mask drops whole rows.
    let dropped: Vec<bool> = (0..n_seq)
        .map(|i| match config.opsm {
            Some(opsm) if valid(i).count() > 0 => {
                let n = valid(i).count() as f64;
                let drift = valid(i).map(|t| x.logp_mu[[i, t]] - x.logp[[i, t]]).sum::<f64>() / n;
                valid(i).map(|t| x.advantages[[i, t]]).sum::<f64>() < 0.0 && drift > opsm.delta
            }
            _ => false,
        })
        .collect();
    let keeps = config.opsm.is_none_or(|o| o.keeps_denominator);
    let count = |i: usize| if dropped[i] && !keeps { 0.0 } else { kept(i).len() as f64 };

    // Denominators.
    let tokens = normalizer.tokens.unwrap_or_else(|| (0..n_seq).map(count).sum());
    let seqs = normalizer.seqs.unwrap_or_else(|| match config.aggregation.seq_count {
        SeqCount::All => n_seq as f64,
        SeqCount::NonEmpty => (0..n_seq).filter(|i| count(*i) > 0.0).count() as f64,
    });
    let group_tokens = |i: usize| match &normalizer.group_tokens {
        Some(tokens) => tokens[&x.groups[i]],
        None => (0..n_seq).filter(|j| x.groups[*j] == x.groups[i]).map(count).sum::<f64>(),
    };
    let mut ids: Vec<u32> = (0..n_seq).filter(|i| group_tokens(*i) > 0.0).map(|i| x.groups[i]).collect();
    ids.sort_unstable();
    ids.dedup();
    let groups = normalizer.groups.unwrap_or(ids.len() as f64);
    let omega = |i: usize| {
        let divisor = match config.aggregation.mode {
            Mode::TokenMean => tokens,
            Mode::GroupTokenMean => groups * group_tokens(i),
            Mode::SeqMeanTokenMean => seqs * count(i),
            Mode::SeqMeanTokenSum => seqs,
            Mode::SeqMeanTokenSumNorm { len } => seqs * len,
            Mode::TokenSum => 1.0,
        };
        if divisor > 0.0 { normalizer.grad_world_scale / divisor } else { 0.0 }
    };

    // Importance-sampling weights, detached.
    let mut weight = Array2::<f64>::ones((n_seq, len));
    if let Some(correction) = config.correction {
        let mut all = Vec::new();
        for i in 0..n_seq {
            let base =
                |t: usize| if correction.base == Base::Full { delta[[i, t]] + d[[i, t]] } else { d[[i, t]] };
            let sum: f64 = valid(i).map(base).sum();
            let geo = (sum / valid(i).count().max(1) as f64).exp();
            for t in valid(i) {
                let raw = match correction.level {
                    Level::Token => base(t).exp(),
                    Level::SeqProduct => sum.exp(),
                    Level::SeqGeo => geo,
                };
                weight[[i, t]] = match correction.control {
                    Control::None {} => raw,
                    Control::Truncate { max, min } => raw.min(max).max(min),
                    Control::Mask { min, max } => {
                        if min <= raw && raw <= max {
                            raw
                        } else {
                            0.0
                        }
                    }
                    Control::SeqGeoBandTokenWeight { min, max } => {
                        if min <= geo && geo <= max {
                            base(t).exp()
                        } else {
                            0.0
                        }
                    }
                };
            }
            let per = if correction.level == Level::Token { usize::MAX } else { 1 };
            all.extend(valid(i).take(per).map(|t| weight[[i, t]]));
        }
        let mean = normalizer.mean_weight.unwrap_or(all.iter().sum::<f64>() / all.len().max(1) as f64);
        if correction.batch_normalize && mean > 1e-8 {
            weight /= mean;
        }
    }

    // High-entropy tokens only.
    let mut entropies: Vec<f64> = (0..n_seq).flat_map(|i| valid(i).map(move |t| x.entropy[[i, t]])).collect();
    entropies.sort_by(|a, b| b.total_cmp(a));
    let threshold = normalizer.entropy_threshold.or(config.entropy_top_share.map(|share| {
        let place = (share * entropies.len() as f64).ceil().max(1.0) as usize;
        entropies.get(place - 1).copied().unwrap_or(f64::NEG_INFINITY)
    }));
    let trains = |i: usize, t: usize| threshold.is_none_or(|h| x.entropy[[i, t]] >= h);

    let mut out = Outputs {
        loss: 0.0,
        grad_logp: Array2::zeros((n_seq, len)),
        grad_entropy: Array2::zeros((n_seq, len)),
    };
    for i in (0..n_seq).filter(|i| !dropped[*i]) {
        let tokens_of = kept(i);
        let row = Row { config, x, old, delta: &delta, d: &d, i, tokens: &tokens_of };
        for &t in &tokens_of {
            let (loss, coefficient) = row.loss(t);
            let vespo = matches!(config.objective, Objective::Vespo { .. });
            let scale = if trains(i, t) { omega(i) * if vespo { 1.0 } else { weight[[i, t]] } } else { 0.0 };
            out.loss += scale * loss;
            out.grad_logp[[i, t]] -= scale * coefficient;
            if let Some(kl) = config.kl {
                let z = x.logp[[i, t]] - x.logp_ref[[i, t]];
                let (value, gradient) = match kl.kind {
                    KlKind::K1 => (z, 1.0),
                    KlKind::K2 => (z * z / 2.0, z),
                    KlKind::K3 => ((-z).exp() - 1.0 + z, 1.0 - (-z).exp()),
                    KlKind::Abs => (
                        z.abs(),
                        if z > 0.0 {
                            1.0
                        } else if z < 0.0 {
                            -1.0
                        } else {
                            0.0
                        },
                    ),
                    KlKind::K1Plus => (z, z),
                    KlKind::K3Plus => ((-z).exp() - 1.0 + z, z),
                    KlKind::K3Is => {
                        let r = delta[[i, t]].exp();
                        (r * ((-z).exp() - 1.0 + z), r * z)
                    }
                };
                out.loss += kl.beta * omega(i) * value;
                out.grad_logp[[i, t]] += kl.beta * omega(i) * gradient;
            }
            if let Some(bonus) = config.entropy.filter(|_| trains(i, t)) {
                let omega = match bonus.aggregation {
                    EntropyAggregation::SameAsPolicy => omega(i),
                    EntropyAggregation::TokenMean => normalizer.grad_world_scale / tokens,
                };
                out.loss -= bonus.coef * omega * x.entropy[[i, t]];
                out.grad_entropy[[i, t]] -= bonus.coef * omega;
            }
        }
    }
    out
}

fn accepts(rejection: &Rejection, rho: &[f64], place: usize) -> bool {
    let n = rho.len() as f64;
    let k3 = |r: &f64| r - 1.0 - r.ln();
    let log_sum: f64 = rho.iter().map(|r| r.ln()).sum();
    let here = rho[place];
    match *rejection {
        Rejection::TokenRatio { lo, hi } => lo <= here && here <= hi,
        Rejection::TokenK2 { max } => here.ln().powi(2) / 2.0 <= max,
        Rejection::TokenK3 { max } => k3(&here) <= max,
        Rejection::SeqGeoRatio { lo, hi } => lo <= (log_sum / n).exp() && (log_sum / n).exp() <= hi,
        Rejection::SeqSumRatio { lo, hi } => lo <= log_sum.exp() && log_sum.exp() <= hi,
        Rejection::SeqMeanK3 { max } => rho.iter().map(k3).sum::<f64>() / n <= max,
        Rejection::SeqMaxK3 { max } => rho.iter().map(k3).fold(0.0, f64::max) <= max,
        Rejection::Veto { min } => rho.iter().all(|r| *r >= min),
    }
}

struct Row<'a> {
    config: &'a LossConfig,
    x: &'a Inputs,
    old: &'a Array2<f64>,
    delta: &'a Array2<f64>,
    d: &'a Array2<f64>,
    i: usize,
    tokens: &'a [usize],
}

impl Row<'_> {
    fn mean(&self, f: impl Fn(usize) -> f64) -> f64 {
        self.tokens.iter().map(|t| f(*t)).sum::<f64>() / self.tokens.len() as f64
    }

    /// `(ℓ, c = −∂ℓ/∂logp)` of token `t`.
    fn loss(&self, t: usize) -> (f64, f64) {
        let at = [self.i, t];
        let (a, logp, r) = (self.x.advantages[at], self.x.logp[at], self.delta[at].exp());
        if a == 0.0 {
            return (0.0, 0.0);
        }
        let geometric = || self.mean(|t| self.delta[[self.i, t]]).exp();
        let gradient_of_log = |w: f64| (-w * a * logp, w * a);
        match self.config.objective {
            Objective::Reinforce {} => gradient_of_log(1.0),
            Objective::PpoClip { clip_low, clip_high, dual_clip } => {
                if let Some(c) = dual_clip
                    && a < 0.0
                    && r > c
                {
                    return (-c * a, 0.0);
                }
                ppo(r, a, clip_low, clip_high)
            }
            Objective::Gspo { clip_low, clip_high }
            | Objective::GspoToken { clip_low, clip_high }
            | Objective::Luspo { clip_low, clip_high } => ppo(geometric(), a, clip_low, clip_high),
            Objective::Gmpo { clip_low, clip_high } => {
                let clip = |x: f64| if a > 0.0 { x.min(clip_high) } else { x.max(-clip_low) };
                let s = self.mean(|t| clip(self.delta[[self.i, t]])).exp();
                let inside = clip(self.delta[at]) == self.delta[at];
                (-a * s, if inside { a * s } else { 0.0 })
            }
            Objective::Cispo { ratio_min, ratio_max } => gradient_of_log(r.min(ratio_max).max(ratio_min)),
            Objective::MiniRl { clip_low, clip_high, cap, truncation_target, no_clip, no_train_infer_is } => {
                let outside = (a > 0.0 && r > 1.0 + clip_high) || (a < 0.0 && r < 1.0 - clip_low);
                if outside && !no_clip {
                    return (0.0, 0.0);
                }
                let rho = self.d[at].exp();
                gradient_of_log(match truncation_target {
                    _ if no_train_infer_is => r,
                    TruncationTarget::Full => (r * rho).min(cap),
                    TruncationTarget::Mismatch => r * rho.min(cap),
                })
            }
            Objective::Sapo { tau_pos, tau_neg } => {
                let tau = if a > 0.0 { tau_pos } else { tau_neg };
                let p = 1.0 / (1.0 + (-tau * (r - 1.0)).exp());
                (-4.0 / tau * p * a, a * r * 4.0 * p * (1.0 - p))
            }
            Objective::DppoTv { delta_low, delta_high, cap } => {
                let change = logp.exp() - self.old[at].exp();
                let keep = if a > 0.0 { change <= delta_high } else { change >= -delta_low };
                if keep { gradient_of_log(r.min(cap)) } else { (0.0, 0.0) }
            }
            Objective::DppoKl { delta_low, delta_high, cap } => {
                let (o, p) = (self.old[at].exp(), logp.exp());
                let kl = o * (o / p).ln() + (1.0 - o) * ((1.0 - o) / (1.0 - p)).ln();
                let keep = if a > 0.0 { p <= o || kl <= delta_high } else { p >= o || kl <= delta_low };
                if keep { gradient_of_log(r.min(cap)) } else { (0.0, 0.0) }
            }
            Objective::Vespo { k_pos, lambda_pos, k_neg, lambda_neg } => {
                let (k, lambda) = if a >= 0.0 { (k_pos, lambda_pos) } else { (k_neg, lambda_neg) };
                let n = self.tokens.len() as f64;
                let mut log_w = n * self.mean(|t| self.delta[[self.i, t]]);
                if self.config.correction.is_some() {
                    log_w += n * self.mean(|t| self.d[[self.i, t]]);
                }
                let log_w = log_w.min(20.0).max(1e-8f64.ln());
                gradient_of_log((lambda + k * log_w - lambda * log_w.exp()).exp())
            }
        }
    }
}

fn ppo(r: f64, a: f64, clip_low: f64, clip_high: f64) -> (f64, f64) {
    let clipped = r.max(1.0 - clip_low).min(1.0 + clip_high);
    let outside = (a > 0.0 && r > 1.0 + clip_high) || (a < 0.0 && r < 1.0 - clip_low);
    (-(r * a).min(clipped * a), if outside { 0.0 } else { a * r })
}
