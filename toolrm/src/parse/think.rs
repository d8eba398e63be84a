//! Reasoning and answer.

/// A response split at its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// What lies between the last `<think>` before the first `</think>`, or the start, and that `</think>`.
    pub reasoning: Option<&'a str>,
    /// What follows the last `</think>`; always the end of the text.
    pub answer: &'a str,
    /// Whether a `<think>` is never closed: all is reasoning then.
    pub unclosed: bool,
}

/// Splits a response into reasoning and answer. Line feeds around both are trimmed, at the answer's start only.
///
/// ```
/// let split = toolrm::split_reasoning("<think>\nhm\n</think>\n\n42");
/// assert_eq!((split.reasoning, split.answer), (Some("hm"), "42"));
/// ```
pub fn split_reasoning(text: &str) -> Split<'_> {
    let (Some(first), Some(last)) = (text.find("</think>"), text.rfind("</think>")) else {
        return match text.find("<think>") {
            None => Split { reasoning: None, answer: text, unclosed: false },
            Some(at) => Split {
                reasoning: Some(text[at + "<think>".len()..].trim_matches('\n')),
                answer: &text[text.len()..],
                unclosed: true,
            },
        };
    };
    let before = &text[..first];
    let start = before.rfind("<think>").map_or(0, |at| at + "<think>".len());
    let answer = text[last + "</think>".len()..].trim_start_matches('\n');
    Split { reasoning: Some(before[start..].trim_matches('\n')), answer, unclosed: false }
}
