//! An entry made ready for checks: what a call of it may have, looked up once.

use super::Lang;
use super::types::{Type, type_of};
use crate::value::{Key, Str, Tag, Val};

/// The gold calls of an entry, with what its tools say of them.
#[derive(Clone, Debug)]
pub struct Checker {
    pub(super) lang: Lang,
    pub(super) route: Route,
    pub(super) gold: Result<Box<[Result<GoldCall, Fault>]>, Fault>,
}

/// How a category's responses are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Route {
    Irrelevance,
    Relevance,
    Parallel,
    Multiple,
    Simple,
}

impl Route {
    pub(super) fn of(category: &str) -> Route {
        // "irrelevance" contains "relevance", "parallel_multiple" both of its words: the order matters.
        let routes = [
            ("irrelevance", Route::Irrelevance),
            ("relevance", Route::Relevance),
            ("parallel", Route::Parallel),
            ("multiple", Route::Multiple),
        ];
        routes.iter().find(|(word, _)| category.contains(word)).map_or(Route::Simple, |(_, route)| *route)
    }
}

/// What the reference stumbles over.
#[derive(Clone, Debug)]
pub(super) struct Fault(Box<(&'static str, Str)>);

impl Fault {
    fn new(kind: &'static str, at: &str) -> Self {
        Fault(Box::new((kind, at.into())))
    }

    pub(super) fn kind(&self) -> &'static str {
        self.0.0
    }

    /// The parameter or name.
    pub(super) fn at(&self) -> &str {
        &self.0.1
    }
}

/// A gold call with the tool that a response's call is checked against. Checks read little else than this, from memory that is
/// seldom in a cache: it is small and in few pieces.
#[derive(Clone, Debug)]
pub(super) struct GoldCall {
    /// The tool's name.
    pub(super) name: Str,
    /// The name with `_` for every `.`, where it has one.
    pub(super) underscored: Option<Str>,
    /// Arguments that a call may have: those of the gold call, in its order, then the tool's other parameters.
    pub(super) slots: Box<[Slot]>,
    /// The slots of required parameters, in the tool's order.
    pub(super) required: Box<[usize]>,
    /// How many slots are required.
    pub(super) required_slots: usize,
    /// How many slots cannot be left out.
    pub(super) needed_slots: usize,
}

/// An argument, as the tool and the gold call know it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) key: Key,
    /// Whether the tool requires it.
    pub(super) required: bool,
    pub(super) absent: Absent,
    pub(super) rule: Rule,
}

/// What it means that a call has no such argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nothing: it may be left out, or the gold call does not have it.
    Allowed,
    /// An error.
    Error,
    /// The reference raises: its acceptable values are no list.
    Fault,
}

/// How an argument's value is checked.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// Tool or gold call do not know the argument.
    Unexpected,
    Fault(Fault),
    Typed {
        own: &'static Type,
        items: Result<Option<&'static Type>, Fault>,
        acceptable: Box<[Val]>,
        /// The type of the first acceptable value that is not `""`.
        gold_tag: Option<Tag>,
    },
}

impl GoldCall {
    /// The slot of a key, most likely `hint`.
    pub(super) fn find(&self, key: &Key, hint: usize) -> Option<usize> {
        match self.slots.get(hint) {
            Some(slot) if slot.key == *key => Some(hint),
            _ => self.slots.iter().position(|slot| slot.key == *key),
        }
    }
}

impl Checker {
    /// Reads the `function` list and `ground_truth` of an entry of `category`. What is missing or odd in them shows in the verdicts of
    /// [`Checker::check`], where the reference stumbles over it.
    pub fn new(tools: &Val, gold: &Val, category: &str) -> Self {
        let (lang, route) = (Lang::of(category), Route::of(category));
        let tools = tools.as_list().unwrap_or_default();
        let gold = match gold.as_list() {
            None => Err(Fault::new("gold.not_list", "ground_truth")),
            Some(gold) => Ok(gold.iter().map(|g| gold_call(g, tools, route, lang)).collect()),
        };
        Checker { lang, route, gold }
    }
}

fn gold_call(gold: &Val, tools: &[Val], route: Route, lang: Lang) -> Result<GoldCall, Fault> {
    let Some((name, Val::Dict(args))) = gold.as_dict().and_then(|d| d.first()) else {
        return Err(Fault::new("gold.call", "ground_truth"));
    };
    let tool = match route {
        Route::Parallel | Route::Multiple => {
            let name = name.as_str().unwrap_or_default();
            let named = tools.iter().find(|t| t.get("name").and_then(Val::as_str) == Some(name));
            named.ok_or_else(|| Fault::new("gold.unknown_function", name))?
        }
        // The first tool is checked, whatever the gold call names.
        _ => tools.first().ok_or_else(|| Fault::new("tools.empty", "function"))?,
    };
    let fault = |kind, at: &str| Fault::new(kind, at);
    let name = tool.get("name").and_then(Val::as_str).ok_or_else(|| fault("schema.missing_name", ""))?;
    let parameters = tool.get("parameters").ok_or_else(|| fault("schema.missing_parameters", name))?;
    let properties = parameters.get("properties").and_then(Val::as_dict);
    let properties = properties.ok_or_else(|| fault("schema.missing_properties", name))?;
    let required = parameters.get("required").and_then(Val::as_list);
    let required = required.ok_or_else(|| fault("schema.missing_required", name))?;

    let slot = |key: &Key, absent, rule| Slot { key: key.clone(), required: false, absent, rule };
    let mut slots: Vec<Slot> = args
        .iter()
        .map(|(key, values)| {
            let absent = match values.as_list().map(has_empty) {
                None => Absent::Fault,
                Some(true) => Absent::Allowed,
                Some(false) => Absent::Error,
            };
            slot(key, absent, properties.get(key).map_or(Rule::Unexpected, |s| rule(key, s, values, lang)))
        })
        .collect();
    slots.extend(
        properties
            .keys()
            .filter(|k| !args.contains_key(*k))
            .map(|k| slot(k, Absent::Allowed, Rule::Unexpected)),
    );
    let mut order = Vec::with_capacity(required.len());
    for key in required.iter().filter_map(Val::as_str) {
        let at = slots.iter().position(|s| s.key.as_str() == Some(key)).unwrap_or_else(|| {
            slots.push(slot(&key.into(), Absent::Allowed, Rule::Unexpected));
            slots.len() - 1
        });
        slots[at].required = true;
        order.push(at);
    }
    Ok(GoldCall {
        name: name.into(),
        underscored: name.contains('.').then(|| name.replace('.', "_").into()),
        required_slots: slots.iter().filter(|s| s.required).count(),
        needed_slots: slots.iter().filter(|s| s.absent != Absent::Allowed).count(),
        slots: slots.into(),
        required: order.into(),
    })
}

/// Faults come in the order in which the reference meets them: the acceptable values, the type, the items' type.
fn rule(key: &Key, schema: &Val, values: &Val, lang: Lang) -> Rule {
    let at = key.as_str().unwrap_or_default();
    let of = |schema: &Val| -> Result<&'static Type, Fault> {
        let name =
            schema.get("type").and_then(Val::as_str).ok_or_else(|| Fault::new("schema.missing_type", at))?;
        type_of(name, lang).ok_or_else(|| Fault::new("schema.unknown_type", at))
    };
    let Some(values) = values.as_list() else { return Rule::Fault(Fault::new("gold.not_list", at)) };
    let own = match of(schema) {
        Ok(own) => own,
        Err(fault) => return Rule::Fault(fault),
    };
    let items = match schema.get("items") {
        _ if !own.nested => Ok(None),
        None => Err(Fault::new("schema.missing_items", at)),
        Some(items) => of(items).map(Some),
    };
    Rule::Typed { own, items, acceptable: values.into(), gold_tag: first_tag(values) }
}

/// Whether `""`, which marks what may be left out, is among the values.
pub(super) fn has_empty(values: &[Val]) -> bool {
    values.iter().any(|v| v.as_str() == Some(""))
}

/// The type of the first value that is not `""`.
pub(super) fn first_tag(values: &[Val]) -> Option<Tag> {
    values.iter().find(|a| a.as_str() != Some("")).map(Val::tag)
}
