//! Tokens of a Python expression.

use super::super::ParseFail;
use crate::json::MAX_DEPTH;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Number,
    /// A string with its prefix and quotes.
    Str,
    Op,
    /// A line feed outside brackets.
    Newline,
    End,
}

/// A token as bytes of the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: u32,
    pub(super) end: u32,
}

pub(super) fn syntax(at: usize, what: &str) -> ParseFail {
    ParseFail::new(at, "pythonic.syntax", what)
}

const OPS: [&str; 13] = ["...", "**", "//", "<<", ">>", "<=", ">=", "==", "!=", ":=", "->", "<>", "=>"];

fn prefix(word: &str) -> bool {
    word.len() <= 2
        && matches!(word.to_ascii_lowercase().as_str(), "r" | "u" | "b" | "f" | "br" | "rb" | "fr" | "rf")
}

/// Cuts an expression into tokens. Line feeds count outside brackets only.
pub(super) fn lex(src: &str) -> Result<Vec<Token>, ParseFail> {
    let bytes = src.as_bytes();
    let mut tokens = Vec::with_capacity(bytes.len() / 4 + 2);
    let mut open: Vec<u8> = Vec::new();
    let mut pos = 0;
    while pos < bytes.len() {
        let start = pos;
        let kind = match bytes[pos] {
            b' ' | b'\t' | 0x0c => {
                pos += 1;
                continue;
            }
            b'#' => {
                pos += memchr::memchr(b'\n', &bytes[pos..]).unwrap_or(bytes.len() - pos);
                continue;
            }
            b'\\' => {
                let rest = &bytes[pos + 1..];
                let len = if rest.starts_with(b"\r\n") { 2 } else { 1 };
                if !rest.starts_with(b"\n") && !rest.starts_with(b"\r") || pos + 1 + len >= bytes.len() {
                    return Err(syntax(pos, "a backslash that continues no line"));
                }
                pos += 1 + len;
                continue;
            }
            b'\n' | b'\r' => {
                pos += 1;
                if !open.is_empty() {
                    continue;
                }
                Kind::Newline
            }
            b'"' | b'\'' => {
                pos = string_end(src, pos)?;
                Kind::Str
            }
            b'0'..=b'9' => {
                pos = number_end(src, pos)?;
                Kind::Number
            }
            b',' | b'(' | b')' | b'[' | b']' | b'{' | b'}' => {
                pos += 1;
                bracket(bytes[start], start, &mut open)?;
                Kind::Op
            }
            b'=' if bytes.get(pos + 1).is_none_or(|b| !matches!(b, b'=' | b'>')) => {
                pos += 1;
                Kind::Op
            }
            b'.' if bytes.get(pos + 1).is_some_and(u8::is_ascii_digit) => {
                pos = number_end(src, pos)?;
                Kind::Number
            }
            _ => {
                let c = src[pos..].chars().next().unwrap_or('\0');
                if c == '_' || unicode_ident::is_xid_start(c) {
                    pos = name_end(src, pos);
                    if prefix(&src[start..pos]) && matches!(bytes.get(pos), Some(b'"' | b'\'')) {
                        pos = string_end(src, pos)?;
                        Kind::Str
                    } else {
                        Kind::Name
                    }
                } else {
                    let len = OPS.iter().find(|op| src[pos..].starts_with(**op)).map_or(1, |op| op.len());
                    if len == 1 && !b"()[]{},:.+-*/%&|^~<>@=".contains(&bytes[pos]) {
                        return Err(syntax(pos, "a character that no expression has"));
                    }
                    pos += len;
                    bracket(bytes[start], start, &mut open)?;
                    Kind::Op
                }
            }
        };
        tokens.push(Token { kind, start: start as u32, end: pos as u32 });
    }
    if let Some(b) = open.last() {
        return Err(syntax(
            pos,
            if *b == b'(' { "'(' was never closed" } else { "a bracket was never closed" },
        ));
    }
    tokens.push(Token { kind: Kind::End, start: pos as u32, end: pos as u32 });
    Ok(tokens)
}

fn name_end(src: &str, at: usize) -> usize {
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let ascii = at + src.as_bytes()[at..].iter().take_while(|b| word(b)).count();
    match src.as_bytes().get(ascii) {
        Some(b) if !b.is_ascii() => {
            let rest = &src[ascii..];
            ascii + rest.find(|c| !unicode_ident::is_xid_continue(c)).unwrap_or(rest.len())
        }
        _ => ascii,
    }
}

fn bracket(b: u8, at: usize, open: &mut Vec<u8>) -> Result<(), ParseFail> {
    let partner = match b {
        b'(' | b'[' | b'{' => {
            if open.len() == MAX_DEPTH {
                return Err(ParseFail::new(at, "limit.depth", "nested deeper than 128"));
            }
            open.push(b);
            return Ok(());
        }
        b')' => b'(',
        b']' => b'[',
        b'}' => b'{',
        _ => return Ok(()),
    };
    if open.pop() == Some(partner) {
        Ok(())
    } else {
        Err(syntax(at, "a bracket that closes another than the open one"))
    }
}

/// The end of the string whose first quote is at `at`.
fn string_end(src: &str, at: usize) -> Result<usize, ParseFail> {
    let bytes = src.as_bytes();
    let quote = bytes[at];
    let triple = bytes[at..].len() >= 3 && bytes[at + 1] == quote && bytes[at + 2] == quote;
    let mut pos = at + if triple { 3 } else { 1 };
    while pos < bytes.len() {
        match bytes[pos] {
            b'\\' => pos += 2,
            b if b == quote && !triple => return Ok(pos + 1),
            b if b == quote && bytes[pos..].starts_with(&[quote; 3]) => return Ok(pos + 3),
            b'\n' | b'\r' if !triple => return Err(syntax(pos, "a line feed inside a string")),
            _ => pos += 1,
        }
    }
    Err(syntax(at, "a string without end"))
}

fn digits(bytes: &[u8], mut pos: usize, is: fn(&u8) -> bool) -> usize {
    // An underscore stands between two digits.
    while pos < bytes.len() && (is(&bytes[pos]) || (bytes[pos] == b'_' && bytes.get(pos + 1).is_some_and(is)))
    {
        pos += 1;
    }
    pos
}

fn number_end(src: &str, at: usize) -> Result<usize, ParseFail> {
    let bytes = src.as_bytes();
    let decimal: fn(&u8) -> bool = u8::is_ascii_digit;
    let radix: Option<fn(&u8) -> bool> = match (bytes[at], bytes.get(at + 1)) {
        (b'0', Some(b'x' | b'X')) => Some(u8::is_ascii_hexdigit),
        (b'0', Some(b'o' | b'O')) => Some(|b| (b'0'..=b'7').contains(b)),
        (b'0', Some(b'b' | b'B')) => Some(|b| matches!(b, b'0' | b'1')),
        _ => None,
    };
    let mut pos;
    if let Some(is) = radix {
        pos = digits(bytes, at + 2, is);
        if pos == at + 2 {
            return Err(syntax(at, "a number without digits"));
        }
    } else {
        pos = digits(bytes, at, decimal);
        let int = pos;
        if bytes.get(pos) == Some(&b'.') {
            pos += 1;
            if bytes.get(pos).is_some_and(decimal) {
                pos = digits(bytes, pos, decimal);
            }
        }
        if matches!(bytes.get(pos), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(pos + 1), Some(b'+' | b'-')));
            if bytes.get(pos + 1 + sign).is_some_and(decimal) {
                pos = digits(bytes, pos + 1 + sign, decimal);
            }
        }
        let imaginary = matches!(bytes.get(pos), Some(b'j' | b'J'));
        let zeros = bytes[at] == b'0' && bytes[at..int].iter().any(|b| (b'1'..=b'9').contains(b));
        if pos == int && zeros && !imaginary {
            return Err(syntax(at, "leading zeros in an integer"));
        }
        pos += usize::from(imaginary);
    }
    if name_end(src, pos) > pos {
        return Err(syntax(pos, "a letter right after a number"));
    }
    Ok(pos)
}
