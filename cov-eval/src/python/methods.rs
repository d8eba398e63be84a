//! Methods of lists, dictionaries and sets.

use std::rc::Rc;

use ruff_python_ast::Operator;

use super::collections::Missing;
use super::interpreter::Interpreter;
use super::value::{Run, Stop, Value, raise};

impl<'a> Interpreter<'a> {
    pub(super) fn method(
        &mut self,
        object: &Value<'a>,
        name: &str,
        args: &[Value<'a>],
        keywords: &[(Rc<str>, Value<'a>)],
    ) -> Run<'a, Value<'a>> {
        let object = match (object, name, keywords) {
            (Value::Str(template), "format", _) => {
                return self.formatted(template, args, &keywords.to_vec());
            }
            (Value::Dict(_), "update", [_, ..]) => {
                self.method(object, name, args, &[])?;
                for (key, value) in keywords {
                    self.put(object, Value::Str(key.clone()), value.clone())?;
                }
                return Ok(Value::None);
            }
            (Value::Str(text), "split" | "rsplit", [(key, n)]) if &**key == "maxsplit" => {
                return self.of_text(text, name, &[args.first().cloned().unwrap_or(Value::None), n.clone()]);
            }
            (_, "sort", _) | (_, _, []) => object,
            _ => return Err(Stop::Unsupported),
        };
        self.burn(object.length().unwrap_or(0) / 8)?;
        match object {
            Value::Str(text) => self.of_text(text, name, args),
            Value::List(list) => {
                if name == "sort" {
                    let sorted = self.sorted(list.borrow().clone(), keywords)?;
                    *list.borrow_mut() = sorted;
                    return Ok(Value::None);
                }
                self.of_list(object, name, args)
            }
            Value::Tuple(items) => match (name, args) {
                ("count", [x]) => Ok(Value::Int(items.iter().filter(|v| v.equals(x)).count() as i128)),
                ("index", [x]) => match items.iter().position(|v| v.equals(x)) {
                    Some(i) => Ok(Value::Int(i as i128)),
                    None => raise("ValueError"),
                },
                _ => Err(Stop::Unsupported),
            },
            Value::Dict(d)
                if matches!(d.borrow().missing, Missing::Zero)
                    && matches!(name, "update" | "subtract" | "total" | "most_common") =>
            {
                self.of_counter(object, name, args)
            }
            Value::Dict(_) => self.of_dict(object, name, args),
            Value::Queue(_) => self.of_queue(object, name, args),
            Value::Set(_) => self.of_set(object, name, args),
            _ => Err(Stop::Unsupported),
        }
    }

    fn of_list(&mut self, object: &Value<'a>, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let Value::List(list) = object else { return Err(Stop::Unsupported) };
        let place = |n: &Value<'a>, len: usize| {
            let n = n.int().ok_or_else(|| Stop::Raise("TypeError".into()))?;
            Ok(if n < 0 { n + len as i128 } else { n })
        };
        Ok(match (name, args) {
            ("append", [x]) => {
                self.size(list.borrow().len() + 1)?;
                list.borrow_mut().push(x.clone());
                Value::None
            }
            // One that is found by looking at this list sees what is there already.
            ("extend", [Value::Iterator(items)]) => {
                while let Some(item) = self.advance(items)? {
                    self.size(list.borrow().len() + 1)?;
                    list.borrow_mut().push(item);
                }
                Value::None
            }
            ("extend", [x]) => {
                let items = self.items(x)?;
                self.size(list.borrow().len() + items.len())?;
                list.borrow_mut().extend(items);
                Value::None
            }
            ("insert", [at, x]) => {
                let len = list.borrow().len();
                self.size(len + 1)?;
                let at = place(at, len)?.clamp(0, len as i128) as usize;
                list.borrow_mut().insert(at, x.clone());
                Value::None
            }
            ("pop", []) => match list.borrow_mut().pop() {
                Some(x) => x,
                None => return raise("IndexError"),
            },
            ("pop", [at]) => {
                let len = list.borrow().len();
                match usize::try_from(place(at, len)?) {
                    Ok(at) if at < len => list.borrow_mut().remove(at),
                    _ => return raise("IndexError"),
                }
            }
            ("remove" | "index", [x]) => {
                let found = list.borrow().iter().position(|v| v.equals(x));
                let Some(at) = found else { return raise("ValueError") };
                if name == "index" {
                    return Ok(Value::Int(at as i128));
                }
                list.borrow_mut().remove(at);
                Value::None
            }
            ("reverse", []) => {
                list.borrow_mut().reverse();
                Value::None
            }
            ("count", [x]) => Value::Int(list.borrow().iter().filter(|v| v.equals(x)).count() as i128),
            ("copy", []) => Value::list(list.borrow().clone()),
            ("clear", []) => {
                list.borrow_mut().clear();
                Value::None
            }
            _ => return Err(Stop::Unsupported),
        })
    }

    fn of_dict(&mut self, object: &Value<'a>, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let Value::Dict(dict) = object else { return Err(Stop::Unsupported) };
        let find = |key: &Value<'a>| dict.borrow().iter().position(|(k, _)| k.equals(key));
        let or_none = || args.get(1).cloned().unwrap_or(Value::None);
        Ok(match (name, args) {
            ("get", [key] | [key, _]) => match find(key) {
                Some(i) => dict.borrow()[i].1.clone(),
                None => or_none(),
            },
            ("keys", []) => Value::list(dict.borrow().iter().map(|p| p.0.clone()).collect()),
            ("values", []) => Value::list(dict.borrow().iter().map(|p| p.1.clone()).collect()),
            ("items", []) => Value::list(
                dict.borrow().iter().map(|(k, v)| Value::tuple(vec![k.clone(), v.clone()])).collect(),
            ),
            ("setdefault", [key] | [key, _]) => match find(key) {
                Some(i) => dict.borrow()[i].1.clone(),
                None => {
                    self.put(object, key.clone(), or_none())?;
                    or_none()
                }
            },
            ("fromkeys", _) => self.with_keys(args)?,
            ("update", []) => Value::None,
            ("update", [other]) => {
                self.take_in(object, other)?;
                Value::None
            }
            ("popitem", []) => match dict.borrow_mut().pop() {
                Some((key, value)) => Value::tuple(vec![key, value]),
                None => return raise("KeyError"),
            },
            ("pop", [key] | [key, _]) => match (find(key), args.get(1)) {
                (Some(i), _) => dict.borrow_mut().remove(i).1,
                (None, Some(default)) => default.clone(),
                (None, None) => return raise("KeyError"),
            },
            ("copy", []) => {
                let copy = dict.borrow().clone();
                Value::Dict(Rc::new(copy.into()))
            }
            ("clear", []) => {
                dict.borrow_mut().clear();
                Value::None
            }
            _ => return Err(Stop::Unsupported),
        })
    }

    fn of_set(&mut self, object: &Value<'a>, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let Value::Set(set) = object else { return Err(Stop::Unsupported) };
        if set.borrow().frozen
            && matches!(name, "add" | "discard" | "remove" | "clear") | name.ends_with("update")
        {
            return raise("AttributeError");
        }
        Ok(match (name, args) {
            ("add", [x]) => {
                if !x.hashable() {
                    return raise("TypeError");
                }
                let known = set.borrow().iter().any(|v| v.equals(x));
                if !known {
                    self.size(set.borrow().len() + 1)?;
                    set.borrow_mut().push(x.clone());
                }
                Value::None
            }
            ("discard" | "remove", [x]) => {
                let found = set.borrow().iter().position(|v| v.equals(x));
                match found {
                    Some(at) => drop(set.borrow_mut().remove(at)),
                    None if name == "remove" => return raise("KeyError"),
                    None => {}
                }
                Value::None
            }
            ("copy", []) => {
                let copy = set.borrow().clone();
                Value::Set(Rc::new(copy.into()))
            }
            ("union" | "intersection" | "difference" | "symmetric_difference", others) => {
                let op = match name {
                    "union" => Operator::BitOr,
                    "intersection" => Operator::BitAnd,
                    "difference" => Operator::Sub,
                    _ => Operator::BitXor,
                };
                let copy = set.borrow().clone();
                let mut found = Value::Set(Rc::new(copy.into()));
                for other in others {
                    let other = self.builtin("set", vec![other.clone()], Vec::new())?;
                    found = self.binary(&found, op, &other)?;
                }
                found
            }
            ("update" | "intersection_update" | "difference_update", others) => {
                let kept = match name {
                    "update" => self.of_set(object, "union", others)?,
                    "intersection_update" => self.of_set(object, "intersection", others)?,
                    _ => self.of_set(object, "difference", others)?,
                };
                if let Value::Set(kept) = kept {
                    self.size(kept.borrow().len())?;
                    set.replace(kept.take());
                }
                Value::None
            }
            ("clear", []) => {
                set.borrow_mut().clear();
                Value::None
            }
            ("issubset" | "issuperset" | "isdisjoint", [other]) => {
                let other = self.items(other)?;
                let within = |x: &Value<'a>, all: &[Value<'a>]| all.iter().any(|y| x.equals(y));
                let set = set.borrow();
                Value::Bool(match name {
                    "issubset" => set.iter().all(|x| within(x, &other)),
                    "issuperset" => other.iter().all(|x| within(x, &set)),
                    _ => !other.iter().any(|x| within(x, &set)),
                })
            }
            _ => return Err(Stop::Unsupported),
        })
    }
}
