//! `stats`, `diff`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use toolrm::io::{Control, Lines};
use toolrm::json::{self, Dialect};
use toolrm::{SchemaError, Val, canon};

use crate::common::Outcome;

/// Fields whose values are counted, and fields whose numbers are averaged.
const COUNTED: [&str; 12] = [
    "source",
    "origin",
    "message",
    "bin",
    "kind",
    "split",
    "orientation",
    "category",
    "error_type",
    "valid",
    "level",
    "correct",
];
const AVERAGED: [&str; 6] = ["score", "intensity", "complexity", "reward", "tokens_in", "tokens_out"];

/// Values of one field that are listed.
const LISTED: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// Records of any kind.
    file: PathBuf,
}

fn object(text: &str) -> Result<Val, SchemaError> {
    let v = json::parse(text, Dialect::Strict).map_err(SchemaError::from)?;
    if v.as_dict().is_none() { Err(SchemaError::field("", "an object", Some(&v))) } else { Ok(v) }
}

fn text(v: &Val) -> String {
    v.as_str().map_or_else(|| json::to_string(v).unwrap_or_default(), Into::into)
}

impl Stats {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let lines = Lines::read(&self.file)?;
        let looked = |v: &Val| {
            let counted = COUNTED.map(|k| v.get(k).map(text));
            (counted, AVERAGED.map(|k| v.get(k).and_then(Val::to_f64)))
        };
        let (all, mut summary) =
            lines.map(Path::new("-"), control, |line| Ok(looked(&object(line.text)?)))?;
        let mut counts: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        let mut sums = [(0u64, 0f64, f64::INFINITY, f64::NEG_INFINITY); AVERAGED.len()];
        for ((counted, averaged), _) in &all {
            for (name, value) in COUNTED.iter().zip(counted) {
                if let Some(value) = value {
                    *counts.entry(name).or_default().entry(value).or_default() += 1;
                }
            }
            for (sum, value) in sums.iter_mut().zip(averaged) {
                if let Some(x) = value {
                    *sum = (sum.0 + 1, sum.1 + x, sum.2.min(*x), sum.3.max(*x));
                }
            }
        }
        let mut out = String::new();
        let mut more = Vec::new();
        for (name, values) in &counts {
            let mut sorted: Vec<_> = values.iter().collect();
            sorted.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            _ = writeln!(out, "{name}: {} values", sorted.len());
            for (value, n) in sorted.iter().take(LISTED) {
                _ = writeln!(out, "  {n:8} {value}");
            }
            let counts = sorted.iter().map(|(value, n)| (**value, Val::int((**n).into())));
            more.push((*name, Val::dict(counts)));
        }
        let mut means = Vec::new();
        for (name, (n, sum, least, most)) in AVERAGED.iter().zip(sums).filter(|(_, s)| s.0 > 0) {
            let mean = sum / n as f64;
            _ = writeln!(out, "{name}: mean {mean:.4}, from {least} to {most}, in {n} lines");
            means.push((*name, Val::Float(mean)));
        }
        summary.tally.insert("records".into(), all.len() as u64);
        let more = vec![("values", Val::dict(more)), ("means", Val::dict(means))];
        Ok(Outcome { text: out, more, ..summary.into() })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// Records.
    a: PathBuf,
    /// The others.
    b: PathBuf,
    /// The field by which records are joined.
    #[arg(long, default_value = "id")]
    key: String,
    /// The fields that are compared; all of the records if not given.
    #[arg(long, value_delimiter = ',')]
    fields: Vec<String>,
}

impl Diff {
    /// Records by key.
    fn read<'a>(&self, lines: &'a Lines, control: &Control) -> Result<(BTreeMap<String, Val>, Outcome)> {
        let (all, summary): (Vec<((String, Val), &'a str)>, _) =
            lines.map(Path::new("-"), control, |line| {
                let v = object(line.text)?;
                let key =
                    v.get(&self.key).map(text).ok_or_else(|| SchemaError::field(&self.key, "a key", None))?;
                Ok((key, v))
            })?;
        let mut out = BTreeMap::new();
        for ((key, v), _) in all {
            if out.contains_key(&key) {
                bail!("id.duplicate: {key:?} is there twice");
            }
            out.insert(key, v);
        }
        Ok((out, summary.into()))
    }

    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let (a, b) = (Lines::read(&self.a)?, Lines::read(&self.b)?);
        let ((a, mut outcome), (b, other)) = (self.read(&a, control)?, self.read(&b, control)?);
        outcome.summary.lines += other.summary.lines;
        outcome.summary.rejected += other.summary.rejected;
        let mut only_b: Vec<&String> = b.keys().filter(|k| !a.contains_key(*k)).collect();
        let (mut only_a, mut differ, mut same) = (Vec::new(), Vec::new(), 0u64);
        for (key, left) in &a {
            let Some(right) = b.get(key) else {
                only_a.push(key);
                continue;
            };
            let what = self.differences(left, right);
            if what.is_empty() { same += 1 } else { differ.push((key, what)) }
        }
        let counts = [
            ("same", same),
            ("different", differ.len() as u64),
            ("only_a", only_a.len() as u64),
            ("only_b", only_b.len() as u64),
        ];
        outcome.summary.tally.extend(counts.map(|(k, n)| (k.to_owned(), n)));
        outcome.failed = same != a.len() as u64 || !only_b.is_empty();
        for (key, what) in differ.iter().take(LISTED) {
            _ = writeln!(outcome.text, "{key}: {}", what.join("; "));
        }
        for (name, keys) in [("a", &mut only_a), ("b", &mut only_b)] {
            keys.iter().take(LISTED).for_each(|k| _ = writeln!(outcome.text, "{k}: only in {name}"));
        }
        Ok(outcome)
    }

    fn differences(&self, a: &Val, b: &Val) -> Vec<String> {
        let keys = |v: &Val| -> Vec<String> {
            v.as_dict().into_iter().flatten().filter_map(|(k, _)| k.as_str().map(Into::into)).collect()
        };
        let mut names =
            if self.fields.is_empty() { [keys(a), keys(b)].concat() } else { self.fields.clone() };
        names.sort_unstable();
        names.dedup();
        let shown = |v: Option<&Val>| v.map_or_else(|| "absent".to_owned(), canon);
        let one = |name: &String| {
            let (x, y) = (shown(a.get(name)), shown(b.get(name)));
            (x != y).then(|| format!("{name} {x} -> {y}"))
        };
        names.iter().filter_map(one).collect()
    }
}
