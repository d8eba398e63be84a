//! Source text of JavaScript to values, by the declared type.

use super::container::{Form, guess_number, inner, number};
use super::pynum::{self, is_space, strip};
use crate::pattern::Pattern;
use crate::value::{Key, Map, Val};

/// Why the reference raises, if it does.
type Converted = Result<Val, &'static str>;

const INT: Form = Form { fraction: false, exponent: false, suffix: None };
const FLOAT: Form = Form { fraction: true, ..INT };
const BIGINT: Form = Form { suffix: Some('n'), ..INT };

fn quoted(text: &str) -> bool {
    (text.starts_with('"') && text.ends_with('"')) || (text.starts_with('\'') && text.ends_with('\''))
}

/// The value of a text, or the text itself where it has not the type's form.
pub(super) fn convert(text: &str, ty: &str, items: Option<&str>) -> Converted {
    Ok(match ty {
        "String" if quoted(text) => Val::from(inner(text)),
        "String" | "any" => Val::from(text),
        "integer" => match number(text, INT) {
            None => Val::from(text),
            Some(body) => pynum::int(body).ok_or("value.int_too_long")?,
        },
        "float" => number(text, FLOAT).and_then(pynum::float).map_or_else(|| Val::from(text), Val::Float),
        "Bigint" => match number(text, BIGINT).filter(|_| !text.ends_with(['N']) && !text.ends_with("N\n")) {
            None => Val::from(text),
            // The reference drops the last character, which is the line feed here, and raises on the `n`.
            Some(_) if text.ends_with('\n') => return Err("value.bigint"),
            Some(body) => pynum::int(body).ok_or("value.int_too_long")?,
        },
        "Boolean" => match text {
            "true" => Val::Bool(true),
            "false" => Val::Bool(false),
            _ => Val::from(text),
        },
        "array" => array(text, items),
        "dict" => dict(text),
        _ => return Err("schema.unsupported_type"),
    })
}

static ARRAY_2D: Pattern =
    Pattern::new(r"^(?:\[\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\]|\bnew\s+Array\(\s*\[.*?\]\s*(,\s*\[.*?\]\s*)*\))");
static BRACKETS: Pattern = Pattern::new(r"\[(.*?)\]");
static ARRAY: Pattern = Pattern::new(r"^(?:\[(.*?)\]|\bnew\s+Array\((.*?)\))");
static DICT: Pattern = Pattern::new(r"^\{(.*?)\}");

fn array(text: &str, items: Option<&str>) -> Val {
    let code = strip(text);
    if let Some(found) = ARRAY_2D.get().find(code) {
        let rows = BRACKETS.get().captures_iter(found.as_str()).enumerate().map(|(i, row)| {
            let row = row.get(1).map_or("", |m| m.as_str());
            let row = strip(row);
            let row = if i == 0 { row.strip_prefix('[').unwrap_or(row) } else { row };
            Val::List(row.split(',').map(|e| guess(strip(e))).collect())
        });
        return Val::List(rows.collect());
    }
    let Some(found) = ARRAY.get().captures(code) else { return Val::from(code) };
    let elements = strip(found.get(1).or_else(|| found.get(2)).map_or("", |m| m.as_str()));
    if elements.is_empty() {
        return Val::List(Vec::new());
    }
    let element = |e: &str| match items {
        None => Ok(guess(e)),
        Some(ty) => convert(e, ty, (e.starts_with('\'') || e.starts_with('"')).then_some("String")),
    };
    // Whatever raises inside, the reference keeps the text.
    let all: Result<Vec<Val>, _> = elements.split(',').map(|e| element(strip(e))).collect();
    all.map_or_else(|_| Val::from(code), Val::List)
}

fn dict(text: &str) -> Val {
    let code = strip(text);
    if code == "{}" {
        return Val::Dict(Map::default());
    }
    let Some(found) = DICT.get().captures(code) else { return Val::from(code) };
    let mut entries = Map::default();
    for (key, value) in pairs(&found[1]) {
        let key = strip(key).trim_matches(['\'', '"']);
        let value = strip(value);
        let value = if value.starts_with('[') && value.ends_with(']') {
            array(value, None)
        } else if value.starts_with('{') && value.ends_with('}') {
            dict(value)
        } else {
            guess(value.trim_matches(['\'', '"']))
        };
        entries.insert(Key::from(key), value);
    }
    Val::Dict(entries)
}

/// The matches of `([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)` in a text of one line: keys and values.
fn pairs(text: &str) -> Vec<(&str, &str)> {
    let bytes = text.as_bytes();
    // The next comma and the next colon at or after each byte.
    let mut comma = vec![bytes.len(); bytes.len() + 1];
    let mut colon = comma.clone();
    for i in (0..bytes.len()).rev() {
        comma[i] = if bytes[i] == b',' { i } else { comma[i + 1] };
        colon[i] = if bytes[i] == b':' { i } else { colon[i + 1] };
    }
    let char_len = |at: usize| text[at..].chars().next().map_or(0, char::len_utf8);
    // Whether a key may begin here: a colon follows, after at least one character that is no comma.
    let key_at = |at: usize| at < bytes.len() && bytes[at] != b',' && colon[at + char_len(at)] < comma[at];
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = colon[at];
        if end == bytes.len() {
            break;
        }
        if end == at {
            at += 1;
            continue;
        }
        let key = &text[at..end];
        let start = text.len() - text[end + 1..].trim_start_matches(is_space).len();
        let mut stop = start;
        loop {
            stop = comma[stop];
            if stop == bytes.len() {
                out.push((key, &text[start..]));
                return out;
            }
            // Greedy white space, given back one character at a time.
            let after = text.len() - text[stop + 1..].trim_start_matches(is_space).len();
            let next = if key_at(after) {
                Some(after)
            } else {
                text[stop + 1..after].char_indices().rev().map(|(i, _)| stop + 1 + i).find(|p| key_at(*p))
            };
            if let Some(next) = next {
                out.push((key, &text[start..stop]));
                at = next;
                break;
            }
            stop += 1;
        }
    }
    out
}

fn guess(text: &str) -> Val {
    let text = strip(text);
    match text {
        "true" => Val::Bool(true),
        "false" => Val::Bool(false),
        _ if quoted(text) => Val::from(inner(text)),
        _ => guess_number(text),
    }
}
