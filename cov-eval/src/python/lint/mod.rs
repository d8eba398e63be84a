//! A lint with the semantics of pycodestyle, pyflakes, pep8-naming and some plug-ins of flake8, for the rules in
//! [`RULES`]. Comments such as `# noqa` are not heeded.
//!
//! On the small programs of `tests/golden/lint.txt` flake8 finds the same (`tests/oracles/lint_cases.py`), and so it does on generated
//! files (`tests/oracles/flake8.sh`). Deviations: a character outside of ASCII belongs to a word, whatever it is; a carriage return
//! ends no line; where a line has nothing but a backslash, flake8 counts blank lines around it in another way; and what [`names`]
//! and [`simplify`] say of themselves.

mod builtins;
mod calls;
mod layout;
mod lines;
mod logical;
mod names;
mod plugins;
mod scopes;
mod simplify;
mod spacing;
mod statements;
mod style;
#[cfg(test)]
mod tests;
mod visit;

use std::collections::BTreeMap;

use ruff_python_ast::Stmt;

pub(in crate::python) use builtins::is_builtin;

use super::Parsed;

/// What is reported, and how it is explained.
pub(crate) const RULES: &[(&str, &str)] = &[
    ("B006", "no mutable default of a parameter"),
    ("B007", "no name set by a for that its body does not use, unless it starts with _"),
    ("B008", "no function call as the default of a parameter"),
    ("C400", "[... for ...] instead of list(... for ...)"),
    ("C401", "{... for ...} instead of set(... for ...)"),
    ("C402", "{k: v for ...} instead of dict((k, v) for ...)"),
    ("C403", "{... for ...} instead of set([... for ...])"),
    ("C404", "{k: v for ...} instead of dict([(k, v) for ...])"),
    ("C405", "{1, 2} instead of set([1, 2])"),
    ("C408", "[], () and {} instead of list(), tuple() and dict() without arguments"),
    ("C411", "[... for ...] instead of list([... for ...])"),
    ("C416", "list(x) instead of [y for y in x], and so for sets and dictionaries"),
    ("C417", "a comprehension instead of map with a lambda"),
    ("C419", "any(... for ...) and all(... for ...) without a list"),
    ("E111", "indentation by multiples of four"),
    ("E117", "no indentation by more than four"),
    ("E201", "no space after an opening bracket"),
    ("E202", "no space before a closing bracket"),
    ("E203", "no space before a comma, semicolon or colon"),
    ("E211", "no space before the bracket of a call or index"),
    ("E221", "one space at most before an operator"),
    ("E222", "one space at most after an operator"),
    ("E225", "spaces around assignments and comparisons, and on both sides of other operators or on neither"),
    ("E231", "a space after a comma or semicolon, and after a colon outside of an index"),
    ("E251", "no spaces around = of a keyword or default"),
    ("E261", "two spaces before a comment at the end of a line"),
    ("E262", "# and a space at the start of such a comment"),
    ("E265", "# and a space at the start of a comment on its own line"),
    ("E266", "one # only at the start of a comment on its own line"),
    ("E271", "one space after a keyword"),
    ("E272", "one space before a keyword"),
    ("E301", "one blank line before a method"),
    ("E302", "two blank lines before a function or class"),
    ("E303", "no more than two blank lines, one where there is indentation"),
    ("E305", "two blank lines after a function or class"),
    ("E306", "one blank line before a function in a function"),
    ("E401", "one import on a line"),
    ("E402", "imports before all other code"),
    ("E501", "no more than 79 characters on a line"),
    ("E701", "no statement on the line of if, for and the like"),
    ("E702", "one statement on a line"),
    ("E703", "no semicolon at the end of a statement"),
    ("E711", "is None instead of == None"),
    ("E712", "the condition itself instead of a comparison with True or False"),
    ("E713", "x not in y instead of not x in y"),
    ("E714", "x is not y instead of not x is y"),
    ("E721", "isinstance or is instead of == for types"),
    ("E722", "except with the kind of the exception"),
    ("E731", "def instead of a lambda that is given a name"),
    ("E741", "no variables named l, O or I"),
    ("F401", "no unused imports"),
    ("F541", "no f before a string without {}"),
    ("F811", "nothing defined again before it is used"),
    ("F821", "no names that are not defined"),
    ("F841", "no local variables that are not used"),
    ("N801", "names of classes in CapWords"),
    ("N802", "names of functions in lower case"),
    ("N803", "names of parameters in lower case"),
    ("N806", "names of variables in functions in lower case"),
    ("SIM102", "one if with and instead of an if that holds only an if"),
    ("SIM103", "return the condition instead of True and False in if and else"),
    ("SIM108", "x = a if c else b instead of if and else, where that is short"),
    ("SIM118", "key in mapping instead of key in mapping.keys()"),
    ("SIM201", "a != b instead of not a == b"),
    ("SIM202", "a == b instead of not a != b"),
    ("SIM210", "bool(c) instead of True if c else False"),
    ("SIM300", "x == 1 instead of 1 == x"),
    ("W191", "no tabs in indentation"),
    ("W291", "no spaces at the end of a line"),
    ("W293", "no spaces on a blank line"),
    ("W391", "no blank line at the end"),
    ("W605", "no backslash before what it does not change"),
];

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) code: &'static str,
    /// The canonical name of the function around it, empty for the module.
    pub(crate) function: String,
    pub(crate) line: usize,
}

/// A name without case and underscores, which stays the same where a rule of naming changes it.
pub(crate) fn canonical(name: &str) -> String {
    name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

struct Lint<'a> {
    source: &'a str,
    line_starts: Vec<usize>,
    found: Vec<(&'static str, usize)>,
}

impl Lint<'_> {
    fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at).saturating_sub(1)
    }

    fn report_if(&mut self, wrong: bool, code: &'static str, at: usize) {
        if wrong {
            self.report(code, at);
        }
    }

    fn report(&mut self, code: &'static str, at: usize) {
        let line = self.line(at);
        self.found.push((code, line));
    }
}

/// The violations of a program that parses.
pub(crate) fn findings(source: &str, Parsed { tokens, statements }: &Parsed) -> Vec<Finding> {
    let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut lint = Lint { source, line_starts: starts, found: Vec::new() };
    lint.style(tokens);
    lint.names(statements);
    lint.plugins(statements);
    let mut owner: BTreeMap<usize, (usize, String)> = BTreeMap::new();
    for statement in statements {
        if let Stmt::FunctionDef(f) = statement {
            let (first, last) =
                (lint.line(f.range.start().into()), lint.line(usize::from(f.range.end()).max(1) - 1));
            owner.insert(first, (last, canonical(f.name.as_str())));
        }
    }
    let function = |line: usize| {
        let inside = owner.range(..=line).next_back().filter(|(_, (last, _))| *last >= line);
        inside.map(|(_, (_, name))| name.clone()).unwrap_or_default()
    };
    let named =
        lint.found.iter().map(|&(code, line)| Finding { code, function: function(line), line: line + 1 });
    let mut all: Vec<Finding> = named.collect();
    all.sort();
    all
}
