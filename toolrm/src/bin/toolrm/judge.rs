//! `judge`, `bon`, `correct`: what asks a model.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use completion::{Complete, Completion, Recorded, Replay, Sampling, Server, ServerOptions};
use toolrm::infer::{
    BestOf, BestOfReport, Contender, CorrectionReport, Oracle, Strategy, correct, pair_report, scored_groups,
    task_requests, task_verdict,
};
use toolrm::io::{Control, LineError, Lines, Output, RunError, Summary};
use toolrm::record::{self, Candidate, GOLD_ORIGIN, Record, Scored, Step, Task};
use toolrm::reward::CritiqueReward;
use toolrm::{Format, Map, Rational, ScoreOptions, Val, infer, rule_score};

use crate::common::{Outcome, Usage};
use crate::critique::VariantArg;

/// Which model is asked, and how.
#[derive(Args, Debug)]
pub(crate) struct Backend {
    /// `replay:FILE` (completions by `task_id`) or a server, such as `http://localhost:8000/v1`; `judge` also takes `oracle`, which
    /// answers with the labels.
    #[arg(long)]
    backend: String,
    /// The model's name on the server.
    #[arg(long, default_value = "")]
    model: String,
    /// The environment variable with the server's key.
    #[arg(long)]
    key_variable: Option<String>,
    /// Requests to the server at one time.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// The longest answer, in tokens.
    #[arg(long, default_value_t = 8192)]
    max_tokens: usize,
    /// Divides the logits.
    #[arg(long, default_value_t = 0.6)]
    temperature: f32,
    /// Keep the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Keep so many of the likeliest tokens; 0 says nothing of it, for servers that do not know it.
    #[arg(long, default_value_t = 20)]
    top_k: usize,
}

impl Backend {
    fn sampling(&self, seed: u64) -> Sampling {
        Sampling {
            max_tokens: self.max_tokens,
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            top_k: Some(self.top_k).filter(|k| *k > 0),
            seed: Some(seed),
        }
    }

    /// The model at `address`.
    fn open(&self, address: &str, model: &str) -> Result<Box<dyn Complete>> {
        if let Some(file) = address.strip_prefix("replay:") {
            return Ok(Box::new(Replay::open(file.as_ref(), "task_id")?));
        }
        if !address.starts_with("http") {
            return Err(Usage(format!("{address:?} is no backend: expected replay:FILE or http://…")).into());
        }
        let (key_variable, concurrency) = (self.key_variable.clone(), self.concurrency);
        let options = ServerOptions::new(address, model);
        Ok(Box::new(Server::new(ServerOptions { key_variable, concurrency, ..options })?))
    }
}

/// A source whose answers are kept beside an output, under its name and this ending.
fn kept(source: Box<dyn Complete>, output: &Path, ending: &str) -> Result<Recorded<Box<dyn Complete>>> {
    let mut name = OsString::from(output);
    name.push(ending);
    let path = PathBuf::from(name);
    Recorded::open(source, &path, "task_id").with_context(|| path.display().to_string())
}

/// Tasks to answers of a model elsewhere, and how well it tells pairs apart.
#[derive(Args, Debug)]
pub(crate) struct Judge {
    /// The tasks.
    tasks: PathBuf,
    #[command(flatten)]
    backend: Backend,
    /// Where the answers go; the same command goes on with the file.
    #[arg(short, long, value_name = "COMPLETIONS")]
    output: PathBuf,
}

impl Judge {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let lines = Lines::read(&self.tasks)?;
        let (tasks, summary) = lines.map(&self.output, control, |line| line.record::<Task>())?;
        let tasks: Vec<Task> = tasks.into_iter().map(|(task, _)| task).collect();
        let source: Box<dyn Complete> = match self.backend.backend.as_str() {
            "oracle" => Box::new(Oracle::new(&tasks)),
            address => self.backend.open(address, &self.backend.model)?,
        };
        let requests = task_requests(&tasks, &self.backend.sampling(seed));
        let mut model = kept(source, &self.output, "")?;
        let mut completions: HashMap<&str, Completion> = HashMap::new();
        let mut outcome = Outcome { summary, ..Outcome::default() };
        let mut count = |what: &str| *outcome.summary.tally.entry(what.to_owned()).or_default() += 1;
        for (task, result) in tasks.iter().zip(model.complete(&requests)) {
            match result {
                Ok(done) => {
                    let verdict = task_verdict(task, &done, &CritiqueReward::default());
                    count(verdict.level.as_deref().unwrap_or("unread"));
                    if verdict.correct == Some(true) {
                        count("correct");
                    }
                    completions.insert(&task.id, done);
                }
                Err(error) => {
                    outcome.failed = true;
                    outcome.text.push_str(&format!("{error}\n"));
                }
            }
        }
        let report = pair_report(&tasks, &completions);
        outcome.text.push_str(&report.to_markdown(true));
        outcome.more.push(("report", report.to_val()));
        Ok(outcome)
    }
}

/// Steps and scored responses to them, both of whose bad lines count.
fn read(
    steps: &Path,
    scored: &Path,
    output: &Path,
    control: &Control,
) -> Result<(Vec<Step>, Vec<Scored>, Summary)> {
    fn records<R: Record + Send>(
        path: &Path,
        output: &Path,
        control: &Control,
    ) -> Result<(Vec<R>, Summary), RunError> {
        let lines = Lines::read(path)?;
        let (all, summary) = lines.map(output, control, |line| -> Result<R, LineError> { line.record() })?;
        Ok((all.into_iter().map(|(record, _)| record).collect(), summary))
    }
    let (steps, mut summary) = records::<Step>(steps, Path::new("-"), control)?;
    let (scored, more) = records::<Scored>(scored, output, control)?;
    summary.lines += more.lines;
    summary.rejected += more.rejected;
    Ok((steps, scored, summary))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyArg {
    /// One prompt with all.
    Listwise,
    /// A bracket that the seed draws.
    Knockout,
    /// Everybody against everybody.
    RoundRobin,
}

/// The best of the responses to each step, by a judge.
#[derive(Args, Debug)]
pub(crate) struct Bon {
    /// Steps.
    #[arg(long)]
    steps: PathBuf,
    /// Scored responses. All of a step compete, the gold response too where it is among them; scores only tell how good the choice is.
    #[arg(long)]
    scored: PathBuf,
    #[command(flatten)]
    judge: Backend,
    /// How the best is found.
    #[arg(long, value_enum, default_value = "listwise")]
    strategy: StrategyArg,
    /// Responses of one prompt, listwise.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..=64))]
    limit: u64,
    /// How the judge is to answer.
    #[arg(long, value_enum, default_value = "no-think")]
    variant: VariantArg,
    /// Where the choices go, as scored responses with their `index` among those of their step in the file; the judge's answers stand in
    /// OUTPUT.judge.jsonl, with which the same command goes on.
    #[arg(short, long, value_name = "OUTPUT")]
    output: PathBuf,
}

impl Bon {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let mut output = Output::create(&self.output, control.force)?;
        let (steps, scored, mut summary) = read(&self.steps, &self.scored, &self.output, control)?;
        let (groups, places): (Vec<BestOf<'_>>, Vec<Vec<usize>>) =
            scored_groups(&steps, &scored).into_iter().unzip();
        let model =
            kept(self.judge.open(&self.judge.backend, &self.judge.model)?, &self.output, ".judge.jsonl")?;
        let mut judge = infer::Judge::new(model, self.variant.into(), self.judge.max_tokens)
            .sampling(self.judge.sampling(seed));
        let strategy = match self.strategy {
            StrategyArg::Listwise => Strategy::Listwise { limit: self.limit as usize },
            StrategyArg::Knockout => Strategy::Knockout { seed },
            StrategyArg::RoundRobin => Strategy::RoundRobin,
        };
        let mut report = BestOfReport::default();
        for (selected, (group, places)) in
            judge.best_of(&groups, strategy)?.into_iter().zip(groups.iter().zip(&places))
        {
            let right: Vec<bool> = places.iter().map(|i| scored[*i].score == Rational::ONE).collect();
            report.add(&group.contenders, &right, selected.index);
            let place = places[selected.index];
            let index = places.iter().filter(|i| **i < place).count();
            let mut chosen = scored[place].clone();
            chosen.candidate.meta.insert("index".into(), Val::Int(index as i64));
            chosen.candidate.meta.insert("distinct".into(), Val::Int(selected.distinct as i64));
            output.write(format!("{}\n", record::line(&chosen)?).as_bytes())?;
        }
        output.finish()?;
        summary.tally.insert("steps".into(), groups.len() as u64);
        let more = vec![("report", report.to_val())];
        Ok(Outcome { text: report.to_text(&judge.usage()), more, ..summary.into() })
    }
}

/// Critiques of responses by a judge, and other answers of a policy to what it finds wrong.
#[derive(Args, Debug)]
pub(crate) struct Correct {
    /// Steps.
    #[arg(long)]
    steps: PathBuf,
    /// Scored responses; gold ones are passed over.
    #[arg(long)]
    scored: PathBuf,
    #[command(flatten)]
    judge: Backend,
    /// The policy: `replay:FILE` or a server.
    #[arg(long)]
    policy: String,
    /// The policy's name on its server.
    #[arg(long, default_value = "")]
    policy_model: String,
    /// The most answers of the policy to one response.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How the judge is to answer.
    #[arg(long, value_enum, default_value = "no-think")]
    variant: VariantArg,
    /// Where the last responses go, scored, with their critiques; answers stand in OUTPUT.judge.jsonl and OUTPUT.policy.jsonl, with which
    /// the same command goes on.
    #[arg(short, long, value_name = "OUTPUT")]
    output: PathBuf,
}

impl Correct {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let mut output = Output::create(&self.output, control.force)?;
        let (steps, scored, mut summary) = read(&self.steps, &self.scored, &self.output, control)?;
        let of: HashMap<&str, &Step> = steps.iter().map(|s| (s.id.as_str(), s)).collect();
        let mut asked: Vec<(&Step, &Scored)> = Vec::new();
        for s in scored.iter().filter(|s| s.candidate.origin != GOLD_ORIGIN) {
            match of.get(s.candidate.step_id.as_str()) {
                Some(step) => asked.push((step, s)),
                None => *summary.tally.entry("without_step".into()).or_default() += 1,
            }
        }
        let responses: Vec<_> = asked
            .iter()
            .map(|(step, s)| {
                let context = infer::Context { id: &step.id, tools: &step.tools, history: &step.history };
                let calls = s.calls.clone().unwrap_or_default();
                (context, Contender { text: s.content.clone(), calls })
            })
            .collect();
        let sampling = self.judge.sampling(seed);
        let judge =
            kept(self.judge.open(&self.judge.backend, &self.judge.model)?, &self.output, ".judge.jsonl")?;
        let mut judge =
            infer::Judge::new(judge, self.variant.into(), self.judge.max_tokens).sampling(sampling.clone());
        let mut policy =
            kept(self.judge.open(&self.policy, &self.policy_model)?, &self.output, ".policy.jsonl")?;
        let done = correct(&mut judge, &mut policy, &sampling, &responses, self.rounds)?;
        let mut report = CorrectionReport::default();
        for ((step, before), corrected) in asked.into_iter().zip(&done) {
            let after = scored_again(step, before, &corrected.response);
            report.add(before.score == Rational::ONE, after.score == Rational::ONE, corrected);
            let mut after = after;
            let critiques = corrected.critiques.iter().map(|c| Val::from(c.as_str())).collect();
            after.candidate.meta.insert("critiques".into(), Val::List(critiques));
            after.candidate.meta.insert("accepted".into(), Val::Bool(corrected.accepted));
            output.write(format!("{}\n", record::line(&after)?).as_bytes())?;
        }
        output.finish()?;
        let more = vec![("report", report.to_val())];
        Ok(Outcome { text: report.to_text(), more, ..summary.into() })
    }
}

/// A response in the place of another, with its own score.
fn scored_again(step: &Step, before: &Scored, response: &Contender) -> Scored {
    // What could not be parsed before and stands as it was still cannot be.
    let same = before.calls.is_none() && response.calls.is_empty() && response.text == before.content;
    let calls = (!same).then(|| response.calls.clone());
    let out = rule_score(&step.calls, calls.as_deref(), &ScoreOptions::default());
    Scored {
        candidate: Candidate {
            step_id: step.id.clone(),
            origin: before.candidate.origin.clone(),
            text: response.text.clone(),
            format: Format::Auto,
            meta: Map::default(),
        },
        source: step.source.clone(),
        content: response.text.clone(),
        calls,
        score: out.ratio,
        message: out.message.to_owned(),
        per_gold: out.per_gold.iter().map(|(i, sim)| (i.map(|i| i as u64), *sim)).collect(),
    }
}
