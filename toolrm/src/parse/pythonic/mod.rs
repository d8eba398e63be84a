//! Calls as Python writes them: `[f(a=1, b="x"), g.h(c=[1, 2])]`.

mod arith;
mod ast;
mod grammar;
mod lex;
mod names;
mod plain;
mod text;
mod unparse;

use std::borrow::Cow;

use super::{Format, Mode, ParseFail, Parsed};
use crate::msg::Call;
use crate::schema::ToolDef;
use crate::validate::Issue;
use crate::value::{Key, Map, Str, Val};

use ast::{Expr, UnOp};
pub(crate) use grammar::expression;
pub(crate) use names::identifier;
pub(crate) use text::{repr_float, repr_str};

fn fail(detail: impl Into<String>) -> ParseFail {
    ParseFail::new(0, "pythonic.not_calls", detail)
}

pub(super) fn parse(text: &str, mode: Mode, tools: &[ToolDef]) -> Result<Parsed, ParseFail> {
    // What each mode takes off before it looks for a list.
    let list = match mode {
        Mode::Strict => text,
        Mode::Lenient => text.trim(),
        Mode::Bfcl => text.trim_matches(AROUND),
    };
    let Some(mut calls) = plain::calls(list) else { return by_grammar(text, mode, tools) };
    let before = match mode {
        Mode::Lenient => text.len() - text.trim_start().len(),
        Mode::Strict | Mode::Bfcl => 0,
    };
    for call in &mut calls {
        call.span = call.span.take().filter(|_| mode != Mode::Bfcl).map(|s| s.start + before..s.end + before);
    }
    Ok(Parsed::new(Format::Pythonic, calls))
}

/// What the leaderboard takes off a text's ends.
const AROUND: [char; 3] = ['`', '\n', ' '];

fn by_grammar(text: &str, mode: Mode, tools: &[ToolDef]) -> Result<Parsed, ParseFail> {
    match mode {
        Mode::Strict => strict(text),
        Mode::Lenient => lenient(text, tools),
        Mode::Bfcl => bfcl(text),
    }
}

/// Whether a text begins as a call does: an optional `[`, a dotted name, `(`.
pub(super) fn looks_like_call(text: &str) -> bool {
    let rest = text.trim_start_matches(['`', '\n', ' ']);
    let rest = rest.strip_prefix('[').unwrap_or(rest).trim_start();
    let name =
        rest.find(|c: char| c != '.' && c != '_' && !unicode_ident::is_xid_continue(c)).unwrap_or(rest.len());
    rest[name..].starts_with('(') && rest[..name].split('.').all(identifier)
}

/// The dotted name of a called expression; what is before a call or subscript is lost, as in the reference.
fn call_name(func: &Expr) -> Str {
    let mut parts = Vec::new();
    let mut at = func;
    while let Expr::Attr(value, name) = at {
        parts.push(name.as_str());
        at = value;
    }
    if let Expr::Name(name) = at {
        parts.push(name);
    }
    parts.reverse();
    parts.join(".").into()
}

/// A value as a key of a dict.
fn key(v: Val) -> Result<Key, ParseFail> {
    fn hashable(v: &Val) -> bool {
        match v {
            Val::List(_) | Val::Dict(_) => false,
            Val::Tuple(items) => items.iter().all(hashable),
            _ => true,
        }
    }
    match v {
        Val::Str(s) => Ok(Key::Str(s)),
        Val::Null => Ok(Key::Null),
        v if hashable(&v) => Ok(Key::Other(Box::new(v))),
        _ => Err(fail("a list or dict as a key")),
    }
}

/// How the value of an expression is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// Literals alone, and `-` before a number.
    Literal,
    /// The reference's `resolve_ast_by_type`.
    Reference,
    /// The same, with JSON's `true`, `false` and `null` for these bare names.
    Lenient,
}

fn negate(v: &Val) -> Option<Val> {
    Some(match v {
        Val::Bool(b) => Val::Int(-i64::from(*b)),
        Val::Int(n) => Val::int(-num_bigint::BigInt::from(*n)),
        Val::BigInt(n) => Val::int(-n),
        Val::Float(f) => Val::Float(-f),
        Val::Opaque { ty: "complex", repr } => Val::Opaque { ty: "complex", repr: format!("-{repr}") },
        _ => return None,
    })
}

fn value(e: Expr, how: Values) -> Result<Val, ParseFail> {
    let all = |items: Vec<Expr>| items.into_iter().map(|e| value(e, how)).collect::<Result<Vec<_>, _>>();
    match e {
        Expr::Const(Val::Opaque { .. }) if how == Values::Literal => Err(fail("bytes or a complex number")),
        Expr::Const(v) => Ok(v),
        Expr::List(items) => all(items).map(Val::List),
        Expr::Tuple(items) => all(items).map(Val::Tuple),
        Expr::Dict(entries) => {
            let mut out = Map::default();
            for (k, v) in entries {
                let k = k.ok_or_else(|| fail("** inside a dict"))?;
                out.insert(key(value(k, how)?)?, value(v, how)?);
            }
            Ok(Val::Dict(out))
        }
        // The reference negates the operand of every unary operator.
        Expr::Unary(op, operand) => match &*operand {
            Expr::Const(Val::Bool(_) | Val::Opaque { .. }) if how == Values::Literal => {
                Err(fail("'-' of no number"))
            }
            Expr::Const(v) if how != Values::Literal || op == UnOp::Minus => {
                negate(v).ok_or_else(|| fail("an operator before no number"))
            }
            _ => Err(fail("an operator before no number")),
        },
        _ if how == Values::Literal => Err(fail("an expression that is no literal")),
        Expr::Ellipsis => Ok(Val::from("...")),
        Expr::Bin(..) => arith::evaluate(&e),
        Expr::Name(name) => Ok(match (how, name.as_str()) {
            (Values::Lenient, "true") => Val::Bool(true),
            (Values::Lenient, "false") => Val::Bool(false),
            (Values::Lenient, "null") => Val::Null,
            _ => Val::Str(name),
        }),
        Expr::Call { ref keywords, .. } if keywords.is_empty() => unparse::unparse(&e).map(Val::from),
        Expr::Call { .. } => resolve_call(e, how).map(|call| Val::dict([(call.name, Val::Dict(call.args))])),
        Expr::Subscript(v, slice) => {
            Ok(format!("{}[{}]", unparse::unparse(&v)?, unparse::unparse(&slice)?).into())
        }
        Expr::Attr(..) => Err(fail("an attribute as a value")),
        Expr::JoinedStr => Err(fail("a formatted string")),
        Expr::Set => Err(fail("a set")),
        Expr::Starred(_) => Err(fail("a starred expression as a value")),
        Expr::Slice(_) => Err(fail("a slice as a value")),
        Expr::Other(what) => Err(fail(format!("{what} as a value"))),
    }
}

/// The value of a text that is a Python literal (`ast.literal_eval`).
pub(super) fn parse_literal(text: &str) -> Result<Val, ParseFail> {
    value(expression(text)?, Values::Literal)
}

fn resolve_call(e: Expr, how: Values) -> Result<Call, ParseFail> {
    let Expr::Call { func, keywords, span, .. } = e else { return Err(fail("expected a call")) };
    let name = match *func {
        Expr::Name(name) => name,
        func => call_name(&func),
    };
    let mut args = Map::default();
    args.reserve(keywords.len());
    for (name, v) in keywords {
        args.insert(name.map_or(Key::Null, Key::Str), value(v, how)?);
    }
    Ok(Call { name, args, id: None, span: Some(span.0 as usize..span.1 as usize) })
}

fn resolve_calls(e: Expr, how: Values) -> Result<Vec<Call>, ParseFail> {
    match e {
        Expr::Call { .. } => Ok(vec![resolve_call(e, how)?]),
        Expr::List(items) | Expr::Tuple(items) => items.into_iter().map(|e| resolve_call(e, how)).collect(),
        _ => Err(fail("expected a list of calls")),
    }
}

fn bfcl(text: &str) -> Result<Parsed, ParseFail> {
    let trimmed = text.trim_matches(AROUND);
    let open = if trimmed.starts_with('[') { "" } else { "[" };
    let close = if trimmed.len() + open.len() > 0 && trimmed.ends_with(']') { "" } else { "]" };
    let wrapped = match (open, close) {
        ("", "") => Cow::Borrowed(trimmed),
        _ => Cow::Owned(format!("{open}{trimmed}{close}")),
    };
    let cleaned = crate::bfcl::strip(&wrapped).trim_matches('\'');
    let mut calls = resolve_calls(expression(cleaned)?, Values::Reference)?;
    for call in &mut calls {
        call.span = None;
    }
    Ok(Parsed::new(Format::Pythonic, calls))
}

fn strict(text: &str) -> Result<Parsed, ParseFail> {
    let Expr::List(items) = expression(text)? else { return Err(fail("expected a list of calls")) };
    let mut given = Vec::with_capacity(items.len());
    for item in &items {
        let Expr::Call { func, args, keywords, .. } = item else { return Err(fail("expected a call")) };
        if !args.is_empty() || keywords.iter().any(|(name, _)| name.is_none()) {
            return Err(fail("an argument without a name"));
        }
        if !dotted(func) {
            return Err(fail("a called expression that is no dotted name"));
        }
        given.push(keywords.len());
    }
    let calls = resolve_calls(Expr::List(items), Values::Literal)?;
    if calls.iter().zip(given).any(|(call, given)| call.args.len() != given) {
        return Err(fail("an argument given twice"));
    }
    Ok(Parsed::new(Format::Pythonic, calls))
}

fn dotted(func: &Expr) -> bool {
    match func {
        Expr::Name(_) => true,
        Expr::Attr(v, _) => dotted(v),
        _ => false,
    }
}

/// The balanced `[…]` lists of a text, outermost only. Quotes count inside lists alone: prose has apostrophes.
fn lists(text: &str) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut depth = 0usize;
    let mut start = 0;
    let mut quote = None;
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match (quote, b) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if depth > 0 => quote = Some(b),
            (None, b'[') => {
                if depth == 0 {
                    start = i;
                }
                depth += 1;
            }
            (None, b']') if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    out.push((start, i + 1));
                }
            }
            _ => {}
        }
    }
    out
}

fn lenient(text: &str, tools: &[ToolDef]) -> Result<Parsed, ParseFail> {
    let trimmed = text.trim();
    let base = text.len() - text.trim_start().len();
    let mut parsed = Parsed::new(Format::Pythonic, Vec::new());
    if trimmed.is_empty() {
        return Ok(parsed);
    }
    let mut shift = base;
    let whole = match expression(trimmed) {
        Ok(e @ (Expr::List(_) | Expr::Tuple(_) | Expr::Call { .. })) => Ok(e),
        Ok(_) => Err(fail("expected a list of calls")),
        Err(fail) => Err(fail.shifted(base)),
    };
    let e = match whole {
        Ok(e) => e,
        Err(first) => {
            let mut found = lists(trimmed).into_iter().filter_map(|(start, end)| {
                let e = expression(&trimmed[start..end]).ok()?;
                let calls = matches!(&e, Expr::List(items) if !items.is_empty() && items.iter().all(|i| matches!(i, Expr::Call { .. })));
                calls.then_some((e, start, end))
            });
            let (Some((e, start, end)), None) = (found.next(), found.next()) else { return Err(first) };
            let outside = format!("{} {}", &trimmed[..start], &trimmed[end..])
                .replace("```python", "")
                .replace("```", "");
            parsed.text = outside.trim().to_owned();
            parsed.issues.push(Issue::warning("pythonic.prose", "", "text around the list of calls"));
            shift = base + start;
            e
        }
    };
    let items = match e {
        Expr::List(items) | Expr::Tuple(items) => items,
        one => vec![one],
    };
    for mut item in items {
        let Expr::Call { args, .. } = &mut item else { return Err(fail("expected a call")) };
        let args = std::mem::take(args);
        let mut call = match resolve_call(item.clone(), Values::Literal) {
            Ok(call) => call,
            Err(_) => {
                let detail = "names and expressions are taken as the leaderboard takes them";
                parsed.issues.push(Issue::warning("pythonic.expression", "", detail));
                resolve_call(item, Values::Lenient)?
            }
        };
        positional(&mut call, args, tools, &mut parsed.issues)?;
        call.span = call.span.map(|s| s.start + shift..s.end + shift);
        parsed.calls.push(call);
    }
    Ok(parsed)
}

/// Arguments without names take the tool's parameters in order; without the tool they are dropped.
fn positional(
    call: &mut Call,
    args: Vec<Expr>,
    tools: &[ToolDef],
    issues: &mut Vec<Issue>,
) -> Result<(), ParseFail> {
    if args.is_empty() {
        return Ok(());
    }
    let tool = tools.iter().find(|t| t.name == call.name);
    let detail =
        if tool.is_some() { "bound to parameters in order" } else { "dropped: the tool is not known" };
    issues.push(Issue::warning(
        "pythonic.positional",
        call.name.as_str(),
        format!("{} arguments {detail}", args.len()),
    ));
    let Some(properties) = tool.and_then(|t| t.parameters.properties.as_ref()) else { return Ok(()) };
    let mut names = properties.keys();
    let mut bound = Map::default();
    for arg in args {
        let Some(name) = names.next() else { return Err(fail("more arguments than parameters")) };
        bound.insert(name.clone(), value(arg, Values::Lenient)?);
    }
    for (k, v) in std::mem::take(&mut call.args) {
        if bound.insert(k, v).is_some() {
            return Err(fail("an argument given by place and by name"));
        }
    }
    call.args = bound;
    Ok(())
}
