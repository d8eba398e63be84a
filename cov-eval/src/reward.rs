//! Scores as rewards.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use crate::flags::FlagSet;
use crate::intake::{Completion, Intake, IntakeConfig};
use crate::model::{Gate, Instance};
use crate::tasks::task;

/// What of a verification is the reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardForm {
    /// The training score: mostly the score, and for a tenth the mean of its components.
    #[default]
    Dense,
    /// The evaluation score.
    Score,
    /// `0.8 · score + 0.2` for a perfect answer, else `0.8 · score`.
    Bonus,
}

/// How answers become rewards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RewardModel {
    /// What the reward is.
    pub form: RewardForm,
    /// How answers are read.
    pub intake: IntakeConfig,
}

/// The reward of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reward {
    /// 0 to 1.
    pub value: f32,
    /// The evaluation score.
    pub score: f64,
    /// What the score is made of, multipliers included.
    pub parts: Vec<(Cow<'static, str>, f32)>,
    /// The credit of each constraint.
    pub per_constraint: Vec<f32>,
    /// Whether the answer was refused as a whole.
    pub gate: Gate,
    /// What was noticed.
    pub flags: FlagSet,
    /// Words of the visible text.
    pub words: usize,
}

impl RewardModel {
    /// The reward of one answer. A function of its arguments alone: no clock, no judge, no state.
    pub fn reward(&self, instance: &Instance, completion: &Completion) -> Reward {
        let found = task(instance.key.task).verify(instance, &Intake::new(completion, &self.intake));
        let value = match self.form {
            RewardForm::Dense => found.dense,
            RewardForm::Score => found.score,
            RewardForm::Bonus => 0.8 * found.score + if found.score == 1.0 { 0.2 } else { 0.0 },
        };
        let parts = found.components.into_iter().chain(found.multipliers);
        Reward {
            value: value as f32,
            score: found.score,
            parts: parts.map(|(name, value)| (name, value as f32)).collect(),
            per_constraint: found.verdicts.iter().map(|v| v.credit as f32).collect(),
            gate: found.gate,
            flags: found.flags,
            words: found.stats.words,
        }
    }

    /// Rewards in the order of `items`, computed in rayon's pool.
    pub fn reward_batch(&self, items: &[(&Instance, &Completion)]) -> Vec<Reward> {
        items.par_iter().map(|(instance, completion)| self.reward(instance, completion)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceKey, Split, TaskConfig, TaskId};

    #[test]
    fn forms_and_batches() {
        let mut items = Vec::new();
        for &id in TaskId::ALL {
            for index in 0..8 {
                let version = task(id).version();
                let key = InstanceKey {
                    task: id,
                    version,
                    split: Split::Train,
                    length: 256,
                    difficulty: 0,
                    base_seed: 0,
                    index,
                };
                let instance = task(id).generate(&key, &TaskConfig::default()).unwrap();
                let oracle = task(id).oracle(&instance);
                let mut cut = oracle.floor_char_boundary(oracle.len() * index as usize / 7);
                if id == TaskId::CodeFix && cut < oracle.len() {
                    // Half a function does not parse.
                    cut = oracle[..cut].rfind("\n\n\n").unwrap_or(0);
                }
                items.push((instance, Completion::from(&oracle[..cut])));
            }
        }
        let borrowed: Vec<_> = items.iter().map(|(i, c)| (i, c)).collect();
        let models = [RewardForm::Dense, RewardForm::Score, RewardForm::Bonus]
            .map(|form| RewardModel { form, ..RewardModel::default() });
        for model in &models {
            let batch = model.reward_batch(&borrowed);
            for ((instance, completion), reward) in borrowed.iter().zip(&batch) {
                assert_eq!(*reward, model.reward(instance, completion));
                assert!((0.0..=1.0).contains(&reward.value));
                assert_eq!(reward.value == 1.0, reward.score == 1.0, "{}", instance.id);
                assert_eq!(reward.per_constraint.len(), instance.constraints.len());
            }
            for group in batch.chunks(8) {
                assert_eq!((group[0].value, group[7].value), (0.0, 1.0));
                // A dictionary may lack its pinned entry: only the training score credits the others.
                let credited = model.form != RewardForm::Dense || group[5].value > 0.0;
                assert!(credited && group[5].value < 1.0, "{}", group[5].value);
            }
        }
        // A bonus is for perfection only.
        let part = models[2].reward(borrowed[5].0, borrowed[5].1);
        assert!((f64::from(part.value) - 0.8 * part.score).abs() < 1e-6);
    }
}
