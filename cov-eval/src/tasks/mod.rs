//! The tasks.

mod ap_news;
mod code_fix;
mod fsm;
mod kg_bio;
mod kv_dict;
mod para_order;
mod sales_report;

use serde::{Deserialize, Serialize};

pub use ap_news::NewsTargets;
pub(crate) use code_fix::extracted;
pub use code_fix::{CodeTargets, lint};
pub use fsm::FsmTargets;
pub use kg_bio::KgTargets;
pub use kv_dict::{KvDictTargets, Pinned};
pub use para_order::ParaOrderTargets;
pub(crate) use para_order::tau;
pub use sales_report::SalesTargets;

use crate::error::GenError;
use crate::judge::Claim;
use crate::key::{InstanceKey, TaskId};
use crate::model::{Instance, Task, TaskConfig};

/// The secret side of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// A machine and its input.
    Fsm(FsmTargets),
    /// Pinned entries.
    KvDict(KvDictTargets),
    /// Segments in their order.
    ParaOrder(ParaOrderTargets),
    /// Questions with their answers.
    SalesReport(SalesTargets),
    /// A graph.
    KgBio(KgTargets),
    /// Statements.
    ApNews(NewsTargets),
    /// A clean program.
    CodeFix(CodeTargets),
}

impl Targets {
    /// What a judge is asked of constraint `i` of a kind, in the tasks that judges know.
    pub(crate) fn claim(&self, kind: &str, i: usize) -> Option<Claim> {
        match self {
            Targets::KgBio(targets) => targets.claim(kind, i),
            Targets::ApNews(targets) => targets.claim(kind, i),
            Targets::SalesReport(targets) => targets.claim(kind, i),
            Targets::CodeFix(targets) => targets.claim(kind),
            Targets::Fsm(_) | Targets::KvDict(_) | Targets::ParaOrder(_) => None,
        }
    }

    /// The task that they are of.
    pub fn task(&self) -> TaskId {
        match self {
            Targets::Fsm(_) => TaskId::Fsm,
            Targets::KvDict(_) => TaskId::KvDict,
            Targets::ParaOrder(_) => TaskId::ParaOrder,
            Targets::SalesReport(_) => TaskId::SalesReport,
            Targets::KgBio(_) => TaskId::KgBio,
            Targets::ApNews(_) => TaskId::ApNews,
            Targets::CodeFix(_) => TaskId::CodeFix,
        }
    }
}

/// The task of an id.
pub fn task(id: TaskId) -> &'static dyn Task {
    match id {
        TaskId::Fsm => &fsm::Fsm,
        TaskId::KvDict => &kv_dict::KvDict,
        TaskId::ParaOrder => &para_order::ParaOrder,
        TaskId::SalesReport => &sales_report::SalesReport,
        TaskId::KgBio => &kg_bio::KgBio,
        TaskId::ApNews => &ap_news::ApNews,
        TaskId::CodeFix => &code_fix::CodeFix,
    }
}

/// Checks what all generators check.
fn check(id: TaskId, version: u32, key: &InstanceKey, cfg: &TaskConfig) -> Result<(), GenError> {
    let mismatch =
        |field, found: String, expected: String| Err(GenError::Mismatch { field, found, expected });
    if key.task != id {
        return mismatch("task", key.task.to_string(), id.to_string());
    }
    if key.version != version {
        return mismatch("version", key.version.to_string(), version.to_string());
    }
    if let Some(found) = cfg.in_tokens.filter(|&n| n > MAX_IN_TOKENS) {
        let (found, high) = (found.into(), MAX_IN_TOKENS.into());
        return Err(GenError::Range { field: "in_tokens", found, low: 0, high });
    }
    key.check()
}

/// The largest input, in tokens.
const MAX_IN_TOKENS: u32 = 65_536;

/// Checks the size of the material before padding: an input must have room for it.
fn room(cfg: &TaskConfig, material: &str) -> Result<usize, GenError> {
    let Some(wanted) = cfg.in_tokens else { return Ok(0) };
    let used = crate::length::estimate_tokens(crate::text::count(material).0, material.len());
    (wanted as usize).checked_sub(used).ok_or(GenError::Range {
        field: "in_tokens",
        found: wanted.into(),
        low: used as u64,
        high: MAX_IN_TOKENS.into(),
    })
}

/// How a prompt asks for a length.
fn length_line(words: u32) -> String {
    let (low, high) = ((9 * words).div_ceil(10), 11 * words / 10);
    let cut = (5 * words).div_ceil(4);
    format!("between {low} and {high} words; what follows the first {cut} words is not read")
}

/// `sentences` among neutral ones, up to the length that was asked for.
fn fill(instance: &Instance, sentences: &[String]) -> String {
    let words = instance.budget.target_words.unwrap_or(0) as usize;
    crate::filler::fill(sentences, words, &mut instance.key.rng("phrase"))
}

/// Answers of no worth that are the same for all tasks.
fn common_nulls(instance: &Instance) -> Vec<(&'static str, String)> {
    vec![
        ("empty", String::new()),
        ("blank", " \n\t\n".into()),
        ("refusal", "I cannot help with that.".into()),
        ("prompt", instance.prompt.user.clone()),
        ("material", instance.material().to_owned()),
    ]
}
