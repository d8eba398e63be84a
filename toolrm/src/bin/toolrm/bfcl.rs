//! `bfcl check`, `bfcl eval`, `bfcl gold`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use toolrm::bfcl::{self, Category, Entry, EntryReader, Lang, NamePolicy, Options, Verdict};
use toolrm::io::{Control, LineError, Output, map_lines, scan};
use toolrm::json::{self, Dialect};
use toolrm::record::{self, Check as Checked};
use toolrm::{Call, Format, Mode, ParseFail, SchemaError, Val, parse, parse_source};

use crate::common::{Outcome, Usage, format};

#[derive(Subcommand, Debug)]
pub(crate) enum Bfcl {
    /// Check the responses of one category.
    Check(Check),
    /// Check the responses of all categories that have results, and aggregate them as the leaderboard does.
    Eval(Eval),
    /// Write the canonical gold calls, and check them.
    Gold(Gold),
}

impl Bfcl {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        match self {
            Bfcl::Check(args) => args.run(control),
            Bfcl::Eval(args) => args.run(control),
            Bfcl::Gold(args) => args.run(control),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Names {
    /// As the tool's name.
    Exact,
    /// With `_` for every `.`.
    DotToUnderscore,
    /// With `_` where a prediction spells a dotted tool's name so, and none has a dot.
    Auto,
}

/// How results are read.
#[derive(Args, Debug)]
pub(crate) struct Reading {
    /// How names are spelled in the results.
    #[arg(long, value_enum, default_value = "auto")]
    names: Names,
    /// The format of results that are text; Python-style or source by the category if not given.
    #[arg(short, long, value_parser = format)]
    format: Option<Format>,
    /// Match parallel calls in any way that is valid, instead of the reference's greedy one.
    #[arg(long)]
    optimal: bool,
    /// Take results of fewer entries than there are.
    #[arg(long)]
    partial: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The questions with their tools.
    #[arg(long)]
    questions: PathBuf,
    /// The possible answers; none for categories about relevance.
    #[arg(long)]
    answers: Option<PathBuf>,
    /// The results: `id` and `result`.
    #[arg(long)]
    results: PathBuf,
    /// The category.
    #[arg(long)]
    category: String,
    /// Where the verdicts go.
    #[arg(short, long, value_name = "CHECKS")]
    output: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

/// A known category.
pub(crate) fn category(name: &str) -> Result<Category> {
    bfcl::CATEGORIES.into_iter().find(|c| c.name == name).ok_or_else(|| {
        let nearest = bfcl::nearest_category(name);
        Usage(format!("category.unknown: {name:?}; the nearest is {nearest:?}")).into()
    })
}

/// The entries of a category by id, in order.
pub(crate) fn entries(questions: &Path, answers: Option<&Path>) -> Result<Vec<Entry>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let text = read(questions)?;
    let answers = answers.map(read).transpose()?;
    let mut by_id = HashMap::new();
    let mut reader = EntryReader::new();
    for (i, line) in answers.iter().flat_map(|a| a.lines().enumerate()) {
        if !line.trim().is_empty() {
            let fields = json::members(line).with_context(|| format!("answer {}", i + 1))?;
            let id = fields.iter().find(|(k, _)| k == "id").map(|(_, raw)| *raw).unwrap_or_default();
            by_id.insert(json::parse(id, Dialect::Python)?.as_str().unwrap_or_default().to_owned(), line);
        }
    }
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let at = || format!("{}:{}", questions.display(), i + 1);
        let mut entry = reader.entry(line, None).with_context(at)?;
        if answers.is_some() {
            let answer = by_id.get(entry.id.as_str());
            let answer = *answer.with_context(|| format!("{}: no answer for {:?}", at(), entry.id))?;
            entry = reader.entry(line, Some(answer)).with_context(at)?;
        }
        out.push(entry);
    }
    Ok(out)
}

/// The calls of a result: text in a format, or BFCL's list of `{name: "arguments"}`.
pub(crate) fn decode(result: &Val, format: Option<Format>, lang: Lang) -> Result<Vec<Call>, ParseFail> {
    match (result, format) {
        (Val::Str(text), Some(format)) => parse(text, format, Mode::Bfcl).map(|p| p.calls),
        (Val::Str(text), None) if lang == Lang::Python => {
            parse(text, Format::Pythonic, Mode::Bfcl).map(|p| p.calls)
        }
        (Val::Str(text), None) => parse_source(text, lang).map(|p| p.calls),
        (calls, _) => {
            let text = json::to_string(calls).unwrap_or_default();
            parse(&text, Format::OpenAi, Mode::Bfcl).map(|p| p.calls)
        }
    }
}

/// A result's id, and what the model wrote.
pub(crate) fn result_of(line: &str) -> Result<(String, Val), SchemaError> {
    let v = json::parse(line, Dialect::Python).map_err(SchemaError::from)?;
    let id =
        v.get("id").and_then(Val::as_str).ok_or_else(|| SchemaError::field("id", "a string", v.get("id")))?;
    let result = v.get("result").ok_or_else(|| SchemaError::field("result", "a response", None))?;
    Ok((id.to_owned(), result.clone()))
}

/// Whether predictions spell dotted names with underscores: at least one does, and none has a dot.
fn spelling(
    names: Names,
    results: &[(String, Vec<toolrm::Str>)],
    entries: &HashMap<&str, &Entry>,
) -> NamePolicy {
    match names {
        Names::Exact => return NamePolicy::Exact,
        Names::DotToUnderscore => return NamePolicy::DotToUnderscore,
        Names::Auto => {}
    }
    let mut spelled = false;
    for (id, called) in results {
        let tools = entries.get(id.as_str()).and_then(|e| e.tools.as_list()).unwrap_or_default();
        let dotted = |name: &str| {
            let names = tools.iter().filter_map(|t| t.get("name").and_then(Val::as_str));
            names.into_iter().any(|t| t.contains('.') && t.replace('.', "_") == name)
        };
        if called.iter().any(|name| name.contains('.')) {
            return NamePolicy::Exact;
        }
        spelled |= called.iter().any(|name| dotted(name));
    }
    if spelled { NamePolicy::DotToUnderscore } else { NamePolicy::Exact }
}

impl Reading {
    /// The verdicts of a category's results, written to `output`; also what the names were taken for.
    pub(crate) fn check(
        &self,
        category: Category,
        entries: &[Entry],
        results: &Path,
        output: &Path,
        control: &Control,
    ) -> Result<Outcome> {
        let by_id: HashMap<&str, &Entry> = entries.iter().map(|e| (e.id.as_str(), e)).collect();
        let lang = Lang::of(category.name);
        let decoded = |line: &str| {
            let (id, result) = result_of(line).ok()?;
            let calls = decode(&result, self.format, lang).unwrap_or_default();
            Some((id, calls.into_iter().map(|c| c.name).collect::<Vec<_>>()))
        };
        let called = scan(results, |line| decoded(line.text))?;
        let known = called.iter().filter(|(id, _)| by_id.contains_key(id.as_str())).count();
        if known != entries.len() && !self.partial {
            let what = format!("{known} results for {} entries; --partial takes them", entries.len());
            bail!("result.count: {}: {what}", results.display());
        }
        let names = spelling(self.names, &called, &by_id);
        let matching = if self.optimal { bfcl::Matching::Optimal } else { bfcl::Matching::Greedy };
        let options = Options { names, matching };
        let summary = map_lines(
            &[results.to_owned()],
            output,
            control,
            || (),
            |(), line, sink| {
                let (id, result) = result_of(line.text)?;
                let Some(entry) = by_id.get(id.as_str()) else {
                    let error = SchemaError::of("id.unknown", "id", "expected an entry of the questions");
                    return Err(LineError { id: Some(id), error });
                };
                let decoded = decode(&result, self.format, lang);
                let decoded = decoded.as_deref();
                let verdict =
                    bfcl::check_response(&entry.tools, decoded, &entry.gold, category.name, options);
                sink.count(if verdict.is_valid() { "valid" } else { "invalid" });
                if let Some(error) = verdict.error_type() {
                    sink.count(&format!("error.{error}"));
                }
                sink.record(&checked(id, category.name, &verdict))
            },
        )?;
        let spelled = if names == NamePolicy::Exact { "exact" } else { "dot-to-underscore" };
        let text = if self.names == Names::Auto { format!("names: {spelled}\n") } else { String::new() };
        Ok(Outcome { text, more: vec![("names", spelled.into())], ..summary.into() })
    }
}

/// A verdict as a record.
pub(crate) fn checked(id: String, category: &str, verdict: &Verdict) -> Checked {
    let detail = match verdict {
        Verdict::Valid => None,
        Verdict::Invalid(i) => Some(i.at.to_string()),
        Verdict::Fault { kind, at } => Some(format!("{kind} {at}").trim().to_owned()),
    };
    Checked {
        id,
        category: category.to_owned(),
        valid: verdict.is_valid(),
        error_type: verdict.error_type().map(Into::into),
        detail: detail.filter(|d| !d.is_empty()),
        meta: toolrm::Map::default(),
    }
}

impl Check {
    fn run(&self, control: &Control) -> Result<Outcome> {
        crate::common::not_stdin(&self.results, "results")?;
        let category = category(&self.category)?;
        if category.calls && self.answers.is_none() {
            return Err(Usage(format!("--answers is needed for {}", category.name)).into());
        }
        let entries = entries(&self.questions, self.answers.as_deref())?;
        self.reading.check(category, &entries, &self.results, &self.output, control)
    }
}

#[derive(Args, Debug)]
pub(crate) struct Eval {
    /// The leaderboard's data: a directory with `BFCL_v4_*.json` and `possible_answer/`.
    #[arg(long)]
    data: PathBuf,
    /// Results: a directory that holds `BFCL_v4_CATEGORY_result.json`, at any depth.
    #[arg(long)]
    results: PathBuf,
    /// A directory, for a file of verdicts for each category and report.json.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    reading: Reading,
}

/// The directory with the data, in the package or on its own.
pub(crate) fn data_dir(dir: &Path) -> PathBuf {
    let inside = dir.join("bfcl_eval/data");
    if inside.is_dir() { inside } else { dir.to_owned() }
}

/// The question and answer files of a category.
pub(crate) fn files(data: &Path, category: Category) -> (PathBuf, Option<PathBuf>) {
    let name = format!("BFCL_v4_{}.json", category.name);
    let answers = category.calls.then(|| data.join("possible_answer").join(&name));
    (data.join(name), answers)
}

/// Every file under a directory, sorted.
pub(crate) fn walk(dir: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut inside: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    inside.sort_by_key(std::fs::DirEntry::path);
    for entry in inside {
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), out)?;
        } else {
            out.push(entry.path());
        }
    }
    Ok(())
}

/// The one file of a category's results, if there is any.
pub(crate) fn results_of(files: &[PathBuf], category: Category) -> Result<Option<&PathBuf>> {
    let stem = format!("BFCL_v4_{}_result.json", category.name);
    let is = |p: &&PathBuf| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.strip_suffix('l').unwrap_or(n) == stem)
    };
    let found: Vec<&PathBuf> = files.iter().filter(is).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        [a, b, ..] => bail!("{} and {} are both results of {}", a.display(), b.display(), category.name),
    }
}

impl Eval {
    fn run(&self, control: &Control) -> Result<Outcome> {
        let mut found = Vec::new();
        walk(&self.results, &mut found).with_context(|| self.results.display().to_string())?;
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        let mut report = Output::create(&self.output.join("report.json"), control.force)?;
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut outcome = Outcome::default();
        for category in bfcl::CATEGORIES {
            let Some(results) = results_of(&found, category)? else { continue };
            let (questions, answers) = files(&data_dir(&self.data), category);
            let entries = entries(&questions, answers.as_deref())?;
            let output = self.output.join(format!("{}.jsonl", category.name));
            let one = self.reading.check(category, &entries, results, &output, control)?;
            let valid = one.summary.tally.get("valid").copied().unwrap_or(0);
            // An entry without a result that could be read counts as wrong, unless results may be partial.
            let total = if self.reading.partial { one.summary.lines } else { entries.len() as u64 };
            counts.insert(category.name.to_owned(), (valid, total));
            outcome.summary.lines += one.summary.lines;
            outcome.summary.rejected += one.summary.rejected;
        }
        if counts.is_empty() {
            bail!("{}: no file is named BFCL_v4_CATEGORY_result.json", self.results.display());
        }
        let summary = bfcl::aggregate(&counts);
        let mut text = String::from("| category | valid | entries | accuracy |\n|---|---|---|---|\n");
        for (category, (valid, total)) in &counts {
            let share = 100.0 * *valid as f64 / (*total).max(1) as f64;
            _ = writeln!(text, "| {category} | {valid} | {total} | {share:.2} |");
        }
        let share = |s: Option<f64>| s.map_or("not evaluated".to_owned(), |s| format!("{:.2}", 100.0 * s));
        for (group, score) in &summary.groups {
            _ = writeln!(text, "{}: {}", group.name(), share(*score));
        }
        _ = writeln!(
            text,
            "overall: {} (over groups evaluated: {})",
            share(Some(summary.overall)),
            share(summary.over_evaluated)
        );
        let number = |s: Option<f64>| s.map_or(Val::Null, Val::Float);
        let categories = counts.iter().map(|(c, (valid, total))| {
            (
                c.as_str(),
                Val::dict([("valid", Val::int((*valid).into())), ("total", Val::int((*total).into()))]),
            )
        });
        let value = Val::dict([
            ("categories", Val::dict(categories)),
            ("groups", Val::dict(summary.groups.iter().map(|(g, s)| (g.name(), number(*s))))),
            ("overall", Val::Float(summary.overall)),
            ("over_evaluated", number(summary.over_evaluated)),
        ]);
        report.write(format!("{}\n", json::to_string(&value)?).as_bytes())?;
        report.finish()?;
        Ok(Outcome { text, more: vec![("report", value)], ..outcome })
    }
}

#[derive(Args, Debug)]
pub(crate) struct Gold {
    /// The leaderboard's data: a directory with `BFCL_v4_*.json` and `possible_answer/`.
    #[arg(long)]
    data: PathBuf,
    /// One category; all with gold calls if not given.
    #[arg(long)]
    category: Option<String>,
    /// Where the gold calls go.
    #[arg(short, long, value_name = "GOLDS", default_value = "-")]
    output: PathBuf,
}

/// Entries whose canonical gold the reference itself does not accept.
pub(crate) const UNSATISFIABLE: [&str; 7] = [
    "simple_java_36",
    "simple_java_64",
    "simple_java_65",
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
];

impl Gold {
    fn run(&self, control: &Control) -> Result<Outcome> {
        let wanted = match &self.category {
            Some(name) => vec![category(name)?],
            None => bfcl::CATEGORIES.into_iter().filter(|c| c.calls).collect(),
        };
        let mut output = Output::create(&self.output, control.force)?;
        let mut outcome = Outcome::default();
        for category in wanted {
            let (questions, answers) = files(&data_dir(&self.data), category);
            for entry in entries(&questions, answers.as_deref())? {
                let lang = Lang::of(category.name);
                let calls = bfcl::canonical_gold(&entry.tools, &entry.gold, lang)
                    .with_context(|| format!("{}: the gold answer has an unknown shape", entry.id))?;
                let verdict =
                    bfcl::check(&entry.tools, &calls, &entry.gold, category.name, Options::default());
                let mut line = checked(entry.id.clone(), category.name, &verdict);
                line.meta.insert("calls".into(), Val::List(calls.iter().map(Call::to_val).collect()));
                output.write(format!("{}\n", record::line(&line)?).as_bytes())?;
                outcome.summary.lines += 1;
                let known = UNSATISFIABLE.contains(&entry.id.as_str());
                let kind = match (verdict.is_valid(), known) {
                    (true, false) => "valid",
                    (false, true) => "invalid.known",
                    _ => {
                        outcome.failed = true;
                        _ = writeln!(outcome.text, "{}: {verdict:?}", entry.id);
                        "unexpected"
                    }
                };
                *outcome.summary.tally.entry(kind.into()).or_default() += 1;
            }
        }
        output.finish()?;
        Ok(outcome)
    }
}
