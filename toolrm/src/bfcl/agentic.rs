//! Verdicts on conversations whose calls have already been executed elsewhere.

use super::Verdict;
use super::norm::norm_answer;
use crate::pattern::Pattern;
use crate::value::{Val, eq_py};

/// One turn of an executed conversation, the model's and the gold one.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// How many calls the model made.
    pub model_calls: usize,
    /// What the model's calls returned, in order.
    pub model_results: Vec<String>,
    /// How many calls the gold turn makes.
    pub gold_calls: usize,
    /// What the gold calls returned.
    pub gold_results: Vec<String>,
    /// Public attributes of every simulated object after the model's turn.
    pub model_state: Option<Val>,
    /// The same after the gold turn.
    pub gold_state: Option<Val>,
}

fn same_state(a: Option<&Val>, b: Option<&Val>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => eq_py(a, b),
        _ => false,
    }
}

/// Checks a multi-turn conversation. `turns` are those that both sides have, of `model_turns` and `gold_turns`. With
/// `irrelevance` (ours; the reference has the check but does not call it) calls in a turn where gold has none are an error.
pub fn multi_turn(turns: &[Turn], model_turns: usize, gold_turns: usize, irrelevance: bool) -> Verdict {
    if model_turns != gold_turns {
        return Verdict::invalid(
            "multi_turn:force_terminated",
            format!("{model_turns} of {gold_turns} turns"),
        );
    }
    // Results of all turns so far that no gold result has taken: the reference searches them afresh in every turn.
    let mut seen: Vec<&str> = Vec::new();
    for (i, turn) in turns.iter().enumerate() {
        let at = format!("turn {i}");
        seen.extend(turn.model_results.iter().map(String::as_str));
        if turn.gold_calls == 0 {
            if irrelevance && turn.model_calls > 0 {
                return Verdict::invalid("multi_turn:irrelevance_error:decoder_success", at);
            }
            continue;
        }
        if turn.model_calls == 0 {
            return Verdict::invalid("multi_turn:empty_turn_model_response", at);
        }
        if !same_state(turn.model_state.as_ref(), turn.gold_state.as_ref()) {
            return Verdict::invalid("multi_turn:instance_state_mismatch", at);
        }
        let mut left = seen.clone();
        for gold in &turn.gold_results {
            match left.iter().position(|r| r == gold) {
                Some(p) => _ = left.swap_remove(p),
                None => return Verdict::invalid("multi_turn:execution_response_mismatch", at),
            }
        }
    }
    Verdict::Valid
}

static WORD: Pattern = Pattern::new(r"^\w");

fn word(c: Option<char>) -> bool {
    match c {
        None => false,
        Some(c) if c.is_ascii() => c.is_ascii_alphanumeric() || c == '_',
        Some(c) => WORD.get().is_match(c.encode_utf8(&mut [0; 4])),
    }
}

/// Whether the last message holds one of the answers as whole words, ignoring case and some punctuation.
pub fn answer_contained(message: Option<&str>, answers: &[&str]) -> Verdict {
    let Some(message) = message else { return Verdict::invalid("agentic:no_last_message", "") };
    let text = norm_answer(message);
    let boundary = |at: usize| word(text[..at].chars().next_back()) != word(text[at..].chars().next());
    for answer in answers {
        let answer = norm_answer(answer);
        let mut from = 0;
        while let Some(found) = text.get(from..).and_then(|rest| rest.find(&answer)) {
            let start = from + found;
            if boundary(start) && boundary(start + answer.len()) {
                return Verdict::Valid;
            }
            from = start + text[start..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Verdict::invalid("agentic:answer_not_found", "")
}
