//! Rules of simplify 0.21.
//!
//! SIM108 takes the length of what it would write from numbers, operators and the text as it stands.

use ruff_python_ast::visitor::Visitor;
use ruff_python_ast::{self as ast, CmpOp, Expr, ExprCompare, Stmt, StmtIf};
use ruff_text_size::Ranged;

use super::plugins::{Plugins, at, name_of};
use crate::python::text::float;

/// The one statement of a body.
pub(super) fn only(body: &[Stmt]) -> Option<&Stmt> {
    if let [one] = body { Some(one) } else { None }
}

pub(super) fn returns_bool(body: &[Stmt]) -> bool {
    matches!(only(body), Some(Stmt::Return(r)) if r.value.as_ref().is_some_and(|v| v.is_boolean_literal_expr()))
}

/// Name and value of an assignment to one name, if a body is nothing else.
pub(super) fn assigns(body: &[Stmt]) -> Option<(&str, &Expr)> {
    match only(body)? {
        Stmt::Assign(a) if a.targets.len() == 1 => Some((name_of(&a.targets[0])?, &a.value)),
        _ => None,
    }
}

pub(super) fn is_main_check(test: &Expr) -> bool {
    let Expr::Compare(c) = test else { return false };
    name_of(&c.left) == Some("__name__")
        && matches!(&*c.comparators, [Expr::StringLiteral(s)] if s.value.to_str() == "__main__")
}

/// Characters of an expression as astor writes it, without brackets around it.
fn width(source: &str, e: &Expr) -> usize {
    let between = |all: &[Expr], word: usize| {
        let parts: usize = all.iter().map(|e| width(source, e) + word + 2).sum();
        parts.saturating_sub(word + 2)
    };
    match e {
        Expr::NumberLiteral(n) => match &n.value {
            ast::Number::Int(i) => i.to_string().len(),
            ast::Number::Float(f) => float(*f).len(),
            ast::Number::Complex { imag, .. } => float(*imag).len() + 1,
        },
        Expr::FString(_) => source[e.range()].chars().count() + 4,
        Expr::BinOp(b) => width(source, &b.left) + b.op.as_str().len() + 2 + width(source, &b.right),
        Expr::BoolOp(b) => between(&b.values, b.op.as_str().len()),
        Expr::Compare(c) => {
            let parts = c.ops.iter().zip(&c.comparators);
            let parts: usize = parts.map(|(op, e)| op.as_str().len() + 2 + width(source, e)).sum();
            width(source, &c.left) + parts
        }
        _ => {
            let words = source[e.range()].split_whitespace().map(|word| word.chars().count() + 1);
            words.sum::<usize>().saturating_sub(1)
        }
    }
}

impl<'a> Plugins<'a> {
    pub(super) fn branches(&mut self, s: &'a StmtIf) {
        let mut outer = self.condition_of.take();
        let clauses = s.elif_else_clauses.iter().map(|c| (at(c), c.test.as_ref(), &*c.body));
        let all: Vec<(usize, Option<&'a Expr>, &'a [Stmt])> =
            std::iter::once((at(s), Some(&*s.test), &*s.body)).chain(clauses).collect();
        for (i, &(place, test, body)) in all.iter().enumerate() {
            let Some(test) = test else {
                self.branch(body, outer);
                continue;
            };
            self.clause(place, test, body, all.get(i + 1).copied(), outer);
            self.condition_of = Some(body);
            self.visit_expr(test);
            self.branch(body, Some(body));
            outer = Some(body);
        }
        self.condition_of = None;
    }

    /// The statements of a branch, each in the `if` with such a body.
    fn branch(&mut self, statements: &'a [Stmt], body: Option<&'a [Stmt]>) {
        for statement in statements {
            self.condition_of = body;
            self.visit_stmt(statement);
        }
        self.condition_of = None;
    }

    /// An `if` or `elif` with what follows it, in a branch of another one with the body `outer`.
    fn clause(
        &mut self,
        place: usize,
        test: &'a Expr,
        body: &'a [Stmt],
        next: Option<(usize, Option<&'a Expr>, &'a [Stmt])>,
        outer: Option<&'a [Stmt]>,
    ) {
        let Some((_, following, orelse)) = next else {
            let nested = matches!(only(body), Some(Stmt::If(inner)) if inner.elif_else_clauses.is_empty());
            return self.report_if(nested && !is_main_check(test), "SIM102", place);
        };
        if following.is_some() {
            return;
        }
        self.report_if(returns_bool(body) && returns_bool(orelse), "SIM103", place);
        let (Some((name, value)), Some((other, otherwise))) = (assigns(body), assigns(orelse)) else {
            return;
        };
        let sets =
            |s: &Stmt| matches!(s, Stmt::Assign(a) if a.targets.first().and_then(name_of) == Some(name));
        if name == other && !outer.is_some_and(|body| body.iter().any(sets)) {
            let parts: usize = [test, value, otherwise].iter().map(|e| width(self.source, e)).sum();
            let written = "SIM108 Use ternary operator ' =  if  else ' instead of if-else-block".len();
            self.report_if(written + name.chars().count() + parts <= 79, "SIM108", place);
        }
    }

    pub(super) fn comparison(&mut self, c: &'a ExprCompare) {
        let ([op], [right]) = (&*c.ops, &*c.comparators) else { return };
        let keys = matches!(right, Expr::Call(call)
            if matches!(&*call.func, Expr::Attribute(a) if a.attr.as_str() == "keys"));
        self.report_if(*op == CmpOp::In && keys, "SIM118", at(c));
        self.report_if(*op == CmpOp::Eq && c.left.is_literal_expr(), "SIM300", at(c));
    }
}
