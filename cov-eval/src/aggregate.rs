//! From verdicts to a score.

use std::borrow::Cow;

use crate::flags::FlagSet;
use crate::intake::Intake;
use crate::length::estimate_tokens;
use crate::model::{Constraint, Gate, Instance, OutputStats, Reason, Spans, Status, Verdict, Verification};
use crate::text;
use crate::words::Words;

/// The highest score of an answer that is not perfect.
pub const BELOW_ONE: f64 = 1.0 - 1.0 / 1_048_576.0;

/// The share of the mean of components in the training score.
const BETA: f64 = 0.1;

/// The weighted harmonic mean of `(value, weight)`; 0 where a value is below 1e-9.
pub fn harmonic(parts: &[(f64, f64)]) -> f64 {
    if parts.is_empty() || parts.iter().any(|&(value, _)| value < 1e-9) {
        return 0.0;
    }
    let weights: f64 = parts.iter().map(|&(_, weight)| weight).sum();
    weights / parts.iter().map(|&(value, weight)| weight / value).sum::<f64>()
}

/// What a verifier found in an answer that is not blank.
pub(crate) struct Outcome<'a> {
    /// Whether there is anything to score.
    pub(crate) gate: Gate,
    /// The score before multipliers.
    pub(crate) base: f64,
    pub(crate) components: Vec<(&'static str, f64)>,
    pub(crate) multipliers: Vec<(&'static str, f64)>,
    pub(crate) flags: FlagSet,
    /// Whether copying the prompt is part of the task.
    pub(crate) may_echo: bool,
    /// Credit, reason for a loss, and proof, for each constraint.
    pub(crate) verdict: Box<dyn Fn(&Constraint) -> Finding + 'a>,
}

/// Credit, reason for a loss, and proof.
pub(crate) type Finding = (f64, Reason, Spans);

/// What a verifier says to a kind of constraint that it does not know.
pub(crate) fn unknown_kind() -> Finding {
    (0.0, Reason::UnknownKind, Spans::new())
}

/// The whole of a verification: gates common to all tasks, `analyse`, and the rule of exactness.
pub(crate) fn verify<'a>(
    instance: &'a Instance,
    answer: &'a Intake,
    analyse: impl FnOnce(&'a str) -> Outcome<'a>,
) -> Verification {
    let gate = match () {
        () if answer.flags.intersects(FlagSet::UNTERMINATED_REASONING) => Gate::UnterminatedReasoning,
        () if answer.is_blank() => Gate::Empty,
        () => Gate::Open,
    };
    let all_words = Words::of(&answer.visible);
    let words = all_words.count();
    let mut result = Verification {
        score: 0.0,
        dense: 0.0,
        gate,
        components: Vec::new(),
        multipliers: Vec::new(),
        verdicts: Vec::new(),
        flags: answer.flags,
        stats: OutputStats {
            words,
            tokens_est: estimate_tokens(words, answer.visible.len()),
            lines: text::filled_lines(&answer.visible),
            truncated: answer.truncated,
            reasoning_bytes: answer.reasoning.len(),
        },
    };
    let refused = |c: &Constraint| Verdict::new(c.id, 0.0, Reason::GateClosed, Spans::new());
    if gate != Gate::Open {
        result.verdicts = instance.constraints.iter().map(refused).collect();
        let answered = !answer.reasoning.trim().is_empty() && analyse(&answer.reasoning).gate == Gate::Open;
        result.flags.set(FlagSet::ANSWER_IN_REASONING, answered);
        return result;
    }
    let found = analyse(&answer.visible);
    result.flags = result.flags.union(found.flags);
    result.flags.set(FlagSet::REFUSAL, text::is_refusal(&answer.visible));
    let echo = !found.may_echo && instance.prompt_runs().is_copied_in(all_words);
    result.flags.set(FlagSet::ECHO, echo);
    result.gate = match found.gate {
        Gate::Open if result.flags.intersects(FlagSet::HARD) => Gate::HardFlag,
        gate => gate,
    };
    if result.gate != Gate::Open {
        result.verdicts = instance.constraints.iter().map(refused).collect();
        return result;
    }
    let judge = |c: &Constraint| {
        let (credit, reason, spans) = (found.verdict)(c);
        Verdict::new(c.id, credit, reason, spans)
    };
    result.verdicts = instance.constraints.iter().map(judge).collect();
    let product: f64 = found.multipliers.iter().map(|&(_, m)| m).product();
    let mean = found.components.iter().map(|&(_, c)| c).sum::<f64>() / found.components.len().max(1) as f64;
    let perfect = product == 1.0 && result.verdicts.iter().all(|v| v.status == Status::Pass);
    let mut bounded = |value: f64| {
        debug_assert!(value.is_finite(), "{value} as a score of {}", instance.id);
        result.flags.set(FlagSet::INTERNAL_ERROR, !value.is_finite());
        match perfect {
            true => 1.0,
            false if value.is_finite() => value.clamp(0.0, BELOW_ONE),
            false => 0.0,
        }
    };
    result.score = bounded(found.base * product);
    result.dense = bounded(((1.0 - BETA) * found.base + BETA * mean) * product);
    let owned =
        |parts: Vec<(&'static str, f64)>| parts.into_iter().map(|(n, v)| (Cow::Borrowed(n), v)).collect();
    result.components = owned(found.components);
    result.multipliers = owned(found.multipliers);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn harmonic_is_a_mean(parts in prop::collection::vec((0.0..=1.0f64, 0.05..1.0f64), 1..6), up in 0.0..0.5f64) {
            let mean = harmonic(&parts);
            let values = parts.iter().map(|p| p.0);
            let (low, high) = (values.clone().fold(1.0, f64::min), values.fold(0.0, f64::max));
            prop_assert!(mean <= high + 1e-12 && (mean >= low - 1e-12 || low < 1e-9));
            let mut raised = parts.clone();
            raised[0].0 += up;
            prop_assert!(harmonic(&raised) >= mean - 1e-12);
            let ones: Vec<_> = parts.iter().map(|p| (1.0, p.1)).collect();
            prop_assert!((harmonic(&ones) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn echo_and_hidden_text_close_the_gate() {
        use crate::{InstanceKey, Split, TaskConfig, TaskId, task};
        let task = task(TaskId::Fsm);
        let key = InstanceKey {
            task: TaskId::Fsm,
            version: task.version(),
            split: Split::Test,
            length: 256,
            difficulty: 0,
            base_seed: 0,
            index: 0,
        };
        let instance = task.generate(&key, &TaskConfig::default()).unwrap();
        let oracle = task.oracle(&instance);
        let verify = |text: String| {
            let found = task.verify(&instance, &Intake::from(text.as_str()));
            (found.gate, found.score, found.flags.names())
        };
        assert_eq!(verify(oracle.clone()), (Gate::Open, 1.0, vec![]));
        assert_eq!(verify(instance.prompt.user.clone() + &oracle), (Gate::HardFlag, 0.0, vec!["echo"]));
        let hidden = "\u{200b}".repeat(20) + &oracle;
        assert_eq!(verify(hidden), (Gate::HardFlag, 0.0, vec!["invisible_chars", "hidden_text"]));
        let unseen = "<think>".to_owned() + &oracle;
        let flags = vec!["unterminated_reasoning", "answer_in_reasoning"];
        assert_eq!(verify(unseen), (Gate::UnterminatedReasoning, 0.0, flags));
    }

    #[test]
    fn harmonic_is_zero_with_a_zero() {
        assert_eq!(harmonic(&[(1.0, 1.0), (0.0, 0.1)]), 0.0);
        assert_eq!(harmonic(&[]), 0.0);
        assert_eq!(harmonic(&[(1.0, 0.5), (0.5, 0.5)]), 1.0 / 1.5);
    }
}
