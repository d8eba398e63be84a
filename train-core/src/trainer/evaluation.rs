//! Held-out metrics.

use std::time::Instant;

use super::batch::score;
use super::{TrainError, Trainer};
use crate::config::Config;
use crate::data::TextCodec;
use crate::metrics::Row;
use crate::policy::Policy;
use crate::record;
use crate::reward::WeightedSum;
use crate::rollout::Sampler;
use crate::types::Prompt;

impl Trainer {
    pub(super) fn evaluate(&self, row: &mut Row) -> Result<(), TrainError> {
        let start = Instant::now();
        evaluate_into(row, &self.config, &self.sampler, &self.codec, self.source.held_out())?;
        row.set("time/eval", start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Held-out metrics (`eval/…`) of any model.
///
/// # Errors
/// When the sampler or the reward fails.
pub fn evaluate_model(
    config: &Config,
    model: &Policy,
    codec: &TextCodec,
    prompts: &[Prompt],
) -> Result<Row, TrainError> {
    let mut sampler = Sampler::new(config, codec);
    sampler.publish(model)?;
    let mut row = Row::new(0);
    evaluate_into(&mut row, config, &sampler, codec, prompts)?;
    Ok(row)
}

fn evaluate_into(
    row: &mut Row,
    config: &Config,
    sampler: &Sampler,
    codec: &TextCodec,
    prompts: &[Prompt],
) -> Result<(), TrainError> {
    let mut samples = sampler.evaluate(prompts, codec)?;
    if !samples.is_empty() {
        // Held-out prompts are scored by the same rules, outside the training rewarder's state.
        let mut rewarder = WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?;
        score(&mut rewarder, &mut samples)?;
        record::evaluation(row, &samples);
    }
    Ok(())
}
