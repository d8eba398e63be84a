//! Values to JSON.

use std::fmt::Write as _;

use crate::value::{Key, Map, Val};

/// A value that JSON cannot hold: a number that is not finite, or a Python literal without a counterpart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} has no form in JSON")]
pub struct NotJson(pub String);

/// The compact JSON text of a value. Tuples become arrays; a key that is not a string becomes its own JSON text.
///
/// # Errors
/// [`NotJson`] for NaN, infinities and [`Val::Opaque`].
pub fn to_string(v: &Val) -> Result<String, NotJson> {
    let mut out = String::new();
    write(v, &mut out)?;
    Ok(out)
}

/// Appends the compact JSON text of a value.
///
/// # Errors
/// As [`to_string`].
pub fn write(v: &Val, out: &mut String) -> Result<(), NotJson> {
    match v {
        Val::Null => out.push_str("null"),
        Val::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Val::Int(n) => _ = write!(out, "{n}"),
        Val::BigInt(n) => _ = write!(out, "{n}"),
        Val::Float(f) if !f.is_finite() => return Err(NotJson(f.to_string())),
        // Debug always writes a point or an exponent, so a float is read back as one.
        Val::Float(f) => _ = write!(out, "{f:?}"),
        Val::Str(s) => write_str(s, out),
        Val::List(items) | Val::Tuple(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Val::Dict(entries) => write_map(entries, out)?,
        Val::Opaque { repr, .. } => return Err(NotJson(repr.clone())),
    }
    Ok(())
}

/// Appends the compact JSON text of an object.
///
/// # Errors
/// As [`to_string`].
pub fn write_map(entries: &Map, out: &mut String) -> Result<(), NotJson> {
    out.push('{');
    for (i, (k, v)) in entries.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match k {
            Key::Str(s) => write_str(s, out),
            Key::Null => out.push_str("\"null\""),
            Key::Other(v) => write_str(&to_string(v)?, out),
        }
        out.push(':');
        write(v, out)?;
    }
    out.push('}');
    Ok(())
}

/// Appends a JSON string with as few escapes as JSON allows.
pub fn write_str(s: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (i, b) in s.bytes().enumerate() {
        let short = match b {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&s[plain..i]);
        plain = i + 1;
        if short.is_empty() {
            _ = write!(out, "\\u{b:04x}");
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&s[plain..]);
    out.push('"');
}
