//! Operators, comparisons and subscripts.

use std::rc::Rc;

use ruff_python_ast::{self as ast, CmpOp, Operator};

use super::interpreter::Interpreter;
use super::value::{Run, Stop, Value, raise};

pub(super) fn checked<'a>(value: Option<i128>) -> Run<'a, Value<'a>> {
    // Beyond this Python goes on where the interpreter does not.
    value.map(Value::Int).ok_or(Stop::Unsupported)
}

impl<'a> Interpreter<'a> {
    /// What a loop over a value goes through.
    pub(super) fn items(&mut self, value: &Value<'a>) -> Run<'a, Vec<Value<'a>>> {
        self.size(value.length().unwrap_or(0))?;
        Ok(match value {
            Value::List(l) => l.borrow().clone(),
            Value::Tuple(t) => t.to_vec(),
            Value::Set(s) => s.borrow().to_vec(),
            Value::Queue(q) => q.borrow().to_vec(),
            Value::Dict(d) => d.borrow().iter().map(|p| p.0.clone()).collect(),
            Value::Str(s) => s.chars().map(Value::char).collect(),
            Value::Range(range) => {
                let [start, _, step] = **range;
                let n = value.length().unwrap_or(0) as i128;
                (0..n).map(|i| Value::Int(start + i * step)).collect()
            }
            Value::Iterator(source) => {
                let mut items = Vec::new();
                while let Some(item) = self.advance(source)? {
                    self.room(items.len() + 1)?;
                    items.push(item);
                }
                items
            }
            other => return Value::mistake(&[other]),
        })
    }

    /// Whether one of the items of a value equals another.
    fn holds(&mut self, value: &Value<'a>, wanted: &Value<'a>) -> Run<'a, bool> {
        let any = |items: &[Value<'a>]| items.iter().any(|v| v.equals(wanted));
        if matches!(value, Value::List(_) | Value::Tuple(_) | Value::Set(_) | Value::Dict(_)) {
            self.size(value.length().unwrap_or(0))?;
        }
        Ok(match value {
            Value::List(items) => any(&items.borrow()),
            Value::Set(items) => any(&items.borrow()),
            Value::Tuple(items) => any(items),
            Value::Iterator(source) => {
                while let Some(item) = self.advance(source)? {
                    if item.equals(wanted) {
                        return Ok(true);
                    }
                }
                false
            }
            Value::Dict(pairs) => pairs.borrow().iter().any(|(key, _)| key.equals(wanted)),
            other => any(&self.items(other)?),
        })
    }

    pub(super) fn compare(&mut self, left: &Value<'a>, op: CmpOp, right: &Value<'a>) -> Run<'a, bool> {
        self.burn(0)?;
        let order = |wanted: &dyn Fn(std::cmp::Ordering) -> bool| match left.order(right) {
            Some(order) => Ok(wanted(order)),
            None if left.float().is_some() && right.float().is_some() => Ok(false),
            None => Value::mistake(&[left, right]),
        };
        match op {
            op if let (Value::Set(a), Value::Set(b)) = (left, right)
                && let CmpOp::Lt | CmpOp::LtE | CmpOp::Gt | CmpOp::GtE = op =>
            {
                let (a, b) = if matches!(op, CmpOp::Lt | CmpOp::LtE) { (a, b) } else { (b, a) };
                let (a, b) = (a.borrow(), b.borrow());
                let strict = matches!(op, CmpOp::Lt | CmpOp::Gt);
                let within = a.iter().all(|x| b.iter().any(|y| x.equals(y)));
                Ok(within && (!strict || a.len() < b.len()))
            }
            CmpOp::Eq => Ok(left.equals(right)),
            CmpOp::NotEq => Ok(!left.equals(right)),
            CmpOp::Lt => order(&|o| o.is_lt()),
            CmpOp::LtE => order(&|o| o.is_le()),
            CmpOp::Gt => order(&|o| o.is_gt()),
            CmpOp::GtE => order(&|o| o.is_ge()),
            CmpOp::Is | CmpOp::IsNot => {
                let same = match (left, right) {
                    (Value::None, Value::None) => true,
                    (Value::Bool(a), Value::Bool(b)) => a == b,
                    (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
                    (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
                    (Value::Builtin(a), Value::Builtin(b)) => a == b,
                    (Value::None | Value::Bool(_), _) | (_, Value::None | Value::Bool(_)) => false,
                    _ => return Err(Stop::Unsupported),
                };
                Ok(same == (op == CmpOp::Is))
            }
            CmpOp::In | CmpOp::NotIn => {
                let found = match (left, right) {
                    (Value::Str(a), Value::Str(b)) => b.contains(&**a),
                    (_, Value::Str(_)) => return raise("TypeError"),
                    (_, Value::Dict(_) | Value::Set(_)) if !left.hashable() => return raise("TypeError"),
                    _ => self.holds(right, left)?,
                };
                Ok(found == (op == CmpOp::In))
            }
        }
    }

    pub(super) fn binary(&mut self, left: &Value<'a>, op: Operator, right: &Value<'a>) -> Run<'a, Value<'a>> {
        self.burn(0)?;
        if let (Value::Bool(a), Value::Bool(b)) = (left, right) {
            match op {
                Operator::BitAnd => return Ok(Value::Bool(a & b)),
                Operator::BitOr => return Ok(Value::Bool(a | b)),
                Operator::BitXor => return Ok(Value::Bool(a ^ b)),
                _ => {}
            }
        }
        if let (Some(a), Some(b)) = (left.int(), right.int()) {
            return integers(a, op, b);
        }
        if let (Some(a), Some(b)) = (left.float(), right.float()) {
            return floats(a, op, b);
        }
        let repeat = |n: &Value<'a>, len: usize| match n.int() {
            Some(n) => Ok((usize::try_from(n.max(0)).unwrap_or(usize::MAX), len)),
            None => raise("TypeError"),
        };
        Ok(match (left, op, right) {
            (Value::Str(a), Operator::Add, Value::Str(b)) => {
                self.size(a.len() + b.len())?;
                Value::str(format!("{a}{b}"))
            }
            (Value::List(a), Operator::Add, Value::List(b)) => {
                self.size(a.borrow().len() + b.borrow().len())?;
                let both = a.borrow().iter().chain(b.borrow().iter()).cloned().collect();
                Value::list(both)
            }
            (Value::Tuple(a), Operator::Add, Value::Tuple(b)) => {
                self.size(a.len() + b.len())?;
                Value::tuple(a.iter().chain(b.iter()).cloned().collect())
            }
            (Value::Str(s), Operator::Mult, n) | (n, Operator::Mult, Value::Str(s)) => {
                let (n, len) = repeat(n, s.len())?;
                self.size(n.saturating_mul(len.max(1)))?;
                Value::str(s.repeat(n))
            }
            (Value::List(l), Operator::Mult, n) | (n, Operator::Mult, Value::List(l)) => {
                let (n, len) = repeat(n, l.borrow().len())?;
                self.size(n.saturating_mul(len.max(1)))?;
                let items = l.borrow().clone();
                Value::list((0..n).flat_map(|_| items.iter().cloned()).collect())
            }
            (Value::Tuple(t), Operator::Mult, n) | (n, Operator::Mult, Value::Tuple(t)) => {
                let (n, len) = repeat(n, t.len())?;
                self.size(n.saturating_mul(len.max(1)))?;
                Value::tuple((0..n).flat_map(|_| t.iter().cloned()).collect())
            }
            (Value::Dict(a), Operator::BitOr, Value::Dict(b))
                if a.borrow().is_plain() && b.borrow().is_plain() =>
            {
                let both = Value::Dict(Rc::new(a.borrow().clone().into()));
                self.take_in(&both, right)?;
                both
            }
            (Value::Dict(_), _, Value::Dict(_)) | (Value::Queue(_), ..) | (.., Value::Queue(_)) => {
                return Err(Stop::Unsupported);
            }
            (Value::Set(a), op, Value::Set(b)) => {
                let frozen = a.borrow().frozen;
                let (a, b) = (a.borrow().to_vec(), b.borrow().to_vec());
                let within = |x: &Value<'a>, set: &[Value<'a>]| set.iter().any(|y| y.equals(x));
                let only = |from: &[Value<'a>], other: &[Value<'a>]| -> Vec<Value<'a>> {
                    from.iter().filter(|x| !within(x, other)).cloned().collect()
                };
                let found = match op {
                    Operator::BitOr => a.into_iter().chain(b).collect(),
                    Operator::BitAnd => a.into_iter().filter(|x| within(x, &b)).collect(),
                    Operator::Sub => only(&a, &b),
                    Operator::BitXor => only(&a, &b).into_iter().chain(only(&b, &a)).collect(),
                    _ => return raise("TypeError"),
                };
                let set = Value::set(found);
                if let Value::Set(set) = &set {
                    set.borrow_mut().frozen = frozen;
                }
                set
            }
            // Keys of dictionaries are lists here and sets there.
            (Value::List(_), _, Value::Set(_)) | (Value::Set(_), _, Value::List(_)) => {
                return Err(Stop::Unsupported);
            }
            (Value::List(_), Operator::BitAnd | Operator::BitOr | Operator::Sub, Value::List(_)) => {
                return Err(Stop::Unsupported);
            }
            (Value::Builtin(_) | Value::Class, Operator::BitOr, _) => Value::Class,
            (Value::Str(template), Operator::Mod, value) => self.percent(template, value)?,
            _ => return Value::mistake(&[left, right]),
        })
    }

    pub(super) fn item(&mut self, object: &Value<'a>, key: &Value<'a>) -> Run<'a, Value<'a>> {
        if let Value::Dict(d) = object {
            if !key.hashable() {
                return raise("TypeError");
            }
            self.burn(d.borrow().len() / 16)?;
            let found = d.borrow().iter().find(|(k, _)| k.equals(key)).map(|p| p.1.clone());
            return found.map_or_else(|| self.missing(object, key), Ok);
        }
        if matches!(object, Value::Str(_) | Value::Tuple(_) | Value::Range(_)) {
            self.size(object.length().unwrap_or(0))?;
        }
        let place = |n: usize| match key.int().map(|i| if i < 0 { i + n as i128 } else { i }) {
            Some(at) => usize::try_from(at).map_or_else(|_| raise("IndexError"), Ok),
            None => raise("TypeError"),
        };
        let found = match object {
            Value::List(list) => list.borrow().get(place(list.borrow().len())?).cloned(),
            Value::Queue(queue) => queue.borrow().get(place(queue.borrow().len())?).cloned(),
            // As in an annotation.
            Value::Builtin(_) | Value::Class => return Ok(Value::Class),
            Value::Tuple(items) => items.get(place(items.len())?).cloned(),
            Value::Str(text) => text.chars().nth(place(text.chars().count())?).map(Value::char),
            Value::Range(range) => {
                let [start, _, step] = **range;
                let n = object.length().unwrap_or(0);
                Some(place(n)?).filter(|&at| at < n).map(|at| Value::Int(start + at as i128 * step))
            }
            other => return Value::mistake(&[other]),
        };
        found.map_or_else(|| raise("IndexError"), Ok)
    }

    /// Start, end and step of a slice of so many items.
    pub(super) fn bounds(&mut self, slice: &'a ast::ExprSlice, n: usize) -> Run<'a, [i128; 3]> {
        let mut bound = |e: &'a Option<Box<ast::Expr>>| -> Run<'a, Option<i128>> {
            match e.as_ref().map(|e| self.eval(e)).transpose()? {
                None | Some(Value::None) => Ok(None),
                Some(v) => v.int().map(Some).map_or_else(|| raise("TypeError"), Ok),
            }
        };
        let (lower, upper, step) =
            (bound(&slice.lower)?, bound(&slice.upper)?, bound(&slice.step)?.unwrap_or(1));
        if step == 0 {
            return raise("ValueError");
        }
        let n = n as i128;
        let clamp = |i: Option<i128>, default: i128| {
            let i = i.map_or(default, |i| if i < 0 { i + n } else { i });
            if step > 0 { i.clamp(0, n) } else { i.clamp(-1, n - 1) }
        };
        Ok(if step > 0 {
            [clamp(lower, 0), clamp(upper, n), step]
        } else {
            [clamp(lower, n - 1), upper.map_or(-1, |_| clamp(upper, -1)), step]
        })
    }

    pub(super) fn slice(&mut self, object: &Value<'a>, slice: &'a ast::ExprSlice) -> Run<'a, Value<'a>> {
        if !matches!(object, Value::Str(_) | Value::List(_) | Value::Tuple(_)) {
            return Err(if matches!(object, Value::Range(_)) {
                Stop::Unsupported
            } else {
                Stop::Raise("TypeError".into())
            });
        }
        let items = self.items(object)?;
        let [from, to, step] = self.bounds(slice, items.len())?;
        let mut picked = Vec::new();
        let mut i = from;
        while (step > 0 && i < to) || (step < 0 && i > to) {
            picked.extend(usize::try_from(i).ok().and_then(|i| items.get(i)).cloned());
            i = i.saturating_add(step);
        }
        Ok(match object {
            Value::Str(_) => {
                let parts: Vec<Rc<str>> = picked
                    .into_iter()
                    .filter_map(|v| if let Value::Str(s) = v { Some(s) } else { None })
                    .collect();
                Value::str(parts.concat())
            }
            Value::Tuple(_) => Value::tuple(picked),
            _ => Value::list(picked),
        })
    }
}

fn integers<'a>(a: i128, op: Operator, b: i128) -> Run<'a, Value<'a>> {
    let small = u32::try_from(b).ok();
    match op {
        Operator::Add => checked(a.checked_add(b)),
        Operator::Sub => checked(a.checked_sub(b)),
        Operator::Mult => checked(a.checked_mul(b)),
        Operator::Div | Operator::FloorDiv | Operator::Mod if b == 0 => raise("ZeroDivisionError"),
        Operator::Div => Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDiv => {
            let r = a.wrapping_rem(b);
            checked(a.checked_div(b).map(|q| if r != 0 && (r < 0) != (b < 0) { q - 1 } else { q }))
        }
        Operator::Mod => {
            let r = a.wrapping_rem(b);
            checked(Some(if r != 0 && (r < 0) != (b < 0) { r + b } else { r }))
        }
        Operator::Pow if b < 0 => Ok(Value::Float((a as f64).powf(b as f64))),
        Operator::Pow => checked(small.and_then(|n| a.checked_pow(n))),
        Operator::BitOr => checked(Some(a | b)),
        Operator::BitXor => checked(Some(a ^ b)),
        Operator::BitAnd => checked(Some(a & b)),
        Operator::LShift => checked(small.filter(|&n| n < 64 && a.unsigned_abs() < 1 << 62).map(|n| a << n)),
        Operator::RShift => checked(small.map(|n| a >> n.min(127))),
        Operator::MatMult => raise("TypeError"),
    }
}

fn floats<'a>(a: f64, op: Operator, b: f64) -> Run<'a, Value<'a>> {
    let value = match op {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mult => a * b,
        Operator::Div | Operator::FloorDiv | Operator::Mod if b == 0.0 => return raise("ZeroDivisionError"),
        Operator::Div => a / b,
        Operator::FloorDiv => (a / b).floor(),
        Operator::Mod => a - b * (a / b).floor(),
        Operator::Pow if a >= 0.0 => a.powf(b),
        _ => return raise("TypeError"),
    };
    Ok(Value::Float(value))
}
