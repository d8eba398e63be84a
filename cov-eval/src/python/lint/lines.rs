//! Rules of pycodestyle 2.13 on physical lines.

use std::ops::Range;

use super::Lint;
use crate::python::lexer::{Kind, Token};

const LONGEST: usize = 79;
/// Where the only word of a line has to start so that the line may be longer.
const LAST_START: usize = 72;

impl<'a> Lint<'a> {
    /// How many rows there are; a line break at the end of the source starts none.
    pub(super) fn rows(&self) -> usize {
        let last = self.line_starts.last() == Some(&self.source.len());
        self.line_starts.len() - usize::from(last)
    }

    fn row_range(&self, row: usize) -> Range<usize> {
        let end = self.line_starts.get(row + 1).map_or(self.source.len(), |next| next - 1);
        self.line_starts[row]..end
    }

    /// A row without its line break.
    pub(super) fn row(&self, row: usize) -> &'a str {
        self.source[self.row_range(row)].trim_end_matches('\r')
    }

    pub(super) fn physical_lines(&mut self, tokens: &[Token]) {
        let rows = self.rows();
        let mut next = 0;
        for row in 0..rows {
            let range = self.row_range(row);
            while tokens.get(next).is_some_and(|t| t.range.end <= range.end) {
                next += 1;
            }
            let inside = tokens.get(next).is_some_and(|t| t.kind == Kind::Text && t.range.start < range.end);
            let text = self.row(row);
            if !inside && text.ends_with('\\') && !self.is_looked_at(&tokens[..next], &range) {
                continue;
            }
            // A string at the end of a source without a line break there is looked at as one line.
            let ends = row + 1 == rows && !self.source.ends_with('\n');
            let text = match tokens[..next].last().filter(|last| ends && self.is_multiline(last)) {
                Some(last) => &self.source[self.line_starts[self.line(last.range.start)]..],
                None => text,
            };
            self.physical_line(text, row, inside);
            if row + 1 == rows && text.is_empty() {
                self.report("W391", range.start);
            }
        }
    }

    fn is_multiline(&self, token: &Token) -> bool {
        token.kind == Kind::Text && self.source[token.range.clone()].contains('\n')
    }

    /// Whether a row that goes on behind a backslash has a token that is followed by it.
    fn is_looked_at(&self, before: &[Token], row: &Range<usize>) -> bool {
        before.last().is_some_and(|t| t.range.end > row.start && !self.is_multiline(t))
    }

    fn physical_line(&mut self, text: &str, row: usize, inside: bool) {
        let at = self.line_starts[row];
        let indent = text.bytes().take_while(|b| matches!(b, b' ' | b'\t'));
        let tabs = indent.filter(|&b| b == b'\t').count();
        self.report_if(tabs > 0, "W191", at);
        let ended = text.trim_end_matches(['\n', '\r', '\x0c']);
        let trimmed = ended.trim_end_matches([' ', '\t', '\x0b']);
        if trimmed.len() < ended.len() {
            self.report(if trimmed.is_empty() { "W293" } else { "W291" }, at);
        }
        self.report_if(text.len() > LONGEST && is_too_long(text.trim_end(), row, inside), "E501", at);
    }
}

fn is_too_long(text: &str, row: usize, inside: bool) -> bool {
    let length = text.chars().count();
    if length <= LONGEST || (row == 0 && text.starts_with("#!")) {
        return false;
    }
    let mut words = text.split_whitespace();
    let alone = match (words.next(), words.next(), words.next()) {
        (Some(word), None, _) if inside => word,
        (Some("#"), Some(word), None) => word,
        _ => return true,
    };
    length - alone.chars().count() >= LAST_START
}
