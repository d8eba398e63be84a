//! What a program defines, and what it may not use.

use rustpython_parser::ast::{self, Expr, Stmt};
use smallvec::{SmallVec, smallvec};

/// Parts of a node, of which most have few.
type Parts<T> = SmallVec<[T; 4]>;

/// Names that reach outside or around the interpreter.
const FORBIDDEN: &[&str] =
    &["exec", "eval", "compile", "__import__", "globals", "locals", "vars", "getattr", "setattr", "delattr"];

/// Functions with their places, nested ones included; the body of each is that of the definition.
pub(crate) fn functions(statements: &[Stmt]) -> Vec<&ast::StmtFunctionDef> {
    let mut found = Vec::new();
    each_statement(statements, &mut |s| {
        if let Stmt::FunctionDef(f) = s {
            found.push(f);
        }
    });
    found
}

/// The blocks of statements inside a statement.
pub(super) fn blocks(statement: &Stmt) -> Parts<&[Stmt]> {
    match statement {
        Stmt::FunctionDef(s) => smallvec![&*s.body],
        Stmt::AsyncFunctionDef(s) => smallvec![&*s.body],
        Stmt::ClassDef(s) => smallvec![&*s.body],
        Stmt::For(s) => smallvec![&*s.body, &*s.orelse],
        Stmt::AsyncFor(s) => smallvec![&*s.body, &*s.orelse],
        Stmt::While(s) => smallvec![&*s.body, &*s.orelse],
        Stmt::If(s) => smallvec![&*s.body, &*s.orelse],
        Stmt::With(s) => smallvec![&*s.body],
        Stmt::AsyncWith(s) => smallvec![&*s.body],
        Stmt::Match(s) => s.cases.iter().map(|c| c.body.as_slice()).collect(),
        Stmt::Try(s) => tried(&s.body, &s.handlers, &s.orelse, &s.finalbody),
        Stmt::TryStar(s) => tried(&s.body, &s.handlers, &s.orelse, &s.finalbody),
        _ => Parts::new(),
    }
}

fn tried<'a>(
    body: &'a [Stmt],
    handlers: &'a [ast::ExceptHandler],
    orelse: &'a [Stmt],
    last: &'a [Stmt],
) -> Parts<&'a [Stmt]> {
    let handled = handlers.iter().map(|ast::ExceptHandler::ExceptHandler(h)| h.body.as_slice());
    [body].into_iter().chain(handled).chain([orelse, last]).collect()
}

/// Every statement, outer ones first.
pub(super) fn each_statement<'a>(statements: &'a [Stmt], visit: &mut impl FnMut(&'a Stmt)) {
    for statement in statements {
        visit(statement);
        for block in blocks(statement) {
            each_statement(block, visit);
        }
    }
}

/// The expressions that stand in a statement, without those of statements inside it.
pub(super) fn expressions(statement: &Stmt) -> Parts<&Expr> {
    fn some(e: &Option<Box<Expr>>) -> Option<&Expr> {
        e.as_deref()
    }
    fn of_args(args: &ast::Arguments) -> impl Iterator<Item = &Expr> {
        let all = args.posonlyargs.iter().chain(&args.args).chain(&args.kwonlyargs);
        all.flat_map(|a| a.default.as_deref().into_iter().chain(a.def.annotation.as_deref()))
    }
    match statement {
        Stmt::FunctionDef(s) => {
            s.decorator_list.iter().chain(of_args(&s.args)).chain(some(&s.returns)).collect()
        }
        Stmt::AsyncFunctionDef(s) => {
            s.decorator_list.iter().chain(of_args(&s.args)).chain(some(&s.returns)).collect()
        }
        Stmt::ClassDef(s) => {
            s.decorator_list.iter().chain(&s.bases).chain(s.keywords.iter().map(|k| &k.value)).collect()
        }
        Stmt::Return(s) => some(&s.value).into_iter().collect(),
        Stmt::Delete(s) => s.targets.iter().collect(),
        Stmt::Assign(s) => s.targets.iter().chain([&*s.value]).collect(),
        Stmt::AugAssign(s) => smallvec![&*s.target, &*s.value],
        Stmt::AnnAssign(s) => [&*s.target, &s.annotation].into_iter().chain(some(&s.value)).collect(),
        Stmt::For(s) => smallvec![&*s.target, &*s.iter],
        Stmt::AsyncFor(s) => smallvec![&*s.target, &*s.iter],
        Stmt::While(s) => smallvec![&*s.test],
        Stmt::If(s) => smallvec![&*s.test],
        Stmt::With(s) => with_items(&s.items),
        Stmt::AsyncWith(s) => with_items(&s.items),
        Stmt::Match(s) => {
            [&*s.subject].into_iter().chain(s.cases.iter().filter_map(|c| c.guard.as_deref())).collect()
        }
        Stmt::Raise(s) => some(&s.exc).into_iter().chain(some(&s.cause)).collect(),
        Stmt::Try(s) => caught(&s.handlers),
        Stmt::TryStar(s) => caught(&s.handlers),
        Stmt::Assert(s) => [&*s.test].into_iter().chain(some(&s.msg)).collect(),
        Stmt::Expr(s) => smallvec![&*s.value],
        _ => Parts::new(),
    }
}

fn with_items(items: &[ast::WithItem]) -> Parts<&Expr> {
    items.iter().flat_map(|i| [&i.context_expr].into_iter().chain(i.optional_vars.as_deref())).collect()
}

fn caught(handlers: &[ast::ExceptHandler]) -> Parts<&Expr> {
    handlers.iter().filter_map(|ast::ExceptHandler::ExceptHandler(h)| h.type_.as_deref()).collect()
}

/// Every expression inside an expression, outer ones first.
pub(super) fn each_expression<'a>(expression: &'a Expr, visit: &mut impl FnMut(&'a Expr)) {
    visit(expression);
    let parts: Parts<&'a Expr> = match expression {
        Expr::BoolOp(e) => e.values.iter().collect(),
        Expr::NamedExpr(e) => smallvec![&*e.target, &*e.value],
        Expr::BinOp(e) => smallvec![&*e.left, &*e.right],
        Expr::UnaryOp(e) => smallvec![&*e.operand],
        Expr::Lambda(e) => {
            let defaults = e.args.args.iter().filter_map(|a| a.default.as_deref());
            defaults.chain([&*e.body]).collect()
        }
        Expr::IfExp(e) => smallvec![&*e.test, &*e.body, &*e.orelse],
        Expr::Dict(e) => e.keys.iter().flatten().chain(&e.values).collect(),
        Expr::Set(e) => e.elts.iter().collect(),
        Expr::ListComp(e) => generated(&e.generators, [&*e.elt]),
        Expr::SetComp(e) => generated(&e.generators, [&*e.elt]),
        Expr::GeneratorExp(e) => generated(&e.generators, [&*e.elt]),
        Expr::DictComp(e) => generated(&e.generators, [&*e.key, &*e.value]),
        Expr::Await(e) => smallvec![&*e.value],
        Expr::Yield(e) => e.value.as_deref().into_iter().collect(),
        Expr::YieldFrom(e) => smallvec![&*e.value],
        Expr::Compare(e) => [&*e.left].into_iter().chain(&e.comparators).collect(),
        Expr::Call(e) => {
            [&*e.func].into_iter().chain(&e.args).chain(e.keywords.iter().map(|k| &k.value)).collect()
        }
        Expr::FormattedValue(e) => [&*e.value].into_iter().chain(e.format_spec.as_deref()).collect(),
        Expr::JoinedStr(e) => e.values.iter().collect(),
        Expr::Attribute(e) => smallvec![&*e.value],
        Expr::Subscript(e) => smallvec![&*e.value, &*e.slice],
        Expr::Starred(e) => smallvec![&*e.value],
        Expr::List(e) => e.elts.iter().collect(),
        Expr::Tuple(e) => e.elts.iter().collect(),
        Expr::Slice(e) => [&e.lower, &e.upper, &e.step].into_iter().filter_map(|e| e.as_deref()).collect(),
        Expr::Constant(_) | Expr::Name(_) => Parts::new(),
    };
    parts.into_iter().for_each(|part| each_expression(part, visit));
}

fn generated<'a, const N: usize>(generators: &'a [ast::Comprehension], of: [&'a Expr; N]) -> Parts<&'a Expr> {
    let parts = generators.iter().flat_map(|g| [&g.target, &g.iter].into_iter().chain(&g.ifs));
    of.into_iter().chain(parts).collect()
}

/// Every expression of every statement.
pub(super) fn each<'a>(statements: &'a [Stmt], visit: &mut impl FnMut(&'a Expr)) {
    each_statement(statements, &mut |s| {
        expressions(s).into_iter().for_each(|e| each_expression(e, visit));
    });
}

/// The nodes of statements and expressions, each with the one or the other.
pub(crate) fn kinds<'a>(statements: &'a [Stmt], visit: &mut impl FnMut(Option<&'a Stmt>, Option<&'a Expr>)) {
    each_statement(statements, &mut |s| {
        visit(Some(s), None);
        expressions(s).into_iter().for_each(|e| each_expression(e, &mut |e| visit(None, Some(e))));
    });
}

/// Whether a program names what could run text as a program, or attributes of the machinery.
pub(crate) fn forbidden(statements: &[Stmt]) -> bool {
    let mut found = false;
    each(statements, &mut |e| match e {
        Expr::Name(n) => found |= FORBIDDEN.contains(&n.id.as_str()),
        Expr::Attribute(a) => found |= a.attr.starts_with("__"),
        _ => {}
    });
    found
}
