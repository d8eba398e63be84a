//! The calls that an entry's gold answer stands for.

use super::Lang;
use super::render::source;
use crate::msg::Call;
use crate::value::{Map, Val};

fn is_empty(v: &Val) -> bool {
    v.as_str() == Some("")
}

/// The first value that is not `""`; `""` if there is none.
fn first(values: &[Val]) -> Val {
    values.iter().find(|v| !is_empty(v)).cloned().unwrap_or_else(|| Val::from(""))
}

/// One value of an object's or list's entries, by the same rule inside objects.
fn settle(v: Val) -> Val {
    match v {
        Val::Dict(entries) => {
            let mut out = Map::default();
            for (k, v) in entries {
                match v {
                    Val::List(values) if values.iter().any(is_empty) => {}
                    Val::List(values) if values.is_empty() => {}
                    Val::List(values) => _ = out.insert(k, settle(first(&values))),
                    other => _ = out.insert(k, other),
                }
            }
            Val::Dict(out)
        }
        Val::List(items) => Val::List(items.into_iter().map(settle).collect()),
        other => other,
    }
}

/// The canonical gold calls of an entry: per gold call and parameter, in order, the first acceptable value that is not
/// `""`; a parameter that may be omitted and is not required is left out, and so is one that the schema lacks. In Java's and
/// JavaScript's categories the values are source text of the declared type. `None` when the gold answer has another shape
/// than BFCL's.
///
/// ```
/// use toolrm::{bfcl, json};
/// let read = |s| json::parse(s, json::Dialect::Python).unwrap();
/// let tools = read(r#"[{"name":"f","parameters":{"properties":{"p":{"type":"string"},"q":{"type":"string"}},"required":["p"]}}]"#);
/// let gold = read(r#"[{"f":{"p":["a","b"],"q":["","c"]}}]"#);
/// let calls = bfcl::canonical_gold(&tools, &gold, bfcl::Lang::Python).unwrap();
/// assert_eq!(calls[0].args.len(), 1);
/// ```
pub fn canonical_gold(tools: &Val, gold: &Val, lang: Lang) -> Option<Vec<Call>> {
    let tools = tools.as_list()?;
    let mut calls = Vec::new();
    for gold in gold.as_list()? {
        let (name, args) = gold.as_dict()?.first()?;
        let name = name.as_str()?;
        let tool = tools.iter().find(|t| t.get("name").and_then(Val::as_str) == Some(name))?;
        let parameters = tool.get("parameters")?;
        let required = parameters.get("required").and_then(Val::as_list).unwrap_or_default();
        let mut call = Call { name: name.into(), ..Call::default() };
        for (k, values) in args.as_dict()? {
            let Some(schema) = parameters.get("properties").and_then(Val::as_dict).and_then(|p| p.get(k))
            else {
                continue;
            };
            let values = values.as_list()?;
            let must = required.iter().any(|r| r.as_str().is_some() && r.as_str() == k.as_str());
            if must || !values.iter().any(is_empty) {
                let ty = |s: &Val| s.get("type").and_then(Val::as_str).map(ToOwned::to_owned);
                let items = schema.get("items").and_then(ty);
                let value = settle(first(values));
                let value = source(&value, &ty(schema).unwrap_or_default(), items.as_deref(), lang);
                call.args.insert(k.clone(), value);
            }
        }
        calls.push(call);
    }
    Some(calls)
}
