//! A small Python: parsing under limits, a lint, and an interpreter without access to anything.
//!
//! All of it is bounded by counts, never by a clock: sizes are checked before parsing, and the interpreter burns fuel.

mod bindings;
mod builtins;
mod collections;
mod expressions;
mod formatting;
#[cfg(test)]
mod fuzz;
mod generators;
mod interpreter;
mod iterators;
mod lexer;
mod lint;
mod methods;
mod modules;
mod names;
mod operators;
mod patterns;
mod statements;
mod strings;
#[cfg(test)]
mod tests;
mod text;
mod value;

pub(crate) use interpreter::{Outcome, Program};
pub(crate) use lexer::{Kind, Token, tokens};
pub(crate) use lint::{Finding, RULES, canonical, findings};
pub(crate) use names::{Node, each, forbidden, functions};

use ruff_python_ast as ast;

const MAX_LINES: usize = 20_000;
const MAX_LOGICAL_LINE: usize = 4_000;
const MAX_BRACKETS: usize = 64;
const MAX_INDENT: usize = 40;
const MAX_ELIF: usize = 500;

/// The stack that parsing and running may use.
const STACK: usize = 64 << 20;

/// Why a text is no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not parse.
    Syntax,
    /// It is too long or too deep to be looked at.
    Limits,
}

/// The tokens of a text that is small and flat enough.
fn within_limits(source: &str) -> Option<Vec<Token>> {
    if source.lines().count() > MAX_LINES || source.contains('\0') {
        return None;
    }
    let tokens = tokens(source);
    let mut indents = vec![0];
    let (mut depth, mut in_line, mut elifs) = (0usize, 0, 0);
    for token in &tokens {
        let text = &source[token.range.clone()];
        match token.kind {
            Kind::Newline => in_line = 0,
            Kind::Comment => {}
            kind => {
                if in_line == 0 {
                    let start = source[..token.range.start].rfind('\n').map_or(0, |at| at + 1);
                    let indent = token.range.start - start;
                    while indents.last().is_some_and(|&last| last > indent) {
                        indents.pop();
                    }
                    if indents.last() != Some(&indent) {
                        indents.push(indent);
                    }
                }
                in_line += 1;
                match text {
                    _ if kind != Kind::Operator => elifs += usize::from(text == "elif"),
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        if depth > MAX_BRACKETS
            || in_line > MAX_LOGICAL_LINE
            || indents.len() > MAX_INDENT
            || elifs > MAX_ELIF
        {
            return None;
        }
    }
    Some(tokens)
}

/// A program that parses.
pub(crate) struct Parsed {
    pub(crate) tokens: Vec<Token>,
    pub(crate) statements: ast::Suite,
}

/// The tokens and statements of a program.
pub(crate) fn read(source: &str) -> Result<Parsed, Refusal> {
    let tokens = within_limits(source).ok_or(Refusal::Limits)?;
    let parsed = ruff_python_parser::parse_module(source).map_err(|_| Refusal::Syntax)?;
    Ok(Parsed { tokens, statements: parsed.into_suite() })
}

/// The statements of a program.
pub(crate) fn parse(source: &str) -> Result<ast::Suite, Refusal> {
    read(source).map(|parsed| parsed.statements)
}

/// Runs `work` where there is stack for the deepest program that is accepted.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).ok()?;
        thread.join().ok()
    })
}
