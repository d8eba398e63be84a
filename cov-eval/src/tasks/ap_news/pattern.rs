//! What a style rule looks for.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Texts of which one must or must not occur: white space stands for any white space, and a letter or digit at either end
/// must be the end of a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Pattern {
    /// One of these.
    Any(Vec<String>),
    /// One of these, in any case.
    AnyCase(Vec<String>),
    /// Two spaces between sentences.
    TwoSpaces,
    /// A title that is not in quotation marks.
    Unquoted(String),
}

/// Whether `needle` is at the start of `text`, and where it ends there.
fn matches_at(text: &str, needle: &str, fold: bool) -> Option<usize> {
    let mut at = 0;
    for wanted in needle.chars() {
        let rest = &text[at..];
        if wanted == ' ' {
            let gap = rest.len() - rest.trim_start().len();
            if gap == 0 {
                return None;
            }
            at += gap;
            continue;
        }
        let found = rest.chars().next()?;
        if found != wanted && !(fold && found.eq_ignore_ascii_case(&wanted)) {
            return None;
        }
        at += found.len_utf8();
    }
    Some(at)
}

/// Where `needle` occurs, as a whole word at each end that is a letter or digit.
pub(super) fn find_all<'a>(
    text: &'a str,
    needle: &'a str,
    fold: bool,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let first = needle.chars().next();
    let starts = text
        .char_indices()
        .filter(move |&(_, c)| first.is_some_and(|f| f == c || (fold && f.eq_ignore_ascii_case(&c))));
    starts.filter_map(move |(at, c)| {
        let before = text[..at].chars().next_back();
        if c.is_alphanumeric() && before.is_some_and(char::is_alphanumeric) {
            return None;
        }
        let end = at + matches_at(&text[at..], needle, fold)?;
        let last = text[..end].chars().next_back();
        let after = text[end..].chars().next();
        let open = last.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric);
        (!open).then_some(at..end)
    })
}

impl Pattern {
    pub(super) fn any(list: &[&str]) -> Self {
        Pattern::Any(list.iter().map(|&s| s.to_owned()).collect())
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let one =
            |list: &[String], fold| list.iter().any(|needle| find_all(text, needle, fold).next().is_some());
        match self {
            Pattern::Any(list) => one(list, false),
            Pattern::AnyCase(list) => one(list, true),
            Pattern::TwoSpaces => text.match_indices(['.', '!', '?']).any(|(at, _)| {
                let rest = &text[at + 1..];
                let gap = rest.len() - rest.trim_start_matches(' ').len();
                gap >= 2 && rest[gap..].chars().next().is_some_and(|c| !c.is_whitespace())
            }),
            Pattern::Unquoted(title) => {
                let all = find_all(text, title, false).count();
                let quoted = ["", ",", "."].iter().map(|mark| format!("\"{title}{mark}\""));
                all > quoted.map(|q| find_all(text, &q, false).count()).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_spaces() {
        for (needle, text, expected) in [
            ("7 lanterns", "the 7 lanterns", true),
            ("7 lanterns", "the 7\nlanterns.", true),
            ("7 lanterns", "the 17 lanterns", false),
            ("7 lanterns", "the 7 lanternsx", false),
            ("8 p.m.", "at 8 p.m. sharp", true),
            ("8 p.m.", "at 18 p.m.", false),
            ("$450", "US$450 or", true),
            ("$450", "$4500", false),
            ("shut,\"", "is shut,\" he said", true),
            ("é", "café", false),
            ("", "anything", false),
        ] {
            assert_eq!(Pattern::any(&[needle]).matches(text), expected, "{needle} in {text}");
        }
        assert!(Pattern::AnyCase(vec!["police officer".into()]).matches("A Police Officer came"));
        assert!(!Pattern::any(&["police officer"]).matches("A Police Officer came"));
    }

    #[test]
    fn spaces_and_quotes() {
        assert!(Pattern::TwoSpaces.matches("One.  Two"));
        assert!(!Pattern::TwoSpaces.matches("One. Two.  \nThree"));
        let title = Pattern::Unquoted("The Glass Orchard".into());
        assert!(!title.matches("she read \"The Glass Orchard,\" and \"The Glass Orchard\""));
        assert!(title.matches("she read \"The Glass Orchard\" and The Glass Orchard"));
    }
}
