//! `<tool_call>` blocks.

use super::json_calls::call_of;
use super::{Format, Mode, ParseFail, Parsed};
use crate::json::{self, Dialect};
use crate::msg::Call;
use crate::validate::Issue;
use crate::value::Val;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

fn fail(offset: usize, detail: impl Into<String>) -> ParseFail {
    ParseFail::new(offset, "hermes.bad_block", detail)
}

pub(super) fn parse(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    match mode {
        Mode::Strict => strict(text),
        Mode::Lenient => lenient(text),
        Mode::Bfcl => bfcl(text),
    }
}

fn strict(text: &str) -> Result<Parsed, ParseFail> {
    let mut parsed = Parsed::new(Format::Hermes, Vec::new());
    let Some(first) = text.find(OPEN) else {
        parsed.text = text.trim().to_owned();
        return Ok(parsed);
    };
    parsed.text = text[..first].trim().to_owned();
    let mut pos = first;
    while pos < text.len() {
        let rest = &text[pos..];
        let Some(body) = rest.strip_prefix("<tool_call>\n") else {
            return Err(fail(pos, "expected <tool_call> and a line feed"));
        };
        let start = text.len() - body.len();
        let (value, len, _) =
            json::parse_prefix(body, Dialect::Strict).map_err(|e| fail(start + e.offset, e.what))?;
        let end = start + len;
        let Some(after) = text[end..].strip_prefix("\n</tool_call>") else {
            return Err(fail(end, "expected a line feed and </tool_call>"));
        };
        let mut call =
            call_of(&value, "name", &["arguments"], Mode::Strict).map_err(|what| fail(start, what))?;
        call.span = Some(pos..text.len() - after.len());
        parsed.calls.push(call);
        pos = text.len() - after.trim_start().len();
    }
    Ok(parsed)
}

/// One block of a lenient reading: its values' calls, and where it ends.
fn block(text: &str, start: usize, issues: &mut Vec<Issue>) -> Result<(Vec<Call>, usize), ParseFail> {
    let mut calls = Vec::new();
    let mut pos = start;
    loop {
        let rest = text[pos..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        pos = text.len() - rest.len();
        if rest.is_empty() {
            issues.push(Issue::warning("hermes.unclosed", "", "the last block has no </tool_call>"));
            break;
        }
        if rest.starts_with(CLOSE) {
            pos += CLOSE.len();
            break;
        }
        if rest.starts_with(OPEN) {
            issues.push(Issue::warning("hermes.unclosed", "", "a block has no </tool_call>"));
            break;
        }
        if let Some(fenced) = rest.strip_prefix("```") {
            issues.push(Issue::warning("hermes.fence", "", "a code fence was removed"));
            let word = fenced.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(fenced.len());
            pos += 3 + word;
            continue;
        }
        let (value, len) = value(rest).map_err(|e| fail(pos + e.offset, e.what))?;
        if len.1 > 0 {
            issues.push(Issue::warning("hermes.repaired", "", format!("{} slips in JSON", len.1)));
        }
        let items = match &value {
            Val::List(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            let call = call_of(item, "name", &["arguments", "parameters"], Mode::Lenient)
                .map_err(|what| fail(pos, what))?;
            calls.push(Call { span: Some(pos..pos + len.0), ..call });
        }
        pos += len.0;
    }
    if calls.is_empty() { Err(fail(start, "an empty block")) } else { Ok((calls, pos)) }
}

/// Reads a value, at first without the help of missing brackets, which is for the last of a block only.
fn value(rest: &str) -> Result<(Val, (usize, usize)), json::JsonError> {
    let whole = json::parse_prefix(rest, Dialect::Lenient);
    match whole {
        Ok((value, len, repairs)) => Ok((value, (len, repairs))),
        Err(error) => {
            // Missing brackets before the closing tag: the block alone is tried.
            let end = error.offset.min(rest.len());
            let tag = rest.as_bytes()[end..].starts_with(CLOSE.as_bytes());
            if !tag {
                return Err(error);
            }
            json::parse_prefix(&rest[..end], Dialect::Lenient)
                .map(|(value, len, repairs)| (value, (len, repairs)))
        }
    }
}

/// How many times the length of a text its failing blocks may be read.
const REREAD: usize = 4;

/// Where the next block begins or the present one ends.
fn next_tag(text: &str, start: usize) -> usize {
    let rest = &text.as_bytes()[start..];
    for at in memchr::memchr_iter(b'<', rest) {
        if rest[at..].starts_with(OPEN.as_bytes()) {
            return start + at;
        }
        if rest[at..].starts_with(CLOSE.as_bytes()) {
            return start + at + CLOSE.len();
        }
    }
    text.len()
}

fn lenient(text: &str) -> Result<Parsed, ParseFail> {
    let mut parsed = Parsed::new(Format::Hermes, Vec::new());
    let mut pos = 0;
    let mut first_fail = None;
    let (mut blocks, mut again) = (0, 0);
    while let Some(at) = text[pos..].find(OPEN) {
        parsed.text.push_str(&text[pos..pos + at]);
        let start = pos + at + OPEN.len();
        blocks += 1;
        match block(text, start, &mut parsed.issues) {
            Ok((calls, end)) => {
                parsed.calls.extend(calls);
                pos = end;
            }
            Err(fail) => {
                parsed.issues.push(Issue::warning("hermes.bad_block", "", fail.to_string()));
                // A failing block ends at its closing tag, or where the next begins. Blocks inside what it read are read again,
                // which is for broken text, not for text made to be read over and over: beyond a few times its length, what
                // failed is left behind.
                again += fail.offset - start;
                pos = next_tag(text, if again <= REREAD * text.len() { start } else { fail.offset });
                first_fail.get_or_insert(fail);
            }
        }
    }
    parsed.text.push_str(&text[pos..]);
    parsed.text = parsed.text.trim().to_owned();
    match first_fail {
        Some(fail) if blocks > 0 && parsed.calls.is_empty() => Err(fail),
        _ => Ok(parsed),
    }
}

/// Where a text first has a piece, whose first byte is rare.
fn find(text: &str, first: u8, piece: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    memchr::memchr_iter(first, bytes).find(|at| bytes[*at..].starts_with(piece.as_bytes()))
}

fn bfcl(text: &str) -> Result<Parsed, ParseFail> {
    let mut parsed = Parsed::new(Format::Hermes, Vec::new());
    let mut pos = 0;
    let mut bad = None;
    while let Some(at) = find(&text[pos..], b'<', "<tool_call>\n") {
        let start = pos + at + "<tool_call>\n".len();
        let Some(end) = find(&text[start..], b'\n', "\n</tool_call>") else { break };
        pos = start + end + "\n</tool_call>".len();
        let Ok(value) = json::parse(&text[start..start + end], Dialect::Python) else { continue };
        match bfcl_call(value) {
            Some(call) => parsed.calls.push(call),
            None => _ = bad.get_or_insert(start),
        }
    }
    match bad {
        Some(offset) => Err(fail(offset, "a block is not an object with a name and arguments")),
        None => Ok(parsed),
    }
}

/// `{call["name"]: dict(call["arguments"])}`. A name that is no string would be a key of another type; `null` and such
/// never equal a tool's name, so they are refused here as the format check does not.
fn bfcl_call(value: Val) -> Option<Call> {
    let Val::Dict(mut entries) = value else { return None };
    let name = entries.swap_remove("name")?;
    let Some(Val::Dict(args)) = entries.swap_remove("arguments") else { return None };
    let name = match name {
        Val::Str(name) => name,
        Val::List(_) | Val::Dict(_) => return None,
        // Hashable, so it is decoded; its text with a NUL equals no tool's name.
        other => format!("\0{other:?}").into(),
    };
    Some(Call { name, args, id: None, span: None })
}

/// Whether the first block has one JSON object a line, with `parameters`.
pub(super) fn looks_like_toolrl(text: &str) -> bool {
    let Some(start) = text.find(OPEN) else { return false };
    let body = text[start + OPEN.len()..].trim_start();
    let line = body.lines().next().unwrap_or("");
    json::parse(line, Dialect::Lenient).is_ok_and(|v| v.get("parameters").is_some())
}

/// One `<tool_call>` block with one JSON object a line, `name` and `parameters`; `<response>` holds text.
pub(super) fn toolrl(text: &str, mode: Mode) -> Result<Parsed, ParseFail> {
    let fail = |offset, detail: &str| ParseFail::new(offset, "toolrl.bad_block", detail);
    let mut parsed = Parsed::new(Format::ToolRl, Vec::new());
    let response = text.find("<response>").map(|s| s + "<response>".len());
    if let Some(start) = response {
        let end = text[start..].find("</response>").ok_or_else(|| fail(start, "<response> has no end"))?;
        parsed.text = text[start..start + end].trim().to_owned();
    }
    let Some(open) = text.find(OPEN) else { return Ok(parsed) };
    let start = open + OPEN.len();
    // The block ends at the last tag: a string may hold one.
    let end = match text[start..].rfind(CLOSE) {
        Some(end) => start + end,
        None if mode == Mode::Strict => return Err(fail(start, "the block has no end")),
        None => text.len(),
    };
    let mut pos = start;
    for line in text[start..end].split_inclusive('\n') {
        if !line.trim().is_empty() {
            let dialect = if mode == Mode::Strict { Dialect::Strict } else { Dialect::Python };
            let value = json::parse(line.trim(), dialect).map_err(|e| fail(pos + e.offset, e.what))?;
            let keys: &[&str] =
                if mode == Mode::Lenient { &["parameters", "arguments"] } else { &["parameters"] };
            let call = call_of(&value, "name", keys, Mode::Strict).map_err(|what| fail(pos, &what))?;
            parsed.calls.push(Call { span: Some(pos..pos + line.len()), ..call });
        }
        pos += line.len();
    }
    Ok(parsed)
}
