//! Rules of pycodestyle 2.13, as flake8 runs them: logical lines one after the other, and white space within them.

use super::Lint;
use super::layout::{Layout, Place};
use super::logical::{Logical, is_spaced_keyword, is_word, spaces};
use super::statements::Module;
use crate::python::lexer::{Kind, Token};

/// How many lines end in white space, those behind a backslash left out.
pub(super) fn line_breaks(gap: &[u8]) -> usize {
    if gap.is_empty() {
        return 0;
    }
    let escaped = |at: usize| gap[..at].strip_suffix(b"\r").unwrap_or(&gap[..at]).ends_with(b"\\");
    (0..gap.len()).filter(|&at| gap[at] == b'\n' && !escaped(at)).count()
}

impl<'a> Lint<'a> {
    pub(super) fn style(&mut self, tokens: &[Token]) {
        self.physical_lines(tokens);
        let (mut line, mut layout, mut module) = (Logical::default(), Layout::default(), Module::default());
        let (mut rest, mut end) = (tokens, 0);
        while let Some(first) = rest.first() {
            let newline = || rest.iter().position(|t| t.kind == Kind::Newline);
            let count = if first.kind == Kind::Comment { 1 } else { newline().map_or(rest.len(), |n| n + 1) };
            let (own, others) = rest.split_at(count);
            line.read(self.source, own);
            let start = first.range.start;
            let blank = line_breaks(&self.source.as_bytes()[end..start]);
            let last = own
                .last()
                .map_or(start, |t| if t.kind == Kind::Newline { t.range.start } else { t.range.end });
            let place = Place { start, blank, last: self.line(last) };
            self.layout(&mut layout, &mut line, place);
            self.comments(own, &line);
            self.white_space(own, &line);
            self.statement(&mut module, own, &line);
            rest = others;
            end = self.line_starts.get(place.last + 1).copied().unwrap_or(self.source.len());
        }
        self.last_line(&mut layout, &mut line, end);
    }

    /// White space without a line break at the end of the source is a line without code.
    fn last_line(&mut self, layout: &mut Layout, line: &mut Logical, end: usize) {
        let start = self.line_starts.last().copied().unwrap_or(0);
        if end <= start && start < self.source.len() {
            line.read(self.source, &[]);
            let blank = line_breaks(&self.source.as_bytes()[end..start]);
            self.layout(layout, line, Place { start, blank, last: self.line(start) });
        }
    }

    pub(super) fn text(&self, token: &Token) -> &'a str {
        &self.source[token.range.clone()]
    }

    /// Reports what is wrong at an offset of a logical line.
    pub(super) fn report_in(&mut self, line: &Logical, code: &'static str, offset: usize) {
        self.report(code, line.place(offset));
    }

    fn white_space(&mut self, tokens: &[Token], line: &Logical) {
        self.inside_brackets(line);
        if line.has.wide {
            self.around_keywords(line);
            self.around_operators(line);
        }
        self.before_brackets(tokens);
        self.missing_space(tokens);
        if line.has.equals {
            self.around_equals(tokens, line);
        }
    }

    /// E201, E202 and E203.
    fn inside_brackets(&mut self, line: &Logical) {
        let text = line.text.as_bytes();
        let mut at = 0;
        while at + 1 < text.len() {
            let width = match (text[at], text[at + 1]) {
                (b'(' | b'[' | b'{', b' ' | b'\t') => {
                    self.report_in(line, "E201", at + 1);
                    2
                }
                (b' ' | b'\t', sign @ (b')' | b']' | b'}' | b',' | b';' | b':'))
                    if text.get(at + 2) != Some(&b'=') =>
                {
                    let closes = matches!(sign, b')' | b']' | b'}');
                    if at == 0 || text[at - 1] != b',' {
                        self.report_in(line, if closes { "E202" } else { "E203" }, at);
                    }
                    2
                }
                _ => 1,
            };
            at += width;
        }
    }

    /// E271 and E272.
    fn around_keywords(&mut self, line: &Logical) {
        let text = line.text.as_str();
        // What is before `from` belongs to the keyword before.
        let (mut at, mut from) = (0, 0);
        while at < text.len() {
            let end = at + text[at..].bytes().take_while(|&b| is_word(b)).count();
            if end == at {
                at += 1;
            } else if is_spaced_keyword(&text[at..end]) {
                let before = text[from..at].bytes().rev().take_while(u8::is_ascii_whitespace).count();
                let after = spaces(&text[end..]);
                self.wide_gap(line, "E272", at - before..at);
                self.wide_gap(line, "E271", end..end + after);
                from = end + after;
                at = from;
            } else {
                at = end;
            }
        }
    }

    fn wide_gap(&mut self, line: &Logical, code: &'static str, gap: std::ops::Range<usize>) {
        if gap.len() > 1 && !line.text[gap.clone()].contains('\t') {
            self.report_in(line, code, gap.start);
        }
    }

    /// E221 and E222.
    fn around_operators(&mut self, line: &Logical) {
        let text = line.text.as_str();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < text.len() {
            if !text.is_char_boundary(at + 1) || bytes[at] == b',' || bytes[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let start = at + 1 + spaces(&text[at + 1..]);
            let signs = text[start..].bytes().take_while(|b| b"-+*/|!<=>%&^".contains(b)).count();
            let end = start + if text[start..].starts_with(":=") { 2 } else { signs };
            if end == start {
                at = start;
                continue;
            }
            let after = spaces(&text[end..]);
            self.wide_gap(line, "E221", at + 1..start);
            self.wide_gap(line, "E222", end..end + after);
            at = end + after;
        }
    }

    /// E261, E262, E265 and E266.
    fn comments(&mut self, tokens: &[Token], line: &Logical) {
        if !line.has.comment {
            return;
        }
        let mut before = 0;
        for token in tokens {
            if token.kind != Kind::Comment {
                before = token.range.end;
                continue;
            }
            let at = token.range.start;
            let row = self.line(at);
            let start = self.line_starts[row];
            let inline = !self.source[start..at].trim().is_empty();
            self.report_if(inline && before > start && at < before + 2, "E261", before);
            let text = self.text(token);
            let (sign, comment) = text.split_once(' ').unwrap_or((text, ""));
            let bad = !matches!(sign, "#" | "#:");
            let wrong = sign.trim_start_matches('#').chars().next();
            if inline {
                self.report_if(bad || comment.starts_with([' ', '\t', '\u{a0}']), "E262", at);
            } else if bad && (wrong != Some('!') || row > 0) {
                match wrong {
                    Some(_) => self.report("E265", at),
                    None => self.report_if(!comment.is_empty(), "E266", at),
                }
            }
        }
    }
}
