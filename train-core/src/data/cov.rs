//! Instances of `cov-eval` as prompts: made from the seed, as hard as the rewards so far say.

use std::collections::BTreeMap;

use cov_eval::{Curriculum, DetRng, Instance, InstanceKey, Split, TaskConfig, TaskId, task};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{DataError, PromptSource, TextCodec, beginning, prompt_tokens};
use crate::config::{Cov, Data};
use crate::types::{Images, Prompt, RewardOutcome};

/// `data.task` of this source.
pub const COV: &str = "cov";

/// The column with the id of an instance, from which a reward makes it again.
pub(crate) const INSTANCE: &str = "instance_id";
/// The column with the size its material was padded to; absent without padding.
pub(crate) const IN_TOKENS: &str = "in_tokens";

/// Instances of the split `train`; those held out are of the split `canary`, and never train.
pub struct CovSource {
    settings: Data,
    codec: TextCodec,
    asks: CovPrompt,
    tasks: Vec<TaskId>,
    weights: Vec<u64>,
    in_tokens: Option<u32>,
    seed: u64,
    /// The longest response, and the longest sequence of the model.
    room: (usize, usize),
    held_out: Vec<Prompt>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    next: u64,
    curricula: BTreeMap<TaskId, Curriculum>,
}

impl CovSource {
    /// Instances as `cov` says, `held_out` of them set apart at the first length and difficulty. `max_new` is the longest
    /// response, `context` the longest sequence of the model.
    ///
    /// # Errors
    /// When a setting has no meaning, or a held-out prompt is too long.
    pub fn new(
        settings: &Data,
        cov: &Cov,
        codec: &TextCodec,
        seed: u64,
        held_out: usize,
        max_new: usize,
        context: usize,
    ) -> Result<Self, DataError> {
        let mut source = Self {
            settings: settings.clone(),
            codec: codec.clone(),
            asks: CovPrompt::new(&settings.template)?,
            tasks: Vec::new(),
            weights: Vec::new(),
            in_tokens: (cov.in_tokens > 0).then_some(cov.in_tokens),
            seed,
            room: (max_new, context),
            held_out: Vec::new(),
            state: State { next: 0, curricula: BTreeMap::new() },
        };
        for (name, weight) in &cov.tasks {
            let id: TaskId = name.parse().map_err(|e| setting("cov.tasks", e))?;
            let weight = weight.as_integer().and_then(|w| u64::try_from(w).ok()).filter(|w| *w > 0);
            let weight =
                weight.ok_or_else(|| setting("cov.tasks", format!("the weight of {name} is no count")))?;
            let start = Curriculum::new(cov.lengths.clone(), cov.difficulty, cov.max_difficulty);
            let start = start.ok_or_else(|| {
                setting("cov", "expected a length, and 0 <= difficulty <= max_difficulty <= 3")
            })?;
            source.tasks.push(id);
            source.weights.push(weight);
            source.state.curricula.insert(id, start);
        }
        if source.tasks.is_empty() {
            return Err(setting("cov.tasks", "expected a task, such as { fsm = 1 }"));
        }
        for curriculum in source.state.curricula.values() {
            for &length in curriculum.lengths() {
                source
                    .key(source.tasks[0], Split::Train, length, cov.difficulty, 0)
                    .check()
                    .map_err(|e| setting("cov", e))?;
            }
        }
        source.held_out = source.prompts(Split::Canary, 0..held_out as u64)?;
        Ok(source)
    }

    fn key(&self, id: TaskId, split: Split, length: u32, difficulty: u8, index: u64) -> InstanceKey {
        let version = task(id).version();
        InstanceKey { task: id, version, split, length, difficulty, base_seed: self.seed, index }
    }

    /// The task of an index: drawn by the weights, from the seed alone.
    fn task_of(&self, split: Split, index: u64) -> TaskId {
        let text =
            format!("cov-eval/1\nsplit={split}\nbase_seed={}\nindex={index}\nstream=mixture\n", self.seed);
        let mut rng = DetRng::from_seed(Sha256::digest(text.as_bytes()).into());
        self.tasks[rng.pick_weighted(&self.weights)]
    }

    fn prompts(&self, split: Split, indices: std::ops::Range<u64>) -> Result<Vec<Prompt>, DataError> {
        let one = |index: u64| {
            let id = self.task_of(split, index);
            let (length, difficulty) = self.state.curricula[&id].current();
            let key = self.key(id, split, length, difficulty, index);
            let config = TaskConfig { in_tokens: self.in_tokens, ..TaskConfig::default() };
            let instance = task(id).generate(&key, &config).map_err(|e| setting("cov", e))?;
            self.prompt(index, &instance)
        };
        indices.into_par_iter().map(one).collect()
    }

    fn prompt(&self, id: u64, instance: &Instance) -> Result<Prompt, DataError> {
        let text = self.asks.text(instance)?;
        let tokens = prompt_tokens(&self.settings, &self.codec, &text)?;
        let (new, context) = self.room;
        if tokens.len() + new > context {
            return Err(DataError::TooLong {
                id,
                tokens: tokens.len(),
                new,
                context,
                text: beginning(&text),
            });
        }
        let mut columns = BTreeMap::from([(INSTANCE.to_owned(), Value::from(instance.id.as_str()))]);
        columns.extend(self.in_tokens.map(|n| (IN_TOKENS.to_owned(), Value::from(n))));
        Ok(Prompt {
            id,
            task: instance.key.task.to_string(),
            tokens,
            text,
            answer: Some(task(instance.key.task).oracle(instance)),
            images: Images::default(),
            follow_ups: Vec::new(),
            columns,
        })
    }
}

fn setting(key: &str, reason: impl std::fmt::Display) -> DataError {
    DataError::State(format!("{key}: {reason}"))
}

/// What a policy is asked: all of an instance's prompt, or what `data.template` makes of its `prompt` and `material`.
pub struct CovPrompt(Option<minijinja::Environment<'static>>);

impl CovPrompt {
    /// From `data.template`; all of the prompt, where that is empty.
    ///
    /// # Errors
    /// When it is no template.
    pub fn new(template: &str) -> Result<Self, DataError> {
        if template.is_empty() {
            return Ok(Self(None));
        }
        let mut environment = minijinja::Environment::new();
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        environment.add_template_owned("prompt", template.to_owned()).map_err(|e| setting(TEMPLATE, e))?;
        Ok(Self(Some(environment)))
    }

    /// The text for an instance.
    ///
    /// # Errors
    /// When the template asks for something else.
    pub fn text(&self, instance: &Instance) -> Result<String, DataError> {
        let Some(environment) = &self.0 else { return Ok(instance.prompt.user.clone()) };
        let columns = json!({ "prompt": instance.prompt.user, "material": instance.material() });
        let template = environment.get_template("prompt").map_err(|e| setting(TEMPLATE, e))?;
        template.render(minijinja::value::Serde(&columns)).map_err(|e| setting(TEMPLATE, e))
    }
}

const TEMPLATE: &str = "data.template";

impl PromptSource for CovSource {
    fn next(&mut self, count: usize) -> Result<Vec<(Prompt, u32)>, DataError> {
        let end = self.state.next + count as u64;
        let prompts = self.prompts(Split::Train, self.state.next..end)?;
        self.state.next = end;
        Ok(prompts.into_iter().map(|prompt| (prompt, 0)).collect())
    }

    fn observe(&mut self, outcomes: &[(&Prompt, &RewardOutcome)]) -> Option<String> {
        let before: Vec<_> = self.state.curricula.values().map(Curriculum::current).collect();
        for (prompt, outcome) in outcomes {
            if let Some(curriculum) =
                prompt.task.parse().ok().and_then(|id: TaskId| self.state.curricula.get_mut(&id))
            {
                curriculum.push(outcome.total as f32);
            }
        }
        let now = self.state.curricula.iter();
        let changed = now.zip(before).filter(|((_, curriculum), before)| curriculum.current() != *before);
        let news = changed.map(|((id, curriculum), _)| {
            let (length, difficulty) = curriculum.current();
            format!("{id}: difficulty {difficulty} at {length} tokens from now on")
        });
        Some(news.collect::<Vec<_>>().join("; ")).filter(|news| !news.is_empty())
    }

    fn held_out(&self) -> &[Prompt] {
        &self.held_out
    }

    /// Mean difficulty of the tasks.
    fn level(&self) -> f64 {
        let all = self.state.curricula.values();
        all.map(|c| f64::from(c.current().1)).sum::<f64>() / self.tasks.len() as f64
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<(), DataError> {
        let state: State =
            serde_json::from_value(state.clone()).map_err(|e| DataError::State(e.to_string()))?;
        let same = |(id, saved): (&TaskId, &Curriculum)| {
            self.state.curricula.get(id).is_some_and(|own| own.lengths() == saved.lengths())
        };
        if state.curricula.len() != self.state.curricula.len() || !state.curricula.iter().all(same) {
            return Err(DataError::State("other tasks or lengths than in [cov]".into()));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Config, Layers};

    fn config(changes: &[&str]) -> Config {
        let mut layers = Layers::defaults();
        layers.set("data.task=cov", "test").unwrap();
        changes.iter().for_each(|change| layers.set(change, "test").unwrap());
        layers.resolve().unwrap()
    }

    fn source(changes: &[&str]) -> Result<CovSource, DataError> {
        let config = config(changes);
        CovSource::new(&config.data, &config.cov, &TextCodec::bytes().unwrap(), 5, 12, 300, 4000)
    }

    fn outcome(total: f64) -> RewardOutcome {
        RewardOutcome { total, ..RewardOutcome::default() }
    }

    #[test]
    fn tasks_come_by_weight_and_held_out_ones_never_train() {
        let mut source = source(&["cov.tasks={ fsm = 3, kv_dict = 1 }"]).unwrap();
        let drawn = source.next(400).unwrap();
        let fsm = drawn.iter().filter(|(p, _)| p.task == "fsm").count();
        assert!((270..330).contains(&fsm), "{fsm}");
        for prompt in source.held_out() {
            assert!(prompt.columns[INSTANCE].as_str().unwrap().contains("/canary/256/d0/5/"));
            assert!(drawn.iter().all(|(p, _)| p.text != prompt.text));
        }
        let state = source.state();
        let next = source.next(9).unwrap();
        source.restore(&state).unwrap();
        assert_eq!(source.next(9).unwrap(), next);
    }

    #[test]
    fn rewards_move_the_curriculum() {
        let mut source = source(&["cov.max_difficulty=1", "cov.lengths=[256, 512]"]).unwrap();
        let step = |source: &mut CovSource, reward: f64| {
            let prompts = source.next(128).unwrap();
            let reward = outcome(reward);
            let outcomes: Vec<_> = prompts.iter().map(|(p, _)| (p, &reward)).collect();
            source.observe(&outcomes)
        };
        for _ in 0..3 {
            assert_eq!(step(&mut source, 0.9), None);
        }
        assert_eq!(step(&mut source, 0.9).unwrap(), "fsm: difficulty 1 at 256 tokens from now on");
        for _ in 0..3 {
            assert_eq!(step(&mut source, 0.9), None);
        }
        assert_eq!(step(&mut source, 0.9).unwrap(), "fsm: difficulty 1 at 512 tokens from now on");
        assert_eq!(source.level(), 1.0);
        let (prompt, _) = &source.next(1).unwrap()[0];
        assert!(prompt.columns[INSTANCE].as_str().unwrap().starts_with("fsm/v1/train/512/d1/"));
    }

    #[test]
    fn a_template_takes_the_material() {
        let mut source = source(&["data.template='{{ material }}\n=>'"]).unwrap();
        let (prompt, _) = source.next(1).unwrap().remove(0);
        assert!(prompt.text.starts_with("state | input | next | output\n") && prompt.text.ends_with("\n=>"));
    }

    #[test]
    fn bad_settings_are_named() {
        let message = |change: &str| source(&[change]).err().unwrap().to_string();
        assert!(message("cov.tasks={ fsn = 1 }").contains("unknown task \"fsn\"; known: "));
        assert!(message("cov.tasks={ fsm = 0 }").contains("cov.tasks: the weight of fsm is no count"));
        assert!(message("cov.tasks={}").contains("cov.tasks: expected a task"));
        assert!(message("cov.lengths=[100]").contains("length is 100, allowed are 256 to 32768"));
        assert!(message("cov.lengths=[]").contains("cov: expected a length"));
        assert!(message("cov.difficulty=3").contains("difficulty <= max_difficulty"));
        assert!(message("cov.in_tokens=10").contains("in_tokens is 10"));
        assert!(message("data.template='{{ nothing }}'").contains("data.template: "));
        assert!(
            message("data.template='{{ prompt }}{{ prompt }}{{ prompt }}'")
                .contains("more than the context of 4000")
        );
        let other = source(&["cov.tasks={ kv_dict = 1 }"]).unwrap().state();
        assert!(source(&[]).unwrap().restore(&other).is_err());
    }
}
