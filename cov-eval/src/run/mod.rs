//! Evaluating a model, or scoring a file of answers, resumably.
//!
//! A [`Plan`] names instances. [`evaluate`] asks any source of completions for their answers; [`score`] takes answers that
//! are in a file ([`requests`] gives the prompts). Both keep a run directory: `run.json` (what is scored), `scores.jsonl`
//! (a line for each answer, append-only), `nulls.json` (what worthless answers get on the same instances), `summary.json`,
//! `report.md`, `report.html` and `plots/*.svg` (made from the former two alone). A process that is killed at any byte and started again ends with the same files.

mod ask;
mod nulls;
mod opinion;
mod picture;
mod plan;
mod report;
mod store;
mod summary;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use ask::{Asking, Evaluation, evaluate};
pub use opinion::{ModelJudge, Opinion, TaskOpinion, second_opinion};
pub use plan::{Cell, Item, Plan};
pub use store::ScoreRecord;
pub use summary::{CellSummary, Comparison, Summary, compare};

use crate::intake::{Completion, Finish, Intake, IntakeConfig};
use crate::tasks::task;

/// Answers scored between two writes.
const CHUNK: usize = 64;

/// What can go wrong with the files of a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is no record.
    #[error("{path}, line {line}: {message}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// A plan that asks for nothing, or for something twice.
    #[error("plan: {0}")]
    Plan(String),
    /// An instance that cannot be made.
    #[error(transparent)]
    Generate(#[from] crate::error::GenError),
    /// A directory of another run.
    #[error("{path} is a run of another plan or version; it differs in {fields}")]
    OtherRun {
        /// Its `run.json`.
        path: PathBuf,
        /// The fields that differ.
        fields: String,
    },
    /// A file of completions that cannot be read or written.
    #[error(transparent)]
    Completions(#[from] completion::FileError),
    /// Two runs that have nothing in common.
    #[error("the two runs share no answered instance")]
    NothingShared,
}

/// An answer, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The instance.
    pub instance_id: String,
    /// Which of its samples, from 0.
    #[serde(default)]
    pub sample: u32,
    /// What the model wrote.
    pub text: String,
    /// Reasoning given apart; never scored.
    #[serde(default)]
    pub reasoning: Option<String>,
    /// How it ended.
    #[serde(default = "stopped")]
    pub finish: Finish,
}

impl Answer {
    /// In the files of [`evaluate`], `#sample` follows the instance.
    fn named(mut self) -> Self {
        if let Some((id, sample)) = self.instance_id.split_once('#')
            && let Ok(sample) = sample.parse()
        {
            self = Self { instance_id: id.to_owned(), sample, ..self };
        }
        self
    }
}

fn stopped() -> Finish {
    Finish::Stop
}

/// A prompt, as a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The instance.
    pub instance_id: String,
    /// Which of its samples.
    pub sample: u32,
    /// What to ask.
    pub prompt: String,
    /// Where to stop.
    pub max_new_tokens: u32,
}

/// The prompts of a plan, in its order.
///
/// # Errors
/// An instance that cannot be made.
pub fn requests(plan: &Plan) -> Result<Vec<Request>, RunError> {
    let one = |item: &Item| {
        let instance = task(item.key.task).generate(&item.key, &item.config)?;
        Ok(Request {
            instance_id: instance.id,
            sample: item.sample,
            max_new_tokens: instance.budget.max_new_tokens,
            prompt: instance.prompt.user,
        })
    };
    plan.items()?.par_iter().map(one).collect()
}

/// Scores the answers that have no score yet and writes tables and pictures.
///
/// # Errors
/// Files that cannot be read or written, lines that are no records, a directory of another plan.
pub fn score(plan: &Plan, answers: &Path, directory: &Path) -> Result<Summary, RunError> {
    let answers: HashMap<(String, u32), Answer> = store::read_lines::<Answer>(answers)?
        .into_iter()
        .map(Answer::named)
        .map(|answer| ((answer.instance_id.clone(), answer.sample), answer))
        .collect();
    score_answers(plan, &plan.identity(), &answers, directory)
}

fn score_answers(
    plan: &Plan,
    identity: &serde_json::Value,
    answers: &HashMap<(String, u32), Answer>,
    directory: &Path,
) -> Result<Summary, RunError> {
    let items = plan.items()?;
    let mut store = store::Store::open(directory, identity)?;
    let known = store.known();
    let owed: Vec<(&Item, &Answer, String)> = items
        .iter()
        .filter_map(|item| {
            let answer = answers.get(&(item.key.id(), item.sample))?;
            let hash = answer_hash(answer);
            let scored =
                known.get(&(item.key.id(), item.sample)).is_some_and(|record| record.answer_hash == hash);
            (!scored).then_some((item, answer, hash))
        })
        .collect();
    let intake = IntakeConfig::default();
    for chunk in owed.chunks(CHUNK) {
        let one = |(item, answer, hash): &(&Item, &Answer, String)| -> Result<ScoreRecord, RunError> {
            let instance = task(item.key.task).generate(&item.key, &item.config)?;
            let completion = Completion {
                text: answer.text.clone().into_bytes(),
                reasoning: answer.reasoning.clone(),
                finish: answer.finish,
            };
            let result = task(item.key.task).verify(&instance, &Intake::new(&completion, &intake));
            Ok(ScoreRecord::new(&instance, item.sample, hash, result))
        };
        let records: Vec<ScoreRecord> = chunk.par_iter().map(one).collect::<Result<_, _>>()?;
        store.append(&records)?;
    }
    let nulls = match store.read("nulls.json")? {
        Some(nulls) => nulls,
        None => {
            let nulls = nulls::measure(plan, &items)?;
            store.write("nulls.json", &(serde_json::json!(nulls).to_string() + "\n"))?;
            nulls
        }
    };
    let summary = Summary::new(plan, &items, &store.known(), &nulls);
    store.write("summary.json", &summary.to_json())?;
    store.write("report.md", &summary.report())?;
    store.write("report.html", &summary.to_html())?;
    for picture in summary.pictures() {
        store.write(&format!("plots/{}.svg", picture.name), &picture.svg)?;
    }
    Ok(summary)
}

fn answer_hash(answer: &Answer) -> String {
    let text = serde_json::to_vec(answer).expect("an answer is made of strings");
    Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect()
}
