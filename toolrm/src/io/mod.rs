//! Files of JSON lines: plain, `.gz`, `.zst`, and `-` for standard input and output.
//!
//! [`map_lines`] streams: lines go through a function on all threads and come out in order, a line that cannot be used costs
//! that line alone, and a run that was killed goes on where it stopped and ends with the same bytes. [`Lines`] and [`Output`]
//! are for stages that need whole files. Every file appears whole or not at all.

mod input;
mod journal;
mod lines;
mod output;
mod stream;

use std::fmt;
use std::path::{Path, PathBuf};

pub use input::{MAX_LINE, is_stdio};
pub use lines::{Lines, WithLines, groups, scan};
pub use output::Output;
pub use stream::{Control, Line, Sink, Summary, map_lines};

use crate::schema::SchemaError;

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LineError {
    /// The id of the line's record, where it could be read.
    pub id: Option<String>,
    /// What is wrong, and where in the record.
    pub error: SchemaError,
}

impl From<SchemaError> for LineError {
    fn from(error: SchemaError) -> Self {
        LineError { id: None, error }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = &self.id {
            write!(f, "{id}: ")?;
        }
        write!(f, "{}", self.error)
    }
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The output is already there.
    #[error("{} is already there; --force writes over it", .0.display())]
    Exists(PathBuf),
    /// A bad line, where none is allowed.
    #[error("{0}")]
    Rejected(String),
}

impl RunError {
    /// An error about a file.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        RunError::File { path: path.to_owned(), source }
    }
}
