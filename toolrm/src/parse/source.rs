//! One call in Java's or JavaScript's source, as BFCL's prompts ask for it: `[Name.method(param = value, …)]`.

use super::{Format, ParseFail, Parsed};
use crate::bfcl::Lang;
use crate::msg::Call;
use crate::value::{Key, Val};

fn fail(offset: usize, what: &str) -> ParseFail {
    ParseFail::new(offset, "source.syntax", what)
}

/// Reads a call in source text. The first and last characters (the brackets) are dropped. Values stay source text, as
/// written; one that is a string literal loses its quotes. A bare name stands under the key `None`.
///
/// A scanner for names, literals and balanced brackets, not a grammar of the language: what is inside a value is not
/// checked. Unlike the reference's, values keep their white space.
///
/// # Errors
/// [`ParseFail`] for unbalanced brackets or quotes, text after the call, and a parameter given twice.
pub fn parse_source(text: &str, lang: Lang) -> Result<Parsed, ParseFail> {
    let mut chars = text.chars();
    let first = chars.next().map_or(0, char::len_utf8);
    let last = chars.next_back().map_or(0, char::len_utf8);
    let body = &text[first..text.len() - last];
    let source = body.trim();
    let base = first + body.len() - body.trim_start().len();
    let open = source.find('(').ok_or_else(|| ParseFail::new(base, ParseFail::WRONG_FORMAT, "no call"))?;
    let name = source[..open].trim();
    let part =
        |p: &str| !p.is_empty() && !p.contains(|c: char| !unicode_ident::is_xid_continue(c) && c != '$');
    if !name.split('.').all(|p| part(p.trim())) {
        return Err(fail(base, "a call's name is not a dotted name"));
    }
    let pieces = split(&source[open..], lang).map_err(|(at, what)| fail(base + open + at, what))?;
    let mut call = Call { name: name.into(), ..Call::default() };
    for piece in pieces.iter().map(|p| p.trim()).filter(|p| !p.is_empty()) {
        let (key, value) = match piece.split_once('=') {
            Some((key, value)) if part(key.trim()) && !value.starts_with(['=', '>']) => {
                (Key::from(key.trim()), Val::from(unquote(value.trim())))
            }
            _ if part(piece) => (Key::Null, Val::from(piece)),
            // Any other unnamed argument is passed over, as in the reference.
            _ => continue,
        };
        if call.args.insert(key, value).is_some() {
            return Err(fail(base, "a parameter given twice"));
        }
    }
    Ok(Parsed::new(Format::Auto, vec![call]))
}

fn unquote(value: &str) -> &str {
    for q in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(q).and_then(|v| v.strip_suffix(q))
            && !ends_early(inner, q)
        {
            return inner;
        }
    }
    value
}

/// Whether the quote occurs unescaped inside: then the text is more than one literal.
fn ends_early(inner: &str, quote: char) -> bool {
    let mut escaped = false;
    inner.chars().any(|c| {
        let end = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        end
    })
}

/// The arguments of `(…)`, at its commas outside brackets and quotes; generics of Java count as brackets.
fn split(text: &str, lang: Lang) -> Result<Vec<&str>, (usize, &'static str)> {
    let bytes = text.as_bytes();
    let mut open: Vec<u8> = Vec::new();
    let mut out = Vec::new();
    let mut start = 1;
    let mut pos = 0;
    while pos < bytes.len() {
        let b = bytes[pos];
        match b {
            b'"' | b'\'' | b'`' => {
                let mut end = pos + 1;
                while bytes.get(end).is_some_and(|e| *e != b) {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                if end >= bytes.len() {
                    return Err((pos, "a string without end"));
                }
                pos = end;
            }
            b'(' | b'[' | b'{' => open.push(b),
            b'<' if lang == Lang::Java && generic(&text[pos..]) => open.push(b),
            b'>' if open.last() == Some(&b'<') => _ = open.pop(),
            b')' | b']' | b'}' => {
                let partner = match b {
                    b')' => b'(',
                    b']' => b'[',
                    _ => b'{',
                };
                if open.pop() != Some(partner) {
                    return Err((pos, "a bracket that closes another than the open one"));
                }
                if open.is_empty() {
                    out.push(&text[start..pos]);
                    let rest = text[pos + 1..].trim();
                    return if rest.is_empty() || rest == ";" {
                        Ok(out)
                    } else {
                        Err((pos + 1, "text after the call"))
                    };
                }
            }
            b',' if open.len() == 1 => {
                out.push(&text[start..pos]);
                start = pos + 1;
            }
            _ => {}
        }
        pos += 1;
    }
    Err((text.len(), "a bracket was never closed"))
}

/// Whether `<` begins type arguments: only names, commas, dots, `?`, `[]`, `&` and further ones up to its `>`.
fn generic(text: &str) -> bool {
    let mut depth = 0usize;
    // Type arguments are short; the bound keeps the scan linear.
    for c in text.chars().take(256) {
        match c {
            '<' => depth += 1,
            '>' => {
                depth -= 1;
                if depth == 0 {
                    return true;
                }
            }
            ',' | '.' | '?' | '[' | ']' | '&' | ' ' => {}
            c if unicode_ident::is_xid_continue(c) => {}
            _ => return false,
        }
    }
    false
}
