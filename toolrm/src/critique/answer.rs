//! What a judge's answer says.

use std::sync::LazyLock;

use regex::Regex;

use super::prompt::Variant;
use crate::parse::split_reasoning;

/// The part of a completion that is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// What follows the last `</think>`; a template quoted while thinking is no answer.
    #[default]
    Final,
    /// All of it, as the published code does.
    Any,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerForm {
    /// `<choice>` or `<verdict>` blocks.
    #[default]
    Tags,
    /// The number or word alone ([`Variant::Bare`]).
    Bare,
}

impl From<Variant> for AnswerForm {
    fn from(variant: Variant) -> Self {
        if variant == Variant::Bare { AnswerForm::Bare } else { AnswerForm::Tags }
    }
}

/// How completions are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Where the answer is looked for.
    pub scope: Scope,
    /// Its form.
    pub form: AnswerForm,
}

/// How an answer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the form that was asked for.
    Strict,
    /// In tags without line feeds, or (bare) at the start of more text.
    Soft,
}

impl Level {
    /// The level's name in files.
    pub fn name(self) -> &'static str {
        if self == Level::Strict { "strict" } else { "soft" }
    }
}

/// A choice among responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The response chosen, from 1.
    pub choice: Option<u32>,
    /// How an answer was found, also one that is no choice.
    pub level: Option<Level>,
    /// Answers of that level in the completion.
    pub seen: u32,
}

/// A verdict on one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadVerdict {
    /// Whether the response is correct.
    pub correct: bool,
    /// How the verdict was found; none where text without a verdict counts as `revise`.
    pub level: Option<Level>,
}

struct Patterns {
    strict_choice: Regex,
    soft_choice: Regex,
    strict_verdict: Regex,
    soft_verdict: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    Some(Patterns {
        strict_choice: Regex::new(r"(?s)<choice>\n(.*?)\n</choice>").ok()?,
        soft_choice: Regex::new(r"(?s)<choice>(.*?)</choice>").ok()?,
        strict_verdict: Regex::new(r"(?s)<verdict>\n(.*?)\n</verdict>").ok()?,
        soft_verdict: Regex::new(r"(?s)<verdict>(.*?)</verdict>").ok()?,
    })
});

fn searched(text: &str, scope: Scope) -> &str {
    match scope {
        Scope::Any => text,
        Scope::Final => split_reasoning(text).answer,
    }
}

/// The contents found at the first level that finds any.
fn contents<'a>(text: &'a str, strict: &Regex, soft: &Regex) -> Option<(Level, Vec<&'a str>)> {
    [(Level::Strict, strict), (Level::Soft, soft)].into_iter().find_map(|(level, pattern)| {
        let found: Vec<&str> =
            pattern.captures_iter(text).filter_map(|c| c.get(1)).map(|m| m.as_str().trim()).collect();
        (!found.is_empty()).then_some((level, found))
    })
}

/// A bare answer: all of the text, or its first word.
fn bare(text: &str) -> Option<(Level, Vec<&str>)> {
    let text = text.trim();
    let word = text.split(|c: char| !c.is_alphanumeric()).next().filter(|w| !w.is_empty())?;
    Some((if word == text { Level::Strict } else { Level::Soft }, vec![word]))
}

/// A number from 1 to `n`, in digits without sign or leading zero.
fn number(text: &str, n: u32) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|i| plain && (1..=n).contains(i))
}

/// The choice among `n` responses. The first answer of the strictest level counts; if it is no number from 1 to `n`, there is
/// no choice, and later answers are not looked at.
///
/// ```
/// use toolrm::critique::{Level, Reading, read_choice};
/// let read = read_choice("so:\n<choice>\n2\n</choice>", 2, &Reading::default());
/// assert_eq!((read.choice, read.level, read.seen), (Some(2), Some(Level::Strict), 1));
/// assert_eq!(read_choice("<choice>2</choice>", 2, &Reading::default()).level, Some(Level::Soft));
/// ```
pub fn read_choice(text: &str, n: u32, reading: &Reading) -> Read {
    let text = searched(text, reading.scope);
    let found = match (reading.form, PATTERNS.as_ref()) {
        (AnswerForm::Bare, _) => bare(text),
        (AnswerForm::Tags, Some(p)) => contents(text, &p.strict_choice, &p.soft_choice),
        (AnswerForm::Tags, None) => None,
    };
    let Some((level, found)) = found else { return Read::default() };
    Read { choice: number(found[0], n), level: Some(level), seen: found.len() as u32 }
}

/// The verdict on one response; `None` for an answer without text. Text without a verdict, or with another word in it, says
/// `revise`: something was criticised.
pub fn read_verdict(text: &str, reading: &Reading) -> Option<ReadVerdict> {
    let text = searched(text, reading.scope);
    if text.trim().is_empty() {
        return None;
    }
    let found = match (reading.form, PATTERNS.as_ref()) {
        (AnswerForm::Bare, _) => bare(text),
        (AnswerForm::Tags, Some(p)) => contents(text, &p.strict_verdict, &p.soft_verdict),
        (AnswerForm::Tags, None) => None,
    };
    let word = found.as_ref().map(|(_, found)| found[0].to_lowercase());
    let level =
        found.filter(|_| matches!(word.as_deref(), Some("correct" | "revise"))).map(|(level, _)| level);
    Some(ReadVerdict { correct: word.as_deref() == Some("correct"), level })
}
