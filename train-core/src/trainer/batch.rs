//! The batch of a step: rollouts, rewards, filtered groups, advantages.

use std::time::Instant;

use policy_loss::{RewardBatch, SingletonPolicy, dynamic_sampling_keep};

use super::{TrainError, Trainer};
use crate::config::{OnError, ZeroVariance};
use crate::metrics::Row;
use crate::record;
use crate::reward::{RewardError, Rewarder};
use crate::sample::Sample;
use crate::types::{Finish, Scored};

impl Trainer {
    /// Rolls out, scores and filters until the batch is full; also what is new about the data.
    pub(super) fn collect(&mut self, row: &mut Row) -> Result<(Vec<Sample>, Option<String>), TrainError> {
        let wanted = self.config.rollout.prompts;
        let most = (wanted as f64
            * if self.config.filter.dynamic { self.config.filter.max_extra } else { 1.0 })
            as usize;
        let (mut all, mut kept, mut groups, mut drawn) = (Vec::new(), Vec::new(), 0, 0);
        let (mut rollout, mut reward) = (0.0, 0.0);
        while groups < wanted && drawn < most {
            let count = (wanted - groups).min(most - drawn);
            let start = Instant::now();
            let prompts = self.source.next(count)?;
            let mut samples = self.sampler.sample(prompts, drawn as u32, &self.codec)?;
            rollout += start.elapsed().as_secs_f64();
            let start = Instant::now();
            score(self.rewarder.as_mut(), &mut samples)?;
            reward += start.elapsed().as_secs_f64();
            drawn += count;
            all.extend(samples.iter().cloned());
            let (survivors, number) = self.filter(samples)?;
            groups += number;
            kept.extend(survivors);
        }
        row.set("time/rollout", rollout);
        row.set("time/reward", reward);
        row.set("group/drawn", drawn as f64);
        row.set("group/kept", groups as f64);
        row.set("data/level", self.source.level());
        record::samples(row, &all)?;
        let outcomes: Vec<_> = all.iter().map(|s| (&*s.prompt, &s.reward)).collect();
        let news = self.source.observe(&outcomes);
        Ok((kept, news))
    }

    /// Leaves out samples that could not be scored and, as configured, groups without variance.
    fn filter(&self, samples: Vec<Sample>) -> Result<(Vec<Sample>, usize), TrainError> {
        let dropping = self.config.reward.on_error == OnError::Drop;
        let mut samples: Vec<Sample> =
            samples.into_iter().filter(|s| !dropping || s.reward.error.is_none()).collect();
        let rewards: Vec<f64> = samples.iter().map(|s| s.reward.total).collect();
        let groups: Vec<u32> = samples.iter().map(|s| s.group).collect();
        let varies = dynamic_sampling_keep(&rewards, &groups)?;
        if self.config.filter.zero_variance == ZeroVariance::Drop {
            samples.retain(|s| varies[&s.group]);
            return Ok((samples, varies.values().filter(|v| **v).count()));
        }
        Ok((samples, varies.len()))
    }

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
