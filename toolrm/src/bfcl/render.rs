//! Gold values as the source text that Java's and JavaScript's categories expect of a model.

use super::Lang;
use crate::value::Val;

/// The source of a value of the declared type, such that the conversions of this module read it back where they can. A
/// string that stands for another type is a variable's name, and stays as it is.
pub(super) fn source(v: &Val, ty: &str, items: Option<&str>, lang: Lang) -> Val {
    let text = match (lang, ty, v) {
        (Lang::Python, _, _) => return v.clone(),
        (_, _, Val::Str(_)) => return v.clone(),
        (Lang::Java, "long", _) => format!("{}L", scalar(v)),
        (Lang::Java, "float", _) => format!("{}f", scalar(v)),
        (Lang::JavaScript, "Bigint", _) => format!("{}n", scalar(v)),
        (Lang::Java, "Array", Val::List(values)) => {
            let values: Vec<String> = values.iter().map(|v| inner(v, items, false, lang)).collect();
            format!("new {}[]{{{}}}", items.unwrap_or("Object"), values.join(", "))
        }
        (Lang::Java, "ArrayList", Val::List(values)) if values.is_empty() => "new ArrayList<>()".into(),
        (Lang::Java, "ArrayList", Val::List(values)) => {
            let quoted = matches!(items, Some("String" | "char"));
            let values: Vec<String> = values.iter().map(|v| inner(v, items, quoted, lang)).collect();
            format!("new ArrayList<>(Arrays.asList({}))", values.join(", "))
        }
        (Lang::Java, _, Val::Dict(_)) => literal(v, lang),
        (Lang::JavaScript, "array", Val::List(values)) => {
            let values: Vec<String> = values.iter().map(|v| inner(v, items, true, lang)).collect();
            format!("[{}]", values.join(", "))
        }
        _ => literal(v, lang),
    };
    text.into()
}

/// An element of a container whose items have a type.
fn inner(v: &Val, ty: Option<&str>, quoted: bool, lang: Lang) -> String {
    match (v, ty) {
        (Val::Str(s), Some("String" | "char")) if quoted => format!("\"{s}\""),
        (Val::Str(s), Some(_)) => s.to_string(),
        (v, Some(ty)) => match source(v, ty, None, lang) {
            Val::Str(s) => s.into(),
            other => scalar(&other),
        },
        (v, None) => literal(v, lang),
    }
}

fn scalar(v: &Val) -> String {
    match v {
        Val::Bool(b) => b.to_string(),
        Val::Float(f) => format!("{f:?}"),
        Val::Str(s) => s.to_string(),
        other => crate::json::to_string(other).unwrap_or_default(),
    }
}

/// A value whose type is guessed when read back: strings in quotes.
fn literal(v: &Val, lang: Lang) -> String {
    let all = |items: &[Val]| items.iter().map(|v| literal(v, lang)).collect::<Vec<_>>().join(", ");
    match (lang, v) {
        (_, Val::Str(s)) => format!("\"{s}\""),
        (Lang::Java, Val::List(items)) => format!("new Object[]{{{}}}", all(items)),
        (_, Val::List(items)) => format!("[{}]", all(items)),
        (Lang::Java, Val::Dict(entries)) => {
            let put = |(k, v): (&crate::Key, &Val)| {
                format!("put(\"{}\", {});", k.as_str().unwrap_or(""), literal(v, lang))
            };
            format!(
                "new HashMap<String, Object>() {{{{ {} }}}}",
                entries.iter().map(put).collect::<Vec<_>>().join(" ")
            )
        }
        (_, Val::Dict(entries)) => {
            let pair = |(k, v): (&crate::Key, &Val)| {
                format!("\"{}\": {}", k.as_str().unwrap_or(""), literal(v, lang))
            };
            format!("{{{}}}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        _ => scalar(v),
    }
}
