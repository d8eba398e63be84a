//! Instances, verdicts, and the trait of a task.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::error::GenError;
use crate::flags::FlagSet;
use crate::intake::Intake;
use crate::key::{DetRng, InstanceKey};
use crate::tasks::Targets;
use crate::text::Source;

/// The version of the stored form of an instance.
pub const SCHEMA: u32 = 1;

/// What may be asked of a generator besides the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskConfig {
    /// Pads the material with distractors to about so many tokens, at most 65,536.
    pub in_tokens: Option<u32>,
    /// Tokens a model may spend on reasoning, added to `max_new_tokens`.
    pub reasoning_budget: u32,
}

/// What a model is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Absent by default.
    pub system: Option<String>,
    /// Instruction, constraints and material.
    pub user: String,
}

/// What raw material is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaterialKind {
    /// A transition table, a start state and an input.
    Automaton,
    /// Pinned entries and the shape of the others.
    DictSpec,
    /// Numbered paragraphs.
    Segments,
    /// Transactions as CSV.
    Table,
    /// Subject, relation, object.
    Triples,
    /// A Python file.
    Code,
    /// A style sheet, and statements that break it.
    Statements,
}

/// The raw material: a byte range of `prompt.user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    /// What it is.
    pub kind: MaterialKind,
    /// Where it stands in `prompt.user`, without its fences.
    pub range: Range<usize>,
}

/// One thing that the prompt asks for, with exactly one verifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Its place in the list.
    pub id: u16,
    /// Which verifier: `step`, `row_count` …
    pub kind: Cow<'static, str>,
    /// Which of the things of that kind, as an index of the targets.
    pub target: u32,
    /// Relative position (0 to 1) of its source in the material or of its place in the output.
    pub locus: Option<f64>,
}

/// Limits of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The length the instance was made for, in tokens.
    pub out_tokens: u32,
    /// The length of a prose answer, in words.
    pub target_words: Option<u32>,
    /// What to give a generator: half more than `out_tokens`, and the reasoning budget.
    pub max_new_tokens: u32,
}

/// A problem: what is asked, and the secret side that scores answers. What is read is checked: an instance whose content is
/// not what its hash says is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "crate::stored::Stored")]
pub struct Instance {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`InstanceKey::id`].
    pub id: String,
    /// What it was made from.
    pub key: InstanceKey,
    /// What a model is shown.
    pub prompt: Prompt,
    /// Where the raw material is.
    pub material: Material,
    /// What is asked, in the order of the prompt.
    pub constraints: Vec<Constraint>,
    /// What answers are checked against; never shown.
    pub targets: Targets,
    /// Limits of an answer.
    pub budget: Budget,
    /// SHA-256 in hex of the canonical JSON of everything but `id`, `key` and this.
    pub content_hash: String,
    /// The runs of words of the prompt, once an answer is compared with them.
    #[serde(skip)]
    pub(crate) runs: Memo<Source>,
}

/// What follows from the rest of its owner, and is computed once. Two are always equal.
#[derive(Debug, Clone)]
pub(crate) struct Memo<T>(OnceLock<T>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Memo<T> {
    pub(crate) fn get(&self, compute: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(compute)
    }
}

impl<T> PartialEq for Memo<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Memo<T> {}

/// What a task makes of a key; [`Instance::assemble`] does the rest.
pub(crate) struct Parts {
    pub(crate) query: String,
    pub(crate) material: (MaterialKind, String),
    /// What follows the material: the output contract.
    pub(crate) contract: String,
    pub(crate) constraints: Constraints,
    pub(crate) targets: Targets,
    pub(crate) prose: bool,
}

/// A list of constraints under construction.
#[derive(Default)]
pub(crate) struct Constraints(Vec<Constraint>);

impl Constraints {
    pub(crate) fn push(&mut self, kind: &'static str, target: usize, locus: Option<f64>) {
        let id = self.0.len() as u16;
        self.0.push(Constraint { id, kind: kind.into(), target: target as u32, locus });
    }

    /// For a property of the whole answer.
    pub(crate) fn whole(&mut self, kind: &'static str) {
        self.push(kind, 0, None);
    }
}

impl Instance {
    pub(crate) fn assemble(key: &InstanceKey, cfg: &TaskConfig, parts: Parts) -> Self {
        let (kind, text) = parts.material;
        let mut user = format!("{}\n\n<<<MATERIAL {}\n", parts.query, key.task);
        let start = user.len();
        user.push_str(&text);
        let range = start..user.len();
        user.push_str("\n>>>MATERIAL\n\n");
        user.push_str(&parts.contract);
        let length = key.length;
        let max_new_tokens = length + length.div_ceil(2) + cfg.reasoning_budget;
        let target_words = parts.prose.then(|| crate::length::target_words(length));
        let mut instance = Self {
            schema: SCHEMA,
            id: key.id(),
            key: key.clone(),
            prompt: Prompt { system: None, user },
            material: Material { kind, range },
            constraints: parts.constraints.0,
            targets: parts.targets,
            budget: Budget { out_tokens: length, target_words, max_new_tokens },
            content_hash: String::new(),
            runs: Memo::default(),
        };
        instance.content_hash = instance.hash_content();
        instance
    }

    /// The raw material, byte for byte.
    pub fn material(&self) -> &str {
        self.prompt.user.get(self.material.range.clone()).unwrap_or("")
    }

    pub(crate) fn prompt_runs(&self) -> &Source {
        self.runs.get(|| Source::new(&self.prompt.user))
    }

    /// The instance as one line: keys in the order of declaration, no white space.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an instance has string keys and finite numbers only")
    }

    /// What [`content_hash`](Self::content_hash) must be.
    pub fn hash_content(&self) -> String {
        let Self { schema, prompt, material, constraints, targets, budget, .. } = self;
        let content = (schema, prompt, material, constraints, targets, budget);
        let text = serde_json::to_vec(&content).expect("an instance has string keys and finite numbers only");
        Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Ids of the constraints that `wanted` picks by kind and target.
    pub(crate) fn ids(&self, wanted: impl Fn(&str, usize) -> bool) -> Vec<u16> {
        let hit = |c: &&Constraint| wanted(&c.kind, c.target as usize);
        self.constraints.iter().filter(hit).map(|c| c.id).collect()
    }
}

/// What became of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Credit 1.
    Pass,
    /// Credit between 0 and 1.
    Partial,
    /// Credit 0.
    Fail,
    /// No verifier of the task knows this kind of constraint: credit 0.
    Unverifiable,
}

/// Why, as a closed list, so that reasons can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It holds.
    Met,
    /// The whole answer was refused.
    GateClosed,
    /// What was asked for is not there.
    Missing,
    /// It is there, but not what was asked for.
    Wrong,
    /// It is there, in the wrong place.
    Misplaced,
    /// More or fewer than asked for.
    Count,
    /// More than once.
    Repeated,
    /// Something is there that was not asked for.
    Extra,
    /// Not in the form that was asked for.
    Format,
    /// It could not be tried: a construct that the interpreter does not know.
    Unsupported,
    /// No such verifier.
    UnknownKind,
}

/// The outcome of one constraint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The constraint's.
    pub id: u16,
    /// `Pass` exactly at credit 1, `Fail` exactly at 0.
    pub status: Status,
    /// 0 to 1.
    pub credit: f64,
    /// Why.
    pub reason: Reason,
    /// Bytes of the visible text that prove it.
    #[serde(serialize_with = "SmallList::serialize", deserialize_with = "SmallList::deserialize")]
    pub spans: Spans,
}

/// Bytes that prove a verdict; most have one or two such places.
pub type Spans = SmallVec<[Range<u32>; 2]>;

/// How [`Spans`] are stored: as a list.
struct SmallList;

impl SmallList {
    fn serialize<S: serde::Serializer>(spans: &Spans, serializer: S) -> Result<S::Ok, S::Error> {
        spans.as_slice().serialize(serializer)
    }

    fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Spans, D::Error> {
        Vec::<Range<u32>>::deserialize(deserializer).map(Spans::from_vec)
    }
}

impl Verdict {
    /// Credit (clamped to 0..=1) with the reason for any loss, and the proof.
    pub(crate) fn new(id: u16, credit: f64, loss: Reason, spans: Spans) -> Self {
        let credit = if credit.is_nan() { 0.0 } else { credit.clamp(0.0, 1.0) };
        let (status, reason) = match credit {
            1.0 => (Status::Pass, Reason::Met),
            0.0 if loss == Reason::UnknownKind => (Status::Unverifiable, loss),
            0.0 => (Status::Fail, loss),
            _ => (Status::Partial, loss),
        };
        Self { id, status, credit, reason, spans }
    }
}

/// Why an answer as a whole gets 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// It does not.
    Open,
    /// Nothing visible.
    Empty,
    /// Reasoning that never ends.
    UnterminatedReasoning,
    /// One of the flags that [`FlagSet::HARD`] holds.
    HardFlag,
    /// `fsm`: not a single row.
    NoRows,
    /// `kv_dict`: no dictionary with an entry.
    NoObject,
    /// `para_order`: not a single tagged block.
    NoBlocks,
    /// `code_fix`: the program does not parse.
    Syntax,
}

/// Sizes of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputStats {
    /// Words of the visible text.
    pub words: usize,
    /// [`estimate_tokens`](crate::estimate_tokens) of it.
    pub tokens_est: usize,
    /// Lines that are not blank.
    pub lines: usize,
    /// Whether generation ended at its limit.
    pub truncated: bool,
    /// Bytes of reasoning, which is never scored.
    pub reasoning_bytes: usize,
}

/// The outcome of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// The evaluation score, 0 to 1; 1 exactly when everything passed.
    pub score: f64,
    /// The training score, 0 to 1.
    pub dense: f64,
    /// Whether the answer was refused as a whole.
    pub gate: Gate,
    /// What the score is made of.
    pub components: Vec<(Cow<'static, str>, f64)>,
    /// What it was multiplied by.
    pub multipliers: Vec<(Cow<'static, str>, f64)>,
    /// One for each constraint, in the same order.
    pub verdicts: Vec<Verdict>,
    /// What was noticed.
    pub flags: FlagSet,
    /// Sizes.
    pub stats: OutputStats,
}

/// The name of a planted fault.
pub type PlantKind = &'static str;

/// An answer with one fault planted.
#[derive(Debug, Clone, PartialEq)]
pub struct Planted {
    /// The answer.
    pub text: String,
    /// Constraints that must lose credit.
    pub must_fail: Vec<u16>,
    /// Constraints that may lose credit as well; all others keep theirs.
    pub may_fail: Vec<u16>,
}

/// A generator with its verifier. What cannot be tested is not accepted, so a task also gives an answer that is
/// perfect, faults to plant in it, and answers that must get nothing.
pub trait Task: Send + Sync {
    /// The version of generated bytes and of scores.
    fn version(&self) -> u32;

    /// The instance that a key names.
    ///
    /// # Errors
    /// A key outside its ranges, of another task or version; an input size that cannot be had.
    fn generate(&self, key: &InstanceKey, cfg: &TaskConfig) -> Result<Instance, GenError>;

    /// Scores any answer: no errors, no clock, no input or output.
    fn verify(&self, instance: &Instance, answer: &Intake) -> Verification;

    /// An answer that scores exactly 1.
    fn oracle(&self, instance: &Instance) -> String;

    /// The faults that [`plant`](Self::plant) knows.
    fn plants(&self) -> &'static [PlantKind];

    /// `answer`, which may have faults already, with one more; `None` where there is no place for it.
    fn plant(&self, instance: &Instance, answer: &str, kind: PlantKind, rng: &mut DetRng) -> Option<Planted>;

    /// Answers of no worth, by name.
    fn nulls(&self, instance: &Instance) -> Vec<(&'static str, String)>;
}
