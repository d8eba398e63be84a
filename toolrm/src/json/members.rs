//! An object's members without reading their values.

use super::{Dialect, JsonError, Reader};
use crate::value::Str;

/// The members of the object that a text is, as slices of the text: nothing inside a value is looked at but where it ends.
///
/// # Errors
/// [`JsonError`] when the text is not an object, or a value has no end.
pub fn members(text: &str) -> Result<Vec<(Str, &str)>, JsonError> {
    members_known(text, |_, _| None)
}

/// [`members`]; `known` may say, from a key and the text from its value on, where the value ends.
pub(crate) fn members_known(
    text: &str,
    known: impl Fn(&str, &str) -> Option<usize>,
) -> Result<Vec<(Str, &str)>, JsonError> {
    let mut reader = Reader::new(text, Dialect::Strict);
    let mut out = Vec::with_capacity(8);
    reader.space();
    reader.expect(b'{', "expected an object")?;
    reader.space();
    if reader.peek() == Some(b'}') {
        reader.pos += 1;
    } else {
        loop {
            reader.space();
            if reader.peek() != Some(b'"') {
                return Err(reader.error("expected a key"));
            }
            let key = reader.string()?;
            reader.space();
            reader.expect(b':', "expected ':'")?;
            reader.space();
            let start = reader.pos;
            match known(&key, &text[start..]) {
                Some(len) => reader.pos += len,
                None => skip(&mut reader)?,
            }
            out.push((key, &text[start..reader.pos]));
            reader.space();
            match reader.peek() {
                Some(b',') => reader.pos += 1,
                Some(b'}') => {
                    reader.pos += 1;
                    break;
                }
                _ => return Err(reader.error("expected ',' or '}'")),
            }
        }
    }
    reader.space();
    if reader.pos < text.len() { Err(reader.error("text after the value")) } else { Ok(out) }
}

/// Moves past a value, checking only that strings end and brackets balance.
fn skip(reader: &mut Reader<'_>) -> Result<(), JsonError> {
    let start = reader.pos;
    let mut depth = 0usize;
    loop {
        match reader.peek() {
            None if depth > 0 => return Err(reader.error("the text ends inside a value")),
            None => break,
            Some(b'"') => {
                skip_string(reader)?;
                if depth == 0 {
                    break;
                }
            }
            Some(b'{' | b'[') => {
                depth += 1;
                reader.pos += 1;
            }
            Some(b'}' | b']') => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
                reader.pos += 1;
                if depth == 0 {
                    break;
                }
            }
            Some(b',' | b' ' | b'\t' | b'\n' | b'\r') if depth == 0 => break,
            Some(_) => reader.pos += 1,
        }
    }
    if reader.pos == start { Err(reader.error("expected a value")) } else { Ok(()) }
}

fn skip_string(reader: &mut Reader<'_>) -> Result<(), JsonError> {
    reader.pos += 1;
    loop {
        match memchr::memchr2(b'"', b'\\', &reader.bytes[reader.pos..]) {
            None => {
                reader.pos = reader.bytes.len();
                return Err(reader.error("the text ends inside a string"));
            }
            Some(i) if reader.bytes[reader.pos + i] == b'"' => {
                reader.pos += i + 1;
                return Ok(());
            }
            Some(i) => reader.pos = (reader.pos + i + 2).min(reader.bytes.len()),
        }
    }
}
