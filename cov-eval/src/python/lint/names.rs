//! Rules of pyflakes 3.3: what names stand for.
//!
//! As there, the bodies of functions are looked at after everything around them, and a binding that hides one of another branch of the
//! same `if`, `try` or `match` is no redefinition. Strings that are annotations are read; those in calls of `TypedDict`
//! and `NamedTuple` are not.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::FixedState;
use ruff_python_ast::visitor::{Visitor, walk_expr};
use ruff_python_ast::{Expr, Parameters, Stmt};
use ruff_text_size::Ranged;

use super::Lint;
use super::builtins::is_builtin;
use super::scopes::{Binding, Kind, Scope, ScopeKind};

impl<'a> Lint<'a> {
    pub(super) fn names(&mut self, statements: &'a [Stmt]) {
        let mut names = Names::new();
        names.visit_body(statements);
        while let Some(deferred) = names.deferred.pop_front() {
            names.resume(deferred);
        }
        names.scopes.iter().for_each(|scope| scope.unused(&mut names.found));
        let declared = names.declared;
        let known = |i: usize, name: &str| declared.get(name).is_some_and(|&before| i < before);
        let undefined = names.undefined.iter().enumerate().filter(|(i, (name, _))| !known(*i, name));
        for (code, at) in names.found.into_iter().chain(undefined.map(|(_, (_, at))| ("F821", *at))) {
            self.report(code, at);
        }
    }
}

/// A branch of an `if`, `try` or `match`, and the one around it.
pub(super) struct Fork {
    pub(super) outer: usize,
    pub(super) statement: usize,
    pub(super) branch: usize,
}

pub(super) enum Body<'a> {
    Statements(&'a [Stmt]),
    Expression(&'a Expr),
}

/// What is looked at when everything around it has been.
pub(super) enum Later<'a> {
    Function { parameters: Option<&'a Parameters>, body: Body<'a> },
    Annotation(&'a Expr),
    Text(&'a str, usize),
}

pub(super) struct Deferred<'a> {
    pub(super) what: Later<'a>,
    pub(super) stack: Vec<usize>,
    pub(super) forks: usize,
    pub(super) conditional: bool,
}

/// How a target binds its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Assigned,
    /// Each part has its own value: `a, b = 1, 2`.
    EachAssigned,
    Named,
    Annotated,
    Loop,
    Other,
}

pub(super) struct Names<'a> {
    pub(super) scopes: Vec<Scope<'a>>,
    pub(super) stack: Vec<usize>,
    pub(super) forks: Vec<Fork>,
    pub(super) fork: usize,
    pub(super) deferred: VecDeque<Deferred<'a>>,
    pub(super) found: Vec<(&'static str, usize)>,
    /// Names that nothing defines, with their places.
    pub(super) undefined: Vec<(String, usize)>,
    /// Of a name that is declared global, how many of these came before: what is declared is defined.
    pub(super) declared: HashMap<&'a str, usize, FixedState>,
    /// Whether a handler of `NameError` is around.
    pub(super) guarded: bool,
    /// Whether an `if` or `while` is around.
    pub(super) conditional: bool,
    pub(super) in_annotation: bool,
    pub(super) in_fstring: bool,
    /// Whether the statement that comes next stands in a `for` and nothing else.
    pub(super) in_loop: bool,
    /// `from __future__ import annotations`.
    pub(super) postponed: bool,
}

impl<'a> Names<'a> {
    pub(super) fn new() -> Self {
        Self {
            scopes: vec![Scope::new(ScopeKind::Module)],
            stack: vec![0],
            forks: vec![Fork { outer: 0, statement: 0, branch: 0 }],
            fork: 0,
            deferred: VecDeque::new(),
            found: Vec::new(),
            undefined: Vec::new(),
            declared: HashMap::default(),
            guarded: false,
            conditional: false,
            in_annotation: false,
            in_fstring: false,
            in_loop: false,
            postponed: false,
        }
    }

    pub(super) fn here(&mut self) -> &mut Scope<'a> {
        let last = self.stack.last().copied().unwrap_or(0);
        &mut self.scopes[last]
    }

    pub(super) fn within(&mut self, kind: ScopeKind, visit: impl FnOnce(&mut Self)) {
        self.stack.push(self.scopes.len());
        self.scopes.push(Scope::new(kind));
        visit(self);
        self.stack.pop();
    }

    pub(super) fn in_branch(&mut self, statement: usize, branch: usize, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.fork, self.forks.len());
        self.forks.push(Fork { outer, statement, branch });
        visit(self);
        self.fork = outer;
    }

    pub(super) fn conditionally(&mut self, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.conditional, true);
        visit(self);
        self.conditional = before;
    }

    pub(super) fn annotating(&mut self, in_annotation: bool, visit: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.in_annotation, in_annotation);
        visit(self);
        self.in_annotation = before;
    }

    pub(super) fn defer(&mut self, what: Later<'a>) {
        self.deferred.push_back(Deferred {
            what,
            stack: self.stack.clone(),
            forks: self.fork,
            conditional: self.conditional,
        });
    }

    pub(super) fn resume(&mut self, deferred: Deferred<'a>) {
        (self.stack, self.fork, self.conditional) = (deferred.stack, deferred.forks, deferred.conditional);
        (self.guarded, self.in_annotation, self.in_fstring) = (false, false, false);
        match deferred.what {
            Later::Function { parameters, body } => self.within(ScopeKind::Function, |me| {
                for parameter in parameters.into_iter().flatten() {
                    let at = parameter.range().start().into();
                    me.bind(parameter.name().as_str(), at, Kind::Other);
                }
                match body {
                    Body::Statements(statements) => me.visit_body(statements),
                    Body::Expression(expression) => me.visit_expr(expression),
                }
            }),
            Later::Annotation(annotation) => self.annotating(true, |me| me.visit_expr(annotation)),
            Later::Text(text, at) => {
                let Ok(parsed) = ruff_python_parser::parse_expression(text) else { return };
                let mut loads = Vec::new();
                Loads(&mut loads).visit_expr(parsed.expr());
                loads.iter().for_each(|name| self.load(name, at, true));
            }
        }
    }

    /// Whether two places are on different branches of one statement.
    pub(super) fn apart(&self, a: usize, b: usize) -> bool {
        let path = |mut fork: usize| {
            let mut path = Vec::new();
            while fork > 0 {
                path.push(fork);
                fork = self.forks[fork].outer;
            }
            path
        };
        if a == 0 || b == 0 {
            return false;
        }
        let (a, b) = (path(a), path(b));
        let ways = a.iter().rev().zip(b.iter().rev()).map(|(&a, &b)| (&self.forks[a], &self.forks[b]));
        ways.into_iter()
            .find(|(a, b)| a.statement != b.statement || a.branch != b.branch)
            .is_some_and(|(a, b)| a.statement == b.statement)
    }

    pub(super) fn bind(&mut self, name: &'a str, at: usize, kind: Kind<'a>) {
        self.add(name, Binding { kind, at, forks: self.fork, ..Binding::default() });
    }

    /// Binds a name by a statement, which may stand in a `for`.
    pub(super) fn define(&mut self, name: &'a str, at: usize, kind: Kind<'a>, in_loop: bool) {
        self.add(name, Binding { kind, at, forks: self.fork, in_loop, ..Binding::default() });
    }

    pub(super) fn add(&mut self, name: &'a str, mut binding: Binding<'a>) {
        let holder = self.stack.iter().rev().copied().find(|&s| self.scopes[s].names.contains_key(name));
        let here = self.stack.last().copied().unwrap_or(0);
        if let Some(holder) = holder {
            let existing = &self.scopes[holder].names[name];
            let hidden = existing.is_import() && binding.in_loop;
            if !hidden && !self.apart(self.fork, existing.forks) && binding.redefines(existing) {
                if holder == here {
                    let matters = name != "_" || existing.is_import();
                    if !existing.used && matters && !existing.overload {
                        self.found.push(("F811", binding.at));
                    }
                } else if existing.is_import()
                    && let Some(existing) = self.scopes[holder].names.get_mut(name)
                {
                    existing.redefined.push(binding.at);
                }
            }
        }
        if let Some(before) = self.scopes[here].names.get(name) {
            binding.used = before.used;
            if matches!(binding.kind, Kind::Annotation) {
                return;
            }
        }
        if matches!(binding.kind, Kind::Named) {
            // It binds in the scope around comprehensions.
            let outer = self.stack.iter().rev().find(|&&s| self.scopes[s].kind != ScopeKind::Inner);
            let names = &mut self.scopes[outer.copied().unwrap_or(0)].names;
            if names.get(name).is_none_or(|b| matches!(b.kind, Kind::Annotation)) {
                names.insert(name, binding);
            }
        } else {
            self.scopes[here].names.insert(name, binding);
        }
    }

    /// A use of a name.
    pub(super) fn load(&mut self, name: &str, at: usize, postponed: bool) {
        let (mut sees_class, mut starred) = (None, false);
        for i in (0..self.stack.len()).rev() {
            let scope = &mut self.scopes[self.stack[i]];
            if scope.kind == ScopeKind::Class {
                if name == "__class__" {
                    return;
                }
                if sees_class == Some(false) {
                    continue;
                }
            }
            if let Some(binding) = scope.names.get_mut(name) {
                binding.used = true;
                let only_declared = matches!(binding.kind, Kind::Annotation);
                if let Kind::Import { module, .. } = binding.kind
                    && let Some(same) = scope.names.get_mut(module)
                {
                    same.used = true;
                }
                if only_declared && !(postponed || self.postponed) {
                    continue;
                }
                return;
            }
            starred |= !scope.starred.is_empty();
            if sees_class != Some(false) {
                sees_class = Some(scope.kind == ScopeKind::Inner);
            }
        }
        if starred {
            self.stack.iter().for_each(|&s| self.scopes[s].star_used = true);
        }
        let in_class = self.here().kind == ScopeKind::Class;
        let magic = in_class && matches!(name, "__module__" | "__qualname__");
        if !(starred || magic || self.guarded || is_builtin(name)) {
            self.undefined.push((name.to_owned(), at));
        }
    }

    pub(super) fn store(&mut self, target: &'a Expr, how: Target) {
        match target {
            Expr::Name(name) => {
                let kind = match how {
                    Target::Assigned | Target::EachAssigned => Kind::Assignment,
                    Target::Named => Kind::Named,
                    Target::Annotated => Kind::Annotation,
                    Target::Loop | Target::Other => Kind::Other,
                };
                let in_loop = how == Target::Loop;
                let (at, forks) = (name.range.start().into(), self.fork);
                self.add(name.id.as_str(), Binding { kind, at, forks, in_loop, ..Binding::default() });
            }
            Expr::Tuple(_) | Expr::List(_) | Expr::Starred(_) => {
                let inside = match how {
                    Target::EachAssigned | Target::Loop => how,
                    _ => Target::Other,
                };
                match target {
                    Expr::Tuple(t) => t.elts.iter().for_each(|part| self.store(part, inside)),
                    Expr::List(l) => l.elts.iter().for_each(|part| self.store(part, inside)),
                    Expr::Starred(s) => self.store(&s.value, inside),
                    _ => {}
                }
            }
            other => self.visit_expr(other),
        }
    }

    pub(super) fn delete(&mut self, target: &'a Expr) {
        match target {
            Expr::Name(name) => {
                let known = self.here().names.contains_key(name.id.as_str());
                if self.conditional {
                    return;
                }
                if known {
                    self.here().names.remove(name.id.as_str());
                } else {
                    self.undefined.push((name.id.to_string(), name.range.start().into()));
                }
            }
            Expr::Tuple(t) => t.elts.iter().for_each(|part| self.delete(part)),
            Expr::List(l) => l.elts.iter().for_each(|part| self.delete(part)),
            other => self.visit_expr(other),
        }
    }

    /// Names that `global` or `nonlocal` declares: they are the module's, and used.
    pub(super) fn declare(&mut self, name: &'a str, at: usize) {
        if self.stack.len() < 2 {
            return;
        }
        self.declared.insert(name, self.undefined.len());
        let binding =
            Binding { kind: Kind::Assignment, at, forks: self.fork, used: true, ..Binding::default() };
        self.scopes[0].names.entry(name).or_insert_with(|| binding.clone());
        for &scope in &self.stack[1..] {
            self.scopes[scope].names.insert(name, binding.clone());
        }
    }
}

/// Names that an expression reads.
struct Loads<'b>(&'b mut Vec<String>);

impl Visitor<'_> for Loads<'_> {
    fn visit_expr(&mut self, expression: &Expr) {
        if let Expr::Name(n) = expression {
            self.0.push(n.id.to_string());
        }
        walk_expr(self, expression);
    }
}
