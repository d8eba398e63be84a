//! How far a run has come: a line for each batch, after the batch is on disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::RunError;
use super::output::beside;
use super::stream::Summary;
use crate::json::{self, Dialect};
use crate::value::Val;

/// Where a run stands at the end of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mark {
    /// The input, by its place in the list.
    pub(super) input: u64,
    /// Where its next batch starts, in decompressed bytes, and how many lines are before it.
    pub(super) offset: u64,
    pub(super) number: u64,
    /// Bytes of the output and of the file of bad lines.
    pub(super) out: u64,
    pub(super) bad: u64,
    pub(super) summary: Summary,
}

fn int(n: u64) -> Val {
    Val::int(n.into())
}

impl Mark {
    fn to_line(&self) -> String {
        let tally = self.summary.tally.iter().map(|(k, v)| (k.as_str(), int(*v)));
        let all = Val::dict([
            ("input", int(self.input)),
            ("offset", int(self.offset)),
            ("number", int(self.number)),
            ("out", int(self.out)),
            ("bad", int(self.bad)),
            ("lines", int(self.summary.lines)),
            ("rejected", int(self.summary.rejected)),
            ("tally", Val::dict(tally)),
        ]);
        json::to_string(&all).unwrap_or_default()
    }

    fn read(line: &str) -> Option<Mark> {
        let v = json::parse(line, Dialect::Strict).ok()?;
        let get = |k: &str| match v.get(k)? {
            Val::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let mut tally = BTreeMap::new();
        for (k, n) in v.get("tally")?.as_dict()? {
            let Val::Int(n) = n else { return None };
            tally.insert(k.as_str()?.to_owned(), u64::try_from(*n).ok()?);
        }
        Some(Mark {
            input: get("input")?,
            offset: get("offset")?,
            number: get("number")?,
            out: get("out")?,
            bad: get("bad")?,
            summary: Summary { lines: get("lines")?, rejected: get("rejected")?, tally },
        })
    }
}

/// The journal of an output: `OUT.part.log`.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    synced: Instant,
}

/// Time between two marks that survive a loss of power; a killed process loses none.
const SYNC: Duration = Duration::from_secs(2);

impl Journal {
    /// Opens the journal of an output. Returns the last mark of a run with the same `fingerprint` whose files are there, or
    /// the start.
    pub(super) fn open(out: &Path, bad: &Path, fingerprint: &str) -> Result<(Self, Mark), RunError> {
        let path = beside(out, ".part.log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let len = |p: &Path| std::fs::metadata(beside(p, ".part")).map_or(0, |m| m.len());
        let (out_len, bad_len) = (len(out), len(bad));
        let mut lines = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        let mut mark = Mark::default();
        if lines.next().is_some_and(|l| l.trim_end() == fingerprint) {
            let usable = |m: &Mark| m.out <= out_len && m.bad <= bad_len;
            mark = lines.filter_map(Mark::read).rfind(usable).unwrap_or_default();
        }
        let start = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            writeln!(file, "{fingerprint}")?;
            if mark != Mark::default() {
                writeln!(file, "{}", mark.to_line())?;
            }
            Ok(file)
        };
        let file = start().map_err(|e| RunError::file(&path, e))?;
        Ok((Journal { path, file, synced: Instant::now() }, mark))
    }

    /// Notes that everything before a mark is written; `sync` puts the files themselves on disk.
    pub(super) fn mark(
        &mut self,
        mark: &Mark,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), RunError> {
        let write = || {
            if self.synced.elapsed() > SYNC {
                sync()?;
                self.synced = Instant::now();
            }
            self.file.write_all(format!("{}\n", mark.to_line()).as_bytes())
        };
        write().map_err(|e| RunError::file(&self.path, e))
    }

    pub(super) fn remove(self) {
        // A journal without its output is ignored by the next run.
        _ = std::fs::remove_file(&self.path);
    }
}
