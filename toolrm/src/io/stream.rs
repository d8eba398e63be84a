//! Lines through a function, in parallel and in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

use super::input::{Batch, Input};
use super::journal::{Journal, Mark};
use super::lines::text_of;
use super::output::{Output, beside};
use super::{LineError, RunError, is_stdio};
use crate::json::{self, Dialect};
use crate::record::{self, Record};
use crate::schema::SchemaError;
use crate::value::Val;

/// Lines that one thread takes at a time.
const CHUNK: usize = 256;

/// Bad lines that are listed.
pub(super) const LISTED: u64 = 20;

/// How a run behaves.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Whether the first bad line ends the run.
    pub strict: bool,
    /// Whether an output that is there is written over.
    pub force: bool,
    /// Whether nothing but errors is written to standard error.
    pub quiet: bool,
    /// What the output depends on beside the inputs: a run with another text does not go on where this one stopped.
    pub fingerprint: String,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines that are not blank.
    pub lines: u64,
    /// Lines that could not be used.
    pub rejected: u64,
    /// What the function counted.
    pub tally: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, other: &Summary) {
        self.lines += other.lines;
        self.rejected += other.rejected;
        for (k, n) in &other.tally {
            match self.tally.get_mut(k) {
                Some(sum) => *sum += n,
                None => _ = self.tally.insert(k.clone(), *n),
            }
        }
    }
}

/// A line and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The line without its line feed.
    pub text: &'a str,
    /// Its number in its file, from 1.
    pub number: u64,
    /// Its file, by the place in the list of inputs.
    pub input: usize,
}

impl Line<'_> {
    /// The record of the line.
    ///
    /// # Errors
    /// [`LineError`] with the record's id where the line has one.
    pub fn record<R: Record>(&self) -> Result<R, LineError> {
        named(self.text)
    }
}

/// Reads a record; an error carries its id.
fn named<R: Record>(text: &str) -> Result<R, LineError> {
    let v = json::parse(text, Dialect::Strict)
        .map_err(|e| SchemaError::of(e.kind(), "", format!("{e}, expected a {}", R::NAME)))?;
    // A copy, because reading takes the object apart.
    let id =
        ["id", "step_id", "task_id"].iter().find_map(|k| v.get(k).and_then(Val::as_str)).map(String::from);
    R::from_val(v).map_err(|error| LineError { id, error })
}

/// What the function of a line writes to.
#[derive(Debug, Default)]
pub struct Sink {
    out: Vec<u8>,
    summary: Summary,
    bad: Vec<(u64, LineError, String)>,
}

impl Sink {
    /// Appends a line to the output.
    pub fn line(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'\n');
    }

    /// Appends a record's line.
    ///
    /// # Errors
    /// `json.none`, where a value has no form in JSON.
    pub fn record<R: Record>(&mut self, record: &R) -> Result<(), LineError> {
        let line = record::line(record).map_err(|e| SchemaError::of("json.none", "", e.to_string()))?;
        self.line(&line);
        Ok(())
    }

    /// Counts something.
    pub fn count(&mut self, name: &str) {
        match self.summary.tally.get_mut(name) {
            Some(n) => *n += 1,
            None => _ = self.summary.tally.insert(name.to_owned(), 1),
        }
    }
}

/// The line that the file of bad lines has for a bad line.
pub(super) fn report(file: &Path, number: u64, error: &LineError, text: &str) -> String {
    let id = error.id.as_ref().map_or(Val::Null, |id| id.clone().into());
    let all = Val::dict([
        ("file", Val::from(file.display().to_string())),
        ("line", Val::int(number.into())),
        ("id", id),
        ("kind", error.error.kind.into()),
        ("path", error.error.path.clone().into()),
        ("message", error.error.what.clone().into()),
        ("text", text.into()),
    ]);
    json::to_string(&all).unwrap_or_default()
}

fn chunk<S>(
    batch: &Batch,
    first: usize,
    input: usize,
    state: &mut S,
    f: &(impl Fn(&mut S, Line<'_>, &mut Sink) -> Result<(), LineError> + Sync),
) -> Sink {
    let mut sink = Sink::default();
    for (i, place) in batch.lines.iter().enumerate().skip(first).take(CHUNK) {
        let bytes = &batch.bytes[place.range.clone()];
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let number = batch.first + i as u64;
        sink.summary.lines += 1;
        let done = sink.out.len();
        let result =
            text_of(bytes, place.too_long).and_then(|text| f(state, Line { text, number, input }, &mut sink));
        if let Err(error) = result {
            sink.out.truncate(done);
            sink.summary.rejected += 1;
            sink.bad.push((number, error, String::from_utf8_lossy(bytes).into_owned()));
        }
    }
    sink
}

fn progress(inputs: &[PathBuf], quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let sizes = inputs.iter().map(|p| std::fs::metadata(p).map(|m| m.len()));
    let bar = match sizes.sum::<Result<u64, _>>() {
        Ok(total) => ProgressBar::new(total),
        Err(_) => ProgressBar::no_length(),
    };
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Passes every line of `inputs`, in order, through `f`, on all threads of rayon's pool, and writes what it gives to `output`
/// in order. `f` has a state for each thread, made by `init`, on which its result must not depend.
///
/// A line for which `f` fails, that is not UTF-8 or too long, goes to `OUTPUT.bad.jsonl`, and is listed on standard error if it
/// is among the first 20. Blank lines are skipped. Memory does not grow with the files.
///
/// A run that ended early goes on where it stopped when it is started again with the same files, sizes and times of change,
/// and fingerprint; a run that reads standard input or writes standard output starts anew.
///
/// # Errors
/// [`RunError`].
pub fn map_lines<S: Send>(
    inputs: &[PathBuf],
    output: &Path,
    control: &Control,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, Line<'_>, &mut Sink) -> Result<(), LineError> + Sync,
) -> Result<Summary, RunError> {
    let streams = is_stdio(output) || inputs.iter().any(|p| is_stdio(p));
    if !is_stdio(output) && output.exists() && !control.force {
        return Err(RunError::Exists(output.to_owned()));
    }
    let bad_path = beside(output, ".bad.jsonl");
    let (mut journal, mut mark) = (None, Mark::default());
    if !streams {
        let (opened, found) = Journal::open(output, &bad_path, &fingerprint(inputs, control)?)?;
        if found != Mark::default() && !control.quiet {
            eprintln!("going on after {} lines of an earlier run", found.summary.lines);
        }
        (journal, mark) = (Some(opened), found);
    }
    let mut out = Output::resume(output, control.force, mark.out)?;
    let mut bad = if is_stdio(output) { None } else { Some(Output::resume(&bad_path, true, mark.bad)?) };
    let read = Arc::new(AtomicU64::new(0));
    let bar = progress(inputs, control.quiet);
    let states: Vec<Mutex<S>> = (0..rayon::current_num_threads()).map(|_| Mutex::new(init())).collect();
    let compute = |batch: &Batch, input: usize| -> Vec<Sink> {
        let starts: Vec<usize> = (0..batch.lines.len()).step_by(CHUNK).collect();
        let one = |first: &usize| {
            let at = rayon::current_thread_index().unwrap_or(0);
            let mut state = states[at].lock().unwrap_or_else(PoisonError::into_inner);
            chunk(batch, *first, input, &mut *state, &f)
        };
        starts.par_iter().map(one).collect()
    };
    for at in mark.input as usize..inputs.len() {
        let (offset, number) = if at == mark.input as usize { (mark.offset, mark.number) } else { (0, 0) };
        let mut input = Input::open(&inputs[at], offset, number, &read)?;
        let mut batch = input.batch()?;
        while !batch.lines.is_empty() {
            let (sinks, next) = rayon::join(|| compute(&batch, at), || input.batch());
            let mut text = Vec::new();
            let mut reports = String::new();
            for sink in sinks {
                for (number, error, line) in sink.bad {
                    let message = format!("{}:{number}: {error}", inputs[at].display());
                    if control.strict {
                        out.discard();
                        bad.into_iter().for_each(Output::discard);
                        journal.into_iter().for_each(Journal::remove);
                        return Err(RunError::Rejected(message));
                    }
                    mark.summary.rejected += 1;
                    if mark.summary.rejected <= LISTED && !control.quiet {
                        bar.suspend(|| eprintln!("{message}"));
                    }
                    reports.push_str(&report(&inputs[at], number, &error, &line));
                    reports.push('\n');
                }
                mark.summary.add(&Summary { rejected: 0, ..sink.summary });
                text.extend_from_slice(&sink.out);
            }
            out.write(&text)?;
            if let Some(bad) = &mut bad {
                bad.write(reports.as_bytes())?;
                mark.bad = bad.len();
            }
            mark.out = out.len();
            (mark.input, mark.offset) = (at as u64, batch.end);
            mark.number = batch.first + batch.lines.len() as u64 - 1;
            if let Some(journal) = &mut journal {
                journal
                    .mark(&mark, || out.sync().and_then(|()| bad.as_ref().map_or(Ok(()), Output::sync)))?;
            }
            bar.set_position(read.load(Ordering::Relaxed));
            batch = next?;
        }
    }
    bar.finish_and_clear();
    out.finish()?;
    if let Some(bad) = bad {
        if bad.len() > 0 {
            bad.finish()?;
        } else {
            bad.discard();
            // That of a run before, which had bad lines.
            _ = std::fs::remove_file(&bad_path);
        }
    }
    journal.into_iter().for_each(Journal::remove);
    Ok(mark.summary)
}

/// What must be the same for a run to go on: the inputs with their sizes and times, and what the caller says.
fn fingerprint(inputs: &[PathBuf], control: &Control) -> Result<String, RunError> {
    let mut text = format!("{}\0{}", env!("CARGO_PKG_VERSION"), control.fingerprint);
    for path in inputs {
        let meta = std::fs::metadata(path).map_err(|e| RunError::file(path, e))?;
        let time = meta.modified().map_err(|e| RunError::file(path, e))?;
        text.push_str(&format!("\0{}\0{}\0{time:?}", path.display(), meta.len()));
    }
    Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())))
}
