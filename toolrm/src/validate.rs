//! Checks of tool lists, and of calls against them.

use std::fmt;

use crate::msg::Call;
use crate::schema::{Family, PropSchema, ToolDef, TypeName, canon_tool};
use crate::value::{Map, Tag, Val, eq_json};

/// How much an [`Issue`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something unusual that was repaired or can be used as it is.
    Warning,
    /// Something wrong.
    Error,
}

/// Something found in a tool list, a call or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// A stable name, as `schema.required_unknown`.
    pub kind: &'static str,
    /// Where, as `get_weather.city`.
    pub path: String,
    /// What was found and expected.
    pub detail: String,
    /// Whether it is wrong or only unusual.
    pub severity: Severity,
}

impl Issue {
    /// A mistake.
    pub fn error(kind: &'static str, path: impl Into<String>, detail: impl Into<String>) -> Self {
        Issue { kind, path: path.into(), detail: detail.into(), severity: Severity::Error }
    }

    /// Something unusual.
    pub fn warning(kind: &'static str, path: impl Into<String>, detail: impl Into<String>) -> Self {
        Issue { severity: Severity::Warning, ..Issue::error(kind, path, detail) }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}: {}",
            self.kind,
            if self.path.is_empty() { "top" } else { &self.path },
            self.detail
        )
    }
}

/// Checks a list of tools in place: identical duplicates are merged; with `repair`, unknown names in `required` are
/// dropped. Errors among the issues mean that the list cannot be used.
pub fn validate_tools(tools: &mut Vec<ToolDef>, repair: bool) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut seen: Vec<(String, String)> = Vec::new();
    tools.retain(|tool| {
        let text = canon_tool(tool);
        match seen.iter().find(|(name, _)| *name == tool.name) {
            Some((_, other)) if *other == text => {
                issues.push(Issue::warning("schema.duplicate", &tool.name, "given twice; one is kept"));
                return false;
            }
            Some(_) => {
                issues.push(Issue::error("schema.conflict", &tool.name, "two tools of this name differ"));
            }
            None => seen.push((tool.name.clone(), text)),
        }
        true
    });
    for tool in tools.iter_mut() {
        let usual = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if tool.name.is_empty() {
            issues.push(Issue::error("schema.name", "", "a tool's name is empty"));
        } else if tool.name.len() > 64 || !tool.name.chars().all(usual) {
            issues.push(Issue::warning("schema.name", &tool.name, "not 1 to 64 of A-Z a-z 0-9 _ . -"));
        }
        let name = tool.name.clone();
        check_schema(&mut tool.parameters, &name, repair, &mut issues);
        if !tool.parameters.ty.takes(Tag::Dict) {
            issues.push(Issue::error("schema.type", &tool.name, "parameters are not an object"));
        }
    }
    issues
}

fn check_schema(schema: &mut PropSchema, path: &str, repair: bool, issues: &mut Vec<Issue>) {
    if schema.ty == TypeName::Missing && schema.properties.is_none() {
        issues.push(Issue::warning("schema.missing_type", path, "no type; taken as any"));
    }
    for name in schema.ty.names() {
        if Family::of(name).is_none() {
            issues.push(Issue::error("schema.unknown_type", path, format!("unknown type {name:?}")));
        }
    }
    match schema.enum_.as_deref() {
        Some([]) => issues.push(Issue::error("schema.enum", path, "enum has no values")),
        Some(values) => {
            for v in values
                .iter()
                .filter(|v| !(schema.ty.takes(v.tag()) || schema.nullable && v.tag() == Tag::Null))
            {
                issues.push(Issue::error(
                    "schema.enum",
                    path,
                    format!("a value of enum is {}", v.tag().name()),
                ));
            }
        }
        None => {}
    }
    let empty = Map::default();
    let known = schema.properties.as_ref().unwrap_or(&empty);
    let unknown: Vec<String> =
        schema.required.iter().filter(|r| !known.contains_key(r.as_str())).cloned().collect();
    for name in unknown {
        let at = format!("{path}.{name}");
        if repair {
            schema.required.retain(|r| *r != name);
            issues.push(Issue::warning("schema.required_unknown", at, "required, but no property; dropped"));
        } else {
            issues.push(Issue::error("schema.required_unknown", at, "required, but no property"));
        }
    }
    if let Some(items) = &mut schema.items {
        check_schema(items, &format!("{path}[]"), repair, issues);
    }
    for (k, p) in schema.properties.iter_mut().flatten() {
        check_schema(p, &format!("{path}.{}", k.as_str().unwrap_or("?")), repair, issues);
    }
}

/// Checks a call against a list of tools: unknown function or parameter, missing parameter, wrong type, value not in an enum.
///
/// ```
/// use toolrm::{Call, ToolDef, Val, json, validate_call};
/// let tool = json::parse(r#"{"name":"f","parameters":{"type":"object","properties":{"x":{"type":"integer"}},
///     "required":["x"]}}"#, json::Dialect::Strict).unwrap();
/// let tools = [ToolDef::read(&tool).unwrap()];
/// let issues = validate_call(&Call::new("f", [("x", Val::Bool(true))]), &tools);
/// assert_eq!(issues[0].kind, "call.type");
/// ```
pub fn validate_call(call: &Call, tools: &[ToolDef]) -> Vec<Issue> {
    let mut issues = Vec::new();
    match tools.iter().find(|t| t.name == call.name) {
        None => {
            issues.push(Issue::error("call.unknown_function", call.name.as_str(), "no tool of this name"));
        }
        Some(tool) => check_object(&call.args, &tool.parameters, &call.name, &mut issues),
    }
    issues
}

fn check_object(entries: &Map, schema: &PropSchema, path: &str, issues: &mut Vec<Issue>) {
    let empty = Map::default();
    let properties = schema.properties.as_ref().unwrap_or(&empty);
    for (k, v) in entries {
        let at = format!("{path}.{}", k.as_str().unwrap_or("?"));
        match properties.get(k) {
            Some(p) => check_value(v, p, &at, issues),
            None if schema.additional => {}
            None => issues.push(Issue::error("call.unknown_parameter", at, "not a parameter of the tool")),
        }
    }
    for name in schema.required.iter().filter(|r| !entries.contains_key(r.as_str())) {
        issues.push(Issue::error("call.missing", format!("{path}.{name}"), "required, but not given"));
    }
}

fn check_value(v: &Val, schema: &PropSchema, path: &str, issues: &mut Vec<Issue>) {
    if v.tag() == Tag::Null && schema.nullable {
        return;
    }
    if !schema.ty.takes(v.tag()) {
        let want = schema.ty.names().join(" or ");
        issues.push(Issue::error("call.type", path, format!("expected {want}, found {}", v.tag().name())));
        return;
    }
    if let Some(values) = &schema.enum_
        && !values.iter().any(|e| eq_json(e, v))
    {
        issues.push(Issue::error("call.enum", path, "not one of the enum's values"));
    }
    match v {
        Val::List(items) | Val::Tuple(items) => {
            if let Some(schema) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    check_value(item, schema, &format!("{path}[{i}]"), issues);
                }
            }
        }
        Val::Dict(entries) if schema.properties.is_some() => check_object(entries, schema, path, issues),
        _ => {}
    }
}
