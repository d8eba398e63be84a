//! `bench build`, `bench score`, `bench report`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use toolrm::bench::{
    Answer, Answers, BenchPair, BuildOptions, Level, ModelResult, build_pairs, score_generative, score_scalar,
};
use toolrm::bfcl::{self, Lang, NamePolicy};
use toolrm::io::{Control, LineError, Lines, Output, groups};
use toolrm::json::{self, Dialect};
use toolrm::record::{self, GOLD_ORIGIN, Kind, Orientation, Pair, Step, Task, Verdict};
use toolrm::{Format, SchemaError, Val, messages, parse_tools};

use crate::bfcl::{data_dir, decode, entries, files, result_of, results_of, walk};
use crate::common::{Outcome, Usage, format};
use crate::pairs::NamesArg;

#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Make pairs of right and wrong responses from the leaderboard's data and results of models.
    Build(Build),
    /// Score a judge's verdicts, or the numbers that it gives.
    Score(Score),
    /// Put reports side by side.
    Report(Report),
}

impl Bench {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        match self {
            Bench::Build(args) => args.run(control),
            Bench::Score(args) => args.run(control),
            Bench::Report(args) => args.run(control),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Build {
    /// The leaderboard's data: a directory with `BFCL_v4_*.json` and `possible_answer/`.
    #[arg(long)]
    data: PathBuf,
    /// Results of a model: a directory that holds `BFCL_v4_CATEGORY_result.json`, at any depth. Its name is the origin.
    #[arg(long, required = true, num_args = 1..)]
    results: Vec<PathBuf>,
    /// A directory, for pairs.jsonl and steps.jsonl.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// How names are spelled in the results.
    #[arg(long, value_enum, default_value = "exact")]
    names: NamesArg,
    /// The format of results that are text; Python-style or source by the category if not given.
    #[arg(short, long, value_parser = format)]
    format: Option<Format>,
    /// The most pairs of one entry with one error type.
    #[arg(long)]
    cap: Option<usize>,
    /// Pairs of executed conversations; those that the gold response wins make a split of their own.
    #[arg(long, requires = "split")]
    pairs: Option<PathBuf>,
    /// The name of that split.
    #[arg(long)]
    split: Option<String>,
}

impl Build {
    fn run(&self, control: &Control) -> Result<Outcome> {
        let name = |p: &Path| {
            p.file_name().map_or_else(|| p.display().to_string(), |n| n.to_string_lossy().into_owned())
        };
        let mut models = Vec::new();
        for dir in &self.results {
            let mut found = Vec::new();
            walk(dir, &mut found).with_context(|| dir.display().to_string())?;
            models.push((name(dir), found));
        }
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        let mut pairs = Output::create(&self.output.join("pairs.jsonl"), control.force)?;
        let mut steps = Output::create(&self.output.join("steps.jsonl"), control.force)?;
        let options = BuildOptions { names: NamePolicy::from(self.names), cap: self.cap };
        let mut outcome = Outcome::default();
        for category in bfcl::CATEGORIES.into_iter().filter(|c| c.calls) {
            let lang = Lang::of(category.name);
            let mut by_id: HashMap<String, Vec<_>> = HashMap::new();
            for (model, found) in &models {
                let Some(path) = results_of(found, category)? else { continue };
                let lines = Lines::read(path)?;
                let read = |line: toolrm::io::Line<'_>| result_of(line.text).map_err(LineError::from);
                let (results, summary) = lines.map(Path::new("-"), control, read)?;
                outcome.summary.lines += summary.lines;
                outcome.summary.rejected += summary.rejected;
                for ((id, result), _) in results {
                    let text = result
                        .as_str()
                        .map_or_else(|| json::to_string(&result).unwrap_or_default(), Into::into);
                    let calls = decode(&result, self.format, lang);
                    let result = ModelResult { origin: model.clone(), text, calls };
                    by_id.entry(id).or_default().push(result);
                }
            }
            if by_id.is_empty() {
                continue;
            }
            let (questions, answers) = files(&data_dir(&self.data), category);
            for entry in entries(&questions, answers.as_deref())? {
                let Some(results) = by_id.remove(&entry.id) else { continue };
                let built = build_pairs(&entry, category.name, &results, &options);
                for (reason, n) in built.dropped {
                    *outcome.summary.tally.entry(format!("dropped.{reason}")).or_default() += n;
                }
                if built.pairs.is_empty() {
                    continue;
                }
                steps.write(format!("{}\n", record::line(&step(&entry, category.name)?)?).as_bytes())?;
                for pair in &built.pairs {
                    *outcome.summary.tally.entry("pairs".into()).or_default() += 1;
                    pairs.write(format!("{}\n", record::line(pair)?).as_bytes())?;
                }
            }
            if let Some(id) = by_id.keys().min() {
                bail!("id.unknown: {} has no entry {id:?}", category.name);
            }
        }
        if let (Some(path), Some(split)) = (&self.pairs, &self.split) {
            self.conversations(path, split, control, &mut pairs, &mut outcome)?;
        }
        pairs.finish()?;
        steps.finish()?;
        Ok(outcome)
    }

    /// Pairs that the gold response of a step wins, as a split.
    fn conversations(
        &self,
        path: &Path,
        split: &str,
        control: &Control,
        output: &mut Output,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let lines = Lines::read(path)?;
        let (all, summary) = lines.map(Path::new("-"), control, |line| line.record::<Pair>())?;
        outcome.summary.lines += summary.lines;
        outcome.summary.rejected += summary.rejected;
        for (mut pair, _) in all.into_iter().filter(|(p, _)| p.chosen.origin == GOLD_ORIGIN) {
            let error =
                if pair.rejected.message == "ok" { "arguments" } else { pair.rejected.message.as_str() };
            pair.meta.insert("error_type".into(), format!("step:{error}").into());
            pair.source = split.to_owned();
            *outcome.summary.tally.entry("pairs".into()).or_default() += 1;
            output.write(format!("{}\n", record::line(&pair)?).as_bytes())?;
        }
        Ok(())
    }
}

/// An entry as the step that its pairs belong to: the last turn's question.
fn step(entry: &bfcl::Entry, category: &str) -> Result<Step> {
    let turns = entry.question.as_list().unwrap_or_default();
    let all: Vec<Val> = turns.iter().flat_map(|t| t.as_list().unwrap_or_default()).cloned().collect();
    let calls = bfcl::canonical_gold(&entry.tools, &entry.gold, Lang::of(category)).unwrap_or_default();
    Ok(Step {
        id: entry.id.clone(),
        conv_id: entry.id.clone(),
        turn: all.len() as u64,
        source: category.to_owned(),
        tools: parse_tools(&entry.tools).with_context(|| format!("{}: function", entry.id))?,
        history: messages(Some(&Val::List(all))).with_context(|| format!("{}: question", entry.id))?,
        content: String::new(),
        calls,
        meta: toolrm::Map::default(),
    })
}

#[derive(Args, Debug)]
pub(crate) struct Score {
    /// The benchmark's pairs.
    #[arg(long)]
    pairs: PathBuf,
    /// The tasks that were judged, both orientations of each pair.
    #[arg(long, requires = "verdicts")]
    tasks: Option<PathBuf>,
    /// The judge's verdicts on the tasks.
    #[arg(long, requires = "tasks")]
    verdicts: Option<PathBuf>,
    /// Numbers of a scalar judge instead: `{pair_id, chosen, rejected}`.
    #[arg(long, conflicts_with = "tasks")]
    scores: Option<PathBuf>,
    /// Where the report goes, as JSON.
    #[arg(short, long, value_name = "REPORT")]
    output: PathBuf,
    /// Print accuracies of single orders too.
    #[arg(long)]
    both_views: bool,
    /// Take tasks without verdicts; their pairs are excluded.
    #[arg(long)]
    partial: bool,
}

impl Score {
    fn run(&self, control: &Control) -> Result<Outcome> {
        let mut output = Output::create(&self.output, control.force)?;
        let lines = Lines::read(&self.pairs)?;
        let none = Path::new("-");
        let (pairs, mut summary) = lines.map(none, control, |line| {
            let pair: Pair = line.record()?;
            let error_type =
                pair.meta.get("error_type").and_then(Val::as_str).unwrap_or(&pair.rejected.message);
            Ok(BenchPair {
                error_type: error_type.to_owned(),
                split: pair.source,
                intensity: pair.intensity.to_f64(),
                complexity: pair.complexity,
                id: pair.id,
            })
        })?;
        let pairs: Vec<BenchPair> = pairs.into_iter().map(|(p, _)| p).collect();
        if let Some(twice) = groups(pairs.iter().map(|p| p.id.as_str())).iter().find(|g| g.len() > 1) {
            bail!("id.duplicate: the pair {:?} is there twice", pairs[twice[0]].id);
        }
        let report = match (&self.tasks, &self.verdicts, &self.scores) {
            (Some(tasks), Some(verdicts), _) => {
                let (tasks, verdicts) = (Lines::read(tasks)?, Lines::read(verdicts)?);
                let (tasks, more) = tasks.map(none, control, |line| judged_task(&line.record()?))?;
                summary.lines += more.lines;
                summary.rejected += more.rejected;
                let (verdicts, more) = verdicts.map(none, control, |line| line.record::<Verdict>())?;
                summary.lines += more.lines;
                summary.rejected += more.rejected;
                let tasks: Vec<_> = tasks.into_iter().map(|(t, _)| t).collect();
                let verdicts: Vec<_> = verdicts.into_iter().map(|(v, _)| v).collect();
                score_generative(&pairs, &answers(&pairs, &tasks, &verdicts, self.partial)?)
            }
            (_, _, Some(scores)) => {
                let lines = Lines::read(scores)?;
                let (rows, more) = lines.map(none, control, |line| Ok(numbers(line.text)?))?;
                summary.lines += more.lines;
                summary.rejected += more.rejected;
                let scores: HashMap<&str, (f64, f64)> =
                    rows.iter().map(|((id, x), _)| (id.as_str(), *x)).collect();
                if let Some(id) = scores.keys().find(|id| pairs.iter().all(|p| p.id != **id)) {
                    bail!("id.unknown: there is no pair {id:?}");
                }
                score_scalar(&pairs, &scores)
            }
            _ => return Err(Usage("expected --tasks and --verdicts, or --scores".into()).into()),
        };
        let value = report.to_val();
        output.write(format!("{}\n", json::to_string(&value)?).as_bytes())?;
        output.finish()?;
        Ok(Outcome {
            text: report.to_markdown(self.both_views),
            more: vec![("report", value)],
            ..summary.into()
        })
    }
}

/// A task's id, its pair and orientation; the label must be what the orientation says.
fn judged_task(task: &Task) -> Result<(String, String, Orientation), LineError> {
    let fail = |kind, path: &str, what: String| {
        Err(LineError { id: Some(task.id.clone()), error: SchemaError::of(kind, path, what) })
    };
    if task.kind != Kind::Pairwise {
        return fail("json.type", "kind", format!("expected pairwise, found {}", task.kind.name()));
    }
    let Some(pair) = &task.pair_id else {
        return fail("field.missing", "pair_id", "expected a pair's id".into());
    };
    let right = if task.orientation == Orientation::Original { "1" } else { "2" };
    match task.label.as_deref() {
        Some(label) if label != right => fail(
            "label.invalid",
            "label",
            format!("expected {right:?} as the orientation says, found {label:?}"),
        ),
        _ => Ok((task.id.clone(), pair.clone(), task.orientation)),
    }
}

/// Verdicts joined with pairs by ids.
fn answers<'a>(
    pairs: &'a [BenchPair],
    tasks: &[(String, String, Orientation)],
    verdicts: &[Verdict],
    partial: bool,
) -> Result<HashMap<&'a str, Answers>> {
    let mut by_task: HashMap<&str, &Verdict> = HashMap::new();
    for verdict in verdicts {
        if by_task.insert(&verdict.task_id, verdict).is_some() {
            bail!("id.duplicate: two verdicts on the task {:?}", verdict.task_id);
        }
    }
    let mut out: HashMap<&str, Answers> = pairs.iter().map(|p| (p.id.as_str(), [None, None])).collect();
    let mut missing = 0;
    for (id, pair, orientation) in tasks {
        let Some(answers) = out.get_mut(pair.as_str()) else {
            bail!("id.unknown: the task {id:?} is of the pair {pair:?}, which is not there");
        };
        let Some(verdict) = by_task.remove(id.as_str()) else {
            missing += 1;
            continue;
        };
        let level = match (verdict.choice, verdict.level.as_deref()) {
            (None, _) => Level::Failed,
            (Some(_), Some("soft")) => Level::Soft,
            (Some(_), _) => Level::Strict,
        };
        let tokens = match verdict.meta.get("tokens_out") {
            Some(Val::Int(n)) => u64::try_from(*n).ok(),
            _ => None,
        };
        let place = usize::from(*orientation == Orientation::Swapped);
        if answers[place].replace(Answer { choice: verdict.choice, level, tokens }).is_some() {
            bail!("id.duplicate: two tasks of the pair {pair:?} in the order {}", orientation.name());
        }
    }
    if missing > 0 && !partial {
        bail!("result.count: {missing} of {} tasks have no verdict; --partial takes them", tasks.len());
    }
    if let Some(id) = by_task.keys().min() {
        bail!("id.unknown: there is no task {id:?}");
    }
    Ok(out)
}

fn numbers(line: &str) -> Result<(String, (f64, f64)), SchemaError> {
    let v = json::parse(line, Dialect::Strict).map_err(SchemaError::from)?;
    let number = |k: &str| match v.get(k) {
        Some(Val::Bool(_)) | None => Err(SchemaError::field(k, "a number", v.get(k))),
        Some(x) => x.to_f64().ok_or_else(|| SchemaError::field(k, "a number", Some(x))),
    };
    let id = v.get("pair_id").and_then(Val::as_str);
    let id = id.ok_or_else(|| SchemaError::field("pair_id", "a string", v.get("pair_id")))?;
    Ok((id.to_owned(), (number("chosen")?, number("rejected")?)))
}

#[derive(Args, Debug)]
pub(crate) struct Report {
    /// Reports of `bench score`.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
}

impl Report {
    fn run(&self, _: &Control) -> Result<Outcome> {
        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut text = String::from("| split |");
        for (i, path) in self.reports.iter().enumerate() {
            let name = path.display().to_string();
            let file = std::fs::read_to_string(path).with_context(|| name.clone())?;
            let v = json::parse(file.trim(), Dialect::Strict).with_context(|| name.clone())?;
            let percent = |v: Option<&Val>| {
                v.and_then(Val::to_f64).map_or_else(String::new, |x| format!("{:.2}", 100.0 * x))
            };
            _ = write!(text, " {name} (chance {}) |", percent(v.get("chance")));
            let mut put = |row: &str, cell: String| {
                let cells = rows.entry(row.to_owned()).or_default();
                cells.resize(i, String::new());
                cells.push(cell);
            };
            let splits =
                v.get("splits").and_then(Val::as_dict).with_context(|| format!("{name}: no report"))?;
            for (split, cell) in splits {
                put(split.as_str().unwrap_or_default(), percent(cell.get("accuracy")));
            }
            // After the splits.
            put("~Avg", percent(v.get("avg")));
            put("~W-Avg", percent(v.get("w_avg")));
        }
        _ = writeln!(text, "\n|---|{}", "---|".repeat(self.reports.len()));
        for (split, mut cells) in rows {
            cells.resize(self.reports.len(), String::new());
            _ = writeln!(text, "| {} | {} |", split.trim_start_matches('~'), cells.join(" | "));
        }
        let mut outcome = Outcome { text, ..Outcome::default() };
        outcome.summary.lines = self.reports.len() as u64;
        Ok(outcome)
    }
}
