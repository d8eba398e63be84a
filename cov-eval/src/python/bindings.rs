//! Names and what they stand for, and places that are assigned to.

use ruff_python_ast::{self as ast, Expr};

use super::builtins::BUILTINS;
use super::interpreter::Interpreter;
use super::lint::is_builtin;
use super::value::{Run, Stop, Value, raise};

impl<'a> Interpreter<'a> {
    pub(super) fn bind(&mut self, name: &'a str, value: Value<'a>) {
        self.bind_at(name, value, 0);
    }

    /// Binds a name in the function around comprehensions, as `:=` does.
    pub(super) fn bind_outside(&mut self, name: &'a str, value: Value<'a>) {
        self.bind_at(name, value, self.frame.comprehensions);
    }

    fn bind_at(&mut self, name: &'a str, value: Value<'a>, above: usize) {
        let frame = &self.frame;
        let own = frame.scopes.iter().rev().nth(above);
        let local = if above < frame.comprehensions || !frame.global.contains(&name) {
            let nonlocal = frame.nonlocal.iter().find(|n| n.0 == name && above == frame.comprehensions);
            nonlocal.map(|n| &n.1).or(own)
        } else {
            None
        };
        self.bound_global |= local.is_none();
        local.unwrap_or(&self.globals).borrow_mut().insert(name, value);
    }

    pub(super) fn name(&self, name: &str) -> Run<'a, Value<'a>> {
        let scopes = self.frame.scopes.iter().rev().chain([&self.globals]);
        for scope in scopes {
            if let Some(value) = scope.borrow().get(name) {
                return if matches!(value, Value::Class) {
                    Err(Stop::Unsupported)
                } else {
                    Ok(value.clone())
                };
            }
        }
        if let Some(builtin) = BUILTINS.iter().find(|b| **b == name) {
            return Ok(Value::Builtin(builtin));
        }
        if name.ends_with("Error") || matches!(name, "Exception" | "StopIteration") {
            return Ok(Value::Exception(name.into()));
        }
        if is_builtin(name) { Err(Stop::Unsupported) } else { raise("NameError") }
    }

    pub(super) fn assign(&mut self, target: &'a Expr, value: Value<'a>) -> Run<'a, ()> {
        match target {
            Expr::Name(n) => self.bind(n.id.as_str(), value),
            Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. }) => {
                let star = elts.iter().position(Expr::is_starred_expr);
                let items = self.items(&value)?;
                let more = items.len().checked_sub(elts.len() - usize::from(star.is_some()));
                let Some(more) = more.filter(|&more| more == 0 || star.is_some()) else {
                    return raise("ValueError");
                };
                let mut items = items.into_iter();
                for target in elts {
                    if let Expr::Starred(s) = target {
                        let middle = Value::list(items.by_ref().take(more).collect());
                        self.assign(&s.value, middle)?;
                    } else if let Some(item) = items.next() {
                        self.assign(target, item)?;
                    }
                }
            }
            Expr::Subscript(s) => {
                let object = self.eval(&s.value)?;
                if let Expr::Slice(slice) = &*s.slice {
                    let items = self.items(&value)?;
                    return self.replace(&object, slice, items);
                }
                let key = self.eval(&s.slice)?;
                return self.set_item(&object, key, value);
            }
            _ => return Err(Stop::Unsupported),
        }
        Ok(())
    }

    pub(super) fn set_item(&mut self, object: &Value<'a>, key: Value<'a>, value: Value<'a>) -> Run<'a, ()> {
        match object {
            Value::List(list) => {
                let at = self.place(&key, list.borrow().len())?;
                list.borrow_mut()[at] = value;
            }
            Value::Queue(queue) => {
                let at = self.place(&key, queue.borrow().len())?;
                queue.borrow_mut()[at] = value;
            }
            Value::Dict(_) => self.put(object, key, value)?,
            other => return Value::mistake(&[other]),
        }
        Ok(())
    }

    /// Puts items in the place of a part of a list.
    pub(super) fn replace(
        &mut self,
        object: &Value<'a>,
        slice: &'a ast::ExprSlice,
        items: Vec<Value<'a>>,
    ) -> Run<'a, ()> {
        let Value::List(list) = object else { return Value::mistake(&[object]) };
        let [from, to, step] = self.bounds(slice, list.borrow().len())?;
        if step != 1 {
            return Err(Stop::Unsupported);
        }
        self.size(list.borrow().len() + items.len())?;
        list.borrow_mut().splice(from as usize..to.max(from) as usize, items);
        Ok(())
    }

    /// What `old op= add` comes to; collections change in place.
    pub(super) fn augmented(
        &mut self,
        old: &Value<'a>,
        op: ast::Operator,
        add: &Value<'a>,
    ) -> Run<'a, Value<'a>> {
        if let (Value::List(list), ast::Operator::Add) = (old, op) {
            let items = self.items(add)?;
            self.size(list.borrow().len() + items.len())?;
            list.borrow_mut().extend(items);
            return Ok(old.clone());
        }
        let new = self.binary(old, op, add)?;
        match (old, &new) {
            (Value::List(old), Value::List(new)) => drop(old.replace(new.take())),
            (Value::Dict(old), Value::Dict(new)) => drop(old.replace(new.take())),
            (Value::Set(set), Value::Set(new)) if !set.borrow().frozen => drop(set.replace(new.take())),
            _ => return Ok(new),
        }
        Ok(old.clone())
    }

    /// Sets a key of a dictionary.
    pub(super) fn put(&mut self, dict: &Value<'a>, key: Value<'a>, value: Value<'a>) -> Run<'a, ()> {
        let Value::Dict(dict) = dict else { return raise("TypeError") };
        if !key.hashable() {
            return raise("TypeError");
        }
        let found = dict.borrow().iter().position(|(k, _)| k.equals(&key));
        match found {
            Some(i) => dict.borrow_mut()[i].1 = value,
            None => {
                self.size(dict.borrow().len() + 1)?;
                dict.borrow_mut().push((key, value));
            }
        }
        Ok(())
    }

    fn place(&self, key: &Value<'a>, len: usize) -> Run<'a, usize> {
        let Some(i) = key.int() else { return raise("TypeError") };
        let i = if i < 0 { i + len as i128 } else { i };
        usize::try_from(i).ok().filter(|&i| i < len).map_or_else(|| raise("IndexError"), Ok)
    }
}
