//! Iterators: each finds its items one at a time, when it is asked, so that what is done on the way is done then.

use std::cell::RefCell;
use std::rc::Rc;

use ruff_python_ast::Operator;

use super::generators::{Comprehension, Generator};
use super::interpreter::{DEPTH, Interpreter};
use super::operators::checked;
use super::value::{Run, Stop, Value, raise, range_length};

pub(super) type Source<'a> = Rc<RefCell<Iter<'a>>>;

#[derive(Default)]
pub(super) enum Iter<'a> {
    /// Nothing is left.
    #[default]
    Done,
    /// It is asked for an item and has not found it yet.
    Running,
    Items(std::vec::IntoIter<Value<'a>>),
    /// A list, which may change meanwhile, and the place of the next item.
    Live(Rc<RefCell<Vec<Value<'a>>>>, usize),
    /// Items of something whose size must not change.
    Sized(std::vec::IntoIter<Value<'a>>, Value<'a>, usize),
    Range(Rc<[i128; 3]>, i128),
    Count(Value<'a>, Value<'a>),
    Cycle(Option<Source<'a>>, Vec<Value<'a>>, usize),
    Repeat(Value<'a>),
    Enumerate(Source<'a>, i128),
    Zip(Vec<Source<'a>>, End<'a>),
    /// A function of each row of arguments.
    Map(Value<'a>, Source<'a>),
    /// The items for which a function says this.
    Filter(Value<'a>, Source<'a>, bool),
    TakeWhile(Value<'a>, Source<'a>),
    DropWhile(Option<Value<'a>>, Source<'a>),
    /// Items of the items, and of the one that is gone through.
    Chain(Source<'a>, Option<Source<'a>>),
    Slice(Source<'a>, Box<Slice>),
    /// A function, `+` where there is none, with what it came to, and whether that is an item itself.
    Accumulate(Source<'a>, Option<Value<'a>>, Option<Value<'a>>, bool),
    Groups(Box<Groups<'a>>),
    Pairwise(Source<'a>, Option<Value<'a>>),
    Generator(Box<Generator<'a>>),
    Comprehension(Box<Comprehension<'a>>),
}

/// When `zip` ends.
pub(super) enum End<'a> {
    Shortest,
    /// With all at once.
    Strict,
    /// With the last, and this stands for what others do not have.
    Longest(Value<'a>),
}

/// Items that were passed, the place of the next that is wanted, the end and the step.
pub(super) struct Slice {
    pub(super) at: usize,
    pub(super) next: usize,
    pub(super) stop: usize,
    pub(super) step: usize,
}

/// `groupby`: a key function, the first of the next group with its key, and the last group, which ends with the next one.
pub(super) struct Groups<'a> {
    pub(super) source: Source<'a>,
    pub(super) key: Option<Value<'a>>,
    pub(super) pending: Option<(Value<'a>, Value<'a>)>,
    pub(super) last: Option<Source<'a>>,
}

impl<'a> From<Iter<'a>> for Value<'a> {
    fn from(iter: Iter<'a>) -> Self {
        Value::Iterator(Rc::new(RefCell::new(iter)))
    }
}

impl<'a> Interpreter<'a> {
    /// What goes through the items of a value.
    pub(super) fn iter(&mut self, value: &Value<'a>) -> Run<'a, Source<'a>> {
        let iter = match value {
            Value::Iterator(source) => return Ok(source.clone()),
            Value::List(list) => Iter::Live(list.clone(), 0),
            Value::Range(range) => Iter::Range(range.clone(), 0),
            Value::Dict(_) | Value::Set(_) | Value::Queue(_) => {
                let items = self.items(value)?;
                let n = items.len();
                Iter::Sized(items.into_iter(), value.clone(), n)
            }
            _ => Iter::Items(self.items(value)?.into_iter()),
        };
        Ok(Rc::new(RefCell::new(iter)))
    }

    pub(super) fn iters(&mut self, values: &[Value<'a>]) -> Run<'a, Vec<Source<'a>>> {
        values.iter().map(|value| self.iter(value)).collect()
    }

    /// The next item.
    pub(super) fn advance(&mut self, source: &Source<'a>) -> Run<'a, Option<Value<'a>>> {
        self.burn(0)?;
        if self.depth >= DEPTH {
            return Err(Stop::Limit);
        }
        self.depth += 1;
        let mut iter = source.replace(Iter::Running);
        let result = self.step(&mut iter);
        let made = matches!(iter, Iter::Generator(_) | Iter::Comprehension(_));
        let over = matches!(result, Ok(None)) || (result.is_err() && made);
        source.replace(if over { Iter::Done } else { iter });
        self.depth -= 1;
        result
    }

    fn says(&mut self, function: &Value<'a>, item: &Value<'a>) -> Run<'a, bool> {
        match function {
            Value::None => Ok(item.truth()),
            function => Ok(self.call(function, vec![item.clone()], Vec::new())?.truth()),
        }
    }

    fn step(&mut self, iter: &mut Iter<'a>) -> Run<'a, Option<Value<'a>>> {
        Ok(match iter {
            Iter::Done => None,
            Iter::Running => return Err(Stop::Unsupported),
            Iter::Items(items) => items.next(),
            Iter::Live(list, at) => {
                *at += 1;
                list.borrow().get(*at - 1).cloned()
            }
            Iter::Sized(items, of, n) => {
                if of.length() != Some(*n) {
                    return raise("RuntimeError");
                }
                items.next()
            }
            Iter::Range(range, at) => {
                if *at >= range_length(range) as i128 {
                    return Ok(None);
                }
                let value = at.checked_mul(range[2]).and_then(|way| range[0].checked_add(way));
                *at += 1;
                Some(checked(value)?)
            }
            Iter::Count(next, step) => {
                let value = self.binary(next, Operator::Add, step)?;
                Some(std::mem::replace(next, value))
            }
            Iter::Cycle(source, seen, at) => {
                if let Some(first) = source {
                    if let Some(item) = self.advance(first)? {
                        self.room(seen.len() + 1)?;
                        seen.push(item.clone());
                        return Ok(Some(item));
                    }
                    *source = None;
                }
                let item = seen.get(*at).cloned();
                *at = (*at + 1) % seen.len().max(1);
                item
            }
            Iter::Repeat(value) => Some(value.clone()),
            Iter::Enumerate(source, at) => {
                let number = *at;
                *at = at.saturating_add(1);
                self.advance(source)?.map(|item| Value::tuple(vec![Value::Int(number), item]))
            }
            Iter::Zip(sources, end) => self.row(sources, end)?,
            Iter::Map(function, rows) => match self.advance(rows)? {
                Some(row) => {
                    let args = self.items(&row)?;
                    Some(self.call(function, args, Vec::new())?)
                }
                None => None,
            },
            Iter::Filter(function, source, wanted) => loop {
                match self.advance(source)? {
                    Some(item) if self.says(function, &item)? == *wanted => break Some(item),
                    Some(_) => {}
                    None => break None,
                }
            },
            Iter::TakeWhile(function, source) => match self.advance(source)? {
                Some(item) if self.says(function, &item)? => Some(item),
                _ => None,
            },
            Iter::DropWhile(function, source) => loop {
                let item = self.advance(source)?;
                match (&item, &*function) {
                    (Some(item), Some(function)) if self.says(function, item)? => {}
                    _ => {
                        *function = None;
                        break item;
                    }
                }
            },
            Iter::Chain(outer, inner) => loop {
                if let Some(source) = inner
                    && let Some(item) = self.advance(source)?
                {
                    break Some(item);
                }
                match self.advance(outer)? {
                    Some(next) => *inner = Some(self.iter(&next)?),
                    None => break None,
                }
            },
            Iter::Slice(source, slice) => loop {
                if slice.at >= slice.stop {
                    break None;
                }
                let Some(item) = self.advance(source)? else { break None };
                slice.at += 1;
                if slice.at > slice.next {
                    slice.next = slice.next.saturating_add(slice.step).min(slice.stop);
                    break Some(item);
                }
            },
            Iter::Accumulate(source, function, total, first) => {
                if std::mem::take(first) {
                    return Ok(total.clone());
                }
                let Some(item) = self.advance(source)? else { return Ok(None) };
                let new = match (&*total, &*function) {
                    (None, _) => item,
                    (Some(total), None) => self.binary(total, Operator::Add, &item)?,
                    (Some(total), Some(f)) => self.call(f, vec![total.clone(), item], Vec::new())?,
                };
                *total = Some(new.clone());
                Some(new)
            }
            Iter::Groups(groups) => self.group(groups)?,
            Iter::Pairwise(source, before) => {
                if before.is_none() {
                    *before = self.advance(source)?;
                }
                match (self.advance(source)?, &mut *before) {
                    (Some(item), Some(before)) => {
                        let left = std::mem::replace(before, item.clone());
                        Some(Value::tuple(vec![left, item]))
                    }
                    _ => None,
                }
            }
            Iter::Generator(generator) => self.resume(generator)?,
            Iter::Comprehension(comprehension) => self.comprehended(comprehension)?,
        })
    }

    fn row(&mut self, sources: &[Source<'a>], end: &End<'a>) -> Run<'a, Option<Value<'a>>> {
        let (mut row, mut ended) = (Vec::with_capacity(sources.len()), 0);
        for source in sources {
            match (self.advance(source)?, end) {
                (Some(_), End::Strict) if ended > 0 => return raise("ValueError"),
                (Some(item), _) => row.push(item),
                (None, End::Shortest) => return Ok(None),
                (None, End::Strict) if !row.is_empty() => return raise("ValueError"),
                (None, End::Strict) => ended += 1,
                (None, End::Longest(value)) => {
                    row.push(value.clone());
                    ended += 1;
                }
            }
        }
        Ok((ended < sources.len()).then(|| Value::tuple(row)))
    }

    fn group(&mut self, groups: &mut Groups<'a>) -> Run<'a, Option<Value<'a>>> {
        if let Some(last) = groups.last.take() {
            last.replace(Iter::Done);
        }
        let mut found: Option<(Value<'a>, Vec<Value<'a>>)> = groups.pending.take().map(|(k, v)| (k, vec![v]));
        while let Some(item) = self.advance(&groups.source)? {
            let key = match &groups.key {
                Some(function) => self.call(function, vec![item.clone()], Vec::new())?,
                None => item.clone(),
            };
            match &mut found {
                None => found = Some((key, vec![item])),
                Some((of, items)) if of.equals(&key) => {
                    self.room(items.len() + 1)?;
                    items.push(item);
                }
                Some(_) => {
                    groups.pending = Some((key, item));
                    break;
                }
            }
        }
        Ok(found.map(|(key, items)| {
            let group = Rc::new(RefCell::new(Iter::Items(items.into_iter())));
            groups.last = Some(group.clone());
            Value::tuple(vec![key, Value::Iterator(group)])
        }))
    }
}
