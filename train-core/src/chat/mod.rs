//! Conversations as tokens, by a checkpoint's own chat template.
//!
//! The template decides every control token of a conversation, and what people wrote decides none: a message that
//! spells `<|im_end|>` is read as that text. To tell the two apart after rendering, a mark that occurs nowhere else is
//! put into every control token that a message spells, and taken out again.
//!
//! Templates see what transformers 5 shows them (`apply_chat_template`): the same globals, filters, whitespace rules and
//! `{% generation %}` blocks.

mod guard;
mod python;
mod render;
mod template;

pub use render::Rendered;
pub use template::ChatTemplate;

use serde_json::{Map, Value, json};

/// A conversation and how to render it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// Objects with a `role` and a `content`, and whatever else the template reads, such as `reasoning_content` and
    /// `tool_calls`.
    pub messages: Vec<Value>,
    /// JSON schemas of functions the model may call.
    pub tools: Vec<Value>,
    /// End with the header of the next turn of the assistant.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// Give the template the date (`strftime_now`). Without it a rendering depends on its input alone, and templates
    /// that ask whether the function is defined fall back to a date of their own.
    pub clock: bool,
}

impl Chat {
    /// What the user said, after a system message when there is one, up to the turn of the assistant.
    #[must_use]
    pub fn prompt(system: &str, user: &str) -> Self {
        let system = (!system.is_empty()).then(|| message("system", system));
        let messages = system.into_iter().chain([message("user", user)]).collect();
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }
}

/// A message of plain text.
#[must_use]
pub fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// A conversation as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each token, whether the assistant produced it: what supervised training learns from.
    pub assistant: Vec<bool>,
}

/// Why a conversation has no rendering.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A model without a template.
    #[error("the model has no chat template")]
    NoTemplate,
    /// A template that is not Jinja, or of which this engine lacks a part.
    #[error("chat template: {0}")]
    Syntax(String),
    /// The template failed on this conversation, or refused it.
    #[error("chat template: {0}")]
    Render(String),
    /// A template of which nothing says where the assistant speaks.
    #[error("chat template: cannot tell the assistant's turns: it has no generation blocks, and {0}")]
    Turns(String),
    /// A conversation without a message.
    #[error("a conversation has at least one message")]
    Empty,
    /// A message that is not an object.
    #[error("message {index} is {found}, expected an object with role and content")]
    Message {
        /// Counted from 0.
        index: usize,
        /// What it is.
        found: Value,
    },
    /// A tokenizer that reads the pieces of a text otherwise than the whole.
    #[error("the tokenizer puts a space before every text, so a conversation cannot be read piece by piece")]
    PrefixSpace,
}
