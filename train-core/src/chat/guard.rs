//! Keeping control tokens of the template apart from text that spells them.

use serde_json::{Map, Value};

/// Marks are noncharacters: no text needs them, and they are neither letters nor spaces to a template.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Three marks that are in none of `texts`.
pub(super) fn marks<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Option<[char; 3]> {
    let mut free = MARKS.filter(|mark| !texts.clone().any(|text| text.contains(*mark)));
    Some([free.next()?, free.next()?, free.next()?])
}

/// `text` with `mark` inside every control token it spells, and inside a beginning of one at its end, which the next
/// text could complete.
pub(super) fn text(text: &str, control: &[(String, u32)], mark: char) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        out.push(c);
        let rest = &text[at..];
        if control.iter().any(|(token, _)| rest.starts_with(token.as_str()) || token.starts_with(rest)) {
            out.push(mark);
        }
    }
    out
}

/// Every text of a value, keys of objects too.
pub(super) fn value(value: &Value, control: &[(String, u32)], mark: char) -> Value {
    match value {
        Value::String(s) => Value::String(text(s, control, mark)),
        Value::Array(items) => items.iter().map(|v| self::value(v, control, mark)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (text(k, control, mark), self::value(v, control, mark)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_and_their_beginnings_are_broken() {
        let control = [("<|im_end|>".to_owned(), 2)];
        assert_eq!(text("a <|im_end|> b < c", &control, '#'), "a <#|im_end|> b < c");
        assert_eq!(text("<|im_", &control, '#'), "<#|im_");
        assert_eq!(text("<<|im_end|><", &control, '#'), "<<#|im_end|><#");
        let nested = serde_json::json!({ "<|im_end|>": ["x", { "k": "<|im_end|>" }], "n": 1 });
        let guarded = serde_json::json!({ "<#|im_end|>": ["x", { "k": "<#|im_end|>" }], "n": 1 });
        assert_eq!(value(&nested, &control, '#'), guarded);
    }

    #[test]
    fn marks_are_new_to_the_texts() {
        assert_eq!(marks(["a"].into_iter()), Some(['\u{fdd0}', '\u{fdd1}', '\u{fdd2}']));
        assert_eq!(marks(["a\u{fdd1}"].into_iter()), Some(['\u{fdd0}', '\u{fdd2}', '\u{fdd3}']));
        let all: String = MARKS.collect();
        assert_eq!(marks([all.as_str()].into_iter()), None);
    }
}
