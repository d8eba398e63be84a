//! `reward`, `reward-calls`.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use completion::Completion;
use toolrm::critique::{Reading, Scope};
use toolrm::infer::task_verdict;
use toolrm::io::{Control, LineError, map_lines, scan};
use toolrm::json;
use toolrm::record::{self, Candidate, Step, Task};
use toolrm::reward::{CallPart, CallTask, CritiqueReward, RewardIn, reward_calls};
use toolrm::{Format, SchemaError, Val};

use crate::common::{Outcome, Usage, choice, format, not_stdin};

choice!(pub(crate) ScopeArg => Scope { Final => Scope::Final, Any => Scope::Any });

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
    /// Where the answer is looked for.
    #[arg(long, value_enum, default_value = "final")]
    scope: ScopeArg,
    /// Added for an answer in the form that was asked for, right or wrong: at most 0.1.
    #[arg(long, default_value_t = 0.0)]
    format_bonus: f64,
}

impl Reward {
    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        not_stdin(&self.tasks, "tasks")?;
        if !(0.0..=0.1).contains(&self.format_bonus) {
            return Err(Usage(format!("--format-bonus is {}, expected 0 to 0.1", self.format_bonus)).into());
        }
        let reading = Reading { scope: self.scope.into(), ..Reading::default() };
        let how = CritiqueReward { reading, format_bonus: self.format_bonus };
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
                let verdict = task_verdict(task, &Completion::new(done.text), &how);
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

/// Rewards of a policy by its calls: `{step_id, origin, reward, parts, note}` for each candidate.
#[derive(Args, Debug)]
pub(crate) struct RewardCalls {
    /// Steps; the entry of the leaderboard that `bfcl` needs is their field of that name: `{function, ground_truth, category}`.
    #[arg(long)]
    steps: PathBuf,
    /// Candidates, in any order.
    #[arg(long, required = true, num_args = 1..)]
    candidates: Vec<PathBuf>,
    /// Where the rewards go.
    #[arg(short, long, value_name = "REWARDS")]
    output: PathBuf,
    /// Parts and their weights: rule, bfcl, schema, format, toolrl.
    #[arg(long, value_delimiter = ',', default_values_t = ["rule=1".to_owned()])]
    parts: Vec<String>,
    /// The format that calls are to be written in, for candidates that name none.
    #[arg(short, long, value_parser = format, default_value = "auto")]
    format: Format,
}

impl RewardCalls {
    fn weights(&self) -> Result<Vec<(CallPart, f32)>> {
        let one = |text: &String| -> Result<(CallPart, f32)> {
            let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
            let part = CallPart::from_name(name).ok_or_else(|| {
                let known = CallPart::ALL.map(CallPart::name).join(", ");
                Usage(format!("--parts {text}: {name:?} is none of {known}"))
            })?;
            let weight = weight.parse().ok().filter(|w: &f32| w.is_finite());
            let weight =
                weight.ok_or_else(|| Usage(format!("--parts {text}: expected a number after `=`")))?;
            Ok((part, weight))
        };
        self.parts.iter().map(one).collect()
    }

    pub(crate) fn run(&self, control: &Control) -> Result<Outcome> {
        not_stdin(&self.steps, "steps")?;
        let parts = self.weights()?;
        let wants_entry = parts.iter().any(|(part, _)| *part == CallPart::Bfcl);
        let read = |step: Step| -> (String, Result<CallTask, SchemaError>) {
            let entry = step.meta.get("bfcl").map(CallTask::entry).transpose();
            let (gold, tools) = (step.calls, step.tools);
            (step.id, entry.map(|bfcl| CallTask { gold, tools, format: self.format, bfcl }))
        };
        let tasks: HashMap<String, Result<CallTask, SchemaError>> =
            scan(&self.steps, |line| line.record().ok().map(read))?.into_iter().collect();
        let summary = map_lines(
            &self.candidates,
            &self.output,
            control,
            || (),
            |(), line, out| {
                let candidate: Candidate = line.record()?;
                let fault = |error: SchemaError| LineError { id: Some(candidate.step_id.clone()), error };
                let unknown = || {
                    SchemaError::of(
                        "id.unknown",
                        "step_id",
                        format!("expected a step of {}", self.steps.display()),
                    )
                };
                let task = tasks.get(&candidate.step_id).ok_or_else(|| fault(unknown()))?;
                let task = task.as_ref().map_err(|e| fault(e.clone()))?;
                if wants_entry && task.bfcl.is_none() {
                    let what = "expected the leaderboard's entry in its step";
                    return Err(fault(SchemaError::of("field.missing", "bfcl", what)));
                }
                let other = candidate.format != Format::Auto && candidate.format != task.format;
                let own = other.then(|| CallTask { format: candidate.format, ..task.clone() });
                let task = own.as_ref().unwrap_or(task);
                for reward in reward_calls(&[RewardIn { task, response: &candidate.text }], &parts) {
                    out.count(reward.note);
                    let named = reward.parts.iter().map(|(part, value)| (part.name(), number(*value)));
                    let row = Val::dict([
                        ("v", Val::Int(record::VERSION)),
                        ("step_id", candidate.step_id.clone().into()),
                        ("origin", candidate.origin.clone().into()),
                        ("reward", number(reward.total)),
                        ("parts", Val::dict(named)),
                        ("note", reward.note.into()),
                    ]);
                    let text = json::to_string(&row)
                        .map_err(|e| fault(SchemaError::of("json.none", "", e.to_string())))?;
                    out.line(&text);
                }
                Ok(())
            },
        )?;
        Ok(summary.into())
    }
}

/// The shortest decimal that reads as the same `f32`.
fn number(x: f32) -> Val {
    Val::Float(x.to_string().parse().unwrap_or(f64::from(x)))
}
