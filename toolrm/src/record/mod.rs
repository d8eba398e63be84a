//! Records of files, one JSON object a line: from conversations to verdicts.
//!
//! A field that a record does not know is kept in its `meta` and written back under its own name. Every record is written
//! with `v: 1`; a line without `v` is read as that version, any other version is an error.

mod fields;
mod pair;
mod released;
mod step;
mod task;

pub use pair::{Candidate, GOLD_ORIGIN, Pair, Response, Scored};
pub use released::{Imported, Layout, REWARD_TOLERANCE};
pub use step::{Conversation, Step};
pub use task::{Check, Completion, Kind, Orientation, Task, Verdict};

use crate::json::{self, Dialect, NotJson};
use crate::schema::SchemaError;
use crate::value::{Map, Val};

/// The version of the records that are read and written.
pub const VERSION: i64 = 1;

/// A line of a file.
pub trait Record: Sized {
    /// What a line is called in messages.
    const NAME: &'static str;

    /// The record of an object.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    fn from_val(v: Val) -> Result<Self, SchemaError>;

    /// The record's fields in the order in which they are written, without `v`.
    fn to_map(&self) -> Map;
}

/// Reads the record of a line.
///
/// # Errors
/// [`SchemaError`]: `json.syntax` for text that is no JSON (numbers beyond f64 and NaN included), `limit.depth` for what is nested too
/// deep, else as [`Record::from_val`].
pub fn read<R: Record>(line: &str) -> Result<R, SchemaError> {
    let v = json::parse(line, Dialect::Strict).map_err(SchemaError::from)?;
    R::from_val(v)
}

/// The line of a record, without its line feed.
///
/// # Errors
/// [`NotJson`] where a value has no form in JSON.
pub fn line<R: Record>(record: &R) -> Result<String, NotJson> {
    let mut map = Map::default();
    map.insert("v".into(), Val::Int(VERSION));
    map.extend(record.to_map());
    let mut out = String::new();
    json::write_map(&map, &mut out)?;
    Ok(out)
}
