//! Logical lines: the tokens of a statement, and its text as the rules on it see it.

use std::ops::Range;

use crate::python::lexer::{Kind, Token};

/// Whether a byte belongs to a word, with all of what is not ASCII.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Whether a word is a keyword, or `print`, which counts as one where white space is looked at; not a constant.
pub(super) fn is_spaced_keyword(text: &str) -> bool {
    text == "print" || (is_keyword(text) && !matches!(text, "False" | "None" | "True"))
}

pub(super) fn is_keyword(text: &str) -> bool {
    matches!(
        text,
        "False"
            | "None"
            | "True"
            | "and"
            | "as"
            | "assert"
            | "async"
            | "await"
            | "break"
            | "class"
            | "continue"
            | "def"
            | "del"
            | "elif"
            | "else"
            | "except"
            | "finally"
            | "for"
            | "from"
            | "global"
            | "if"
            | "import"
            | "in"
            | "is"
            | "lambda"
            | "nonlocal"
            | "not"
            | "or"
            | "pass"
            | "raise"
            | "return"
            | "try"
            | "while"
            | "with"
            | "yield"
    )
}

pub(super) fn is_soft_keyword(text: &str) -> bool {
    matches!(text, "_" | "case" | "match")
}

/// How many bytes at the start of `text` are white space.
pub(super) fn spaces(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_whitespace).count()
}

/// What follows `word` at the start of a text, where the word ends there.
pub(super) fn after_word<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(word)?;
    (!rest.bytes().next().is_some_and(is_word)).then_some(rest)
}

/// What follows `async` and the space after it, or all of a text that starts otherwise.
fn after_async(text: &str) -> &str {
    let rest = after_word(text, "async").unwrap_or_default();
    if spaces(rest) > 0 { &rest[spaces(rest)..] } else { text }
}

/// Whether a text starts with the head of a function.
pub(super) fn starts_function(text: &str) -> bool {
    after_word(after_async(text), "def").is_some()
}

/// Whether a text starts with a decorator or the head of a function or class.
pub(super) fn starts_definition(text: &str) -> bool {
    let head = after_word(after_async(text), "def").or_else(|| after_word(text, "class"));
    text.starts_with('@') || head.is_some_and(|rest| spaces(rest) > 0)
}

/// Whether a text starts with a statement that has a body.
pub(super) fn starts_compound(text: &str) -> bool {
    const PLAIN: [&str; 9] = ["if", "elif", "else", "try", "except", "finally", "class", "while", "def"];
    let either = after_async(text);
    PLAIN.iter().any(|word| after_word(text, word).is_some())
        || ["def", "for", "with"].iter().any(|word| after_word(either, word).is_some())
}

/// What a logical line has, which tells the rules that need not look at it.
#[derive(Default, Clone, Copy)]
pub(super) struct Has {
    /// More than one character of white space between two tokens of a row.
    pub(super) wide: bool,
    pub(super) comment: bool,
    /// `==` or `!=`.
    pub(super) equality: bool,
    /// `=`.
    pub(super) equals: bool,
    pub(super) lambda: bool,
    pub(super) not: bool,
    /// The name of the function `type`.
    pub(super) types: bool,
    /// A name that is easily mistaken for a digit.
    pub(super) ambiguous: bool,
    /// A string with a backslash.
    pub(super) escape: bool,
}

/// A logical line. Its text has strings without what is in them, no comments, and one space or none at an end of a row.
#[derive(Default)]
pub(super) struct Logical {
    pub(super) text: String,
    pub(super) has: Has,
    /// Columns of white space before it.
    pub(super) indent: usize,
    /// Whether a block starts with it, and how many end before it.
    pub(super) indented: bool,
    pub(super) dedents: u32,
    /// For each token, where it ends in `text` and in the source; before them, where the line starts.
    ends: Vec<(usize, usize)>,
}

impl Logical {
    pub(super) fn read(&mut self, source: &str, tokens: &[Token]) {
        self.text.clear();
        self.ends.clear();
        self.has = Has::default();
        self.ends.extend(tokens.first().map(|first| (0, first.range.start)));
        let mut previous = None;
        for token in tokens {
            match token.kind {
                Kind::Newline => continue,
                Kind::Comment => {
                    self.has.comment = true;
                    continue;
                }
                _ => {}
            }
            if let Some(end) = previous {
                self.add_gap(source, end..token.range.start);
            }
            self.add(&source[token.range.clone()], token.kind);
            self.ends.push((self.text.len(), token.range.end));
            previous = Some(token.range.end);
        }
    }

    fn add_gap(&mut self, source: &str, gap: Range<usize>) {
        let space = &source[gap.clone()];
        if space.contains('\n') {
            let bytes = source.as_bytes();
            let before = bytes[gap.start - 1];
            let closes = matches!(bytes[gap.end], b')' | b']' | b'}');
            if before == b',' || !(closes || matches!(before, b'(' | b'[' | b'{')) {
                self.text.push(' ');
            }
        } else {
            self.has.wide |= space.len() > 1;
            self.text.push_str(space);
        }
    }

    fn add(&mut self, piece: &str, kind: Kind) {
        if kind == Kind::Text {
            let prefix = piece.find(['"', '\'']).unwrap_or(0);
            self.has.escape |= piece.contains('\\');
            self.text.push_str(&piece[..prefix]);
            self.text.push_str("\"\"");
            return;
        }
        match piece {
            "==" | "!=" => self.has.equality = true,
            "=" => self.has.equals = true,
            "lambda" => self.has.lambda = true,
            "not" => self.has.not = true,
            "type" => self.has.types = true,
            "l" | "O" | "I" => self.has.ambiguous = true,
            _ => {}
        }
        self.text.push_str(piece);
    }

    /// Where in the source something at `offset` in the text is: the end of its token, which tells the row.
    pub(super) fn place(&self, offset: usize) -> usize {
        let token = self.ends.partition_point(|end| end.0 < offset);
        self.ends.get(token).or(self.ends.last()).map_or(0, |end| end.1)
    }

    pub(super) fn start(&self) -> usize {
        self.place(0)
    }
}
