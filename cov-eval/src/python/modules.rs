//! What is known of the standard library: parts of `collections`, `functools`, `heapq`, `itertools`, `math`, `operator`,
//! `statistics` and `string`, and the names of `typing`.

use std::cmp::Ordering;
use std::rc::Rc;

use ruff_python_ast::{CmpOp, Operator};

use super::collections::Missing;
use super::interpreter::Interpreter;
use super::iterators::{End, Groups, Iter, Slice};
use super::operators::checked;
use super::value::{Keywords, Partial, Run, Stop, Value, raise};

/// The values of modules that are no functions.
pub(super) fn constant<'a>(module: &str, name: &str) -> Option<Value<'a>> {
    const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
    const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    Some(match (module, name) {
        ("math", "pi") => Value::Float(std::f64::consts::PI),
        ("math", "e") => Value::Float(std::f64::consts::E),
        ("math", "inf") => Value::Float(f64::INFINITY),
        ("string", "digits") => Value::str("0123456789"),
        ("string", "ascii_lowercase") => Value::str(LOWER),
        ("string", "ascii_uppercase") => Value::str(UPPER),
        ("string", "ascii_letters") => Value::str(format!("{LOWER}{UPPER}")),
        ("string", "punctuation") => Value::str("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("typing", "TYPE_CHECKING") => Value::Bool(false),
        ("typing" | "collections.abc" | "__future__", _) => Value::Class,
        _ => return None,
    })
}

/// The operator that a function of `operator` stands for.
fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        "add" | "concat" => Operator::Add,
        "sub" => Operator::Sub,
        "mul" => Operator::Mult,
        "truediv" => Operator::Div,
        "floordiv" => Operator::FloorDiv,
        "mod" => Operator::Mod,
        "pow" => Operator::Pow,
        "and_" => Operator::BitAnd,
        "or_" => Operator::BitOr,
        "xor" => Operator::BitXor,
        _ => return None,
    })
}

fn comparison(name: &str) -> Option<CmpOp> {
    Some(match name {
        "eq" => CmpOp::Eq,
        "ne" => CmpOp::NotEq,
        "lt" => CmpOp::Lt,
        "le" => CmpOp::LtE,
        "gt" => CmpOp::Gt,
        "ge" => CmpOp::GtE,
        _ => return None,
    })
}

fn whole<'a>(x: f64) -> Run<'a, Value<'a>> {
    checked((x.abs() < 1e30).then_some(x as i128))
}

fn option<'a>(keywords: &Keywords<'a>, name: &str) -> Option<Value<'a>> {
    keywords.iter().find(|k| &*k.0 == name).map(|k| k.1.clone())
}

impl<'a> Interpreter<'a> {
    pub(super) fn module_call(
        &mut self,
        module: &str,
        name: &str,
        args: Vec<Value<'a>>,
        keywords: Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        match module {
            "collections" => self.of_collections(name, &args, &keywords),
            "itertools" => self.of_itertools(name, &args, &keywords),
            "functools" if name == "partial" => match args.split_first() {
                Some((function, args)) => {
                    let (function, args) = (function.clone(), args.to_vec());
                    Ok(Value::Partial(Rc::new(Partial { function, args, keywords })))
                }
                None => raise("TypeError"),
            },
            _ if !keywords.is_empty() && module != "heapq" => Err(Stop::Unsupported),
            "functools" => match (name, &args[..]) {
                ("reduce", [function, items] | [function, items, _]) => {
                    self.reduce(function, items, args.get(2))
                }
                _ => Err(Stop::Unsupported),
            },
            "operator" => self.of_operator(name, args),
            "math" => self.of_math(name, &args),
            "heapq" => match (name, &args[..]) {
                ("nsmallest" | "nlargest", [Value::Int(n), items]) => {
                    let mut options: Keywords<'a> = keywords.into_iter().filter(|k| &*k.0 == "key").collect();
                    options.push(("reverse".into(), Value::Bool(name == "nlargest")));
                    let items = self.items(items)?;
                    let mut sorted = self.sorted(items, &options)?;
                    sorted.truncate(usize::try_from(*n).unwrap_or(0));
                    Ok(Value::list(sorted))
                }
                _ => Err(Stop::Unsupported),
            },
            "statistics" => match (name, &args[..]) {
                ("mean" | "fmean", [items]) => self.mean(items, name == "mean"),
                _ => Err(Stop::Unsupported),
            },
            _ => Err(Stop::Unsupported),
        }
    }

    fn reduce(
        &mut self,
        function: &Value<'a>,
        items: &Value<'a>,
        first: Option<&Value<'a>>,
    ) -> Run<'a, Value<'a>> {
        let items = self.iter(items)?;
        let first = first.cloned().map_or_else(|| self.advance(&items), |first| Ok(Some(first)))?;
        let Some(mut total) = first else { return raise("TypeError") };
        while let Some(item) = self.advance(&items)? {
            total = self.call(function, vec![total, item], Vec::new())?;
        }
        Ok(total)
    }

    /// The mean of whole numbers, whole if it may be and is.
    fn mean(&mut self, items: &Value<'a>, exact: bool) -> Run<'a, Value<'a>> {
        let items = self.items(items)?;
        let n = items.len() as i128;
        let mut sum = 0i128;
        for item in &items {
            let Value::Int(i) = item else { return Err(Stop::Unsupported) };
            sum = sum.checked_add(*i).filter(|sum| sum.unsigned_abs() < 1 << 50).ok_or(Stop::Unsupported)?;
        }
        match n {
            0 => Err(Stop::Unsupported),
            n if exact && sum % n == 0 => Ok(Value::Int(sum / n)),
            n => Ok(Value::Float(sum as f64 / n as f64)),
        }
    }

    fn of_collections(
        &mut self,
        name: &str,
        args: &[Value<'a>],
        keywords: &Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        match (name, args) {
            ("deque", _) => self.queue(args, keywords),
            _ if !keywords.is_empty() => Err(Stop::Unsupported),
            ("Counter", _) => self.table(Missing::Zero, args),
            ("defaultdict", []) => self.table(Missing::Made(Value::None), &[]),
            ("defaultdict", [make, rest @ ..]) => self.table(Missing::Made(make.clone()), rest),
            _ => Err(Stop::Unsupported),
        }
    }

    fn of_operator(&mut self, name: &str, args: Vec<Value<'a>>) -> Run<'a, Value<'a>> {
        let later = |name: &'static str, args: Vec<Value<'a>>| {
            let function = Value::Method(Rc::new(Value::Module("operator".into())), name);
            Ok(Value::Partial(Rc::new(Partial { function, args, keywords: Keywords::new() })))
        };
        match (name, &args[..]) {
            ("itemgetter", [_, ..]) => later("*items", args),
            ("methodcaller", [Value::Str(_), ..]) => later("*method", args),
            ("*items", [key, object]) => self.item(object, key),
            ("*items", [keys @ .., object]) => {
                let items: Run<'a, Vec<_>> = keys.iter().map(|key| self.item(object, key)).collect();
                items.map(Value::tuple)
            }
            ("*method", [Value::Str(name), args @ .., object]) => self.method(object, name, args, &[]),
            ("getitem", [object, key]) => self.item(object, key),
            ("contains", [object, item]) => self.compare(item, CmpOp::In, object).map(Value::Bool),
            ("neg", [x]) => self.binary(&Value::Int(0), Operator::Sub, x),
            ("not_", [x]) => Ok(Value::Bool(!x.truth())),
            (_, [a, b]) => match (operator(name), comparison(name)) {
                (Some(op), _) => self.binary(a, op, b),
                (_, Some(op)) => self.compare(a, op, b).map(Value::Bool),
                _ => Err(Stop::Unsupported),
            },
            _ => Err(Stop::Unsupported),
        }
    }

    fn of_math(&mut self, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        if let ("prod", [items]) = (name, args) {
            let items = self.iter(items)?;
            let mut product = Value::Int(1);
            while let Some(item) = self.advance(&items)? {
                product = self.binary(&product, Operator::Mult, &item)?;
            }
            return Ok(product);
        }
        if let ("gcd", [Value::Int(a), Value::Int(b)]) = (name, args) {
            let (mut a, mut b) = (*a, *b);
            while b != 0 {
                (a, b) = (b, a.wrapping_rem(b));
            }
            return Ok(Value::Int(a.saturating_abs()));
        }
        let (Some(x), [value]) = (args.first().and_then(Value::float), args) else {
            return Err(Stop::Unsupported);
        };
        match name {
            "floor" | "ceil" | "trunc" if value.int().is_some() => checked(value.int()),
            "floor" => whole(x.floor()),
            "ceil" => whole(x.ceil()),
            "trunc" => whole(x.trunc()),
            "sqrt" if x.partial_cmp(&0.0) == Some(Ordering::Less) => raise("ValueError"),
            "sqrt" => Ok(Value::Float(x.sqrt())),
            "fabs" => Ok(Value::Float(x.abs())),
            _ => Err(Stop::Unsupported),
        }
    }

    fn of_itertools(
        &mut self,
        name: &str,
        args: &[Value<'a>],
        keywords: &Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        let known: &[&str] = match name {
            "accumulate" => &["func", "initial"],
            "groupby" => &["key"],
            "zip_longest" => &["fillvalue"],
            "count" => &["start", "step"],
            "repeat" => &["times"],
            _ => &[],
        };
        if !keywords.iter().all(|k| known.contains(&&*k.0)) {
            return Err(Stop::Unsupported);
        }
        let named = |at: usize, name: &str| args.get(at).cloned().or_else(|| option(keywords, name));
        let given = |value: Option<Value<'a>>| value.filter(|v| !matches!(v, Value::None));
        let iter = match (name, args) {
            ("chain", _) => {
                let all = self.iter(&Value::tuple(args.to_vec()))?;
                Iter::Chain(all, None)
            }
            ("chain.from_iterable", [all]) => Iter::Chain(self.iter(all)?, None),
            ("accumulate", [items] | [items, _]) => {
                let initial = given(option(keywords, "initial"));
                let first = initial.is_some();
                Iter::Accumulate(self.iter(items)?, given(named(1, "func")), initial, first)
            }
            ("groupby", [items] | [items, _]) => {
                let (source, key) = (self.iter(items)?, given(named(1, "key")));
                Iter::Groups(Box::new(Groups { source, key, pending: None, last: None }))
            }
            ("islice", [items, bounds @ ..]) => {
                let place = |v: &Value<'a>, default: usize| match v {
                    Value::None => Ok(default),
                    v => {
                        v.int().and_then(|n| usize::try_from(n).ok()).map_or_else(|| raise("ValueError"), Ok)
                    }
                };
                let (next, stop, step) = match bounds {
                    [stop] => (0, place(stop, usize::MAX)?, 1),
                    [next, stop] => (place(next, 0)?, place(stop, usize::MAX)?, 1),
                    [next, stop, step] => (place(next, 0)?, place(stop, usize::MAX)?, place(step, 1)?),
                    _ => return raise("TypeError"),
                };
                if step == 0 {
                    return raise("ValueError");
                }
                Iter::Slice(self.iter(items)?, Box::new(Slice { at: 0, next, stop, step }))
            }
            ("count", [] | [_] | [_, _]) => {
                let (start, step) = (named(0, "start"), named(1, "step"));
                Iter::Count(start.unwrap_or(Value::Int(0)), step.unwrap_or(Value::Int(1)))
            }
            ("cycle", [items]) => Iter::Cycle(Some(self.iter(items)?), Vec::new(), 0),
            ("repeat", [item] | [item, _]) => match named(1, "times").map(|n| n.int()) {
                None => Iter::Repeat(item.clone()),
                Some(None) => return raise("TypeError"),
                Some(Some(n)) => {
                    let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
                    self.size(n)?;
                    Iter::Items(vec![item.clone(); n].into_iter())
                }
            },
            ("zip_longest", _) => {
                let fill = option(keywords, "fillvalue").unwrap_or(Value::None);
                Iter::Zip(self.iters(args)?, End::Longest(fill))
            }
            ("pairwise", [items]) => Iter::Pairwise(self.iter(items)?, None),
            ("starmap", [function, rows]) => Iter::Map(function.clone(), self.iter(rows)?),
            ("takewhile", [function, items]) => Iter::TakeWhile(function.clone(), self.iter(items)?),
            ("dropwhile", [function, items]) => Iter::DropWhile(Some(function.clone()), self.iter(items)?),
            ("filterfalse", [function, items]) => Iter::Filter(function.clone(), self.iter(items)?, false),
            ("product", _) => Iter::Items(self.product(args)?.into_iter()),
            ("combinations", [items, n]) if n.int() == Some(2) => {
                let items = self.items(items)?;
                self.size(items.len() * items.len())?;
                let pair = |(i, x): (usize, &Value<'a>)| {
                    let others = items[i + 1..].iter();
                    others.map(|y| Value::tuple(vec![x.clone(), y.clone()])).collect::<Vec<_>>()
                };
                Iter::Items(items.iter().enumerate().flat_map(pair).collect::<Vec<_>>().into_iter())
            }
            _ => return Err(Stop::Unsupported),
        };
        Ok(iter.into())
    }

    fn product(&mut self, args: &[Value<'a>]) -> Run<'a, Vec<Value<'a>>> {
        let mut rows: Vec<Vec<Value<'a>>> = vec![Vec::new()];
        for arg in args {
            let items = self.items(arg)?;
            let n = rows.len().saturating_mul(items.len());
            self.size(n.saturating_mul(rows.first().map_or(0, Vec::len) + 1))?;
            self.burn(n)?;
            let with = |row: &Vec<Value<'a>>, item: &Value<'a>| row.iter().chain([item]).cloned().collect();
            rows = rows.iter().flat_map(|row| items.iter().map(|item| with(row, item))).collect();
        }
        Ok(rows.into_iter().map(Value::tuple).collect())
    }
}
