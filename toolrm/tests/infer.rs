//! Judges at work: comparisons, the best of several, corrections.
#![allow(clippy::unwrap_used)]

use completion::{Complete, Completion, CompletionError, Request, Sampling};
use proptest::prelude::*;
use toolrm::critique::Variant;
use toolrm::infer::{
    BestOf, BestOfReport, Contender, Context, CorrectionReport, InferError, Judge, Outcome, Strategy,
    best_by_score, correct, majority,
};
use toolrm::{Call, Val};

/// A source that answers by a function of the prompt, and counts.
struct By<F>(F, usize);

impl<F: FnMut(&str) -> String> Complete for By<F> {
    fn name(&self) -> String {
        "by".into()
    }

    fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
        self.1 += requests.len();
        let mut ids: Vec<&str> = requests.iter().map(|r| r.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), requests.len(), "ids are unique");
        let one = |r: &Request| {
            let text = (self.0)(&r.messages[0].content);
            Ok(Completion { tokens_in: Some(10), tokens_out: Some(2), ..Completion::new(text) })
        };
        requests.iter().map(one).collect()
    }
}

/// The numbers that a bare prompt's responses say.
fn numbers(prompt: &str) -> Vec<i64> {
    let said = |line: &str| line.split_once(": n=").and_then(|(_, n)| n.parse().ok());
    prompt.lines().filter_map(said).collect()
}

/// Chooses the largest number.
fn largest(prompt: &str) -> String {
    let said = numbers(prompt);
    (1 + (0..said.len()).max_by_key(|i| (said[*i], std::cmp::Reverse(*i))).unwrap()).to_string()
}

fn says(n: i64) -> Contender {
    Contender::text(format!("n={n}"))
}

const NOWHERE: Context<'static> = Context { id: "q", tools: &[], history: &[] };

fn judge<F: FnMut(&str) -> String>(answer: F) -> Judge<By<F>> {
    Judge::new(By(answer, 0), Variant::Bare, 4)
}

fn outcome(answer: fn(&str) -> String, both: bool) -> (Outcome, Vec<Option<u32>>) {
    let (a, b) = (says(1), says(2));
    let done = judge(answer).compare(&[(&NOWHERE, [&a, &b])], both).unwrap().remove(0);
    (done.outcome, done.choices)
}

#[test]
fn a_response_wins_when_it_wins_in_both_orders() {
    assert_eq!(outcome(largest, true), (Outcome::B, vec![Some(2), Some(1)]));
    assert_eq!(outcome(largest, false), (Outcome::B, vec![Some(2)]));
    // Always one side.
    assert_eq!(outcome(|_| "1".into(), true), (Outcome::Tie, vec![Some(1), Some(1)]));
    assert_eq!(outcome(|_| "2".into(), true), (Outcome::Tie, vec![Some(2), Some(2)]));
    assert_eq!(outcome(|_| "1".into(), false), (Outcome::A, vec![Some(1)]));
    // Unreadable in one order.
    let half = |p: &str| if numbers(p)[0] == 1 { "2".into() } else { "?".into() };
    assert_eq!(outcome(half, true), (Outcome::Tie, vec![Some(2), None]));
    let mut judge = judge(half);
    let (a, b) = (says(1), says(2));
    judge.compare(&[(&NOWHERE, [&a, &b])], true).unwrap();
    let usage = judge.usage();
    assert_eq!((usage.calls, usage.tokens_in, usage.tokens_out), (2, 20, 4));
    assert_eq!((usage.strict, usage.soft, usage.unread), (1, 0, 1));
}

fn group(numbers: &[i64]) -> BestOf<'static> {
    BestOf { context: NOWHERE, contenders: numbers.iter().map(|n| says(*n)).collect() }
}

const STRATEGIES: [Strategy; 4] = [
    Strategy::Listwise { limit: 3 },
    Strategy::Listwise { limit: 64 },
    Strategy::Knockout { seed: 5 },
    Strategy::RoundRobin,
];

#[test]
fn costs_are_those_of_the_strategies() {
    for (strategy, calls) in [
        // Blocks of 3, 3 and 1; then 3 winners.
        (Strategy::Listwise { limit: 3 }, 3),
        (Strategy::Listwise { limit: 64 }, 1),
        (Strategy::Knockout { seed: 5 }, 2 * 6),
        (Strategy::RoundRobin, 2 * 21),
    ] {
        let mut judge = judge(largest);
        let selected = judge.best_of(&[group(&[3, 1, 4, 15, 9, 2, 6])], strategy).unwrap();
        assert_eq!((selected[0].index, selected[0].distinct), (3, 7), "{strategy:?}");
        assert_eq!(judge.usage().calls, calls, "{strategy:?}");
    }
}

#[test]
fn ties_go_to_the_lower_index() {
    for strategy in [Strategy::Knockout { seed: 1 }, Strategy::Knockout { seed: 2 }, Strategy::RoundRobin] {
        // Who always says one side decides nothing.
        let selected = judge(|_| "1".into()).best_of(&[group(&[5, 4, 3, 2, 1])], strategy).unwrap();
        assert_eq!(selected[0].index, 0, "{strategy:?}");
    }
    let unreadable = |_: &str| "?".to_owned();
    let selected = judge(unreadable).best_of(&[group(&[5, 4])], Strategy::Listwise { limit: 9 }).unwrap();
    assert_eq!(selected[0].index, 0);
    // A cycle: each wins once; votes decide nothing either.
    let cycle = |p: &str| {
        let said = numbers(p);
        if (said[0] + 1) % 3 == said[1] % 3 { "1".into() } else { "2".to_owned() }
    };
    let selected = judge(cycle).best_of(&[group(&[0, 1, 2])], Strategy::RoundRobin).unwrap();
    assert_eq!(selected[0].index, 0);
    // Two ties and a win against one loss with clear votes: points first, then votes.
    let half = |p: &str| match numbers(p)[..] {
        [a, b] if a.min(b) == 1 && a.max(b) == 2 => {
            if a == 2 {
                "1".into()
            } else {
                "?".into()
            }
        }
        _ => "?".to_owned(),
    };
    let selected = judge(half).best_of(&[group(&[0, 1, 2])], Strategy::RoundRobin).unwrap();
    assert_eq!(selected[0].index, 2);
}

#[test]
fn groups_of_all_sizes_go_together() {
    for strategy in STRATEGIES {
        let groups = [group(&[7]), group(&[1, 2]), group(&[2, 2, 2]), group(&[9, 1, 8, 3, 9])];
        let selected = judge(largest).best_of(&groups, strategy).unwrap();
        let indices: Vec<usize> = selected.iter().map(|s| s.index).collect();
        assert_eq!(indices, [0, 1, 0, 0], "{strategy:?}");
        assert_eq!(selected[3].distinct, 4);
    }
    let empty = judge(largest).best_of(&[group(&[])], Strategy::RoundRobin);
    assert!(matches!(empty, Err(InferError::Nobody(id)) if id == "q"));
    assert_eq!(judge(largest).best_of(&[], Strategy::RoundRobin).unwrap(), []);
}

#[test]
fn selections_without_a_judge() {
    assert_eq!(majority(&group(&[1, 2, 3, 2]).contenders), Some(1));
    assert_eq!(majority(&group(&[1, 2, 2, 1]).contenders), Some(0));
    assert_eq!(majority(&[]), None);
    // Equal calls are equal however they are written.
    let call = |v: Val| Contender { text: String::new(), calls: vec![Call::new("f", [("x", v)])] };
    assert_eq!(majority(&[says(1), call(Val::Int(1)), call(Val::Float(1.0))]), Some(1));
}

#[test]
fn numbers_of_a_reward_model_choose() {
    let groups = [group(&[4, 5, 6, 7]), group(&[8, 9, 8])];
    // The highest, the lower index of equals; what is said twice takes part once, with the number of the first.
    let selected = best_by_score(&groups, &[vec![0.5, 2.0, 2.0, -1.0], vec![1.0, 2.0, 3.0]]).unwrap();
    assert_eq!(selected.iter().map(|s| (s.index, s.distinct)).collect::<Vec<_>>(), [(1, 4), (1, 2)]);
    let infinite = best_by_score(&groups[1..], &[vec![f64::NEG_INFINITY, f64::INFINITY, 0.0]]).unwrap();
    assert_eq!(infinite[0].index, 1);
    let message = |scores: &[Vec<f64>]| best_by_score(&groups[1..], scores).unwrap_err().to_string();
    assert_eq!(message(&[vec![1.0, 2.0]]), "scores of q: 2 numbers for 3 responses");
    assert_eq!(message(&[]), "scores of q: 0 numbers for 3 responses");
    assert_eq!(message(&[vec![1.0, f64::NAN, 0.0]]), "scores of q: the number of response 1 is NaN");
    assert!(matches!(best_by_score(&[group(&[])], &[vec![]]), Err(InferError::Nobody(_))));
    assert_eq!(Outcome::of_scores(1.0, 0.5), Outcome::A);
    assert_eq!(Outcome::of_scores(-0.0, 0.0), Outcome::Tie);
    assert_eq!(Outcome::of_scores(0.5, 1.0), Outcome::B);
}

#[test]
fn a_report_stands_between_chance_and_oracle() {
    let mut report = BestOfReport::default();
    report.add(&group(&[1, 2, 2]).contenders, &[true, false, false], 0);
    report.add(&group(&[1, 2]).contenders, &[false, false], 1);
    report.add(&group(&[1, 1, 2, 3]).contenders, &[true, true, false, false], 2);
    assert_eq!((report.groups, report.selected, report.oracle, report.majority), (3, 1, 2, 1));
    assert!((report.random - (1.0 / 3.0 + 0.0 + 0.5)).abs() < 1e-12);
}

#[test]
fn a_policy_corrects_what_the_judge_finds_wrong() {
    // The judge accepts n=3; the policy adds one to its response each time it is asked.
    let critic = |p: &str| if p.contains("Response: n=3") { "correct".into() } else { "revise".to_owned() };
    let add = |p: &str| {
        let n: i64 = p.split("<response>\nn=").nth(1).unwrap().split('\n').next().unwrap().parse().unwrap();
        assert!(p.contains("<critique>\nrevise\n</critique>"));
        format!("<think>hm</think>n={}", n + 1)
    };
    let responses: Vec<(Context<'_>, Contender)> = [3, 2, 1, 5].map(|n| (NOWHERE, says(n))).into();
    for (rounds, wanted) in [
        (0, ["n=3", "n=2", "n=1", "n=5"]),
        (1, ["n=3", "n=3", "n=2", "n=6"]),
        (3, ["n=3", "n=3", "n=3", "n=8"]),
    ] {
        let (mut judge, mut policy) = (judge(critic), By(add, 0));
        let done = correct(&mut judge, &mut policy, &Sampling::greedy(8), &responses, rounds).unwrap();
        let texts: Vec<&str> = done.iter().map(|c| c.response.text.as_str()).collect();
        assert_eq!(texts, wanted, "{rounds}");
        assert_eq!(done[0].accepted, rounds > 0);
        assert!(!done[3].accepted);
        assert_eq!(done[0].critiques.len(), usize::from(rounds > 0));
        let mut report = CorrectionReport::default();
        for ((_, before), after) in responses.iter().zip(&done) {
            report.add(before.text == "n=3", after.response.text == "n=3", after);
        }
        let right = [1, 2, 3, 3][rounds];
        assert_eq!((report.before, report.after, report.fixed, report.broken), (1, right, right - 1, 0));
    }
    let mut report = CorrectionReport::default();
    let (mut judge, mut policy) = (judge(|_| "revise".into()), By(|_: &str| "[f(x=1)]".to_owned(), 0));
    let done = correct(&mut judge, &mut policy, &Sampling::greedy(8), &responses[..1], 1).unwrap();
    assert_eq!((done[0].response.calls[0].name.as_str(), policy.1), ("f", 1));
    report.add(true, false, &done[0]);
    assert_eq!((report.broken, report.after, report.tokens), (1, 0, 2));
}

#[test]
fn a_failed_request_is_named() {
    struct Down;
    impl Complete for Down {
        fn name(&self) -> String {
            "down".into()
        }
        fn complete(&mut self, requests: &[Request]) -> Vec<Result<Completion, CompletionError>> {
            requests.iter().map(|_| Err(CompletionError::Other("gone".into()))).collect()
        }
    }
    let (a, b) = (says(1), says(2));
    let error = Judge::new(Down, Variant::Bare, 4).compare(&[(&NOWHERE, [&a, &b])], false).unwrap_err();
    assert_eq!(error.to_string(), "q/0-0-ab: gone");
}

proptest! {
    #[test]
    fn a_perfect_judge_finds_the_best(numbers in prop::collection::vec(-5i64..5, 1..12), seed: u64) {
        let best = numbers.iter().max().unwrap();
        let first = numbers.iter().position(|n| n == best).unwrap();
        for strategy in STRATEGIES.into_iter().chain([Strategy::Knockout { seed }]) {
            let selected = judge(largest).best_of(&[group(&numbers)], strategy).unwrap();
            prop_assert_eq!(selected[0].index, first);
        }
        let scores = numbers.iter().map(|n| *n as f64).collect();
        prop_assert_eq!(best_by_score(&[group(&numbers)], &[scores]).unwrap()[0].index, first);
    }
}
