//! The types that tools declare, in each language's words.

use super::Lang;
use crate::value::Tag;

/// A declared type.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) name: &'static str,
    /// The tag of its values.
    pub(super) tag: Tag,
    /// Whether the type of its items is checked too.
    pub(super) nested: bool,
}

const fn plain(name: &'static str, tag: Tag) -> Type {
    Type { name, tag, nested: false }
}

const fn nested(name: &'static str) -> Type {
    Type { name, tag: Tag::List, nested: true }
}

static PYTHON: [Type; 8] = [
    plain("string", Tag::Str),
    plain("any", Tag::Str),
    plain("integer", Tag::Int),
    plain("float", Tag::Float),
    plain("boolean", Tag::Bool),
    plain("dict", Tag::Dict),
    nested("array"),
    nested("tuple"),
];

static JAVA: [Type; 17] = [
    plain("byte", Tag::Int),
    plain("short", Tag::Int),
    plain("integer", Tag::Int),
    plain("long", Tag::Int),
    plain("float", Tag::Float),
    plain("double", Tag::Float),
    plain("boolean", Tag::Bool),
    plain("char", Tag::Str),
    plain("String", Tag::Str),
    plain("any", Tag::Str),
    nested("Array"),
    nested("ArrayList"),
    plain("Queue", Tag::List),
    plain("Stack", Tag::List),
    plain("HashMap", Tag::Dict),
    plain("Hashtable", Tag::Dict),
    // Python's set: no value that is checked has this type, but a `Set` among an array's items is no fault.
    plain("Set", Tag::Other),
];

static JAVASCRIPT: [Type; 8] = [
    plain("String", Tag::Str),
    plain("any", Tag::Str),
    plain("integer", Tag::Int),
    plain("Bigint", Tag::Int),
    plain("float", Tag::Float),
    plain("Boolean", Tag::Bool),
    plain("dict", Tag::Dict),
    nested("array"),
];

/// The type of a name; `None` where the reference has none.
pub(super) fn type_of(name: &str, lang: Lang) -> Option<&'static Type> {
    let types: &'static [Type] = match lang {
        Lang::Python => &PYTHON,
        Lang::Java => &JAVA,
        Lang::JavaScript => &JAVASCRIPT,
    };
    types.iter().find(|t| t.name == name)
}
