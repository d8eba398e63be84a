//! Whole files, for stages that cannot work line by line.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rayon::prelude::*;

use super::input::{Batch, Input, MAX_LINE};
use super::output::beside;
use super::stream::{Control, LISTED, Line, Summary, report};
use super::{LineError, Output, RunError, is_stdio};
use crate::schema::SchemaError;

/// The text of a line, or what is wrong with it.
pub(super) fn text_of(bytes: &[u8], too_long: bool) -> Result<&str, LineError> {
    if too_long {
        return Err(SchemaError::of("limit.size", "", format!("a line of more than {MAX_LINE} bytes")).into());
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let what = format!("expected UTF-8, found another byte after {} bytes", e.valid_up_to());
        SchemaError::of("text.utf8", "", what).into()
    })
}

/// Passes every line of a file through `f` on all threads and keeps what it gives, in order; lines for which it gives nothing,
/// and those that are no text, are passed over. The file itself is not kept.
///
/// # Errors
/// [`RunError::File`].
pub fn scan<T: Send>(path: &Path, f: impl Fn(Line<'_>) -> Option<T> + Sync) -> Result<Vec<T>, RunError> {
    let mut input = Input::open(path, 0, 0, &Arc::new(AtomicU64::new(0)))?;
    let mut out = Vec::new();
    loop {
        let batch = input.batch()?;
        if batch.lines.is_empty() {
            return Ok(out);
        }
        let one = |(i, bytes, too_long): (usize, &[u8], bool)| {
            let text = text_of(bytes, too_long).ok()?;
            f(Line { text, number: batch.first + i as u64, input: 0 })
        };
        let lines: Vec<_> = full(&batch).collect();
        out.extend(lines.into_par_iter().filter_map(one).collect::<Vec<T>>());
    }
}

/// The lines of a batch that are not blank.
fn full(batch: &Batch) -> impl Iterator<Item = (usize, &[u8], bool)> {
    let lines = batch.lines.iter().enumerate().map(|(i, l)| (i, &batch.bytes[l.range.clone()], l.too_long));
    lines.filter(|(_, bytes, _)| !bytes.trim_ascii().is_empty())
}

/// Values, each with the line that it was made from.
pub type WithLines<'a, T> = Vec<(T, &'a str)>;

/// The lines of a file, in memory.
pub struct Lines {
    path: PathBuf,
    batches: Vec<Batch>,
}

impl Lines {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RunError::File`].
    pub fn read(path: &Path) -> Result<Self, RunError> {
        let mut input = Input::open(path, 0, 0, &Arc::new(AtomicU64::new(0)))?;
        let mut batches = Vec::new();
        loop {
            let batch = input.batch()?;
            if batch.lines.is_empty() {
                return Ok(Lines { path: path.to_owned(), batches });
            }
            batches.push(batch);
        }
    }

    /// What `f` gives for each line, with the line, in order. Bad lines are dealt with as by [`map_lines`](super::map_lines):
    /// their reports go beside `output`.
    ///
    /// # Errors
    /// [`RunError::Rejected`] for a bad line with [`Control::strict`]; [`RunError::File`].
    pub fn map<T: Send>(
        &self,
        output: &Path,
        control: &Control,
        f: impl Fn(Line<'_>) -> Result<T, LineError> + Sync,
    ) -> Result<(WithLines<'_, T>, Summary), RunError> {
        let lines: Vec<_> = self
            .batches
            .iter()
            .flat_map(|b| full(b).map(move |(i, l, long)| (b.first + i as u64, l, long)))
            .collect();
        let read = |&(number, bytes, too_long): &(u64, &[u8], bool)| {
            text_of(bytes, too_long).and_then(|text| f(Line { text, number, input: 0 }))
        };
        let results: Vec<Result<T, LineError>> = lines.par_iter().map(read).collect();
        let mut summary = Summary { lines: lines.len() as u64, ..Summary::default() };
        let (mut kept, mut reports) = (Vec::with_capacity(lines.len()), String::new());
        for (result, (number, bytes, _)) in results.into_iter().zip(lines) {
            match (result, std::str::from_utf8(bytes)) {
                (Ok(value), Ok(text)) => kept.push((value, text)),
                (Err(error), _) => {
                    let message = format!("{}:{number}: {error}", self.path.display());
                    if control.strict {
                        return Err(RunError::Rejected(message));
                    }
                    summary.rejected += 1;
                    if summary.rejected <= LISTED && !control.quiet {
                        eprintln!("{message}");
                    }
                    reports.push_str(&report(&self.path, number, &error, &String::from_utf8_lossy(bytes)));
                    reports.push('\n');
                }
                // A value was made from the text, so the bytes are text.
                (Ok(_), Err(_)) => {}
            }
        }
        if !is_stdio(output) {
            let path = beside(output, ".bad.jsonl");
            if reports.is_empty() {
                // That of a run before, which had bad lines.
                _ = std::fs::remove_file(&path);
            } else {
                let mut bad = Output::create(&path, true)?;
                bad.write(reports.as_bytes())?;
                bad.finish()?;
            }
        }
        Ok((kept, summary))
    }
}

/// Places of equal keys, in the order in which keys first appear.
pub fn groups<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<Vec<usize>> {
    let mut at: HashMap<&str, usize> = HashMap::new();
    let mut out: Vec<Vec<usize>> = Vec::new();
    for (i, key) in keys.into_iter().enumerate() {
        let group = *at.entry(key).or_insert_with(|| {
            out.push(Vec::new());
            out.len() - 1
        });
        out[group].push(i);
    }
    out
}
