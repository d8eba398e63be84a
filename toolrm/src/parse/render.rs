//! Calls to text.

use std::fmt::Write as _;

use super::Format;
use super::pythonic::{identifier, repr_float, repr_str};
use crate::json::{self, NotJson};
use crate::msg::Call;
use crate::value::{Key, Map, Val};

/// Calls that a format cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{format} cannot hold {what}")]
pub struct NoForm {
    /// The format.
    pub format: &'static str,
    /// What it has no form for.
    pub what: String,
}

/// The canonical text of calls in a format; [`Format::Auto`] is rendered as Hermes. What `parse` reads strictly from it are
/// the same calls.
///
/// # Errors
/// [`NoForm`] for values beyond JSON, for names that are no identifiers in [`Format::Pythonic`], and for characters that
/// XML forbids.
pub fn render(calls: &[Call], format: Format) -> Result<String, NoForm> {
    let no_form = |what: String| NoForm { format: format.name(), what };
    let json_list = |name: &str, args: &str| -> Result<String, NotJson> {
        let items = calls.iter().map(|c| object(c, name, args)).collect::<Result<Vec<_>, _>>()?;
        Ok(format!("[{}]", items.join(", ")))
    };
    let written = match format {
        Format::Hermes | Format::Auto => calls
            .iter()
            .map(|c| Ok(format!("<tool_call>\n{}\n</tool_call>", object(c, "name", "arguments")?)))
            .collect::<Result<Vec<_>, NotJson>>()
            .map(|blocks| blocks.join("\n")),
        Format::OpenAi => openai(calls),
        Format::LlamaJson => json_list("name", "parameters"),
        Format::Xlam => json_list("name", "arguments"),
        Format::BfclJson => json_list("function", "parameters"),
        Format::ToolRl => {
            calls.iter().map(|c| object(c, "name", "parameters")).collect::<Result<Vec<_>, _>>().map(
                |lines| {
                    if lines.is_empty() {
                        String::new()
                    } else {
                        format!("<tool_call>\n{}\n</tool_call>", lines.join("\n"))
                    }
                },
            )
        }
        Format::Pythonic => return pythonic(calls).map_err(no_form),
        Format::XmlVerbose => return xml(calls, true).map_err(no_form),
        Format::XmlConcise => return xml(calls, false).map_err(no_form),
    };
    written.map_err(|e| no_form(e.0))
}

fn object(call: &Call, name: &str, args: &str) -> Result<String, NotJson> {
    let mut out = String::from("{");
    json::write_str(name, &mut out);
    out.push_str(": ");
    json::write_str(&call.name, &mut out);
    out.push_str(", ");
    json::write_str(args, &mut out);
    out.push_str(": ");
    json::write_map(&call.args, &mut out)?;
    out.push('}');
    Ok(out)
}

fn openai(calls: &[Call]) -> Result<String, NotJson> {
    let mut items = Vec::new();
    for call in calls {
        let mut args = String::new();
        json::write_map(&call.args, &mut args)?;
        let function = Val::dict([("name", Val::from(call.name.as_str())), ("arguments", Val::from(args))]);
        items.push(Val::dict([("type", Val::from("function")), ("function", function)]));
    }
    json::to_string(&Val::List(items))
}

fn literal(v: &Val, out: &mut String) -> Result<(), String> {
    let all = |items: &[Val], out: &mut String| {
        items.iter().enumerate().try_for_each(|(i, v)| {
            out.push_str(if i > 0 { ", " } else { "" });
            literal(v, out)
        })
    };
    match v {
        Val::Null => out.push_str("None"),
        Val::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Val::Int(n) => _ = write!(out, "{n}"),
        Val::BigInt(n) => _ = write!(out, "{n}"),
        Val::Float(f) if f.is_nan() => return Err("NaN".into()),
        Val::Float(f) => repr_float(*f, out),
        Val::Str(s) => repr_str(s, out),
        Val::List(items) => {
            out.push('[');
            all(items, out)?;
            out.push(']');
        }
        Val::Tuple(items) => {
            out.push('(');
            all(items, out)?;
            out.push_str(if items.len() == 1 { ",)" } else { ")" });
        }
        Val::Dict(entries) => {
            out.push('{');
            for (i, (k, v)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                match k {
                    Key::Str(s) => repr_str(s, out),
                    Key::Null => out.push_str("None"),
                    Key::Other(v) => literal(v, out)?,
                }
                out.push_str(": ");
                literal(v, out)?;
            }
            out.push('}');
        }
        Val::Opaque { repr, .. } => return Err(repr.clone()),
    }
    Ok(())
}

fn named(args: &Map) -> impl Iterator<Item = Result<(&str, &Val), String>> {
    args.iter().map(|(k, v)| {
        k.as_str().map(|k| (k, v)).ok_or_else(|| "an argument whose name is no string".to_owned())
    })
}

fn pythonic(calls: &[Call]) -> Result<String, String> {
    let mut out = String::from("[");
    for (i, call) in calls.iter().enumerate() {
        if !call.name.split('.').all(identifier) {
            return Err(format!("the name {:?}", call.name));
        }
        _ = write!(out, "{}{}(", if i > 0 { ", " } else { "" }, call.name);
        for (j, arg) in named(&call.args).enumerate() {
            let (name, value) = arg?;
            if !identifier(name) {
                return Err(format!("the argument name {name:?}"));
            }
            _ = write!(out, "{}{name}=", if j > 0 { ", " } else { "" });
            literal(value, &mut out)?;
        }
        out.push(')');
    }
    out.push(']');
    Ok(out)
}

/// Escapes for an attribute or text; white space that a reader would normalise, or take off the ends, is written as references.
fn escape(s: &str, out: &mut String) -> Result<(), String> {
    let ends = s.len() - s.trim_start().len()..s.trim_end().len();
    for (i, c) in s.char_indices() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\r' | '\t' => _ = write!(out, "&#{};", c as u32),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return Err(format!("the character {c:?}")),
            c if !ends.contains(&i) => _ = write!(out, "&#{};", c as u32),
            c => out.push(c),
        }
    }
    Ok(())
}

fn xml(calls: &[Call], verbose: bool) -> Result<String, String> {
    let mut out = String::from("<functions>");
    for call in calls {
        out.push_str("<function name=\"");
        escape(&call.name, &mut out)?;
        out.push_str(if verbose { "\"><params>" } else { "\">" });
        for arg in named(&call.args) {
            let (name, value) = arg?;
            let mut raw = String::new();
            let ty = match value {
                Val::Str(s) => {
                    raw.push_str(s);
                    "string"
                }
                Val::Null => "null",
                Val::Bool(b) => {
                    raw.push_str(if *b { "true" } else { "false" });
                    "boolean"
                }
                Val::Int(_) | Val::BigInt(_) => {
                    literal(value, &mut raw)?;
                    "integer"
                }
                Val::Float(_) => {
                    literal(value, &mut raw)?;
                    "float"
                }
                other => {
                    literal(other, &mut raw)?;
                    match other {
                        Val::Dict(_) => "dict",
                        Val::Tuple(_) => "tuple",
                        _ => "array",
                    }
                }
            };
            out.push_str("<param name=\"");
            escape(name, &mut out)?;
            if verbose {
                out.push_str("\" value=\"");
                escape(&raw, &mut out)?;
                _ = write!(out, "\" type=\"{ty}\"/>");
            } else {
                _ = write!(out, "\" type=\"{ty}\">");
                escape(&raw, &mut out)?;
                out.push_str("</param>");
            }
        }
        out.push_str(if verbose { "</params></function>" } else { "</function>" });
    }
    out.push_str("</functions>");
    Ok(out)
}
