//! `judge`: the responses to a prompt meet in pairs, and a model says which of two is better.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use completion::{Complete, Server, ServerOptions};
use serde::{Deserialize, Serialize};
use toolrm::infer::{Contender, Context, Judge, Outcome};
use toolrm::json::{self, Dialect};
use toolrm::reward::{judged_rewards, pair_up};
use toolrm::{Format, Message, Mode, Parsing, Role, ToolDef, Val, messages, parse_tools, parse_with};

use super::part::Said;
use super::toolrm::variant_of;
use crate::local::{LocalModel, LocalOptions};
use crate::types::{SampleKey, Scored};

/// The judge of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// A Hugging Face directory, a GGUF file or a run directory; with `server`, the model's name there.
    pub model: String,
    /// An OpenAI-compatible server, such as `http://localhost:8000/v1`; absent: the model is run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The environment variable with the server's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_variable: Option<String>,
    /// The prompts' variant: `think`, `no_think` (the default) or `bare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Whether a model that is run here is asked by its chat template (the default).
    #[serde(default = "yes")]
    pub chat: bool,
    /// The longest answer, in tokens.
    #[serde(default = "long")]
    pub max_tokens: usize,
    /// Ask in both orders; a judge that contradicts itself decides nothing.
    #[serde(default)]
    pub both: bool,
    /// Draws who meets whom.
    #[serde(default)]
    pub seed: u64,
}

fn yes() -> bool {
    true
}

fn long() -> usize {
    1024
}

type AnyJudge = Judge<Box<dyn Complete + Send>>;

pub(super) struct Judged {
    spec: JudgeSpec,
    /// Opened when it is first needed: a judge can be as large as the policy.
    judge: Mutex<Option<AnyJudge>>,
}

/// A prompt's conversation.
struct Question {
    id: String,
    tools: Vec<ToolDef>,
    history: Vec<Message>,
}

impl Judged {
    pub(super) fn new(spec: &JudgeSpec) -> Result<Self, String> {
        variant_of(spec.variant.as_deref())?;
        if spec.server.is_some() {
            server(spec)?;
        } else if !Path::new(&spec.model).exists() {
            return Err(format!("judge.model: there is no {}", spec.model));
        }
        if spec.max_tokens == 0 {
            return Err("judge.max_tokens is 0, expected at least 1".into());
        }
        Ok(Self { spec: spec.clone(), judge: Mutex::new(None) })
    }

    fn open(&self) -> Result<AnyJudge, String> {
        let spec = &self.spec;
        let model: Box<dyn Complete + Send> = match spec.server {
            Some(_) => Box::new(server(spec)?),
            None => {
                let options = LocalOptions { chat: spec.chat, ..LocalOptions::default() };
                Box::new(LocalModel::open(&PathBuf::from(&spec.model), options).map_err(|e| e.to_string())?)
            }
        };
        Ok(Judge::new(model, variant_of(spec.variant.as_deref())?, spec.max_tokens))
    }

    /// Rewards of all samples, the groups among them by their prompts.
    pub(super) fn score(&self, samples: &[Scored<'_>]) -> Vec<Result<Said, String>> {
        let rewards = self.rewards(samples);
        match rewards {
            Ok(rewards) => rewards.into_iter().map(|r| Ok(Said::from(r))).collect(),
            Err(reason) => samples.iter().map(|_| Err(reason.clone())).collect(),
        }
    }

    fn rewards(&self, samples: &[Scored<'_>]) -> Result<Vec<f64>, String> {
        let mut groups: Vec<(SampleKey, Vec<usize>)> = Vec::new();
        for (i, sample) in samples.iter().enumerate() {
            let key = SampleKey { index: 0, ..sample.key };
            match groups.last_mut() {
                Some((last, members)) if *last == key => members.push(i),
                _ => groups.push((key, vec![i])),
            }
        }
        let questions: Vec<Question> =
            groups.iter().map(|(_, members)| question(&samples[members[0]])).collect::<Result<_, _>>()?;
        let contenders: Vec<Contender> = samples.iter().map(|s| contender(s.response)).collect();
        let contexts: Vec<Context<'_>> =
            questions.iter().map(|q| Context { id: &q.id, tools: &q.tools, history: &q.history }).collect();
        let meetings: Vec<Vec<(usize, usize)>> = groups
            .iter()
            .zip(&questions)
            .map(|((key, members), q)| {
                pair_up(members.len(), self.spec.seed, &format!("{}/{}", q.id, key.epoch))
            })
            .collect();
        let mut pairs = Vec::new();
        for (((_, members), context), meetings) in groups.iter().zip(&contexts).zip(&meetings) {
            for (a, b) in meetings {
                pairs.push((context, [&contenders[members[*a]], &contenders[members[*b]]]));
            }
        }
        let mut rewards = vec![0.0; samples.len()];
        let outcomes = if pairs.is_empty() { Vec::new() } else { self.compare(&pairs)? };
        let mut outcomes = outcomes.into_iter();
        for ((_, members), meetings) in groups.iter().zip(&meetings) {
            let done: Vec<_> = meetings.iter().copied().zip(outcomes.by_ref()).collect();
            for (i, reward) in members.iter().zip(judged_rewards(members.len(), &done)) {
                rewards[*i] = reward;
            }
        }
        Ok(rewards)
    }

    /// The place of each winner.
    fn compare(&self, pairs: &[(&Context<'_>, [&Contender; 2])]) -> Result<Vec<Option<usize>>, String> {
        let mut slot = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        let mut judge = match slot.take() {
            Some(judge) => judge,
            None => self.open()?,
        };
        let compared = judge.compare(pairs, self.spec.both);
        *slot = Some(judge);
        let winner = |outcome: Outcome| match outcome {
            Outcome::A => Some(0),
            Outcome::B => Some(1),
            Outcome::Tie => None,
        };
        let compared = compared.map_err(|e| e.to_string())?;
        Ok(compared.into_iter().map(|c| winner(c.outcome)).collect())
    }
}

fn server(spec: &JudgeSpec) -> Result<Server, String> {
    let base = spec.server.clone().unwrap_or_default();
    let options =
        ServerOptions { key_variable: spec.key_variable.clone(), ..ServerOptions::new(base, &spec.model) };
    Server::new(options).map_err(|e| format!("judge: {e}"))
}

/// The columns `tools` and `history` of a row, where it has them; else the prompt's text is what a user said.
fn question(s: &Scored<'_>) -> Result<Question, String> {
    let column = |name: &str| -> Result<Option<Val>, String> {
        let Some(value) = s.prompt.columns.get(name) else { return Ok(None) };
        let read = json::parse(&value.to_string(), Dialect::Strict);
        read.map(Some).map_err(|e| format!("column `{name}` of prompt {}: {e}", s.prompt.id))
    };
    let fault = |name: &str, e: String| format!("column `{name}` of prompt {}: {e}", s.prompt.id);
    Ok(Question {
        id: s.prompt.id.to_string(),
        tools: match column("tools")? {
            Some(tools) => parse_tools(&tools).map_err(|e| fault("tools", e.to_string()))?,
            None => Vec::new(),
        },
        history: match column("history")? {
            Some(history) => messages(Some(&history)).map_err(|e| fault("history", e.to_string()))?,
            None => vec![Message::new(Role::User, s.prompt.text.clone())],
        },
    })
}

fn contender(response: &str) -> Contender {
    let parsing = Parsing { think_split: true, tools: &[] };
    match parse_with(response, Format::Auto, Mode::Lenient, &parsing) {
        Ok(parsed) => Contender { text: parsed.text.trim().to_owned(), calls: parsed.calls },
        Err(_) => Contender::text(response),
    }
}
