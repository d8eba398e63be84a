//! Tool definitions: reading, checking a list of them, rendering.

use crate::canon::canon;
use crate::json::JsonError;
use crate::value::{Map, Tag, Val};

/// A definition or record that cannot be read: where, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at {}: {what}", if path.is_empty() { "top" } else { path })]
pub struct SchemaError {
    /// A stable name: `json.syntax`, `json.type`, `field.missing`, or a name of the kind of field.
    pub kind: &'static str,
    /// The field, as in `parameters.properties.city.type`.
    pub path: String,
    /// What is wrong.
    pub what: String,
}

impl SchemaError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        SchemaError::of("json.type", path, what)
    }

    /// An error of a kind.
    pub fn of(kind: &'static str, path: impl Into<String>, what: impl Into<String>) -> Self {
        SchemaError { kind, path: path.into(), what: what.into() }
    }

    /// An error about a field's type, or its absence.
    pub fn field(path: &str, want: &str, found: Option<&Val>) -> Self {
        match found {
            None => SchemaError::of("field.missing", path, format!("expected {want}")),
            Some(v) => SchemaError::new(path, format!("expected {want}, found {}", v.tag().name())),
        }
    }

    /// The same error seen from outside.
    pub fn under(mut self, parent: &str) -> Self {
        self.path = match (self.path.is_empty(), self.path.starts_with('[')) {
            (true, _) => parent.to_owned(),
            (_, true) => format!("{parent}{}", self.path),
            _ => format!("{parent}.{}", self.path),
        };
        self
    }
}

impl From<JsonError> for SchemaError {
    fn from(e: JsonError) -> Self {
        SchemaError::of(e.kind(), "", e.to_string())
    }
}

/// A declared type. JSON Schema's names and BFCL's for Python, Java and JavaScript mean the same families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeName {
    /// One type, by its name as written.
    One(String),
    /// A union: JSON Schema's list of types.
    Union(Vec<String>),
    /// No type was given: anything.
    Missing,
}

/// What values a type name takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Strings.
    Str,
    /// Integers, and no truth values.
    Int,
    /// Integers and floats.
    Number,
    /// Truth values.
    Bool,
    /// Lists and tuples.
    Array,
    /// Objects.
    Object,
    /// `null` alone.
    Null,
    /// Everything.
    Any,
}

impl Family {
    /// The family of a type name, or `None` for an unknown name.
    pub fn of(name: &str) -> Option<Family> {
        Some(match name {
            "string" | "String" | "char" => Family::Str,
            "integer" | "byte" | "short" | "long" | "Bigint" => Family::Int,
            "number" | "float" | "double" => Family::Number,
            "boolean" | "bool" | "Boolean" => Family::Bool,
            "array" | "list" | "tuple" | "Array" | "ArrayList" | "Set" | "Queue" | "Stack" => Family::Array,
            "object" | "dict" | "HashMap" | "Hashtable" => Family::Object,
            "null" => Family::Null,
            "any" | "Any" => Family::Any,
            _ => return None,
        })
    }

    /// Whether a value of this tag is of the family.
    pub fn takes(self, tag: Tag) -> bool {
        match self {
            Family::Str => tag == Tag::Str,
            Family::Int => tag == Tag::Int,
            Family::Number => matches!(tag, Tag::Int | Tag::Float),
            Family::Bool => tag == Tag::Bool,
            Family::Array => matches!(tag, Tag::List | Tag::Tuple),
            Family::Object => tag == Tag::Dict,
            Family::Null => tag == Tag::Null,
            Family::Any => true,
        }
    }
}

impl TypeName {
    fn read(v: Option<&Val>) -> Result<TypeName, SchemaError> {
        match v {
            None => Ok(TypeName::Missing),
            Some(Val::Str(s)) => Ok(TypeName::One(s.to_string())),
            Some(Val::List(items)) if items.iter().all(|i| i.as_str().is_some()) => {
                Ok(TypeName::Union(items.iter().filter_map(Val::as_str).map(Into::into).collect()))
            }
            other => Err(SchemaError::field("type", "a type name or a list of them", other)),
        }
    }

    /// The names in it.
    pub fn names(&self) -> Vec<&str> {
        match self {
            TypeName::One(name) => vec![name],
            TypeName::Union(names) => names.iter().map(String::as_str).collect(),
            TypeName::Missing => vec!["any"],
        }
    }

    /// Whether a value of this tag fits. `null` fits only a type that names it, and `any`.
    pub fn takes(&self, tag: Tag) -> bool {
        self.names().iter().any(|n| Family::of(n).is_none_or(|f| f.takes(tag)))
    }

    fn to_val(&self) -> Option<Val> {
        match self {
            TypeName::One(name) => Some(name.clone().into()),
            TypeName::Union(names) => Some(Val::List(names.iter().map(|n| n.clone().into()).collect())),
            TypeName::Missing => None,
        }
    }

    /// JSON Schema's name in OpenAI's form. Unions give their first member that is not `null`.
    pub fn openai(&self) -> &'static str {
        let names = self.names();
        let name = names.iter().find(|n| **n != "null").copied().unwrap_or("null");
        match Family::of(name) {
            Some(Family::Int) => "integer",
            Some(Family::Number) => "number",
            Some(Family::Bool) => "boolean",
            Some(Family::Array) => "array",
            Some(Family::Object) => "object",
            Some(Family::Null) => "null",
            Some(Family::Str | Family::Any) | None => "string",
        }
    }
}

/// A property's schema.
#[derive(Clone, Debug)]
pub struct PropSchema {
    /// Its type.
    pub ty: TypeName,
    /// What it is for.
    pub description: Option<String>,
    /// The values it may take.
    pub enum_: Option<Vec<Val>>,
    /// The schema of an array's items.
    pub items: Option<Box<PropSchema>>,
    /// The schemas of an object's entries.
    pub properties: Option<Map<PropSchema>>,
    /// The entries that an object must have.
    pub required: Vec<String>,
    /// The value when it is left out.
    pub default: Option<Val>,
    /// Whether `null` is allowed whatever the type.
    pub nullable: bool,
    /// Whether an object may have entries beyond `properties`.
    pub additional: bool,
    /// Everything else.
    pub extra: Map,
}

/// A tool's parameters: the schema of an object.
pub type ParamSchema = PropSchema;

/// A tool.
#[derive(Clone, Debug)]
pub struct ToolDef {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its parameters.
    pub parameters: ParamSchema,
    /// Everything else.
    pub extra: Map,
}

fn strings(v: Option<&Val>, path: &str) -> Result<Vec<String>, SchemaError> {
    match v {
        None | Some(Val::Null) => Ok(Vec::new()),
        Some(Val::List(items)) => items
            .iter()
            .map(|i| {
                i.as_str().map(Into::into).ok_or_else(|| SchemaError::field(path, "a list of names", Some(i)))
            })
            .collect(),
        other => Err(SchemaError::field(path, "a list of names", other)),
    }
}

impl PropSchema {
    /// Reads a schema.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn read(v: &Val) -> Result<Self, SchemaError> {
        let entries = v.as_dict().ok_or_else(|| SchemaError::field("", "an object", Some(v)))?;
        let mut out = PropSchema {
            ty: TypeName::read(v.get("type"))?,
            description: v.get("description").and_then(Val::as_str).map(Into::into),
            enum_: None,
            items: None,
            properties: None,
            required: Vec::new(),
            default: v.get("default").cloned(),
            nullable: matches!(v.get("nullable"), Some(Val::Bool(true))),
            additional: matches!(v.get("additionalProperties"), Some(Val::Bool(true) | Val::Dict(_))),
            extra: Map::default(),
        };
        // Draft 3 of JSON Schema marks a property itself as required; that is no list, and stays among the rest.
        if !matches!(v.get("required"), Some(Val::Bool(_))) {
            out.required = strings(v.get("required"), "required")?;
        }
        match v.get("enum") {
            None | Some(Val::Null) => {}
            Some(Val::List(items)) => out.enum_ = Some(items.clone()),
            other => return Err(SchemaError::field("enum", "a list", other)),
        }
        if let Some(items) = v.get("items") {
            out.items = Some(Box::new(PropSchema::read(items).map_err(|e| e.under("items"))?));
        }
        match v.get("properties") {
            None | Some(Val::Null) => {}
            Some(Val::Dict(props)) => {
                let mut all = Map::default();
                for (k, p) in props {
                    let path = format!("properties.{}", k.as_str().unwrap_or("?"));
                    all.insert(k.clone(), PropSchema::read(p).map_err(|e| e.under(&path))?);
                }
                out.properties = Some(all);
            }
            other => return Err(SchemaError::field("properties", "an object", other)),
        }
        let known = ["type", "description", "enum", "items", "properties", "default", "nullable"];
        for (k, v) in entries {
            let k_str = k.as_str().unwrap_or_default();
            if !known.contains(&k_str) && (k_str != "required" || matches!(v, Val::Bool(_))) {
                out.extra.insert(k.clone(), v.clone());
            }
        }
        Ok(out)
    }

    /// The schema with JSON Schema's own type names.
    pub fn to_openai(&self) -> Val {
        self.write(&|ty| Some(ty.openai().into()))
    }

    /// The schema with its types as they were declared.
    pub fn to_val(&self) -> Val {
        self.write(&TypeName::to_val)
    }

    fn write(&self, ty: &dyn Fn(&TypeName) -> Option<Val>) -> Val {
        let mut out = Map::default();
        if let Some(ty) = ty(&self.ty) {
            out.insert("type".into(), ty);
        }
        if let Some(text) = &self.description {
            out.insert("description".into(), text.clone().into());
        }
        if let Some(values) = &self.enum_ {
            out.insert("enum".into(), Val::List(values.clone()));
        }
        if let Some(items) = &self.items {
            out.insert("items".into(), items.write(ty));
        }
        if let Some(properties) = &self.properties {
            let entries = properties.iter().map(|(k, p)| (k.clone(), p.write(ty))).collect();
            out.insert("properties".into(), Val::Dict(entries));
        }
        if !self.required.is_empty() {
            out.insert(
                "required".into(),
                Val::List(self.required.iter().map(|r| r.clone().into()).collect()),
            );
        }
        if let Some(value) = &self.default {
            out.insert("default".into(), value.clone());
        }
        if self.nullable {
            out.insert("nullable".into(), Val::Bool(true));
        }
        for (k, v) in &self.extra {
            out.entry(k.clone()).or_insert_with(|| v.clone());
        }
        Val::Dict(out)
    }
}

impl ToolDef {
    /// Reads a tool in any accepted spelling: bare, in OpenAI's wrapper, with `input_schema` for `parameters`.
    ///
    /// # Errors
    /// [`SchemaError`] naming the field.
    pub fn read(v: &Val) -> Result<Self, SchemaError> {
        if v.get("type").and_then(Val::as_str) == Some("function")
            && let Some(inner) = v.get("function")
        {
            return ToolDef::read(inner).map_err(|e| e.under("function"));
        }
        let entries = v.as_dict().ok_or_else(|| SchemaError::field("", "an object", Some(v)))?;
        let name = v
            .get("name")
            .and_then(Val::as_str)
            .ok_or_else(|| SchemaError::field("name", "a string", v.get("name")))?;
        let empty = Val::dict([("type", Val::from("object"))]);
        let (key, parameters) = match (v.get("parameters"), v.get("input_schema")) {
            (Some(p), _) => ("parameters", p),
            (None, Some(p)) => ("input_schema", p),
            (None, None) => ("parameters", &empty),
        };
        let parameters = match parameters {
            Val::Null => &empty,
            Val::Dict(m) if m.is_empty() => &empty,
            p => p,
        };
        let known = ["name", "description", "parameters", "input_schema"];
        Ok(ToolDef {
            name: name.to_owned(),
            description: v.get("description").and_then(Val::as_str).unwrap_or_default().to_owned(),
            parameters: PropSchema::read(parameters).map_err(|e| e.under(key))?,
            extra: entries
                .iter()
                .filter(|(k, _)| !known.contains(&k.as_str().unwrap_or_default()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        })
    }

    /// The tool as `{name, description, parameters}` and the rest of its fields, types as they were declared.
    pub fn to_val(&self) -> Val {
        let mut out = Map::default();
        out.insert("name".into(), self.name.clone().into());
        out.insert("description".into(), self.description.clone().into());
        out.insert("parameters".into(), self.parameters.to_val());
        for (k, v) in &self.extra {
            out.entry(k.clone()).or_insert_with(|| v.clone());
        }
        Val::Dict(out)
    }

    /// The tool in OpenAI's wrapper.
    pub fn to_openai(&self) -> Val {
        let function = Val::dict([
            ("name", Val::from(self.name.as_str())),
            ("description", Val::from(self.description.as_str())),
            ("parameters", self.parameters.to_openai()),
        ]);
        Val::dict([("type", Val::from("function")), ("function", function)])
    }
}

/// Reads a list of tools.
///
/// # Errors
/// [`SchemaError`] naming the tool and field.
pub fn parse_tools(v: &Val) -> Result<Vec<ToolDef>, SchemaError> {
    let list = v.as_list().ok_or_else(|| SchemaError::field("", "an array of tools", Some(v)))?;
    list.iter().enumerate().map(|(i, t)| ToolDef::read(t).map_err(|e| e.under(&format!("[{i}]")))).collect()
}

/// The canonical text of a tool, by which duplicates are found.
pub(crate) fn canon_tool(tool: &ToolDef) -> String {
    canon(&tool.to_openai())
}
