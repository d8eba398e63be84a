//! An endless stream of generated problems, easy to hard.

use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DataError, PromptSource, Task, TextCodec};
use crate::config::Data;
use crate::types::Prompt;

/// One problem in so many is held out, by a hash of its text.
const HELD_OUT_ONE_IN: u64 = 8;

/// Generated prompts with a curriculum over sizes.
pub struct GeneratedSource {
    task: Task,
    name: String,
    codec: TextCodec,
    seed: u64,
    settings: Data,
    held_out: Vec<Prompt>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    next: u64,
    level: usize,
    streak: u32,
}

/// FNV-1a, so that what is held out is the same on every machine.
fn is_held_out(text: &str) -> bool {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 32).is_multiple_of(HELD_OUT_ONE_IN)
}

impl GeneratedSource {
    /// Problems of `settings.levels` digits; `held_out` of them, spread over all levels, never train.
    ///
    /// # Errors
    /// When the task is unknown or the codec lacks a character of it.
    pub fn new(settings: &Data, codec: TextCodec, seed: u64, held_out: usize) -> Result<Self, DataError> {
        let task = Task::by_name(&settings.task)
            .ok_or_else(|| DataError::State(format!("unknown task `{}`", settings.task)))?;
        let mut source = Self {
            task,
            name: settings.task.clone(),
            codec,
            seed,
            settings: settings.clone(),
            held_out: Vec::new(),
            state: State::default(),
        };
        source.held_out = (0..held_out as u64)
            .map(|id| {
                let level = settings.levels[id as usize % settings.levels.len()];
                source.prompt(Stream::Eval, id, level, true)
            })
            .collect::<Result<_, _>>()?;
        Ok(source)
    }

    /// The problem `id`: drawn until it is on the wanted side of the held-out split.
    fn prompt(&self, stream: Stream, id: u64, size: u32, held_out: bool) -> Result<Prompt, DataError> {
        let mut rng = keyed_rng(self.seed, stream, [id, 1]);
        let (mut text, mut answer) = self.task.generate(size, &mut rng);
        // Some tiny tasks have too few problems to split; then the draw stands.
        for _ in 0..1000 {
            if is_held_out(&text) == held_out {
                break;
            }
            (text, answer) = self.task.generate(size, &mut rng);
        }
        Ok(Prompt {
            id,
            task: self.name.clone(),
            tokens: self.codec.encode(&text)?,
            text,
            answer: Some(answer),
            columns: [("size".to_owned(), Value::from(size))].into(),
        })
    }
}

impl PromptSource for GeneratedSource {
    fn next(&mut self, count: usize) -> Result<Vec<(Prompt, u32)>, DataError> {
        let levels = &self.settings.levels;
        let prompts = (self.state.next..self.state.next + count as u64).map(|id| {
            let mut rng = keyed_rng(self.seed, Stream::Data, [id, 0]);
            let review = self.state.level > 0 && rng.random::<f64>() < self.settings.review_share;
            let level = if review { rng.random_range(0..self.state.level) } else { self.state.level };
            Ok((self.prompt(Stream::Data, id, levels[level], false)?, 0))
        });
        let prompts = prompts.collect::<Result<_, DataError>>()?;
        self.state.next += count as u64;
        Ok(prompts)
    }

    fn observe(&mut self, exact_rate: Option<f64>) -> Option<String> {
        let solved = exact_rate.is_some_and(|rate| rate >= self.settings.advance_at);
        self.state.streak = if solved { self.state.streak + 1 } else { 0 };
        if self.state.streak < self.settings.advance_after
            || self.state.level + 1 >= self.settings.levels.len()
        {
            return None;
        }
        self.state.level += 1;
        self.state.streak = 0;
        Some(format!("{}: {} digits from now on", self.name, self.settings.levels[self.state.level]))
    }

    fn held_out(&self) -> &[Prompt] {
        &self.held_out
    }

    fn level(&self) -> f64 {
        f64::from(self.settings.levels[self.state.level])
    }

    fn state(&self) -> Value {
        serde_json::to_value(self.state).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<(), DataError> {
        let state: State =
            serde_json::from_value(state.clone()).map_err(|e| DataError::State(e.to_string()))?;
        if state.level >= self.settings.levels.len() {
            return Err(DataError::State(format!("level {} of {}", state.level, self.settings.levels.len())));
        }
        self.state = state;
        Ok(())
    }
}
