//! What a program defines, and what it may not use.

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Stmt, StmtFunctionDef};

/// Names that reach outside or around the interpreter.
const FORBIDDEN: &[&str] =
    &["exec", "eval", "compile", "__import__", "globals", "locals", "vars", "getattr", "setattr", "delattr"];

struct Nodes<F>(F);

impl<'a, F: FnMut(Node<'a>)> Visitor<'a> for Nodes<F> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        (self.0)(Node::Statement(statement));
        walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        (self.0)(Node::Expression(expression));
        walk_expr(self, expression);
    }
}

/// A statement or an expression.
#[derive(Clone, Copy)]
pub(crate) enum Node<'a> {
    Statement(&'a Stmt),
    Expression(&'a Expr),
}

/// Every statement and expression, outer ones first.
pub(crate) fn each<'a>(statements: &'a [Stmt], visit: impl FnMut(Node<'a>)) {
    Nodes(visit).visit_body(statements);
}

/// Functions with their places, nested ones included; the body of each is that of the definition.
pub(crate) fn functions(statements: &[Stmt]) -> Vec<&StmtFunctionDef> {
    let mut found = Vec::new();
    each(statements, |node| {
        if let Node::Statement(Stmt::FunctionDef(f)) = node {
            found.push(f);
        }
    });
    found
}

/// Whether a program names what could run text as a program, or attributes of the machinery.
pub(crate) fn forbidden(statements: &[Stmt]) -> bool {
    let mut found = false;
    each(statements, |node| match node {
        Node::Expression(Expr::Name(n)) => found |= FORBIDDEN.contains(&n.id.as_str()),
        Node::Expression(Expr::Attribute(a)) => found |= a.attr.starts_with("__"),
        _ => {}
    });
    found
}
