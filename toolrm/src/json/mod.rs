//! JSON to [`Val`] and back.
//!
//! A reader of its own, because three dialects are needed that differ in what they accept, integers of any size, and the
//! place where a value ends in longer text. Time and memory are linear in the input; nesting is bounded.

mod members;
mod write;

use num_bigint::BigInt;

pub use members::members;
pub(crate) use members::members_known;
pub use write::{NotJson, to_string, write, write_map, write_str};

use crate::value::{Key, Map, Str, Val};

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 128;

/// The most digits of an integer, which is also Python's limit.
pub const MAX_DIGITS: usize = 4300;

/// What a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 8259.
    Strict,
    /// Python's `json.loads`: also `NaN`, `Infinity`, `-Infinity`. A lone surrogate escape becomes U+FFFD.
    Python,
    /// [`Dialect::Python`], and: control characters in strings, single quotes, Python's `None`, `True`, `False`, trailing
    /// commas, and up to three missing closing brackets at the end of the text.
    Lenient,
}

/// Text that is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct JsonError {
    /// Byte offset of the first byte that does not fit.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl JsonError {
    /// The error's stable name: `json.syntax`, or `limit.depth` for nesting beyond [`MAX_DEPTH`].
    pub fn kind(&self) -> &'static str {
        if self.what == TOO_DEEP { "limit.depth" } else { "json.syntax" }
    }
}

/// What is wrong beyond [`MAX_DEPTH`].
const TOO_DEEP: &str = "nested deeper than 128";

/// Reads a text that is one JSON value, with white space around it.
///
/// # Errors
/// [`JsonError`], with the offset of the first byte that does not fit.
pub fn parse(text: &str, dialect: Dialect) -> Result<Val, JsonError> {
    let mut reader = Reader::new(text, dialect);
    let value = reader.value()?;
    reader.space();
    if reader.pos < text.len() { Err(reader.error("text after the value")) } else { Ok(value) }
}

/// Reads the JSON value at the start of a text; returns it with the number of bytes read and of repairs made.
///
/// # Errors
/// [`JsonError`], with the offset of the first byte that does not fit.
pub fn parse_prefix(text: &str, dialect: Dialect) -> Result<(Val, usize, usize), JsonError> {
    let mut reader = Reader::new(text, dialect);
    let value = reader.value()?;
    Ok((value, reader.pos, reader.repairs))
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    depth: usize,
    dialect: Dialect,
    repairs: usize,
    supplied: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, dialect: Dialect) -> Self {
        Reader { text, bytes: text.as_bytes(), pos: 0, depth: 0, dialect, repairs: 0, supplied: 0 }
    }

    fn error(&self, what: &'static str) -> JsonError {
        JsonError { offset: self.pos, what }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.pos += 1;
            Ok(())
        } else {
            Err(self.error(what))
        }
    }

    fn lenient(&self) -> bool {
        self.dialect == Dialect::Lenient
    }

    fn word(&mut self, word: &str, value: Val) -> Option<Val> {
        if self.text[self.pos..].starts_with(word) {
            self.pos += word.len();
            Some(value)
        } else {
            None
        }
    }

    fn value(&mut self) -> Result<Val, JsonError> {
        self.space();
        let found = match self.peek() {
            None => return Err(self.error("the text ends where a value should be")),
            Some(b'"') => return self.string().map(Val::Str),
            Some(b'\'') if self.lenient() => {
                self.repairs += 1;
                return self.string().map(Val::Str);
            }
            Some(b'{') => return self.nested(Self::object),
            Some(b'[') => return self.nested(Self::array),
            Some(b't') => self.word("true", Val::Bool(true)),
            Some(b'f') => self.word("false", Val::Bool(false)),
            Some(b'n') => self.word("null", Val::Null),
            Some(b'T') if self.lenient() => self.word("True", Val::Bool(true)).inspect(|_| self.repairs += 1),
            Some(b'F') if self.lenient() => {
                self.word("False", Val::Bool(false)).inspect(|_| self.repairs += 1)
            }
            Some(b'N') if self.lenient() && self.text[self.pos..].starts_with("None") => {
                self.repairs += 1;
                self.word("None", Val::Null)
            }
            Some(b'N') if self.dialect != Dialect::Strict => self.word("NaN", Val::Float(f64::NAN)),
            Some(b'I') if self.dialect != Dialect::Strict => self.word("Infinity", Val::Float(f64::INFINITY)),
            Some(b'-') if self.dialect != Dialect::Strict && self.text[self.pos..].starts_with("-I") => {
                self.word("-Infinity", Val::Float(f64::NEG_INFINITY))
            }
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(_) => None,
        };
        found.ok_or_else(|| self.error("expected a value"))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Val, JsonError>) -> Result<Val, JsonError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(TOO_DEEP));
        }
        self.depth += 1;
        self.pos += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    /// After a member: whether another follows. At the end of the text a lenient reader supplies what closes.
    fn more(&mut self, close: u8, what: &'static str) -> Result<bool, JsonError> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.pos += 1;
                if self.lenient() {
                    self.space();
                    if self.peek() == Some(close) {
                        self.pos += 1;
                        self.repairs += 1;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Some(b) if b == close => {
                self.pos += 1;
                Ok(false)
            }
            None if self.lenient() && self.supplied < 3 => {
                self.supplied += 1;
                self.repairs += 1;
                Ok(false)
            }
            _ => Err(self.error(what)),
        }
    }

    fn array(&mut self) -> Result<Val, JsonError> {
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.pos += 1;
            return Ok(Val::List(items));
        }
        loop {
            items.push(self.value()?);
            if !self.more(b']', "expected ',' or ']'")? {
                return Ok(Val::List(items));
            }
        }
    }

    fn object(&mut self) -> Result<Val, JsonError> {
        let mut entries = Map::default();
        self.space();
        if self.peek() == Some(b'}') {
            self.pos += 1;
            return Ok(Val::Dict(entries));
        }
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => {}
                Some(b'\'') if self.lenient() => self.repairs += 1,
                _ => return Err(self.error("expected a key")),
            }
            let key = self.string()?;
            self.space();
            self.expect(b':', "expected ':'")?;
            let value = self.value()?;
            entries.insert(Key::Str(key), value);
            if !self.more(b'}', "expected ',' or '}'")? {
                return Ok(Val::Dict(entries));
            }
        }
    }

    fn string(&mut self) -> Result<Str, JsonError> {
        let quote = self.bytes[self.pos];
        self.pos += 1;
        let mut out = Str::default();
        loop {
            let start = self.pos;
            while let Some(b) = self.peek() {
                if b == quote || b == b'\\' || b < 0x20 {
                    break;
                }
                self.pos += 1;
            }
            let plain = &self.text[start..self.pos];
            match self.peek() {
                None => return Err(self.error("the text ends inside a string")),
                Some(b) if b == quote => {
                    self.pos += 1;
                    if out.is_empty() {
                        return Ok(Str::new(plain));
                    }
                    out.push_str(plain);
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(plain);
                    self.escape(&mut out)?;
                }
                Some(control) if self.lenient() => {
                    out.push_str(plain);
                    out.push(char::from(control));
                    self.pos += 1;
                    self.repairs += 1;
                }
                Some(_) => return Err(self.error("a control character inside a string")),
            }
        }
    }

    fn escape(&mut self, out: &mut Str) -> Result<(), JsonError> {
        self.pos += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'\'') if self.lenient() => {
                self.repairs += 1;
                '\''
            }
            Some(b'u') => {
                self.pos += 1;
                out.push(self.unicode()?);
                return Ok(());
            }
            _ => return Err(self.error("an unknown escape")),
        };
        out.push(c);
        self.pos += 1;
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self.bytes.get(self.pos..self.pos + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { return Err(self.error("expected four hexadecimal digits")) };
        let code = digits.iter().fold(0, |n, &d| n * 16 + char::from(d).to_digit(16).unwrap_or(0));
        self.pos += 4;
        Ok(code)
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let at = self.pos;
        let high = self.hex4()?;
        if (0xd800..0xdc00).contains(&high) && self.bytes[self.pos..].starts_with(b"\\u") {
            let back = self.pos;
            self.pos += 2;
            let low = self.hex4();
            if let Ok(low) = low
                && (0xdc00..0xe000).contains(&low)
                && let Some(c) = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
            {
                return Ok(c);
            }
            self.pos = back;
        }
        match char::from_u32(high) {
            Some(c) => Ok(c),
            None if self.dialect == Dialect::Strict => {
                Err(JsonError { offset: at, what: "a surrogate without its other half" })
            }
            None => Ok(char::REPLACEMENT_CHARACTER),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.pos;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.pos += 1;
        }
        self.pos - start
    }

    fn number(&mut self) -> Result<Val, JsonError> {
        let start = self.pos;
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        if self.peek() == Some(b'0') {
            self.pos += 1;
        } else if self.digits() == 0 {
            return Err(self.error("expected a digit"));
        }
        let digits = self.pos - start;
        let mut float = false;
        let point = self.pos;
        if self.peek() == Some(b'.') {
            self.pos += 1;
            if self.digits() == 0 {
                // `1.` ends before the point: what follows is not part of the number.
                self.pos = point;
            } else {
                float = true;
            }
        }
        let exponent = self.pos;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            if self.digits() == 0 {
                self.pos = exponent;
            } else {
                float = true;
            }
        }
        let text = &self.text[start..self.pos];
        if float {
            let f: f64 = text.parse().map_err(|_| JsonError { offset: start, what: "not a number" })?;
            if self.dialect == Dialect::Strict && f.is_infinite() {
                return Err(JsonError { offset: start, what: "a number beyond the range of f64" });
            }
            return Ok(Val::Float(f));
        }
        if let Ok(n) = text.parse::<i64>() {
            return Ok(Val::Int(n));
        }
        if digits > MAX_DIGITS {
            return Err(JsonError { offset: start, what: "an integer of more than 4300 digits" });
        }
        text.parse::<BigInt>().map(Val::BigInt).map_err(|_| JsonError { offset: start, what: "not a number" })
    }
}
