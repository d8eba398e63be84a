//! `<functions>` elements.

use super::pythonic::parse_literal;
use super::{Format, Mode, ParseFail, Parsed};
use crate::bfcl::{py_float, py_int, strip};
use crate::msg::Call;
use crate::value::{Key, Val};

fn fail(offset: usize, what: impl Into<String>) -> ParseFail {
    ParseFail::new(offset, "xml.bad_calls", what)
}

pub(super) fn parse(text: &str, verbose: bool, mode: Mode) -> Result<Parsed, ParseFail> {
    let format = if verbose { Format::XmlVerbose } else { Format::XmlConcise };
    let start = text.find("<functions>").ok_or_else(|| fail(0, "no <functions>"))?;
    let end = text[start..].find("</functions>").ok_or_else(|| fail(start, "<functions> has no end"))?;
    let end = start + end + "</functions>".len();
    let outside = [&text[..start], &text[end..]];
    if mode == Mode::Strict && outside.iter().any(|t| !t.trim().is_empty()) {
        return Err(fail(0, "text beside <functions>"));
    }
    let document =
        roxmltree::Document::parse(&text[start..end]).map_err(|e| fail(start, format!("not XML: {e}")))?;
    let elements = |node: roxmltree::Node<'_, '_>, name: &'static str| {
        node.children().filter(move |n| n.has_tag_name(name)).map(|n| n.id()).collect::<Vec<_>>()
    };
    let node = |id| document.get_node(id).unwrap_or(document.root_element());
    let mut parsed = Parsed::new(format, Vec::new());
    for function in elements(document.root_element(), "function") {
        let function = node(function);
        let name = function.attribute("name").ok_or_else(|| fail(start, "a function without a name"))?;
        let mut call = Call { name: name.into(), ..Call::default() };
        let holder =
            elements(function, "params").first().filter(|_| verbose).map_or(function, |id| node(*id));
        for param in elements(holder, "param") {
            let param = node(param);
            let key = match param.attribute("name") {
                Some(name) => Key::from(name),
                None if verbose && mode != Mode::Strict => Key::Null,
                None => return Err(fail(start, "a parameter without a name")),
            };
            let raw = if verbose {
                param.attribute("value").unwrap_or_default()
            } else {
                text_of(param, mode)
                    .ok_or_else(|| fail(start, format!("{name}: white space around a value")))?
            };
            let ty = param.attribute("type").unwrap_or("string");
            let value = cast(raw, ty, mode).map_err(|what| fail(start, format!("{name}: {what}")))?;
            if call.args.insert(key, value).is_some() && mode == Mode::Strict {
                return Err(fail(start, format!("{name}: a parameter given twice")));
            }
        }
        parsed.calls.push(call);
    }
    parsed.text = outside.concat().trim().to_owned();
    Ok(parsed)
}

/// A parameter's text. The leaderboard takes white space off its ends; a lenient reader only what is written as itself and not as a
/// reference, which a strict one does not accept (`None`).
fn text_of<'a>(param: roxmltree::Node<'a, '_>, mode: Mode) -> Option<&'a str> {
    let (raw, Some(node)) = (param.text().unwrap_or_default(), param.first_child()) else { return Some("") };
    if mode == Mode::Bfcl {
        return Some(strip(raw));
    }
    let whole = param.document().input_text().get(..param.range().end)?;
    let source = whole.get(node.range().start..whole.rfind("</")?)?;
    if param.children().nth(1).is_some() {
        // Comments and the like: no text that anyone renders.
        return (mode == Mode::Lenient).then(|| strip(raw));
    }
    // A reader of XML makes one line feed of two characters.
    let length = |s: &str| s.len() - s.matches("\r\n").count();
    let before = length(&source[..source.len() - source.trim_start().len()]);
    let after = length(&source[source.trim_end().len()..]);
    if before == 0 && after == 0 {
        return Some(raw);
    }
    let inner = raw.get(before..raw.len().saturating_sub(after)).unwrap_or_default();
    (mode == Mode::Lenient).then_some(inner)
}

fn cast(raw: &str, ty: &str, mode: Mode) -> Result<Val, String> {
    match ty {
        "string" => Ok(Val::from(raw)),
        "integer" => py_int(raw).ok_or_else(|| format!("{raw:?} is no integer")),
        "float" => py_float(raw).map(Val::Float).ok_or_else(|| format!("{raw:?} is no float")),
        "boolean" => Ok(Val::Bool(raw.to_lowercase() == "true")),
        "null" => Ok(Val::Null),
        "array" | "tuple" | "object" | "dict" => {
            parse_literal(raw.trim_start_matches([' ', '\t'])).map_err(|e| e.to_string())
        }
        other if mode == Mode::Strict => Err(format!("unknown type {other:?}")),
        _ => Ok(Val::from(raw)),
    }
}
