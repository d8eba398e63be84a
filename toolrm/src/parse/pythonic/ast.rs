//! Python's expressions.

use crate::value::{Str, Val};

/// Unary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnOp {
    Not,
    Plus,
    Minus,
    Invert,
}

/// An expression. What can only fail as a value (comparisons, conditionals, lambdas, comprehensions, …) is checked for
/// its syntax and kept as [`Expr::Other`].
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Const(Val),
    Ellipsis,
    JoinedStr,
    Name(Str),
    Attr(Box<Expr>, Str),
    Call { func: Box<Expr>, args: Vec<Expr>, keywords: Vec<(Option<Str>, Expr)>, span: (u32, u32) },
    Subscript(Box<Expr>, Box<Expr>),
    Unary(UnOp, Box<Expr>),
    Bin(&'static str, Box<Expr>, Box<Expr>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Set,
    Dict(Vec<(Option<Expr>, Expr)>),
    Starred(Box<Expr>),
    Slice(Box<[Option<Expr>; 3]>),
    Other(&'static str),
}
