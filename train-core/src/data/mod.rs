//! Where prompts come from: generated tasks and files, both with held-out prompts that never train.

mod codec;
mod cov;
mod file;
mod generated;
mod gguf;
mod shapes;
mod task;
mod turns;
mod visual;

pub use codec::TextCodec;
pub use cov::{COV, CovPrompt, CovSource};
pub(crate) use cov::{IN_TOKENS, INSTANCE};
pub use file::{Columns, FileSource, read_rows};
pub use generated::GeneratedSource;
pub use task::{TASKS, Task};
pub use visual::{Media, MediaFile, message_with};

use std::path::PathBuf;

use serde_json::Value;

use crate::chat::{Chat, ChatError};
use crate::config::Data;
use crate::media::MediaError;
use crate::types::{Prompt, RewardOutcome};

/// What can go wrong with data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of a data file at fault.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A data set without a usable prompt.
    #[error("{} has no prompts{detail}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Such as how many were dropped.
        detail: String,
    },
    /// A prompt that does not fit the context.
    #[error(
        "prompt {id} has {tokens} tokens; with {new} new ones that is more than the context of {context}: {text}"
    )]
    TooLong {
        /// Its place in the data.
        id: u64,
        /// Its length.
        tokens: usize,
        /// `rollout.max_new_tokens`.
        new: usize,
        /// `max_position_embeddings`.
        context: usize,
        /// Its beginning.
        text: String,
    },
    /// Text that cannot become tokens, or a broken tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A conversation that cannot be rendered.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// An image or a video that cannot be read.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// Images or videos for a model of text.
    #[error("images and videos need a model with a vision tower, and this one reads text alone")]
    TextOnly,
    /// Images and videos that do not become a prompt.
    #[error("images and videos: {0}")]
    Vision(String),
    /// State of another source.
    #[error("the data's saved state does not fit this configuration: {0}")]
    State(String),
}

/// A stage that gives prompts. Everything it draws is a function of the run's seed and its saved state.
pub trait PromptSource: Send {
    /// The next `count` prompts and the epoch each belongs to.
    ///
    /// # Errors
    /// When the data is at fault.
    fn next(&mut self, count: usize) -> Result<Vec<(Prompt, u32)>, DataError>;

    /// Tells the source how the last batch went: each sample's prompt and reward. Returns a message when this changed the
    /// data, such as a new level.
    fn observe(&mut self, outcomes: &[(&Prompt, &RewardOutcome)]) -> Option<String>;

    /// Held-out prompts, the same at every call.
    fn held_out(&self) -> &[Prompt];

    /// A number for how hard the data is at the moment.
    fn level(&self) -> f64;

    /// What a checkpoint must hold.
    fn state(&self) -> Value;

    /// Goes back to a saved state.
    ///
    /// # Errors
    /// When the state is another source's.
    fn restore(&mut self, state: &Value) -> Result<(), DataError>;
}

/// What the policy reads of a prompt: the text itself, or a conversation that the text opens (`data.chat`).
///
/// # Errors
/// When the text has no tokens, or the model has no chat template.
pub fn prompt_tokens(settings: &Data, codec: &TextCodec, text: &str) -> Result<Vec<u32>, DataError> {
    if !settings.chat {
        return codec.encode(text);
    }
    conversation_tokens(settings, codec, Chat::prompt(&settings.system, text).messages)
}

/// The tokens of a conversation, up to the turn of the assistant, with `data.chat_variables`.
fn conversation_tokens(
    settings: &Data,
    codec: &TextCodec,
    messages: Vec<Value>,
) -> Result<Vec<u32>, DataError> {
    let variables = serde_json::to_value(&settings.chat_variables).unwrap_or_default();
    let variables = variables.as_object().cloned().unwrap_or_default();
    codec.encode_chat(&Chat { messages, variables, add_generation_prompt: true, ..Chat::default() })
}

/// The beginning of a text, for messages.
fn beginning(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}
