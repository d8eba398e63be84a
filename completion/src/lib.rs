//! Completions of language models, wherever they come from.
//!
//! One trait, [`Complete`]: requests in, completions out, in order, each with its own success or failure, so that one
//! request that fails costs itself alone. Here are [`Server`] (any OpenAI-compatible server), [`Replay`] (a file of
//! completions that somebody made) and [`Recorded`] (writes what another source gives to a file, and asks for what the file
//! has not got: an interrupted evaluation goes on where it was). A crate that runs models implements the trait itself; this
//! one knows none.
//!
//! ```
//! use completion::{Complete, Completion, CompletionError, Recorded, Request, Sampling};
//! struct Shout;
//! impl Complete for Shout {
//!     fn name(&self) -> String { "shout".into() }
//!     fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
//!         requests.iter().map(|r| Ok(Completion::new(r.messages[0].content.to_uppercase()))).collect()
//!     }
//! }
//! let dir = std::env::temp_dir().join(format!("completion-doc-{}", std::process::id()));
//! let request = Request::user("q1", "hello", Sampling::greedy(16));
//! let mut recorded = Recorded::open(Shout, &dir, "id")?;
//! assert_eq!(recorded.complete(&[request])[0].as_ref().unwrap().text, "HELLO");
//! assert_eq!(std::fs::read_to_string(&dir)?.lines().count(), 1);
//! # std::fs::remove_file(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod file;
#[cfg(feature = "server")]
mod server;

pub use file::{FileError, Recorded, Replay};
#[cfg(feature = "server")]
pub use server::{Server, ServerOptions};

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// How to draw a completion. What is `None` is the source's own default, and a server is not told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// The longest completion, in tokens.
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens of this total probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Keep the likeliest k tokens; many servers do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Decides the draw, where the source can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Sampling {
    /// The likeliest tokens, at most `max_tokens` of them.
    #[must_use]
    pub fn greedy(max_tokens: usize) -> Self {
        Self { max_tokens, temperature: Some(0.0), top_p: None, top_k: None, seed: None }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Names the request, in files too; unique among the requests of a file.
    pub id: String,
    /// The conversation, up to the message that is asked for.
    pub messages: Vec<Message>,
    /// How to draw.
    pub sampling: Sampling,
}

impl Request {
    /// One user's message.
    pub fn user(id: impl Into<String>, text: impl Into<String>, sampling: Sampling) -> Self {
        Self { id: id.into(), messages: vec![Message::new("user", text)], sampling }
    }
}

/// Why a completion ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By itself.
    Stop,
    /// At `max_tokens`.
    Length,
    /// Otherwise; the server's own word.
    #[serde(untagged)]
    Other(String),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// What was thought, where the source keeps it apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Why it ended, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Finish>,
    /// Tokens of the prompt, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens of the completion, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
}

impl Completion {
    /// A text of which nothing else is known.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), reasoning: None, finish: None, tokens_in: None, tokens_out: None }
    }
}

/// Why a request has no completion.
#[derive(Debug, thiserror::Error)]
pub enum CompletionError {
    /// No connection, or it broke.
    #[error("{url}: {reason} (after {attempts} attempts)")]
    Connection {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server took too long.
    #[error("{url}: no answer within {seconds} s (after {attempts} attempts)")]
    Timeout {
        /// The address.
        url: String,
        /// The limit.
        seconds: f64,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server refused.
    #[error("{url}: status {status}: {message} (after {attempts} attempts)")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says, cut to a few lines.
        message: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server's answer is not a completion.
    #[error("{url}: the answer is no completion: {reason}")]
    Answer {
        /// The address.
        url: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A file of completions has none for the request.
    #[error("{path} has no completion for `{id}`")]
    Missing {
        /// The file.
        path: String,
        /// The request's id.
        id: String,
    },
    /// The file's completion is of another request.
    #[error("{path} has a completion for `{id}`, but of another prompt or other sampling")]
    Changed {
        /// The file.
        path: String,
        /// The request's id.
        id: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A source of another kind failed.
    #[error("{0}")]
    Other(String),
}

/// What became of a request.
pub type Answer = Result<Completion, CompletionError>;

/// A source of completions.
pub trait Complete {
    /// What it is, for reports.
    fn name(&self) -> String;

    /// One result a request, in order.
    fn complete(&mut self, requests: &[Request]) -> Vec<Answer>;

    /// As [`Complete::complete`], but tells each result with its place among the requests as soon as it is there, in whatever order they
    /// come. Once `tell` breaks, nothing more is asked for.
    ///
    /// A source that works on many requests at one time begins with the next whenever one is done. One that does not say how asks for
    /// `at_a_time` of them (at least 1), and for more when all of these are done.
    fn complete_each(
        &mut self,
        requests: &[Request],
        at_a_time: usize,
        tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
    ) {
        let mut first = 0;
        for part in requests.chunks(at_a_time.max(1)) {
            for (i, result) in self.complete(part).into_iter().enumerate().take(part.len()) {
                if tell(first + i, result).is_break() {
                    return;
                }
            }
            first += part.len();
        }
    }
}

impl<C: Complete + ?Sized> Complete for Box<C> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Answer> {
        (**self).complete(requests)
    }

    fn complete_each(
        &mut self,
        requests: &[Request],
        at_a_time: usize,
        tell: &mut dyn FnMut(usize, Answer) -> ControlFlow<()>,
    ) {
        (**self).complete_each(requests, at_a_time, tell);
    }
}

#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
