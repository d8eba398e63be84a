//! Methods of strings, lists, dictionaries and sets.

use super::interpreter::Interpreter;
use super::text::pad;
use super::value::{Run, Stop, Value, raise};

/// Letters that `strip` takes off, or white space.
fn strip<'a>(text: &str, chars: Option<&Value<'a>>, left: bool, right: bool) -> Run<'a, String> {
    let set = match chars {
        None | Some(Value::None) => None,
        Some(Value::Str(s)) => Some(s.clone()),
        _ => return raise("TypeError"),
    };
    let is_off = |c: char| set.as_ref().map_or(c.is_whitespace(), |s| s.contains(c));
    let text = if left { text.trim_start_matches(is_off) } else { text };
    Ok(if right { text.trim_end_matches(is_off) } else { text }.to_owned())
}

fn all<'a>(text: &str, is: impl Fn(char) -> bool) -> Value<'a> {
    Value::Bool(!text.is_empty() && text.chars().all(is))
}

fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::new();
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn position(text: &str, part: &str) -> i128 {
    text.find(part).map_or(-1, |at| text[..at].chars().count() as i128)
}

fn split<'a>(text: &str, args: &[Value<'a>]) -> Run<'a, Vec<String>> {
    let most = match args.get(1) {
        None => usize::MAX,
        Some(n) => n.int().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
    };
    match args.first() {
        None | Some(Value::None) => {
            if most != usize::MAX {
                return Err(Stop::Unsupported);
            }
            Ok(text.split_whitespace().map(str::to_owned).collect())
        }
        Some(Value::Str(by)) if by.is_empty() => raise("ValueError"),
        Some(Value::Str(by)) => Ok(text.splitn(most.saturating_add(1), &**by).map(str::to_owned).collect()),
        Some(_) => raise("TypeError"),
    }
}

impl<'a> Interpreter<'a> {
    pub(super) fn method(
        &mut self,
        object: &Value<'a>,
        name: &str,
        args: &[Value<'a>],
        keywords: &[(&'a str, Value<'a>)],
    ) -> Run<'a, Value<'a>> {
        if !keywords.is_empty() && name != "sort" {
            return Err(Stop::Unsupported);
        }
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
            Value::Dict(_) => self.of_dict(object, name, args),
            Value::Set(_) => self.of_set(object, name, args),
            _ => Err(Stop::Unsupported),
        }
    }

    fn of_text(&mut self, text: &str, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
        let list = |items: Vec<String>| Value::list(items.into_iter().map(Value::str).collect());
        let first = args.first();
        let gap = || {
            let width = first.and_then(Value::int).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            if width > 10_000 { Err(Stop::Limit) } else { Ok(width.saturating_sub(text.chars().count())) }
        };
        let fill = match args.get(1) {
            Some(Value::Str(s)) => s.chars().next().unwrap_or(' '),
            _ => ' ',
        };
        Ok(match (name, args) {
            ("upper", []) => Value::str(text.to_uppercase()),
            ("lower" | "casefold", []) => Value::str(text.to_lowercase()),
            ("title", []) => Value::str(title(text)),
            ("capitalize", []) => Value::str(crate::prose::capital(&text.to_lowercase())),
            ("swapcase", []) => Value::str(
                text.chars()
                    .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
                    .collect::<String>(),
            ),
            ("strip", _) => Value::str(strip(text, first, true, true)?),
            ("lstrip", _) => Value::str(strip(text, first, true, false)?),
            ("rstrip", _) => Value::str(strip(text, first, false, true)?),
            ("split", _) => list(split(text, args)?),
            ("splitlines", []) => list(text.lines().map(str::to_owned).collect()),
            ("isdigit" | "isnumeric" | "isdecimal", []) => all(text, |c| c.is_ascii_digit()),
            ("isalpha", []) => all(text, char::is_alphabetic),
            ("isalnum", []) => all(text, char::is_alphanumeric),
            ("isspace", []) => all(text, char::is_whitespace),
            ("isupper", []) => {
                Value::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))
            }
            ("islower", []) => {
                Value::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))
            }
            ("startswith", [Value::Str(s)]) => Value::Bool(text.starts_with(&**s)),
            ("endswith", [Value::Str(s)]) => Value::Bool(text.ends_with(&**s)),
            ("find", [Value::Str(s)]) => Value::Int(position(text, s)),
            ("index", [Value::Str(s)]) => match position(text, s) {
                -1 => return raise("ValueError"),
                at => Value::Int(at),
            },
            ("count", [Value::Str(s)]) if !s.is_empty() => Value::Int(text.matches(&**s).count() as i128),
            ("replace", [Value::Str(a), Value::Str(b)]) if !a.is_empty() => {
                self.size(text.matches(&**a).count().saturating_mul(b.len()) + text.len())?;
                Value::str(text.replace(&**a, b))
            }
            ("partition", [Value::Str(by)]) if !by.is_empty() => {
                let parts = text.split_once(&**by).map_or([text, "", ""], |(a, b)| [a, by, b]);
                Value::tuple(parts.map(Value::str).to_vec())
            }
            ("join", [items]) => {
                let mut parts = Vec::new();
                for item in self.items(items)? {
                    let Value::Str(s) = item else { return raise("TypeError") };
                    parts.push(s);
                }
                self.size(parts.iter().map(|p| p.len() + text.len()).sum())?;
                Value::str(parts.iter().map(|p| &**p).collect::<Vec<_>>().join(text))
            }
            ("zfill", [_]) => {
                let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
                Value::str(format!("{sign}{}{rest}", "0".repeat(gap()?)))
            }
            ("ljust", _) => Value::str(pad(text, gap()?, fill, '<')),
            ("rjust", _) => Value::str(pad(text, gap()?, fill, '>')),
            ("removeprefix", [Value::Str(s)]) => Value::str(text.strip_prefix(&**s).unwrap_or(text)),
            ("removesuffix", [Value::Str(s)]) => Value::str(text.strip_suffix(&**s).unwrap_or(text)),
            _ => return Err(Stop::Unsupported),
        })
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
            ("update", [Value::Dict(other)]) => {
                let pairs = other.borrow().clone();
                for (k, v) in pairs {
                    self.put(object, k, v)?;
                }
                Value::None
            }
            ("pop", [key] | [key, _]) => match (find(key), args.get(1)) {
                (Some(i), _) => dict.borrow_mut().remove(i).1,
                (None, Some(default)) => default.clone(),
                (None, None) => return raise("KeyError"),
            },
            ("copy", []) => {
                let pairs = dict.borrow().clone();
                Value::Dict(std::rc::Rc::new(std::cell::RefCell::new(pairs)))
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
            ("copy", []) => Value::set(set.borrow().clone()),
            ("union" | "intersection" | "difference", [other]) => {
                let other = Value::set(self.items(other)?);
                let op = match name {
                    "union" => ruff_python_ast::Operator::BitOr,
                    "intersection" => ruff_python_ast::Operator::BitAnd,
                    _ => ruff_python_ast::Operator::Sub,
                };
                self.binary(object, op, &other)?
            }
            ("update", [other]) => {
                let items = self.items(other)?;
                let merged = Value::set(set.borrow().iter().cloned().chain(items).collect());
                if let Value::Set(merged) = merged {
                    let items = merged.borrow().clone();
                    self.size(items.len())?;
                    *set.borrow_mut() = items;
                }
                Value::None
            }
            ("issubset", [other]) => {
                let other = self.items(other)?;
                Value::Bool(set.borrow().iter().all(|x| other.iter().any(|y| x.equals(y))))
            }
            _ => return Err(Stop::Unsupported),
        })
    }
}
