//! Operators, subscripts and built-in functions.

use std::cell::RefCell;
use std::rc::Rc;

use rustpython_parser::ast::{self, CmpOp, Operator};

use super::interpreter::Interpreter;
use super::text::{display, repr};
use super::value::{Run, Stop, Value, raise};

pub(super) const BUILTINS: &[&str] = &[
    "len",
    "range",
    "sum",
    "min",
    "max",
    "abs",
    "sorted",
    "reversed",
    "enumerate",
    "zip",
    "map",
    "filter",
    "any",
    "all",
    "list",
    "dict",
    "set",
    "tuple",
    "str",
    "int",
    "float",
    "bool",
    "round",
    "isinstance",
    "print",
    "divmod",
    "pow",
    "ord",
    "chr",
    "repr",
    "iter",
    "next",
];

fn checked<'a>(value: Option<i128>) -> Run<'a, Value<'a>> {
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
            Value::Set(s) => s.borrow().clone(),
            Value::Dict(d) => d.borrow().iter().map(|p| p.0.clone()).collect(),
            Value::Str(s) => s.chars().map(|c| Value::str(c.to_string())).collect(),
            &Value::Range(start, _, step) => {
                let n = value.length().unwrap_or(0) as i128;
                (0..n).map(|i| Value::Int(start + i * step)).collect()
            }
            Value::Iterator(it) => it.borrow_mut().by_ref().collect(),
            _ => return raise("TypeError"),
        })
    }

    pub(super) fn compare(&mut self, left: &Value<'a>, op: CmpOp, right: &Value<'a>) -> Run<'a, bool> {
        self.burn(0)?;
        let order = |wanted: &dyn Fn(std::cmp::Ordering) -> bool| match left.order(right) {
            Some(order) => Ok(wanted(order)),
            None if left.float().is_some() && right.float().is_some() => Ok(false),
            None => raise("TypeError"),
        };
        match op {
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
                    _ => self.items(right)?.iter().any(|v| v.equals(left)),
                };
                Ok(found == (op == CmpOp::In))
            }
        }
    }

    pub(super) fn binary(&mut self, left: &Value<'a>, op: Operator, right: &Value<'a>) -> Run<'a, Value<'a>> {
        self.burn(0)?;
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
            (Value::Set(a), op, Value::Set(b)) => {
                let (a, b) = (a.borrow().clone(), b.borrow().clone());
                let in_b = |x: &Value<'a>| b.iter().any(|y| y.equals(x));
                match op {
                    Operator::BitOr => Value::set(a.into_iter().chain(b).collect()),
                    Operator::BitAnd => Value::set(a.into_iter().filter(in_b).collect()),
                    Operator::Sub => Value::set(a.into_iter().filter(|x| !in_b(x)).collect()),
                    _ => return Err(Stop::Unsupported),
                }
            }
            // Formatting with % is not known.
            (Value::Str(_), Operator::Mod, _) => return Err(Stop::Unsupported),
            _ => return raise("TypeError"),
        })
    }

    pub(super) fn item(&mut self, object: &Value<'a>, key: &Value<'a>) -> Run<'a, Value<'a>> {
        if let Value::Dict(d) = object {
            if !key.hashable() {
                return raise("TypeError");
            }
            self.burn(d.borrow().len() / 16)?;
            let found = d.borrow().iter().find(|(k, _)| k.equals(key)).map(|p| p.1.clone());
            return found.map_or_else(|| raise("KeyError"), Ok);
        }
        let items = match object {
            Value::List(l) => {
                let list = l.borrow();
                let (i, n) = (key.int(), list.len() as i128);
                let at = i.map(|i| if i < 0 { i + n } else { i });
                return match at.map(|i| usize::try_from(i).ok().and_then(|i| list.get(i)).cloned()) {
                    Some(Some(value)) => Ok(value),
                    Some(None) => raise("IndexError"),
                    None => raise("TypeError"),
                };
            }
            Value::Str(_) | Value::Tuple(_) | Value::Range(..) => self.items(object)?,
            _ => return raise("TypeError"),
        };
        self.item(&Value::list(items), key)
    }

    pub(super) fn slice(&mut self, object: &Value<'a>, slice: &'a ast::ExprSlice) -> Run<'a, Value<'a>> {
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
        if !matches!(object, Value::Str(_) | Value::List(_) | Value::Tuple(_)) {
            return raise("TypeError");
        }
        let items = self.items(object)?;
        let n = items.len() as i128;
        let clamp = |i: Option<i128>, default: i128| {
            let i = i.map_or(default, |i| if i < 0 { i + n } else { i });
            if step > 0 { i.clamp(0, n) } else { i.clamp(-1, n - 1) }
        };
        let (from, to) = if step > 0 {
            (clamp(lower, 0), clamp(upper, n))
        } else {
            (clamp(lower, n - 1), upper.map_or(-1, |_| clamp(upper, -1)))
        };
        let mut picked = Vec::new();
        let mut i = from;
        while (step > 0 && i < to) || (step < 0 && i > to) {
            picked.extend(usize::try_from(i).ok().and_then(|i| items.get(i)).cloned());
            i += step;
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

    pub(super) fn sorted(
        &mut self,
        mut items: Vec<Value<'a>>,
        keywords: &[(String, Value<'a>)],
    ) -> Run<'a, Vec<Value<'a>>> {
        let option = |name: &str| keywords.iter().find(|k| k.0 == name).map(|k| k.1.clone());
        let mut keyed: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(items.len());
        let key = option("key").filter(|k| !matches!(k, Value::None));
        for item in items.drain(..) {
            let value = match &key {
                Some(key) => self.call(key, vec![item.clone()], Vec::new())?,
                None => item.clone(),
            };
            keyed.push((value, item));
        }
        self.burn(keyed.len())?;
        let mut comparable = true;
        let reverse = option("reverse").is_some_and(|r| r.truth());
        keyed.sort_by(|a, b| {
            let (a, b) = if reverse { (&b.0, &a.0) } else { (&a.0, &b.0) };
            a.order(b).unwrap_or_else(|| {
                comparable = false;
                std::cmp::Ordering::Equal
            })
        });
        if comparable { Ok(keyed.into_iter().map(|k| k.1).collect()) } else { raise("TypeError") }
    }

    /// The first argument's items, or the arguments where there are several.
    fn operands(&mut self, args: Vec<Value<'a>>) -> Run<'a, Vec<Value<'a>>> {
        if let [one] = &args[..] { self.items(one) } else { Ok(args) }
    }

    pub(super) fn builtin(
        &mut self,
        name: &str,
        args: Vec<Value<'a>>,
        keywords: Vec<(String, Value<'a>)>,
    ) -> Run<'a, Value<'a>> {
        let takes_keywords = matches!(name, "sorted" | "min" | "max" | "print" | "enumerate" | "sum");
        if !keywords.is_empty() && !takes_keywords {
            return Err(Stop::Unsupported);
        }
        let iterator = |items: Vec<Value<'a>>| Value::Iterator(Rc::new(RefCell::new(items.into_iter())));
        let pair = |a: Value<'a>, b: Value<'a>| Value::tuple(vec![a, b]);
        Ok(match (name, &args[..]) {
            ("print", _) => Value::None,
            ("len", [x]) => match x.length() {
                Some(n) => Value::Int(n as i128),
                None => return raise("TypeError"),
            },
            ("range", _) => {
                let Some(n) = args.iter().map(Value::int).collect::<Option<Vec<i128>>>() else {
                    return raise("TypeError");
                };
                match n[..] {
                    [end] => Value::Range(0, end, 1),
                    [start, end] => Value::Range(start, end, 1),
                    [_, _, 0] => return raise("ValueError"),
                    [start, end, step] => Value::Range(start, end, step),
                    _ => return raise("TypeError"),
                }
            }
            ("sum", [x]) | ("sum", [x, _]) => {
                let start = keywords.first().map(|k| k.1.clone()).or(args.get(1).cloned());
                let mut sum = start.unwrap_or(Value::Int(0));
                for item in self.items(x)? {
                    sum = self.binary(&sum, Operator::Add, &item)?;
                }
                sum
            }
            ("min" | "max", _) => {
                let options: Vec<_> = keywords.iter().filter(|k| k.0 == "key").cloned().collect();
                let default = keywords.iter().find(|k| k.0 == "default").map(|k| k.1.clone());
                let mut items = self.operands(args)?;
                if name == "max" {
                    // The first of equals wins.
                    items.reverse();
                }
                let sorted = self.sorted(items, &options)?;
                let found = if name == "min" { sorted.first() } else { sorted.last() };
                match found.cloned().or(default) {
                    Some(value) => value,
                    None => return raise("ValueError"),
                }
            }
            ("abs", [x]) => match (x, x.int()) {
                (_, Some(i)) => Value::Int(i.abs()),
                (Value::Float(f), _) => Value::Float(f.abs()),
                _ => return raise("TypeError"),
            },
            ("sorted", [x]) => {
                let items = self.items(x)?;
                Value::list(self.sorted(items, &keywords)?)
            }
            ("reversed", [x]) => {
                let mut items = self.items(x)?;
                items.reverse();
                iterator(items)
            }
            ("enumerate", [x]) | ("enumerate", [x, _]) => {
                let start = keywords.first().map(|k| &k.1).or(args.get(1)).and_then(Value::int).unwrap_or(0);
                let items = self.items(x)?.into_iter().zip((0..).map(|i| start.saturating_add(i)));
                iterator(items.map(|(v, i)| pair(Value::Int(i), v)).collect())
            }
            ("zip", _) => {
                let mut lists = Vec::new();
                for arg in &args {
                    lists.push(self.items(arg)?);
                }
                let n = lists.iter().map(Vec::len).min().unwrap_or(0);
                iterator((0..n).map(|i| Value::tuple(lists.iter().map(|l| l[i].clone()).collect())).collect())
            }
            ("map", [f, x]) => {
                let mut items = Vec::new();
                for item in self.items(x)? {
                    items.push(self.call(f, vec![item], Vec::new())?);
                }
                iterator(items)
            }
            ("filter", [f, x]) => {
                let mut kept = Vec::new();
                for item in self.items(x)? {
                    let keep = match f {
                        Value::None => item.truth(),
                        f => self.call(f, vec![item.clone()], Vec::new())?.truth(),
                    };
                    if keep {
                        kept.push(item);
                    }
                }
                iterator(kept)
            }
            ("any", [x]) => Value::Bool(self.items(x)?.iter().any(Value::truth)),
            ("all", [x]) => Value::Bool(self.items(x)?.iter().all(Value::truth)),
            ("list", []) => Value::list(Vec::new()),
            ("list", [x]) => Value::list(self.items(x)?),
            ("tuple", []) => Value::tuple(Vec::new()),
            ("tuple", [x]) => Value::tuple(self.items(x)?),
            ("set", []) => Value::set(Vec::new()),
            ("set", [x]) => {
                let items = self.items(x)?;
                if !items.iter().all(Value::hashable) {
                    return raise("TypeError");
                }
                Value::set(items)
            }
            ("dict", []) => Value::Dict(Rc::default()),
            ("dict", [x]) => {
                let dict = Value::Dict(Rc::default());
                let pairs =
                    if let Value::Dict(_) = x { self.method(x, "items", &[], &[])? } else { x.clone() };
                for entry in self.items(&pairs)? {
                    let [key, value] = &self.items(&entry)?[..] else { return raise("ValueError") };
                    self.put(&dict, key.clone(), value.clone())?;
                }
                dict
            }
            ("str", []) => Value::str(""),
            ("str", [x]) => Value::str(display(x)?),
            ("repr", [x]) => Value::str(repr(x, 0)?),
            ("int", [Value::Float(f)]) => checked((f.abs() < 1e30).then_some(f.trunc() as i128))?,
            ("int", [Value::Str(s)]) => match s.trim().replace('_', "").parse::<i64>() {
                Ok(i) => Value::Int(i.into()),
                Err(_) => return raise("ValueError"),
            },
            ("int", [x]) => match x.int() {
                Some(i) => Value::Int(i),
                None => return raise("TypeError"),
            },
            ("float", [Value::Str(s)]) => match s.trim().parse() {
                Ok(f) => Value::Float(f),
                Err(_) => return raise("ValueError"),
            },
            ("float", [x]) => match x.float() {
                Some(f) => Value::Float(f),
                None => return raise("TypeError"),
            },
            ("bool", [x]) => Value::Bool(x.truth()),
            ("round", [x]) => match (x.int(), x.float()) {
                (Some(i), _) => Value::Int(i),
                (_, Some(f)) => checked((f.abs() < 1e30).then_some(f.round_ties_even() as i128))?,
                _ => return raise("TypeError"),
            },
            ("round", [x, n]) => match (x, n.int()) {
                (Value::Float(f), Some(n @ 0..=15)) => {
                    // To the nearest decimal of the exact value.
                    Value::Float(format!("{f:.*}", n as usize).parse().unwrap_or(*f))
                }
                (x, Some(0..)) if x.int().is_some() => x.clone(),
                _ => return Err(Stop::Unsupported),
            },
            ("isinstance", [x, kind]) => Value::Bool(is_instance(x, kind)?),
            ("divmod", [a, b]) => {
                pair(self.binary(a, Operator::FloorDiv, b)?, self.binary(a, Operator::Mod, b)?)
            }
            ("pow", [a, b]) => self.binary(a, Operator::Pow, b)?,
            ("ord", [Value::Str(s)]) if s.chars().count() == 1 => {
                Value::Int(s.chars().next().map_or(0, |c| u32::from(c).into()))
            }
            ("chr", [x]) => {
                let c = x.int().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32);
                match c {
                    Some(c) => Value::str(c.to_string()),
                    None => return raise("ValueError"),
                }
            }
            ("iter", [x]) => iterator(self.items(x)?),
            ("next", [Value::Iterator(it)] | [Value::Iterator(it), _]) => {
                match it.borrow_mut().next().or(args.get(1).cloned()) {
                    Some(value) => value,
                    None => return raise("StopIteration"),
                }
            }
            _ => return Err(Stop::Unsupported),
        })
    }

    pub(super) fn module_call(&mut self, module: &str, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let Some(x) = args.first().and_then(Value::float).filter(|_| module == "math" && args.len() == 1)
        else {
            return Err(Stop::Unsupported);
        };
        let whole = |x: f64| checked((x.abs() < 1e30).then_some(x as i128));
        match name {
            "floor" => whole(x.floor()),
            "ceil" => whole(x.ceil()),
            "sqrt" if x < 0.0 => raise("ValueError"),
            "sqrt" => Ok(Value::Float(x.sqrt())),
            _ => Err(Stop::Unsupported),
        }
    }
}

fn is_instance<'a>(x: &Value<'a>, kind: &Value<'a>) -> Run<'a, bool> {
    Ok(match (kind, x) {
        (Value::Tuple(kinds), x) => {
            for kind in kinds.iter() {
                if is_instance(x, kind)? {
                    return Ok(true);
                }
            }
            false
        }
        (Value::Builtin("int"), Value::Int(_) | Value::Bool(_))
        | (Value::Builtin("bool"), Value::Bool(_))
        | (Value::Builtin("float"), Value::Float(_))
        | (Value::Builtin("str"), Value::Str(_))
        | (Value::Builtin("list"), Value::List(_))
        | (Value::Builtin("tuple"), Value::Tuple(_))
        | (Value::Builtin("dict"), Value::Dict(_))
        | (Value::Builtin("set"), Value::Set(_)) => true,
        (Value::Builtin("int" | "bool" | "float" | "str" | "list" | "tuple" | "dict" | "set"), _) => false,
        _ => return Err(Stop::Unsupported),
    })
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
            let (q, r) = (a.wrapping_div(b), a.wrapping_rem(b));
            checked(Some(if r != 0 && (r < 0) != (b < 0) { q - 1 } else { q }))
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
        Operator::LShift => checked(small.filter(|&n| n < 64 && a.abs() < 1 << 62).map(|n| a << n)),
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
