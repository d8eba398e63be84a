//! Methods of strings.

use super::interpreter::Interpreter;
use super::text::{pad, zeros};
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
            let (mut found, mut rest) = (Vec::new(), text.trim_start());
            while let Some(at) = rest.find(char::is_whitespace).filter(|_| found.len() < most) {
                found.push(rest[..at].to_owned());
                rest = rest[at..].trim_start();
            }
            found.extend((!rest.is_empty()).then(|| rest.to_owned()));
            Ok(found)
        }
        Some(Value::Str(by)) if by.is_empty() => raise("ValueError"),
        Some(Value::Str(by)) => Ok(text.splitn(most.saturating_add(1), &**by).map(str::to_owned).collect()),
        Some(_) => raise("TypeError"),
    }
}

impl<'a> Interpreter<'a> {
    pub(super) fn of_text(&mut self, text: &str, name: &str, args: &[Value<'a>]) -> Run<'a, Value<'a>> {
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
            ("rsplit", [Value::Str(by), n]) if !by.is_empty() => match n.int().map(usize::try_from) {
                Some(Ok(n)) => {
                    let parts: Vec<String> =
                        text.rsplitn(n.saturating_add(1), &**by).map(str::to_owned).collect();
                    list(parts.into_iter().rev().collect())
                }
                _ => return Err(Stop::Unsupported),
            },
            ("center", [_] | [_, _]) => {
                let gap = gap()?;
                let width = gap + text.chars().count();
                let left = gap / 2 + (gap & width & 1);
                let start = pad(text, left, fill, '>');
                Value::str(pad(&start, gap - left, fill, '<'))
            }
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
            ("startswith" | "endswith", [Value::Tuple(all)]) => {
                let mut found = false;
                for part in all.iter() {
                    let Value::Str(s) = part else { return raise("TypeError") };
                    found |= if name == "endswith" { text.ends_with(&**s) } else { text.starts_with(&**s) };
                }
                Value::Bool(found)
            }
            ("rfind", [Value::Str(s)]) => {
                Value::Int(text.rfind(&**s).map_or(-1, |at| text[..at].chars().count() as i128))
            }
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
            ("rpartition", [Value::Str(by)]) if !by.is_empty() => {
                let parts = text.rsplit_once(&**by).map_or(["", "", text], |(a, b)| [a, by, b]);
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
            ("zfill", [_]) => Value::str(zeros(text, gap()?)),
            ("ljust", _) => Value::str(pad(text, gap()?, fill, '<')),
            ("rjust", _) => Value::str(pad(text, gap()?, fill, '>')),
            ("removeprefix", [Value::Str(s)]) => Value::str(text.strip_prefix(&**s).unwrap_or(text)),
            ("removesuffix", [Value::Str(s)]) => Value::str(text.strip_suffix(&**s).unwrap_or(text)),
            _ => return Err(Stop::Unsupported),
        })
    }
}
