//! The data that stages hand to one another.

use std::collections::BTreeMap;
use std::sync::Arc;

use qwen3::VisualItems;
pub use rollout_engine::Finish;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A question for the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Position in the data set (files) or in the endless stream of generated prompts.
    pub id: u64,
    /// The task it belongs to, such as `reverse`; metrics are kept per task.
    pub task: String,
    /// What the policy reads, as token ids. Never derived from text twice.
    pub tokens: Vec<u32>,
    /// The same prompt for people and for reward functions; in a conversation a line for each turn.
    pub text: String,
    /// The right answer, when there is one; in a conversation a line for each turn.
    pub answer: Option<String>,
    /// What is said to the policy after its first turn, after its second, …, as token ids that follow its stop token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow_ups: Vec<Vec<u32>>,
    /// What its placeholders stand for; not part of any file.
    #[serde(skip)]
    pub images: Images,
    /// Every further column of the data set's row, for rewards that need more than `answer`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Value>,
}

impl Prompt {
    /// Turns of the policy.
    #[must_use]
    pub fn turns(&self) -> usize {
        1 + self.follow_ups.len()
    }

    /// Tokens put to the policy in all turns.
    #[must_use]
    pub fn put(&self) -> usize {
        self.tokens.len() + self.follow_ups.iter().map(Vec::len).sum::<usize>()
    }
}

/// The images of a prompt, shared by its samples. Two are equal when they are the same ones in memory.
#[derive(Clone, Debug, Default)]
pub struct Images(Option<Arc<VisualItems>>);

impl Images {
    /// Some images.
    #[must_use]
    pub fn new(items: VisualItems) -> Self {
        Self((!items.is_empty()).then(|| Arc::new(items)))
    }

    /// The images, if there are any.
    #[must_use]
    pub fn get(&self) -> Option<&VisualItems> {
        self.0.as_deref()
    }

    /// The images as a request wants them.
    #[must_use]
    pub fn items(&self) -> VisualItems {
        self.get().cloned().unwrap_or_default()
    }
}

impl PartialEq for Images {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

/// The identity of one sample; also the key of its random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleKey {
    /// [`Prompt::id`].
    pub prompt: u64,
    /// How many times the prompt has been used before.
    pub epoch: u32,
    /// Place within the group of samples for the same prompt.
    pub index: u32,
}

/// What a rewarder is shown of one sample.
#[derive(Clone, Debug)]
pub struct Scored<'a> {
    /// The sample's identity.
    pub key: SampleKey,
    /// The question.
    pub prompt: &'a Prompt,
    /// The response as text, without the stop token and special tokens; of a conversation a line for each turn.
    pub response: &'a str,
    /// Number of response tokens, the stop token included.
    pub response_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// A sample's reward.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardOutcome {
    /// The weighted sum that the advantage is computed from.
    pub total: f64,
    /// Every part before its weight, by the part's name.
    pub parts: BTreeMap<String, f64>,
    /// Whether the response is the right answer, whole and properly ended; `None` when there is no answer. A part that
    /// knows better than equality with [`Prompt::answer`] says so.
    pub exact: Option<bool>,
    /// What parts note of it besides, such as a flag, for the metrics `reward/<task>/<note>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, f64>,
    /// Why the sample could not be scored. Such a sample never trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
