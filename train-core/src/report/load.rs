//! Reading a run directory, finished or still being written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;

use super::ReportError;
use super::rollouts::{self, RolloutStep};

/// The metrics of a run as columns: `series[name][i]` belongs to `steps[i]`.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// The steps in rising order. A resumed run repeats steps: the records written last count.
    pub steps: Vec<u64>,
    /// By metric name; `None` where nothing was measured, NaN and infinities as recorded.
    pub series: BTreeMap<String, Vec<Option<f64>>>,
}

/// One line of `events.jsonl`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Unix time in seconds.
    pub time: Option<f64>,
    /// The step it belongs to.
    pub step: Option<u64>,
    /// What sort of event: `guard`, `eval`, `checkpoint`, `resumed`, `level`, `skip`, ...
    pub kind: String,
    /// The guard's, set's or file's name.
    pub name: String,
    /// One sentence for people.
    pub message: String,
    /// What to try, most promising first.
    pub advice: Vec<String>,
}

/// Everything the report shows of one run, as read from its directory.
#[derive(Clone, Debug, Default)]
pub struct RunData {
    /// The directory it was read from.
    pub dir: PathBuf,
    /// `run.name` of the configuration, else the directory's name.
    pub name: String,
    /// `config.toml` as text.
    pub config_text: Option<String>,
    /// `config.toml` flattened to dotted keys.
    pub config: BTreeMap<String, String>,
    /// `run.json`: facts of host and run.
    pub facts: serde_json::Map<String, Value>,
    /// `metrics.jsonl`.
    pub metrics: Metrics,
    /// `events.jsonl`, in the order written.
    pub events: Vec<Event>,
    /// Chosen samples of chosen steps, in step order.
    pub rollouts: Vec<RolloutStep>,
    /// What could not be read, in words. Shown on the page, so that nothing is left out silently.
    pub notes: Vec<String>,
}

impl RunData {
    /// Reads a run directory.
    ///
    /// Only `metrics.jsonl` must exist. A half-written last line (the run is in progress) is ignored; any other
    /// line or optional file that cannot be read is skipped and named in [`RunData::notes`].
    ///
    /// # Errors
    /// [`ReportError::NotARun`] without `metrics.jsonl`, [`ReportError::Io`] when it cannot be read.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self, ReportError> {
        let dir = dir.as_ref();
        let mut run = Self { dir: dir.to_path_buf(), ..Self::default() };
        let path = dir.join("metrics.jsonl");
        match read(&path) {
            Ok(Some(text)) => run.metrics = parse_metrics(&text, &mut run.notes),
            Ok(None) => return Err(ReportError::NotARun { dir: dir.to_path_buf() }),
            Err(source) => return Err(ReportError::Io { path, source }),
        }
        if let Some(text) = run.optional("config.toml") {
            match text.parse::<toml::Table>() {
                Ok(table) => flatten("", &toml::Value::Table(table), &mut run.config),
                Err(error) => run.notes.push(format!("config.toml is not valid TOML: {}", error.message())),
            }
            run.config_text = Some(text);
        }
        if let Some(text) = run.optional("run.json") {
            match serde_json::from_str::<Value>(&text) {
                Ok(Value::Object(facts)) => run.facts = facts,
                Ok(_) => run.notes.push("run.json is not a JSON object".into()),
                Err(error) => run.notes.push(format!("run.json is not valid JSON: {error}")),
            }
        }
        if let Some(text) = run.optional("events.jsonl") {
            run.events = objects("events.jsonl", &text, &mut run.notes).iter().map(event).collect();
        }
        run.rollouts = rollouts::load(&dir.join("rollouts"), &mut run.notes);
        run.name = run
            .config
            .get("run.name")
            .cloned()
            .or_else(|| run.facts.get("name").and_then(Value::as_str).map(str::to_owned))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| directory_name(dir));
        Ok(run)
    }

    /// The measured points of a metric as `(step, value)`. Missing values are left out, NaN and infinities kept.
    #[must_use]
    pub fn points(&self, metric: &str) -> Vec<(f64, f64)> {
        let Some(column) = self.metrics.series.get(metric) else { return Vec::new() };
        let steps = self.metrics.steps.iter();
        steps.zip(column).filter_map(|(&step, value)| value.map(|value| (step as f64, value))).collect()
    }

    /// Reads a file that may be absent; says so in the notes when it is there and cannot be read.
    fn optional(&mut self, file: &str) -> Option<String> {
        match read(&self.dir.join(file)) {
            Ok(text) => text,
            Err(error) => {
                self.notes.push(format!("{file} cannot be read: {error}"));
                None
            }
        }
    }
}

fn directory_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    dir.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A file's text (a damaged byte costs one character, not the file); `None` when it does not exist.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The JSON objects of a JSON-lines text. An unreadable last line without a line end is a write in progress.
pub(super) fn objects(file: &str, text: &str, notes: &mut Vec<String>) -> Vec<Value> {
    let mut objects = Vec::new();
    let mut bad = Vec::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(value) if value.is_object() => objects.push(value),
            _ if !line.ends_with('\n') => {}
            _ => bad.push(index + 1),
        }
    }
    if let Some(first) = bad.first() {
        let (count, s) = (bad.len(), if bad.len() == 1 { "" } else { "s" });
        notes.push(format!(
            "{file}: {count} line{s} could not be read and left out, the first is line {first}"
        ));
    }
    objects
}

fn parse_metrics(text: &str, notes: &mut Vec<String>) -> Metrics {
    let mut records: BTreeMap<u64, Value> = BTreeMap::new();
    let mut without_step = 0_usize;
    for object in objects("metrics.jsonl", text, notes) {
        let Some(step) = object.get("step").and_then(Value::as_u64) else {
            without_step += 1;
            continue;
        };
        // A run resumed from an earlier checkpoint writes its steps anew: what it rolled back goes.
        records.split_off(&step);
        records.insert(step, object);
    }
    if without_step > 0 {
        notes.push(format!("metrics.jsonl: {without_step} records without a whole number as step left out"));
    }
    let mut metrics = Metrics { steps: records.keys().copied().collect(), ..Metrics::default() };
    let mut not_numbers = BTreeSet::new();
    for (row, object) in records.values().enumerate() {
        for (name, value) in object.as_object().into_iter().flatten().filter(|(name, _)| *name != "step") {
            let value = match (number(value), value) {
                (Some(number), _) => Some(number),
                (None, Value::Null) => None,
                (None, _) => {
                    not_numbers.insert(name.clone());
                    continue;
                }
            };
            if !metrics.series.contains_key(name) {
                metrics.series.insert(name.clone(), vec![None; records.len()]);
            }
            if let Some(column) = metrics.series.get_mut(name) {
                column[row] = value;
            }
        }
    }
    if !not_numbers.is_empty() {
        let names = not_numbers.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!("metrics.jsonl: values that are not numbers left out: {names}"));
    }
    metrics
}

/// A number as the run directory writes it: JSON has no NaN and no infinity, so they are strings.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "nan" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn event(object: &Value) -> Event {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let advice = object.get("advice").and_then(Value::as_array);
    Event {
        time: object.get("time").and_then(number).filter(|time| time.is_finite()),
        step: object.get("step").and_then(Value::as_u64),
        kind: text("kind"),
        name: text("name"),
        message: text("message"),
        advice: advice.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

/// Tables become dotted keys; arrays and scalars keep their TOML form, strings without quotes.
fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, into);
            }
        }
        toml::Value::String(text) => {
            into.insert(prefix.to_owned(), text.clone());
        }
        other => {
            into.insert(prefix.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_last_line_is_ignored_and_a_damaged_one_is_named() {
        let mut notes = Vec::new();
        let text = "{\"step\":0,\"a/b\":1}\n{\"step\":1,\"a/b\":null}\n{\"step\":2,\"a/";
        let metrics = parse_metrics(text, &mut notes);
        assert_eq!(metrics.steps, [0, 1]);
        assert_eq!(metrics.series["a/b"], [Some(1.0), None]);
        assert!(notes.is_empty(), "{notes:?}");

        let metrics =
            parse_metrics("{\"step\":0,\"a/b\":1}\n{\"step\":1,\"a\n{\"step\":2,\"a/b\":3}\n", &mut notes);
        assert_eq!(metrics.steps, [0, 2]);
        assert!(notes[0].contains("line 2"), "{notes:?}");
    }

    #[test]
    fn strings_stand_for_what_json_cannot_write() {
        let mut notes = Vec::new();
        let text = "{\"step\":0,\"a\":\"nan\",\"b\":\"-inf\",\"c\":\"word\"}\n";
        let metrics = parse_metrics(text, &mut notes);
        assert!(metrics.series["a"][0].is_some_and(f64::is_nan));
        assert_eq!(metrics.series["b"][0], Some(f64::NEG_INFINITY));
        assert!(!metrics.series.contains_key("c"));
        assert!(notes[0].ends_with(": c"), "{notes:?}");
    }

    #[test]
    fn a_resumed_run_replaces_the_steps_it_rolled_back() {
        let text =
            "{\"step\":0,\"a\":0}\n{\"step\":1,\"a\":1}\n{\"step\":2,\"a\":2}\n{\"step\":1,\"a\":10}\n";
        let metrics = parse_metrics(text, &mut Vec::new());
        assert_eq!(metrics.steps, [0, 1]);
        assert_eq!(metrics.series["a"], [Some(0.0), Some(10.0)]);
    }

    #[test]
    fn a_directory_without_metrics_is_not_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let error = RunData::load(dir.path()).unwrap_err();
        assert!(matches!(error, ReportError::NotARun { .. }), "{error}");
    }
}
