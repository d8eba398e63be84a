//! Numbers and white space as Python's `int`, `float` and `str.strip` read them.

use num_bigint::BigInt;

use crate::json::MAX_DIGITS;
use crate::value::Val;

/// The zeros of Unicode's decimal digits; nine digits follow each.
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
    0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40,
    0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066,
    0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950,
    0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6,
    0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script.
pub(crate) fn digit(c: char) -> Option<u8> {
    let at = ZEROS.partition_point(|z| *z <= c as u32).checked_sub(1)?;
    let value = c as u32 - ZEROS[at];
    u8::try_from(value).ok().filter(|v| *v < 10)
}

/// White space of Python's `str`.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(s: &str) -> &str {
    s.trim_matches(is_space)
}

/// The text with the digits of all scripts as ASCII, and with `_` between digits removed.
fn plain(s: &str) -> Option<String> {
    let mut out = String::with_capacity(s.len());
    let mut chars = strip(s).chars().peekable();
    let mut after_digit = false;
    while let Some(c) = chars.next() {
        if let Some(d) = digit(c) {
            out.push(char::from(b'0' + d));
            after_digit = true;
        } else if c == '_' {
            if !after_digit || chars.peek().is_none_or(|n| digit(*n).is_none()) {
                return None;
            }
            after_digit = false;
        } else {
            out.push(c);
            after_digit = false;
        }
    }
    Some(out)
}

/// `int(text)`.
pub(crate) fn int(s: &str) -> Option<Val> {
    let text = plain(s)?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(&text);
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<i64>().map(Val::Int).ok().or_else(|| text.parse::<BigInt>().ok().map(Val::int))
}

/// `float(text)`.
pub(crate) fn float(s: &str) -> Option<f64> {
    let text = plain(s)?;
    let body = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let word = body.eq_ignore_ascii_case("inf")
        || body.eq_ignore_ascii_case("infinity")
        || body.eq_ignore_ascii_case("nan");
    // Rust reads the same decimal forms; Python takes no sign inside, and both round correctly.
    if word || body.starts_with(|c: char| c.is_ascii_digit() || c == '.') { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_python_does() {
        assert!(matches!(int(" +1_000\n"), Some(Val::Int(1000))));
        assert!(matches!(int("٣٤"), Some(Val::Int(34))));
        assert!(int("1__0").is_none() && int("_1").is_none() && int("").is_none() && int("0x1").is_none());
        assert!(matches!(int("99999999999999999999"), Some(Val::BigInt(_))));
        assert_eq!(float("1_0.5e-1"), Some(1.05));
        assert_eq!(float(" -Infinity "), Some(f64::NEG_INFINITY));
        assert!(
            float("infinit").is_none()
                && float("1_.5").is_none()
                && float("--1").is_none()
                && float("1e").is_none()
        );
        assert_eq!((digit('9'), digit('𝟗'), digit(':')), (Some(9), Some(9), None));
    }
}
