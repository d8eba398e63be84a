//! `score`, `filter`, `pairs`, `sample`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use toolrm::bfcl::NamePolicy;
use toolrm::io::{Control, LineError, Lines, Output, groups, map_lines, scan};
use toolrm::record::{self, Candidate, GOLD_ORIGIN, Pair, Scored, Step};
use toolrm::{
    Balance, Call, Composition, Depth, Difficulty, Embeddings, Holdout, Item, Match, NumEq, PairOptions,
    Rational, SampleOptions, SchemaError, ScoreOptions, Sim, SplitBy, StringEq, Val, bmds, complexity,
    composition, difficulty, intensity_bin, json, score_candidate, score_gold,
};

use crate::common::{ModeArg, Outcome, Usage, choice, not_stdin};

choice!(pub(crate) StringEqArg => StringEq { Exact => StringEq::Exact, Casefold => StringEq::Casefold, Bfcl => StringEq::Bfcl });
choice!(pub(crate) NumEqArg => NumEq { Loose => NumEq::Loose, Strict => NumEq::Strict });
choice!(pub(crate) SimArg => Sim { Keys => Sim::Keys, Pairs => Sim::Pairs });
choice!(pub(crate) MatchArg => Match { Max => Match::Max, Greedy => Match::Greedy, Optimal => Match::Optimal });
choice!(pub(crate) NamesArg => NamePolicy { Exact => NamePolicy::Exact, DotToUnderscore => NamePolicy::DotToUnderscore });

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DepthArg {
    #[value(name = "1")]
    One,
    Deep,
}

/// The readings of the paper that are ours to choose.
#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    /// R1: when strings are the same.
    #[arg(long, value_enum, default_value = "exact")]
    string_eq: StringEqArg,
    /// R1: when numbers are the same.
    #[arg(long, value_enum, default_value = "loose")]
    num_eq: NumEqArg,
    /// R2: what equal arguments are divided by.
    #[arg(long, value_enum, default_value = "keys")]
    sim: SimArg,
    /// R3: how gold calls find their predictions.
    #[arg(long = "match", value_enum, default_value = "max")]
    matching: MatchArg,
    /// R4: arguments as a whole, or the leaves inside them.
    #[arg(long, value_enum, default_value = "1")]
    depth: DepthArg,
    /// R6: how predicted names spell the gold names.
    #[arg(long, value_enum, default_value = "exact")]
    name_policy: NamesArg,
}

impl ScoreArgs {
    pub(crate) fn options(&self) -> ScoreOptions {
        ScoreOptions {
            string_eq: self.string_eq.into(),
            num_eq: self.num_eq.into(),
            sim: self.sim.into(),
            matching: self.matching.into(),
            depth: match self.depth {
                DepthArg::One => Depth::One,
                DepthArg::Deep => Depth::Deep,
            },
            names: self.name_policy.into(),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Score {
    /// Steps.
    #[arg(long)]
    steps: PathBuf,
    /// Candidates, in any order.
    #[arg(long, required = true, num_args = 1..)]
    candidates: Vec<PathBuf>,
    /// Where the scored candidates go: the gold responses of all steps, then the candidates in order.
    #[arg(short, long, value_name = "SCORED")]
    output: PathBuf,
    #[command(flatten)]
    score: ScoreArgs,
    /// How much the parser forgives.
    #[arg(long, value_enum, default_value = "lenient")]
    mode: ModeArg,
}

/// What scoring needs of a step: the line that it stands on, its source and gold calls.
struct Gold {
    line: u64,
    source: String,
    calls: Vec<Call>,
}

impl Score {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        not_stdin(&self.steps, "steps")?;
        // Steps that cannot be read are reported by the run itself.
        let steps = scan(&self.steps, |line| {
            let step: Step = line.record().ok()?;
            Some((step.id, Gold { line: line.number, source: step.source, calls: step.calls }))
        })?;
        let mut golds: HashMap<String, Gold> = HashMap::with_capacity(steps.len());
        for (id, gold) in steps {
            golds.entry(id).or_insert(gold);
        }
        let (options, mode) = (self.score.options(), self.mode.into());
        let mut inputs = vec![self.steps.clone()];
        inputs.extend(self.candidates.iter().cloned());
        let summary = map_lines(
            &inputs,
            &self.output,
            control,
            || (),
            |(), line, sink| {
                if line.input == 0 {
                    let step: Step = line.record()?;
                    if let Some(first) = golds.get(&step.id).filter(|g| g.line != line.number) {
                        let what = format!("the step of line {} has this id too", first.line);
                        return Err(LineError {
                            id: Some(step.id),
                            error: SchemaError::of("id.duplicate", "id", what),
                        });
                    }
                    sink.count("steps");
                    return sink.record(&score_gold(&step));
                }
                let candidate: Candidate = line.record()?;
                if candidate.origin == GOLD_ORIGIN {
                    let what = format!("{GOLD_ORIGIN:?} is the origin of gold responses alone");
                    let error = SchemaError::new("origin", what);
                    return Err(LineError { id: Some(candidate.step_id), error });
                }
                let Some(gold) = golds.get(&candidate.step_id) else {
                    return Err(unknown(candidate.step_id, &self.steps));
                };
                let scored = score_candidate(candidate, &gold.source, &gold.calls, &options, mode);
                sink.count("candidates");
                sink.count(&format!("candidates.{}", scored.message));
                if scored.score == Rational::ONE {
                    sink.count("candidates.right");
                }
                sink.record(&scored)
            },
        )?;
        Ok(summary.into())
    }
}

fn unknown(step_id: String, steps: &Path) -> LineError {
    let what = format!("expected a step of {}", steps.display());
    LineError { id: Some(step_id), error: SchemaError::of("id.unknown", "step_id", what) }
}

#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Scored candidates, in any order.
    scored: PathBuf,
    /// Where those of the steps that are kept go, step by step.
    #[arg(short, long, value_name = "KEPT")]
    output: PathBuf,
    /// Keep the steps that no candidate got right.
    #[arg(long)]
    keep_all_wrong: bool,
}

impl Filter {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let lines = Lines::read(&self.scored)?;
        let mut output = Output::create(&self.output, control.force)?;
        let (all, mut summary) = lines.map(&self.output, control, |line| line.record::<Scored>())?;
        for group in groups(all.iter().map(|(s, _)| s.candidate.step_id.as_str())) {
            let of_models = group.iter().map(|i| &all[*i].0).filter(|s| s.candidate.origin != GOLD_ORIGIN);
            let difficulty = difficulty(of_models);
            *summary.tally.entry(format!("steps.{}", difficulty.name())).or_default() += 1;
            if difficulty == Difficulty::Kept || (difficulty == Difficulty::TooHard && self.keep_all_wrong) {
                let text: String = group.iter().flat_map(|i| [all[*i].1, "\n"]).collect();
                output.write(text.as_bytes())?;
            }
        }
        output.finish()?;
        Ok(summary.into())
    }
}

#[derive(Args, Debug)]
pub(crate) struct Pairs {
    /// Scored candidates with the gold responses of their steps, in any order.
    kept: PathBuf,
    /// Where the pairs go.
    #[arg(short, long, value_name = "PAIRS")]
    output: PathBuf,
    /// Steps whose gold calls and arguments are more than this give no pairs.
    #[arg(long, default_value_t = 50)]
    max_complexity: u64,
    /// The most pairs of a step: evenly spaced ranks by intensity.
    #[arg(long)]
    max_pairs_per_step: Option<usize>,
    /// Only pairs whose chosen side is the gold response.
    #[arg(long)]
    gold_only: bool,
}

impl Pairs {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let options = PairOptions {
            max_complexity: self.max_complexity,
            max_per_step: self.max_pairs_per_step,
            gold_only: self.gold_only,
        };
        let lines = Lines::read(&self.kept)?;
        let mut output = Output::create(&self.output, control.force)?;
        let (all, mut summary) = lines.map(&self.output, control, |line| line.record::<Scored>())?;
        let groups = groups(all.iter().map(|(s, _)| s.candidate.step_id.as_str()));
        let of_step = |group: &Vec<usize>| -> Result<(String, &'static str, u64)> {
            let responses: Vec<Scored> = group.iter().map(|i| all[*i].0.clone()).collect();
            let Some(gold) = responses.iter().find(|r| toolrm::is_gold(r)) else {
                return Ok((String::new(), "steps.without_gold", 0));
            };
            if complexity(gold.calls.as_deref().unwrap_or_default()) > self.max_complexity {
                return Ok((String::new(), "steps.too_complex", 0));
            }
            let mut text = String::new();
            let pairs = toolrm::pairs(&responses, &options);
            for pair in &pairs {
                text.push_str(&record::line(pair)?);
                text.push('\n');
            }
            Ok((text, if pairs.is_empty() { "steps.without_pairs" } else { "steps" }, pairs.len() as u64))
        };
        for groups in groups.chunks(1024) {
            for made in groups.par_iter().map(of_step).collect::<Vec<_>>() {
                let (text, kind, pairs) = made?;
                *summary.tally.entry(kind.to_owned()).or_default() += 1;
                *summary.tally.entry("pairs".to_owned()).or_default() += pairs;
                output.write(text.as_bytes())?;
            }
        }
        output.finish()?;
        Ok(summary.into())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BalanceArg {
    Groups,
    TwoLevel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SplitArg {
    Step,
    Pair,
}

#[derive(Args, Debug)]
pub(crate) struct Sample {
    /// Pairs.
    pairs: PathBuf,
    /// A directory, for train.jsonl, val.jsonl and report.json.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Pairs to take.
    #[arg(short, default_value_t = 30_000)]
    n: usize,
    /// Pairs to hold out.
    #[arg(long, default_value_t = 500)]
    val: usize,
    /// The share of pairs to hold out, instead of a number.
    #[arg(long, conflicts_with = "val")]
    val_frac: Option<f64>,
    /// What is held out together.
    #[arg(long, value_enum, default_value = "step")]
    split_by: SplitArg,
    /// Bins of intensity.
    #[arg(long, default_value_t = 10)]
    bins: u64,
    /// What is balanced: groups of source and bin, or sources first.
    #[arg(long, value_enum, default_value = "groups")]
    balance: BalanceArg,
    /// Shuffle the sources among the pairs.
    #[arg(long)]
    no_source: bool,
    /// Shuffle the intensities among the pairs.
    #[arg(long)]
    no_intensity: bool,
    /// Shuffle the complexities among the pairs.
    #[arg(long)]
    no_complexity: bool,
    /// Unit embeddings of the pairs, in order: f32, little-endian. Groups then give pairs far from one another.
    #[arg(long, value_name = "EMBED.F32")]
    diverse: Option<PathBuf>,
}

/// What is kept of a pair's line.
struct Row {
    id: String,
    step: String,
    source: String,
    bin: u32,
    complexity: u32,
    gold: bool,
}

impl Sample {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        if self.bins == 0 || self.val_frac.is_some_and(|f| !(0.0..=1.0).contains(&f)) {
            return Err(Usage("--bins must be above 0, --val-frac from 0 to 1".into()).into());
        }
        let options = SampleOptions {
            count: self.n,
            seed,
            balance: match self.balance {
                BalanceArg::Groups => Balance::Groups,
                BalanceArg::TwoLevel => Balance::TwoLevel,
            },
            by_source: !self.no_source,
            by_intensity: !self.no_intensity,
            by_complexity: !self.no_complexity,
            holdout: self.val_frac.map_or(Holdout::Count(self.val), Holdout::Share),
            split_by: match self.split_by {
                SplitArg::Step => SplitBy::Step,
                SplitArg::Pair => SplitBy::Pair,
            },
        };
        std::fs::create_dir_all(&self.output).with_context(|| self.output.display().to_string())?;
        let [train, val, report] =
            ["train.jsonl", "val.jsonl", "report.json"].map(|name| self.output.join(name));
        let mut outputs = [Output::create(&train, control.force)?, Output::create(&val, control.force)?];
        let mut report = Output::create(&report, control.force)?;
        let lines = Lines::read(&self.pairs)?;
        let (rows, mut summary) = lines.map(&train, control, |line| {
            let pair: Pair = line.record()?;
            Ok(Row {
                bin: intensity_bin(pair.intensity, self.bins) as u32,
                complexity: u32::try_from(pair.complexity).unwrap_or(u32::MAX),
                gold: pair.chosen.origin == GOLD_ORIGIN,
                id: pair.id,
                step: pair.step_id,
                source: pair.source,
            })
        })?;
        let embeddings = self.diverse.as_deref().map(|path| embeddings(path, rows.len())).transpose()?;
        if embeddings.is_some() && summary.rejected > 0 {
            anyhow::bail!(
                "{} lines of {} are bad, so its embeddings fit no lines",
                summary.rejected,
                self.pairs.display()
            );
        }
        let items: Vec<Item<'_>> = rows
            .iter()
            .map(|(r, _)| Item {
                id: &r.id,
                step: &r.step,
                source: &r.source,
                bin: r.bin,
                complexity: r.complexity,
                gold: r.gold,
            })
            .collect();
        let sample = bmds(&items, &options, embeddings.as_ref())?;
        for (output, part) in outputs.iter_mut().zip([&sample.train, &sample.val]) {
            for part in part.chunks(4096) {
                let text: String = part.iter().flat_map(|i| [rows[*i].1, "\n"]).collect();
                output.write(text.as_bytes())?;
            }
        }
        let before = composition(&items, 0..items.len());
        let after = composition(&items, sample.train.iter().chain(&sample.val).copied());
        let value = Val::dict([("before", composition_val(&before)), ("after", composition_val(&after))]);
        report.write(format!("{}\n", json::to_string(&value)?).as_bytes())?;
        for output in outputs {
            output.finish()?;
        }
        report.finish()?;
        summary.tally.insert("train".into(), sample.train.len() as u64);
        summary.tally.insert("val".into(), sample.val.len() as u64);
        let text = table(&before, &after, self.bins as u32);
        Ok(Outcome { text, more: vec![("composition", value)], ..summary.into() })
    }
}

fn embeddings(path: &Path, rows: usize) -> Result<Embeddings> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    anyhow::ensure!(bytes.len().is_multiple_of(4), "{}: {} bytes are no list of f32", name(), bytes.len());
    let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Embeddings::new(numbers, rows).with_context(name)
}

fn composition_val(c: &Composition) -> Val {
    let counts = c.counts.iter().map(|((source, bin), n)| {
        Val::dict([
            ("source", Val::from(source.as_str())),
            ("bin", Val::Int((*bin).into())),
            ("pairs", Val::int((*n).into())),
        ])
    });
    Val::dict([
        ("counts", Val::List(counts.collect())),
        ("mean_complexity", Val::Float(c.mean_complexity)),
        ("gold_share", Val::Float(c.gold_share)),
    ])
}

/// Counts by source and bin: before, and taken.
fn table(before: &Composition, after: &Composition, bins: u32) -> String {
    let mut sources: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (i, c) in [before, after].into_iter().enumerate() {
        for ((source, _), n) in &c.counts {
            sources.entry(source).or_default()[i] += n;
        }
    }
    let mut out = String::from("| source |");
    (0..bins).for_each(|b| _ = write!(out, " {b} |"));
    out.push_str(" all |\n|---|");
    (0..=bins).for_each(|_| out.push_str("---|"));
    out.push('\n');
    for (source, all) in sources {
        _ = write!(out, "| {source} |");
        for bin in 0..bins {
            let n = |c: &Composition| c.counts.get(&(source.to_owned(), bin)).copied().unwrap_or(0);
            _ = write!(out, " {}/{} |", n(after), n(before));
        }
        _ = writeln!(out, " {}/{} |", all[1], all[0]);
    }
    _ = writeln!(
        out,
        "mean complexity {:.2} of {:.2}, gold chosen {:.3} of {:.3}",
        after.mean_complexity, before.mean_complexity, after.gold_share, before.gold_share
    );
    out
}
