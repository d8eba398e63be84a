//! What is measured of one sequence, gathered in plain sums before it enters [`Metrics`].

use crate::batch::{Real, TokenBatch};
use crate::config::LossConfig;
use crate::metrics::Metrics;
use crate::objective::{Clipped, Objective, Sequence, TokenLoss, k3};
use crate::row::{Row, Valid};

/// Share of tokens whose `max(ρ, 1/ρ)` is above this is `mismatch/extreme_frac`.
const EXTREME: f64 = 2.0;

pub(crate) struct Tally<'a> {
    config: &'a LossConfig,
    row: &'a Row,
    has_old: bool,
    has_mu: bool,
    has_entropy: bool,
    clipped: [f64; 2],
    dual: f64,
    saturated: f64,
    rejected: f64,
    /// Gate sums and counts by the advantage's sign: positive, other.
    gates: [(f64, f64); 2],
    gate_square: f64,
    k1: f64,
    k3: f64,
    mismatch: [f64; 5],
    metrics: Metrics,
}

impl<'a> Tally<'a> {
    pub(crate) fn new<F: Real>(config: &'a LossConfig, batch: &TokenBatch<'_, F>, row: &'a Row) -> Self {
        Self {
            config,
            row,
            has_old: batch.logp_old.is_some() || config.on_policy,
            has_mu: batch.logp_mu.is_some(),
            has_entropy: batch.entropy.is_some(),
            clipped: [0.0; 2],
            dual: 0.0,
            saturated: 0.0,
            rejected: 0.0,
            gates: [(0.0, 0.0); 2],
            gate_square: 0.0,
            k1: 0.0,
            k3: 0.0,
            mismatch: [0.0; 5],
            metrics: Metrics::default(),
        }
    }

    pub(crate) fn token(&mut self, v: &Valid, loss: &TokenLoss, _: &Sequence) {
        match loss.clipped {
            Some(Clipped::High) => self.clipped[0] += 1.0,
            Some(Clipped::Low) => self.clipped[1] += 1.0,
            None => {}
        }
        self.dual += f64::from(u8::from(loss.dual));
        self.saturated += f64::from(u8::from(v.token.saturated));
        self.rejected += f64::from(u8::from(!v.kept));
        let m = &mut self.metrics;
        if let Some(gate) = loss.gate {
            let side = &mut self.gates[usize::from(v.token.advantage <= 0.0)];
            *side = (side.0 + gate, side.1 + 1.0);
            self.gate_square += gate * gate;
            m.min("gate/min", gate);
        }
        if self.has_old {
            let ratio = v.token.delta.exp();
            self.k1 -= v.raw_delta;
            self.k3 += k3(v.token.delta);
            m.mean("ratio/mean", ratio);
            m.min("ratio/min", ratio);
            m.max("ratio/max", ratio);
            m.quantile("ratio/p99", 0.99, ratio);
        }
        if self.has_mu {
            let d = v.token.mismatch;
            let bounded = d.clamp(-80.0, 80.0);
            let extreme = f64::from(u8::from(d.abs() > EXTREME.ln()));
            for (sum, x) in
                self.mismatch.iter_mut().zip([-d, k3(bounded), d.abs(), (2.0 * bounded).exp() - 1.0, extreme])
            {
                *sum += x;
            }
            m.max("mismatch/abs_max", d.abs());
            m.quantile("mismatch/abs_p99", 0.99, d.abs());
        }
        if self.config.correction.is_some() {
            m.mean("is/mean", v.weight.value);
            m.min("is/min", v.weight.value);
            m.max("is/max", v.weight.value);
            m.mean("is/oob_frac", f64::from(u8::from(v.weight.bounded)));
            m.ess("is/ess", v.weight.value);
        }
        if self.has_entropy {
            m.mean("entropy/mean", v.entropy);
            m.quantile("entropy/p10", 0.1, v.entropy);
        }
        m.mean("adv/mean", v.token.advantage);
        m.std("adv/std", v.token.advantage);
        m.mean("adv/zero_frac", f64::from(u8::from(v.token.advantage == 0.0)));
    }

    pub(crate) fn kl_ref(&mut self, value: f64) {
        self.metrics.mean("kl/ref", value);
    }

    pub(crate) fn finish(mut self, out: &mut Metrics) {
        let n = self.row.valid.len() as f64;
        let m = &mut self.metrics;
        m.sum("tokens", n);
        m.sum("seqs", if n > 0.0 { 1.0 } else { 0.0 });
        m.sum("nonfinite/dropped", self.row.non_finite as f64);
        if n > 0.0 {
            m.mean("len/mean", n);
            m.max("len/max", n);
            let (high, low) = match self.config.objective {
                Objective::Cispo { .. } => ("cispo/high_frac", "cispo/low_frac"),
                _ => ("clip/high_frac", "clip/low_frac"),
            };
            m.share(high, self.clipped[0], n);
            m.share(low, self.clipped[1], n);
            m.share("clip/frac", self.clipped[0] + self.clipped[1], n);
            m.share("clip/dual_frac", self.dual, n);
            m.share("ratio/saturated_frac", self.saturated, n);
            m.share("reject/token_frac", self.rejected, n);
            m.mean("reject/seq_frac", if self.rejected == n { 1.0 } else { 0.0 });
            m.mean("reject/opsm_frac", f64::from(u8::from(self.row.dropped)));
            self.ratios(n);
            self.mismatches(n);
        }
        out.merge(&self.metrics);
    }

    fn ratios(&mut self, n: f64) {
        let m = &mut self.metrics;
        if self.has_old {
            m.share("kl/policy_k1", self.k1, n);
            m.share("kl/policy_k3", self.k3, n);
            let mean = self.row.valid.iter().map(|v| v.raw_delta).sum::<f64>() / n;
            let s = mean.clamp(-80.0, 80.0).exp();
            m.mean("seq_ratio/mean", s);
            m.min("seq_ratio/min", s);
            m.max("seq_ratio/max", s);
            if self.config.objective.is_sequence_level() {
                m.mean("clip/seq_frac", if self.clipped[0] + self.clipped[1] > 0.0 { 1.0 } else { 0.0 });
            }
            if let Objective::Sapo { tau_pos, tau_neg } = self.config.objective {
                let [(pos, n_pos), (neg, n_neg)] = self.gates;
                m.share("gate/mean", pos + neg, n);
                m.share("gate/mean_pos", pos, n_pos);
                m.share("gate/mean_neg", neg, n_neg);
                m.mean("gate/var", (self.gate_square / n - ((pos + neg) / n).powi(2)).max(0.0));
                // arXiv 2511.20347 §4: the mean gate against the gate at the mean log-ratio.
                let tau = if self.row.valid[0].token.advantage > 0.0 { tau_pos } else { tau_neg };
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
        let m = &mut self.metrics;
        let [k1, k3, abs, chi2, extreme] = self.mismatch;
        m.share("mismatch/kl_k1", k1, n);
        m.share("mismatch/kl_k3", k3, n);
        m.share("mismatch/abs_mean", abs, n);
        m.share("mismatch/chi2_token", chi2, n);
        m.share("mismatch/extreme_frac", extreme, n);
        let total: f64 = self.row.valid.iter().map(|v| v.token.mismatch).sum();
        m.mean("mismatch/chi2_seq", (2.0 * total).clamp(-80.0, 80.0).exp() - 1.0);
        let mean_old = self.row.valid.iter().map(|v| v.token.logp_old).sum::<f64>() / n;
        let mean_mu = mean_old - total / n;
        m.mean("mismatch/ppl_train", (-mean_old).exp());
        m.mean("mismatch/ppl_rollout", (-mean_mu).exp());
        m.mean("mismatch/log_ppl_diff", mean_mu - mean_old);
    }
}
