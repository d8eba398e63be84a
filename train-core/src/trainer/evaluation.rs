//! Held-out metrics.

use std::time::Instant;

use super::batch::score;
use super::{TrainError, Trainer};
use crate::config::Config;
use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::metrics::Row;
use crate::policy::Policy;
use crate::record;
use crate::reward::WeightedSum;
use crate::rollout::Sampler;
use crate::types::Prompt;

impl Trainer {
    pub(super) fn evaluate(&self, row: &mut Row) -> Result<(), TrainError> {
        let start = Instant::now();
        let (held_out, sampler) = (self.stages.source.held_out(), &self.stages.sampler);
        evaluate_into(row, &self.config, sampler, &self.codec, held_out, true)?;
        let gate = &self.config.gate;
        let number = self.step / self.config.eval.every.max(1);
        if gate.enabled && gate.eval_off_every > 0 && number.is_multiple_of(gate.eval_off_every) {
            let mut ungated = Row::new(row.step);
            evaluate_into(&mut ungated, &self.config, sampler, &self.codec, held_out, false)?;
            for (name, value) in ungated.values() {
                row.set(name.replacen("eval/", "eval_ungated/", 1), value);
            }
        }
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
    let gate = GateSetup::new(&config.gate, codec, model.config())?;
    let mut sampler = Sampler::new(config, codec).with_gate(gate);
    sampler.publish(model, 0)?;
    let mut row = Row::new(0);
    evaluate_into(&mut row, config, &sampler, codec, prompts, true)?;
    Ok(row)
}

fn evaluate_into(
    row: &mut Row,
    config: &Config,
    sampler: &Sampler,
    codec: &TextCodec,
    prompts: &[Prompt],
    gated: bool,
) -> Result<(), TrainError> {
    let mut samples = sampler.evaluate(prompts, codec, gated)?;
    if !samples.is_empty() {
        // Held-out prompts are scored by the same rules, outside the training rewarder's state.
        let mut rewarder = WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?;
        score(&mut rewarder, &mut samples)?;
        record::evaluation(row, &samples);
    }
    Ok(())
}
