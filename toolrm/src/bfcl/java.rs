//! Source text of Java to values, by the declared type.

use super::container::{Form, guess_number, inner, number};
use super::pynum::{self, strip};
use crate::pattern::Pattern;
use crate::value::{Key, Map, Val};

/// Why the reference raises, if it does.
type Converted = Result<Val, &'static str>;

const INT: Form = Form { fraction: false, exponent: false, suffix: None };
const LONG: Form = Form { suffix: Some('l'), ..INT };
const DOUBLE: Form = Form { fraction: true, exponent: true, suffix: None };
const FLOAT: Form = Form { suffix: Some('f'), ..DOUBLE };

/// The value of a text, or the text itself where it has not the type's form.
pub(super) fn convert(text: &str, ty: &str, items: Option<&str>) -> Converted {
    let int = |form| match number(text, form) {
        None => Ok(Val::from(text)),
        Some(body) => pynum::int(body).ok_or("value.int_too_long"),
    };
    let float = |form| match number(text, form).and_then(pynum::float) {
        None => Val::from(text),
        Some(f) => Val::Float(f),
    };
    Ok(match ty {
        "byte" | "short" | "integer" => int(INT)?,
        "long" => int(LONG)?,
        "float" => float(FLOAT),
        "double" => float(DOUBLE),
        "boolean" => match text {
            "true" => Val::Bool(true),
            "false" => Val::Bool(false),
            _ => Val::from(text),
        },
        "char" | "String" | "any" => Val::from(text),
        "Array" => array(text, items)?,
        "ArrayList" => array_list(text, items)?,
        "HashMap" => hash_map(text),
        _ => return Err("schema.unsupported_type"),
    })
}

static ARRAY: Pattern = Pattern::new(r"new\s+\w+\[\]\s*\{(.*?)\}");
static AS_LIST: Pattern = Pattern::new(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)");
static ADDS: Pattern = Pattern::new(r"(?s)new\s+ArrayList<\w*>\(\)\s*\{\{\s*(.+?)\s*\}\}");
static ADD: Pattern = Pattern::new(r"add\((.+?)\)");
static EMPTY_LIST: Pattern = Pattern::new(r"new\s+ArrayList<\w*>\(\)");
static PUTS: Pattern = Pattern::new(r"(?s)new\s+HashMap<.*?>\s*\(\)\s*\{\s*\{?\s*(.*?)\s*\}?\s*\}");
static PUT: Pattern = Pattern::new(r#"put\("(.*?)",\s*(.*?)\)"#);
static EMPTY_MAP: Pattern = Pattern::new(r"new\s+HashMap<.*?>\s*\(\)");

fn array(text: &str, items: Option<&str>) -> Converted {
    let Some(found) = ARRAY.get().captures(text) else { return Ok(Val::from(text)) };
    let pieces = found[1].split(',').map(strip).filter(|p| !p.is_empty());
    pieces
        .map(|p| items.map_or_else(|| Ok(guess(p)), |ty| convert(p, ty, None)))
        .collect::<Result<_, _>>()
        .map(Val::List)
}

fn element(text: &str, items: Option<&str>) -> Converted {
    match items {
        Some("char" | "String") => Ok(Val::from(inner(text))),
        Some(ty) => convert(text, ty, None),
        None => Ok(guess(text)),
    }
}

fn array_list(text: &str, items: Option<&str>) -> Converted {
    if let Some(found) = AS_LIST.get().captures(text) {
        return found[1]
            .split(',')
            .map(|p| element(strip(p), items))
            .collect::<Result<_, _>>()
            .map(Val::List);
    }
    if let Some(found) = ADDS.get().captures(text) {
        let adds = ADD
            .get()
            .captures_iter(&found[1])
            .map(|add| element(strip(&add[1]), items))
            .collect::<Result<_, _>>();
        return adds.map(Val::List);
    }
    Ok(if EMPTY_LIST.get().is_match(text) { Val::List(Vec::new()) } else { Val::from(text) })
}

fn hash_map(text: &str) -> Val {
    let mut entries = Map::default();
    if let Some(found) = PUTS.get().captures(text) {
        for put in PUT.get().captures_iter(&found[1]) {
            entries.insert(Key::from(&put[1]), guess(strip(&put[2])));
        }
    } else if !EMPTY_MAP.get().is_match(text) {
        return Val::from(text);
    }
    Val::Dict(entries)
}

fn guess(text: &str) -> Val {
    let quoted = text.starts_with('"') && text.ends_with('"');
    match text {
        "true" => return Val::Bool(true),
        "false" => return Val::Bool(false),
        _ if quoted => return Val::from(inner(text)),
        _ => {}
    }
    if let Some(n) = number(text, LONG).and_then(pynum::int) {
        return n;
    }
    match number(text, FLOAT).and_then(pynum::float) {
        Some(f) => Val::Float(f),
        None => guess_number(text),
    }
}
