//! The columns of the released data sets, to pairs and steps and back: ToolPref-Pairwise-30K's and TRBench's.
//!
//! The responses, the gold calls and the conversation are read; columns that have no place in a [`Pair`] (`prompt`, `reward_model`,
//! `extra_info`, …) are kept in its `meta` and written back. Null fields inside messages are dropped.

use super::fields::{Fields, tools_val, write_meta};
use super::{Pair, Response, Step};
use crate::canon::{canon, canon_calls};
use crate::critique::{Variant, orientation, pair_task};
use crate::json::{self, Dialect};
use crate::msg::{Call, Message, Role, messages};
use crate::pairs::{complexity, intensity_bin};
use crate::parse::{Format, Mode, parse, render};
use crate::rule::{Rational, ScoreOptions, rule_score};
use crate::schema::{SchemaError, ToolDef, parse_tools};
use crate::value::{Map, Val};

/// How far a stored reward may be from the score of the same response: they are rounded to two digits.
pub const REWARD_TOLERANCE: f64 = 5e-3;

/// A layout of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Training pairs: gold calls in `gt_actions`, a reward for either response.
    ToolPref,
    /// Pairs of the benchmark: the chosen response is the gold one, and there are no rewards.
    TrBench,
}

/// A row of a released data set.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its two responses. `source` is the row's `task_source`. Scores are those of the rule where the stored rewards are within
    /// [`REWARD_TOLERANCE`] of them, else the stored ones.
    pub pair: Pair,
    /// What they respond to: its id is the same in all rows with the same conversation and gold calls.
    pub step: Step,
    /// Columns whose number is not what scoring the responses again gives: name, stored, computed.
    pub differs: Vec<(&'static str, f64, f64)>,
}

/// A value that may be stored as its JSON text.
fn decoded(v: Option<Val>, column: &str) -> Result<Option<Val>, SchemaError> {
    match v {
        Some(Val::Str(text)) => json::parse(&text, Dialect::Python)
            .map(Some)
            .map_err(|e| SchemaError::of("json.syntax", column, e.to_string())),
        v => Ok(v),
    }
}

/// An id: text, or a number as its digits.
fn id(f: &mut Fields, column: &str) -> Result<String, SchemaError> {
    match f.take(column) {
        Some(Val::Str(s)) if !s.is_empty() => Ok(s.into()),
        Some(Val::Int(n)) if n >= 0 => Ok(n.to_string()),
        other => Err(SchemaError::field(column, "a text or a count", other.as_ref())),
    }
}

/// An id as it is written: digits are a number.
fn id_val(id: &str) -> Val {
    match id.parse::<i64>() {
        Ok(n) if n >= 0 && n.to_string() == id => Val::Int(n),
        _ => id.into(),
    }
}

const TOOLS_BEGIN: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
    You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const TOOLS_END: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
    <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/// Takes the tools out of a system message in Qwen's form: a line of JSON each between `<tools>` tags, from `# Tools` on. A message
/// of another form stays whole and gives no tools.
fn take_tools(history: &mut Vec<Message>) -> Result<Vec<ToolDef>, SchemaError> {
    let Some(system) = history.first_mut().filter(|m| m.role == Role::System) else { return Ok(Vec::new()) };
    let Some(start) = system.content.find("# Tools\n") else { return Ok(Vec::new()) };
    let body = &system.content[start..];
    let lines = body.find("\n<tools>\n").map(|at| &body[at + "\n<tools>\n".len()..]);
    let Some(lines) = lines.and_then(|l| l.find("</tools>").map(|end| &l[..end])) else {
        return Ok(Vec::new());
    };
    let mut tools = Vec::new();
    for line in lines.lines().filter(|l| !l.trim().is_empty()) {
        let bad = |e: json::JsonError| {
            SchemaError::of("json.syntax", "chat_history[0].content", format!("a tool: {e}"))
        };
        tools.push(json::parse(line, Dialect::Python).map_err(bad)?);
    }
    let tools = parse_tools(&Val::List(tools)).map_err(|e| e.under("chat_history[0].content"))?;
    system.content.truncate(start);
    system.content.truncate(system.content.trim_end().len());
    if system.content.is_empty() {
        history.remove(0);
    }
    Ok(tools)
}

/// The conversation with its tools in the system message.
fn with_tools(step: &Step) -> Result<Val, SchemaError> {
    let mut history = step.history.clone();
    if !step.tools.is_empty() {
        let mut block = TOOLS_BEGIN.to_owned();
        for tool in &step.tools {
            let wrapped = Val::dict([("type", Val::from("function")), ("function", tool.to_val())]);
            block.push('\n');
            block.push_str(&text_of(&wrapped, "chat_history[0].content")?);
        }
        block.push_str(TOOLS_END);
        match history.first_mut().filter(|m| m.role == Role::System) {
            Some(system) => system.content = format!("{}\n\n{block}", system.content),
            None => history.insert(0, Message::new(Role::System, block)),
        }
    }
    Ok(Val::List(history.iter().map(Message::to_val).collect()))
}

fn text_of(v: &Val, column: &str) -> Result<String, SchemaError> {
    json::to_string(v).map_err(|e| SchemaError::of("json.none", column, e.to_string()))
}

/// A response: a message, its JSON text, or its text alone. Calls are those of the message, or of its text.
fn response(v: Option<Val>, column: &str, origin: String) -> Result<Response, SchemaError> {
    let v = match v {
        Some(Val::Str(text)) => match json::parse(&text, Dialect::Python) {
            Ok(v @ Val::Dict(_)) if v.get("content").is_some() || v.get("tool_calls").is_some() => v,
            _ => Val::dict([("content", Val::Str(text))]),
        },
        Some(v @ Val::Dict(_)) => v,
        other => return Err(SchemaError::field(column, "a message or a text", other.as_ref())),
    };
    let Val::Dict(mut map) = v else {
        return Err(SchemaError::field(column, "a message or a text", Some(&v)));
    };
    map.entry("role".into()).or_insert_with(|| "assistant".into());
    let message = Message::from_val(&Val::Dict(map)).map_err(|e| e.under(column))?;
    let mut out = Response {
        text: message.content,
        calls: Some(message.calls),
        score: Rational::ZERO,
        message: String::new(),
        origin,
        meta: Map::default(),
    };
    if out.calls.as_ref().is_some_and(Vec::is_empty) {
        // Calls with a value that JSON does not have can be sent to no tool: they count as unparsable.
        let parsed = parse(&out.text, Format::Hermes, Mode::Lenient).ok();
        let parsed =
            parsed.filter(|p| p.calls.iter().all(|c| json::write_map(&c.args, &mut String::new()).is_ok()));
        out.calls = parsed.map(|p| {
            out.text = p.text.trim().to_owned();
            p.calls
        });
    }
    Ok(out)
}

/// A response as a message in Hermes form.
fn response_val(r: &Response, column: &str) -> Result<Val, SchemaError> {
    let mut content = r.text.clone();
    if let Some(calls) = r.calls.as_deref().filter(|c| !c.is_empty()) {
        let calls =
            render(calls, Format::Hermes).map_err(|e| SchemaError::of("json.none", column, e.to_string()))?;
        if !content.is_empty() {
            content.push('\n');
        }
        content.push_str(&calls);
    }
    Ok(Val::dict([("role", Val::from("assistant")), ("content", content.into())]))
}

impl Layout {
    /// The layout's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::ToolPref => "toolpref",
            Layout::TrBench => "trbench",
        }
    }

    /// Reads a row. The gold calls are `gt_actions`, in TRBench the chosen response's; both responses are scored against them again.
    ///
    /// # Errors
    /// [`SchemaError`] naming the column; `pair.order` where the chosen response is not the better one.
    pub fn import(self, row: Val, options: &ScoreOptions) -> Result<Imported, SchemaError> {
        let mut f = Fields::of(row)?;
        let uuid = id(&mut f, "uuid")?;
        let source = f.maybe_string("task_source")?.unwrap_or_default();
        let chat = decoded(f.take("chat_history"), "chat_history")?;
        let mut history = messages(chat.as_ref()).map_err(|e| e.under("chat_history"))?;
        let tools = take_tools(&mut history)?;
        let mut from = |column: &str| Ok::<_, SchemaError>(f.maybe_string(column)?.unwrap_or_default());
        let (chosen_from, rejected_from) = (from("chosen_response_from")?, from("reject_response_from")?);
        let mut chosen = response(f.take("chosen_response"), "chosen_response", chosen_from)?;
        let mut rejected = response(f.take("reject_response"), "reject_response", rejected_from)?;
        let (gold, content) = match self {
            Layout::ToolPref => {
                (calls(decoded(f.take("gt_actions"), "gt_actions")?, "gt_actions")?, String::new())
            }
            Layout::TrBench => match &chosen.calls {
                Some(calls) => (calls.clone(), chosen.text.clone()),
                None => {
                    return Err(SchemaError::of(
                        "parse.failed",
                        "chosen_response",
                        "its calls cannot be read",
                    ));
                }
            },
        };
        let mut differs = Vec::new();
        for (side, columns) in [
            (&mut chosen, ["chosen_response_reward", "chosen_response_reward_message"]),
            (&mut rejected, ["reject_response_reward", "reject_response_reward_message"]),
        ] {
            let out = rule_score(&gold, side.calls.as_deref(), options);
            (side.score, side.message) = (out.ratio, out.message.to_owned());
            if self == Layout::ToolPref {
                let stored = f.ratio(columns[0], "", "")?;
                if (stored.to_f64() - out.score).abs() > REWARD_TOLERANCE {
                    differs.push((columns[0], stored.to_f64(), out.score));
                    side.score = stored;
                }
                side.message = f.maybe_string(columns[1])?.unwrap_or(side.message.clone());
            }
        }
        let difference = chosen.score.minus(rejected.score).filter(|d| *d > Rational::ZERO);
        let Some(intensity) = difference else {
            let what =
                format!("expected the higher score: {}, {}", chosen.score.to_f64(), rejected.score.to_f64());
            return Err(SchemaError::of("pair.order", "chosen_response", what));
        };
        let mut complexity = complexity(&gold);
        if self == Layout::ToolPref {
            let stored = f.maybe_number("reward_difference")?.unwrap_or(intensity.to_f64());
            if (stored - intensity.to_f64()).abs() > 2.0 * REWARD_TOLERANCE {
                differs.push(("reward_difference", stored, intensity.to_f64()));
            }
            if let Some(stored) = f.maybe_count("task_complexity")?
                && stored != complexity
            {
                differs.push(("task_complexity", stored as f64, complexity as f64));
                complexity = stored;
            }
        }
        let meta = f.rest();
        let step_id = match (self, meta.get("raw_id")) {
            (Layout::TrBench, Some(Val::Str(raw))) => raw.to_string(),
            (Layout::TrBench, Some(Val::Int(raw))) => format!("{source}-{raw}"),
            _ => {
                let said = Val::List(history.iter().map(Message::to_val).collect());
                let all = format!("{}\n{}\n{}", canon(&tools_val(&tools)), canon(&said), canon_calls(&gold));
                format!("{source}-{:016x}", xxhash_rust::xxh3::xxh3_64(all.as_bytes()))
            }
        };
        Ok(Imported {
            step: Step {
                id: step_id.clone(),
                conv_id: step_id.clone(),
                turn: history.len() as u64,
                source: source.clone(),
                tools,
                history,
                content,
                calls: gold,
                meta: Map::default(),
            },
            pair: Pair {
                id: uuid,
                step_id,
                source,
                chosen,
                rejected,
                intensity,
                complexity,
                bin: intensity_bin(intensity, 10),
                meta,
            },
            differs,
        })
    }

    /// The row of a pair. Columns that its `meta` does not have are made: the judge's prompt without thoughts, in the orientation that
    /// `seed` draws for the pair, with its label as `reward_model.ground_truth`.
    ///
    /// # Errors
    /// [`SchemaError`] where a value has no form in JSON, or TRBench is given a pair that its gold response does not win.
    pub fn export(self, pair: &Pair, step: &Step, seed: u64) -> Result<Map, SchemaError> {
        if self == Layout::TrBench && (pair.chosen.score != Rational::ONE || pair.chosen.calls.is_none()) {
            let what =
                format!("expected the score 1 of a gold response, found {}", pair.chosen.score.to_f64());
            return Err(SchemaError::of("pair.order", "chosen.score", what));
        }
        let mut out = Map::default();
        let mut put = |column: &str, v: Val| _ = out.insert(column.into(), v);
        let kept = |column: &str, v: Val| pair.meta.get(column).cloned().unwrap_or(v);
        put("uuid", id_val(&pair.id));
        if self == Layout::TrBench {
            put("split_id", kept("split_id", id_val(&pair.id)));
        }
        put("raw_id", kept("raw_id", pair.step_id.clone().into()));
        if self == Layout::ToolPref {
            put("data_source", kept("data_source", "toolrm_pairwise".into()));
        }
        put("task_source", pair.source.clone().into());
        match self {
            Layout::TrBench => put("error_type", kept("error_type", "".into())),
            Layout::ToolPref => {
                let gold = Val::List(step.calls.iter().map(Call::to_val).collect());
                put("gt_actions", text_of(&gold, "gt_actions")?.into());
            }
        }
        put("chat_history", with_tools(step)?);
        if self == Layout::ToolPref {
            put("task_complexity", Val::int(pair.complexity.into()));
        }
        for (name, side) in [("chosen", &pair.chosen), ("reject", &pair.rejected)] {
            let column = |end: &str| format!("{name}_response{end}");
            put(&column(""), response_val(side, &column(""))?);
            if self == Layout::ToolPref {
                put(&column("_reward"), Val::Float(side.score.to_f64()));
                put(&column("_reward_message"), side.message.clone().into());
                put(&column("_from"), side.origin.clone().into());
            }
        }
        if self == Layout::TrBench {
            put("chosen_response_from", pair.chosen.origin.clone().into());
            put("reject_response_from", pair.rejected.origin.clone().into());
        }
        if self == Layout::ToolPref {
            put("reward_difference", Val::Float(pair.intensity.to_f64()));
        }
        let task = pair_task(step, pair, orientation(seed, &pair.id), Variant::NoThink)
            .map_err(|e| SchemaError::of("json.none", "prompt", e.to_string()))?;
        let prompt = Val::dict([("role", Val::from("user")), ("content", task.prompt.into())]);
        put("prompt", kept("prompt", Val::List(vec![prompt])));
        if self == Layout::ToolPref {
            put("ability", kept("ability", "tool_use".into()));
        }
        let label = Val::from(task.label.unwrap_or_default());
        put(
            "reward_model",
            kept("reward_model", Val::dict([("ground_truth", label), ("style", "rule".into())])),
        );
        let kind = [("sample_type", Val::from(task.orientation.name()))];
        put("extra_info", kept("extra_info", Val::dict(kind)));
        write_meta(&mut out, &pair.meta);
        Ok(out)
    }
}

fn calls(v: Option<Val>, column: &str) -> Result<Vec<Call>, SchemaError> {
    let list = v
        .as_ref()
        .and_then(Val::as_list)
        .ok_or_else(|| SchemaError::field(column, "a list of calls", v.as_ref()))?;
    let one = |(i, c): (usize, &Val)| Call::from_val(c).map_err(|e| e.under(&format!("{column}[{i}]")));
    list.iter().enumerate().map(one).collect()
}
