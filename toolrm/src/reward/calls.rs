//! The reward of a policy by its calls.

use std::collections::BTreeMap;

use crate::bfcl;
use crate::msg::Call;
use crate::parse::{Format, Mode, ParseFail, Parsed, Parsing, parse_with};
use crate::rule::{Rational, ScoreOptions, assign, rule_score};
use crate::schema::{SchemaError, ToolDef, parse_tools};
use crate::validate::{Severity, validate_call};
use crate::value::{Val, eq_json};

/// What a response is to be scored against.
#[derive(Clone, Debug)]
pub struct CallTask {
    /// The gold calls.
    pub gold: Vec<Call>,
    /// The tools; without them [`CallPart::Schema`] knows no function.
    pub tools: Vec<ToolDef>,
    /// The format that calls are to be written in.
    pub format: Format,
    /// For [`CallPart::Bfcl`]: the entry's `function` list, its `ground_truth` and its category.
    pub bfcl: Option<(Val, Val, String)>,
}

impl CallTask {
    /// Reads an entry of the leaderboard for [`CallTask::bfcl`]: `{"function", "ground_truth", "category"}`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field, below `bfcl`.
    pub fn entry(v: &Val) -> Result<(Val, Val, String), SchemaError> {
        let field = |key: &str| {
            let path = format!("bfcl.{key}");
            v.get(key).cloned().ok_or_else(|| SchemaError::field(&path, "a value", None))
        };
        let category = field("category")?;
        let category = category
            .as_str()
            .ok_or_else(|| SchemaError::field("bfcl.category", "a string", Some(&category)))?;
        if !bfcl::CATEGORIES.iter().any(|c| c.name == category) {
            let what = format!("no category {category:?}; nearest: {}", bfcl::nearest_category(category));
            return Err(SchemaError::new("bfcl.category", what));
        }
        Ok((field("function")?, field("ground_truth")?, category.to_owned()))
    }

    /// Reads `{"gold": [{"name", "arguments"}, …], "tools": […]?, "format": "hermes"?, "bfcl": {"function", "ground_truth",
    /// "category"}?}`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn from_val(v: &Val) -> Result<Self, SchemaError> {
        let gold = v.get("gold");
        let gold =
            gold.and_then(Val::as_list).ok_or_else(|| SchemaError::field("gold", "a list of calls", gold))?;
        let gold = gold
            .iter()
            .enumerate()
            .map(|(i, c)| Call::from_val(c).map_err(|e| e.under(&format!("gold[{i}]"))));
        let format = match v.get("format") {
            None => Format::Auto,
            Some(name) => name
                .as_str()
                .and_then(Format::from_name)
                .ok_or_else(|| SchemaError::field("format", "a format's name", Some(name)))?,
        };
        Ok(CallTask {
            gold: gold.collect::<Result<_, _>>()?,
            tools: match v.get("tools") {
                None => Vec::new(),
                Some(tools) => parse_tools(tools).map_err(|e| e.under("tools"))?,
            },
            format,
            bfcl: v.get("bfcl").map(CallTask::entry).transpose()?,
        })
    }
}

/// What is rewarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallPart {
    /// The rule score of the calls, read leniently.
    Rule,
    /// 1 if the leaderboard's checker says valid, else 0; the calls are read as its decoder reads them.
    Bfcl,
    /// 1 - issues / (issues + arguments), of the calls against the tools' schemas; 0 where nothing can be read.
    Schema,
    /// 1 if the response is strictly in its format.
    Format,
    /// ToolRL's correctness (arXiv 2504.13958): from -3 to 3.
    ToolRl,
}

impl CallPart {
    /// Every part.
    pub const ALL: [CallPart; 5] =
        [CallPart::Rule, CallPart::Bfcl, CallPart::Schema, CallPart::Format, CallPart::ToolRl];

    /// The part's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            CallPart::Rule => "rule",
            CallPart::Bfcl => "bfcl",
            CallPart::Schema => "schema",
            CallPart::Format => "format",
            CallPart::ToolRl => "toolrl",
        }
    }

    /// The part of a name.
    pub fn from_name(name: &str) -> Option<CallPart> {
        CallPart::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// A response and its task.
#[derive(Clone, Copy, Debug)]
pub struct RewardIn<'a> {
    /// The task.
    pub task: &'a CallTask,
    /// What the policy wrote.
    pub response: &'a str,
}

/// A reward and its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardOut {
    /// The weighted sum.
    pub total: f32,
    /// Every part before its weight.
    pub parts: Vec<(CallPart, f32)>,
    /// What the rule score says: `ok`, `parse_failed`, `count_mismatch` or `duplicate_call`; or `no bfcl entry` where
    /// [`CallPart::Bfcl`] is asked for and the task has none (its value is 0 then).
    pub note: &'static str,
}

/// The rewards of a batch, in order.
///
/// ```
/// use toolrm::{json, reward::{CallPart, CallTask, RewardIn, reward_calls}};
/// let task = json::parse(r#"{"gold": [{"name": "f", "arguments": {"x": 1, "y": 2}}], "format": "hermes"}"#,
///     json::Dialect::Strict)?;
/// let task = CallTask::from_val(&task)?;
/// let response = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";
/// let out = reward_calls(&[RewardIn { task: &task, response }], &[(CallPart::Rule, 1.0), (CallPart::Format, 0.2)]);
/// assert_eq!(out[0].total, 0.7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn reward_calls(batch: &[RewardIn<'_>], parts: &[(CallPart, f32)]) -> Vec<RewardOut> {
    batch.iter().map(|input| one(input, parts)).collect()
}

fn read(input: &RewardIn<'_>, mode: Mode) -> Result<Parsed, ParseFail> {
    let parsing = Parsing { think_split: true, tools: &input.task.tools };
    parse_with(input.response, input.task.format, mode, &parsing)
}

fn one(input: &RewardIn<'_>, parts: &[(CallPart, f32)]) -> RewardOut {
    let task = input.task;
    let lenient = read(input, Mode::Lenient).ok();
    let calls = lenient.as_ref().map(|p| p.calls.as_slice());
    let rule = rule_score(&task.gold, calls, &ScoreOptions::default());
    let mut note = rule.message;
    let flag = |b: bool| f32::from(u8::from(b));
    let mut value = |part: CallPart| match part {
        CallPart::Rule => rule.score as f32,
        CallPart::Format => flag(read(input, Mode::Strict).is_ok()),
        CallPart::Schema => calls.map_or(0.0, |calls| schema(calls, &task.tools)),
        CallPart::ToolRl => toolrl(&task.gold, calls),
        CallPart::Bfcl => match &task.bfcl {
            None => {
                note = "no bfcl entry";
                0.0
            }
            Some((tools, gold, category)) => {
                let parsed = read(input, Mode::Bfcl);
                let parsed = parsed.as_ref().map(|p| p.calls.as_slice());
                flag(bfcl::check_response(tools, parsed, gold, category, bfcl::Options::default()).is_valid())
            }
        },
    };
    let parts: Vec<(CallPart, f32, f32)> = parts.iter().map(|(part, w)| (*part, *w, value(*part))).collect();
    RewardOut {
        total: parts.iter().map(|(_, weight, value)| weight * value).sum(),
        parts: parts.into_iter().map(|(part, _, value)| (part, value)).collect(),
        note,
    }
}

fn schema(calls: &[Call], tools: &[ToolDef]) -> f32 {
    let mistakes =
        |c: &Call| validate_call(c, tools).iter().filter(|i| i.severity == Severity::Error).count();
    let issues: usize = calls.iter().map(mistakes).sum();
    let args: usize = calls.iter().map(|c| c.args.len()).sum();
    if issues == 0 { 1.0 } else { 1.0 - issues as f32 / (issues + args) as f32 }
}

/// Names as multisets (Jaccard), and for the best assignment of predictions to gold calls of their name the Jaccard of
/// argument names and the number of equal values; over the most that the gold calls can give, from -3 to 3.
fn toolrl(gold: &[Call], calls: Option<&[Call]>) -> f32 {
    let Some(calls) = calls else { return -3.0 };
    if gold.is_empty() {
        return if calls.is_empty() { 3.0 } else { -3.0 };
    }
    let mut names: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    gold.iter().for_each(|c| names.entry(&c.name).or_default().0 += 1);
    calls.iter().for_each(|c| names.entry(&c.name).or_default().1 += 1);
    let (least, most) =
        names.values().fold((0, 0), |(least, most), (a, b)| (least + a.min(b), most + a.max(b)));
    // Square, as the assignment wants it: what is too many matches nothing.
    let n = gold.len().max(calls.len());
    let cell = |i: usize, j: usize| match (gold.get(i), calls.get(j)) {
        (Some(g), Some(c)) if g.name == c.name => similarity(g, c),
        _ => None,
    };
    let table: Vec<Vec<Option<Rational>>> = (0..n).map(|i| (0..n).map(|j| cell(i, j)).collect()).collect();
    let matched: f64 = assign(&table).iter().flatten().map(|(_, sim)| sim.to_f64()).sum();
    let reward = f64::from(least) / f64::from(most) + matched;
    let best = 1 + gold.iter().map(|c| 1 + c.args.len()).sum::<usize>();
    (6.0 * reward / best as f64 - 3.0) as f32
}

/// The Jaccard of argument names and the number of equal values, added.
fn similarity(gold: &Call, call: &Call) -> Option<Rational> {
    let common = gold.args.keys().filter(|k| call.args.contains_key(*k)).count();
    let all = gold.args.len() + call.args.len() - common;
    let equal = gold.args.iter().filter(|(k, v)| call.args.get(*k).is_some_and(|w| eq_json(v, w))).count();
    let (common, all) = if all == 0 { (1, 1) } else { (common, all) };
    Rational::new((common + equal * all) as u128, all as u128)
}
