//! The leaderboard's comparison of strings.

use std::borrow::Cow;

/// Characters that do not count: space, and `, . / - _ * ^`.
const fn ignored(b: u8) -> bool {
    matches!(b, b' ' | b',' | b'.' | b'/' | b'-' | b'_' | b'*' | b'^')
}

/// Stands in [`NORMAL`] for a character that does not count.
const NOTHING: u8 = 0xff;

/// The normalised form of every ASCII character.
const NORMAL: [u8; 128] = {
    let mut table = [NOTHING; 128];
    let mut b = 0;
    while b < 128 {
        if !ignored(b) {
            table[b as usize] = if b == b'\'' { b'"' } else { b.to_ascii_lowercase() };
        }
        b += 1;
    }
    table
};

/// The normalised form: ignored characters deleted, lower case (Unicode, whole string), `'` turned to `"`.
pub(crate) fn norm(s: &str) -> String {
    let kept: String = s.chars().filter(|c| !c.is_ascii() || !ignored(*c as u8)).collect();
    let mut lower = if kept.is_ascii() { kept.to_ascii_lowercase() } else { kept.to_lowercase() };
    if lower.contains('\'') {
        lower = lower.replace('\'', "\"");
    }
    lower
}

/// The bytes of the normalised form of an ASCII string, without building it.
fn ascii(s: &str) -> impl Iterator<Item = u8> + '_ {
    s.bytes().map(|b| NORMAL[usize::from(b & 0x7f)]).filter(|b| *b != NOTHING)
}

/// Whether two strings have the same normalised form.
pub(crate) fn norm_eq(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (a.is_ascii(), b.is_ascii()) {
        (true, true) => ascii(a).eq(ascii(b)),
        // Lower-casing may turn letters beyond ASCII into ASCII ones (the Kelvin sign), so both are built.
        _ => norm(a) == norm(b),
    }
}

/// Deletes what the answer check of the agentic categories ignores; spaces stay.
pub(crate) fn norm_answer(s: &str) -> String {
    let deleted = |c: char| matches!(c, ',' | '.' | '/' | '-' | '_' | '*' | '^' | '(' | ')');
    s.chars().filter(|c| !deleted(*c)).collect::<String>().to_lowercase().replace('\'', "\"")
}

/// A tool's name as the policy spells it.
pub(crate) fn spelled(name: &str, policy: super::NamePolicy) -> Cow<'_, str> {
    match policy {
        super::NamePolicy::DotToUnderscore if name.contains('.') => Cow::Owned(name.replace('.', "_")),
        _ => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_what_it_builds() {
        let samples = [
            "",
            " -_.",
            "It's",
            "it\"s",
            "New-York, NY",
            "new york ny",
            "a\tb",
            "ab",
            "K",
            "\u{212a}",
            "ΑΣ",
            "ας",
            "É",
        ];
        for a in samples {
            for b in samples {
                assert_eq!(norm_eq(a, b), norm(a) == norm(b), "{a:?} {b:?}");
            }
        }
        assert_eq!(norm("New-York, 'NY'"), "newyork\"ny\"");
    }
}
