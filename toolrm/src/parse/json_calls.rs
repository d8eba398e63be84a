//! Formats that are JSON: OpenAI, Llama, xLAM, BFCL.

use super::pythonic::parse_literal;
use super::{Format, Mode, ParseFail, Parsed};
use crate::json::{self, Dialect};
use crate::msg::Call;
use crate::pattern::Pattern;
use crate::value::{Key, Map, Val};

fn dialect(mode: Mode) -> Dialect {
    match mode {
        Mode::Strict => Dialect::Strict,
        Mode::Lenient => Dialect::Lenient,
        Mode::Bfcl => Dialect::Python,
    }
}

fn arguments(v: Option<&Val>, mode: Mode) -> Result<Map, String> {
    match v {
        Some(Val::Dict(args)) => Ok(args.clone()),
        None | Some(Val::Null) if mode == Mode::Lenient => Ok(Map::default()),
        Some(Val::Str(text)) if mode == Mode::Lenient => match json::parse(text, Dialect::Lenient) {
            _ if text.trim().is_empty() => Ok(Map::default()),
            Ok(Val::Dict(args)) => Ok(args),
            _ => Err("arguments are text that is no JSON object".into()),
        },
        None => Err("no arguments".into()),
        Some(other) => Err(format!("arguments are {}, not an object", other.tag().name())),
    }
}

/// A call from an object: its name under `name`, its arguments under the first key that is there.
pub(super) fn call_of(v: &Val, name: &str, keys: &[&str], mode: Mode) -> Result<Call, String> {
    let entries = v.as_dict().ok_or_else(|| format!("expected an object, found {}", v.tag().name()))?;
    let called = v.get(name).and_then(Val::as_str).ok_or_else(|| format!("no {name:?} that is a string"))?;
    let args = arguments(keys.iter().find_map(|k| entries.get(*k)), mode)?;
    if mode == Mode::Strict
        && let Some((k, _)) =
            entries.iter().find(|(k, _)| k.as_str().is_none_or(|k| k != name && !keys.contains(&k)))
    {
        return Err(format!("an unknown key {:?}", k.as_str().unwrap_or("?")));
    }
    Ok(Call { name: called.into(), args, id: v.get("id").and_then(Val::as_str).map(Into::into), span: None })
}

/// One entry of `tool_calls`; also `{"name", "arguments"}` and `{name: "arguments"}`.
pub(crate) fn openai_call(v: &Val, mode: Mode) -> Result<Call, String> {
    let entries = v.as_dict().ok_or_else(|| format!("expected an object, found {}", v.tag().name()))?;
    let inner = v.get("function").filter(|f| f.as_dict().is_some());
    let (name, args) = match (inner, entries.first()) {
        (Some(f), _) => (f.get("name").and_then(Val::as_str), f.get("arguments")),
        (None, Some((Key::Str(name), args))) if entries.len() == 1 && name != "name" => {
            (Some(name.as_str()), Some(args))
        }
        _ => (v.get("name").and_then(Val::as_str), v.get("arguments")),
    };
    let name = name.ok_or("no name that is a string")?;
    let args = match args {
        Some(Val::Str(text)) if mode != Mode::Lenient => match json::parse(text, dialect(mode)) {
            Ok(Val::Dict(args)) => args,
            _ => return Err("arguments are text that is no JSON object".into()),
        },
        Some(Val::Dict(_)) if mode == Mode::Strict => {
            return Err("arguments are an object, not its text".into());
        }
        other => arguments(other, mode)?,
    };
    Ok(Call { name: name.into(), args, id: v.get("id").and_then(Val::as_str).map(Into::into), span: None })
}

fn collect(
    format: Format,
    items: &[Val],
    kind: &'static str,
    read: impl Fn(&Val) -> Result<Call, String>,
) -> Result<Parsed, ParseFail> {
    let calls: Result<Vec<Call>, String> =
        items.iter().enumerate().map(|(i, v)| read(v).map_err(|what| format!("call {i}: {what}"))).collect();
    calls.map(|calls| Parsed::new(format, calls)).map_err(|what| ParseFail::new(0, kind, what))
}

fn slice(v: &Val) -> &[Val] {
    match v {
        Val::List(items) | Val::Tuple(items) => items,
        one => std::slice::from_ref(one),
    }
}

pub(super) fn openai(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    let kind = "openai.bad_calls";
    let value = json::parse(text, dialect(mode)).map_err(|e| ParseFail::new(e.offset, kind, e.what))?;
    let message = value.as_dict().is_some_and(|m| m.contains_key("tool_calls") || m.contains_key("content"));
    if !message {
        return collect(Format::OpenAi, slice(&value), kind, |v| openai_call(v, mode));
    }
    let items = match value.get("tool_calls") {
        None | Some(Val::Null) => &[],
        Some(Val::List(items)) => items.as_slice(),
        Some(other) => return Err(ParseFail::new(0, kind, format!("tool_calls are {}", other.tag().name()))),
    };
    let mut parsed = collect(Format::OpenAi, items, kind, |v| openai_call(v, mode))?;
    parsed.text = value.get("content").and_then(Val::as_str).unwrap_or_default().to_owned();
    Ok(parsed)
}

/// Several JSON values, one after another, with white space, `;` or `,` between.
fn sequence(text: &str, kind: &'static str) -> Result<Vec<Val>, ParseFail> {
    let mut out = Vec::new();
    let mut pos = 0;
    loop {
        let rest = text[pos..].trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
        pos = text.len() - rest.len();
        if rest.is_empty() {
            return Ok(out);
        }
        let (value, len, _) = json::parse_prefix(rest, Dialect::Lenient)
            .map_err(|e| ParseFail::new(pos + e.offset, kind, e.what))?;
        pos += len;
        match value {
            Val::List(items) => out.extend(items),
            one => out.push(one),
        }
    }
}

/// `call["name"]`, `call["parameters"]` of the leaderboard: the parameters may be anything, which the format check sees.
fn bfcl_pair(v: &Val, name: &str, args: &str, kind: &'static str) -> Result<Call, ParseFail> {
    let bad = |what: &str| ParseFail::new(0, kind, what);
    let called = v.get(name).ok_or_else(|| bad("a call without a name"))?;
    let params = v.get(args).ok_or_else(|| bad("a call without parameters"))?;
    let called = match called {
        Val::Str(called) => called.clone(),
        Val::List(_) | Val::Dict(_) => return Err(bad("a name that is a container")),
        other => format!("\0{other:?}").into(),
    };
    match params {
        Val::Dict(params) => Ok(Call { name: called, args: params.clone(), id: None, span: None }),
        other => Err(ParseFail::wrong(format!("parameters are {}", other.tag().name()))),
    }
}

/// Reads pairs so that a missing field wins over a wrong format, as the decoder runs before the format check.
fn bfcl_pairs(
    format: Format,
    items: &[Val],
    name: &str,
    args: &str,
    kind: &'static str,
) -> Result<Parsed, ParseFail> {
    let mut calls = Vec::new();
    let mut wrong = None;
    for item in items {
        match bfcl_pair(item, name, args, kind) {
            Ok(call) => calls.push(call),
            Err(fail) if fail.kind == ParseFail::WRONG_FORMAT => _ = wrong.get_or_insert(fail),
            Err(fail) => return Err(fail),
        }
    }
    wrong.map_or_else(|| Ok(Parsed::new(format, calls)), Err)
}

pub(super) fn llama(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    let kind = "llama.bad_calls";
    let tag = "<|python_tag|>";
    if mode == Mode::Lenient {
        let text = text.replace(tag, "");
        let keys = ["parameters", "arguments"];
        return collect(Format::LlamaJson, &sequence(&text, kind)?, kind, |v| {
            call_of(v, "name", &keys, mode)
        });
    }
    if mode == Mode::Strict {
        let body = text.strip_prefix(tag).unwrap_or(text);
        let value = json::parse(body, Dialect::Strict)
            .map_err(|e| ParseFail::new(text.len() - body.len() + e.offset, kind, e.what))?;
        return collect(Format::LlamaJson, slice(&value), kind, |v| {
            call_of(v, "name", &["parameters"], mode)
        });
    }
    let text = text.replace(tag, "");
    let items = if text.contains(';') {
        let pieces = text.split(';').map(|p| json::parse(p, Dialect::Python));
        pieces.collect::<Result<Vec<_>, _>>().map_err(|e| ParseFail::new(e.offset, kind, e.what))?
    } else {
        // The reference evaluates the text; only literals are read here, which JSON's `true` and `null` are not.
        match parse_literal(text.trim_start_matches([' ', '\t']))? {
            Val::List(items) | Val::Tuple(items) => items,
            Val::Dict(entries) => vec![Val::Dict(entries)],
            _ => return Err(ParseFail::new(0, kind, "expected calls")),
        }
    };
    bfcl_pairs(Format::LlamaJson, &items, "name", "parameters", kind)
}

pub(super) fn xlam(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    let kind = "xlam.bad_calls";
    match (json::parse(text, dialect(mode)), mode) {
        (Ok(value), Mode::Bfcl) => bfcl_pairs(Format::Xlam, slice(&value), "name", "arguments", kind),
        (Ok(value), _) => {
            collect(Format::Xlam, slice(&value), kind, |v| call_of(v, "name", &["arguments"], mode))
        }
        (Err(e), Mode::Strict) => Err(ParseFail::new(e.offset, kind, e.what)),
        (Err(_), Mode::Lenient) => {
            collect(Format::Xlam, &sequence(text, kind)?, kind, |v| call_of(v, "name", &["arguments"], mode))
        }
        (Err(_), Mode::Bfcl) => {
            let pieces = text.split(';').map(|p| json::parse(p, Dialect::Python));
            let items =
                pieces.collect::<Result<Vec<_>, _>>().map_err(|e| ParseFail::new(e.offset, kind, e.what))?;
            bfcl_pairs(Format::Xlam, &items, "name", "arguments", kind)
        }
    }
}

/// The list that the leaderboard's decoder narrows the text to: the first that looks like a list of objects.
static OBJECTS: Pattern = Pattern::new(r"(?s)\[\s*\{.*?\}\s*(?:,\s*\{.*?\}\s*)*\]");

pub(super) fn bfcl(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    let kind = "bfcl_json.bad_calls";
    if mode == Mode::Strict {
        let value = json::parse(text, Dialect::Strict).map_err(|e| ParseFail::new(e.offset, kind, e.what))?;
        let items = value.as_list().ok_or_else(|| ParseFail::new(0, kind, "expected a list"))?;
        return collect(Format::BfclJson, items, kind, |v| call_of(v, "function", &["parameters"], mode));
    }
    let body = match (text.find('['), text.rfind(']')) {
        (Some(start), Some(end)) if start < end => &text[start..=end],
        _ => text,
    };
    let body = OBJECTS.get().find(body).filter(|_| mode == Mode::Bfcl).map_or(body, |found| found.as_str());
    let Ok(value) = json::parse(body, dialect(mode)) else {
        return Ok(Parsed::new(Format::BfclJson, Vec::new()));
    };
    if mode == Mode::Lenient {
        return collect(Format::BfclJson, slice(&value), kind, |v| {
            call_of(v, "function", &["parameters"], mode)
        });
    }
    match &value {
        // What is no object is passed over; an object's own keys are no objects.
        Val::List(items) => {
            let objects: Vec<Val> = items.iter().filter(|v| v.as_dict().is_some()).cloned().collect();
            bfcl_pairs(Format::BfclJson, &objects, "function", "parameters", kind)
        }
        Val::Dict(_) | Val::Str(_) => Ok(Parsed::new(Format::BfclJson, Vec::new())),
        _ => Err(ParseFail::new(0, kind, "expected a list")),
    }
}

/// The format that the keys of JSON text say.
pub(super) fn by_keys(text: &str) -> Option<Format> {
    if !text.starts_with(['[', '{']) {
        return None;
    }
    let value = json::parse(text, Dialect::Lenient).ok()?;
    let first = slice(&value).first()?;
    let has = |k: &str| first.get(k).is_some();
    if has("tool_calls") || first.get("function").is_some_and(|f| f.as_dict().is_some()) {
        Some(Format::OpenAi)
    } else if has("function") && has("parameters") {
        Some(Format::BfclJson)
    } else if has("name") && has("arguments") {
        Some(Format::Xlam)
    } else if has("name") && has("parameters") {
        Some(Format::LlamaJson)
    } else {
        None
    }
}
