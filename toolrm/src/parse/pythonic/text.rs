//! Literals of numbers and strings, and Python's `repr`.

use std::fmt::Write as _;

use num_bigint::BigInt;
use num_traits::Num;

use crate::json::MAX_DIGITS;
use crate::pattern::Pattern;
use crate::value::{Str, Val};

/// A decoded string literal.
pub(super) enum Text {
    Str(Str),
    /// Bytes, as their source.
    Bytes(String),
    /// A formatted string, which has no value here.
    Joined,
}

impl Text {
    /// Adjacent literals are one.
    pub(super) fn join(self, next: Text) -> Option<Text> {
        Some(match (self, next) {
            (Text::Str(a), Text::Str(b)) => Text::Str(a + &b),
            (Text::Bytes(a), Text::Bytes(b)) => Text::Bytes(a + &b),
            (Text::Bytes(_), _) | (_, Text::Bytes(_)) => return None,
            _ => Text::Joined,
        })
    }
}

/// The value of a number token.
pub(super) fn number(text: &str) -> Result<Val, &'static str> {
    if text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Val::Int).map_err(|_| "not a number");
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let radix = match plain.get(..2) {
        Some("0x" | "0X") => Some(16),
        Some("0o" | "0O") => Some(8),
        Some("0b" | "0B") => Some(2),
        _ => None,
    };
    if let Some(radix) = radix {
        return BigInt::from_str_radix(&plain[2..], radix).map(Val::int).map_err(|_| "not a number");
    }
    if plain.ends_with(['j', 'J']) {
        return Ok(Val::Opaque { ty: "complex", repr: plain });
    }
    if plain.bytes().all(|b| b.is_ascii_digit()) {
        if plain.len() > MAX_DIGITS {
            return Err("an integer of more than 4300 digits");
        }
        return plain.parse::<BigInt>().map(Val::int).map_err(|_| "not a number");
    }
    plain.parse().map(Val::Float).map_err(|_| "not a number")
}

/// The text of a string token with its prefix and quotes.
pub(super) fn literal(token: &str) -> Result<Text, &'static str> {
    let bytes = token.as_bytes();
    // One pair of quotes and nothing to decode between them; two quotes more may be triple ones.
    if matches!(bytes[0], b'"' | b'\'')
        && !(bytes.len() >= 6 && bytes[1] == bytes[0])
        && memchr::memchr2(b'\\', b'\r', bytes).is_none()
    {
        return Ok(Text::Str(Str::new(&token[1..token.len() - 1])));
    }
    let open = token.find(['"', '\'']).unwrap_or(0);
    let prefix = token[..open].to_ascii_lowercase();
    let body = &token[open..];
    let quotes =
        if body.len() >= 6 && (body.starts_with("\"\"\"") || body.starts_with("'''")) { 3 } else { 1 };
    let body = body[quotes..body.len() - quotes].replace("\r\n", "\n").replace('\r', "\n");
    if prefix.contains('f') {
        return Ok(Text::Joined);
    }
    if prefix.contains('b') {
        return if body.is_ascii() { Ok(Text::Bytes(token.to_owned())) } else { Err("bytes beyond ASCII") };
    }
    if prefix.contains('r') || !body.contains('\\') {
        Ok(Text::Str(body.into()))
    } else {
        unescape(&body).map(|s| Text::Str(s.into()))
    }
}

fn unescape(body: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let c = rest.chars().next().ok_or("a backslash at the end of a string")?;
        rest = &rest[c.len_utf8()..];
        let digits = match c {
            '\n' => continue,
            '\\' | '\'' | '"' => {
                out.push(c);
                continue;
            }
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' => {
                let code = [('a', 7u8), ('b', 8), ('f', 12), ('n', 10), ('r', 13), ('t', 9), ('v', 11)];
                out.extend(code.iter().filter(|(l, _)| *l == c).map(|(_, b)| char::from(*b)));
                continue;
            }
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let code = u32::from_str_radix(&rest[..more], 8).unwrap_or(0)
                    + ((c as u32 - '0' as u32) << (3 * more));
                rest = &rest[more..];
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'N' => return Err("a character by its Unicode name"),
            // An unknown escape keeps its backslash.
            _ => {
                out.push('\\');
                out.push(c);
                continue;
            }
        };
        let hex = rest
            .get(..digits)
            .filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or("a truncated escape")?;
        let code = u32::from_str_radix(hex, 16).map_err(|_| "a truncated escape")?;
        if code > 0x10ffff {
            return Err("a code point beyond Unicode");
        }
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &rest[digits..];
    }
    out.push_str(rest);
    Ok(out)
}

static UNPRINTABLE: Pattern = Pattern::new(r"^[\p{C}\p{Z}]");

/// `repr` of a string.
pub(crate) fn repr_str(s: &str, out: &mut String) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c if UNPRINTABLE.get().is_match(c.encode_utf8(&mut [0; 4])) => {
                _ = match c as u32 {
                    n @ 0..=0xff => write!(out, "\\x{n:02x}"),
                    n @ 0..=0xffff => write!(out, "\\u{n:04x}"),
                    n => write!(out, "\\U{n:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `repr` of a float; infinities as `ast.unparse` writes them.
pub(crate) fn repr_float(f: f64, out: &mut String) {
    if f.is_infinite() {
        out.push_str(if f > 0.0 { "1e309" } else { "-1e309" });
        return;
    }
    let sci = format!("{f:e}");
    let exponent: i32 = sci.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if f == 0.0 || (-4..16).contains(&exponent) {
        _ = write!(out, "{f:?}");
        return;
    }
    let (digits, _) = sci.split_once('e').unwrap_or((&sci, ""));
    _ = write!(out, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
}
