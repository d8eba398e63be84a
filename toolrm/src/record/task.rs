//! Critique tasks, what models answered to them, and what is made of the answers.

use super::Record;
use super::fields::{Fields, write_meta};
use crate::schema::SchemaError;
use crate::value::{Map, Val};

/// What a critique task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The better of two responses.
    Pairwise,
    /// Whether one response is right.
    Pointwise,
    /// The best of several responses.
    BestOfN,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Pairwise, Kind::Pointwise, Kind::BestOfN];

    /// The kind's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pairwise => "pairwise",
            Kind::Pointwise => "pointwise",
            Kind::BestOfN => "bon",
        }
    }

    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// The order in which a pair is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// The chosen response first.
    #[default]
    Original,
    /// The rejected response first.
    Swapped,
}

impl Orientation {
    /// The orientation's name in files.
    pub fn name(self) -> &'static str {
        match self {
            Orientation::Original => "original",
            Orientation::Swapped => "swapped",
        }
    }
}

/// A prompt for a judge: `{id, pair_id?, kind, prompt, label?, orientation, split}`.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// The pair that it shows.
    pub pair_id: Option<String>,
    /// What it asks for.
    pub kind: Kind,
    /// The judge's prompt: one message of the user.
    pub prompt: String,
    /// The right answer, where it is known.
    pub label: Option<String>,
    /// The order in which its responses are shown.
    pub orientation: Orientation,
    /// The part of a data set or benchmark that it belongs to.
    pub split: String,
    /// Other fields.
    pub meta: Map,
}

/// A model's answer to a task: `{task_id, text, tokens_in?, tokens_out?}`.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The task.
    pub task_id: String,
    /// What the model wrote.
    pub text: String,
    /// Tokens of the prompt.
    pub tokens_in: Option<u64>,
    /// Tokens of the answer.
    pub tokens_out: Option<u64>,
    /// Other fields.
    pub meta: Map,
}

/// What an answer says: `{task_id, choice?, level?, correct?, reward?}`.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The task.
    pub task_id: String,
    /// The response that was chosen, from 1; none where the answer cannot be read.
    pub choice: Option<u64>,
    /// How the answer was read: `strict` or `soft`.
    pub level: Option<String>,
    /// Whether the choice is the label.
    pub correct: Option<bool>,
    /// The reward for it.
    pub reward: Option<f64>,
    /// Other fields.
    pub meta: Map,
}

/// A checker's verdict on a response: `{id, category, valid, error_type?, detail?}`.
#[derive(Clone, Debug)]
pub struct Check {
    /// The entry.
    pub id: String,
    /// Its category.
    pub category: String,
    /// Whether the response is right.
    pub valid: bool,
    /// Why it is not; `fault` where the entry cannot be checked.
    pub error_type: Option<String>,
    /// The parameter, key or name that it is about.
    pub detail: Option<String>,
    /// Other fields.
    pub meta: Map,
}

/// Inserts what is there.
fn put<T: Into<Val>>(out: &mut Map, key: &str, v: Option<T>) {
    if let Some(v) = v {
        out.insert(key.into(), v.into());
    }
}

fn int(n: u64) -> Val {
    Val::int(n.into())
}

impl Record for Task {
    const NAME: &'static str = "task";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        let kind = f.string("kind")?;
        let orientation = match f.maybe_string("orientation")?.as_deref() {
            None | Some("original") => Orientation::Original,
            Some("swapped") => Orientation::Swapped,
            Some(other) => {
                let what = format!("expected original or swapped, found {other:?}");
                return Err(SchemaError::new("orientation", what));
            }
        };
        Ok(Task {
            id: f.string("id")?,
            pair_id: f.maybe_string("pair_id")?,
            kind: Kind::from_name(&kind).ok_or_else(|| {
                SchemaError::new("kind", format!("expected pairwise, pointwise or bon, found {kind:?}"))
            })?,
            prompt: f.string("prompt")?,
            label: f.maybe_string("label")?,
            orientation,
            split: f.maybe_string("split")?.unwrap_or_default(),
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("id".into(), self.id.clone().into());
        put(&mut out, "pair_id", self.pair_id.clone());
        out.insert("kind".into(), self.kind.name().into());
        out.insert("prompt".into(), self.prompt.clone().into());
        put(&mut out, "label", self.label.clone());
        out.insert("orientation".into(), self.orientation.name().into());
        out.insert("split".into(), self.split.clone().into());
        write_meta(&mut out, &self.meta);
        out
    }
}

impl Record for Completion {
    const NAME: &'static str = "completion";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        Ok(Completion {
            task_id: f.string("task_id")?,
            text: f.string("text")?,
            tokens_in: f.maybe_count("tokens_in")?,
            tokens_out: f.maybe_count("tokens_out")?,
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("task_id".into(), self.task_id.clone().into());
        out.insert("text".into(), self.text.clone().into());
        put(&mut out, "tokens_in", self.tokens_in.map(int));
        put(&mut out, "tokens_out", self.tokens_out.map(int));
        write_meta(&mut out, &self.meta);
        out
    }
}

impl Record for Verdict {
    const NAME: &'static str = "verdict";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        Ok(Verdict {
            task_id: f.string("task_id")?,
            choice: f.maybe_count("choice")?,
            level: f.maybe_string("level")?,
            correct: f.maybe_bool("correct")?,
            reward: f.maybe_number("reward")?,
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("task_id".into(), self.task_id.clone().into());
        put(&mut out, "choice", self.choice.map(int));
        put(&mut out, "level", self.level.clone());
        put(&mut out, "correct", self.correct.map(Val::Bool));
        put(&mut out, "reward", self.reward.map(Val::Float));
        write_meta(&mut out, &self.meta);
        out
    }
}

impl Record for Check {
    const NAME: &'static str = "check";

    fn from_val(v: Val) -> Result<Self, SchemaError> {
        let mut f = Fields::of(v)?;
        Ok(Check {
            id: f.string("id")?,
            category: f.string("category")?,
            valid: f
                .maybe_bool("valid")?
                .ok_or_else(|| SchemaError::field("valid", "true or false", None))?,
            error_type: f.maybe_string("error_type")?,
            detail: f.maybe_string("detail")?,
            meta: f.rest(),
        })
    }

    fn to_map(&self) -> Map {
        let mut out = Map::default();
        out.insert("id".into(), self.id.clone().into());
        out.insert("category".into(), self.category.clone().into());
        out.insert("valid".into(), Val::Bool(self.valid));
        put(&mut out, "error_type", self.error_type.clone());
        put(&mut out, "detail", self.detail.clone());
        write_meta(&mut out, &self.meta);
        out
    }
}
