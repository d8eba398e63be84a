//! Values of arguments: JSON, and what Python's literals have beyond it.

use std::hash::{Hash, Hasher};

use indexmap::IndexMap;
use num_bigint::BigInt;
use num_traits::{FromPrimitive, ToPrimitive};

/// Text that keeps up to 24 bytes in itself: most keys and values of calls are that short, and each then costs no memory of its own.
pub type Str = compact_str::CompactString;

/// An object: keys in the order of the text.
pub type Map<V = Val> = IndexMap<Key, V, foldhash::fast::RandomState>;

/// An argument's value.
#[derive(Clone, Debug)]
pub enum Val {
    /// `null`, `None`.
    Null,
    /// A truth value; never a number here, but equal to 0 and 1 under [`eq_py`].
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer that needs more than 64 bits; smaller ones are always [`Val::Int`].
    BigInt(BigInt),
    /// A number written with `.`, `e` or `E`.
    Float(f64),
    /// Text.
    Str(Str),
    /// A JSON array, a Python list.
    List(Vec<Val>),
    /// A Python tuple.
    Tuple(Vec<Val>),
    /// A JSON object, a Python dict.
    Dict(Map),
    /// A Python literal with no counterpart in JSON (bytes, complex numbers); equal to nothing.
    Opaque {
        /// Its Python type.
        ty: &'static str,
        /// Its source text.
        repr: String,
    },
}

/// A key of an object. JSON gives only [`Key::Str`].
#[derive(Clone, Debug)]
pub enum Key {
    /// A string.
    Str(Str),
    /// Python's `None`: the key of an unpacked `**` argument.
    Null,
    /// Any other hashable Python value; never a string or `None`.
    Other(Box<Val>),
}

impl Key {
    /// The key as text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Key::Str(s) = self { Some(s) } else { None }
    }
}

impl From<&str> for Key {
    fn from(s: &str) -> Self {
        Key::Str(Str::new(s))
    }
}

impl From<String> for Key {
    fn from(s: String) -> Self {
        Key::Str(s.into())
    }
}

impl From<Str> for Key {
    fn from(s: Str) -> Self {
        Key::Str(s)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Key::Str(a), Key::Str(b)) => a == b,
            (Key::Null, Key::Null) => true,
            (Key::Other(a), Key::Other(b)) => eq_py(a, b),
            _ => false,
        }
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Key::Str(s) => s.hash(state),
            Key::Null => 0u8.hash(state),
            Key::Other(v) => hash_py(v, state),
        }
    }
}

/// Looks a string key up without allocating.
impl indexmap::Equivalent<Key> for str {
    fn equivalent(&self, key: &Key) -> bool {
        matches!(key, Key::Str(s) if s == self)
    }
}

/// A hash that agrees with [`eq_py`]: equal numbers have the same nearest f64.
fn hash_py<H: Hasher>(v: &Val, state: &mut H) {
    match v {
        Val::Bool(_) | Val::Int(_) | Val::BigInt(_) | Val::Float(_) => {
            let f = v.to_f64().unwrap_or(f64::NAN);
            (if f == 0.0 { 0.0f64 } else { f }).to_bits().hash(state);
        }
        Val::Str(s) => s.hash(state),
        Val::Opaque { repr, .. } => repr.hash(state),
        Val::Tuple(items) | Val::List(items) => items.iter().for_each(|v| hash_py(v, state)),
        Val::Null | Val::Dict(_) => 0u8.hash(state),
    }
}

/// The type of a value; tags never overlap (`true` is not an `int`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool,
    /// Integers of any size.
    Int,
    /// Floats.
    Float,
    /// Strings.
    Str,
    /// Lists.
    List,
    /// Tuples.
    Tuple,
    /// Objects.
    Dict,
    /// [`Val::Opaque`].
    Other,
}

impl Tag {
    /// The tag's name: `null`, `bool`, `int`, `float`, `str`, `list`, `tuple`, `dict`, `other`.
    pub fn name(self) -> &'static str {
        match self {
            Tag::Null => "null",
            Tag::Bool => "bool",
            Tag::Int => "int",
            Tag::Float => "float",
            Tag::Str => "str",
            Tag::List => "list",
            Tag::Tuple => "tuple",
            Tag::Dict => "dict",
            Tag::Other => "other",
        }
    }
}

impl Val {
    /// The value's type.
    pub fn tag(&self) -> Tag {
        match self {
            Val::Null => Tag::Null,
            Val::Bool(_) => Tag::Bool,
            Val::Int(_) | Val::BigInt(_) => Tag::Int,
            Val::Float(_) => Tag::Float,
            Val::Str(_) => Tag::Str,
            Val::List(_) => Tag::List,
            Val::Tuple(_) => Tag::Tuple,
            Val::Dict(_) => Tag::Dict,
            Val::Opaque { .. } => Tag::Other,
        }
    }

    /// The integer in its smallest variant.
    pub fn int(n: BigInt) -> Val {
        n.to_i64().map_or(Val::BigInt(n), Val::Int)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Val::Str(s) = self { Some(s) } else { None }
    }

    /// The items of a list (not of a tuple).
    pub fn as_list(&self) -> Option<&[Val]> {
        if let Val::List(v) = self { Some(v) } else { None }
    }

    /// The entries of an object.
    pub fn as_dict(&self) -> Option<&Map> {
        if let Val::Dict(m) = self { Some(m) } else { None }
    }

    /// The entry of an object under a string key.
    pub fn get(&self, key: &str) -> Option<&Val> {
        self.as_dict()?.get(key)
    }

    /// The nearest f64 of a number or truth value; infinite for integers beyond its range.
    pub fn to_f64(&self) -> Option<f64> {
        match self {
            Val::Bool(b) => Some(f64::from(u8::from(*b))),
            Val::Int(n) => Some(*n as f64),
            Val::BigInt(n) => n.to_f64(),
            Val::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// An object from pairs; the last value of a repeated key wins, at the place of the first.
    pub fn dict<K: Into<Key>>(entries: impl IntoIterator<Item = (K, Val)>) -> Val {
        Val::Dict(entries.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }
}

impl From<&str> for Val {
    fn from(s: &str) -> Self {
        Val::Str(Str::new(s))
    }
}

impl From<String> for Val {
    fn from(s: String) -> Self {
        Val::Str(s.into())
    }
}

impl From<Str> for Val {
    fn from(s: Str) -> Self {
        Val::Str(s)
    }
}

fn int_eq_float(n: &Val, f: f64) -> bool {
    if !f.is_finite() || f.fract() != 0.0 {
        return false;
    }
    match n {
        // 2^63 as f64 is exact; beyond it no i64 can be equal.
        Val::Int(n) => (i64::MIN as f64..-(i64::MIN as f64)).contains(&f) && f as i64 == *n,
        Val::BigInt(n) => BigInt::from_f64(f).is_some_and(|f| f == *n),
        _ => false,
    }
}

fn number_eq(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => a == b,
        (Val::BigInt(a), Val::BigInt(b)) => a == b,
        (Val::Float(a), Val::Float(b)) => a == b,
        (Val::Float(f), n) | (n, Val::Float(f)) => int_eq_float(n, *f),
        _ => false,
    }
}

fn dict_eq(a: &Map, b: &Map, eq: fn(&Val, &Val) -> bool) -> bool {
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| eq(v, w)))
}

fn list_eq(a: &[Val], b: &[Val], eq: fn(&Val, &Val) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| eq(a, b))
}

/// Equality of the rule score: same type and equal, but `1` equals `1.0`, and a tuple the list of its items. A truth
/// value never equals a number; objects ignore order. NaN and [`Val::Opaque`] equal nothing.
///
/// ```
/// use toolrm::{Val, eq_json};
/// assert!(eq_json(&Val::Int(1), &Val::Float(1.0)) && !eq_json(&Val::Int(1), &Val::Bool(true)));
/// ```
pub fn eq_json(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Str(a), Val::Str(b)) => a == b,
        (Val::List(a) | Val::Tuple(a), Val::List(b) | Val::Tuple(b)) => list_eq(a, b, eq_json),
        (Val::Dict(a), Val::Dict(b)) => dict_eq(a, b, eq_json),
        _ => number_eq(a, b),
    }
}

/// Python's `==`: truth values are the numbers 0 and 1, integers and floats compare by exact value, a list never equals
/// a tuple.
pub fn eq_py(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Str(a), Val::Str(b)) => a == b,
        (Val::List(a), Val::List(b)) | (Val::Tuple(a), Val::Tuple(b)) => list_eq(a, b, eq_py),
        (Val::Dict(a), Val::Dict(b)) => dict_eq(a, b, eq_py),
        (Val::Bool(a), b) => number_eq_bool(*a, b),
        (a, Val::Bool(b)) => number_eq_bool(*b, a),
        _ => number_eq(a, b),
    }
}

fn number_eq_bool(a: bool, b: &Val) -> bool {
    match b {
        Val::Bool(b) => a == *b,
        b => number_eq(&Val::Int(i64::from(a)), b),
    }
}
