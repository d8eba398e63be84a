//! `prompts`, `reward`, `judge`.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use completion::{Complete, Completion, Recorded, Replay, Sampling, Server, ServerOptions};
use toolrm::SchemaError;
use toolrm::critique::{Variant, orientation, pair_task, point_task};
use toolrm::infer::{pair_report, task_requests, task_verdict};
use toolrm::io::{Control, LineError, Lines, map_lines, scan};
use toolrm::record::{self, Orientation, Pair, Step, Task};

use crate::common::{Outcome, Usage, choice, not_stdin};

choice!(pub(crate) VariantArg => Variant {
    Think => Variant::Think, NoThink => Variant::NoThink, Bare => Variant::Bare,
});

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindArg {
    Pairwise,
    Pointwise,
}

/// Pairs to critique tasks.
#[derive(Args, Debug)]
pub(crate) struct Prompts {
    /// The pairs.
    pairs: PathBuf,
    /// Their steps.
    #[arg(long)]
    steps: PathBuf,
    /// Where the tasks go.
    #[arg(short, long, value_name = "TASKS")]
    output: PathBuf,
    /// A task about both responses of a pair, or one about each.
    #[arg(long, value_enum, default_value = "pairwise")]
    kind: KindArg,
    /// How the judge is to answer.
    #[arg(long, value_enum, default_value = "no-think")]
    variant: VariantArg,
    /// Show each pair in both orders, as an evaluation needs it, not in one that the seed draws.
    #[arg(long)]
    both: bool,
}

impl Prompts {
    pub(crate) fn run(&self, control: &Control, seed: u64) -> Result<Outcome> {
        not_stdin(&self.steps, "steps")?;
        let steps: HashMap<String, Step> = scan(&self.steps, |line| line.record::<Step>().ok())?
            .into_iter()
            .map(|step| (step.id.clone(), step))
            .collect();
        let variant: Variant = self.variant.into();
        let summary = map_lines(
            std::slice::from_ref(&self.pairs),
            &self.output,
            control,
            || (),
            |(), line, out| {
                let pair: Pair = line.record()?;
                let fault = |kind: &'static str, path: &str, what: String| LineError {
                    id: Some(pair.id.clone()),
                    error: SchemaError::of(kind, path, what),
                };
                let step = steps
                    .get(&pair.step_id)
                    .ok_or_else(|| fault("id.unknown", "step_id", format!("no step {:?}", pair.step_id)))?;
                let no_form = |e: toolrm::NoForm| fault("json.type", "", e.to_string());
                let mut put = |task: Task| {
                    if task.meta.contains_key("broken_tags") {
                        out.count("prompt.tag_in_content");
                    }
                    out.record(&task)
                };
                if self.kind == KindArg::Pointwise {
                    for (side, response) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
                        let id = format!("{}-{side}", pair.id);
                        put(point_task(step, &id, response, variant).map_err(no_form)?)?;
                    }
                    return Ok(());
                }
                let orders = match self.both {
                    true => vec![Orientation::Original, Orientation::Swapped],
                    false => vec![orientation(seed, &pair.id)],
                };
                for order in orders {
                    put(pair_task(step, &pair, order, variant).map_err(no_form)?)?;
                }
                Ok(())
            },
        )?;
        Ok(summary.into())
    }
}

/// Answers to tasks, as verdicts with rewards.
#[derive(Args, Debug)]
pub(crate) struct Reward {
    /// The tasks.
    tasks: PathBuf,
    /// What a model answered to them.
    completions: PathBuf,
    /// Where the verdicts go.
    #[arg(short, long, value_name = "VERDICTS")]
    output: PathBuf,
}

impl Reward {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        not_stdin(&self.tasks, "tasks")?;
        let tasks: HashMap<String, Task> = scan(&self.tasks, |line| line.record::<Task>().ok())?
            .into_iter()
            .map(|task| (task.id.clone(), task))
            .collect();
        let inputs = std::slice::from_ref(&self.completions);
        let summary = map_lines(
            inputs,
            &self.output,
            control,
            || (),
            |(), line, out| {
                let done: record::Completion = line.record()?;
                let task = tasks.get(&done.task_id).ok_or_else(|| LineError {
                    id: Some(done.task_id.clone()),
                    error: SchemaError::of("id.unknown", "task_id", format!("no task {:?}", done.task_id)),
                })?;
                let verdict = task_verdict(task, &Completion::new(done.text));
                out.count(verdict.level.as_deref().unwrap_or("unread"));
                if verdict.correct == Some(true) {
                    out.count("correct");
                }
                out.record(&verdict)
            },
        )?;
        Ok(summary.into())
    }
}

/// Tasks to answers of a model elsewhere, and how well it tells pairs apart.
#[derive(Args, Debug)]
pub(crate) struct Judge {
    /// The tasks.
    tasks: PathBuf,
    /// `replay:FILE` or a server, such as `http://localhost:8000/v1`.
    #[arg(long)]
    backend: String,
    /// The model's name on the server.
    #[arg(long, default_value = "")]
    model: String,
    /// The environment variable with the server's key.
    #[arg(long)]
    key_variable: Option<String>,
    /// The longest answer, in tokens.
    #[arg(long, default_value_t = 8192)]
    max_tokens: usize,
    /// Divides the logits.
    #[arg(long, default_value_t = 0.6)]
    temperature: f32,
    /// Keep the likeliest tokens of this total probability.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Where the answers go; the same command goes on with the file.
    #[arg(short, long, value_name = "COMPLETIONS")]
    output: PathBuf,
}

impl Judge {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        let lines = Lines::read(&self.tasks)?;
        let (tasks, summary) = lines.map(&self.output, control, |line| line.record::<Task>())?;
        let tasks: Vec<Task> = tasks.into_iter().map(|(task, _)| task).collect();
        let source: Box<dyn Complete> = match self.backend.strip_prefix("replay:") {
            Some(file) => Box::new(Replay::open(file.as_ref(), "task_id")?),
            None if self.backend.starts_with("http") => {
                let key_variable = self.key_variable.clone();
                let options =
                    ServerOptions { key_variable, ..ServerOptions::new(&self.backend, &self.model) };
                Box::new(Server::new(options)?)
            }
            None => {
                let what = format!("--backend {}: expected replay:FILE or http://…", self.backend);
                return Err(Usage(what).into());
            }
        };
        let sampling = Sampling {
            temperature: Some(self.temperature),
            top_p: Some(self.top_p),
            ..Sampling::greedy(self.max_tokens)
        };
        let requests = task_requests(&tasks, &sampling);
        let mut model = Recorded::open(source, &self.output, "task_id")
            .with_context(|| self.output.display().to_string())?;
        let mut completions: HashMap<&str, Completion> = HashMap::new();
        let mut outcome = Outcome { summary, ..Outcome::default() };
        for (task, result) in tasks.iter().zip(model.complete(&requests)) {
            match result {
                Ok(done) => drop(completions.insert(&task.id, done)),
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
