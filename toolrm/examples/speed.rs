//! Times the operations that `bench/toolrm.py` compares with BFCL's own checker, on one thread.
//!
//! usage: speed DIR [check|hermes|pythonic], where DIR has hermes.jsonl and pythonic.jsonl: entries with a `result` each. Prints JSON: microseconds
//! a record, and how many verdicts there were of each kind. With an operation, does that over and over, for a profiler.
#![expect(clippy::print_stdout, reason = "a command that reports")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use toolrm::bfcl::{Checker, EntryReader, Options};
use toolrm::record::{self, GOLD_ORIGIN, Scored};
use toolrm::{
    Call, Format, Item, Mode, PairOptions, SampleOptions, ScoreOptions, Str, Val, bmds, json, parse, rank,
    rule_score,
};

struct Row {
    checker: Arc<Checker>,
    text: Str,
}

fn category(line: &str) -> Result<String, Box<dyn Error>> {
    let members = json::members(line)?;
    let raw = members.iter().find(|(k, _)| k == "category").ok_or("a record without category")?.1;
    Ok(raw.trim_matches('"').to_owned())
}

/// The category that an entry's id says.
fn category_of(id: &str) -> &str {
    id.rsplit_once('_').map_or(id, |(category, _)| category)
}

fn rows(path: &Path) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut reader = EntryReader::new();
    std::fs::read_to_string(path)?
        .lines()
        .map(|line| {
            let (entry, result) = reader.record(line)?;
            let text = result.as_str().ok_or("a result that is no text")?.into();
            Ok(Row { checker: reader.checker(&entry, &category(line)?), text })
        })
        .collect()
}

type Words = BTreeMap<&'static str, u64>;

/// Microseconds an item in the best of five passes, and the words that it gave.
fn time<T>(items: &[T], mut work: impl FnMut(&T) -> &'static str) -> (f64, Words) {
    let mut best = f64::INFINITY;
    let mut words: Vec<&'static str> = Vec::with_capacity(items.len());
    for _ in 0..5 {
        words.clear();
        let start = Instant::now();
        words.extend(items.iter().map(&mut work));
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / items.len() as f64);
    }
    let mut counts = Words::new();
    words.iter().for_each(|w| *counts.entry(w).or_default() += 1);
    (best, counts)
}

fn check(row: &Row, calls: &[Call]) -> &'static str {
    row.checker.check(calls, Options::default()).error_type().unwrap_or("valid")
}

fn decoded(row: &Row, format: Format) -> &'static str {
    match parse(&row.text, format, Mode::Bfcl) {
        Ok(parsed) => check(row, &parsed.calls),
        Err(_) => "ast_decoder:decoder_failed",
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: speed DIR")?;
    let dir = Path::new(&dir);
    let (hermes, pythonic) = (rows(&dir.join("hermes.jsonl"))?, rows(&dir.join("pythonic.jsonl"))?);
    let mut out: Vec<(&str, (f64, Words))> = Vec::new();
    let parsed: Vec<(&Row, Vec<Call>)> = hermes
        .iter()
        .filter_map(|row| Some((row, parse(&row.text, Format::Hermes, Mode::Bfcl).ok()?.calls)))
        .collect();
    if let Some(name) = std::env::args().nth(2) {
        for _ in 0..20 {
            match name.as_str() {
                "check" => drop(time(&parsed, |(row, calls)| check(row, calls))),
                "hermes" => drop(time(&hermes, |row| decoded(row, Format::Hermes))),
                _ => drop(time(&pythonic, |row| decoded(row, Format::Pythonic))),
            }
        }
        return Ok(());
    }
    out.push(("check", time(&parsed, |(row, calls)| check(row, calls))));
    out.push(("hermes", time(&hermes, |row| decoded(row, Format::Hermes))));
    out.push(("pythonic", time(&pythonic, |row| decoded(row, Format::Pythonic))));
    let text = std::fs::read_to_string(dir.join("hermes.jsonl"))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut reader = EntryReader::new();
    let mut sink = String::new();
    let whole = |line: &&str| {
        let Ok((entry, Val::Str(text))) = reader.record(line) else { return "bad line" };
        let row = Row { checker: reader.checker(&entry, category_of(&entry.id)), text };
        let word = decoded(&row, Format::Hermes);
        sink.clear();
        json::write_str(&entry.id, &mut sink);
        json::write_str(word, &mut sink);
        black_box(&sink);
        word
    };
    out.push(("jsonl", time(&lines, whole)));

    // Two calls of five arguments, one value wrong.
    let call =
        |i: i64| Call::new(format!("tool_{}", i % 2), ["a", "b", "c", "d", "e"].map(|k| (k, Val::Int(i))));
    let (gold, said) = ([call(0), call(1)], [call(1), call(2)]);
    let many = vec![(); 100_000];
    let options = ScoreOptions::default();
    out.push((
        "score",
        time(&many, |()| rule_score(black_box(&gold), Some(black_box(&said)), &options).message),
    ));
    // A step of 16 candidates.
    let scored = |i: u64| -> Result<Scored, Box<dyn Error>> {
        let origin = if i == 16 { GOLD_ORIGIN } else { "model" };
        let line = format!(
            r#"{{"step_id":"s","origin":"{origin}","text":"","content":"","calls":[{{"name":"f","arguments":{{"a":{i},"b":"text of some length"}}}},{{"name":"g","arguments":{{"a":[1,2,{i}]}}}}],"score":{}}}"#,
            i as f64 / 16.0
        );
        Ok(record::read(&line)?)
    };
    let responses = (0..=16).map(scored).collect::<Result<Vec<_>, _>>()?;
    let options = PairOptions::default();
    let steps = vec![(); 2000];
    let pairs =
        |(): &()| if rank(black_box(&responses), &options).len() == 136 { "136 pairs" } else { "other" };
    out.push(("pairs of a step", time(&steps, pairs)));
    // A million pairs of 290 sources: the time of all of them.
    let ids: Vec<String> = (0..1_000_000u64).map(|i| format!("step-{i:07}-{:016x}", i * 7919)).collect();
    let sources: Vec<String> = (0..290).map(|i| format!("source-{i}")).collect();
    let items: Vec<Item<'_>> = ids
        .iter()
        .enumerate()
        .map(|(i, id)| Item {
            id,
            step: &id[..12],
            source: &sources[i * i % 290],
            bin: (i % 10) as u32,
            complexity: (i * 31 % 48) as u32,
            gold: i % 2 == 0,
        })
        .collect();
    let start = Instant::now();
    let taken = bmds(&items, &SampleOptions::default(), None)?;
    let micros = start.elapsed().as_secs_f64() * 1e6;
    assert_eq!(taken.train.len() + taken.val.len(), 30_000);
    out.push(("bmds of 1,000,000 pairs", (micros, Words::new())));

    let one = |(name, (micros, words)): (&'static str, (f64, Words))| {
        let words = Val::dict(words.into_iter().map(|(k, n)| (k, Val::int(n.into()))));
        (name, Val::dict([("micros", Val::Float(micros)), ("words", words)]))
    };
    println!("{}", json::to_string(&Val::dict(out.into_iter().map(one)))?);
    Ok(())
}
