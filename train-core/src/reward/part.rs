//! The built-in parts.

use std::collections::BTreeMap;

use cov_eval::RewardForm;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::command::Command;
use super::cov::Cov;
use super::judge::{JudgeSpec, Judged};
use super::toolrm::{Critique, ToolScore};
use crate::types::{Finish, Scored};

/// A part as configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSpec {
    /// `exact`, `numeric`, `regex`, `position`, `ended`, `tool_call`, `tool_score`, `critique`, `judge`, `cov`, `length` or
    /// `command`.
    pub kind: String,
    /// Multiplies the part's value.
    #[serde(default = "one")]
    pub weight: f64,
    /// Its name in metrics; the kind when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `regex`: 1 when it matches. `numeric`: its first group is the number (default: the last number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// `numeric`: largest difference that counts as right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
    /// `length`: tokens before the limit where the penalty begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<usize>,
    /// `cov`: what of the verified score is the value; the dense form when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<RewardForm>,
    /// `tool_score`: what of the calls is scored: `rule` (the default), `bfcl`, `schema`, `format` or `toolrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// `critique`: the prompts' variant, which says how answers are read: `think`, `no_think` (the default) or `bare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `critique`: added for an answer in the form that was asked for, right or wrong; 0 when absent, at most 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bonus: Option<f64>,
    /// `judge`: who compares responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeSpec>,
    /// `command`: the program and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// `command`: seconds a batch may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
}

fn one() -> f64 {
    1.0
}

enum Kind {
    Exact,
    Numeric { pattern: Regex, tolerance: f64 },
    Regex(Regex),
    Position,
    Ended,
    ToolCall,
    Cov(Cov),
    ToolScore(ToolScore),
    Critique(Critique),
    Judged(Judged),
    Length { budget: usize, cache: usize },
    Command(Command),
}

/// What a part says of a sample.
#[derive(Default)]
pub(super) struct Said {
    pub(super) value: f64,
    /// Whether the response is right, where the part knows better than equality with the answer.
    pub(super) exact: Option<bool>,
    pub(super) notes: BTreeMap<String, f64>,
}

impl From<f64> for Said {
    fn from(value: f64) -> Self {
        Self { value, ..Self::default() }
    }
}

/// A part, ready to score.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) weight: f64,
    kind: Kind,
}

/// Whether the response is the answer and ended by itself; `None` without an answer.
pub(super) fn is_exact(sample: &Scored<'_>) -> Option<bool> {
    let answer = sample.prompt.answer.as_deref()?;
    Some(sample.finish == Finish::Stop && sample.response.trim() == answer.trim())
}

impl Part {
    pub(super) fn new(spec: &PartSpec, max_new_tokens: usize) -> Result<Self, String> {
        let regex = |pattern: &str| Regex::new(pattern).map_err(|e| format!("pattern: {e}"));
        if !spec.weight.is_finite() {
            return Err(format!("weight of {} is {}", spec.kind, spec.weight));
        }
        let given = |field: &str, given: bool, kinds: &[&str]| {
            if given && !kinds.contains(&spec.kind.as_str()) {
                return Err(format!("`{field}` belongs to {}, not to {}", kinds.join(" or "), spec.kind));
            }
            Ok(())
        };
        given("pattern", spec.pattern.is_some(), &["regex", "numeric"])?;
        given("tolerance", spec.tolerance.is_some(), &["numeric"])?;
        given("cache", spec.cache.is_some(), &["length"])?;
        given("form", spec.form.is_some(), &["cov"])?;
        given("measure", spec.measure.is_some(), &["tool_score"])?;
        given("variant", spec.variant.is_some(), &["critique"])?;
        given("bonus", spec.bonus.is_some(), &["critique"])?;
        given("judge", spec.judge.is_some(), &["judge"])?;
        given("command", spec.command.is_some(), &["command"])?;
        given("timeout", spec.timeout.is_some(), &["command"])?;
        let kind = match spec.kind.as_str() {
            "exact" => Kind::Exact,
            "position" => Kind::Position,
            "ended" => Kind::Ended,
            "tool_call" => Kind::ToolCall,
            "cov" => Kind::Cov(Cov::new(spec.form.unwrap_or_default())),
            "tool_score" => Kind::ToolScore(ToolScore::new(spec.measure.as_deref().unwrap_or("rule"))?),
            "critique" => Kind::Critique(Critique::new(spec.variant.as_deref(), spec.bonus.unwrap_or(0.0))?),
            "judge" => Kind::Judged(Judged::new(
                spec.judge.as_ref().ok_or("judge needs `judge = { model = \"…\" }`")?,
            )?),
            "numeric" => Kind::Numeric {
                pattern: regex(
                    spec.pattern.as_deref().unwrap_or(r"(-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?)"),
                )?,
                tolerance: spec.tolerance.unwrap_or(1e-6),
            },
            "regex" => Kind::Regex(regex(spec.pattern.as_deref().ok_or("regex needs a `pattern`")?)?),
            "length" => Kind::Length {
                budget: max_new_tokens,
                cache: spec.cache.unwrap_or(max_new_tokens.div_ceil(5)),
            },
            "command" => Kind::Command(Command::new(
                spec.command.clone().unwrap_or_default(),
                spec.timeout.unwrap_or(60.0),
            )?),
            other => {
                return Err(format!(
                    "unknown kind `{other}` (exact, numeric, regex, position, ended, tool_call, tool_score, critique, judge, cov, length, command)"
                ));
            }
        };
        Ok(Self { name: spec.name.clone().unwrap_or_else(|| spec.kind.clone()), weight: spec.weight, kind })
    }

    /// What it says of each sample, or why it cannot.
    pub(super) fn score(&self, samples: &[Scored<'_>]) -> Vec<Result<Said, String>> {
        let values = match &self.kind {
            Kind::Cov(cov) => return cov.score(samples),
            Kind::ToolScore(calls) => return samples.iter().map(|s| calls.score(s)).collect(),
            Kind::Critique(critique) => return samples.iter().map(|s| critique.score(s)).collect(),
            Kind::Judged(judged) => return judged.score(samples),
            Kind::Command(command) => command.score(samples),
            _ => samples.iter().map(|s| self.one(s)).collect(),
        };
        values.into_iter().map(|value| value.map(Said::from)).collect()
    }

    fn one(&self, s: &Scored<'_>) -> Result<f64, String> {
        let answer =
            || s.prompt.answer.as_deref().ok_or_else(|| format!("prompt {} has no answer", s.prompt.id));
        let flag = |b: bool| f64::from(u8::from(b));
        Ok(match &self.kind {
            Kind::Exact => {
                answer()?;
                flag(is_exact(s) == Some(true))
            }
            Kind::Numeric { pattern, tolerance } => {
                let wanted: f64 = number(answer()?)
                    .ok_or_else(|| format!("the answer {:?} is not a number", answer().unwrap_or("")))?;
                let found = pattern.captures_iter(s.response).last();
                let found = found.and_then(|c| c.get(1).or(c.get(0)).and_then(|m| number(m.as_str())));
                flag(found.is_some_and(|x| (x - wanted).abs() <= *tolerance))
            }
            Kind::Regex(pattern) => flag(pattern.is_match(s.response)),
            Kind::Position => {
                let (answer, response) = (answer()?, s.response);
                let right = answer.chars().zip(response.chars()).filter(|(a, b)| a == b).count();
                right as f64 / answer.chars().count().max(response.chars().count()).max(1) as f64
            }
            // Ended by itself, at the right length.
            Kind::Ended => {
                flag(s.finish == Finish::Stop && s.response.chars().count() == answer()?.chars().count())
            }
            Kind::ToolCall => tool_call(answer()?, s.response)?,
            Kind::Length { budget, cache } => {
                policy_loss::overlong_penalty(s.response_tokens, *budget * s.prompt.turns(), *cache, 1.0)
            }
            Kind::ToolScore(_) | Kind::Critique(_) | Kind::Judged(_) | Kind::Cov(_) | Kind::Command(_) => {
                return Err("scored elsewhere".into());
            }
        })
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().replace(',', "").parse().ok()
}

/// A third each for valid JSON with a name and arguments, the right name, and the share of right arguments.
fn tool_call(answer: &str, response: &str) -> Result<f64, String> {
    let wanted: serde_json::Value =
        serde_json::from_str(answer).map_err(|e| format!("the answer {answer:?} is not JSON: {e}"))?;
    let Ok(found) = serde_json::from_str::<serde_json::Value>(response.trim()) else { return Ok(0.0) };
    let (Some(args), Some(given)) = (wanted["args"].as_array(), found["args"].as_array()) else {
        return Ok(0.0);
    };
    let right = args.iter().zip(given).filter(|(a, b)| a == b).count() as f64;
    let share = right / args.len().max(given.len()).max(1) as f64;
    Ok((1.0 + f64::from(u8::from(found["name"] == wanted["name"])) + share) / 3.0)
}
