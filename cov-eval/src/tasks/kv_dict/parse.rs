//! A tolerant reader of dictionary literals: JSON or Python, cut off or not. Iterative, linear in the text.

use std::borrow::Cow;
use std::ops::Range;

use crate::text::{EACH, eight};

/// Starts of a literal that are tried.
const STARTS: usize = 16;

/// An entry: its key, its value where that is a string, and where it stands. Strings without escapes are those of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) value: Option<Cow<'a, str>>,
    pub(super) span: Range<u32>,
}

/// A dictionary literal found in a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object<'a> {
    /// Entries in order, duplicates kept.
    pub(super) pairs: Vec<Pair<'a>>,
    /// It is JSON as the standard has it.
    pub(super) strict: bool,
    /// It ends.
    pub(super) complete: bool,
    /// Its bytes.
    pub(super) range: Range<usize>,
}

/// The first literal with a complete entry.
pub(super) fn find(text: &str) -> Option<Object<'_>> {
    memchr::memchr_iter(b'{', text.as_bytes())
        .take(STARTS)
        .map(|at| Reader { text, at, strict: true }.object())
        .find(|o| !o.pairs.is_empty())
}

/// How many bytes come before the first that is the quote, a backslash or a control character.
fn plain(text: &[u8], quote: u8) -> usize {
    // The lowest bit of these stands in the first byte that is zero, or below a space (Mycroft's `haszero` and `hasless`).
    let below = |bytes: u64, n: u64| bytes.wrapping_sub(n * EACH) & !bytes & (0x80 * EACH);
    let is = |bytes: u64, byte: u8| below(bytes ^ (u64::from(byte) * EACH), 1);
    let mut at = 0;
    while at < text.len() {
        let bytes = eight(text, at);
        let special = is(bytes, quote) | is(bytes, b'\\') | below(bytes, 0x20);
        if special != 0 {
            // Beyond the end there are zeros.
            return text.len().min(at + special.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    text.len()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    strict: bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<char> {
        if let Some(b) = self.text.as_bytes().get(self.at).filter(|b| b.is_ascii()) {
            return Some(char::from(*b));
        }
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let hit = self.peek() == Some(wanted);
        if hit {
            self.at += wanted.len_utf8();
        }
        hit
    }

    fn space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        while let Some(c) = self.peek().filter(|c| c.is_whitespace()) {
            self.strict &= matches!(c, ' ' | '\t' | '\n' | '\r');
            self.at += c.len_utf8();
        }
    }

    /// From an opening brace; stops at the closing one, at the end, or where no entry can be read.
    fn object(mut self) -> Object<'a> {
        let start = self.at;
        self.take();
        let mut pairs = Vec::new();
        let mut end = self.at;
        let mut complete = false;
        let mut comma = true;
        loop {
            self.space();
            if self.eat('}') {
                self.strict &= !comma || pairs.is_empty();
                complete = true;
                end = self.at;
                break;
            }
            self.strict &= comma;
            let from = self.at;
            let Some(key) = self.string() else { break };
            self.space();
            if !self.eat(':') {
                break;
            }
            self.space();
            let value = match self.peek() {
                Some('"' | '\'') => match self.string() {
                    Some(value) => Some(value),
                    None => break,
                },
                _ if self.skip() => None,
                _ => break,
            };
            end = self.at;
            pairs.push(Pair { key, value, span: from as u32..end as u32 });
            self.space();
            comma = self.eat(',');
        }
        Object { pairs, strict: self.strict && complete, complete, range: start..end }
    }

    /// A string in either quote. `None` at the end of the text, or where there is no string.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let quote = self.peek().filter(|c| matches!(c, '"' | '\''))?;
        self.strict &= quote == '"';
        self.take();
        // Nearly always nothing but the quote is special.
        let start = self.at;
        self.at += plain(&self.text.as_bytes()[start..], quote as u8);
        let plain = &self.text[start..self.at];
        if self.eat(quote) {
            return Some(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            match self.take()? {
                c if c == quote => return Some(Cow::Owned(text)),
                '\\' => text.push(self.escape()?),
                c => {
                    self.strict &= c >= ' ';
                    text.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let c = self.take()?;
        Some(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let digits =
                    self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                match digits {
                    Some(digits) => {
                        self.at += 4;
                        // Halves of surrogate pairs can be part of no key or value that is asked for.
                        u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
                    }
                    None => {
                        self.strict = false;
                        'u'
                    }
                }
            }
            other => {
                self.strict = false;
                other
            }
        })
    }

    /// Skips a value that is no string, up to the comma or brace that ends it. Its own syntax is not looked at, so a
    /// dictionary with such a value does not count as strict.
    fn skip(&mut self) -> bool {
        self.strict = false;
        let mut depth = 0usize;
        while let Some(c) = self.peek() {
            match c {
                '"' | '\'' => {
                    if self.string().is_none() {
                        return false;
                    }
                    continue;
                }
                '{' | '[' | '(' => depth += 1,
                ',' if depth == 0 => return true,
                '}' | ']' | ')' if depth == 0 => return c == '}',
                '}' | ']' | ')' => depth -= 1,
                _ => {}
            }
            self.take();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> (Vec<(String, Option<String>)>, bool, bool) {
        let object = find(text).unwrap();
        let pair = |p: Pair| (p.key.into_owned(), p.value.map(Cow::into_owned));
        (object.pairs.into_iter().map(pair).collect(), object.strict, object.complete)
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        list.iter().map(|&(k, v)| (k.to_owned(), Some(v.to_owned()))).collect()
    }

    #[test]
    fn forms() {
        let ab = pairs(&[("A", "1"), ("B", "2")]);
        assert_eq!(read(r#"{"A": "1","B":"2"}"#), (ab.clone(), true, true));
        assert_eq!(read("x {'A': '1', 'B': '2',} y"), (ab.clone(), false, true));
        assert_eq!(read("{\"A\": \"1\", \"B\": \"2\","), (ab.clone(), false, false));
        assert_eq!(read("{\"A\": \"1\", \"B\": \"2\", \"C\": \"3"), (ab.clone(), false, false));
        assert_eq!(read("{\"A\": \"1\" \"B\": \"2\"}"), (ab.clone(), false, true));
        assert_eq!(read("{} {nothing} {\"A\": \"1\", \"B\": \"2\"}"), (ab, true, true));
        assert_eq!(
            read(r#"{"\u0041\n": "\"", "A": "1"}"#),
            (pairs(&[("A\n", "\""), ("A", "1")]), true, true)
        );
        let nested = read(r#"{"A": {"x": [1, "}"]}, "B": 7, "B": "2"}"#);
        assert_eq!(nested.0, [("A".into(), None), ("B".into(), None), ("B".into(), Some("2".into()))]);
        assert!(find("{}").is_none() && find("{{{").is_none() && find("no").is_none());
    }

    #[test]
    fn hostile_texts_are_bounded() {
        for text in
            ["{".repeat(1_000_000), format!("{{\"A\":{}", "[".repeat(1_000_000)), "{\"".repeat(500_000)]
        {
            assert!(find(&text).is_none());
        }
    }

    proptest! {
        #[test]
        fn plain_bytes_end_at_the_first_special_one(text in "[ab\"'\\\\\u{1}\u{1f} !#é\u{7f}]{0,40}") {
            for quote in [b'"', b'\''] {
                let special = |b: u8| b == quote || b == b'\\' || b < b' ';
                let expected = text.bytes().position(special).unwrap_or(text.len());
                prop_assert_eq!(plain(text.as_bytes(), quote), expected, "{:?}", text);
            }
        }

        /// Strict is what serde_json takes as a map of strings.
        #[test]
        fn strict_is_json(text in r#"\{( ?"[A-C\\n"']{0,3}" ?: ?["'][a-c]{0,2}["'] ?,?){0,3}\}"#) {
            let whole = find(&text).filter(|o| o.range == (0..text.len()));
            let json = serde_json::from_str::<std::collections::BTreeMap<String, String>>(&text);
            if let Some(object) = whole {
                prop_assert_eq!(object.strict, json.is_ok(), "{}", text);
            } else {
                prop_assert!(json.map_or(true, |map| map.is_empty()));
            }
        }
    }

    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "{", "}", "[", "]", "(", ")", "\"", "'", ":", ",", "\\", "\\u", "\\u00e", "\\ud83d", "A", "é", " ", "\n", "\t", "\u{b}", "\0", "null",
        "1e9", "{\"A\": \"1\"", "\"A\": ", "'A': '1', ", "```json\n", "\u{feff}", "\u{85}",
    ];

    fn hostile() -> impl Strategy<Value = String> {
        let right = [
            r#"{"KQX": "LMP", "ZRT": "WVB", "A\u00e9\"": "\\n"}"#,
            "{'KQX': 'LMP',\n 'ZRT': {'a': [1, (2, '}')]},}",
            "Here:\n```json\n{\n  \"A\": \"1\",\n  \"B\": \"2\"\n}\n```\nDone {x}.",
        ];
        crate::fuzz::texts(PIECES, right.map(str::to_owned).to_vec())
    }

    const OPEN: u8 = b'{';
    const CLOSE: u8 = b'}';

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::fuzz::CASES))]

        /// Entries lie in the literal, one behind the other, and strings that are not copied are those of the text.
        #[test]
        fn any_text_is_read_or_refused(text in hostile()) {
            let Some(object) = find(&text) else { return Ok(()) };
            let literal = text[object.range.clone()].as_bytes();
            prop_assert!(literal[0] == OPEN && !object.pairs.is_empty());
            prop_assert!(!object.complete || literal[literal.len() - 1] == CLOSE, "{:?}", object);
            prop_assert!(object.complete || !object.strict);
            let mut end = object.range.start;
            for pair in &object.pairs {
                let (from, to) = (pair.span.start as usize, pair.span.end as usize);
                prop_assert!(from >= end && to <= object.range.end);
                let entry = &text[from..to];
                prop_assert!(entry.starts_with(['"', '\'']));
                if let Cow::Borrowed(key) = pair.key {
                    prop_assert_eq!(&entry[1..=key.len()], key);
                }
                end = to;
            }
            if object.strict && object.range == (0..text.len()) {
                let json = serde_json::from_str::<std::collections::BTreeMap<String, String>>(&text);
                // Half a surrogate pair is JSON (RFC 8259, 8.2), though no text that Rust can hold.
                let half = text.to_ascii_lowercase().contains("\\ud");
                prop_assert!(json.is_ok() || half, "{:?}", json);
            }
        }
    }
}
