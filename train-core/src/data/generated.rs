//! An endless stream of generated problems, easy to hard.

use qwen3::VlConfig;
use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shapes::Scene;
use super::turns::follow_up_tokens;
use super::{DataError, PromptSource, Task, TextCodec, prompt_tokens};
use crate::config::Data;
use crate::types::{Images, Prompt, RewardOutcome};

/// One problem in so many is held out, by a hash of its text.
const HELD_OUT_ONE_IN: u64 = 8;

/// Generated prompts with a curriculum over sizes.
pub struct GeneratedSource {
    task: Task,
    name: String,
    codec: TextCodec,
    vision: Option<VlConfig>,
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

/// The column of a generated prompt that holds its level's number of digits.
const SIZE: &str = "size";

/// FNV-1a with a final mix (short texts reach only its low bits), so that what is held out is the same on every
/// machine.
fn is_held_out(text: &str) -> bool {
    let hash =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32).is_multiple_of(HELD_OUT_ONE_IN)
}

impl GeneratedSource {
    /// Problems of `settings.levels` digits; `held_out` of them, spread over all levels, never train.
    ///
    /// # Errors
    /// When the task is unknown, the codec lacks a character of it, or it shows pictures and there is no `vision`.
    pub fn new(
        settings: &Data,
        codec: TextCodec,
        vision: Option<VlConfig>,
        seed: u64,
        held_out: usize,
    ) -> Result<Self, DataError> {
        let task = Task::by_name(&settings.task)
            .ok_or_else(|| DataError::State(format!("unknown task `{}`", settings.task)))?;
        let mut source = Self {
            task,
            name: settings.task.clone(),
            codec,
            vision,
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
        let mut problem = || {
            let (mut text, mut answer) = self.task.generate(size, &mut rng);
            // Some tiny tasks have too few problems to split; then the draw stands.
            for _ in 0..1000 {
                if is_held_out(&text) == held_out {
                    break;
                }
                (text, answer) = self.task.generate(size, &mut rng);
            }
            (text, answer)
        };
        let (text, answer) = problem();
        let (later, answers): (Vec<String>, Vec<String>) =
            (1..self.settings.turns).map(|_| problem()).unzip();
        let told = |text| follow_up_tokens(&self.settings, &self.codec, text);
        let follow_ups = later.iter().map(told).collect::<Result<_, _>>()?;
        let (tokens, images) = match (self.task, &self.vision) {
            (Task::Shapes, Some(vision)) => {
                let prompt = text.parse::<Scene>()?.prompt(&self.codec, vision)?;
                (prompt.tokens, Images::new(prompt.items))
            }
            (Task::Shapes, None) => {
                let reason = "data.task = \"shapes\" shows pictures: it needs a model with a vision tower, such as model.architecture = \"qwen3_vl\"";
                return Err(DataError::State(reason.into()));
            }
            _ => (prompt_tokens(&self.settings, &self.codec, &text)?, Images::default()),
        };
        Ok(Prompt {
            id,
            task: self.name.clone(),
            tokens,
            text: [vec![text], later].concat().join("\n"),
            answer: Some([vec![answer], answers].concat().join("\n")),
            follow_ups,
            images,
            columns: [(SIZE.to_owned(), Value::from(size))].into(),
        })
    }
}

impl PromptSource for GeneratedSource {
    fn next(&mut self, count: usize) -> Result<Vec<(Prompt, u32)>, DataError> {
        let levels = &self.settings.levels;
        let prompts = (self.state.next..self.state.next + count as u64).map(|id| {
            let mut rng = keyed_rng(self.seed, Stream::Data, [id, 0]);
            let mut level = self.state.level;
            let others = levels.len() - 1;
            if others > 0 && rng.random::<f64>() < self.settings.mix_share {
                let drawn = rng.random_range(0..others);
                level = if drawn < level { drawn } else { drawn + 1 };
            }
            Ok((self.prompt(Stream::Data, id, levels[level], false)?, 0))
        });
        let prompts = prompts.collect::<Result<_, DataError>>()?;
        self.state.next += count as u64;
        Ok(prompts)
    }

    fn observe(&mut self, outcomes: &[(&Prompt, &RewardOutcome)]) -> Option<String> {
        let size = Value::from(self.settings.levels[self.state.level]);
        let level: Vec<bool> = outcomes
            .iter()
            .filter(|(p, _)| p.columns.get(SIZE) == Some(&size))
            .map(|(_, outcome)| outcome.exact == Some(true))
            .collect();
        let right = level.iter().filter(|right| **right).count() as f64;
        let solved = !level.is_empty() && right >= self.settings.advance_at * level.len() as f64;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Layers;

    fn source(mix_share: f64) -> GeneratedSource {
        let mut settings = Layers::defaults().resolve().unwrap().data;
        (settings.levels, settings.mix_share, settings.advance_after) = (vec![2, 3, 4], mix_share, 2);
        GeneratedSource::new(&settings, TextCodec::characters("0123456789=").unwrap(), None, 7, 30).unwrap()
    }

    fn outcome(right: bool) -> RewardOutcome {
        RewardOutcome { exact: Some(right), ..RewardOutcome::default() }
    }

    /// Prompts by number of digits: 2, 3, 4.
    fn sizes(source: &mut GeneratedSource) -> [usize; 3] {
        let mut counts = [0; 3];
        for (prompt, _) in source.next(2000).unwrap() {
            counts[prompt.text.len() - 3] += 1;
        }
        counts
    }

    #[test]
    fn levels_are_mixed() {
        let mut source = source(0.2);
        let all_right = |source: &mut GeneratedSource| {
            let prompts = source.next(50).unwrap();
            let right = outcome(true);
            let outcomes: Vec<_> = prompts.iter().map(|(p, _)| (p, &right)).collect();
            source.observe(&outcomes)
        };
        let [two, three, four] = sizes(&mut source);
        assert!(
            (150..250).contains(&three) && (150..250).contains(&four) && two > 1500,
            "{two} {three} {four}"
        );
        assert_eq!(all_right(&mut source), None);
        assert_eq!(all_right(&mut source).unwrap(), "reverse: 3 digits from now on");
        let [two, three, four] = sizes(&mut source);
        assert!((150..250).contains(&two) && (150..250).contains(&four), "{two} {three} {four}");
        all_right(&mut source);
        all_right(&mut source);
        assert_eq!((source.level(), all_right(&mut source)), (4.0, None));
        let [two, three, four] = sizes(&mut source);
        assert!(
            (150..250).contains(&two) && (150..250).contains(&three) && four > 1500,
            "{two} {three} {four}"
        );
    }

    #[test]
    fn only_samples_of_the_level_itself_decide() {
        let mut source = source(0.5);
        for _ in 0..5 {
            let prompts = source.next(50).unwrap();
            let [wrong, right] = [outcome(false), outcome(true)];
            let outcomes: Vec<_> =
                prompts.iter().map(|(p, _)| (p, if p.text.len() == 4 { &right } else { &wrong })).collect();
            assert_eq!(source.observe(&outcomes), None);
        }
        assert_eq!(source.observe(&[]), None);
        assert_eq!(source.level(), 2.0);
    }

    #[test]
    fn held_out_problems_never_train_and_a_saved_place_is_found_again() {
        let mut source = source(0.2);
        let held_out: Vec<String> = source.held_out().iter().map(|p| p.text.clone()).collect();
        let short = |digits: usize| held_out.iter().filter(|t| t.len() == digits + 1).count();
        assert_eq!([short(2), short(3), short(4)], [10, 10, 10]);
        let drawn = source.next(500).unwrap();
        assert!(drawn.iter().all(|(p, _)| !held_out.contains(&p.text)));
        let state = source.state();
        let next = source.next(20).unwrap();
        source.restore(&state).unwrap();
        assert_eq!(source.next(20).unwrap(), next);
        assert!(source.restore(&serde_json::json!({ "next": 0, "level": 9, "streak": 0 })).is_err());
    }
}
