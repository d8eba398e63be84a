//! Rules of bugbear 24.12, pep8-naming 0.15, simplify 0.21 and comprehensions 3.16.

use std::collections::HashSet;

use foldhash::fast::FixedState;
use ruff_python_ast::visitor::{Visitor, walk_except_handler, walk_expr, walk_stmt};
use ruff_python_ast::{
    self as ast, CmpOp, ExceptHandler, Expr, Parameters, Stmt, StmtFor, StmtFunctionDef, UnaryOp,
};
use ruff_text_size::Ranged;

use super::Lint;
use super::calls::Defaults;
use super::simplify::only;

impl<'a> Lint<'a> {
    pub(super) fn plugins(&mut self, statements: &'a [Stmt]) {
        let mut plugins = Plugins {
            source: self.source,
            found: Vec::new(),
            around: Around::Module,
            condition_of: None,
            method: false,
            in_list: HashSet::default(),
        };
        plugins.visit_body(statements);
        plugins.found.into_iter().for_each(|(code, at)| self.report(code, at));
    }
}

/// The innermost definition around a statement.
#[derive(Clone)]
pub(super) enum Around<'a> {
    Module,
    Class,
    /// With the names that it declares global.
    Function(Vec<&'a str>),
}

pub(super) struct Plugins<'a> {
    pub(super) source: &'a str,
    pub(super) found: Vec<(&'static str, usize)>,
    pub(super) around: Around<'a>,
    /// The body of the `if` whose condition or branch comes next.
    pub(super) condition_of: Option<&'a [Stmt]>,
    /// Whether functions that come next are methods.
    pub(super) method: bool,
    /// Calls of `map` that stand in a call of `list`, `set` or `dict`.
    pub(super) in_list: HashSet<usize, FixedState>,
}

/// Names that pep8-naming leaves alone.
const IGNORED: [&str; 12] = [
    "setUp",
    "tearDown",
    "setUpClass",
    "tearDownClass",
    "setUpModule",
    "tearDownModule",
    "asyncSetUp",
    "asyncTearDown",
    "setUpTestData",
    "failureException",
    "longMessage",
    "maxDiff",
];

pub(super) fn at(node: &impl Ranged) -> usize {
    node.range().start().into()
}

/// Whether a name is not in lower case.
fn is_upper(name: &str) -> bool {
    if name.is_ascii() { name.bytes().any(|b| b.is_ascii_uppercase()) } else { name.to_lowercase() != name }
}

fn is_wrong(name: &str) -> bool {
    is_upper(name) && !IGNORED.contains(&name)
}

pub(super) fn name_of(e: &Expr) -> Option<&str> {
    if let Expr::Name(n) = e { Some(n.id.as_str()) } else { None }
}

/// The names that a target binds.
fn targets<'a>(target: &'a Expr, bound: &mut Vec<&'a str>) {
    let parts = match target {
        Expr::Tuple(t) => &t.elts,
        Expr::List(l) => &l.elts,
        other => return bound.extend(name_of(other)),
    };
    for part in parts {
        targets(if let Expr::Starred(s) = part { &s.value } else { part }, bound);
    }
}

/// Every name in some statements or expressions, with its place.
struct NameFinder<'a>(Vec<(&'a str, usize)>);

impl<'a> Visitor<'a> for NameFinder<'a> {
    fn visit_expr(&mut self, e: &'a Expr) {
        self.0.extend(name_of(e).map(|name| (name, at(e))));
        walk_expr(self, e);
    }
}

/// Names that a function declares global, without those of definitions inside it.
struct Globals<'a>(Vec<&'a str>);

impl<'a> Visitor<'a> for Globals<'a> {
    fn visit_stmt(&mut self, s: &'a Stmt) {
        match s {
            Stmt::Global(g) => self.0.extend(g.names.iter().map(ruff_python_ast::Identifier::as_str)),
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {}
            _ => walk_stmt(self, s),
        }
    }

    fn visit_expr(&mut self, _: &'a Expr) {}
}

impl<'a> Plugins<'a> {
    pub(super) fn report(&mut self, code: &'static str, at: usize) {
        self.found.push((code, at));
    }

    pub(super) fn report_if(&mut self, wrong: bool, code: &'static str, at: usize) {
        self.found.extend(wrong.then_some((code, at)));
    }

    /// Names in a function that are not in lower case.
    fn variables(&mut self, target: &'a Expr) {
        let mut names = Vec::new();
        targets(target, &mut names);
        names.into_iter().for_each(|name| self.variable(name, at(target)));
    }

    fn variable(&mut self, name: &str, at: usize) {
        let Around::Function(globals) = &self.around else { return };
        let wrong = is_wrong(name) && !globals.contains(&name);
        self.report_if(wrong, "N806", at);
    }

    /// Targets of an assignment, but those of `namedtuple`.
    fn assigned(&mut self, targets: &'a [Expr], value: Option<&'a Expr>) {
        let tuple = value.is_some_and(|value| match value {
            Expr::Call(c) => match &*c.func {
                Expr::Attribute(a) => a.attr.as_str() == "namedtuple",
                f => name_of(f) == Some("namedtuple"),
            },
            _ => false,
        });
        if !tuple {
            targets.iter().for_each(|target| self.variables(target));
        }
    }

    fn parameters(&mut self, parameters: &'a Parameters) {
        for parameter in parameters {
            self.report_if(is_wrong(parameter.name()), "N803", at(&parameter));
        }
        for parameter in parameters.iter_non_variadic_params() {
            let mut defaults = Defaults { found: &mut self.found, depth: 0 };
            parameter.default.iter().for_each(|default| defaults.visit_expr(default));
        }
    }

    fn function(&mut self, f: &'a StmtFunctionDef) {
        let overrides = self.method
            && f.decorator_list.iter().any(|d| match &d.expression {
                Expr::Attribute(a) => a.attr.as_str() == "override" && name_of(&a.value) == Some("typing"),
                e => name_of(e) == Some("override"),
            });
        self.report_if(is_wrong(&f.name) && !overrides, "N802", at(&f.name));
        self.parameters(&f.parameters);
        let mut globals = Globals(Vec::new());
        globals.visit_body(&f.body);
        self.inside(Around::Function(globals.0), false, |me| {
            f.decorator_list.iter().for_each(|d| me.visit_decorator(d));
            me.visit_parameters(&f.parameters);
            f.returns.iter().for_each(|r| me.visit_annotation(r));
            me.visit_body(&f.body);
        });
    }

    fn inside(&mut self, around: Around<'a>, methods: bool, visit: impl FnOnce(&mut Self)) {
        let around = std::mem::replace(&mut self.around, around);
        let method = std::mem::replace(&mut self.method, methods);
        visit(self);
        (self.around, self.method) = (around, method);
    }

    /// Names that a loop sets and its body does not use.
    fn unused_in_loop(&mut self, f: &'a StmtFor) {
        let (mut set, mut used) = (NameFinder(Vec::new()), NameFinder(Vec::new()));
        set.visit_expr(&f.target);
        used.visit_body(&f.body);
        let used: HashSet<&str, FixedState> = used.0.into_iter().map(|n| n.0).collect();
        let mut seen: Vec<&str> = Vec::new();
        for (name, at) in set.0 {
            if !name.starts_with('_') && !used.contains(name) && !seen.contains(&name) {
                self.report("B007", at);
                seen.push(name);
            }
        }
    }
}

impl<'a> Visitor<'a> for Plugins<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        if let Stmt::If(s) = statement {
            return self.branches(s);
        }
        self.condition_of = None;
        match statement {
            Stmt::FunctionDef(f) => return self.function(f),
            Stmt::ClassDef(c) => {
                let name = c.name.trim_matches('_');
                let wrong = !name.starts_with(char::is_uppercase) || name.contains('_');
                self.report_if(wrong && !IGNORED.contains(&c.name.as_str()), "N801", at(&c.name));
                return self.inside(Around::Class, true, |me| walk_stmt(me, statement));
            }
            Stmt::Assign(a) => self.assigned(&a.targets, Some(&a.value)),
            Stmt::AnnAssign(a) => self.assigned(std::slice::from_ref(&*a.target), a.value.as_deref()),
            Stmt::With(w) => {
                w.items.iter().flat_map(|item| item.optional_vars.as_deref()).for_each(|t| self.variables(t));
            }
            Stmt::For(f) => {
                self.variables(&f.target);
                if !f.is_async {
                    self.unused_in_loop(f);
                }
            }
            _ => {}
        }
        walk_stmt(self, statement);
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(h) = handler;
        h.name.iter().for_each(|name| self.variable(name, at(h)));
        walk_except_handler(self, handler);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        let raises = self.condition_of.take().is_some_and(|body| matches!(only(body), Some(Stmt::Raise(_))));
        match expression {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not && !raises => match &*u.operand {
                Expr::Compare(c) if *c.ops == [CmpOp::Eq] => self.report("SIM201", at(u)),
                Expr::Compare(c) if *c.ops == [CmpOp::NotEq] => self.report("SIM202", at(u)),
                _ => {}
            },
            Expr::If(i) => {
                let is = |e: &Expr, wanted| matches!(e, Expr::BooleanLiteral(b) if b.value == wanted);
                self.report_if(is(&i.body, true) && is(&i.orelse, false), "SIM210", at(i));
            }
            Expr::Compare(c) => self.comparison(c),
            Expr::Call(c) => self.call(c),
            Expr::Named(n) => self.assigned(std::slice::from_ref(&*n.target), Some(&n.value)),
            Expr::ListComp(ast::ExprListComp { elt, generators, .. })
            | Expr::SetComp(ast::ExprSetComp { elt, generators, .. }) => {
                self.copies(generators, elt, None, at(expression));
                generators.iter().for_each(|g| self.variables(&g.target));
            }
            Expr::Generator(g) => g.generators.iter().for_each(|g| self.variables(&g.target)),
            Expr::DictComp(d) => {
                if let Some(key) = &d.key {
                    self.copies(&d.generators, key, Some(&d.value), at(expression));
                }
                d.generators.iter().for_each(|g| self.variables(&g.target));
            }
            _ => {}
        }
        walk_expr(self, expression);
    }
}
