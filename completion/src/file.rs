//! Files of completions: JSON lines with an id, the text and what else is known.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Answer, Complete, Completion, CompletionError, Request};

/// A file of completions at fault.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is no completion.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// A line of a file.
struct Entry {
    completion: Completion,
    /// The hash of the request, in files that [`Recorded`] wrote.
    request: Option<String>,
}

/// Reads whole lines; later lines of an id replace earlier ones.
fn entries(path: &Path, text: &str, id_field: &str) -> Result<HashMap<String, Entry>, FileError> {
    let mut entries = HashMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fault = |reason: String| FileError::Line { path: path.to_path_buf(), line: i + 1, reason };
        let json: Value = serde_json::from_str(line).map_err(|e| fault(format!("not JSON: {e}")))?;
        let id = json.get(id_field).and_then(Value::as_str);
        let id = id.ok_or_else(|| fault(format!("no text in `{id_field}`")))?.to_owned();
        let request = json.get("request").and_then(Value::as_str).map(str::to_owned);
        let completion = serde_json::from_value(json).map_err(|e| fault(e.to_string()))?;
        entries.insert(id, Entry { completion, request });
    }
    Ok(entries)
}

/// Identifies what was asked: everything but the id.
fn request_hash(request: &Request) -> String {
    let text = json!([request.messages, request.sampling]).to_string();
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Completions that somebody else made.
pub struct Replay {
    path: PathBuf,
    entries: HashMap<String, Entry>,
}

impl Replay {
    /// Reads a file; `id_field` is the name of the field that holds the request's id, such as `task_id`.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no completion.
    pub fn open(path: &Path, id_field: &str) -> Result<Self, FileError> {
        let at = |source| FileError::Io { path: path.to_path_buf(), source };
        let text = std::fs::read_to_string(path).map_err(at)?;
        Ok(Self { path: path.to_path_buf(), entries: entries(path, &text, id_field)? })
    }
}

/// The completion of a request, where the file has it.
fn find(path: &Path, entries: &HashMap<String, Entry>, request: &Request) -> Option<Answer> {
    let entry = entries.get(&request.id)?;
    if entry.request.as_ref().is_some_and(|hash| *hash != request_hash(request)) {
        let (path, id) = (path.display().to_string(), request.id.clone());
        return Some(Err(CompletionError::Changed { path, id }));
    }
    Some(Ok(entry.completion.clone()))
}

impl Complete for Replay {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Answer> {
        let missing = |id: &str| CompletionError::Missing { path: self.name(), id: id.to_owned() };
        let one = |r: &Request| find(&self.path, &self.entries, r).unwrap_or_else(|| Err(missing(&r.id)));
        requests.iter().map(one).collect()
    }
}

/// A source whose completions are kept in a file, and asked for once.
///
/// Completions are appended in the order of requests. Each is written once all before it are there, with others that came in the same
/// second or are [`Recorded::at_a_time`]; meanwhile the source goes on, and a kill costs what is not written yet. A line that was cut by
/// a crash is dropped when the file is opened. What failed is not kept: the next run asks again. A completion of another prompt or
/// other sampling under the same id is an error, never silently reused.
pub struct Recorded<C> {
    source: C,
    path: PathBuf,
    file: File,
    id_field: String,
    entries: HashMap<String, Entry>,
    at_a_time: usize,
    progress: Option<Progress>,
}

/// Is told how many requests of how many are answered.
type Progress = Box<dyn FnMut(usize, usize) + Send>;

impl<C: Complete> Recorded<C> {
    /// Opens or makes the file. `id_field` as for [`Replay::open`].
    ///
    /// # Errors
    /// When the file cannot be read or written, or a whole line is no completion.
    pub fn open(source: C, path: &Path, id_field: &str) -> Result<Self, FileError> {
        let at = |source| FileError::Io { path: path.to_path_buf(), source };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(at)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        file.set_len(whole as u64).map_err(at)?;
        file.seek(SeekFrom::End(0)).map_err(at)?;
        let text = String::from_utf8(bytes)
            .map_err(|e| at(std::io::Error::new(std::io::ErrorKind::InvalidData, e.utf8_error())))?;
        Ok(Self {
            source,
            entries: entries(path, &text, id_field)?,
            path: path.to_path_buf(),
            file,
            id_field: id_field.to_owned(),
            at_a_time: 32,
            progress: None,
        })
    }

    /// [`Recorded::open`] on the file beside `output` that has its name and this `ending`.
    ///
    /// # Errors
    /// As [`Recorded::open`].
    pub fn beside(source: C, output: &Path, ending: &str, id_field: &str) -> Result<Self, FileError> {
        let mut name = OsString::from(output);
        name.push(ending);
        Self::open(source, Path::new(&name), id_field)
    }

    /// The most completions that are written at one time (default 32), and that a source is asked for which cannot say how many it works
    /// on; at least 1.
    #[must_use]
    pub fn at_a_time(mut self, requests: usize) -> Self {
        self.at_a_time = requests.max(1);
        self
    }

    /// Tells a function how many requests of how many are answered, after each write.
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(usize, usize) + Send + 'static) -> Self {
        self.progress = Some(Box::new(tell));
        self
    }

    /// Completions in the file.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the file has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The file, while answers come.
struct Log<'a> {
    path: &'a Path,
    file: &'a mut File,
    id_field: &'a str,
    entries: &'a mut HashMap<String, Entry>,
    written: Instant,
}

/// Time after which answers are written, however few there are.
const PAUSE: Duration = Duration::from_secs(1);

impl Log<'_> {
    /// Appends completions and puts them on the disk.
    fn write(&mut self, done: Vec<(&Request, Completion)>) -> Result<(), FileError> {
        let mut text = String::new();
        for (request, completion) in &done {
            let mut line = serde_json::Map::new();
            line.insert(self.id_field.to_owned(), json!(request.id));
            if let Ok(Value::Object(fields)) = serde_json::to_value(completion) {
                line.extend(fields);
            }
            line.insert("request".into(), json!(request_hash(request)));
            text.push_str(&Value::Object(line).to_string());
            text.push('\n');
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| FileError::Io { path: self.path.to_path_buf(), source })?;
        self.written = Instant::now();
        for (request, completion) in done {
            let request_hash = Some(request_hash(request));
            self.entries.insert(request.id.clone(), Entry { completion, request: request_hash });
        }
        Ok(())
    }
}

impl<C: Complete> Complete for Recorded<C> {
    fn name(&self) -> String {
        self.source.name()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Answer> {
        let mut results: Vec<Option<Answer>> =
            requests.iter().map(|r| find(&self.path, &self.entries, r)).collect();
        let missing: Vec<usize> = (0..requests.len()).filter(|i| results[*i].is_none()).collect();
        let asked: Cow<'_, [Request]> = match missing.len() == requests.len() {
            true => Cow::Borrowed(requests),
            false => missing.iter().map(|i| requests[*i].clone()).collect(),
        };
        let Self { source, path, file, id_field, entries, at_a_time, progress } = self;
        let mut log = Log { path, file, id_field, entries, written: Instant::now() };
        let known = requests.len() - missing.len();
        // Of what is asked: how many from the first on are answered, and how many of these are written.
        let (mut answered, mut written) = (0, 0);
        let mut fault = None;
        source.complete_each(&asked, *at_a_time, &mut |i, result| {
            let Some(place) = missing.get(i) else { return ControlFlow::Continue(()) };
            results[*place] = Some(result);
            while missing.get(answered).is_some_and(|i| results[*i].is_some()) {
                answered += 1;
            }
            let due = answered - written >= *at_a_time || log.written.elapsed() >= PAUSE;
            if answered == written || !due {
                return ControlFlow::Continue(());
            }
            if let Err(error) = log.write(fresh(requests, &results, &missing[written..answered])) {
                fault = Some((missing[written], error));
                return ControlFlow::Break(());
            }
            written = answered;
            if let Some(tell) = progress.as_mut() {
                tell(known + answered, requests.len());
            }
            ControlFlow::Continue(())
        });
        if fault.is_none() && written < missing.len() {
            // Where a source gave too few results, those behind the gap too.
            match log.write(fresh(requests, &results, &missing[written..])) {
                Err(error) => fault = Some((missing[written], error)),
                Ok(()) => {
                    if let Some(tell) = progress.as_mut() {
                        tell(requests.len(), requests.len());
                    }
                }
            }
        }
        if let Some((place, error)) = fault {
            // What cannot be kept is not asked for.
            let reason = error.to_string();
            let lost = || Some(Err(CompletionError::Other(reason.clone())));
            results.iter_mut().filter(|r| r.is_none()).for_each(|r| *r = lost());
            results[place] = Some(Err(error.into()));
        }
        let short = || Err(CompletionError::Other(format!("{} gave too few results", self.source.name())));
        results.into_iter().map(|r| r.unwrap_or_else(short)).collect()
    }
}

/// The completions at these places.
fn fresh<'r>(
    requests: &'r [Request],
    results: &[Option<Answer>],
    places: &[usize],
) -> Vec<(&'r Request, Completion)> {
    let one = |i: &usize| match &results[*i] {
        Some(Ok(completion)) => Some((&requests[*i], completion.clone())),
        _ => None,
    };
    places.iter().filter_map(one).collect()
}
