//! A user's own prompts, one JSON object a line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::Rng;
use rollout_engine::random::{Stream, keyed_rng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DataError, PromptSource, TextCodec, beginning, prompt_tokens};
use crate::config::{Data, TooLong};
use crate::types::{Images, Prompt};

/// Prompts of a file in shuffled epochs.
pub struct FileSource {
    prompts: Vec<Prompt>,
    held_out: Vec<Prompt>,
    shuffle: bool,
    seed: u64,
    /// Prompts dropped because they were too long.
    dropped: usize,
    state: State,
    order: Vec<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    epoch: u32,
    position: usize,
    prompts: usize,
}

/// One row of a data file: its columns by name.
pub type Columns = BTreeMap<String, Value>;

/// The rows of a JSON-lines file. Empty lines are skipped.
///
/// # Errors
/// When the file cannot be read, or a line is not a JSON object.
pub fn read_rows(path: &Path) -> Result<Vec<(usize, Columns)>, DataError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| DataError::Io { path: path.to_path_buf(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| match serde_json::from_str(line) {
            Ok(row) => Ok((i + 1, row)),
            Err(e) => Err(DataError::Line { path: path.to_path_buf(), line: i + 1, reason: e.to_string() }),
        })
        .collect()
}

struct Reader<'a> {
    settings: &'a Data,
    codec: &'a TextCodec,
    max_new: usize,
    context: usize,
    template: Option<minijinja::Environment<'a>>,
}

impl Reader<'_> {
    fn read(&self, path: &Path, dropped: &mut usize) -> Result<Vec<Prompt>, DataError> {
        let mut prompts = Vec::new();
        for (line, row) in read_rows(path)? {
            let fault = |reason: String| DataError::Line { path: path.to_path_buf(), line, reason };
            let prompt = self.prompt(prompts.len() as u64, row).map_err(fault)?;
            if prompt.tokens.len() + self.max_new <= self.context {
                prompts.push(prompt);
            } else if self.settings.too_long == TooLong::Drop {
                *dropped += 1;
            } else {
                return Err(DataError::TooLong {
                    id: prompt.id,
                    tokens: prompt.tokens.len(),
                    new: self.max_new,
                    context: self.context,
                    text: beginning(&prompt.text),
                });
            }
        }
        Ok(prompts)
    }

    fn prompt(&self, id: u64, mut columns: Columns) -> Result<Prompt, String> {
        let text = match &self.template {
            Some(environment) => {
                let template = environment.get_template("prompt").map_err(|e| e.to_string())?;
                template
                    .render(minijinja::value::Serde(&columns))
                    .map_err(|e| format!("data.template: {e}"))?
            }
            None => match columns.remove(&self.settings.prompt_column) {
                Some(Value::String(text)) => text,
                Some(other) => {
                    return Err(format!(
                        "column `{}` is {other}, expected a string",
                        self.settings.prompt_column
                    ));
                }
                None => {
                    let known: Vec<&str> = columns.keys().map(String::as_str).collect();
                    return Err(format!(
                        "no column `{}` (there are: {})",
                        self.settings.prompt_column,
                        known.join(", ")
                    ));
                }
            },
        };
        if text.is_empty() {
            return Err("the prompt is empty".into());
        }
        let answer = match columns.remove(&self.settings.answer_column) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        let tokens = prompt_tokens(self.settings, self.codec, &text).map_err(|e| e.to_string())?;
        Ok(Prompt { id, task: "data".into(), tokens, text, answer, images: Images::default(), columns })
    }
}

impl FileSource {
    /// Reads `settings.path` and holds out `settings.eval_path`, or a share of the file; at most `held_out` prompts
    /// of it are used. `context` is the longest sequence of the model.
    ///
    /// # Errors
    /// When a file cannot be read, a line is at fault, a prompt is too long, or nothing is left.
    pub fn new(
        settings: &Data,
        codec: &TextCodec,
        seed: u64,
        held_out: usize,
        max_new: usize,
        context: usize,
    ) -> Result<Self, DataError> {
        let template = if settings.template.is_empty() {
            None
        } else {
            let mut environment = minijinja::Environment::new();
            environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
            environment
                .add_template_owned("prompt", settings.template.clone())
                .map_err(|e| DataError::State(format!("data.template: {e}")))?;
            Some(environment)
        };
        let reader = Reader { settings, codec, max_new, context, template };
        let path = PathBuf::from(&settings.path);
        let mut dropped = 0;
        let mut prompts = reader.read(&path, &mut dropped)?;
        let mut kept_out = if settings.eval_path.is_empty() {
            // Every n-th prompt: the split does not depend on the seed.
            let share = settings.eval_share;
            let taken = |i: usize| ((i + 1) as f64 * share).floor() > (i as f64 * share).floor();
            let (out, train): (Vec<Prompt>, Vec<Prompt>) =
                prompts.into_iter().partition(|p| taken(p.id as usize));
            prompts = train;
            out
        } else {
            reader.read(Path::new(&settings.eval_path), &mut dropped)?
        };
        kept_out.truncate(held_out);
        if prompts.is_empty() {
            let detail = if dropped > 0 { format!(" ({dropped} were too long)") } else { String::new() };
            return Err(DataError::Empty { path, detail });
        }
        let mut source = Self {
            state: State { prompts: prompts.len(), ..State::default() },
            prompts,
            held_out: kept_out,
            shuffle: settings.shuffle,
            seed,
            dropped,
            order: Vec::new(),
        };
        source.order = source.order_of(0);
        Ok(source)
    }

    /// Prompts left out because they were too long.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    fn order_of(&self, epoch: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.prompts.len() as u32).collect();
        if self.shuffle {
            let mut rng = keyed_rng(self.seed, Stream::Data, [u64::from(epoch), 2]);
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
        }
        order
    }
}

impl PromptSource for FileSource {
    fn next(&mut self, count: usize) -> Result<Vec<(Prompt, u32)>, DataError> {
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            if self.state.position == self.prompts.len() {
                self.state.epoch += 1;
                self.state.position = 0;
                self.order = self.order_of(self.state.epoch);
            }
            let prompt = &self.prompts[self.order[self.state.position] as usize];
            out.push((prompt.clone(), self.state.epoch));
            self.state.position += 1;
        }
        Ok(out)
    }

    fn observe(&mut self, _: &[(&Prompt, bool)]) -> Option<String> {
        None
    }

    fn held_out(&self) -> &[Prompt] {
        &self.held_out
    }

    fn level(&self) -> f64 {
        f64::from(self.state.epoch)
    }

    fn state(&self) -> Value {
        serde_json::to_value(self.state).unwrap_or_default()
    }

    fn restore(&mut self, state: &Value) -> Result<(), DataError> {
        let state: State =
            serde_json::from_value(state.clone()).map_err(|e| DataError::State(e.to_string()))?;
        if state.prompts != self.prompts.len() || state.position > self.prompts.len() {
            return Err(DataError::State(format!(
                "the file had {} prompts, now {}",
                state.prompts,
                self.prompts.len()
            )));
        }
        self.state = state;
        self.order = self.order_of(state.epoch);
        Ok(())
    }
}
