//! What is written of a step: metrics of its samples and its update, and the samples themselves.

use std::collections::BTreeMap;

use lcg::record::GateMetrics;
use serde_json::json;

use crate::data::{DataError, TextCodec};
use crate::learner::UpdateReport;
use crate::metrics::{Row, peak_memory_mib, percentile};
use crate::reward::RewardError;
use crate::sample::Sample;
use crate::trainer::is_cut;
use crate::types::{Finish, Prompt, SampleKey};

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

fn exact_rate<'a>(samples: impl Iterator<Item = &'a Sample>) -> Option<f64> {
    mean(samples.filter_map(|s| s.reward.exact).map(|e| f64::from(u8::from(e))))
}

/// Rewards, groups, lengths and entropies of everything that was rolled out.
pub(crate) fn samples(row: &mut Row, samples: &[Sample]) -> Result<(), RewardError> {
    let scored: Vec<&Sample> = samples.iter().filter(|s| s.reward.error.is_none()).collect();
    row.distribution("reward", &scored.iter().map(|s| s.reward.total).collect::<Vec<_>>());
    row.set("reward/errors", (samples.len() - scored.len()) as f64);
    if let Some(rate) = exact_rate(scored.iter().copied()) {
        row.set("reward/exact_rate", rate);
    }
    let mut parts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in scored.iter().flat_map(|s| &s.reward.parts) {
        parts.entry(name).or_default().push(*value);
    }
    for (name, values) in parts {
        row.set(format!("reward/part/{name}"), values.iter().sum::<f64>() / values.len() as f64);
    }
    noted(row, "reward", &scored);
    let mut groups: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    scored.iter().for_each(|s| groups.entry(s.group).or_default().push(s.reward.total));
    let stds: Vec<f64> = groups
        .values()
        .map(|r| {
            let mean = r.iter().sum::<f64>() / r.len() as f64;
            (r.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / r.len() as f64).sqrt()
        })
        .collect();
    if let Some(zero) = mean(stds.iter().map(|s| f64::from(u8::from(*s < 1e-9)))) {
        row.set("group/zero_std_share", zero);
    }
    if let Some(std) = mean(stds.iter().copied()) {
        row.set("group/mean_std", std);
    }
    let lengths: Vec<f64> = samples.iter().map(|s| s.response.len() as f64).collect();
    if let Some(mean) = mean(lengths.iter().copied()) {
        row.set("len/response_mean", mean);
        row.set("len/response_p95", percentile(&lengths, 0.95));
        row.set("len/response_max", percentile(&lengths, 1.0));
        row.set(
            "len/truncated_share",
            samples.iter().filter(|s| is_cut(s)).count() as f64 / lengths.len() as f64,
        );
    }
    let entropies: Vec<f64> = samples.iter().flat_map(|s| &s.entropy).map(|h| f64::from(*h)).collect();
    if let Some(entropy) = mean(entropies.iter().copied()) {
        row.set("policy/entropy", entropy);
        row.set("policy/entropy_p10", percentile(&entropies, 0.1));
    }
    let mut gate = GateMetrics::default();
    samples.iter().filter_map(|s| s.gate.as_ref()).for_each(|trace| gate.merge(&trace.metrics));
    for (name, value) in gate.entries().into_iter().flatten() {
        row.set(name, value);
    }
    let ratio = |(unmasked, drawn): (&f32, &f32)| (f64::from(*unmasked) - f64::from(*drawn)).exp();
    let gated = samples.iter().filter_map(|s| Some((s.gate.as_ref()?, s)));
    if let Some(ratio) =
        mean(gated.flat_map(|(gate, s)| gate.unmasked_logps.iter().zip(&s.logp_mu).map(ratio)))
    {
        row.set("lcg/unmasked_ratio", ratio);
    }
    if let Some(logp) = mean(samples.iter().flat_map(|s| &s.logp_mu).map(|l| f64::from(*l))) {
        row.set("policy/logp_mean", logp);
    }
    Ok(())
}

/// Means over the samples of each task of what parts noted, as `<prefix>/<task>/<note>`; a note that is absent is 0.
fn noted(row: &mut Row, prefix: &str, samples: &[&Sample]) {
    let mut tasks: BTreeMap<&str, (f64, BTreeMap<&str, f64>)> = BTreeMap::new();
    for sample in samples.iter().filter(|s| !s.reward.notes.is_empty()) {
        let (count, sums) = tasks.entry(&sample.prompt.task).or_default();
        *count += 1.0;
        for (note, value) in &sample.reward.notes {
            *sums.entry(note).or_default() += value;
        }
    }
    for (task, (count, sums)) in tasks {
        for (note, sum) in sums {
            row.set(format!("{prefix}/{task}/{note}"), sum / count);
        }
    }
}

impl Row {
    /// What the learner did.
    pub fn update(&mut self, report: &UpdateReport) {
        update(self, report);
    }
}

fn update(row: &mut Row, report: &UpdateReport) {
    row.loss(&report.metrics);
    let (gap, flips) = (&report.mismatch, &report.flips);
    for (name, value) in [
        ("mismatch/mean_abs", gap.mean_abs()),
        ("mismatch/max_abs", gap.max_abs()),
        ("mismatch/k1", gap.k1()),
        ("mismatch/k3", gap.k3()),
        ("mismatch/flip_tokens", flips.token_any_mismatch()),
        ("mismatch/flip_share", flips.exact_match().map(|m| 1.0 - m)),
        ("policy/ess", report.drift.ess()),
        ("route/coverage", report.coverage.and_then(|c| c.share())),
        ("route/fallback_rows", report.coverage.map(|c| c.fallback_rows as f64)),
    ] {
        if let Some(value) = value {
            row.set(name, value);
        }
    }
    for (layer, agreement) in report.discrepancy.exact_match_by_layer().into_iter().enumerate() {
        if let Some(agreement) = agreement {
            row.set(format!("route/flips_layer_{layer}"), 1.0 - agreement);
        }
    }
    if report.leak[1] > 0.0 {
        row.set("lcg/leak", report.leak[0] / report.leak[1]);
    }
    row.set("optim/loss", report.loss);
    row.set("optim/lr", report.lr);
    if let Some(norm) = mean(report.grad_norms.iter().copied()) {
        row.set("optim/grad_norm", norm);
    }
    let routes = &report.discrepancy;
    for (name, value) in [
        ("agreement", routes.exact_match()),
        ("overlap", routes.overlap()),
        ("token_any_mismatch", routes.token_any_mismatch()),
        ("layers_mismatched", routes.layers_mismatched()),
        ("gate_tv", routes.gate_tv()),
        ("margin_p1", routes.margin(0.01)),
        ("margin_p50", routes.margin(0.5)),
    ] {
        if let Some(value) = value {
            row.set(format!("route/{name}"), value);
        }
    }
    if let Some((imbalance, dead)) = report.load {
        row.set("route/load_imbalance", imbalance);
        row.set("route/dead_experts", dead);
    }
    let [logp, forward, backward, optimizer] = report.seconds;
    for (name, seconds) in
        [("logp", logp), ("forward", forward), ("backward", backward), ("optimizer", optimizer)]
    {
        row.set(format!("time/{name}"), seconds);
    }
    if forward + backward > 0.0 {
        row.set("perf/train_tokens_per_s", report.tokens as f64 / (forward + backward));
    }
}

/// Speed and memory of the whole step.
pub(crate) fn totals(row: &mut Row, samples: &[Sample], seconds: f64) {
    row.set("time/total", seconds);
    row.set("perf/samples_per_s", samples.len() as f64 / seconds);
    if let Some(rollout) = row.get("time/rollout").filter(|s| *s > 0.0) {
        let tokens: usize = samples.iter().map(|s| s.response.len()).sum();
        row.set("perf/rollout_tokens_per_s", tokens as f64 / rollout);
    }
    if let Some(peak) = peak_memory_mib() {
        row.set("mem/peak_mib", peak);
    }
}

/// Held-out results, whole and by problem size where there are several.
pub(crate) fn evaluation(row: &mut Row, samples: &[Sample]) {
    let all: Vec<&Sample> = samples.iter().collect();
    noted(row, "eval", &all);
    let mut set = |name: &str, of: &[&Sample]| {
        if let Some(rate) = exact_rate(of.iter().copied()) {
            row.set(format!("eval/{name}/exact"), rate);
        }
        if let Some(reward) = mean(of.iter().map(|s| s.reward.total)) {
            row.set(format!("eval/{name}/reward"), reward);
        }
        if let Some(length) = mean(of.iter().map(|s| s.response.len() as f64)) {
            row.set(format!("eval/{name}/length"), length);
        }
    };
    set("heldout", &all);
    let mut sizes: BTreeMap<u64, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        if let Some(size) = sample.prompt.columns.get("size").and_then(serde_json::Value::as_u64) {
            sizes.entry(size).or_default().push(sample);
        }
    }
    if sizes.len() > 1 {
        for (size, of) in sizes {
            set(&format!("size-{size}"), &of);
        }
    }
}

/// The rollout log: one sample a line, of the first `groups` groups.
pub(crate) fn rollouts(samples: &[Sample], step: u64, groups: usize, codec: &TextCodec) -> String {
    let mut seen: Vec<u32> = Vec::new();
    let mut text = String::new();
    for s in samples {
        if !seen.contains(&s.group) {
            if seen.len() == groups {
                break;
            }
            seen.push(s.group);
        }
        let mut line = json!({
            "key": s.key,
            "step": step,
            "version": s.version,
            "task": s.prompt.task,
            "prompt": s.prompt.text,
            "answer": s.prompt.answer,
            "response": s.text,
            "tokens": s.response,
            "observations": s.observations,
            "pieces": s.response.iter().map(|t| codec.piece(*t)).collect::<Vec<_>>(),
            "logp_mu": s.logp_mu,
            "logp": s.logp_old,
            "logp_trained": s.logp_trained,
            "entropy": s.entropy,
            "reward": s.reward,
            "advantage": s.advantage,
            "finish": s.finish,
        });
        if let Some(gate) = &s.gate {
            line["denied"] = gate.masks.denied().map(|d| d.0).collect();
            line["logp_unmasked"] = gate.unmasked_logps.clone().into();
        }
        text.push_str(&format!("{line}\n"));
    }
    text
}

/// Right answers as samples, for supervised steps.
pub(crate) fn demonstrations(
    prompts: Vec<(Prompt, u32)>,
    codec: &TextCodec,
) -> Result<Vec<Sample>, DataError> {
    let stop = codec.stop_tokens()[0];
    prompts
        .into_iter()
        .enumerate()
        .map(|(i, (prompt, epoch))| {
            let fault = |reason| DataError::State(format!("warm_start: prompt {} {reason}", prompt.id));
            let answer = prompt.answer.clone().ok_or_else(|| fault("has no answer".into()))?;
            let turn = |text: &str| -> Result<_, DataError> {
                let mut tokens = codec.encode(text)?;
                tokens.push(stop);
                Ok(rollout_engine::Generation {
                    request: i as u64,
                    sample: 0,
                    logps: Vec::new(),
                    truncated_logps: Vec::new(),
                    entropies: Vec::new(),
                    tokens,
                    finish: Finish::Stop,
                    routes: None,
                    gate: None,
                })
            };
            let key = SampleKey { prompt: prompt.id, epoch, index: 0 };
            if prompt.turns() == 1 {
                let only = turn(&answer)?;
                return Ok(Sample::new(key, std::sync::Arc::new(prompt), i as u32, answer, only));
            }
            let lines: Vec<&str> = answer.split('\n').collect();
            if lines.len() != prompt.turns() {
                let (lines, turns) = (lines.len(), prompt.turns());
                return Err(fault(format!(
                    "has {turns} turns and an answer of {lines} lines: one for each is needed"
                )));
            }
            let prompt = std::sync::Arc::new(prompt);
            let mut sample = Sample::new(key, prompt.clone(), i as u32, lines[0].to_owned(), turn(lines[0])?);
            for (told, line) in prompt.follow_ups.iter().zip(&lines[1..]) {
                sample.add_turn(told.clone(), line, turn(line)?);
            }
            Ok(sample)
        })
        .collect()
}
