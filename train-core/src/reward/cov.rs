//! `cov`: the verified score of a long-form answer, by the rules of `cov-eval`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use cov_eval::{
    Completion, FlagSet, Gate, Instance, InstanceKey, Reward, RewardForm, RewardModel, TaskConfig, task,
};
use rayon::prelude::*;

use super::part::Said;
use crate::data::{IN_TOKENS, INSTANCE};
use crate::types::{Finish, Prompt, Scored};

/// Instances that are kept for the next batch, at most.
const KEPT: usize = 4096;

/// Verifies answers against instances, which are made anew from the ids that prompts carry and kept for a while.
pub(super) struct Cov {
    model: RewardModel,
    instances: Mutex<HashMap<String, Arc<Instance>>>,
}

impl Cov {
    pub(super) fn new(form: RewardForm) -> Self {
        Self { model: RewardModel { form, ..RewardModel::default() }, instances: Mutex::default() }
    }

    pub(super) fn score(&self, samples: &[Scored<'_>]) -> Vec<Result<Said, String>> {
        let mut known = self.instances.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known.len() > KEPT {
            known.clear();
        }
        let mut fresh: Vec<&Prompt> = samples.iter().map(|s| s.prompt).collect();
        fresh.dedup_by_key(|prompt| prompt.id);
        fresh.retain(|prompt| id_of(prompt).is_ok_and(|id| !known.contains_key(id)));
        let made = fresh.par_iter().filter_map(|p| make(p).ok());
        known.extend(made.map(|i| (i.id.clone(), Arc::new(i))).collect::<Vec<_>>());
        let known = &*known;
        let one = |sample: &Scored<'_>| {
            let instance = match known.get(id_of(sample.prompt)?) {
                Some(instance) => instance.clone(),
                None => Arc::new(make(sample.prompt)?),
            };
            Ok(self.one(&instance, sample))
        };
        samples.par_iter().map(one).collect()
    }

    fn one(&self, instance: &Instance, sample: &Scored<'_>) -> Said {
        let completion = Completion {
            text: sample.response.as_bytes().to_vec(),
            reasoning: None,
            finish: match sample.finish {
                Finish::Stop => cov_eval::Finish::Stop,
                Finish::Length => cov_eval::Finish::Length,
            },
        };
        let reward = self.model.reward(instance, &completion);
        Said {
            value: reward.value.into(),
            exact: Some(reward.score == 1.0 && sample.finish == Finish::Stop),
            notes: notes(instance, &reward),
        }
    }
}

/// Score, components, why the gate closed, flags, and the length of prose against what was asked for.
fn notes(instance: &Instance, reward: &Reward) -> BTreeMap<String, f64> {
    let mut notes: BTreeMap<String, f64> = reward
        .parts
        .iter()
        .map(|(name, value)| (name.clone().into_owned(), f64::from(*value)))
        .chain(reward.flags.names().into_iter().map(|name| (format!("flag/{name}"), 1.0)))
        .collect();
    notes.insert("score".into(), reward.score);
    notes.insert("flagged".into(), f64::from(u8::from(reward.flags != FlagSet::default())));
    if reward.gate != Gate::Open {
        let gate = serde_json::to_value(reward.gate).unwrap_or_default();
        notes.insert(format!("gate/{}", gate.as_str().unwrap_or_default()), 1.0);
    }
    if let Some(target) = instance.budget.target_words.filter(|&words| words > 0) {
        notes.insert("length_ratio".into(), reward.words as f64 / f64::from(target));
    }
    notes
}

fn id_of(prompt: &Prompt) -> Result<&str, String> {
    let id = prompt.columns.get(INSTANCE).and_then(serde_json::Value::as_str);
    id.ok_or_else(|| format!("prompt {} has no column `{INSTANCE}`; data.task = \"cov\" gives it", prompt.id))
}

fn make(prompt: &Prompt) -> Result<Instance, String> {
    let key = InstanceKey::from_id(id_of(prompt)?).map_err(|e| e.to_string())?;
    let in_tokens = prompt.columns.get(IN_TOKENS).and_then(serde_json::Value::as_u64);
    let config = TaskConfig { in_tokens: in_tokens.map(|n| n as u32), ..TaskConfig::default() };
    task(key.task).generate(&key, &config).map_err(|e| e.to_string())
}
