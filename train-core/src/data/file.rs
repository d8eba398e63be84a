//! A user's own prompts, one JSON object a line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::Rng;
use rayon::prelude::*;
use rollout_engine::random::{Stream, keyed_rng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::turns::{follow_up_tokens, later_turns};
use super::visual::{files_of, message_with, take_files, text_of};
use super::{
    DataError, Media, MediaFile, PromptSource, TextCodec, beginning, conversation_tokens, prompt_tokens,
};
use crate::chat::message;
use crate::config::{Data, TooLong};
use crate::types::{Images, Prompt, RewardOutcome};

/// Prompts of a file in shuffled epochs. Images and videos are read anew whenever a prompt is drawn: only those of the
/// held-out prompts stay in memory.
pub struct FileSource {
    prompts: Vec<Row>,
    held_out: Vec<Prompt>,
    codec: TextCodec,
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

/// A prompt without its images and videos.
#[derive(Clone)]
struct Row {
    prompt: Prompt,
    files: Vec<MediaFile>,
    /// Its tokens with one placeholder for each file.
    template: Vec<u32>,
}

impl Row {
    /// The prompt as the model reads it.
    fn load(&self, codec: &TextCodec) -> Result<Prompt, DataError> {
        let mut prompt = self.prompt.clone();
        if !self.files.is_empty() {
            let media = Media::read(&self.files, codec.processor()?)?;
            (prompt.tokens, prompt.images) = codec.with_media(self.template.clone(), &media)?;
        }
        Ok(prompt)
    }
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

/// What a row asks.
enum Question {
    Text(String),
    Messages(Vec<Value>),
}

impl Reader<'_> {
    fn read(&self, path: &Path, dropped: &mut usize) -> Result<Vec<Row>, DataError> {
        let dir = path.parent().unwrap_or(Path::new(""));
        let rows: Vec<Result<Row, DataError>> = read_rows(path)?
            .into_par_iter()
            .map(|(line, columns)| {
                let fault = |reason: String| DataError::Line { path: path.to_path_buf(), line, reason };
                self.row(dir, columns).map_err(fault)
            })
            .collect();
        let mut kept = Vec::new();
        for row in rows {
            let mut row = row?;
            row.prompt.id = kept.len() as u64;
            let prompt = &row.prompt;
            let new = prompt.turns() * self.max_new;
            if prompt.put() + new <= self.context {
                kept.push(row);
            } else if self.settings.too_long == TooLong::Drop {
                *dropped += 1;
            } else {
                return Err(DataError::TooLong {
                    id: prompt.id,
                    tokens: prompt.put(),
                    new,
                    context: self.context,
                    text: beginning(&prompt.text),
                });
            }
        }
        Ok(kept)
    }

    /// Reads everything once, so that a broken file is found before the run starts; its pixels are let go.
    fn row(&self, dir: &Path, mut columns: Columns) -> Result<Row, String> {
        let files = |kind, name: &String| files_of(kind, columns.get(name), dir);
        let images = files("image", &self.settings.image_column)?;
        let videos = files("video", &self.settings.video_column)?;
        let (text, files, template) = match self.question(&mut columns)? {
            Question::Text(text) => {
                let files: Vec<MediaFile> = images.into_iter().chain(videos).collect();
                let template = self.tokens(&text, &files).map_err(|e| e.to_string())?;
                (text, files, template)
            }
            Question::Messages(mut messages) => {
                let files = take_files(&mut messages, dir, images, videos)?;
                let text = text_of(&messages);
                if !self.settings.system.is_empty() {
                    messages.insert(0, message("system", &self.settings.system));
                }
                let template = conversation_tokens(self.settings, self.codec, messages);
                (text, files, template.map_err(|e| e.to_string())?)
            }
        };
        if text.is_empty() {
            return Err("the prompt is empty".into());
        }
        let told = later_turns(&mut columns, &self.settings.turns_column)?;
        let follow_up = |text| follow_up_tokens(self.settings, self.codec, text).map_err(|e| e.to_string());
        let follow_ups = told.iter().map(follow_up).collect::<Result<_, _>>()?;
        let text = [vec![text], told].concat().join("\n");
        let answer = match columns.remove(&self.settings.answer_column) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        let tokens = template.clone();
        let prompt = Prompt {
            id: 0,
            task: "data".into(),
            tokens,
            text,
            answer,
            follow_ups,
            images: Images::default(),
            columns,
        };
        let mut row = Row { prompt, files, template };
        row.prompt.tokens = row.load(self.codec).map_err(|e| e.to_string())?.tokens;
        Ok(row)
    }

    /// The tokens of a text behind its images and videos.
    fn tokens(&self, text: &str, files: &[MediaFile]) -> Result<Vec<u32>, DataError> {
        if files.is_empty() {
            return prompt_tokens(self.settings, self.codec, text);
        }
        if !self.settings.chat {
            return Ok([self.codec.placeholders(files)?, self.codec.encode(text)?].concat());
        }
        let system = (!self.settings.system.is_empty()).then(|| message("system", &self.settings.system));
        let messages = system.into_iter().chain([message_with(files, text)]).collect();
        conversation_tokens(self.settings, self.codec, messages)
    }

    fn question(&self, columns: &mut Columns) -> Result<Question, String> {
        if let Some(environment) = &self.template {
            let template = environment.get_template("prompt").map_err(|e| e.to_string())?;
            let text = template.render(minijinja::value::Serde(&columns));
            return text.map(Question::Text).map_err(|e| format!("data.template: {e}"));
        }
        let name = &self.settings.prompt_column;
        match columns.remove(name) {
            Some(Value::String(text)) => Ok(Question::Text(text)),
            Some(Value::Array(messages)) if self.settings.chat => Ok(Question::Messages(messages)),
            Some(Value::Array(_)) => {
                Err(format!("column `{name}` is a conversation, which takes data.chat = true"))
            }
            Some(other) => Err(format!("column `{name}` is {other}, expected a string")),
            None => {
                let known: Vec<&str> = columns.keys().map(String::as_str).collect();
                Err(format!("no column `{name}` (there are: {})", known.join(", ")))
            }
        }
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
            let (out, train): (Vec<Row>, Vec<Row>) =
                prompts.into_iter().partition(|row| taken(row.prompt.id as usize));
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
        let held_out: Result<Vec<Prompt>, DataError> =
            kept_out.par_iter().map(|row| row.load(codec)).collect();
        let mut source = Self {
            state: State { prompts: prompts.len(), ..State::default() },
            prompts,
            held_out: held_out?,
            codec: codec.clone(),
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
        let mut out: Vec<(usize, u32)> = Vec::with_capacity(count);
        while out.len() < count {
            if self.state.position == self.prompts.len() {
                self.state.epoch += 1;
                self.state.position = 0;
                self.order = self.order_of(self.state.epoch);
            }
            out.push((self.order[self.state.position] as usize, self.state.epoch));
            self.state.position += 1;
        }
        let load = |(row, epoch): (usize, u32)| {
            let row = &self.prompts[row];
            let prompt = row.load(&self.codec)?;
            if prompt.tokens != row.prompt.tokens {
                let reason = format!("an image or video of prompt {} was changed during the run", prompt.id);
                return Err(DataError::Vision(reason));
            }
            Ok((prompt, epoch))
        };
        out.into_par_iter().map(load).collect()
    }

    fn observe(&mut self, _: &[(&Prompt, &RewardOutcome)]) -> Option<String> {
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
