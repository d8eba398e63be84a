//! `score`, `filter`, `pairs`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use toolrm::bfcl::NamePolicy;
use toolrm::io::{Control, LineError, Lines, Output, groups, map_lines, scan};
use toolrm::record::{self, Candidate, GOLD_ORIGIN, Scored, Step};
use toolrm::{
    Call, Depth, Difficulty, Match, NumEq, PairOptions, Rational, SchemaError, ScoreOptions, Sim, StringEq,
    complexity, difficulty, score_candidate, score_gold,
};

use crate::common::{ModeArg, Outcome, choice, not_stdin};

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
