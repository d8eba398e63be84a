//! The plain form of a list of calls, `[f(a=1), g.h(b="x", c=[1, 2])]`, straight to values.
//!
//! Nearly all calls that models write have ASCII names and literals alone. They need neither tokens nor a tree, whose memory is most of
//! what the grammar costs. A text with anything else is left to the grammar; where this reads a text, the grammar gives the same.

use super::names::keyword;
use super::text::{Text, literal, number};
use crate::msg::Call;
use crate::value::{Key, Map, Str, Val};

/// The deepest nesting of brackets that is plain.
const DEPTH: usize = 16;

/// The most arguments that memory is taken for before they are read.
const ARGUMENTS: usize = 8;

/// The calls of a text, with their places in it; nothing where the text is not plain.
pub(super) fn calls(src: &str) -> Option<Vec<Call>> {
    let mut reader = Reader { src, bytes: src.as_bytes(), pos: 0, depth: 0 };
    reader.take(b'[')?;
    let mut calls = Vec::new();
    reader.items(b']', |r| {
        calls.push(r.call()?);
        Some(())
    })?;
    (reader.pos == src.len()).then_some(calls)
}

struct Reader<'a> {
    src: &'a str,
    bytes: &'a [u8],
    pos: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.pos += 1)
    }

    /// Skips what is no token between brackets.
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.pos += 1;
        }
    }

    /// What is left up to `close`, with commas between and none at the end.
    fn items(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.space();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            self.space();
            if self.take(b',').is_none() {
                return self.take(close);
            }
            self.space();
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let start = self.pos;
        while matches!(self.peek(), Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9')) {
            self.pos += 1;
        }
        let name = &self.src[start..self.pos];
        let first = name.as_bytes().first()?;
        (!first.is_ascii_digit() && !keyword(name)).then_some(name)
    }

    fn call(&mut self) -> Option<Call> {
        let start = self.pos;
        self.name()?;
        for _ in 0..DEPTH {
            if self.take(b'.').is_none() {
                break;
            }
            self.name()?;
        }
        let name = Str::new(&self.src[start..self.pos]);
        self.take(b'(')?;
        let mut args = Map::default();
        self.items(b')', |r| {
            let key = r.name()?;
            r.space();
            r.take(b'=')?;
            r.space();
            let value = r.value()?;
            if args.is_empty() {
                // As many as there are signs of equality in what follows, and no more than usual.
                let more = memchr::memchr_iter(b'=', &r.bytes[r.pos..]).take(ARGUMENTS - 1).count();
                args.reserve(1 + more);
            }
            // What is given twice is dealt with elsewhere.
            args.insert(Key::Str(Str::new(key)), value).is_none().then_some(())
        })?;
        Some(Call { name, args, id: None, span: Some(start..self.pos) })
    }

    fn value(&mut self) -> Option<Val> {
        match self.peek()? {
            b'"' | b'\'' => self.string().map(Val::Str),
            b'0'..=b'9' => self.number(),
            b'-' => {
                self.pos += 1;
                match self.number()? {
                    Val::Int(n) => Some(Val::Int(-n)),
                    Val::Float(f) => Some(Val::Float(-f)),
                    _ => None,
                }
            }
            b'[' => self.deeper(|r| {
                let mut items = Vec::new();
                r.items(b']', |r| {
                    items.push(r.value()?);
                    Some(())
                })?;
                Some(Val::List(items))
            }),
            b'{' => self.deeper(|r| {
                let mut entries = Map::default();
                r.items(b'}', |r| {
                    let key = r.string()?;
                    r.space();
                    r.take(b':')?;
                    r.space();
                    entries.insert(Key::Str(key), r.value()?);
                    Some(())
                })?;
                Some(Val::Dict(entries))
            }),
            b'T' => self.word("True", Val::Bool(true)),
            b'F' => self.word("False", Val::Bool(false)),
            b'N' => self.word("None", Val::Null),
            _ => None,
        }
    }

    /// What follows an opening bracket.
    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Option<Val>) -> Option<Val> {
        self.depth += 1;
        self.pos += 1;
        let value = if self.depth > DEPTH { None } else { read(self) };
        self.depth -= 1;
        value
    }

    /// A word that may be the beginning of another one: then no comma or bracket follows, and the text is not plain.
    fn word(&mut self, word: &str, value: Val) -> Option<Val> {
        self.bytes[self.pos..].starts_with(word.as_bytes()).then(|| {
            self.pos += word.len();
            value
        })
    }

    /// A decimal integer or float whose form is the usual one.
    fn number(&mut self) -> Option<Val> {
        let start = self.pos;
        let int = self.digits()?;
        if int.len() > 1 && int.starts_with('0') {
            return None;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            self.digits()?;
        }
        number(&self.src[start..self.pos]).ok()
    }

    /// At least one digit.
    fn digits(&mut self) -> Option<&'a str> {
        let start = self.pos;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.pos += 1;
        }
        (self.pos > start).then(|| &self.src[start..self.pos])
    }

    /// One literal without prefix, in single quotes of either kind.
    fn string(&mut self) -> Option<Str> {
        let start = self.pos;
        let quote = self.peek().filter(|b| matches!(b, b'"' | b'\''))?;
        self.pos += 1;
        let mut escaped = false;
        loop {
            match self.peek()? {
                b if b == quote => break,
                // Line feeds end a string, and control characters are few.
                0..=0x1f => return None,
                b'\\' => {
                    escaped = true;
                    self.pos += 1;
                    // A continued line.
                    if self.peek()? < b' ' {
                        return None;
                    }
                    self.pos += 1;
                }
                _ => self.pos += 1,
            }
        }
        self.pos += 1;
        if escaped {
            return match literal(&self.src[start..self.pos]).ok()? {
                Text::Str(text) => Some(text),
                _ => None,
            };
        }
        // Of three quotes the first two are read as an empty string, and the third is nothing that may follow one.
        Some(Str::new(&self.src[start + 1..self.pos - 1]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{by_grammar, parse};
    use crate::parse::Mode;
    use crate::{Call, Format, Key, Val, render};

    /// In every mode the text gives what it gives without the fast path: values, their types and order, places, issues, errors.
    fn agrees(text: &str) {
        for mode in [Mode::Strict, Mode::Lenient, Mode::Bfcl] {
            // Not their equality: a complex number equals nothing, and 0.0 equals -0.0.
            let [fast, slow] = [parse, by_grammar].map(|read| format!("{:?}", read(text, mode, &[])));
            assert_eq!(fast, slow, "{mode:?} {text}");
        }
    }

    #[test]
    fn what_is_plain_and_what_is_not() {
        for text in [
            "[]",
            "[ ]",
            "[f()]",
            "[ f ( a = 1 )]",
            "[a.b_2.C(x=1, y='z'),\n g( k = [1, -2.5e-3, True] )]",
            r#"[f(a="it's", b='\'\n\x41é😀', c='', d="")]"#,
            "[f(a={}, b={'k': [{'l': None}], \"m\": {}, 'k': 2}, c=[[], [0]])]",
            "[f(a=0, b=-0, c=-0.0, d=1e999, e=999999999999999999, f=1E+5, g=0.0)]",
        ] {
            assert!(text.contains("f (") || super::calls(text).is_some(), "{text}");
            agrees(text);
        }
        for text in [
            "",
            "[",
            "[f]",
            "[f(]",
            "[f(a=)]",
            "[f(a)]",
            "[f(1)]",
            "[f(a==1)]",
            "[f(a=1 b=2)]",
            "[f(a=1,)]",
            "[f(,)]",
            "[f(a=1),]",
            "[f(a=1)] ",
            " [f(a=1)]",
            "[f(a=1)]x",
            "f(a=1)",
            "[f(a=1, a=2)]",
            "[f(True=1)]",
            "[None(a=1)]",
            "[a.if(b=1)]",
            "[f(a=Truer)]",
            "[f(a=true)]",
            "[f(a=01)]",
            "[f(a=00)]",
            "[f(a=1.)]",
            "[f(a=.5)]",
            "[f(a=1_0)]",
            "[f(a=0x1)]",
            "[f(a=1j)]",
            "[f(a=1e)]",
            "[f(a=- 1)]",
            "[f(a=--1)]",
            "[f(a=-True)]",
            "[f(a=1+1)]",
            "[f(a=(1, 2))]",
            "[f(a='x' 'y')]",
            "[f(a='''x''')]",
            "[f(a='''''')]",
            "[f(a='' '')]",
            "[f(a=r'x')]",
            "[f(a='x)]",
            "[f(a='x\\')]",
            "[f(a='x\ny')]",
            "[f(a='x\\\ny')]",
            "[f(a='\\N{DASH}')]",
            "[f(a='\0')]",
            "[f(a={1: 2})]",
            "[f(a={'k'})]",
            "[f(a={'k': 1,})]",
            "[f(a=[1 2])]",
            "[f(a=[1, 2)]",
            "[f(é=1)]",
            "[ﬁ(a=1)]",
            "[f(a=1) # ]\n]",
            "[f(a=1)(b=2)]",
            "[f(a=1).g(b=2)]",
            "[f(a=9999999999999999999)]",
            "[f(a=-9223372036854775808)]",
        ] {
            agrees(text);
        }
        let deep = |n: usize| format!("[f(a={}{})]", "[".repeat(n), "]".repeat(n));
        for n in [15, 16, 17, 126, 127, 128, 300] {
            assert_eq!(super::calls(&deep(n)).is_some(), n <= 16, "{n}");
            agrees(&deep(n));
        }
        for n in [16, 17, 18, 200] {
            agrees(&format!("[{}(a=1)]", vec!["a"; n].join(".")));
        }
    }

    fn val() -> impl Strategy<Value = Val> {
        let leaf = prop_oneof![
            Just(Val::Null),
            any::<bool>().prop_map(Val::Bool),
            any::<i64>().prop_map(Val::Int),
            (-99i64..99).prop_map(Val::Int),
            any::<f64>().prop_filter("a number", |f| !f.is_nan()).prop_map(Val::Float),
            "[a-z '\"\\\\\n\té=,\\[\\]{}():]{0,9}".prop_map(Val::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Val::List),
                prop::collection::vec(("[a-z']{0,3}", inner), 0..4).prop_map(Val::dict),
            ]
        })
    }

    /// What damage puts in.
    const PIECE: &str = "[\\[\\](){}=,:.'\"\\\\ \n\r\t\x0c+*0-9eTFN_~-]{0,2}";

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rendered_and_damaged_calls_are_read_as_the_grammar_reads_them(
            calls in prop::collection::vec(("[a-z]{1,3}(\\.[a-z]{1,2})?", prop::collection::vec(("[a-z]{1,3}", val()), 0..4)), 0..3),
            damage in prop::collection::vec((any::<prop::sample::Index>(), PIECE, any::<bool>()), 0..4),
        ) {
            let calls: Vec<Call> =
                calls.into_iter().map(|(name, args)| Call::new(name, args.into_iter().map(|(k, v)| (Key::from(k), v)))).collect();
            // Some of the names are words of the language.
            let Ok(mut text) = render(&calls, Format::Pythonic) else { return Ok(()) };
            // The least integer alone is not plain: it is one more than the largest, negated.
            prop_assert!(super::calls(&text).is_some() || text.contains("-9223372036854775808"), "{}", text);
            agrees(&text);
            for (at, piece, cut) in damage {
                let at = at.index(text.len() + 1);
                let at = (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                let end = (at + usize::from(cut)..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
                text.replace_range(at..end, &piece);
                agrees(&text);
            }
        }
    }
}
