//! Values as Python writes them, which is what templates are written for.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};
use serde_json::Value as Json;

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// `{{ value }}`. Lists and objects are refused: their Python form is of no use to a model, and a template that prints
/// one means `tojson`.
pub(super) fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
        ValueKind::Number if value.is_integer() => write!(out, "{value}"),
        ValueKind::Number => out.write_str(&float(f64::try_from(value.clone())?)),
        other => return Err(invalid(format!("prints a {other}; `tojson` writes one"))),
    };
    written.map_err(|e| Error::new(ErrorKind::WriteFailure, e.to_string()))
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The filter `tojson`: `json.dumps(value, ensure_ascii=False)` with its options, unlike Jinja's own, which escapes for
/// HTML.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(invalid("tojson(ensure_ascii=true) is not supported"));
    }
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None if indent.is_some() => (",", ": "),
        None => (", ", ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("tojson: separators are a pair")),
    };
    if value.is_undefined() {
        return Err(invalid("tojson of an undefined value"));
    }
    let json = serde_json::to_value(value).map_err(|e| invalid(format!("tojson: {e}")))?;
    let mut writer = Writer { out: String::new(), indent, item, key, sort };
    writer.value(&json, 0);
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    sort: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Json, depth: usize) {
        match value {
            Json::Number(n) if n.is_f64() => self.out.push_str(&float(n.as_f64().unwrap_or(f64::NAN))),
            Json::Array(items) => {
                let items: Vec<_> = items.iter().map(|v| (None, v)).collect();
                self.items('[', ']', &items, depth);
            }
            Json::Object(fields) => {
                let mut items: Vec<_> = fields.iter().map(|(k, v)| (Some(k.as_str()), v)).collect();
                if self.sort {
                    items.sort_by_key(|(k, _)| *k);
                }
                self.items('{', '}', &items, depth);
            }
            // Python escapes the same characters of a string in the same way.
            other => self.out.push_str(&other.to_string()),
        }
    }

    fn items(&mut self, open: char, close: char, items: &[(Option<&str>, &Json)], depth: usize) {
        self.out.push(open);
        for (i, (key, value)) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.line(depth + 1);
            if let Some(key) = key {
                self.out.push_str(&Json::from(*key).to_string());
                self.out.push_str(self.key);
            }
            self.value(value, depth + 1);
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    /// As CPython 3.11 prints them.
    #[test]
    fn floats_are_written_as_python_does() {
        let written = [1.0, 0.1, 1e-4, 1.5e-5, 1e15, 1e16, -2.5e300, 123_456.789].map(float);
        let expected =
            ["1.0", "0.1", "0.0001", "1.5e-05", "1000000000000000.0", "1e+16", "-2.5e+300", "123456.789"];
        assert_eq!(written, expected);
    }
}
