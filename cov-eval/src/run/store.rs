//! The files of a run directory.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::RunError;
use crate::flags::FlagSet;
use crate::model::{Gate, Instance, OutputStats, Status, Verification};
use crate::tasks::Targets;

/// The score of one answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRecord {
    /// The instance.
    pub instance_id: String,
    /// Which of its samples.
    pub sample: u32,
    /// The instance's content.
    pub content_hash: String,
    /// SHA-256 of the answer's record.
    pub answer_hash: String,
    /// The evaluation score.
    pub score: f64,
    /// The training score.
    pub dense: f64,
    /// Whether the answer was refused as a whole.
    pub gate: Gate,
    /// What the score is made of.
    pub components: Vec<(Cow<'static, str>, f64)>,
    /// What it was multiplied by.
    pub multipliers: Vec<(Cow<'static, str>, f64)>,
    /// For each kind of constraint, in order: how many, and the sum of their credits.
    pub credits: Vec<(Cow<'static, str>, u32, f64)>,
    /// For each tenth of the answer or the material: constraints with a place there, and the sum of their credits.
    pub tenths: [(u32, f64); 10],
    /// `fsm`: the share of the steps that are right before the first that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<f64>,
    /// `kv_dict`: where each given entry belongs, from 0 to 1, and how many entries it is off; `None` where it is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<(f64, Option<u32>)>,
    /// What was noticed.
    pub flags: FlagSet,
    /// Sizes.
    pub stats: OutputStats,
}

/// The share of the steps before the first that is wrong, where there are steps.
fn prefix(instance: &Instance, found: &Verification) -> Option<f64> {
    let steps = instance.constraints.iter().zip(&found.verdicts).filter(|(c, _)| c.kind == "step");
    let right: Vec<bool> = steps.map(|(_, verdict)| verdict.status == Status::Pass).collect();
    let prefix = right.iter().take_while(|&&right| right).count();
    (!right.is_empty()).then(|| prefix as f64 / right.len() as f64)
}

/// Where each given entry of a dictionary belongs, and how far it is off.
fn places(instance: &Instance, found: &Verification) -> Vec<(f64, Option<u32>)> {
    let Targets::KvDict(targets) = &instance.targets else { return Vec::new() };
    let given = instance.constraints.iter().zip(&found.verdicts).filter(|(c, _)| c.kind == "position");
    given.map(|(c, verdict)| (c.locus.unwrap_or(0.0), targets.places_off(verdict.credit))).collect()
}

impl ScoreRecord {
    pub(super) fn new(instance: &Instance, sample: u32, answer_hash: &str, found: Verification) -> Self {
        let mut credits: Vec<(Cow<'static, str>, u32, f64)> = Vec::new();
        let mut tenths = [(0, 0.0); 10];
        for (constraint, verdict) in instance.constraints.iter().zip(&found.verdicts) {
            match credits.iter_mut().find(|(kind, ..)| *kind == constraint.kind) {
                Some((_, count, credit)) => (*count, *credit) = (*count + 1, *credit + verdict.credit),
                None => credits.push((constraint.kind.clone(), 1, verdict.credit)),
            }
            if let Some(locus) = constraint.locus {
                let (count, credit) = &mut tenths[((10.0 * locus) as usize).min(9)];
                (*count, *credit) = (*count + 1, *credit + verdict.credit);
            }
        }
        let (prefix, places) = (prefix(instance, &found), places(instance, &found));
        Self {
            instance_id: instance.id.clone(),
            sample,
            content_hash: instance.content_hash.clone(),
            answer_hash: answer_hash.to_owned(),
            score: found.score,
            dense: found.dense,
            gate: found.gate,
            components: found.components,
            multipliers: found.multipliers,
            credits,
            tenths,
            prefix,
            places,
            flags: found.flags,
            stats: found.stats,
        }
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> RunError {
    let path = path.to_owned();
    move |source| RunError::File { path, source }
}

/// The records of a file of JSON lines; blank lines are skipped.
pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RunError> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    parse_lines(path, &text)
}

fn parse_lines<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<T>, RunError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(i, line): (usize, &str)| {
        let error =
            |e: serde_json::Error| RunError::Line { path: path.into(), line: i + 1, message: e.to_string() };
        serde_json::from_str(line).map_err(error)
    };
    lines.map(parse).collect()
}

/// An open run directory.
pub(super) struct Store {
    directory: PathBuf,
    scores: File,
    records: Vec<ScoreRecord>,
}

impl Store {
    /// Opens or begins the run of that identity. A last line without its end is what a killed process left, and is cut off.
    pub(super) fn open(directory: &Path, identity: &serde_json::Value) -> Result<Self, RunError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let run = directory.join("run.json");
        if run.exists() {
            let text = fs::read_to_string(&run).map_err(at(&run))?;
            let found: serde_json::Value = serde_json::from_str(&text).map_err(|e| RunError::Line {
                path: run.clone(),
                line: e.line(),
                message: e.to_string(),
            })?;
            let differing: Vec<String> = differences("", &found, identity);
            if !differing.is_empty() {
                return Err(RunError::OtherRun { path: run, fields: differing.join(", ") });
            }
        } else {
            write_whole(&run, &format!("{identity:#}\n"))?;
        }
        let path = directory.join("scores.jsonl");
        let bytes = if path.exists() { fs::read(&path).map_err(at(&path))? } else { Vec::new() };
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&bytes[..whole]).map_err(|e| {
            let line = bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
            RunError::Line { path: path.clone(), line, message: "not UTF-8".into() }
        })?;
        let records = parse_lines(&path, text)?;
        let scores = OpenOptions::new().append(true).create(true).open(&path).map_err(at(&path))?;
        scores.set_len(whole as u64).map_err(at(&path))?;
        Ok(Self { directory: directory.to_owned(), scores, records })
    }

    /// Adds records and sees them on the disk.
    pub(super) fn append(&mut self, records: &[ScoreRecord]) -> Result<(), RunError> {
        let path = self.directory.join("scores.jsonl");
        for record in records {
            let mut line = serde_json::to_string(record).expect("a score record has finite numbers only");
            line.push('\n');
            self.scores.write_all(line.as_bytes()).map_err(at(&path))?;
        }
        self.scores.sync_data().map_err(at(&path))?;
        self.records.extend_from_slice(records);
        Ok(())
    }

    /// The last record of each answer.
    pub(super) fn known(&self) -> HashMap<(String, u32), ScoreRecord> {
        self.records.iter().map(|r| ((r.instance_id.clone(), r.sample), r.clone())).collect()
    }

    /// What a file of JSON in the directory holds, where there is one.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RunError> {
        let path = self.directory.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        let found = serde_json::from_str(&text);
        found.map(Some).map_err(|e| RunError::Line { path, line: e.line(), message: e.to_string() })
    }

    /// Writes a file of the directory, which may be in a folder of it.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), RunError> {
        let path = self.directory.join(name);
        let parent = path.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent).map_err(at(parent))?;
        write_whole(&path, text)
    }
}

/// A file appears whole or not at all.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), RunError> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).map_err(at(&temporary))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at(&temporary))?;
    fs::rename(&temporary, path).map_err(at(path))
}

/// Paths at which two JSON values differ.
fn differences(path: &str, a: &serde_json::Value, b: &serde_json::Value) -> Vec<String> {
    match (a.as_object(), b.as_object()) {
        (Some(x), Some(y)) => {
            let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
            keys.sort();
            keys.dedup();
            let null = serde_json::Value::Null;
            let inner = |key: &String| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, x.get(key).unwrap_or(&null), y.get(key).unwrap_or(&null))
            };
            keys.into_iter().flat_map(inner).collect()
        }
        _ if a == b => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Answer;
    use proptest::prelude::*;

    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "{", "}", "[", "]", "\"", ":", ",", "\\", "\\u", "\\ud83d", "\n", "\r\n", " ", "\0", "\u{2028}", "\u{feff}", "null", "1e999", "-1", "4294967296", "é",
        "\"instance_id\": ", "\"sample\": ", "\"text\": ", "\"finish\": \"length\"", "\"finish\": ", "\"instance_id\": \"a\", ",
        "{\"instance_id\": \"a\", \"text\": \"b\"}\n",
    ];

    fn hostile() -> impl Strategy<Value = String> {
        let right = [
            "{\"instance_id\": \"fsm/v1/test/256/d1/0/0\", \"text\": \"1 | S0 | a | S1 | x\\n\"}\n\n{\"instance_id\": \"b\", \"sample\": 3, \"text\": \"\"}\n",
            "{\"instance_id\": \"c\", \"text\": \"\\u00e9\", \"reasoning\": null, \"finish\": \"length\"}",
        ];
        crate::fuzz::texts(PIECES, right.map(str::to_owned).to_vec())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::fuzz::CASES))]

        /// Each line that is not blank is a record, or the first that is none is named.
        #[test]
        fn any_text_is_read_or_refused_by_its_line(text in hostile()) {
            let alone = |line: &str| serde_json::from_str::<Answer>(line);
            let lines: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).collect();
            let bad = lines.iter().find(|(_, line)| alone(line).is_err());
            match (parse_lines::<Answer>(Path::new("answers.jsonl"), &text), bad) {
                (Ok(all), None) => {
                    prop_assert_eq!(all.len(), lines.len());
                    for (answer, (_, line)) in all.iter().zip(lines) {
                        prop_assert_eq!(answer, &alone(line).unwrap());
                    }
                }
                (Err(RunError::Line { line, .. }), Some((i, _))) => prop_assert_eq!(line, i + 1),
                (found, bad) => prop_assert!(false, "{:?} {:?}", found, bad),
            }
        }
    }
}
