//! Held-out metrics.

use std::io;
use std::time::Instant;

use super::batch::score;
use super::{TrainError, Trainer};
use crate::config::Config;
use crate::data::TextCodec;
use crate::gate::GateSetup;
use crate::interval::interval;
use crate::metrics::Row;
use crate::policy::Policy;
use crate::record;
use crate::reward::WeightedSum;
use crate::rollout::Sampler;
use crate::rundir::StorageError;
use crate::types::Prompt;

impl Trainer {
    pub(super) fn evaluate(&self, row: &mut Row) -> Result<(), TrainError> {
        let start = Instant::now();
        let (held_out, sampler) = (self.stages.source.held_out(), &self.stages.sampler);
        let rewards = evaluate_into(row, &self.config, sampler, &self.codec, held_out, true)?;
        self.compare_with_first(row, &rewards)?;
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

    /// What the rewards of held-out prompts gained over those before the first step, prompt by prompt.
    fn compare_with_first(&self, row: &mut Row, rewards: &[f64]) -> Result<(), TrainError> {
        if self.step == 0 {
            return Ok(self.dir.write(FIRST, &serde_json::json!(rewards).to_string())?);
        }
        let path = self.dir.file(FIRST);
        let text = match std::fs::read_to_string(&path) {
            // A run that was not measured before its first step.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(StorageError::at(&path))?,
        };
        let first: Vec<f64> = serde_json::from_str(&text)
            .map_err(|e| StorageError::at(&path)(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        if first.len() != rewards.len() {
            // The prompts were changed on resuming; these are others.
            return Ok(());
        }
        let gains: Vec<f64> = rewards.iter().zip(&first).map(|(now, then)| now - then).collect();
        if let Some((gain, half)) = interval(&gains) {
            row.set("eval/heldout/gain", gain);
            row.set("eval/heldout/gain_half", half.unwrap_or(f64::INFINITY));
        }
        Ok(())
    }
}

/// Rewards of the held-out prompts before the first step, in order.
const FIRST: &str = "heldout.json";

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
    let mut sampler = Sampler::new(config, codec).with_gate(gate).with_draft(config)?;
    sampler.publish(model, 0)?;
    let mut row = Row::new(0);
    evaluate_into(&mut row, config, &sampler, codec, prompts, true)?;
    Ok(row)
}

/// Sets the metrics, and gives the rewards.
fn evaluate_into(
    row: &mut Row,
    config: &Config,
    sampler: &Sampler,
    codec: &TextCodec,
    prompts: &[Prompt],
    gated: bool,
) -> Result<Vec<f64>, TrainError> {
    let mut samples = sampler.evaluate(prompts, codec, gated)?;
    if !samples.is_empty() {
        // Held-out prompts are scored by the same rules, outside the training rewarder's state.
        let mut rewarder = WeightedSum::new(&config.reward, config.rollout.max_new_tokens)?;
        score(&mut rewarder, &mut samples)?;
        record::evaluation(row, &samples);
    }
    Ok(samples.iter().map(|s| s.reward.total).collect())
}
