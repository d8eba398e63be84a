//! An expression's normalised source text (`ast.unparse`).

use std::fmt::Write as _;

use super::super::ParseFail;
use super::ast::{Expr, UnOp};
use super::text::{repr_float, repr_str};
use crate::value::Val;

/// Binding strengths, weakest first, as `ast._Precedence` orders them.
const TEST: u8 = 0;
const NOT: u8 = 3;
const EXPR: u8 = 5;
const FACTOR: u8 = 11;
const POWER: u8 = 12;
const ATOM: u8 = 14;

fn strength(op: &str) -> u8 {
    match op {
        "|" => EXPR,
        "^" => 6,
        "&" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "**" => POWER,
        _ => 10,
    }
}

/// The text, or a failure for what has no text here (f-strings, lambdas, comprehensions and the like).
pub(super) fn unparse(e: &Expr) -> Result<String, ParseFail> {
    let mut out = String::new();
    write(e, TEST, &mut out)?;
    Ok(out)
}

fn list(items: &[Expr], out: &mut String) -> Result<(), ParseFail> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write(item, TEST, out)?;
    }
    Ok(())
}

fn enclosed(
    open: bool,
    out: &mut String,
    body: impl FnOnce(&mut String) -> Result<(), ParseFail>,
) -> Result<(), ParseFail> {
    if open {
        out.push('(');
    }
    body(out)?;
    if open {
        out.push(')');
    }
    Ok(())
}

fn write(e: &Expr, around: u8, out: &mut String) -> Result<(), ParseFail> {
    match e {
        Expr::Const(Val::Str(s)) => repr_str(s, out),
        Expr::Const(Val::Float(f)) => repr_float(*f, out),
        Expr::Const(Val::Bool(b)) => out.push_str(if *b { "True" } else { "False" }),
        Expr::Const(Val::Int(n)) => _ = write!(out, "{n}"),
        Expr::Const(Val::BigInt(n)) => _ = write!(out, "{n}"),
        Expr::Const(Val::Opaque { repr, .. }) => out.push_str(repr),
        Expr::Const(_) => out.push_str("None"),
        Expr::Ellipsis => out.push_str("..."),
        Expr::Name(name) => out.push_str(name),
        Expr::Attr(value, name) => {
            write(value, ATOM, out)?;
            if matches!(**value, Expr::Const(Val::Int(_) | Val::BigInt(_))) {
                out.push(' ');
            }
            out.push('.');
            out.push_str(name);
        }
        Expr::Call { func, args, keywords, .. } => {
            write(func, ATOM, out)?;
            out.push('(');
            list(args, out)?;
            for (i, (name, value)) in keywords.iter().enumerate() {
                if i > 0 || !args.is_empty() {
                    out.push_str(", ");
                }
                match name {
                    Some(name) => _ = write!(out, "{name}="),
                    None => out.push_str("**"),
                }
                write(value, if name.is_none() { EXPR } else { TEST }, out)?;
            }
            out.push(')');
        }
        Expr::Subscript(value, slice) => {
            write(value, ATOM, out)?;
            out.push('[');
            match &**slice {
                Expr::Tuple(items) if !items.is_empty() => {
                    list(items, out)?;
                    if items.len() == 1 {
                        out.push(',');
                    }
                }
                other => write(other, TEST, out)?,
            }
            out.push(']');
        }
        Expr::Unary(op, value) => {
            let (text, own) = match op {
                UnOp::Not => ("not ", NOT),
                UnOp::Plus => ("+", FACTOR),
                UnOp::Minus => ("-", FACTOR),
                UnOp::Invert => ("~", FACTOR),
            };
            enclosed(around > own, out, |out| {
                out.push_str(text);
                write(value, own, out)
            })?;
        }
        Expr::Bin(op, left, right) => {
            let own = strength(op);
            let (l, r) = if *op == "**" { (own + 1, own) } else { (own, own + 1) };
            enclosed(around > own, out, |out| {
                write(left, l, out)?;
                _ = write!(out, " {op} ");
                write(right, r, out)
            })?;
        }
        Expr::List(items) => {
            out.push('[');
            list(items, out)?;
            out.push(']');
        }
        Expr::Tuple(items) => {
            out.push('(');
            list(items, out)?;
            out.push_str(if items.len() == 1 { ",)" } else { ")" });
        }
        Expr::Dict(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                match key {
                    None => {
                        out.push_str("**");
                        write(value, EXPR, out)?;
                    }
                    Some(key) => {
                        write(key, TEST, out)?;
                        out.push_str(": ");
                        write(value, TEST, out)?;
                    }
                }
            }
            out.push('}');
        }
        Expr::Starred(value) => {
            out.push('*');
            write(value, EXPR, out)?;
        }
        Expr::Slice(parts) => {
            for (i, part) in parts.iter().enumerate() {
                if i == 1 || (i == 2 && part.is_some()) {
                    out.push(':');
                }
                if let Some(part) = part {
                    write(part, TEST, out)?;
                }
            }
        }
        Expr::JoinedStr => {
            return Err(ParseFail::new(0, "pythonic.unsupported", "a formatted string as text"));
        }
        Expr::Set => return Err(ParseFail::new(0, "pythonic.unsupported", "a set as text")),
        Expr::Other(what) => {
            return Err(ParseFail::new(0, "pythonic.unsupported", format!("{what} as text")));
        }
    }
    Ok(())
}
