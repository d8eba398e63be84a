//! Lines of BFCL's files.

use std::collections::HashMap;
use std::sync::Arc;

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
}

/// Reads lines into entries. A tool list or gold answer that is repeated byte for byte is read once.
#[derive(Debug, Default)]
pub struct EntryReader {
    seen: HashMap<u128, Arc<Val>>,
}

/// The most distinct texts that a reader remembers; beyond, it starts afresh.
const REMEMBERED: usize = 1 << 16;

impl EntryReader {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        EntryReader::default()
    }

    fn shared(&mut self, raw: &str) -> Result<Arc<Val>, JsonError> {
        let key = xxhash_rust::xxh3::xxh3_128(raw.as_bytes());
        if let Some(v) = self.seen.get(&key) {
            return Ok(v.clone());
        }
        let v = Arc::new(json::parse(raw, Dialect::Python)?);
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(key, v.clone());
        Ok(v)
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
        let bad = |field: &str, e: JsonError| SchemaError::new(field, format!("not JSON: {e}"));
        let members = json::members(line).map_err(|e| bad("", e))?;
        let none = Arc::new(Val::List(Vec::new()));
        let mut entry = Entry { id: String::new(), question: none.clone(), tools: none.clone(), gold: none };
        let mut result = None;
        for (key, raw) in members {
            match key.as_str() {
                "id" => {
                    let id = json::parse(raw, Dialect::Python).map_err(|e| bad("id", e))?;
                    entry.id = id
                        .as_str()
                        .ok_or_else(|| SchemaError::field("id", "a string", Some(&id)))?
                        .to_owned();
                }
                "question" => {
                    entry.question =
                        Arc::new(json::parse(raw, Dialect::Python).map_err(|e| bad("question", e))?);
                }
                "function" => entry.tools = self.shared(raw).map_err(|e| bad("function", e))?,
                "ground_truth" => entry.gold = self.shared(raw).map_err(|e| bad("ground_truth", e))?,
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
