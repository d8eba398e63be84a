//! `judge`, `bon`, `correct`: what asks a model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use completion::{Complete, Completion, Recorded, Replay, Sampling, Server, ServerOptions};
use toolrm::infer::{
    self, BestOf, Oracle, Strategy, best_by_score, chosen_responses, correct_responses, pair_report,
    scored_groups, task_requests, task_verdict,
};
use toolrm::io::{Control, LineError, Lines, Output, RunError, Summary};
use toolrm::json::{self, Dialect};
use toolrm::record::{self, Record, Scored, Step, Task};
use toolrm::reward::CritiqueReward;
use toolrm::{SchemaError, Val};

use crate::common::{Outcome, Usage};
use crate::critique::VariantArg;

/// Which model is asked, and how.
#[derive(Args, Debug)]
pub(crate) struct Backend {
    /// `replay:FILE` (completions by `task_id`) or a server, such as `http://localhost:8000/v1`; `judge` also takes `oracle`, which
    /// answers with the labels.
    #[arg(long)]
    backend: Option<String>,
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

    /// The model that `--backend` names.
    fn judge(&self) -> Result<Box<dyn Complete>> {
        self.open(self.address()?, &self.model)
    }

    fn address(&self) -> Result<&str> {
        self.backend.as_deref().ok_or_else(|| Usage("expected --backend".into()).into())
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
    Ok(Recorded::beside(source, output, ending, "task_id")?)
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
        let source: Box<dyn Complete> = match self.backend.address()? {
            "oracle" => Box::new(Oracle::new(&tasks)),
            _ => self.backend.judge()?,
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

/// Scored responses, the judge that reads them, and where what comes of it goes.
#[derive(Args, Debug)]
pub(crate) struct Judged {
    /// Steps.
    #[arg(long)]
    steps: PathBuf,
    /// Scored responses to the steps.
    #[arg(long)]
    scored: PathBuf,
    #[command(flatten)]
    backend: Backend,
    /// How the judge is to answer.
    #[arg(long, value_enum, default_value = "no-think")]
    variant: VariantArg,
    /// Where the responses go, scored; models' answers stand beside it (OUTPUT.judge.jsonl, OUTPUT.policy.jsonl), and the same command
    /// goes on with them.
    #[arg(short, long, value_name = "OUTPUT")]
    output: PathBuf,
}

impl Judged {
    /// The steps and the responses, both of whose bad lines count.
    fn read(&self, control: &Control) -> Result<(Vec<Step>, Vec<Scored>, Summary)> {
        fn records<R: Record + Send>(
            path: &Path,
            output: &Path,
            control: &Control,
        ) -> Result<(Vec<R>, Summary), RunError> {
            let lines = Lines::read(path)?;
            let (all, summary) =
                lines.map(output, control, |line| -> Result<R, LineError> { line.record() })?;
            Ok((all.into_iter().map(|(record, _)| record).collect(), summary))
        }
        let (steps, mut summary) = records::<Step>(&self.steps, Path::new("-"), control)?;
        let (scored, more) = records::<Scored>(&self.scored, &self.output, control)?;
        summary.lines += more.lines;
        summary.rejected += more.rejected;
        Ok((steps, scored, summary))
    }

    fn judge(&self, seed: u64) -> Result<infer::Judge<impl Complete>> {
        let model = kept(self.backend.judge()?, &self.output, ".judge.jsonl")?;
        let judge = infer::Judge::new(model, self.variant.into(), self.backend.max_tokens);
        Ok(judge.sampling(self.backend.sampling(seed)))
    }
}

fn write(output: &mut Output, rows: &[Scored]) -> Result<()> {
    for row in rows {
        output.write(format!("{}\n", record::line(row)?).as_bytes())?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyArg {
    /// One prompt with all.
    Listwise,
    /// A bracket that the seed draws.
    Knockout,
    /// Everybody against everybody.
    RoundRobin,
    /// The highest number of a reward model (`--scores`).
    Scalar,
}

/// The best of the responses to each step, by a judge or a reward model's numbers. All responses of a step compete, the gold one too
/// where it is among them; rule scores only tell how good the choice is. Choices have their `index` among those of their step in the file.
#[derive(Args, Debug)]
pub(crate) struct Bon {
    #[command(flatten)]
    judged: Judged,
    /// How the best is found.
    #[arg(long, value_enum, default_value = "listwise")]
    strategy: StrategyArg,
    /// Numbers of a reward model, for `scalar`: `{step_id, index, score}`, one for each response.
    #[arg(long)]
    scores: Option<PathBuf>,
    /// Responses of one prompt, listwise.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(2..=64))]
    limit: u64,
}

impl Bon {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let mut output = Output::create(&self.judged.output, control.force)?;
        let (steps, scored, mut summary) = self.judged.read(control)?;
        let (groups, places): (Vec<BestOf<'_>>, Vec<Vec<usize>>) =
            scored_groups(&steps, &scored).into_iter().unzip();
        let strategy = match self.strategy {
            StrategyArg::Listwise => Some(Strategy::Listwise { limit: self.limit as usize }),
            StrategyArg::Knockout => Some(Strategy::Knockout { seed }),
            StrategyArg::RoundRobin => Some(Strategy::RoundRobin),
            StrategyArg::Scalar => None,
        };
        let (selected, usage) = match (strategy, &self.scores) {
            (Some(strategy), None) => {
                let mut judge = self.judged.judge(seed)?;
                (judge.best_of(&groups, strategy)?, judge.usage())
            }
            (None, Some(file)) => {
                let scores = scores(file, &groups, &places, &mut summary, control)?;
                (best_by_score(&groups, &scores)?, infer::Usage::default())
            }
            _ => return Err(Usage("--strategy scalar and --scores need each other".into()).into()),
        };
        let (rows, report) = chosen_responses(&scored, &groups, &places, &selected);
        write(&mut output, &rows)?;
        output.finish()?;
        summary.tally.insert("steps".into(), groups.len() as u64);
        Ok(Outcome {
            text: report.to_text(&usage),
            more: vec![("report", report.to_val())],
            ..summary.into()
        })
    }
}

/// The numbers of a file, by group and response.
fn scores(
    file: &Path,
    groups: &[BestOf<'_>],
    places: &[Vec<usize>],
    summary: &mut Summary,
    control: &Control,
) -> Result<Vec<Vec<f64>>> {
    let lines = Lines::read(file)?;
    let (rows, more) = lines.map(Path::new("-"), control, |line| Ok(number(line.text)?))?;
    summary.lines += more.lines;
    summary.rejected += more.rejected;
    let mut of: HashMap<(String, usize), f64> = HashMap::new();
    for ((key, score), _) in rows {
        if of.insert(key.clone(), score).is_some() {
            bail!("id.duplicate: response {} of step {:?} has two numbers", key.1, key.0);
        }
    }
    let mut out = Vec::with_capacity(groups.len());
    for (group, places) in groups.iter().zip(places) {
        let mut numbers = Vec::with_capacity(places.len());
        for place in places {
            let index = places.iter().filter(|i| *i < place).count();
            let id = group.context.id;
            let number = of.remove(&(id.to_owned(), index));
            numbers.push(number.with_context(|| {
                format!("field.missing: {} has no number of response {index} of step {id:?}", file.display())
            })?);
        }
        out.push(numbers);
    }
    if let Some((step, index)) = of.keys().min() {
        bail!("id.unknown: there is no response {index} of step {step:?}");
    }
    Ok(out)
}

/// A line of numbers: which response of which step, and its score.
fn number(line: &str) -> Result<((String, usize), f64), SchemaError> {
    let v = json::parse(line, Dialect::Strict).map_err(SchemaError::from)?;
    let wrong = |key: &str, want: &'static str| SchemaError::field(key, want, v.get(key));
    let step = v.get("step_id").and_then(Val::as_str).ok_or_else(|| wrong("step_id", "a string"))?;
    let index = match v.get("index") {
        Some(Val::Int(i)) => usize::try_from(*i).ok(),
        _ => None,
    };
    let score = v.get("score").filter(|x| !matches!(x, Val::Bool(_))).and_then(Val::to_f64);
    Ok((
        (step.to_owned(), index.ok_or_else(|| wrong("index", "a whole number"))?),
        score.ok_or_else(|| wrong("score", "a number"))?,
    ))
}

/// Critiques of responses by a judge, and other answers of a policy to what it finds wrong. Gold responses are passed over; what comes
/// out has its critiques.
#[derive(Args, Debug)]
pub(crate) struct Correct {
    #[command(flatten)]
    judged: Judged,
    /// The policy: `replay:FILE` or a server.
    #[arg(long)]
    policy: String,
    /// The policy's name on its server.
    #[arg(long, default_value = "")]
    policy_model: String,
    /// The most answers of the policy to one response.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

impl Correct {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        let Judged { backend, output: path, .. } = &self.judged;
        let mut output = Output::create(path, control.force)?;
        let (steps, scored, mut summary) = self.judged.read(control)?;
        let mut judge = self.judged.judge(seed)?;
        let mut policy = kept(backend.open(&self.policy, &self.policy_model)?, path, ".policy.jsonl")?;
        let sampling = backend.sampling(seed);
        let done = correct_responses(&mut judge, &mut policy, &sampling, &steps, &scored, self.rounds)?;
        write(&mut output, &done.rows)?;
        output.finish()?;
        if done.without_step > 0 {
            summary.tally.insert("without_step".into(), done.without_step);
        }
        let more = vec![("report", done.report.to_val())];
        Ok(Outcome { text: done.report.to_text(), more, ..summary.into() })
    }
}
