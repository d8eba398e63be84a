//! An argument's value against the acceptable ones.

use std::borrow::Cow;

use super::compiled::{Fault, Rule, first_tag, has_empty};
use super::norm::norm_eq;
use super::{Lang, java, javascript};
use crate::value::{Map, Tag, Val, eq_py};

/// Why a response is not valid. Names are borrowed from the entry and the calls: most failures are those of a parallel call
/// with another's gold, and are forgotten.
pub(super) enum Fail<'a> {
    Invalid(&'static str, Cow<'a, str>),
    Fault(&'static str, Cow<'a, str>),
}

impl<'a> From<&'a Fault> for Fail<'a> {
    fn from(fault: &'a Fault) -> Self {
        Fail::Fault(fault.kind(), Cow::Borrowed(fault.at()))
    }
}

impl Fail<'_> {
    fn into_owned(self) -> Fail<'static> {
        match self {
            Fail::Invalid(kind, at) => Fail::Invalid(kind, Cow::Owned(at.into_owned())),
            Fail::Fault(kind, at) => Fail::Fault(kind, Cow::Owned(at.into_owned())),
        }
    }
}

pub(super) type Check<'a> = Result<(), Fail<'a>>;

pub(super) fn fail<'a>(error_type: &'static str, at: &'a str) -> Check<'a> {
    Err(Fail::Invalid(error_type, Cow::Borrowed(at)))
}

pub(super) fn fault<'a, T>(kind: &'static str, at: &'a str) -> Result<T, Fail<'a>> {
    Err(Fail::Fault(kind, Cow::Borrowed(at)))
}

/// The error type of an argument that tool or gold call do not know.
pub(super) const UNEXPECTED: &str = "simple_function_checker:unexpected_param";

/// An argument's value: converted where its language or type asks for it, then its type, then what it is.
pub(super) fn argument<'a>(name: &'a str, value: &'a Val, rule: &'a Rule, lang: Lang) -> Check<'a> {
    let (own, items, acceptable, gold_tag) = match rule {
        Rule::Typed { own, items, acceptable, gold_tag } => (*own, items, &**acceptable, *gold_tag),
        Rule::Unexpected => return fail(UNEXPECTED, name),
        Rule::Fault(fault) => return Err(fault.into()),
    };
    let text = match (lang, value) {
        (Lang::Python, _) => "",
        (_, Val::Str(text)) => text,
        (Lang::Java, _) => return fail("type_error:java", name),
        (Lang::JavaScript, _) => return fail("type_error:js", name),
    };
    let items = *items.as_ref()?;
    let (item_name, want_item) = (items.map(|i| i.name), items.map(|i| i.tag));
    let stumble = |kind| Fail::Fault(kind, Cow::Borrowed(name));
    let converted = match (lang, value) {
        (Lang::Java, _) => java::convert(text, own.name, item_name).map_err(stumble)?,
        (Lang::JavaScript, _) => javascript::convert(text, own.name, item_name).map_err(stumble)?,
        (Lang::Python, Val::Tuple(items)) if own.name == "tuple" => Val::List(items.clone()),
        (Lang::Python, Val::Int(n)) if own.tag == Tag::Float => Val::Float(*n as f64),
        (Lang::Python, Val::BigInt(_)) if own.tag == Tag::Float => match value.to_f64() {
            Some(f) if f.is_finite() => Val::Float(f),
            _ => return fault("value.int_too_large", name),
        },
        _ => return typed(name, value, acceptable, gold_tag, own.tag, want_item),
    };
    typed(name, &converted, acceptable, gold_tag, own.tag, want_item).map_err(Fail::into_owned)
}

/// A value of the language's own types.
fn typed<'a>(
    name: &'a str,
    value: &'a Val,
    acceptable: &'a [Val],
    gold_tag: Option<Tag>,
    want: Tag,
    want_item: Option<Tag>,
) -> Check<'a> {
    match check_type(value, acceptable, gold_tag, want, want_item) {
        Err(error_type) => return fail(error_type, name),
        // A variable.
        Ok(true) => {}
        Ok(false) => match (want, value) {
            (Tag::Dict, Val::Dict(entries)) => return dict_rule(name, entries, acceptable.iter()),
            (Tag::List, Val::List(items)) if want_item == Some(Tag::Dict) => {
                return list_dict_rule(name, items, acceptable);
            }
            (Tag::Str, Val::Str(s)) => {
                return if acceptable.iter().filter_map(Val::as_str).any(|a| norm_eq(s, a)) {
                    Ok(())
                } else {
                    fail("value_error:string", name)
                };
            }
            (Tag::List, Val::List(items)) => return list_rule(name, items, acceptable),
            _ => {}
        },
    }
    if acceptable.iter().any(|a| eq_py(value, a)) { Ok(()) } else { fail("value_error:others", name) }
}

/// Whether the value is taken as a variable's name; the error type when its type is wrong.
fn check_type(
    value: &Val,
    acceptable: &[Val],
    gold_tag: Option<Tag>,
    want: Tag,
    items: Option<Tag>,
) -> Result<bool, &'static str> {
    let mut error = "type_error:simple";
    if value.tag() == want {
        let variable = gold_tag.is_some_and(|g| g != want);
        let Some(item) = items else { return Ok(variable) };
        let elements = value.as_list().unwrap_or_default();
        let passes = |a: &Val| match a.as_list() {
            None => true,
            Some(gold) => {
                let tag = first_tag(gold);
                elements.iter().all(|v| check_type(v, gold, tag, item, None).is_ok())
            }
        };
        if acceptable.iter().any(passes) {
            return Ok(variable);
        }
        if gold_tag == Some(want) {
            error = "type_error:nested";
        }
    } else if gold_tag == Some(value.tag()) {
        return Ok(true);
    }
    Err(error)
}

/// Equality after normalisation when both are strings.
fn eq_norm(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => norm_eq(a, b),
        _ => eq_py(a, b),
    }
}

fn list_rule<'a>(name: &'a str, items: &[Val], acceptable: &[Val]) -> Check<'a> {
    let mut found = false;
    for a in acceptable {
        found |= match a {
            Val::List(gold) => {
                items.len() == gold.len() && items.iter().zip(gold).all(|(v, g)| eq_norm(v, g))
            }
            // A string is the sequence of its characters.
            Val::Str(s) => {
                let mut chars = s.chars();
                let mut buffer = [0; 4];
                items.iter().all(|v| {
                    chars
                        .next()
                        .is_some_and(|c| v.as_str().is_some_and(|v| norm_eq(v, c.encode_utf8(&mut buffer))))
                }) && chars.next().is_none()
            }
            Val::Dict(entries) if entries.is_empty() => items.is_empty(),
            _ => return fault("gold.not_sequence", name),
        };
    }
    if found { Ok(()) } else { fail("value_error:list/tuple", name) }
}

/// A predicted object against acceptable objects, whose entries are lists of acceptable values.
fn dict_rule<'a>(name: &'a str, entries: &'a Map, acceptable: impl Iterator<Item = &'a Val>) -> Check<'a> {
    let mut last = fail("dict_checker:unclear", name);
    for gold in acceptable.filter(|a| a.as_str() != Some("")) {
        let Val::Dict(gold) = gold else { return fault("gold.not_dict", name) };
        match one_dict(entries, gold) {
            Err(fail @ Fail::Invalid(..)) => last = Err(fail),
            other => return other,
        }
    }
    last
}

fn one_dict<'a>(entries: &'a Map, gold: &'a Map) -> Check<'a> {
    let mut error = Ok(());
    for (key, value) in entries {
        let at = key.as_str().unwrap_or_default();
        let Some(acceptable) = gold.get(key) else {
            error = fail("value_error:dict_key", at);
            break;
        };
        let found = match acceptable {
            Val::List(values) => values.iter().any(|a| eq_norm(value, a)),
            // A bare string is the list of its characters.
            Val::Str(s) => {
                let mut buffer = [0; 4];
                value.as_str().is_some_and(|v| s.chars().any(|c| norm_eq(v, c.encode_utf8(&mut buffer))))
            }
            Val::Dict(values) if values.is_empty() => false,
            _ => return fault("gold.dict_entry", at),
        };
        if !found {
            error = fail("value_error:dict_value", at);
            break;
        }
    }
    for (key, acceptable) in gold {
        if entries.contains_key(key) {
            continue;
        }
        let at = key.as_str().unwrap_or_default();
        let optional = match acceptable {
            Val::List(values) => has_empty(values),
            Val::Str(_) => true,
            Val::Dict(values) => values.contains_key(""),
            _ => return fault("gold.dict_entry", at),
        };
        if !optional {
            return fail("value_error:dict_key", at);
        }
    }
    error
}

fn list_dict_rule<'a>(name: &'a str, items: &'a [Val], acceptable: &'a [Val]) -> Check<'a> {
    let mut last = fail("list_dict_checker:unclear", name);
    'answers: for a in acceptable {
        let len = match a {
            Val::List(gold) => gold.len(),
            Val::Str(s) => s.chars().count(),
            Val::Dict(entries) => entries.len(),
            _ => return fault("gold.not_sequence", name),
        };
        if items.len() != len {
            last = fail("value_error:list_dict_count", name);
            continue;
        }
        for (i, item) in items.iter().enumerate() {
            // Characters and entries by number are no objects: the reference raises on both.
            let Some(gold) = a.as_list() else { return fault("gold.not_dict", name) };
            if gold[i].as_str() == Some("") {
                last = fail("dict_checker:unclear", name);
                continue 'answers;
            }
            let Val::Dict(entries) = item else { return fault("value.not_dict", name) };
            match dict_rule(name, entries, std::iter::once(&gold[i])) {
                Err(fail @ Fail::Invalid(..)) => {
                    last = Err(fail);
                    continue 'answers;
                }
                Err(other) => return Err(other),
                Ok(()) => {}
            }
        }
        return Ok(());
    }
    last
}
