//! The little arithmetic that is done where the leaderboard's decoder would evaluate any code.

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_traits::{ToPrimitive, Zero};

use super::super::ParseFail;
use super::ast::{Expr, UnOp};
use crate::value::Val;

/// The most bytes of a result.
const MAX_RESULT: usize = 1 << 20;
/// The largest exponent.
const MAX_EXPONENT: u32 = 4096;

fn unsafe_expr(what: &str) -> ParseFail {
    ParseFail::new(0, "pythonic.unsafe_expr", what)
}

/// The value of `+ - * / // % **` on numbers, and of `+` on strings and lists.
pub(super) fn evaluate(e: &Expr) -> Result<Val, ParseFail> {
    match e {
        Expr::Const(v) => Ok(v.clone()),
        Expr::List(items) => items.iter().map(evaluate).collect::<Result<_, _>>().map(Val::List),
        Expr::Unary(UnOp::Minus, v) => match evaluate(v)? {
            Val::Float(f) => Ok(Val::Float(-f)),
            v => integer(&v).map(|n| Val::int(-n)).ok_or_else(|| unsafe_expr("'-' of no number")),
        },
        Expr::Unary(UnOp::Plus, v) => match evaluate(v)? {
            Val::Float(f) => Ok(Val::Float(f)),
            v => integer(&v).map(Val::int).ok_or_else(|| unsafe_expr("'+' of no number")),
        },
        Expr::Bin(op, a, b) => binary(op, evaluate(a)?, evaluate(b)?),
        _ => Err(unsafe_expr("an operand that is no literal")),
    }
}

fn integer(v: &Val) -> Option<BigInt> {
    match v {
        Val::Bool(b) => Some(BigInt::from(u8::from(*b))),
        Val::Int(n) => Some(BigInt::from(*n)),
        Val::BigInt(n) => Some(n.clone()),
        _ => None,
    }
}

fn binary(op: &str, a: Val, b: Val) -> Result<Val, ParseFail> {
    match (op, a, b) {
        ("+", Val::Str(a), Val::Str(b)) if a.len() + b.len() <= MAX_RESULT => Ok(Val::Str(a + &b)),
        ("+", Val::List(mut a), Val::List(b)) if a.len() + b.len() <= MAX_RESULT / size_of::<Val>() => {
            a.extend(b);
            Ok(Val::List(a))
        }
        (op, a, b) => match (integer(&a), integer(&b)) {
            (Some(a), Some(b)) => integers(op, a, b),
            _ => {
                let finite = |v: &Val| match v {
                    Val::Float(f) => Some(*f),
                    v => v.to_f64().filter(|f| f.is_finite()),
                };
                match (finite(&a), finite(&b)) {
                    (Some(a), Some(b)) => floats(op, a, b).map(Val::Float),
                    _ => Err(unsafe_expr("operands of other types than numbers")),
                }
            }
        },
    }
}

fn integers(op: &str, a: BigInt, b: BigInt) -> Result<Val, ParseFail> {
    let size = |bits: u64| {
        if bits / 8 > MAX_RESULT as u64 { Err(unsafe_expr("a result over 1 MiB")) } else { Ok(()) }
    };
    if matches!(op, "/" | "//" | "%") && b.is_zero() {
        return Err(unsafe_expr("division by zero"));
    }
    Ok(Val::int(match op {
        "+" => a + b,
        "-" => a - b,
        "*" => {
            size(a.bits() + b.bits())?;
            a * b
        }
        "//" => a.div_floor(&b),
        "%" => a.mod_floor(&b),
        "/" => {
            // Exact operands divide with one rounding; larger ones would need more care than any call deserves.
            let exact = |n: &BigInt| n.to_f64().filter(|_| n.bits() <= 53);
            return match (exact(&a), exact(&b)) {
                (Some(a), Some(b)) => Ok(Val::Float(a / b)),
                _ => Err(unsafe_expr("division of integers beyond 2^53")),
            };
        }
        "**" => {
            if b.sign() == Sign::Minus {
                let exact = |n: &BigInt| n.to_f64().filter(|f| f.is_finite());
                return match (exact(&a), exact(&b)) {
                    (Some(a), Some(b)) => floats("**", a, b).map(Val::Float),
                    _ => Err(unsafe_expr("a power beyond the range of floats")),
                };
            }
            let exponent = b
                .to_u32()
                .filter(|e| *e <= MAX_EXPONENT)
                .ok_or_else(|| unsafe_expr("an exponent over 4096"))?;
            size(a.bits() * u64::from(exponent))?;
            a.pow(exponent)
        }
        _ => return Err(unsafe_expr("an operator that is not supported")),
    }))
}

fn floats(op: &str, a: f64, b: f64) -> Result<f64, ParseFail> {
    if matches!(op, "/" | "//" | "%") && b == 0.0 {
        return Err(unsafe_expr("division by zero"));
    }
    // Python's remainder has the divisor's sign.
    let modulo = || {
        let m = a % b;
        if m == 0.0 {
            0.0f64.copysign(b)
        } else if (m < 0.0) != (b < 0.0) {
            m + b
        } else {
            m
        }
    };
    Ok(match op {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "%" => modulo(),
        "//" => {
            let raw = a % b;
            let mut div = (a - raw) / b;
            if raw != 0.0 && (raw < 0.0) != (b < 0.0) {
                div -= 1.0;
            }
            if div == 0.0 {
                0.0f64.copysign(a / b)
            } else if div - div.floor() > 0.5 {
                div.floor() + 1.0
            } else {
                div.floor()
            }
        }
        "**" => {
            let power = a.powf(b);
            let domain = (a < 0.0 && b.fract() != 0.0 && b.is_finite()) || (a == 0.0 && b < 0.0);
            if domain || (power.is_infinite() && a.is_finite() && b.is_finite()) {
                return Err(unsafe_expr("a power that is no finite real number"));
            }
            power
        }
        _ => return Err(unsafe_expr("an operator that is not supported")),
    })
}
