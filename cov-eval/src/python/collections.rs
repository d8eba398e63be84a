//! Dictionaries that know what a missing key has, sets that may be frozen, and queues with two ends.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use ruff_python_ast::Operator;

use super::interpreter::Interpreter;
use super::value::{Keywords, Run, Stop, Value, raise};

/// What a dictionary has for a key that it does not hold.
#[derive(Clone, Default)]
pub(super) enum Missing<'a> {
    #[default]
    Error,
    /// What a call of this makes, as in `defaultdict`; an error where it is `None`.
    Made(Value<'a>),
    /// Nothing, as in `Counter`.
    Zero,
}

/// Keys and values in their order.
#[derive(Clone, Default)]
pub(super) struct Table<'a> {
    pairs: Vec<(Value<'a>, Value<'a>)>,
    pub(super) missing: Missing<'a>,
}

/// Items of a set in their order.
#[derive(Clone, Default)]
pub(super) struct Bag<'a> {
    items: Vec<Value<'a>>,
    pub(super) frozen: bool,
}

/// Items of a `deque`, and how many it may hold.
#[derive(Clone, Default)]
pub(super) struct Queue<'a> {
    items: Vec<Value<'a>>,
    pub(super) most: Option<usize>,
}

macro_rules! holds {
    ($($kind:ident $field:ident $item:ty),*) => {$(
        impl<'a> Deref for $kind<'a> {
            type Target = Vec<$item>;

            fn deref(&self) -> &Self::Target {
                &self.$field
            }
        }

        impl DerefMut for $kind<'_> {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.$field
            }
        }

        impl<'a> From<Vec<$item>> for $kind<'a> {
            fn from($field: Vec<$item>) -> Self {
                Self { $field, ..Self::default() }
            }
        }
    )*};
}

holds!(Table pairs (Value<'a>, Value<'a>), Bag items Value<'a>, Queue items Value<'a>);

impl Table<'_> {
    /// Whether it is a `dict` and no other kind.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.missing, Missing::Error)
    }
}

impl<'a> Interpreter<'a> {
    /// What a dictionary has for a key that it does not hold.
    pub(super) fn missing(&mut self, dict: &Value<'a>, key: &Value<'a>) -> Run<'a, Value<'a>> {
        let Value::Dict(table) = dict else { return raise("TypeError") };
        let missing = table.borrow().missing.clone();
        match missing {
            Missing::Zero => Ok(Value::Int(0)),
            Missing::Error | Missing::Made(Value::None) => raise("KeyError"),
            Missing::Made(make) => {
                let value = self.call(&make, Vec::new(), Vec::new())?;
                self.put(dict, key.clone(), value.clone())?;
                Ok(value)
            }
        }
    }

    /// Takes the pairs of a dictionary or of a list of pairs into a dictionary.
    pub(super) fn take_in(&mut self, dict: &Value<'a>, other: &Value<'a>) -> Run<'a, ()> {
        let pairs =
            if let Value::Dict(_) = other { self.method(other, "items", &[], &[])? } else { other.clone() };
        for entry in self.items(&pairs)? {
            let [key, value] = &self.items(&entry)?[..] else { return raise("ValueError") };
            self.put(dict, key.clone(), value.clone())?;
        }
        Ok(())
    }

    pub(super) fn with_keys(&mut self, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let ([keys] | [keys, _]) = args else { return raise("TypeError") };
        let dict = Value::Dict(Rc::default());
        for key in self.items(keys)? {
            self.put(&dict, key, args.get(1).cloned().unwrap_or(Value::None))?;
        }
        Ok(dict)
    }

    /// Adds to the counts of a `Counter`, or takes from them.
    fn count(&mut self, counter: &Value<'a>, other: &Value<'a>, op: Operator) -> Run<'a, ()> {
        let Value::Dict(table) = counter else { return raise("TypeError") };
        let pairs: Vec<(Value<'a>, Value<'a>)> = match other {
            Value::Dict(other) => other.borrow().to_vec(),
            other => self.items(other)?.into_iter().map(|item| (item, Value::Int(1))).collect(),
        };
        for (key, n) in pairs {
            self.burn(table.borrow().len() / 16)?;
            let old = table.borrow().iter().find(|(k, _)| k.equals(&key)).map(|p| p.1.clone());
            let new = self.binary(&old.unwrap_or(Value::Int(0)), op, &n)?;
            self.put(counter, key, new)?;
        }
        Ok(())
    }

    /// `Counter()` and `defaultdict()`.
    pub(super) fn table(&mut self, missing: Missing<'a>, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let counts = matches!(missing, Missing::Zero);
        let table = Table { missing, ..Table::default() };
        let dict = Value::Dict(Rc::new(table.into()));
        match args {
            [] => {}
            [other] if counts => self.count(&dict, other, Operator::Add)?,
            [other] => self.take_in(&dict, other)?,
            _ => return raise("TypeError"),
        }
        Ok(dict)
    }

    /// Methods that only a `Counter` has, or has in its own way.
    pub(super) fn of_counter(
        &mut self,
        counter: &Value<'a>,
        name: &str,
        args: &[Value<'a>],
    ) -> Run<'a, Value<'a>> {
        let Value::Dict(table) = counter else { return Err(Stop::Unsupported) };
        let pairs = table.borrow().to_vec();
        match (name, args) {
            ("update", [other]) => self.count(counter, other, Operator::Add).map(|()| Value::None),
            ("subtract", [other]) => self.count(counter, other, Operator::Sub).map(|()| Value::None),
            ("total", []) => {
                let counts = Value::list(pairs.into_iter().map(|p| p.1).collect());
                self.builtin("sum", vec![counts], Keywords::new())
            }
            ("most_common", [] | [_]) => {
                let most = match args.first() {
                    None | Some(Value::None) => usize::MAX,
                    Some(n) => {
                        n.int().map_or(Err(Stop::Unsupported), |n| Ok(usize::try_from(n).unwrap_or(0)))?
                    }
                };
                let counts = pairs.iter().map(|p| p.1.clone()).zip(pairs.iter().map(|(k, v)| (k, v)));
                let keyed = counts.map(|(n, (k, v))| (n, Value::tuple(vec![k.clone(), v.clone()]))).collect();
                let mut sorted = self.sorted_by_keys(keyed, true)?;
                sorted.truncate(most);
                Ok(Value::list(sorted))
            }
            _ => Err(Stop::Unsupported),
        }
    }

    pub(super) fn queue(&mut self, args: &[Value<'a>], keywords: &Keywords<'a>) -> Run<'a, Value<'a>> {
        let most = match (args.get(1), &keywords[..]) {
            (None, []) => None,
            (Some(n), []) => Some(n),
            (None, [(name, n)]) if &**name == "maxlen" => Some(n),
            _ => return Err(Stop::Unsupported),
        };
        let most = match most {
            None | Some(Value::None) => None,
            Some(n) => match n.int().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Some(n),
                None => return Err(Stop::Unsupported),
            },
        };
        let mut items = args.first().map_or(Ok(Vec::new()), |items| self.items(items))?;
        items.drain(..most.map_or(0, |most| items.len().saturating_sub(most)));
        let mut queue = Queue::from(items);
        queue.most = most;
        Ok(Value::Queue(Rc::new(queue.into())))
    }

    pub(super) fn of_queue(
        &mut self,
        object: &Value<'a>,
        name: &str,
        args: &[Value<'a>],
    ) -> Run<'a, Value<'a>> {
        let Value::Queue(queue) = object else { return Err(Stop::Unsupported) };
        let len = queue.borrow().len();
        let at_left = name.ends_with("left");
        match (name, args) {
            ("append" | "appendleft", [x]) => self.enqueue(object, vec![x.clone()], at_left)?,
            ("extend" | "extendleft", [items]) => {
                let items = self.items(items)?;
                self.enqueue(object, items, at_left)?;
            }
            ("pop" | "popleft", []) if len == 0 => return raise("IndexError"),
            ("pop" | "popleft", []) => {
                return Ok(queue.borrow_mut().remove(if at_left { 0 } else { len - 1 }));
            }
            ("rotate", [] | [_]) if len > 0 => {
                let Some(n) = args.first().map_or(Some(1), Value::int) else { return raise("TypeError") };
                queue.borrow_mut().rotate_right(n.rem_euclid(len as i128) as usize);
            }
            ("rotate", [] | [_]) => {}
            ("clear", []) => queue.borrow_mut().clear(),
            ("reverse", []) => queue.borrow_mut().reverse(),
            ("copy", []) => {
                let copy = queue.borrow().clone();
                return Ok(Value::Queue(Rc::new(copy.into())));
            }
            ("count", [x]) => {
                return Ok(Value::Int(queue.borrow().iter().filter(|v| v.equals(x)).count() as i128));
            }
            _ => return Err(Stop::Unsupported),
        }
        Ok(Value::None)
    }

    /// Puts items at an end of a queue; those that are too many go off the other one.
    fn enqueue(&mut self, object: &Value<'a>, items: Vec<Value<'a>>, at_left: bool) -> Run<'a, ()> {
        let Value::Queue(queue) = object else { return raise("TypeError") };
        let most = queue.borrow().most.unwrap_or(usize::MAX);
        for item in items {
            let len = queue.borrow().len();
            self.size(len + 1)?;
            let mut queue = queue.borrow_mut();
            if at_left {
                queue.insert(0, item);
                queue.truncate(most);
            } else {
                queue.push(item);
                if len >= most {
                    queue.remove(0);
                }
            }
        }
        Ok(())
    }
}
