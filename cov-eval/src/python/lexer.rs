//! Tokens with their places, for any text: what cannot be read is an operator of one character.

use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Name,
    Number,
    Text,
    Operator,
    Comment,
    /// The end of a logical line.
    Newline,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) range: Range<usize>,
    /// Brackets that are open before it.
    pub(crate) depth: usize,
}

const OPERATORS: [&str; 24] = [
    "**=", "//=", ">>=", "<<=", "...", "!=", "==", "<=", ">=", "->", ":=", "+=", "-=", "*=", "/=", "%=",
    "&=", "|=", "^=", "@=", "**", "//", "<<", ">>",
];

/// Where a string that starts at `at` ends.
fn text_end(source: &str, at: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let prefix = bytes[at..].iter().take(3).take_while(|b| b"rRbBfFuU".contains(b)).count();
    let quote = *bytes.get(at + prefix).filter(|b| **b == b'"' || **b == b'\'')?;
    let start = at + prefix;
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let mut i = start + if triple { 3 } else { 1 };
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if bytes[i + 1..].starts_with(b"\r\n") => i += 2,
            b'\\' => i += 1,
            b'\n' if !triple => return Some(i),
            b if b == quote && !triple => return Some(i + 1),
            b if b == quote && bytes[i..].starts_with(&[quote; 3]) => return Some(i + 3),
            _ => {}
        }
        i += 1;
    }
    Some(bytes.len())
}

/// How many bytes of `bytes` are digits for which `is_digit` holds, with underscores between them.
fn digits(bytes: &[u8], is_digit: impl Fn(&u8) -> bool) -> usize {
    let mut end = 0;
    loop {
        let next = if end > 0 && bytes.get(end) == Some(&b'_') { end + 1 } else { end };
        if !bytes.get(next).is_some_and(&is_digit) {
            return end;
        }
        end = next + 1;
    }
}

/// Where a number at the start of `bytes` ends.
fn number_end(bytes: &[u8]) -> usize {
    let second = bytes.get(1).map(u8::to_ascii_lowercase);
    if let (b'0', Some(base @ (b'x' | b'o' | b'b'))) = (bytes[0], second) {
        let rest = bytes[2..].strip_prefix(b"_").unwrap_or(&bytes[2..]);
        let length = digits(rest, |b| if base == b'x' { b.is_ascii_hexdigit() } else { b.is_ascii_digit() });
        if length > 0 {
            return bytes.len() - rest.len() + length;
        }
    }
    let mut end = digits(bytes, u8::is_ascii_digit);
    if bytes.get(end) == Some(&b'.') {
        end += 1;
        end += digits(&bytes[end..], u8::is_ascii_digit);
    }
    if bytes.get(end).is_some_and(|b| matches!(b, b'e' | b'E')) {
        let sign = usize::from(bytes.get(end + 1).is_some_and(|b| matches!(b, b'+' | b'-')));
        let length = digits(bytes.get(end + 1 + sign..).unwrap_or_default(), u8::is_ascii_digit);
        if length > 0 {
            end += 1 + sign + length;
        }
    }
    end + usize::from(bytes.get(end).is_some_and(|b| matches!(b, b'j' | b'J')))
}

pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let bytes = source.as_bytes();
    let mut found: Vec<Token> = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    // Whether the logical line has more than comments.
    let mut open = false;
    while at < bytes.len() {
        let rest = &source[at..];
        let byte = bytes[at];
        let (kind, end) = if byte == b'\n' {
            if depth > 0 || !open {
                at += 1;
                continue;
            }
            (Kind::Newline, at + 1)
        } else if byte == b'\\' && matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]) {
            at += if bytes[at + 1] == b'\r' { 3 } else { 2 };
            continue;
        } else if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if byte == b'#' {
            let line = rest.split('\n').next().unwrap_or(rest);
            (Kind::Comment, at + line.strip_suffix('\r').unwrap_or(line).len())
        } else if let Some(end) = text_end(source, at) {
            (Kind::Text, end)
        } else if byte.is_ascii_digit() || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
        {
            (Kind::Number, at + number_end(&bytes[at..]))
        } else if byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80 {
            let name = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_' || **b >= 0x80;
            (Kind::Name, at + bytes[at..].iter().take_while(name).count())
        } else {
            // Nearly all have one character; of the others, the second is one of these.
            let more = bytes.get(at + 1).is_some_and(|b| b"=*/<>.".contains(b));
            let long = OPERATORS.iter().filter(|_| more).find(|op| rest.starts_with(**op));
            (Kind::Operator, at + long.map_or(1, |op| op.len()))
        };
        found.push(Token { kind, range: at..end, depth });
        open = if kind == Kind::Comment { open } else { kind != Kind::Newline };
        match (kind, byte) {
            (Kind::Operator, b'(' | b'[' | b'{') => depth += 1,
            (Kind::Operator, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at = end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        for (source, expected) in [
            ("x = 1\n", "x|=|1|\n"),
            ("f(a,\n  b)  # c\ny", "f|(|a|,|b|)|# c|\n|y"),
            ("# only\nx\n", "# only|x|\n"),
            ("s = 'a\\'b' + f\"{x}\"\n", "s|=|'a\\'b'|+|f\"{x}\"|\n"),
            ("'''a\nb'''\n", "'''a\nb'''|\n"),
            ("'open\nx", "'open|\n|x"),
            ("a //= b ** -1.5e3", "a|//=|b|**|-|1.5e3"),
            ("a \\\n b\n", "a|b|\n"),
            ("§", "§"),
            ("x$y", "x|$|y"),
            ("1e-5+.5j-0x_fFor 1_0.real", "1e-5|+|.5j|-|0x_fF|or|1_0.|real"),
            ("1if x else 1e", "1|if|x|else|1|e"),
            ("a \\\r\n b  # c\r\n", "a|b|# c|\n"),
        ] {
            let found: Vec<&str> = tokens(source).into_iter().map(|t| &source[t.range]).collect();
            assert_eq!(found.join("|"), expected, "{source:?}");
        }
        let depths: Vec<usize> = tokens("f(a[0])").into_iter().map(|t| t.depth).collect();
        assert_eq!(depths, [0, 0, 1, 1, 2, 2, 1]);
    }
}
