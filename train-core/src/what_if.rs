//! What other objectives would have made of the batches that a run has logged.
//!
//! The rollout log holds the log-probabilities of sampler, old policy and the policy that was updated, so every objective
//! can be evaluated on the same tokens. Compared are the weights that tokens get (the coefficient of an objective over
//! that of plain REINFORCE with the same advantages and the same aggregation) and the gradients to the log-probabilities.
//!
//! Deliberately absent: gradients to the parameters, which need the weights of the step, and penalties on entropy and on
//! the divergence from a reference policy, which are the same for all.

use std::path::{Path, PathBuf};

use policy_loss::{
    Advantages, LossConfig, Normalizer, Objective, PRESETS, RewardBatch, SingletonPolicy, TokenBatch,
};
use serde::Deserialize;

use crate::config::{Config, ConfigError};
use crate::rundir::StorageError;
use crate::types::{RewardOutcome, SampleKey};

/// Why nothing can be said of a run.
#[derive(Debug, thiserror::Error)]
pub enum WhatIfError {
    /// A file.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The run's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A log that cannot be used.
    #[error("{}: {reason}", path.display())]
    Log {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// An objective refused.
    #[error("{objective}: {reason}")]
    Objective {
        /// Which.
        objective: String,
        /// Why.
        reason: String,
    },
}

/// A logged sample, as far as losses read it.
#[derive(Clone, Debug, Deserialize)]
struct Logged {
    key: SampleKey,
    logp_mu: Vec<f32>,
    #[serde(rename = "logp")]
    logp_old: Vec<f32>,
    #[serde(default)]
    logp_trained: Vec<f32>,
    reward: RewardOutcome,
}

/// The logged samples of one step.
#[derive(Clone, Debug, Default)]
pub struct LoggedBatch {
    offsets: Vec<usize>,
    logp: Vec<f32>,
    logp_old: Vec<f32>,
    logp_mu: Vec<f32>,
    rewards: Vec<f64>,
    groups: Vec<u32>,
}

/// What an objective makes of the tokens that have an advantage.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Its name.
    pub objective: String,
    /// Share of tokens without any gradient: clipped or rejected.
    pub stopped: f64,
    /// Share of tokens with a gradient of less than nine tenths of REINFORCE's.
    pub lowered: f64,
    /// Share of tokens with more than eleven tenths of it.
    pub raised: f64,
    /// Mean weight.
    pub weight: f64,
    /// Cosine of its gradient and that of the run's own objective.
    pub cosine: f64,
    /// Norm of its gradient over that of the run's own objective.
    pub norm: f64,
}

/// The logged batches of a run: of one step, or of all.
///
/// # Errors
/// When nothing was logged, a line cannot be read, or it was logged without the policy that was updated.
pub fn batches(run: &Path, step: Option<u64>) -> Result<Vec<LoggedBatch>, WhatIfError> {
    let dir = run.join("rollouts");
    let files = match step {
        Some(step) => vec![dir.join(format!("step-{step:06}.jsonl"))],
        None => {
            let entries = std::fs::read_dir(&dir).map_err(StorageError::at(&dir))?;
            let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
            files.retain(|p| p.extension().is_some_and(|e| e == "jsonl"));
            files.sort();
            files
        }
    };
    let batches: Vec<_> = files.iter().map(|file| batch(file)).collect::<Result<_, _>>()?;
    let batches: Vec<_> = batches.into_iter().filter(|b| !b.rewards.is_empty()).collect();
    if batches.is_empty() {
        let reason = "no samples were logged (log.rollout_groups)".into();
        return Err(WhatIfError::Log { path: dir, reason });
    }
    Ok(batches)
}

fn batch(file: &Path) -> Result<LoggedBatch, WhatIfError> {
    let text = std::fs::read_to_string(file).map_err(StorageError::at(file))?;
    let log = |reason: String| WhatIfError::Log { path: file.to_path_buf(), reason };
    let mut batch = LoggedBatch { offsets: vec![0], ..LoggedBatch::default() };
    let mut groups: Vec<(u64, u32)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let sample: Logged =
            serde_json::from_str(line).map_err(|e| log(format!("line {}: {e}", index + 1)))?;
        let tokens = sample.logp_mu.len();
        if sample.logp_trained.len() != tokens || sample.logp_old.len() != tokens {
            let reason = "has no log-probabilities of the policy that was updated (it did not train, or an older version logged it)";
            return Err(log(format!("line {}: {reason}", index + 1)));
        }
        let group = (sample.key.prompt, sample.key.epoch);
        let place = groups.iter().position(|known| *known == group).unwrap_or(groups.len());
        if place == groups.len() {
            groups.push(group);
        }
        batch.groups.push(place as u32);
        batch.rewards.push(sample.reward.total);
        batch.logp.extend(sample.logp_trained);
        batch.logp_old.extend(sample.logp_old);
        batch.logp_mu.extend(sample.logp_mu);
        batch.offsets.push(batch.logp.len());
    }
    Ok(batch)
}

/// Gradients of a configuration on a batch, and those of REINFORCE with its advantages and aggregation.
fn gradients(config: &Config, batch: &LoggedBatch) -> Result<(Vec<f64>, Vec<f64>), String> {
    let choice = config.loss_choice().map_err(|(key, reason)| format!("{key}: {reason}"))?;
    let rewards =
        RewardBatch { offsets: Some(&batch.offsets), ..RewardBatch::new(&batch.rewards, &batch.groups) };
    let estimate = choice.estimator.estimate(&rewards, SingletonPolicy::Zero).map_err(|e| e.to_string())?;
    let advantages: Vec<f32> =
        estimate.into_sequences().map_err(|e| e.to_string())?.iter().map(|a| *a as f32).collect();
    let tokens = TokenBatch {
        logp_old: Some(&batch.logp_old),
        logp_mu: Some(&batch.logp_mu),
        groups: Some(&batch.groups),
        ..TokenBatch::new(&batch.offsets, &batch.logp, Advantages::PerSequence(&advantages))
    };
    let plain = LossConfig::new(Objective::Reinforce {}, choice.loss.config().aggregation);
    let plain = plain.validate().map_err(|e| e.to_string())?;
    let of = |loss: &policy_loss::PolicyLoss| {
        let out = loss.evaluate(&tokens, &Normalizer::default()).map_err(|e| e.to_string())?;
        Ok::<_, String>(out.grad_logp.iter().map(|g| f64::from(*g)).collect::<Vec<f64>>())
    };
    Ok((of(&choice.loss)?, of(&plain)?))
}

/// The run's configuration with another objective and its own settings, without penalties.
fn with_objective(config: &Config, objective: &str) -> Config {
    let mut other = config.clone();
    if other.loss.objective != objective {
        other.loss.objective = objective.to_owned();
        other.loss.overrides.clear();
        other.loss.correction = "auto".into();
        other.advantage.estimator = "auto".into();
    }
    (other.loss.kl_coef, other.loss.entropy_coef) = (0.0, 0.0);
    other
}

/// Every objective on the same batches, the run's own first.
///
/// # Errors
/// When an objective refuses the batches.
pub fn what_if(config: &Config, batches: &[LoggedBatch]) -> Result<Vec<Judged>, WhatIfError> {
    let own = config.loss.objective.as_str();
    let names = std::iter::once(own).chain(PRESETS.into_iter().filter(|name| *name != own));
    let all = |objective: &str| {
        let other = with_objective(config, objective);
        let fault = |reason| WhatIfError::Objective { objective: objective.into(), reason };
        let (mut gradient, mut plain) = (Vec::new(), Vec::new());
        for batch in batches {
            let (g, p) = gradients(&other, batch).map_err(fault)?;
            gradient.extend(g);
            plain.extend(p);
        }
        Ok::<_, WhatIfError>((gradient, plain))
    };
    let (reference, _) = all(own)?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let size = dot(&reference, &reference).sqrt();
    names
        .map(|objective| {
            let (gradient, plain) = all(objective)?;
            let pairs = gradient.iter().zip(&plain).filter(|(_, p)| **p != 0.0);
            let weights: Vec<f64> = pairs.map(|(g, p)| g / p).collect();
            let share = |holds: &dyn Fn(f64) -> bool| {
                weights.iter().filter(|w| holds(**w)).count() as f64 / weights.len().max(1) as f64
            };
            let norm = dot(&gradient, &gradient).sqrt();
            Ok(Judged {
                objective: objective.to_owned(),
                stopped: share(&|w| w == 0.0),
                lowered: share(&|w| w != 0.0 && w < 0.9),
                raised: share(&|w| w > 1.1),
                weight: weights.iter().sum::<f64>() / weights.len().max(1) as f64,
                cosine: dot(&gradient, &reference) / (norm * size),
                norm: norm / size,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Layers;

    /// Two groups of two samples, two tokens each; the ratios of the first token of each sample as given.
    fn log(ratios: [f32; 4]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rollouts")).unwrap();
        let line = |(i, ratio): (usize, f32)| {
            serde_json::json!({
                "key": { "prompt": i / 2, "epoch": 0, "index": i % 2 }, "step": 1,
                "logp_mu": [-1.0, -2.0], "logp": [-1.0, -2.0], "logp_trained": [-1.0 + ratio.ln(), -2.0],
                "reward": { "total": if i % 2 == 0 { 1.0 } else { 0.0 }, "parts": {}, "exact": null },
            })
            .to_string()
        };
        let text: Vec<String> = ratios.into_iter().enumerate().map(line).collect();
        std::fs::write(dir.path().join("rollouts/step-000001.jsonl"), text.join("\n")).unwrap();
        dir
    }

    fn judged(ratios: [f32; 4], objective: &str) -> Vec<Judged> {
        let dir = log(ratios);
        let mut layers = Layers::defaults();
        layers.set(&format!("loss.objective={objective}"), "test").unwrap();
        what_if(&layers.resolve().unwrap(), &batches(dir.path(), None).unwrap()).unwrap()
    }

    #[test]
    fn clipping_stops_what_each_objective_says() {
        // Good samples rose by 1.5 and 1.25, bad ones fell to 0.5 and rose to 1.1.
        let all = judged([1.5, 0.5, 1.25, 1.1], "grpo");
        let of = |name: &str| all.iter().find(|j| j.objective == name).unwrap().clone();
        assert_eq!(all[0].objective, "grpo");
        assert!((of("grpo").cosine - 1.0).abs() < 1e-6 && (of("grpo").norm - 1.0).abs() < 1e-6);
        // Above 1.2 with A > 0 twice, below 0.8 with A < 0 once, of eight tokens.
        assert_eq!(of("grpo").stopped, 3.0 / 8.0);
        // MiniRL's upper bound is 1.27.
        assert_eq!(of("mini_rl").stopped, 2.0 / 8.0);
        // SAPO and CISPO drop nothing.
        assert_eq!((of("sapo").stopped, of("cispo").stopped), (0.0, 0.0));
        assert!((of("cispo").weight - (1.5 + 0.5 + 1.25 + 1.1 + 4.0) / 8.0).abs() < 1e-5);
        // GSPO's narrow bounds drop every token of a sequence that left them the way its advantage pushed.
        assert_eq!(of("gspo").stopped, 6.0 / 8.0);
        assert!(of("sapo").cosine > 0.5 && of("sapo").cosine < 1.0);
    }

    #[test]
    fn on_policy_all_agree_but_for_their_advantages_and_lengths() {
        for judged in judged([1.0; 4], "sapo") {
            assert_eq!((judged.stopped, judged.lowered, judged.raised), (0.0, 0.0, 0.0), "{judged:?}");
            assert!((judged.weight - 1.0).abs() < 1e-6 && judged.cosine > 0.999, "{judged:?}");
        }
    }

    #[test]
    fn a_log_that_does_not_do_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rollouts")).unwrap();
        assert!(batches(dir.path(), None).unwrap_err().to_string().contains("no samples were logged"));
        std::fs::write(
            dir.path().join("rollouts/step-000001.jsonl"),
            r#"{"key":{"prompt":0,"epoch":0,"index":0},"logp_mu":[-1.0],"logp":[-1.0],"reward":{"total":1,"parts":{},"exact":null}}"#,
        )
        .unwrap();
        let error = batches(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("step-000001.jsonl: line 1: has no log-probabilities"), "{error}");
    }
}
