//! The metrics of a run: one name for each, everywhere.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A metric and what it means.
#[derive(Clone, Copy, Debug)]
pub struct MetricDoc {
    /// Its name in code, logs, report and docs.
    pub name: &'static str,
    /// What it is, with its unit.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($name:literal: $meaning:literal),* $(,)?) => {
        /// Every metric that is written in each step. Parts of the reward (`reward/part/<name>`), families of scripts (`lcg/confusion_rate/<family>`), sets of
        /// held-out prompts (`eval/<set>/…`) and flips by layer (`route/flips_layer_<n>`) come on top.
        pub const METRICS: &[MetricDoc] = &[$(MetricDoc { name: $name, meaning: $meaning }),*];
    };
}

metrics! {
    "reward/mean": "mean reward of the step's samples",
    "reward/std": "standard deviation of the rewards",
    "reward/min": "smallest reward",
    "reward/max": "largest reward",
    "reward/p10": "tenth percentile of the rewards",
    "reward/p50": "median reward",
    "reward/p90": "ninetieth percentile of the rewards",
    "reward/exact_rate": "share of samples that are the right answer and ended by themselves",
    "reward/errors": "samples that could not be scored",
    "group/zero_std_share": "share of groups whose samples all got the same reward",
    "group/mean_std": "mean standard deviation of rewards within a group",
    "group/kept": "groups that trained",
    "group/drawn": "groups that were rolled out",
    "len/response_mean": "mean response length, tokens",
    "len/response_p95": "95th percentile of the response length, tokens",
    "len/response_max": "longest response, tokens",
    "len/truncated_share": "share of responses cut at the limit",
    "data/level": "difficulty of the generated task, or epoch of the file",
    "policy/entropy": "mean entropy of the policy at sampled positions, nats",
    "policy/entropy_p10": "tenth percentile of that entropy, nats",
    "policy/logp_mean": "mean log-probability of sampled tokens, nats",
    "policy/ratio_mean": "mean of π_θ/π_old",
    "policy/ratio_max": "largest π_θ/π_old",
    "policy/ratio_p99": "99th percentile of π_θ/π_old",
    "policy/ratio_p1": "first percentile of π_θ/π_old",
    "policy/ratio_p50": "median of π_θ/π_old",
    "policy/ratio_min": "smallest π_θ/π_old",
    "policy/ess": "effective sample size of π_θ/μ in the passes that trained, share of tokens",
    "policy/clip_high": "share of tokens clipped above",
    "policy/clip_low": "share of tokens clipped below",
    "policy/gate_mean": "mean SAPO gate; 1 is a full gradient",
    "policy/gate_pos": "mean SAPO gate of tokens with a positive advantage",
    "policy/gate_neg": "mean SAPO gate of tokens with a negative advantage",
    "policy/gate_gap": "SAPO's coherence gap: |mean gate − gate at the mean log-ratio|, mean of sequences",
    "policy/kl_old": "k3 estimate of KL(π_old‖π_θ), nats",
    "policy/kl_old_k1": "k1 estimate of the same, nats",
    "policy/kl_ref": "k3 estimate of the KL divergence from the reference policy, nats",
    "policy/advantage_std": "standard deviation of the advantages",
    "policy/advantage_zero": "share of tokens with advantage 0",
    "mismatch/k1": "KL(μ‖π_old): mean of log μ − log π_old, nats",
    "mismatch/k3": "its non-negative estimate, nats",
    "mismatch/mean_abs": "mean of |log π_old − log μ|, nats",
    "mismatch/max_abs": "largest |log π_old − log μ|, nats",
    "mismatch/flip_tokens": "share of tokens for which sampler and trainer, under the same weights, choose other experts in some layer (of up to 128 tokens of each pass, as all comparisons of experts)",
    "mismatch/flip_share": "share of token and layer pairs with another choice",
    "mismatch/chi2": "χ² divergence by token",
    "mismatch/extreme": "share of tokens where π_old and μ differ by more than a factor of 2",
    "mismatch/is_weight_mean": "mean importance-sampling weight",
    "mismatch/is_weight_max": "largest importance-sampling weight",
    "mismatch/ess": "effective sample size of the importance-sampling weights, share",
    "rollout/staleness": "steps by which the weights that sampled the batch are older than those it trains",
    "stale/k1": "KL(μ‖π_old) of a batch sampled ahead (`rollout.max_staleness`), whose μ is an older policy: then `stale/…` stands for `mismatch/…`; mean of log μ − log π_old, nats",
    "stale/k3": "its non-negative estimate, nats",
    "stale/mean_abs": "mean of |log π_old − log μ|, nats",
    "stale/max_abs": "largest |log π_old − log μ|, nats",
    "stale/flip_tokens": "share of tokens for which the sampler and the trainer, with newer weights, choose other experts in some layer",
    "stale/flip_share": "share of token and layer pairs with another choice",
    "stale/chi2": "χ² divergence by token",
    "stale/extreme": "share of tokens where π_old and μ differ by more than a factor of 2",
    "stale/is_weight_mean": "mean importance-sampling weight",
    "stale/is_weight_max": "largest importance-sampling weight",
    "stale/ess": "effective sample size of the importance-sampling weights, share",
    "route/agreement": "share of token and layer pairs whose natural experts are those replayed (or, without replay, those of the sampler)",
    "route/coverage": "share of replayed tokens whose experts were recorded",
    "route/fallback_rows": "replayed tokens whose experts were not recorded and chosen by the router",
    "route/overlap": "mean share of the experts of a token and layer that are in both choices",
    "route/token_any_mismatch": "share of tokens with another choice in some layer",
    "route/layers_mismatched": "mean number of layers of a token with another choice",
    "route/gate_tv": "mean total variation between the gates of both choices",
    "route/margin_p1": "first percentile of the distance of a router's last chosen score to the first not chosen",
    "route/margin_p50": "median of that distance",
    "route/load_imbalance": "largest load of an expert over the mean, averaged over layers",
    "route/dead_experts": "share of experts without a token",
    "lcg/intervention_rate": "share of tokens at which the gate took tokens out of the support; with top_p = 1 nearly all where anything is denied",
    "lcg/flip_rate": "share of tokens that the gate changed: the same random numbers, ungated, had drawn a denied one",
    "lcg/denied_mass": "mean probability that the gate removed",
    "lcg/unmasked_ratio": "mean importance ratio of the step's tokens, had they been scored without their masks: the mean probability of what they were drawn from. Under the masks it is 1",
    "lcg/veto_rate": "share of tokens at which the model found no token of a predicted family likely, and the gate stood back",
    "lcg/nan_rate": "share of tokens at which the gate's network gave NaN, and nothing was denied",
    "lcg/gate_version": "how often the gate's network that drew the step's samples had changed, from 1",
    "lcg/label_agreement": "share of labels by family, made with the policy's new weights on held-out prompts of the step, that the gate predicts (at steps of gate.refresh_every)",
    "lcg/refreshed_agreement": "the same share after the gate was refreshed",
    "lcg/codepoint_confusion_rate": "under a gate, share of the letters of responses, code aside, that are of a script that is not expected: of none of the language in the row's column `language` (ISO 639-1) or, without that column, of none of the prompt; prompts of an unknown language or without letters are left out",
    "lcg/residual_after_symbol": "share of the places where responses enter such a script that follow a token of symbols alone, such as a space or a bracket",
    "lcg/leak": "mean of −log(probability that the gate left) over the tokens at which it denied any, in the passes that trained, nats",
    "optim/loss": "policy loss, mean of the step's optimiser steps",
    "optim/grad_norm": "gradient norm before clipping, mean of the step's optimiser steps",
    "optim/lr": "learning rate",
    "optim/skipped": "optimiser steps skipped",
    "time/total": "seconds of the step",
    "time/rollout": "seconds of generation",
    "time/reward": "seconds of scoring",
    "time/logp": "seconds in old log-probabilities",
    "time/forward": "seconds in forward passes with loss and the gradients of the head, which come with it",
    "time/backward": "seconds in backward passes",
    "time/optimizer": "seconds in the optimiser",
    "time/gate": "seconds of refreshing the gate",
    "time/sync": "seconds to hand new weights to the sampler",
    "time/eval": "seconds of evaluation",
    "time/checkpoint": "seconds of saving",
    "perf/rollout_tokens_per_s": "sampled tokens a second of generation",
    "perf/train_tokens_per_s": "tokens through forward and backward a second of both",
    "perf/samples_per_s": "samples a second of the step",
    "mem/peak_mib": "peak resident memory of the process, MiB",
}

/// Metrics of `policy-loss` under the names of a run.
const FROM_LOSS: &[(&str, &str)] = &[
    ("ratio/mean", "policy/ratio_mean"),
    ("ratio/max", "policy/ratio_max"),
    ("ratio/p99", "policy/ratio_p99"),
    ("ratio/p50", "policy/ratio_p50"),
    ("ratio/p01", "policy/ratio_p1"),
    ("ratio/min", "policy/ratio_min"),
    ("gate/coherence_gap", "policy/gate_gap"),
    ("kl/policy_k1", "policy/kl_old_k1"),
    ("clip/high_frac", "policy/clip_high"),
    ("clip/low_frac", "policy/clip_low"),
    ("cispo/high_frac", "policy/clip_high"),
    ("cispo/low_frac", "policy/clip_low"),
    ("gate/mean", "policy/gate_mean"),
    ("gate/mean_pos", "policy/gate_pos"),
    ("gate/mean_neg", "policy/gate_neg"),
    ("kl/policy_k3", "policy/kl_old"),
    ("kl/ref", "policy/kl_ref"),
    ("adv/std", "policy/advantage_std"),
    ("adv/zero_frac", "policy/advantage_zero"),
    ("mismatch/kl_k1", "mismatch/k1"),
    ("mismatch/kl_k3", "mismatch/k3"),
    ("mismatch/abs_mean", "mismatch/mean_abs"),
    ("mismatch/abs_max", "mismatch/max_abs"),
    ("mismatch/chi2_token", "mismatch/chi2"),
    ("mismatch/extreme_frac", "mismatch/extreme"),
    ("is/mean", "mismatch/is_weight_mean"),
    ("is/max", "mismatch/is_weight_max"),
    ("is/ess", "mismatch/ess"),
];

/// The metrics of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The step; 0 is before the first.
    pub step: u64,
    values: BTreeMap<String, f64>,
}

impl Row {
    /// A row without values.
    #[must_use]
    pub fn new(step: u64) -> Self {
        Self { step, values: BTreeMap::new() }
    }

    /// Sets a metric.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.values.insert(name.into(), value);
    }

    /// A metric, when it was measured.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// Everything that was measured.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// Renames the metrics whose names begin with `from`.
    pub fn move_prefix(&mut self, from: &str, to: &str) {
        let moved = std::mem::take(&mut self.values).into_iter().map(|(name, value)| {
            let name = name.strip_prefix(from).map(|rest| format!("{to}{rest}")).unwrap_or(name);
            (name, value)
        });
        self.values = moved.collect();
    }

    /// Takes what `policy-loss` measured.
    pub fn loss(&mut self, metrics: &policy_loss::Metrics) {
        for (theirs, ours) in FROM_LOSS {
            if let Some(value) = metrics.get(theirs) {
                self.set(*ours, value);
            }
        }
    }

    /// Mean, spread and percentiles of some values under `prefix`; nothing without values.
    pub fn distribution(&mut self, prefix: &str, values: &[f64]) {
        if values.is_empty() {
            return;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        for (name, value) in [
            ("mean", mean),
            ("std", variance.sqrt()),
            ("min", percentile(values, 0.0)),
            ("max", percentile(values, 1.0)),
            ("p10", percentile(values, 0.1)),
            ("p50", percentile(values, 0.5)),
            ("p90", percentile(values, 0.9)),
        ] {
            self.set(format!("{prefix}/{name}"), value);
        }
    }

    /// One JSON object with every metric; what was not measured is `null`, what is not a number is a string.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let number = |v: f64| match v {
            v if v.is_nan() => Value::from("nan"),
            v if v.is_infinite() => Value::from(if v > 0.0 { "inf" } else { "-inf" }),
            v => Value::from(v),
        };
        let mut object = Map::from_iter([("step".to_owned(), Value::from(self.step))]);
        for metric in METRICS {
            object.insert(metric.name.into(), self.get(metric.name).map_or(Value::Null, number));
        }
        for (name, value) in &self.values {
            object.entry(name.clone()).or_insert_with(|| number(*value));
        }
        Value::Object(object)
    }
}

/// The value below which a share `q` of the values lies (nearest rank); `NaN` without values.
#[must_use]
pub fn percentile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let rank = (q * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// Peak resident memory of this process in MiB, where the system tells.
#[must_use]
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
