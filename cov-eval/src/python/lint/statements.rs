//! Rules of pycodestyle 2.13 on imports, compound statements, comparisons, names and strings.

use super::Lint;
use super::logical::{Logical, after_word, is_word, spaces, starts_compound, starts_function};
use crate::python::lexer::{Kind, Token};

/// What a module has before its imports.
#[derive(Default)]
pub(super) struct Module {
    docstring: bool,
    code: bool,
}

/// Whether a line sets a name such as `__all__`.
fn sets_dunder(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("__") else { return false };
    let name = &rest[..rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len())];
    let ends_name = |end: usize| end > 2 && name[..end].ends_with("__");
    if ends_name(name.len()) && rest[name.len()..].starts_with(" = ") {
        return true;
    }
    let annotated = |at: usize| {
        let kind = rest[at + 1..].trim_ascii_start();
        let end = kind.find(|c: char| !(c.is_ascii_alphanumeric() || "._[]\"".contains(c)));
        end.is_some_and(|end| end > 0 && kind[end..].starts_with(" = "))
    };
    name.match_indices(':').any(|(at, _)| ends_name(at) && annotated(at))
}

fn is_string(text: &str) -> bool {
    let unmarked = text.strip_prefix(['u', 'U', 'b', 'B']).unwrap_or(text);
    unmarked.strip_prefix(['r', 'R']).unwrap_or(unmarked).starts_with('"')
}

fn is_identifier(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty() && text.bytes().all(is_word)
}

impl Lint<'_> {
    pub(super) fn statement(&mut self, module: &mut Module, tokens: &[Token], line: &Logical) {
        if line.text.is_empty() {
            return;
        }
        self.imports(module, line);
        self.compound(line);
        if after_word(&line.text, "except").is_some_and(|rest| rest.trim_ascii_start().starts_with(':')) {
            self.report("E722", line.start());
        }
        let has = line.has;
        if has.equality {
            self.singletons(line);
        }
        if has.not {
            self.negations(line);
        }
        if has.types && has.equality {
            self.types(line);
        }
        if has.ambiguous {
            self.ambiguous(tokens, line);
        }
        if has.escape {
            tokens.iter().filter(|t| t.kind == Kind::Text).for_each(|t| self.escapes(t));
        }
    }

    /// E401 and E402.
    fn imports(&mut self, module: &mut Module, line: &Logical) {
        const ALLOWED: [&str; 7] = ["try", "except", "else", "finally", "with", "if", "elif"];
        let text = line.text.as_str();
        let import = text.starts_with("import ");
        if let (true, Some(comma)) = (import, text.find(',')) {
            self.report_if(!text[..comma].contains(';'), "E401", line.place(comma));
        }
        if line.indent > 0 {
            return;
        }
        if import || text.starts_with("from ") {
            self.report_if(module.code, "E402", line.start());
        } else if sets_dunder(text) || ALLOWED.iter().any(|word| text.starts_with(word)) {
        } else if is_string(text) && !module.docstring {
            module.docstring = true;
        } else {
            module.code = true;
        }
    }

    /// E701, E702, E703 and E731.
    fn compound(&mut self, line: &Logical) {
        let text = line.text.as_bytes();
        let lambda = if line.has.lambda { find_word(&line.text, "lambda") } else { None };
        let mut depths = [0i32; 3];
        let mut colons = true;
        for (at, &byte) in text.iter().enumerate() {
            let last = at + 1 == text.len();
            match byte {
                b'(' => depths[0] += 1,
                b')' => depths[0] -= 1,
                b'[' => depths[1] += 1,
                b']' => depths[1] -= 1,
                b'{' => depths[2] += 1,
                b'}' => depths[2] -= 1,
                b';' => self.report_in(line, if last { "E703" } else { "E702" }, at),
                b':' if colons && !last && text[at + 1] != b'=' && depths.iter().all(|&d| d <= 0) => {
                    if let Some(lambda) = lambda.filter(|&lambda| lambda < at) {
                        let target = line.text[..lambda].trim_ascii_end().strip_suffix('=');
                        let named = target.is_some_and(|name| is_identifier(name.trim_ascii()));
                        self.report_if(named, "E731", line.start());
                        colons = false;
                    } else if !starts_function(&line.text) && starts_compound(&line.text) {
                        self.report_in(line, "E701", at);
                    }
                }
                _ => {}
            }
        }
    }

    /// E711 and E712.
    fn singletons(&mut self, line: &Logical) {
        let text = line.text.as_str();
        // What is before `from` belongs to the comparison before.
        let mut from = 0;
        for at in (0..text.len()).filter(|&at| matches!(text.as_bytes()[at..], [b'=' | b'!', b'=', ..])) {
            if at < from {
                continue;
            }
            let left = text[from..at].trim_ascii_end();
            let right = text[at + 2..].trim_ascii_start();
            let before =
                SINGLETONS.into_iter().find(|name| ends_with_word(&text[..from + left.len()], name, from));
            let after = SINGLETONS.into_iter().find(|name| after_word(right, name).is_some());
            let follows = right.bytes().next().is_some_and(is_word);
            let start = text.len() - right.len();
            let (name, end) = match (before, after) {
                (Some(name), _) if follows => (name, start),
                (_, Some(name)) => (name, start + name.len()),
                _ => continue,
            };
            from = end;
            self.report_in(line, if name == "None" { "E711" } else { "E712" }, at);
        }
    }

    /// E713 and E714.
    fn negations(&mut self, line: &Logical) {
        let text = line.text.as_str();
        for (at, _) in text.match_indices("not") {
            let bytes = text.as_bytes();
            let whole = at == 0 || !is_word(bytes[at - 1]);
            let rest = &text[at + 3..];
            let after_is = text[..at].strip_suffix(|c: char| c.is_ascii_whitespace());
            if !whole || spaces(rest) == 0 || after_is.is_some_and(|before| before.ends_with("is")) {
                continue;
            }
            if let Some(code) = negated(rest.trim_ascii_start()) {
                return self.report_in(line, code, at);
            }
        }
    }

    /// E721.
    fn types(&mut self, line: &Logical) {
        let text = line.text.as_str();
        for (at, _) in text.match_indices(['=', '!', 't']) {
            let rest = &text[at..];
            let argument = if let Some(right) = rest.strip_prefix("==").or_else(|| rest.strip_prefix("!=")) {
                if spaces(right) == 0 {
                    continue;
                }
                type_argument(right.trim_ascii_start()).map(|(argument, _)| argument)
            } else {
                let before = text[..at].bytes().next_back();
                if before.is_some_and(|b| is_word(b) || b == b'.') {
                    continue;
                }
                let after = type_argument(rest).map(|(_, after)| after).filter(|after| spaces(after) > 0);
                let operator =
                    after.map(str::trim_ascii_start).filter(|a| a.starts_with("==") || a.starts_with("!="));
                operator.map(|_| "")
            };
            let Some(argument) = argument else { continue };
            let variable = is_identifier(argument) && !SINGLETONS.contains(&argument);
            return self.report_if(!variable, "E721", line.place(at));
        }
    }

    /// W605.
    fn escapes(&mut self, token: &Token) {
        let text = self.text(token);
        let prefix = &text[..text.find(['"', '\'']).unwrap_or(0)];
        if prefix.contains(['r', 'R']) {
            return;
        }
        let mut at = 0;
        while let Some(next) = text[at..].find('\\') {
            at += next + 1;
            let Some(escaped) = text[at..].chars().next() else { return };
            if !"\r\n\\'\"abfnrtv01234567xNuU".contains(escaped) {
                self.report("W605", token.range.start + at - 1);
            }
            at += escaped.len_utf8();
        }
    }

    /// E741. As pycodestyle does, takes each end of a block but one for a bracket, and does not look at a first token.
    fn ambiguous(&mut self, tokens: &[Token], line: &Logical) {
        let mut depth = i64::from(line.dedents.saturating_sub(1));
        // Where there are parameters: brackets around them, and whether they are over.
        let mut parameters: Option<(i64, bool)> = None;
        let skipped = usize::from(!line.indented && line.dedents == 0);
        let (mut before, mut start) =
            tokens[..skipped].last().map_or(("", 0), |t| (self.text(t), t.range.start));
        for (i, token) in tokens.iter().enumerate().skip(skipped) {
            let text = self.text(token);
            match &mut parameters {
                _ if matches!(before, "def" | "lambda") => parameters = Some((depth, false)),
                Some((outer, over)) if text == ":" && depth == *outer => *over = true,
                _ => {}
            }
            if i > 0 && self.is_row_break(tokens[i - 1].range.end, token.range.start) {
                before = "\n";
            }
            match text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            let assigned = is_ambiguous(before) && (text == ":=" || (text == "=" && depth == 0));
            let bound = is_ambiguous(text)
                && (matches!(before, "as" | "for" | "global" | "nonlocal")
                    || (matches!(before, "lambda" | "," | "*" | "**" | "(")
                        && parameters.is_some_and(|(_, over)| !over)
                        && tokens.get(i + 1).is_some_and(|next| self.ends_parameter(token, next))));
            if assigned || bound {
                self.report("E741", if bound { token.range.start } else { start });
            }
            (before, start) = (text, token.range.start);
        }
    }

    fn ends_parameter(&self, token: &Token, next: &Token) -> bool {
        matches!(self.text(next), ":" | "," | "=" | ")")
            && !self.is_row_break(token.range.end, next.range.start)
    }
}

fn is_ambiguous(name: &str) -> bool {
    matches!(name, "l" | "O" | "I")
}

/// Where a word is in a text.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let starts = text.match_indices(word).map(|(at, _)| at);
    let mut whole = starts.filter(|&at| at == 0 || !is_word(text.as_bytes()[at - 1]));
    whole.find(|&at| after_word(&text[at..], word).is_some())
}

const SINGLETONS: [&str; 3] = ["None", "False", "True"];

/// Whether a text ends with a word, no part of which is before `from`.
fn ends_with_word(text: &str, word: &str, from: usize) -> bool {
    let Some(before) = text.strip_suffix(word) else { return false };
    before.len() >= from && !before.bytes().next_back().is_some_and(is_word)
}

/// What is wrong with what follows `not`.
fn negated(text: &str) -> Option<&'static str> {
    let is_space = |c: char| c.is_ascii_whitespace();
    let end = text.find(|c: char| " ()[]{}".contains(c)).unwrap_or(text.len());
    let ends = text[..end].match_indices(is_space).map(|(at, _)| at).chain([end]);
    for at in ends.filter(|&at| at > 0) {
        let rest = text[at..].trim_ascii_start();
        if rest.len() == text.len() - at {
            continue;
        }
        for (word, code) in [("in", "E713"), ("is", "E714")] {
            if rest.strip_prefix(word).is_some_and(|rest| rest.starts_with(is_space)) {
                return Some(code);
            }
        }
    }
    None
}

/// What stands between `type(` and `)` at the start of a text, and what follows.
fn type_argument(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("type")?.trim_ascii_start().strip_prefix('(')?;
    let (argument, after) = rest.split_once(')')?;
    let argument = argument.trim_ascii();
    (!argument.is_empty()).then_some((argument, after))
}
