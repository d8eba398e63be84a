//! One response against one entry: counts, names, types, values.

use std::borrow::Cow;

use super::compiled::{Acceptable, Checker, Fault, GoldCall, Param, Route, Tool};
use super::norm::norm_eq;
use super::{Lang, Matching, NamePolicy, Options, Verdict, java, javascript};
use crate::msg::Call;
use crate::value::{Map, Tag, Val, eq_py};

/// Why a response is not valid. Names are borrowed from the entry and the calls: most failures are those of a parallel call
/// with another's gold, and are forgotten.
enum Fail<'a> {
    Invalid(&'static str, Cow<'a, str>),
    Fault(&'static str, Cow<'a, str>),
}

impl<'a> From<&'a Fault> for Fail<'a> {
    fn from(fault: &'a Fault) -> Self {
        Fail::Fault(fault.kind, Cow::Borrowed(&fault.at))
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

type Check<'a> = Result<(), Fail<'a>>;

fn fail<'a>(error_type: &'static str, at: &'a str) -> Check<'a> {
    Err(Fail::Invalid(error_type, Cow::Borrowed(at)))
}

fn fault<'a, T>(kind: &'static str, at: &'a str) -> Result<T, Fail<'a>> {
    Err(Fail::Fault(kind, Cow::Borrowed(at)))
}

impl Checker {
    /// Checks the calls of a response.
    pub fn check(&self, calls: &[Call], options: Options) -> Verdict {
        match self.routed(calls, options) {
            Ok(()) => Verdict::Valid,
            Err(Fail::Invalid(error_type, at)) => Verdict::invalid(error_type, at),
            Err(Fail::Fault(kind, at)) => Verdict::fault(kind, at),
        }
    }

    fn routed<'a>(&'a self, calls: &'a [Call], options: Options) -> Check<'a> {
        let gold = self.gold.as_deref()?;
        if self.route == Route::Parallel {
            return self.parallel(calls, gold, options);
        }
        let empty = || Fail::Fault("gold.empty", Cow::Borrowed("ground_truth"));
        if self.route == Route::Multiple {
            if calls.len() != gold.len() {
                return fail("multiple_function_checker:wrong_count", "");
            }
            let first = gold.first().ok_or_else(empty)?.as_ref()?;
            return self.one(self.tool_of(first)?, &calls[0], first, options);
        }
        let [call] = calls else { return fail("simple_function_checker:wrong_count", "") };
        let Some(tool) = self.first else { return fault("tools.empty", "function") };
        let first = gold.first().ok_or_else(empty)?.as_ref()?;
        self.one(&self.tools[tool], call, first, options)
    }

    fn tool_of<'a>(&'a self, gold: &'a GoldCall) -> Result<&'a Tool, Fail<'a>> {
        Ok(&self.tools[*gold.tool.as_ref()?])
    }

    fn parallel<'a>(
        &'a self,
        calls: &'a [Call],
        gold: &'a [Result<GoldCall, Fault>],
        options: Options,
    ) -> Check<'a> {
        if calls.len() != gold.len() {
            return fail("parallel_function_checker_no_order:wrong_count", "");
        }
        if options.matching == Matching::Optimal {
            return self.optimal(calls, gold, options);
        }
        let mut used = vec![false; calls.len()];
        for gold in gold {
            let gold = gold.as_ref()?;
            let tool = self.tool_of(gold)?;
            let mut found = false;
            for (call, used) in calls.iter().zip(&mut used).filter(|(_, used)| !**used) {
                match self.one(tool, call, gold, options) {
                    Ok(()) => {
                        *used = true;
                        found = true;
                        break;
                    }
                    Err(Fail::Invalid(..)) => {}
                    Err(other) => return Err(other),
                }
            }
            if !found {
                return fail("parallel_function_checker_no_order:cannot_find_match", &gold.name);
            }
        }
        Ok(())
    }

    /// Bipartite matching by augmenting paths.
    fn optimal<'a>(
        &'a self,
        calls: &'a [Call],
        gold: &'a [Result<GoldCall, Fault>],
        options: Options,
    ) -> Check<'a> {
        let mut passes = Vec::with_capacity(gold.len());
        for gold in gold {
            let gold = gold.as_ref()?;
            let tool = self.tool_of(gold)?;
            let row: Result<Vec<bool>, Fail<'a>> = calls
                .iter()
                .map(|call| match self.one(tool, call, gold, options) {
                    Ok(()) => Ok(true),
                    Err(Fail::Invalid(..)) => Ok(false),
                    Err(other) => Err(other),
                })
                .collect();
            passes.push(row?);
        }
        let mut owner = vec![None; calls.len()];
        for g in 0..gold.len() {
            if !augment(g, &passes, &mut owner, &mut vec![false; calls.len()]) {
                return fail("parallel_function_checker_no_order:cannot_find_match", "");
            }
        }
        Ok(())
    }

    /// One call against one gold call (the reference's `simple_function_checker`).
    fn one<'a>(&self, tool: &'a Tool, call: &'a Call, gold: &'a GoldCall, options: Options) -> Check<'a> {
        let tool = tool.as_ref()?;
        let spelled = match options.names {
            NamePolicy::Exact => &tool.name,
            NamePolicy::DotToUnderscore => &tool.underscored,
        };
        if call.name != *spelled {
            return fail("simple_function_checker:wrong_func_name", &tool.name);
        }
        let mut few = [NOWHERE; 16];
        let mut many = Vec::new();
        let places = match few.get_mut(..call.args.len()) {
            Some(few) => few,
            None => {
                many.resize(call.args.len(), NOWHERE);
                &mut many[..]
            }
        };
        let mut next = 0;
        for (key, place) in call.args.keys().zip(&mut *places) {
            if let Some(at) = gold.find(key, next) {
                *place = at;
                next = at + 1;
            }
        }
        let key_of = |at: usize| gold.slots[at].key.as_str().unwrap_or_default();
        if let Some(missing) = gold.required.iter().find(|at| !places.contains(at)) {
            return fail("simple_function_checker:missing_required", key_of(*missing));
        }
        for ((key, value), place) in call.args.iter().zip(&*places) {
            let name = key.as_str().unwrap_or_default();
            let slot = gold.slots.get(*place);
            let Some((param, acceptable)) = slot.and_then(|s| s.param.as_ref().zip(s.acceptable.as_ref()))
            else {
                return fail("simple_function_checker:unexpected_param", name);
            };
            argument(name, value, param, acceptable, self.lang)?;
        }
        for (at, slot) in gold.slots[..gold.given].iter().enumerate() {
            if let Some(acceptable) = &slot.acceptable
                && !acceptable.optional
                && !places.contains(&at)
            {
                acceptable.values.as_ref()?;
                return fail("simple_function_checker:missing_optional", key_of(at));
            }
        }
        Ok(())
    }
}

/// The place of an argument that neither tool nor gold call has.
const NOWHERE: usize = usize::MAX;

fn augment(g: usize, passes: &[Vec<bool>], owner: &mut [Option<usize>], seen: &mut [bool]) -> bool {
    for c in 0..owner.len() {
        if passes[g][c] && !seen[c] {
            seen[c] = true;
            if owner[c].is_none_or(|other| augment(other, passes, owner, seen)) {
                owner[c] = Some(g);
                return true;
            }
        }
    }
    false
}

/// The tag that a declared type stands for.
pub(super) fn expected(ty: &str, lang: Lang) -> Option<Tag> {
    Some(match (lang, ty) {
        (Lang::Python, "string" | "any") => Tag::Str,
        (Lang::Python, "integer") => Tag::Int,
        (Lang::Python, "float") => Tag::Float,
        (Lang::Python, "boolean") => Tag::Bool,
        (Lang::Python, "array" | "tuple") => Tag::List,
        (Lang::Python, "dict") => Tag::Dict,
        (Lang::Java, "byte" | "short" | "integer" | "long") => Tag::Int,
        (Lang::Java, "float" | "double") => Tag::Float,
        (Lang::Java, "boolean") => Tag::Bool,
        (Lang::Java, "char" | "String" | "any") => Tag::Str,
        (Lang::Java, "Array" | "ArrayList" | "Queue" | "Stack") => Tag::List,
        (Lang::Java, "HashMap" | "Hashtable") => Tag::Dict,
        // Python's set: no value that is checked has this type, but a `Set` among an array's items is no fault.
        (Lang::Java, "Set") => Tag::Other,
        (Lang::JavaScript, "String" | "any") => Tag::Str,
        (Lang::JavaScript, "integer" | "Bigint") => Tag::Int,
        (Lang::JavaScript, "float") => Tag::Float,
        (Lang::JavaScript, "Boolean") => Tag::Bool,
        (Lang::JavaScript, "dict") => Tag::Dict,
        (Lang::JavaScript, "array") => Tag::List,
        _ => return None,
    })
}

pub(super) fn nested(ty: &str, lang: Lang) -> bool {
    match lang {
        Lang::Python => matches!(ty, "array" | "tuple"),
        Lang::Java | Lang::JavaScript => matches!(ty, "Array" | "ArrayList" | "array"),
    }
}

/// Whether `""`, which marks what may be left out, is among the values.
pub(super) fn has_empty(values: &[Val]) -> bool {
    values.iter().any(|v| v.as_str() == Some(""))
}

/// The type of the first value that is not `""`.
pub(super) fn first_tag(values: &[Val]) -> Option<Tag> {
    values.iter().find(|a| a.as_str() != Some("")).map(Val::tag)
}

fn argument<'a>(
    name: &'a str,
    value: &'a Val,
    param: &'a Param,
    acceptable: &'a Acceptable,
    lang: Lang,
) -> Check<'a> {
    let gold_tag = acceptable.tag;
    let acceptable = acceptable.values.as_deref()?;
    let own = param.own.as_ref()?;
    let text = match (lang, value) {
        (Lang::Python, _) => "",
        (_, Val::Str(text)) => text,
        (Lang::Java, _) => return fail("type_error:java", name),
        (Lang::JavaScript, _) => return fail("type_error:js", name),
    };
    let items = param.items.as_ref().map(Option::as_ref)?;
    let ty = own.name.as_str();
    let item_ty = items.map(|i| i.name.as_str());
    let (want, want_item) = (own.tag, items.map(|i| i.tag));
    let converted = match (lang, value) {
        (Lang::Java, _) => {
            java::convert(text, ty, item_ty).map_err(|kind| Fail::Fault(kind, Cow::Borrowed(name)))?
        }
        (Lang::JavaScript, _) => {
            javascript::convert(text, ty, item_ty).map_err(|kind| Fail::Fault(kind, Cow::Borrowed(name)))?
        }
        (Lang::Python, Val::Tuple(items)) if ty == "tuple" => Val::List(items.clone()),
        (Lang::Python, Val::Int(n)) if ty == "float" => Val::Float(*n as f64),
        (Lang::Python, Val::BigInt(_)) if ty == "float" => match value.to_f64() {
            Some(f) if f.is_finite() => Val::Float(f),
            _ => return fault("value.int_too_large", name),
        },
        _ => return typed(name, value, acceptable, gold_tag, want, want_item),
    };
    typed(name, &converted, acceptable, gold_tag, want, want_item).map_err(Fail::into_owned)
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
