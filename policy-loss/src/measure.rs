//! What is measured of one sequence, gathered in plain sums before it enters [`Metrics`].

use crate::batch::{Real, TokenBatch};
use crate::compatibility::ObjectiveKind;
use crate::config::LossConfig;
use crate::metrics::Metrics;
use crate::objective::{Clipped, Objective, TokenLoss, k3};
use crate::row::{Row, Valid};

pub(crate) struct Tally<'a> {
    config: &'a LossConfig,
    row: &'a Row,
    group: Option<u32>,
    has_old: bool,
    has_mu: bool,
    has_entropy: bool,
    clipped: [f64; 2],
    dual: f64,
    saturated: f64,
    rejected: f64,
    /// Gate sums and counts by the advantage's sign: positive, other.
    gates: [(f64, f64); 2],
    k1: f64,
    k3: f64,
    mismatch: [f64; 5],
    gate_min: f64,
    ratio: Spread,
    log_ratio: Spread,
    abs_mismatch: Spread,
    weight: Spread,
    bounded: f64,
    kl: Spread,
    entropy: Spread,
    advantage: Spread,
    zero_advantages: f64,
    metrics: &'a mut Metrics,
}

/// What is kept of a quantity token by token: entering [`Metrics`] costs a search by name.
#[derive(Clone, Copy)]
struct Spread {
    count: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Spread {
    const EMPTY: Self =
        Self { count: 0.0, sum: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

/// Log-ratios are bounded to ± this where their exponentials are only measured.
const MEASURABLE: f64 = 80.0;

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

impl<'a> Tally<'a> {
    pub(crate) fn new<F: Real>(
        config: &'a LossConfig,
        batch: &TokenBatch<'_, F>,
        sequence: usize,
        row: &'a Row,
        metrics: &'a mut Metrics,
    ) -> Self {
        Self {
            config,
            row,
            group: batch.groups.map(|g| g[sequence]),
            has_old: batch.logp_old.is_some() || config.on_policy,
            has_mu: batch.logp_mu.is_some(),
            has_entropy: batch.entropy.is_some(),
            clipped: [0.0; 2],
            dual: 0.0,
            saturated: 0.0,
            rejected: 0.0,
            gates: [(0.0, 0.0); 2],
            k1: 0.0,
            k3: 0.0,
            mismatch: [0.0; 5],
            gate_min: f64::INFINITY,
            ratio: Spread::EMPTY,
            log_ratio: Spread::EMPTY,
            abs_mismatch: Spread::EMPTY,
            weight: Spread::EMPTY,
            bounded: 0.0,
            kl: Spread::EMPTY,
            entropy: Spread::EMPTY,
            advantage: Spread::EMPTY,
            zero_advantages: 0.0,
            metrics,
        }
    }

    /// Takes in a token of the structural mask, whether or not it was rejected.
    pub(crate) fn token(&mut self, v: &Valid, loss: &TokenLoss, kl: Option<f64>) {
        match loss.clipped {
            Some(Clipped::High) => self.clipped[0] += 1.0,
            Some(Clipped::Low) => self.clipped[1] += 1.0,
            None => {}
        }
        self.dual += flag(loss.dual);
        self.saturated += flag(v.token.saturated);
        self.rejected += flag(!v.kept);
        if let Some(gate) = loss.gate {
            let side = &mut self.gates[usize::from(v.token.advantage <= 0.0)];
            *side = (side.0 + gate, side.1 + 1.0);
            self.gate_min = self.gate_min.min(gate);
        }
        if self.has_old {
            let ratio = v.token.delta.exp();
            self.k1 -= v.raw_delta;
            self.k3 += k3(v.raw_delta.clamp(-MEASURABLE, MEASURABLE));
            self.ratio.add(ratio);
            self.log_ratio.add(v.raw_delta);
            for (name, q) in [("ratio/p01", 0.01), ("ratio/p50", 0.5), ("ratio/p99", 0.99)] {
                self.metrics.quantile(name, q, ratio);
            }
        }
        if self.has_mu {
            let d = v.token.mismatch;
            let bounded = d.clamp(-MEASURABLE, MEASURABLE);
            let extreme = flag(d.abs() > self.config.extreme_ratio.ln());
            for (sum, x) in
                self.mismatch.iter_mut().zip([-d, k3(bounded), d.abs(), (2.0 * bounded).exp_m1(), extreme])
            {
                *sum += x;
            }
            self.abs_mismatch.add(d.abs());
            self.metrics.quantile("mismatch/abs_p99", 0.99, d.abs());
        }
        if let Some(weight) = loss.weight.or(self.config.correction.map(|_| v.weight)) {
            self.weight.add(weight.value);
            self.bounded += flag(weight.bounded);
        }
        if let Some(kl) = kl {
            self.kl.add(kl);
        }
        if self.has_entropy {
            self.entropy.add(v.entropy);
            self.metrics.quantile("entropy/p10", 0.1, v.entropy);
        }
        self.advantage.add(v.token.advantage);
        self.zero_advantages += flag(v.token.advantage == 0.0);
        if let Some(group) = self.group {
            self.metrics.group("adv/degenerate_groups", group, v.token.advantage == 0.0);
        }
    }

    /// Enters what was gathered token by token. A quantity that no token had stays absent.
    fn tokens(&mut self) {
        let m = &mut *self.metrics;
        if self.gates.iter().any(|(_, n)| *n > 0.0) {
            m.min("gate/min", self.gate_min);
        }
        let Spread { count, sum, min, max, .. } = self.ratio;
        if count > 0.0 {
            m.share("ratio/mean", sum, count);
            m.min("ratio/min", min);
            m.max("ratio/max", max);
            m.min("ratio/log_min", self.log_ratio.min);
            m.max("ratio/log_max", self.log_ratio.max);
        }
        if self.abs_mismatch.count > 0.0 {
            m.max("mismatch/abs_max", self.abs_mismatch.max);
        }
        let Spread { count, sum, squares, min, max } = self.weight;
        if count > 0.0 {
            m.share("is/mean", sum, count);
            m.min("is/min", min);
            m.max("is/max", max);
            m.share("is/oob_frac", self.bounded, count);
            m.ess("is/ess", sum, squares, count);
        }
        for (name, spread) in [("kl/ref", self.kl), ("entropy/mean", self.entropy)] {
            if spread.count > 0.0 {
                m.share(name, spread.sum, spread.count);
            }
        }
        let Spread { count, sum, squares, .. } = self.advantage;
        if count > 0.0 {
            m.share("adv/mean", sum, count);
            m.std("adv/std", sum, squares, count);
            m.share("adv/zero_frac", self.zero_advantages, count);
        }
    }

    /// Enters everything into the metrics that it was made with.
    pub(crate) fn finish(mut self) {
        self.tokens();
        let n = self.row.valid.len() as f64;
        let m = &mut *self.metrics;
        m.sum("tokens", n);
        m.sum("seqs", flag(n > 0.0));
        m.sum("nonfinite/dropped", self.row.non_finite as f64);
        if n > 0.0 {
            m.mean("len/mean", n);
            m.max("len/max", n);
            let (high, low) = match self.config.objective.kind() {
                ObjectiveKind::Cispo => ("cispo/high_frac", "cispo/low_frac"),
                _ => ("clip/high_frac", "clip/low_frac"),
            };
            m.share(high, self.clipped[0], n);
            m.share(low, self.clipped[1], n);
            m.share("clip/frac", self.clipped[0] + self.clipped[1], n);
            m.share("clip/dual_frac", self.dual, n);
            m.share("ratio/saturated_frac", self.saturated, n);
            m.share("reject/token_frac", self.rejected, n);
            m.mean("reject/seq_frac", flag(self.rejected == n));
            m.mean("reject/opsm_frac", flag(self.row.dropped));
            self.ratios(n);
            self.mismatches(n);
        }
    }

    fn ratios(&mut self, n: f64) {
        if !self.has_old {
            return;
        }
        let m = &mut *self.metrics;
        m.share("kl/policy_k1", self.k1, n);
        m.share("kl/policy_k3", self.k3, n);
        let mean = self.row.valid.iter().map(|v| v.raw_delta).sum::<f64>() / n;
        let s = mean.clamp(-MEASURABLE, MEASURABLE).exp();
        m.mean("seq_ratio/mean", s);
        m.min("seq_ratio/min", s);
        m.max("seq_ratio/max", s);
        if self.config.objective.kind().has_sequence_ratio() {
            m.mean("clip/seq_frac", flag(self.clipped[0] + self.clipped[1] > 0.0));
        }
        if let Objective::Sapo { tau_pos, tau_neg } = self.config.objective {
            let [(pos, n_pos), (neg, n_neg)] = self.gates;
            m.share("gate/mean", pos + neg, n);
            m.share("gate/mean_pos", pos, n_pos);
            m.share("gate/mean_neg", neg, n_neg);
            let square = |v: &Valid| (v.raw_delta - mean).powi(2);
            m.mean("gate/var", self.row.valid.iter().map(square).sum::<f64>() / n);
            // arXiv 2511.20347 §4: the mean gate against the gate at the mean log-ratio, where all tokens share τ.
            if n_pos == 0.0 || n_neg == 0.0 {
                let tau = if n_pos > 0.0 { tau_pos } else { tau_neg };
                let gate = |z: f64| (tau * z / 2.0).cosh().powi(-2);
                let average = self.row.valid.iter().map(|v| gate(v.raw_delta)).sum::<f64>() / n;
                m.mean("gate/coherence_gap", (average - gate(mean)).abs());
            }
        }
    }

    fn mismatches(&mut self, n: f64) {
        if !self.has_mu {
            return;
        }
        let m = &mut *self.metrics;
        let [k1, k3, abs, chi2, extreme] = self.mismatch;
        m.share("mismatch/kl_k1", k1, n);
        m.share("mismatch/kl_k3", k3, n);
        m.share("mismatch/abs_mean", abs, n);
        m.share("mismatch/chi2_token", chi2, n);
        m.share("mismatch/extreme_frac", extreme, n);
        let total: f64 = self.row.valid.iter().map(|v| v.token.mismatch).sum();
        m.mean("mismatch/chi2_seq", (2.0 * total).clamp(-MEASURABLE, MEASURABLE).exp_m1());
        let mean_old = self.row.valid.iter().map(|v| v.token.logp_old).sum::<f64>() / n;
        let mean_mu = mean_old - total / n;
        m.mean("mismatch/ppl_train", (-mean_old).min(MEASURABLE).exp());
        m.mean("mismatch/ppl_rollout", (-mean_mu).min(MEASURABLE).exp());
        m.mean("mismatch/log_ppl_diff", mean_mu - mean_old);
    }
}
