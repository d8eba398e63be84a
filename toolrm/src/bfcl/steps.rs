//! Entries of the leaderboard as steps.

use super::records::Entry;
use super::{Lang, Options, canonical_gold, check};
use crate::msg::messages;
use crate::record::Step;
use crate::schema::{SchemaError, parse_tools};
use crate::value::{Map, Val};

/// The step of an entry: its first turn is the history, its canonical gold calls are the gold response, its category is the
/// source. `None` where there are no canonical gold calls, or they do not pass the checker themselves (seven entries).
///
/// # Errors
/// [`SchemaError`] when tools or messages cannot be read.
pub fn step(entry: &Entry, category: &str) -> Result<Option<Step>, SchemaError> {
    let Some(calls) = canonical_gold(&entry.tools, &entry.gold, Lang::of(category)) else { return Ok(None) };
    if !check(&entry.tools, &calls, &entry.gold, category, Options::default()).is_valid() {
        return Ok(None);
    }
    let turn = entry.question.as_list().and_then(|turns| turns.first());
    Ok(Some(Step {
        id: entry.id.clone(),
        conv_id: entry.id.clone(),
        turn: turn.and_then(Val::as_list).map_or(0, |m| m.len() as u64),
        source: category.to_owned(),
        tools: parse_tools(&entry.tools).map_err(|e| e.under("function"))?,
        history: messages(turn).map_err(|e| e.under("question[0]"))?,
        content: String::new(),
        calls,
        meta: Map::default(),
    }))
}
