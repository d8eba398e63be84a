//! The batch of a step: rollouts, rewards, filtered groups, advantages.

use std::collections::BTreeMap;
use std::time::Instant;

use policy_loss::{RewardBatch, SingletonPolicy, dynamic_sampling_keep};
use serde::{Deserialize, Serialize};

use super::{TrainError, Trainer};
use crate::config::{Config, OnError, ZeroVariance};
use crate::data::{PromptSource, TextCodec};
use crate::metrics::Row;
use crate::record;
use crate::reward::{RewardError, Rewarder};
use crate::rollout::Sampler;
use crate::sample::Sample;
use crate::types::{Finish, Scored};

/// The stages before the update.
pub(super) struct Stages {
    pub(super) source: Box<dyn PromptSource>,
    pub(super) rewarder: Box<dyn Rewarder>,
    pub(super) sampler: Sampler,
}

/// A batch that awaits its update.
#[derive(Serialize, Deserialize)]
pub(super) struct Collected {
    pub(super) samples: Vec<Sample>,
    /// What was measured of it.
    pub(super) measured: Measured,
    /// What is new about the data.
    pub(super) news: Option<String>,
    /// Steps that had been done when it was sampled.
    pub(super) version: u64,
}

impl Stages {
    /// Rolls out, scores and filters until the batch is full.
    pub(super) fn collect(&mut self, config: &Config, codec: &TextCodec) -> Result<Collected, TrainError> {
        let mut row = Row::new(0);
        let wanted = config.rollout.prompts;
        let most =
            (wanted as f64 * if config.filter.dynamic { config.filter.max_extra } else { 1.0 }) as usize;
        let (mut all, mut kept, mut groups, mut drawn) = (Vec::new(), Vec::new(), 0, 0);
        let (mut rollout, mut reward) = (0.0, 0.0);
        while groups < wanted && drawn < most {
            let count = (wanted - groups).min(most - drawn);
            let start = Instant::now();
            let prompts = self.source.next(count)?;
            let mut samples = self.sampler.sample(prompts, drawn as u32, codec)?;
            rollout += start.elapsed().as_secs_f64();
            let start = Instant::now();
            score(self.rewarder.as_mut(), &mut samples)?;
            reward += start.elapsed().as_secs_f64();
            drawn += count;
            all.extend(samples.iter().cloned());
            let (survivors, number) = filter(config, samples)?;
            groups += number;
            kept.extend(survivors);
        }
        row.set("time/rollout", rollout);
        row.set("time/reward", reward);
        row.set("group/drawn", drawn as f64);
        row.set("group/kept", groups as f64);
        row.set("data/level", self.source.level());
        record::samples(&mut row, &all)?;
        if let Some(gate) = self.sampler.gate_setup() {
            gate.confusion(&all, &mut row)?;
        }
        let outcomes: Vec<_> = all.iter().map(|s| (&*s.prompt, &s.reward)).collect();
        let news = self.source.observe(&outcomes);
        Ok(Collected { samples: kept, measured: row.into(), news, version: self.sampler.version() })
    }
}

/// Leaves out samples that could not be scored and, as configured, groups without variance.
fn filter(config: &Config, samples: Vec<Sample>) -> Result<(Vec<Sample>, usize), TrainError> {
    let dropping = config.reward.on_error == OnError::Drop;
    let mut samples: Vec<Sample> =
        samples.into_iter().filter(|s| !dropping || s.reward.error.is_none()).collect();
    let rewards: Vec<f64> = samples.iter().map(|s| s.reward.total).collect();
    let groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
    let varies = dynamic_sampling_keep(&rewards, &groups)?;
    if config.filter.zero_variance == ZeroVariance::Drop {
        samples.retain(|s| varies[&s.group]);
        return Ok((samples, varies.values().filter(|v| **v).count()));
    }
    Ok((samples, varies.len()))
}

/// Metrics by name, in a form that keeps every bit of them.
#[derive(Serialize, Deserialize)]
pub(super) struct Measured(BTreeMap<String, u64>);

impl From<Row> for Measured {
    fn from(row: Row) -> Self {
        Self(row.values().map(|(name, value)| (name.to_owned(), value.to_bits())).collect())
    }
}

impl Measured {
    pub(super) fn put_into(self, row: &mut Row) {
        self.0.into_iter().for_each(|(name, bits)| row.set(name, f64::from_bits(bits)));
    }
}

impl Trainer {
    pub(super) fn assign_advantages(&self, samples: &mut [Sample]) -> Result<(), TrainError> {
        let rewards: Vec<f64> = samples.iter().map(|s| s.reward.total).collect();
        let groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        let mut offsets = vec![0];
        samples.iter().for_each(|s| offsets.push(offsets[offsets.len() - 1] + s.response.len()));
        let batch = RewardBatch { offsets: Some(&offsets), ..RewardBatch::new(&rewards, &groups) };
        let advantages = self.estimator.estimate(&batch, SingletonPolicy::Zero)?.into_sequences()?;
        for (sample, advantage) in samples.iter_mut().zip(advantages) {
            sample.advantage = advantage;
        }
        Ok(())
    }
}

/// Scores samples in place.
pub(super) fn score(rewarder: &mut dyn Rewarder, samples: &mut [Sample]) -> Result<(), RewardError> {
    let scored: Vec<Scored<'_>> = samples
        .iter()
        .map(|s| Scored {
            key: s.key,
            prompt: &s.prompt,
            response: &s.text,
            response_tokens: s.response.len(),
            finish: s.finish,
        })
        .collect();
    let outcomes = rewarder.score(&scored)?;
    for (sample, outcome) in samples.iter_mut().zip(outcomes) {
        sample.reward = outcome;
    }
    Ok(())
}

/// Whether a response was cut.
pub(crate) fn is_cut(sample: &Sample) -> bool {
    sample.finish == Finish::Length
}
