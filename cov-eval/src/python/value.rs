//! Values of the interpreter.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::FixedState;
use ruff_python_ast as ast;

use super::collections::{Bag, Queue, Table};
use super::iterators::Source;

/// Names of a function or of the module, as they stand in the program. Nothing depends on their order.
pub(super) type Names<'a> = HashMap<&'a str, Value<'a>, FixedState>;

pub(super) type Scope<'a> = Rc<RefCell<Names<'a>>>;

/// Arguments with their names.
pub(super) type Keywords<'a> = Vec<(Rc<str>, Value<'a>)>;

/// Why evaluation does not go on.
#[derive(Clone)]
pub(super) enum Stop<'a> {
    /// An exception, by its kind.
    Raise(Rc<str>),
    Return(Value<'a>),
    Break,
    Continue,
    /// Something that this interpreter does not know.
    Unsupported,
    /// Fuel, depth or size ran out.
    Limit,
}

pub(super) type Run<'a, T> = Result<T, Stop<'a>>;

pub(super) fn raise<'a, T>(kind: &str) -> Run<'a, T> {
    Err(Stop::Raise(kind.into()))
}

pub(super) struct Function<'a> {
    pub(super) params: Vec<(&'a str, Option<Value<'a>>)>,
    /// How many of them may be given by their places.
    pub(super) places: usize,
    pub(super) rest: Option<&'a str>,
    /// For arguments with other names.
    pub(super) named_rest: Option<&'a str>,
    pub(super) body: Body<'a>,
    /// The scopes around it, the nearest last, without the module's.
    pub(super) around: Vec<Scope<'a>>,
}

/// A function with some of its arguments.
pub(super) struct Partial<'a> {
    pub(super) function: Value<'a>,
    pub(super) args: Vec<Value<'a>>,
    pub(super) keywords: Keywords<'a>,
}

pub(super) enum Body<'a> {
    Statements(&'a [ast::Stmt]),
    Expression(&'a ast::Expr),
}

thread_local! {
    /// Comparisons and conversions to text that are left to the running program: values may hold themselves.
    static WORK: Cell<u32> = const { Cell::new(0) };
}

/// So deep may values be nested that are compared, and so often.
pub(super) const MOST_WORK: u32 = 60_000;

pub(super) fn refill(work: u32) {
    WORK.set(work);
}

pub(super) fn work_left() -> u32 {
    WORK.get()
}

/// Whether there is work left, of which this takes one.
pub(super) fn spend() -> bool {
    let left = WORK.get();
    WORK.set(left.saturating_sub(1));
    left > 0
}

pub(super) fn exhausted() -> bool {
    WORK.get() == 0
}

#[derive(Clone)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    List(Rc<RefCell<Vec<Value<'a>>>>),
    Tuple(Rc<Vec<Value<'a>>>),
    Dict(Rc<RefCell<Table<'a>>>),
    Set(Rc<RefCell<Bag<'a>>>),
    Queue(Rc<RefCell<Queue<'a>>>),
    /// Start, end and step; apart, so that no value takes more room than a number.
    Range(Rc<[i128; 3]>),
    Function(Rc<Function<'a>>),
    Builtin(&'static str),
    Method(Rc<Value<'a>>, &'a str),
    Partial(Rc<Partial<'a>>),
    Iterator(Source<'a>),
    /// An exception or its class, by its kind.
    Exception(Rc<str>),
    Module(Rc<str>),
    /// A class or something else of which no more than its name is known: what uses it is not supported.
    Class,
}

pub(super) fn range_length(range: &[i128; 3]) -> usize {
    let [start, end, step] = *range;
    let span = if step > 0 { end.saturating_sub(start) } else { start.saturating_sub(end) };
    let step = step.saturating_abs();
    usize::try_from(((span.max(0)).saturating_add(step - 1)) / step.max(1)).unwrap_or(usize::MAX)
}

impl<'a> Value<'a> {
    /// A mistake in the use of values, or what is not known where one of them is not.
    pub(super) fn mistake<T>(values: &[&Value<'a>]) -> Run<'a, T> {
        let known = |value: &&Value<'a>| {
            !matches!(
                value,
                Value::Class | Value::Module(_) | Value::Method(..) | Value::Builtin(_) | Value::Exception(_)
            )
        };
        if values.iter().all(known) { raise("TypeError") } else { Err(Stop::Unsupported) }
    }

    pub(super) fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(Rc::new(RefCell::new(items)))
    }

    pub(super) fn str(text: impl Into<Rc<str>>) -> Self {
        Value::Str(text.into())
    }

    pub(super) fn char(c: char) -> Self {
        Value::Str((&*c.encode_utf8(&mut [0; 4])).into())
    }

    pub(super) fn range(start: i128, end: i128, step: i128) -> Self {
        Value::Range(Rc::new([start, end, step]))
    }

    pub(super) fn tuple(items: Vec<Value<'a>>) -> Self {
        Value::Tuple(Rc::new(items))
    }

    pub(super) fn set(items: Vec<Value<'a>>) -> Self {
        let mut unique: Vec<Value<'a>> = Vec::new();
        for item in items {
            if !unique.iter().any(|u| u.equals(&item)) {
                unique.push(item);
            }
        }
        Value::Set(Rc::new(Bag::from(unique).into()))
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(s) => !s.is_empty(),
            Value::List(l) => !l.borrow().is_empty(),
            Value::Tuple(t) => !t.is_empty(),
            Value::Dict(d) => !d.borrow().is_empty(),
            Value::Set(s) => !s.borrow().is_empty(),
            Value::Queue(q) => !q.borrow().is_empty(),
            Value::Range(..) => self.length().is_some_and(|n| n > 0),
            _ => true,
        }
    }

    pub(super) fn length(&self) -> Option<usize> {
        Some(match self {
            Value::Str(s) => s.chars().count(),
            Value::List(l) => l.borrow().len(),
            Value::Tuple(t) => t.len(),
            Value::Dict(d) => d.borrow().len(),
            Value::Set(s) => s.borrow().len(),
            Value::Queue(q) => q.borrow().len(),
            Value::Range(range) => range_length(range),
            _ => return None,
        })
    }

    /// As a whole number: integers and truth values.
    pub(super) fn int(&self) -> Option<i128> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            other => other.int().map(|i| i as f64),
        }
    }

    /// `==`; floats must be the same.
    pub(super) fn equals(&self, other: &Value<'a>) -> bool {
        self.same(other, 0.0)
    }

    /// Equality with a relative tolerance for floats.
    pub(super) fn same(&self, other: &Value<'a>, tolerance: f64) -> bool {
        if !spend() {
            return false;
        }
        let all = |a: &[Value<'a>], b: &[Value<'a>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.same(y, tolerance))
        };
        if let (Some(a), Some(b)) = (self.int(), other.int()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.float(), other.float()) {
            return a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs());
        }
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b) || all(&a.borrow(), &b.borrow()),
            (Value::Tuple(a), Value::Tuple(b)) => all(a, b),
            (Value::Queue(a), Value::Queue(b)) => Rc::ptr_eq(a, b) || all(&a.borrow(), &b.borrow()),
            (Value::Set(a), Value::Set(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x.same(y, tolerance)))
            }
            (Value::Dict(a), Value::Dict(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                let find = |key: &Value<'a>| b.iter().find(|(k, _)| k.same(key, 0.0));
                a.len() == b.len()
                    && a.iter().all(|(k, v)| find(k).is_some_and(|(_, w)| v.same(w, tolerance)))
            }
            (Value::Range(a), Value::Range(b)) => {
                let n = self.length();
                n == other.length() && (n == Some(0) || (a[0] == b[0] && (n == Some(1) || a[2] == b[2])))
            }
            (Value::Builtin(a), Value::Builtin(b)) => a == b,
            (Value::Exception(a), Value::Exception(b)) => a == b,
            _ => false,
        }
    }

    /// The order of `<`; nothing where Python raises a `TypeError`.
    pub(super) fn order(&self, other: &Value<'a>) -> Option<Ordering> {
        if !spend() {
            return None;
        }
        let all = |a: &[Value<'a>], b: &[Value<'a>]| {
            for (x, y) in a.iter().zip(b) {
                if !x.equals(y) {
                    return x.order(y);
                }
            }
            Some(a.len().cmp(&b.len()))
        };
        if let (Some(a), Some(b)) = (self.int(), other.int()) {
            return Some(a.cmp(&b));
        }
        if let (Some(a), Some(b)) = (self.float(), other.float()) {
            return a.partial_cmp(&b);
        }
        match (self, other) {
            (Value::Str(a), Value::Str(b)) => Some(a.cmp(b)),
            (Value::List(a), Value::List(b)) => all(&a.borrow(), &b.borrow()),
            (Value::Tuple(a), Value::Tuple(b)) => all(a, b),
            _ => None,
        }
    }

    /// Whether nothing that is done with it can change it.
    pub(super) fn is_fixed(&self) -> bool {
        match self {
            Value::List(_) | Value::Dict(_) | Value::Set(_) | Value::Queue(_) | Value::Iterator(_) => false,
            Value::Tuple(items) => items.iter().all(Value::is_fixed),
            Value::Method(object, _) => object.is_fixed(),
            Value::Partial(p) => {
                p.function.is_fixed()
                    && p.args.iter().chain(p.keywords.iter().map(|k| &k.1)).all(Value::is_fixed)
            }
            Value::Function(f) => {
                f.around.is_empty() && f.params.iter().filter_map(|p| p.1.as_ref()).all(Value::is_fixed)
            }
            _ => true,
        }
    }

    pub(super) fn hashable(&self) -> bool {
        match self {
            Value::Tuple(t) => t.iter().all(Value::hashable),
            Value::Set(s) => s.borrow().frozen,
            other => !matches!(other, Value::List(_) | Value::Dict(_) | Value::Queue(_)),
        }
    }
}
