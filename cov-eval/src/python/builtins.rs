//! Built-in functions.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::Operator;

use super::interpreter::Interpreter;
use super::iterators::{End, Iter};
use super::operators::checked;
use super::text::{display, repr};
use super::value::{Keywords, Run, Stop, Value, raise};

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
    "frozenset",
    "tuple",
    "str",
    "int",
    "float",
    "bool",
    "round",
    "isinstance",
    "type",
    "print",
    "divmod",
    "pow",
    "ord",
    "chr",
    "repr",
    "iter",
    "next",
];

impl<'a> Interpreter<'a> {
    pub(super) fn sorted(
        &mut self,
        mut items: Vec<Value<'a>>,
        keywords: &[(Rc<str>, Value<'a>)],
    ) -> Run<'a, Vec<Value<'a>>> {
        let option = |name: &str| keywords.iter().find(|k| &*k.0 == name).map(|k| k.1.clone());
        let mut keyed: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(items.len());
        let key = option("key").filter(|k| !matches!(k, Value::None));
        for item in items.drain(..) {
            let value = match &key {
                Some(key) => self.call(key, vec![item.clone()], Vec::new())?,
                None => item.clone(),
            };
            keyed.push((value, item));
        }
        self.sorted_by_keys(keyed, option("reverse").is_some_and(|r| r.truth()))
    }

    /// Items in the order of their keys, which stand before them.
    pub(super) fn sorted_by_keys(
        &mut self,
        mut keyed: Vec<(Value<'a>, Value<'a>)>,
        reverse: bool,
    ) -> Run<'a, Vec<Value<'a>>> {
        self.burn(keyed.len())?;
        let mut comparable = true;
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
        keywords: Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        let takes_keywords =
            matches!(name, "sorted" | "min" | "max" | "print" | "enumerate" | "sum" | "zip" | "dict");
        if !keywords.is_empty() && !takes_keywords {
            return Err(Stop::Unsupported);
        }
        let iterator = |items: Vec<Value<'a>>| Value::from(Iter::Items(items.into_iter()));
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
                    [end] => Value::range(0, end, 1),
                    [start, end] => Value::range(start, end, 1),
                    [_, _, 0] => return raise("ValueError"),
                    [start, end, step] => Value::range(start, end, step),
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
                let options: Vec<_> = keywords.iter().filter(|k| &*k.0 == "key").cloned().collect();
                let default = keywords.iter().find(|k| &*k.0 == "default").map(|k| k.1.clone());
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
                (_, Some(i)) => checked(i.checked_abs())?,
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
                Iter::Enumerate(self.iter(x)?, start).into()
            }
            ("zip", _) => {
                let end = match &keywords[..] {
                    [] => End::Shortest,
                    [(name, strict)] if &**name == "strict" && strict.truth() => End::Strict,
                    [(name, _)] if &**name == "strict" => End::Shortest,
                    _ => return Err(Stop::Unsupported),
                };
                Iter::Zip(self.iters(&args)?, end).into()
            }
            ("map", [f, rows @ ..]) if !rows.is_empty() => {
                let rows = Iter::Zip(self.iters(rows)?, End::Shortest);
                Iter::Map(f.clone(), Rc::new(RefCell::new(rows))).into()
            }
            ("filter", [f, x]) => Iter::Filter(f.clone(), self.iter(x)?, true).into(),
            ("any" | "all", [x]) => {
                let (items, wanted) = (self.iter(x)?, name == "any");
                while let Some(item) = self.advance(&items)? {
                    if item.truth() == wanted {
                        return Ok(Value::Bool(wanted));
                    }
                }
                Value::Bool(!wanted)
            }
            ("list", []) => Value::list(Vec::new()),
            ("list", [x]) => Value::list(self.items(x)?),
            ("tuple", []) => Value::tuple(Vec::new()),
            ("tuple", [x]) => Value::tuple(self.items(x)?),
            ("set" | "frozenset", [] | [_]) => {
                let items = args.first().map_or(Ok(Vec::new()), |x| self.items(x))?;
                if !items.iter().all(Value::hashable) {
                    return raise("TypeError");
                }
                let set = Value::set(items);
                if let Value::Set(set) = &set {
                    set.borrow_mut().frozen = name == "frozenset";
                }
                set
            }
            ("dict", [] | [_]) => {
                let dict = Value::Dict(Rc::default());
                if let Some(other) = args.first() {
                    self.take_in(&dict, other)?;
                }
                for (name, value) in keywords {
                    self.put(&dict, Value::Str(name), value)?;
                }
                dict
            }
            ("str", []) => Value::str(""),
            ("str", [x]) => Value::str(display(x)?),
            ("repr", [x]) => Value::str(repr(x, 0)?),
            ("int", []) => Value::Int(0),
            ("float", []) => Value::Float(0.0),
            ("bool", []) => Value::Bool(false),
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
            ("type", [x]) => Value::Builtin(match x {
                Value::Bool(_) => "bool",
                Value::Int(_) => "int",
                Value::Float(_) => "float",
                Value::Str(_) => "str",
                Value::List(_) => "list",
                Value::Tuple(_) => "tuple",
                Value::Dict(d) if d.borrow().is_plain() => "dict",
                Value::Set(s) if s.borrow().frozen => "frozenset",
                Value::Set(_) => "set",
                _ => return Err(Stop::Unsupported),
            }),
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
                    Some(c) => Value::char(c),
                    None => return raise("ValueError"),
                }
            }
            ("iter", [x]) => Value::Iterator(self.iter(x)?),
            ("next", [Value::Iterator(it)] | [Value::Iterator(it), _]) => {
                match self.advance(it)?.or(args.get(1).cloned()) {
                    Some(value) => value,
                    None => return raise("StopIteration"),
                }
            }
            _ => return Err(Stop::Unsupported),
        })
    }
}

pub(super) fn is_instance<'a>(x: &Value<'a>, kind: &Value<'a>) -> Run<'a, bool> {
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
        | (Value::Builtin("dict"), Value::Dict(_)) => true,
        (Value::Builtin("set" | "frozenset"), Value::Set(s)) => {
            s.borrow().frozen == matches!(kind, Value::Builtin("frozenset"))
        }
        (
            Value::Builtin(
                "int" | "bool" | "float" | "str" | "list" | "tuple" | "dict" | "set" | "frozenset",
            ),
            _,
        ) => false,
        _ => return Err(Stop::Unsupported),
    })
}
