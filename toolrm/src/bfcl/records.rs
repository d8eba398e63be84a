//! Lines of BFCL's files.

use std::collections::HashMap;
use std::sync::Arc;

use super::Lang;
use super::compiled::{Checker, Route};
use crate::json::{self, Dialect, JsonError};
use crate::schema::SchemaError;
use crate::value::Val;

/// A category of the leaderboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// Its name, as in `BFCL_v4_NAME.json`.
    pub name: &'static str,
    /// Its number of entries.
    pub entries: usize,
    /// Whether its entries have gold calls.
    pub calls: bool,
}

/// The single-turn categories.
pub const CATEGORIES: [Category; 13] = [
    Category { name: "simple_python", entries: 400, calls: true },
    Category { name: "simple_java", entries: 100, calls: true },
    Category { name: "simple_javascript", entries: 50, calls: true },
    Category { name: "multiple", entries: 200, calls: true },
    Category { name: "parallel", entries: 200, calls: true },
    Category { name: "parallel_multiple", entries: 200, calls: true },
    Category { name: "live_simple", entries: 258, calls: true },
    Category { name: "live_multiple", entries: 1053, calls: true },
    Category { name: "live_parallel", entries: 16, calls: true },
    Category { name: "live_parallel_multiple", entries: 24, calls: true },
    Category { name: "irrelevance", entries: 240, calls: false },
    Category { name: "live_irrelevance", entries: 884, calls: false },
    Category { name: "live_relevance", entries: 16, calls: false },
];

/// The known category whose name is nearest, for messages about an unknown one.
pub fn nearest_category(name: &str) -> &'static str {
    CATEGORIES.iter().min_by_key(|c| strsim::levenshtein(c.name, name)).map_or("", |c| c.name)
}

/// An entry: the question's tools and the gold answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The entry's id.
    pub id: String,
    /// The conversation, as in the file.
    pub question: Arc<Val>,
    /// The tools; entries with the same text share them.
    pub tools: Arc<Val>,
    /// The gold answer; an empty list where the category has none.
    pub gold: Arc<Val>,
    /// Hashes of the texts of the tools and the gold answer.
    key: [u128; 2],
}

/// Reads lines into entries. A value that is repeated byte for byte is read once, and mostly not even scanned again.
#[derive(Debug, Default)]
pub struct EntryReader {
    /// Values by the hash of their text's beginning, with the texts.
    seen: HashMap<u64, Seen, foldhash::fast::RandomState>,
    checkers: HashMap<([u128; 2], Route, Lang), Arc<Checker>, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Seen {
    text: Box<str>,
    hash: u128,
    value: Arc<Val>,
}

/// The most distinct texts that a reader remembers; beyond, it starts afresh.
const REMEMBERED: usize = 1 << 16;

/// Bytes by which a text that was seen is looked up.
const HEAD: usize = 192;

/// What `text` begins with, if it was seen: an object or array has its end in itself, so what begins alike is the same.
fn known<'a>(seen: &'a HashMap<u64, Seen, foldhash::fast::RandomState>, text: &str) -> Option<&'a Seen> {
    let head = &text.as_bytes()[..text.len().min(HEAD)];
    if !head.starts_with(b"[") && !head.starts_with(b"{") {
        return None;
    }
    seen.get(&xxhash_rust::xxh3::xxh3_64(head)).filter(|s| text.starts_with(&*s.text))
}

impl EntryReader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        EntryReader::default()
    }

    /// The value of `raw`, which the rest of the line from its start is given with.
    fn shared(&mut self, raw: &str, rest: &str) -> Result<(Arc<Val>, u128), JsonError> {
        if let Some(seen) = known(&self.seen, rest) {
            return Ok((seen.value.clone(), seen.hash));
        }
        let value = Arc::new(json::parse(raw, Dialect::Python)?);
        let hash = xxhash_rust::xxh3::xxh3_128(raw.as_bytes());
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        let head = xxhash_rust::xxh3::xxh3_64(&rest.as_bytes()[..rest.len().min(HEAD)]);
        if raw.len() >= HEAD && raw.starts_with(['[', '{']) {
            self.seen.insert(head, Seen { text: raw.into(), hash, value: value.clone() });
        }
        Ok((value, hash))
    }

    /// An entry's checker, made once for all entries with the same tools and gold answer.
    pub fn checker(&mut self, entry: &Entry, category: &str) -> Arc<Checker> {
        if self.checkers.len() >= REMEMBERED {
            self.checkers.clear();
        }
        let new = || Arc::new(Checker::new(&entry.tools, &entry.gold, category));
        self.checkers.entry((entry.key, Route::of(category), Lang::of(category))).or_insert_with(new).clone()
    }

    /// Reads a question line and, where the category has gold answers, the answer line of the same entry.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field, also when the two lines have different ids.
    pub fn entry(&mut self, question: &str, answer: Option<&str>) -> Result<Entry, SchemaError> {
        let mut entry = self.fields(question)?.0;
        if let Some(answer) = answer {
            let (other, _) = self.fields(answer)?;
            if other.id != entry.id {
                return Err(SchemaError::new(
                    "id",
                    format!("question {:?}, answer {:?}", entry.id, other.id),
                ));
            }
            entry.gold = other.gold;
            entry.key[1] = other.key[1];
        }
        Ok(entry)
    }

    /// Reads a line that holds an entry whole and a response to it in `result`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn record(&mut self, line: &str) -> Result<(Entry, Val), SchemaError> {
        let (entry, result) = self.fields(line)?;
        Ok((entry, result.ok_or_else(|| SchemaError::field("result", "a response", None))?))
    }

    fn fields(&mut self, line: &str) -> Result<(Entry, Option<Val>), SchemaError> {
        let bad = |field: &str, e: JsonError| SchemaError::of(e.kind(), field, format!("not JSON: {e}"));
        let skip = |_: &str, rest: &str| known(&self.seen, rest).map(|s| s.text.len());
        let members = json::members_known(line, skip).map_err(|e| bad("", e))?;
        let none = Arc::new(Val::List(Vec::new()));
        let mut entry =
            Entry { id: String::new(), question: none.clone(), tools: none.clone(), gold: none, key: [0; 2] };
        let mut result = None;
        for (key, raw) in members {
            // Both are slices of the line.
            let rest = &line[raw.as_ptr() as usize - line.as_ptr() as usize..];
            let mut shared = |field: &str| self.shared(raw, rest).map_err(|e| bad(field, e));
            match key.as_str() {
                "id" => {
                    let id = json::parse(raw, Dialect::Python).map_err(|e| bad("id", e))?;
                    entry.id = id
                        .as_str()
                        .ok_or_else(|| SchemaError::field("id", "a string", Some(&id)))?
                        .to_owned();
                }
                "question" => entry.question = shared("question")?.0,
                "function" => (entry.tools, entry.key[0]) = shared("function")?,
                "ground_truth" => (entry.gold, entry.key[1]) = shared("ground_truth")?,
                "result" => result = Some(json::parse(raw, Dialect::Python).map_err(|e| bad("result", e))?),
                _ => {}
            }
        }
        if entry.id.is_empty() {
            return Err(SchemaError::field("id", "a string", None));
        }
        Ok((entry, result))
    }
}
