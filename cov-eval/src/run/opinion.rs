//! A second opinion on the answers of a run: a model is asked of each constraint that a judge can decide.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use completion::{Complete, Recorded, Sampling};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Answer, Item, Plan, RunError, store};
use crate::compat;
use crate::intake::{Completion, Intake, IntakeConfig};
use crate::judge::{
    Agreement, Judge, JudgeCache, JudgeError, JudgeId, JudgeItem, JudgeQuestion, JudgeVerdict, parse_reply,
};
use crate::model::{Instance, Status};
use crate::tasks::{Targets, task};

/// Tokens of a reply: five booleans need far fewer.
const REPLY_TOKENS: usize = 64;

/// Answers whose requests are made at one time. More of them would keep a source no busier, and each takes memory for its prompts.
const ANSWERS: usize = 32;

/// What frames the items.
const FRAME: &str = "You are given a text and a numbered list of questions on it. Reply with a JSON array of as many booleans, true \
                     for yes and false for no, in the order of the questions, and with nothing else: for three questions, such as \
                     [true, false, true].";

fn question(item: &JudgeItem) -> String {
    let expected = item.expected.as_deref().unwrap_or_default();
    match item.question {
        JudgeQuestion::FactCovered => {
            format!("Does the text state this fact (subject | relation | object)? {}", item.claim)
        }
        JudgeQuestion::StatementIncluded => {
            format!("Does the text tell what this statement tells, in whatever form? {}", item.claim)
        }
        JudgeQuestion::StatementFollowsRule => format!(
            "This statement breaks the rule in brackets: {} Does the text have it without that fault, as here? {expected}",
            item.claim
        ),
        JudgeQuestion::QuestionAnswered => {
            format!("Does the text answer this question, rightly or not? {}", item.claim)
        }
        JudgeQuestion::AnswerMatches => {
            format!(
                "Does the text answer this question as the reference does? {} Reference: {expected}",
                item.claim
            )
        }
        JudgeQuestion::CodeIsRelevantAndComplete => {
            format!("Is the text relevant and complete as {}?", item.claim)
        }
    }
}

/// The prompt for some items; a text that several of them are asked of stands there once.
fn prompt(items: &[JudgeItem]) -> String {
    let mut text = FRAME.to_owned();
    let mut shown: Option<&str> = None;
    for (i, item) in items.iter().enumerate() {
        if shown != Some(&item.evidence) {
            let _ = write!(text, "\n\n<<<TEXT\n{}\n>>>TEXT\n", item.evidence);
            shown = Some(&item.evidence);
        }
        let _ = write!(text, "\n{}. {}", i + 1, question(item));
    }
    text
}

struct State<C> {
    source: C,
    /// How often the same items were asked.
    asked: HashMap<String, u64>,
    failure: Option<String>,
}

/// A source of completions as a judge. Items that are asked again are a request of their own, with the next seed.
pub struct ModelJudge<C> {
    name: String,
    state: Mutex<State<C>>,
}

impl<C: Complete> ModelJudge<C> {
    /// A judge that asks `source`.
    pub fn new(source: C) -> Self {
        let state = State { source, asked: HashMap::new(), failure: None };
        Self { name: state.source.name(), state: Mutex::new(state) }
    }

    /// Why the source gave no reply, the last time that it did not.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl<C: Complete + Send> Judge for ModelJudge<C> {
    fn id(&self) -> JudgeId {
        let prompt_hash = hex(&Sha256::digest(FRAME));
        JudgeId { model: self.name.clone(), prompt_hash, sampling: "temperature 0".into() }
    }

    fn judge(&self, items: &[JudgeItem]) -> Vec<Result<JudgeVerdict, JudgeError>> {
        self.judge_all(&[items.to_vec()]).pop().unwrap_or_default()
    }

    /// The source has all requests at once, and works on as many of them as it can.
    fn judge_all(&self, batches: &[Vec<JudgeItem>]) -> Vec<Vec<Result<JudgeVerdict, JudgeError>>> {
        let State { source, asked, failure } =
            &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let request = |items: &Vec<JudgeItem>| {
            let prompt = prompt(items);
            let hash = hex(&Sha256::digest(&prompt)[..16]);
            let attempt = asked.entry(hash.clone()).or_default();
            let seed = *attempt;
            *attempt += 1;
            let sampling = Sampling { seed: Some(seed), ..Sampling::greedy(REPLY_TOKENS) };
            completion::Request::user(format!("{hash}#{seed}"), prompt, sampling)
        };
        let requests: Vec<completion::Request> = batches.iter().map(request).collect();
        let mut answers = source.complete(&requests).into_iter();
        let mut read = |items: &Vec<JudgeItem>| {
            let all = |error: JudgeError| vec![Err(error); items.len()];
            let done = match answers.next() {
                Some(Ok(done)) => done,
                other => {
                    let reason =
                        other.and_then(Result::err).map_or("no answer".to_owned(), |e| e.to_string());
                    *failure = Some(reason.clone());
                    return all(JudgeError::Unreachable { reason });
                }
            };
            let raw_hash = Sha256::digest(&done.text).into();
            match parse_reply(&done.text, items.len()) {
                Ok(all) => {
                    all.into_iter().map(|holds| Ok(JudgeVerdict { holds, cites: None, raw_hash })).collect()
                }
                Err(error) => all(error),
            }
        };
        batches.iter().map(&mut read).collect()
    }
}

/// What rules and judge say of a task's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskOpinion {
    /// The task.
    pub task: String,
    /// Answers of which every item is resolved. The means are over these.
    pub answers: usize,
    /// Answers with an item that the judge could not be read on.
    pub incomplete: usize,
    /// Mean score.
    pub score: f64,
    /// Mean of the published formula with the judge's verdicts in it.
    pub score_judge: f64,
    /// Constraint by constraint, over resolved items of all answers.
    pub agreement: Agreement,
}

/// The second opinion on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opinion {
    /// The judge.
    pub judge: JudgeId,
    /// The tasks that judges know, in the order of the plan.
    pub tasks: Vec<TaskOpinion>,
}

impl Opinion {
    /// Whether every item is resolved.
    pub fn is_complete(&self) -> bool {
        self.tasks.iter().all(|t| t.incomplete == 0)
    }

    /// A table with both scores, agreement, Cohen's κ and the counts that they are of.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("Judge: {} ({})\n\n", self.judge.model, self.judge.sampling);
        text.push_str("| task | answers | incomplete | score | score_judge | agreement, % | κ | both | rules only | judge only | neither |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|---|\n");
        for t in &self.tasks {
            let Agreement { both, rules_only, judge_only, neither } = t.agreement;
            let total = (both + rules_only + judge_only + neither).max(1) as f64;
            let kappa = t.agreement.kappa().map_or("–".to_owned(), |k| format!("{k:.3}"));
            let [score, judged, agreed] =
                [t.score, t.score_judge, (both + neither) as f64 / total].map(|x| 100.0 * x);
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {score:.1} | {judged:.1} | {agreed:.1} | {kappa} | {both} | {rules_only} | {judge_only} | {neither} |",
                t.task, t.answers, t.incomplete
            );
        }
        text
    }
}

impl TaskOpinion {
    fn of(task: String) -> Self {
        let agreement = Agreement::default();
        Self { task, answers: 0, incomplete: 0, score: 0.0, score_judge: 0.0, agreement }
    }

    /// Counts an answer, with the judge's verdicts on it. Until the end the scores are sums.
    fn add(&mut self, answer: &Asked, holds: &[Option<bool>]) {
        let pairs =
            answer.rules.iter().zip(holds).filter_map(|((_, rules), judge)| Some((*rules, (*judge)?)));
        self.agreement.add(Agreement::of(pairs));
        let resolved: Option<Vec<(&str, bool)>> = answer
            .rules
            .iter()
            .zip(holds)
            .map(|((kind, _), holds)| Some((kind.as_str(), (*holds)?)))
            .collect();
        match resolved {
            Some(holds) => {
                self.answers += 1;
                self.score += answer.score;
                self.score_judge += published(&answer.instance, &answer.intake, &holds);
            }
            None => self.incomplete += 1,
        }
    }
}

/// An answer of which a judge is asked.
struct Asked {
    instance: Instance,
    intake: Intake,
    score: f64,
    /// The kind of each constraint that a judge can decide, and whether it holds by the rules.
    rules: Vec<(String, bool)>,
    /// What is asked of these; nothing of a blank answer.
    items: Vec<JudgeItem>,
}

impl Asked {
    /// `None` where the judge has nothing to decide.
    fn of(item: &Item, answer: &Answer) -> Result<Option<Self>, RunError> {
        let instance = task(item.key.task).generate(&item.key, &item.config)?;
        let (text, reasoning) = (answer.text.clone().into_bytes(), answer.reasoning.clone());
        let completion = Completion { text, reasoning, finish: answer.finish };
        let intake = Intake::new(&completion, &IntakeConfig::default());
        let found = task(item.key.task).verify(&instance, &intake);
        let (mut rules, mut items) = (Vec::new(), Vec::new());
        for (c, verdict) in instance.constraints.iter().zip(&found.verdicts) {
            let Some((question, claim, expected)) = instance.targets.claim(&c.kind, c.target as usize) else {
                continue;
            };
            rules.push((c.kind.to_string(), verdict.status == Status::Pass));
            if !intake.is_blank() {
                items.push(JudgeItem { question, evidence: intake.visible.clone(), claim, expected });
            }
        }
        Ok((!rules.is_empty()).then_some(Self { instance, intake, score: found.score, rules, items }))
    }
}

/// The published formula with these verdicts, by kind of constraint.
fn published(instance: &Instance, intake: &Intake, holds: &[(&str, bool)]) -> f64 {
    let rate = |kind: &str| {
        let own: Vec<bool> = holds.iter().filter(|(k, _)| *k == kind).map(|&(_, holds)| holds).collect();
        own.iter().filter(|&&holds| holds).count() as f64 / own.len().max(1) as f64
    };
    let both = |first, second| crate::aggregate::harmonic(&[(rate(first), 1.0), (rate(second), 1.0)]);
    match &instance.targets {
        Targets::KgBio(_) => rate("fact"),
        Targets::ApNews(_) => both("include", "style"),
        Targets::SalesReport(_) => both("answered", "correct"),
        _ => rate("function_count") * compat::score(instance, intake),
    }
}

/// Asks a judge of the answers to a plan, and writes `judge.json` and `judge.md` beside the scores, which it does not touch. Its replies
/// are kept in `judge.jsonl`, in one order however many requests are under way: called again, it asks only for what is not there.
/// Returns why the source last failed, where it did.
///
/// # Errors
/// Files that cannot be read or written; lines that are no records; an instance that cannot be made.
pub fn second_opinion(
    plan: &Plan,
    answers: &Path,
    source: impl Complete + Send,
    directory: &Path,
) -> Result<(Opinion, Option<String>), RunError> {
    std::fs::create_dir_all(directory).map_err(store::at(directory))?;
    let recorded = Recorded::open(source, &directory.join("judge.jsonl"), "judge_id")?;
    let judge = ModelJudge::new(recorded);
    let answers: HashMap<(String, u32), Answer> = store::read_lines::<Answer>(answers)?
        .into_iter()
        .map(Answer::named)
        .map(|answer| ((answer.instance_id.clone(), answer.sample), answer))
        .collect();
    let mut cache = JudgeCache::default();
    let mut tasks: Vec<TaskOpinion> = Vec::new();
    let items = plan.items()?;
    for part in items.chunks(ANSWERS) {
        let mut asked: Vec<Asked> = Vec::new();
        for item in part {
            let Some(answer) = answers.get(&(item.key.id(), item.sample)) else { continue };
            asked.extend(Asked::of(item, answer)?);
        }
        let open: Vec<JudgeItem> = asked.iter().flat_map(|a| a.items.iter().cloned()).collect();
        let mut verdicts = cache.resolve(&judge, &open).into_iter();
        for answer in &asked {
            // Of nothing there is nothing to ask.
            let holds: Vec<Option<bool>> = match answer.items.len() {
                0 => vec![Some(false); answer.rules.len()],
                n => verdicts.by_ref().take(n).map(|v| v.map(|v| v.holds)).collect(),
            };
            let name = answer.instance.key.task.to_string();
            let at = tasks.iter().position(|t| t.task == name).unwrap_or_else(|| {
                tasks.push(TaskOpinion::of(name));
                tasks.len() - 1
            });
            tasks[at].add(answer, &holds);
        }
    }
    for t in &mut tasks {
        let count = t.answers.max(1) as f64;
        (t.score, t.score_judge) = (t.score / count, t.score_judge / count);
    }
    let opinion = Opinion { judge: judge.id(), tasks };
    let json = serde_json::to_string_pretty(&opinion).expect("an opinion has finite numbers only") + "\n";
    store::write_whole(&directory.join("judge.json"), &json)?;
    store::write_whole(&directory.join("judge.md"), &opinion.to_markdown())?;
    Ok((opinion, judge.failure()))
}
