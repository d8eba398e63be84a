//! Fields of an object, taken one by one; what is left is the record's `meta`.

use super::VERSION;
use crate::msg::Call;
use crate::rule::Rational;
use crate::schema::{SchemaError, ToolDef, parse_tools};
use crate::value::{Map, Val};

pub(super) struct Fields(Map);

impl Fields {
    pub(super) fn of(v: Val) -> Result<Self, SchemaError> {
        let Val::Dict(mut map) = v else { return Err(SchemaError::field("", "an object", Some(&v))) };
        match map.shift_remove("v") {
            None => {}
            Some(Val::Int(VERSION)) => {}
            Some(other) => {
                return Err(SchemaError::of("json.type", "v", format!("expected 1, found {other:?}")));
            }
        }
        Ok(Fields(map))
    }

    /// An object within a record, which has no version.
    pub(super) fn nested(v: Option<Val>, path: &str) -> Result<Self, SchemaError> {
        match v {
            Some(Val::Dict(map)) => Ok(Fields(map)),
            other => Err(SchemaError::field(path, "an object", other.as_ref())),
        }
    }

    pub(super) fn rest(self) -> Map {
        self.0
    }

    /// A field that is there and not `null`.
    pub(super) fn take(&mut self, key: &str) -> Option<Val> {
        self.0.shift_remove(key).filter(|v| !matches!(v, Val::Null))
    }

    pub(super) fn maybe_string(&mut self, key: &str) -> Result<Option<String>, SchemaError> {
        match self.take(key) {
            None => Ok(None),
            Some(Val::Str(s)) => Ok(Some(s.into())),
            other => Err(SchemaError::field(key, "a string", other.as_ref())),
        }
    }

    pub(super) fn string(&mut self, key: &str) -> Result<String, SchemaError> {
        self.maybe_string(key)?.ok_or_else(|| SchemaError::field(key, "a string", None))
    }

    pub(super) fn maybe_count(&mut self, key: &str) -> Result<Option<u64>, SchemaError> {
        match self.take(key) {
            None => Ok(None),
            Some(Val::Int(n)) if n >= 0 => Ok(Some(n.unsigned_abs())),
            Some(Val::Int(n)) => Err(SchemaError::new(key, format!("expected a count, found {n}"))),
            other => Err(SchemaError::field(key, "a count", other.as_ref())),
        }
    }

    pub(super) fn count(&mut self, key: &str) -> Result<u64, SchemaError> {
        self.maybe_count(key)?.ok_or_else(|| SchemaError::field(key, "a count", None))
    }

    pub(super) fn maybe_number(&mut self, key: &str) -> Result<Option<f64>, SchemaError> {
        let v = self.take(key);
        match &v {
            None => Ok(None),
            Some(Val::Int(_) | Val::BigInt(_) | Val::Float(_)) => Ok(v.as_ref().and_then(Val::to_f64)),
            other => Err(SchemaError::field(key, "a number", other.as_ref())),
        }
    }

    pub(super) fn maybe_bool(&mut self, key: &str) -> Result<Option<bool>, SchemaError> {
        match self.take(key) {
            None => Ok(None),
            Some(Val::Bool(b)) => Ok(Some(b)),
            other => Err(SchemaError::field(key, "true or false", other.as_ref())),
        }
    }

    /// A number between 0 and 1: exact from `num` and `den` where they are there, else the simplest fraction with the value
    /// of `key`.
    pub(super) fn ratio(&mut self, key: &str, num: &str, den: &str) -> Result<Rational, SchemaError> {
        let Some(score) = self.maybe_number(key)? else {
            return Err(SchemaError::field(key, "a number from 0 to 1", None));
        };
        let out_of_range = || SchemaError::of("score.range", key, format!("expected 0 to 1, found {score}"));
        let ratio = match (self.maybe_count(num)?, self.maybe_count(den)?) {
            (Some(n), Some(d)) => {
                let ratio = Rational::new(u128::from(n), u128::from(d)).ok_or_else(out_of_range)?;
                if (ratio.to_f64() - score).abs() > 1e-12 {
                    let what = format!("{score}, but {num}/{den} is {n}/{d}");
                    return Err(SchemaError::of("score.range", key, what));
                }
                ratio
            }
            _ => Rational::simplest(score).ok_or_else(out_of_range)?,
        };
        if ratio > Rational::ONE { Err(out_of_range()) } else { Ok(ratio) }
    }

    pub(super) fn maybe_calls(&mut self, key: &str) -> Result<Option<Vec<Call>>, SchemaError> {
        match self.take(key) {
            None => Ok(None),
            Some(Val::List(items)) => items
                .iter()
                .enumerate()
                .map(|(i, c)| Call::from_val(c).map_err(|e| e.under(&format!("{key}[{i}]"))))
                .collect::<Result<_, _>>()
                .map(Some),
            other => Err(SchemaError::field(key, "a list of calls", other.as_ref())),
        }
    }

    pub(super) fn tools(&mut self, key: &str) -> Result<Vec<ToolDef>, SchemaError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(v) => parse_tools(&v).map_err(|e| e.under(key)),
        }
    }
}

/// Appends a score: its value for readers, its fraction for exactness.
pub(super) fn write_ratio(out: &mut Map, key: &str, [num, den]: [&str; 2], ratio: Rational) {
    let int = |n: u64| Val::int(n.into());
    out.insert(key.into(), Val::Float(ratio.to_f64()));
    out.insert(num.into(), int(ratio.num));
    out.insert(den.into(), int(ratio.den));
}

pub(super) fn calls_val(calls: &[Call]) -> Val {
    Val::List(calls.iter().map(Call::to_val).collect())
}

pub(super) fn tools_val(tools: &[ToolDef]) -> Val {
    Val::List(tools.iter().map(ToolDef::to_val).collect())
}

/// Appends what a record did not know.
pub(super) fn write_meta(out: &mut Map, meta: &Map) {
    for (k, v) in meta {
        out.entry(k.clone()).or_insert_with(|| v.clone());
    }
}
