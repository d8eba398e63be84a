//! Pieces that the conversions of Java's and JavaScript's source text share.

use super::pynum;
use crate::value::Val;

/// The forms of numbers that types accept.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) fraction: bool,
    pub(super) exponent: bool,
    /// A letter that must follow, in either case unless it is `n`.
    pub(super) suffix: Option<char>,
}

/// The number's text without its suffix, if the whole text has the form. `$` of the reference's patterns stands also before
/// one final line feed, which then remains.
pub(super) fn number(text: &str, form: Form) -> Option<&str> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let body = match form.suffix {
        None => line,
        Some(letter) => {
            line.strip_suffix(letter).or_else(|| line.strip_suffix(letter.to_ascii_uppercase()))?
        }
    };
    let mut rest = body.strip_prefix('-').unwrap_or(body);
    let digits = |rest: &mut &str| {
        let end = rest.find(|c| pynum::digit(c).is_none()).unwrap_or(rest.len());
        *rest = &rest[end..];
        end > 0
    };
    if !digits(&mut rest) {
        return None;
    }
    if form.fraction
        && let Some(after) = rest.strip_prefix('.')
    {
        rest = after;
        if !digits(&mut rest) {
            return None;
        }
    }
    if form.exponent
        && let Some(after) = rest.strip_prefix(['e', 'E'])
    {
        rest = after.strip_prefix(['+', '-']).unwrap_or(after);
        if !digits(&mut rest) {
            return None;
        }
    }
    rest.is_empty().then_some(body)
}

/// The reference's last resort: an integer, a float, or the text.
pub(super) fn guess_number(text: &str) -> Val {
    pynum::int(text).or_else(|| pynum::float(text).map(Val::Float)).unwrap_or_else(|| Val::from(text))
}

/// `text[1:-1]`, by characters.
pub(super) fn inner(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.next_back();
    chars.as_str()
}
