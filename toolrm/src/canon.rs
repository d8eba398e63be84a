//! The canonical text of a value, which is equal exactly when values are.

use std::fmt::Write as _;

use num_bigint::BigInt;
use num_traits::FromPrimitive;

use crate::Call;
use crate::value::{Key, Map, Val};

/// The canonical form: keys sorted by code point, integral floats as integers, `-0.0` as `0`, other floats in the shortest
/// form that reads back, minimal escapes, no spaces. For JSON values without NaN,
/// [`eq_json(a, b)`](crate::eq_json) holds exactly when `canon(a) == canon(b)`.
///
/// ```
/// use toolrm::{canon, json};
/// let v = json::parse(r#"{"b": [1.0, -0.0], "a": "x\u0041"}"#, json::Dialect::Strict).unwrap();
/// assert_eq!(canon(&v), r#"{"a":"xA","b":[1,0]}"#);
/// ```
pub fn canon(v: &Val) -> String {
    let mut out = String::new();
    write_canon(v, &mut out);
    out
}

/// A 128-bit hash of [`canon`].
pub fn canon_hash(v: &Val) -> u128 {
    xxhash_rust::xxh3::xxh3_128(canon(v).as_bytes())
}

/// The canonical form of a list of calls: names and arguments in the order given.
pub fn canon_calls(calls: &[Call]) -> String {
    let mut out = String::from("[");
    for (i, call) in calls.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        crate::json::write_str(&call.name, &mut out);
        out.push(':');
        write_dict(&call.args, &mut out);
    }
    out.push(']');
    out
}

fn write_canon(v: &Val, out: &mut String) {
    match v {
        Val::Null => out.push_str("null"),
        Val::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Val::Int(n) => _ = write!(out, "{n}"),
        Val::BigInt(n) => _ = write!(out, "{n}"),
        Val::Float(f) => write_float(*f, out),
        Val::Str(s) => crate::json::write_str(s, out),
        Val::List(items) | Val::Tuple(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canon(item, out);
            }
            out.push(']');
        }
        Val::Dict(entries) => write_dict(entries, out),
        Val::Opaque { ty, repr } => _ = write!(out, "{ty}<{repr}>"),
    }
}

fn write_float(f: f64, out: &mut String) {
    if f.is_finite() && f.fract() == 0.0 {
        match BigInt::from_f64(f) {
            Some(n) => _ = write!(out, "{n}"),
            None => unreachable!("a finite float has an integer part"),
        }
    } else {
        _ = write!(out, "{f:?}");
    }
}

fn write_dict(entries: &Map, out: &mut String) {
    let text = |k: &Key| {
        let mut text = String::new();
        match k {
            Key::Str(s) => crate::json::write_str(s, &mut text),
            Key::Null => text.push_str("null"),
            Key::Other(v) => write_canon(v, &mut text),
        }
        text
    };
    // Sorted by the key itself: escapes would change the order.
    let mut sorted: Vec<(&str, String, &Val)> =
        entries.iter().map(|(k, v)| (k.as_str().unwrap_or(""), text(k), v)).collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0).then_with(|| a.1.cmp(&b.1)));
    out.push('{');
    for (i, (_, key, v)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&key);
        out.push(':');
        write_canon(v, out);
    }
    out.push('}');
}
