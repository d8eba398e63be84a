//! Rules of pycodestyle 2.13 on the white space between tokens.

use super::Lint;
use super::logical::{
    Logical, after_word, is_keyword, is_soft_keyword, is_spaced_keyword, is_word, spaces, starts_function,
};
use super::style::line_breaks;
use crate::python::lexer::{Kind, Token};

/// Operators that have a space on each side, always.
fn needs_space(text: &str) -> bool {
    matches!(
        text,
        "**="
            | "*="
            | "/="
            | "//="
            | "+="
            | "-="
            | "!="
            | "<"
            | ">"
            | "%="
            | "^="
            | "&="
            | "|="
            | "=="
            | "<="
            | ">="
            | "<<="
            | ">>="
            | "="
            | "and"
            | "in"
            | "is"
            | "or"
            | "->"
            | ":="
    )
}

/// Whether a space is missing around an operator, which shows at the tokens after it.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    None,
    Space,
    /// A space after it if there is one before it; where the operator is not the first thing after this place.
    Same {
        before: usize,
        spaced: bool,
    },
}

/// Whether the function or class whose head a text starts with, or the type, has parameters in square brackets.
fn is_generic<'t>(text: &'t str) -> bool {
    let head = |text: &'t str, word| after_word(text, word).filter(|rest| spaces(rest) > 0);
    let inner = head(text, "async").map_or(text, |rest| &rest[spaces(rest)..]);
    let rest = head(inner, "def").or_else(|| head(text, "class")).or_else(|| head(text, "type"));
    let name = rest.map(|rest| &rest[spaces(rest)..]).unwrap_or_default();
    let length = name.bytes().take_while(|&b| is_word(b)).count();
    length > 0 && name[length..].starts_with('[')
}

impl Lint<'_> {
    /// E211.
    pub(super) fn before_brackets(&mut self, tokens: &[Token]) {
        for (i, pair) in tokens.windows(2).enumerate() {
            let [before, token] = pair else { continue };
            if before.range.end == token.range.start || token.kind != Kind::Operator {
                continue;
            }
            let name = self.text(before);
            let named = before.kind == Kind::Name && !is_keyword(name) && !is_soft_keyword(name);
            let class = i > 0 && self.text(&tokens[i - 1]) == "class";
            if matches!(self.text(token), "(" | "[")
                && (named || matches!(name, "}" | "]" | ")"))
                && !(class || self.is_row_break(before.range.end, token.range.start))
            {
                self.report("E211", before.range.end);
            }
        }
    }

    /// Whether the space between two tokens has the end of a row, other than behind a backslash.
    pub(super) fn is_row_break(&self, from: usize, to: usize) -> bool {
        to > from && line_breaks(&self.source.as_bytes()[from..to]) > 0
    }

    /// E225 and E231.
    pub(super) fn missing_space(&mut self, tokens: &[Token]) {
        // Brackets that are open, and `l` for a lambda before its colon.
        let mut open: Vec<u8> = Vec::new();
        let mut need = Need::None;
        let mut previous: Option<&Token> = None;
        for token in tokens {
            if matches!(token.kind, Kind::Newline | Kind::Comment) {
                continue;
            }
            let text = self.text(token);
            if matches!(token.kind, Kind::Operator | Kind::Name) {
                track(&mut open, text);
            }
            if token.kind == Kind::Operator && matches!(text, "," | ";" | ":") {
                let slice = text == ":" && open.last() == Some(&b'[');
                self.report_if(!slice && self.is_close(token), "E231", token.range.start);
            }
            if let Some(previous) = previous {
                need = self.operator(previous, token, need, open.last().copied());
            }
            previous = Some(token);
        }
    }

    /// Whether what follows a comma or colon is too close to it.
    fn is_close(&self, token: &Token) -> bool {
        let next = self.source[token.range.end..].chars().next();
        match next {
            None | Some(' ' | '\t' | '\u{a0}' | '\r' | '\n') => false,
            Some(')' | ']') => self.text(token) != ",",
            Some(_) => true,
        }
    }

    /// What is needed after `token`, with what was needed before it.
    fn operator(&mut self, previous: &Token, token: &Token, need: Need, open: Option<u8>) -> Need {
        let (before, text) = (self.text(previous), self.text(token));
        let (end, spaced) = (previous.range.end, previous.range.end != token.range.start);
        match need {
            Need::None => {}
            Need::Space => {
                // A parameter `/` is none that needs space.
                self.report_if(!spaced, "E225", end);
                return Need::None;
            }
            Need::Same { before, spaced: false } if spaced => {
                self.report("E225", before);
                return Need::None;
            }
            Need::Same { .. } if spaced => return Need::None,
            // The end of parameters that are given by place.
            Need::Same { .. } if before == "/" && matches!(text, "," | ")" | ":") => return need,
            Need::Same { .. } if before == ")" && text == ":" => return need,
            Need::Same { spaced: one_side, .. } => {
                self.report_if(one_side, "E225", end);
                return Need::None;
            }
        }
        let optional = Need::Same { before: end, spaced };
        if !matches!(token.kind, Kind::Operator | Kind::Name) {
            return Need::None;
        }
        match text {
            "=" if matches!(open, Some(b'l' | b'(')) => Need::None,
            _ if needs_space(text) => {
                self.report_if(!spaced, "E225", end);
                if spaced { Need::Space } else { Need::None }
            }
            ">>" | "**" | "*" | "+" | "-" => {
                let binary = match previous.kind {
                    Kind::Operator => matches!(before, "}" | "]" | ")"),
                    _ => !is_spaced_keyword(before) && !is_soft_keyword(before),
                };
                if binary { optional } else { Need::None }
            }
            "/" | "//" | "@" | "^" | "&" | "|" | "<<" | "%" => optional,
            _ => Need::None,
        }
    }

    /// E251.
    pub(super) fn around_equals(&mut self, tokens: &[Token], line: &Logical) {
        let (function, generic) = (starts_function(&line.text), is_generic(&line.text));
        let mut open: Vec<u8> = Vec::new();
        let (mut annotated, mut equals) = (false, false);
        let mut end = 0;
        for token in tokens {
            let spaced = token.range.start != end;
            self.report_if(equals && spaced, "E251", end);
            equals = false;
            if token.kind == Kind::Operator {
                match self.text(token) {
                    sign @ ("(" | "[") => {
                        open.push(sign.as_bytes()[0]);
                        annotated |= generic && open == b"[";
                    }
                    ")" | "]" => _ = open.pop(),
                    ":" if function && open == b"(" => annotated = true,
                    "," if open.len() == 1 => annotated = false,
                    "=" if open.len() > usize::from(annotated) => {
                        equals = true;
                        self.report_if(spaced, "E251", end);
                    }
                    _ => {}
                }
                annotated &= !open.is_empty();
            }
            end = token.range.end;
        }
    }
}

/// Opens and closes brackets and lambdas.
fn track(open: &mut Vec<u8>, text: &str) {
    match text {
        "(" | "[" | "{" => open.push(text.as_bytes()[0]),
        "lambda" => open.push(b'l'),
        ")" | "]" | "}" => _ = open.pop(),
        ":" if open.last() == Some(&b'l') => _ = open.pop(),
        _ => {}
    }
}
