//! An entry made ready for checks: tools and gold calls looked up once.

use super::Lang;
use super::checker::{expected, nested};
use crate::value::{Key, Tag, Val};

/// The tools of an entry that its gold calls use, and the calls.
#[derive(Clone, Debug)]
pub struct Checker {
    pub(super) lang: Lang,
    pub(super) route: Route,
    pub(super) tools: Vec<Tool>,
    /// The entry's first tool among `tools`.
    pub(super) first: Option<usize>,
    pub(super) gold: Result<Vec<Result<GoldCall, Fault>>, Fault>,
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
pub(super) struct Fault {
    pub(super) kind: &'static str,
    /// The parameter or name.
    pub(super) at: String,
}

impl Fault {
    fn new(kind: &'static str, at: &str) -> Self {
        Fault { kind, at: at.to_owned() }
    }
}

/// A tool; the fault where it is not whole.
pub(super) type Tool = Result<Shape, Fault>;

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    /// The name with `_` for every `.`.
    pub(super) underscored: String,
    pub(super) required: Vec<String>,
    pub(super) params: Vec<(Key, Param)>,
}

/// A parameter's declared type, and that of its items.
#[derive(Clone, Debug)]
pub(super) struct Param {
    pub(super) own: Result<Type, Fault>,
    pub(super) items: Result<Option<Type>, Fault>,
}

#[derive(Clone, Debug)]
pub(super) struct Type {
    pub(super) name: String,
    pub(super) tag: Tag,
}

#[derive(Clone, Debug)]
pub(super) struct GoldCall {
    /// The tool of the call's name among [`Checker::tools`].
    pub(super) tool: Result<usize, Fault>,
    pub(super) name: String,
    /// Arguments that a call may have: those of the gold call, in its order, then the tool's other parameters.
    pub(super) slots: Vec<Slot>,
    /// How many of `slots` are of the gold call.
    pub(super) given: usize,
    /// The slots of required parameters, in the tool's order.
    pub(super) required: Vec<usize>,
}

/// An argument, as the tool and the gold call know it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) param: Option<Param>,
    pub(super) acceptable: Option<Acceptable>,
}

impl GoldCall {
    /// Adds what the tool says, so that a call's argument is looked up once.
    fn join(&mut self, tool: &Shape) {
        for (key, param) in &tool.params {
            let at = self.slot(key);
            self.slots[at].param = Some(param.clone());
        }
        self.required = tool.required.iter().map(|name| self.slot(&Key::from(name.as_str()))).collect();
    }

    /// The slot of a key, made where there is none.
    fn slot(&mut self, key: &Key) -> usize {
        self.find(key, 0).unwrap_or_else(|| {
            self.slots.push(Slot { key: key.clone(), param: None, acceptable: None });
            self.slots.len() - 1
        })
    }

    /// The slot of a key, most likely `hint`.
    pub(super) fn find(&self, key: &Key, hint: usize) -> Option<usize> {
        match self.slots.get(hint) {
            Some(slot) if slot.key == *key => Some(hint),
            _ => self.slots.iter().position(|slot| slot.key == *key),
        }
    }
}

/// What a parameter may be.
#[derive(Clone, Debug)]
pub(super) struct Acceptable {
    pub(super) values: Result<Vec<Val>, Fault>,
    /// The type of the first that is not `""`.
    pub(super) tag: Option<Tag>,
    /// Whether `""`, which marks what may be left out, is among them.
    pub(super) optional: bool,
}

impl Checker {
    /// Reads the `function` list and `ground_truth` of an entry of `category`. What is missing or odd in them shows in the verdicts of
    /// [`Checker::check`], where the reference stumbles over it.
    pub fn new(tools: &Val, gold: &Val, category: &str) -> Self {
        let (lang, route) = (Lang::of(category), Route::of(category));
        let list = tools.as_list().unwrap_or_default();
        let mut used: Vec<(usize, Tool)> = Vec::new();
        let mut place = |at: usize| match used.iter().position(|(i, _)| *i == at) {
            Some(place) => place,
            None => {
                used.push((at, tool(&list[at], lang)));
                used.len() - 1
            }
        };
        let first = (!list.is_empty()).then(|| place(0));
        let mut gold = match gold.as_list() {
            None => Err(Fault::new("gold.not_list", "ground_truth")),
            Some(gold) => Ok(gold.iter().map(|g| gold_call(g, list, &mut place)).collect::<Vec<_>>()),
        };
        let tools: Vec<Tool> = used.into_iter().map(|(_, t)| t).collect();
        for call in gold.iter_mut().flatten().flatten() {
            let at = match route {
                Route::Parallel | Route::Multiple => call.tool.as_ref().ok().copied(),
                // The first tool is checked, whatever the gold call names.
                _ => first,
            };
            if let Some(Ok(tool)) = at.map(|at| &tools[at]) {
                call.join(tool);
            }
        }
        Checker { lang, route, tools, first, gold }
    }
}

fn tool(tool: &Val, lang: Lang) -> Tool {
    let fault = |kind, at: &str| Err(Fault::new(kind, at));
    let Some(name) = tool.get("name").and_then(Val::as_str) else { return fault("schema.missing_name", "") };
    let Some(parameters) = tool.get("parameters") else { return fault("schema.missing_parameters", name) };
    let Some(properties) = parameters.get("properties").and_then(Val::as_dict) else {
        return fault("schema.missing_properties", name);
    };
    let Some(required) = parameters.get("required").and_then(Val::as_list) else {
        return fault("schema.missing_required", name);
    };
    Ok(Shape {
        name: name.to_owned(),
        underscored: name.replace('.', "_"),
        required: required.iter().filter_map(Val::as_str).map(Into::into).collect(),
        params: properties.iter().map(|(k, schema)| (k.clone(), param(k, schema, lang))).collect(),
    })
}

fn param(key: &Key, schema: &Val, lang: Lang) -> Param {
    let at = key.as_str().unwrap_or_default();
    let of = |schema: &Val| {
        let name = schema.get("type").and_then(Val::as_str);
        let name = name.ok_or_else(|| Fault::new("schema.missing_type", at))?;
        let tag = expected(name, lang).ok_or_else(|| Fault::new("schema.unknown_type", at))?;
        Ok(Type { name: name.to_owned(), tag })
    };
    let own = of(schema);
    let items = match &own {
        Ok(ty) if nested(&ty.name, lang) => match schema.get("items") {
            None => Err(Fault::new("schema.missing_items", at)),
            Some(items) => of(items).map(Some),
        },
        _ => Ok(None),
    };
    Param { own, items }
}

fn gold_call(gold: &Val, tools: &[Val], place: &mut impl FnMut(usize) -> usize) -> Result<GoldCall, Fault> {
    let Some((name, Val::Dict(args))) = gold.as_dict().and_then(|d| d.first()) else {
        return Err(Fault::new("gold.call", "ground_truth"));
    };
    let name = name.as_str().unwrap_or_default();
    let at = tools.iter().position(|t| t.get("name").and_then(Val::as_str) == Some(name));
    let acceptable = |(key, values): (&Key, &Val)| {
        let at = key.as_str().unwrap_or_default();
        let values = values.as_list().ok_or_else(|| Fault::new("gold.not_list", at));
        let optional = values.as_ref().is_ok_and(|v| super::checker::has_empty(v));
        let tag = values.as_ref().ok().and_then(|v| super::checker::first_tag(v));
        let acceptable = Acceptable { values: values.map(<[Val]>::to_vec), tag, optional };
        Slot { key: key.clone(), param: None, acceptable: Some(acceptable) }
    };
    let slots: Vec<Slot> = args.iter().map(acceptable).collect();
    Ok(GoldCall {
        tool: at.map(place).ok_or_else(|| Fault::new("gold.unknown_function", name)),
        name: name.to_owned(),
        given: slots.len(),
        slots,
        required: Vec::new(),
    })
}
