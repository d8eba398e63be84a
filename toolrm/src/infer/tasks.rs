//! Answers to critique tasks that are written already.

use std::collections::HashMap;

use completion::{Complete, Completion, CompletionError, Request, Sampling};

use crate::bench::{self, Answers, BenchPair, Report, score_generative};
use crate::critique::{Level, Reading, Variant};
use crate::record::{Kind, Orientation, Task, Verdict};
use crate::reward::CritiqueReward;
use crate::value::{Map, Val};

/// The requests of tasks, in order.
pub fn task_requests(tasks: &[Task], sampling: &Sampling) -> Vec<Request> {
    tasks.iter().map(|t| Request::user(t.id.clone(), t.prompt.clone(), sampling.clone())).collect()
}

/// The variant that a task's `meta` says.
fn variant(task: &Task) -> Variant {
    task.meta.get("variant").and_then(Val::as_str).and_then(Variant::from_name).unwrap_or_default()
}

/// What an answer to a task says, and its reward where the label is known. The form of answers and the number of responses are said by
/// `variant` and `n` in the task's `meta`; `how` says the rest.
pub fn task_verdict(task: &Task, completion: &Completion, how: &CritiqueReward) -> Verdict {
    let reading = Reading { form: variant(task).into(), ..how.reading };
    let n = match task.meta.get("n") {
        Some(Val::Int(n)) => u32::try_from(*n).unwrap_or(2),
        _ => 2,
    };
    let label = task.label.as_deref();
    let score = CritiqueReward { reading, ..*how }.score(&completion.text, task.kind, n, label.unwrap_or(""));
    Verdict {
        task_id: task.id.clone(),
        choice: score.predicted.as_deref().and_then(|p| p.parse().ok()),
        level: score.level.filter(|_| score.predicted.is_some()).map(|l| l.name().to_owned()),
        correct: label.map(|label| score.predicted.as_deref() == Some(label)),
        reward: label.map(|_| score.reward),
        meta: Map::default(),
    }
}

/// How well pairs were told apart, both orders of each; tasks of other kinds do not count. A pair's split is the task's, and its
/// error type the task's `error_type`, where its `meta` has one.
pub fn pair_report(tasks: &[Task], completions: &HashMap<&str, Completion>) -> Report {
    let mut pairs: Vec<BenchPair> = Vec::new();
    let mut answers: HashMap<&str, Answers> = HashMap::new();
    for task in tasks.iter().filter(|t| t.kind == Kind::Pairwise) {
        let Some(id) = task.pair_id.as_deref() else { continue };
        let slots = answers.entry(id).or_insert_with(|| {
            let text = |key: &str| task.meta.get(key).and_then(Val::as_str).unwrap_or_default().to_owned();
            let (intensity, complexity) = (1.0, 1);
            let (id, split) = (id.to_owned(), task.split.clone());
            pairs.push(BenchPair { id, split, error_type: text("error_type"), intensity, complexity });
            [None, None]
        });
        if let Some(done) = completions.get(task.id.as_str()) {
            let verdict = task_verdict(task, done, &CritiqueReward::default());
            let level = match verdict.level.as_deref() {
                Some(level) if level == Level::Strict.name() => bench::Level::Strict,
                Some(_) => bench::Level::Soft,
                None => bench::Level::Failed,
            };
            let slot = usize::from(task.orientation == Orientation::Swapped);
            slots[slot] = Some(bench::Answer { choice: verdict.choice, level, tokens: done.tokens_out });
        }
    }
    score_generative(&pairs, &answers)
}

/// Answers tasks with their labels, in the form that they ask for: what a perfect judge says.
pub struct Oracle(HashMap<String, String>);

impl Oracle {
    /// One for these tasks; a task without a label has no answer.
    pub fn new(tasks: &[Task]) -> Self {
        let answer = |task: &Task| {
            let label = task.label.as_deref()?;
            let tag = if task.kind == Kind::Pointwise { "verdict" } else { "choice" };
            let text = match variant(task) {
                Variant::Bare => label.to_owned(),
                _ => format!("<{tag}>\n{label}\n</{tag}>"),
            };
            Some((task.id.clone(), text))
        };
        Oracle(tasks.iter().filter_map(answer).collect())
    }
}

impl Complete for Oracle {
    fn name(&self) -> String {
        "oracle".into()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
        let one = |r: &Request| {
            let missing = || CompletionError::Missing { path: self.name(), id: r.id.clone() };
            self.0.get(&r.id).map(Completion::new).ok_or_else(missing)
        };
        requests.iter().map(one).collect()
    }
}
