//! Rewards for judges and policies.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use toolrm::json::{self, Dialect};
use toolrm::record::Kind;
use toolrm::reward::{
    CallPart, CallTask, CritiqueReward, RewardIn, group_advantages, judged_rewards, pair_up, reward_calls,
};

fn task(text: &str) -> CallTask {
    CallTask::from_val(&json::parse(text, Dialect::Python).unwrap()).unwrap()
}

fn parts(task: &CallTask, response: &str) -> Vec<f32> {
    let all: Vec<(CallPart, f32)> = CallPart::ALL.into_iter().map(|p| (p, 1.0)).collect();
    let out = reward_calls(&[RewardIn { task, response }], &all).remove(0);
    assert_eq!(out.total, out.parts.iter().map(|(_, v)| v).sum::<f32>());
    out.parts.iter().map(|(_, v)| *v).collect()
}

const TASK: &str = r#"{"gold": [{"name": "f", "arguments": {"x": 1, "y": "a b"}}], "format": "pythonic",
    "tools": [{"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"},
        "y": {"type": "string"}}, "required": ["x", "y"]}}],
    "bfcl": {"category": "simple_python", "ground_truth": [{"f": {"x": [1], "y": ["a b"]}}],
        "function": [{"name": "f", "parameters": {"type": "dict", "properties": {"x": {"type": "integer"},
        "y": {"type": "string"}}, "required": ["x", "y"]}}]}}"#;

#[test]
fn every_part_of_a_policys_reward() {
    let task = task(TASK);
    // rule, bfcl, schema, format, toolrl
    for (response, wanted) in [
        ("[f(x=1, y='a b')]", [1.0, 1.0, 1.0, 1.0, 3.0]),
        // The leaderboard does not mind case and spaces.
        ("[f(x=1, y='AB')]", [0.5, 1.0, 1.0, 1.0, 1.5]),
        // One of two arguments: a missing one is an issue beside one argument.
        ("[f(x=1)]", [0.5, 0.0, 0.5, 1.0, 0.75]),
        ("[f(x='1', y='a b')]", [0.5, 0.0, 1.0 - 1.0 / 3.0, 1.0, 1.5]),
        ("Sure: [f(x=1, y='a b')]", [1.0, 0.0, 1.0, 0.0, 3.0]),
        ("[g(x=1, y='a b')]", [0.0, 0.0, 1.0 - 1.0 / 3.0, 1.0, -3.0]),
        ("I cannot.", [0.0, 0.0, 0.0, 0.0, -3.0]),
        ("", [0.0, 0.0, 1.0, 0.0, -3.0]),
    ] {
        assert_eq!(parts(&task, response), wanted, "{response:?}");
    }
}

#[test]
fn toolrls_reward_of_several_calls() {
    // R_max = 1 + (1 + 1) + (1 + 1) = 5. Said: f right, and h: names 1/3, f gives 1 + 1.
    let task =
        task(r#"{"gold": [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": 2}}]}"#);
    let got = parts(&task, "[f(x=1), h(y=2)]")[4];
    assert!((f64::from(got) - (6.0 * (1.0 / 3.0 + 2.0) / 5.0 - 3.0)).abs() < 1e-6, "{got}");
    // The better of two predictions of a name is matched, wherever it stands.
    let one = self::task(r#"{"gold": [{"name": "f", "arguments": {"x": 1}}]}"#);
    assert_eq!(parts(&one, "[f(x=2), f(x=1)]")[4], parts(&one, "[f(x=1), f(x=2)]")[4]);
    let none = self::task(r#"{"gold": []}"#);
    assert_eq!((parts(&none, "Hello.")[4], parts(&none, "[f(x=1)]")[4]), (3.0, -3.0));
}

#[test]
fn notes_say_why() {
    let plain = task(r#"{"gold": [{"name": "f", "arguments": {}}]}"#);
    let note = |response: &str, part| {
        reward_calls(&[RewardIn { task: &plain, response }], &[(part, 1.0)]).remove(0).note
    };
    assert_eq!(note("[f()]", CallPart::Rule), "ok");
    assert_eq!(note("[f(), f()]", CallPart::Rule), "count_mismatch");
    assert_eq!(note("[f()]", CallPart::Bfcl), "no bfcl entry");
    for (text, what) in [
        (r#"{"gold": 1}"#, "gold"),
        (r#"{"gold": [{"name": "f"}]}"#, "gold[0].arguments"),
        (r#"{"gold": [], "format": "xml"}"#, "format"),
        (
            r#"{"gold": [], "bfcl": {"category": "simple_pyton", "function": [], "ground_truth": []}}"#,
            "simple_python",
        ),
        (r#"{"gold": [], "tools": [1]}"#, "tools[0]"),
    ] {
        let error = CallTask::from_val(&json::parse(text, Dialect::Python).unwrap()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_judge_is_rewarded_for_the_right_choice_in_the_right_form() {
    let reward = CritiqueReward { format_bonus: 0.1, ..CritiqueReward::default() };
    let score = |text: &str, kind, n, label: &str| {
        let score = reward.score(text, kind, n, label);
        (score.reward, score.correct, score.predicted)
    };
    let yes = |s: &str| Some(s.to_owned());
    assert_eq!(score("<choice>\n2\n</choice>", Kind::Pairwise, 2, "2"), (1.1, true, yes("2")));
    assert_eq!(score("<choice>\n1\n</choice>", Kind::Pairwise, 2, "2"), (0.1, false, yes("1")));
    assert_eq!(score("<choice>2</choice>", Kind::Pairwise, 2, "2"), (0.0, false, yes("2")));
    assert_eq!(score("<choice>\n5\n</choice>", Kind::BestOfN, 4, "5"), (0.0, false, None));
    assert_eq!(score("<choice>\n4\n</choice>", Kind::BestOfN, 4, "4"), (1.1, true, yes("4")));
    assert_eq!(
        score("<verdict>\nrevise\n</verdict>", Kind::Pointwise, 1, "revise"),
        (1.1, true, yes("revise"))
    );
    // Text without a verdict says revise, but is not what was asked for.
    assert_eq!(score("Wrong.", Kind::Pointwise, 1, "revise"), (0.0, false, yes("revise")));
    assert_eq!(score("", Kind::Pointwise, 1, "revise"), (0.0, false, None));
}

#[test]
fn the_papers_example_of_advantages() {
    let rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    for (sample, right, wrong) in [(true, 1.207_612, -0.724_567), (false, 1.290_992, -0.774_595)] {
        for (advantage, reward) in group_advantages(&rewards, sample).iter().zip(rewards) {
            let wanted = if reward == 1.0 { right } else { wrong };
            assert!((advantage - wanted).abs() < 5e-6, "{advantage}");
        }
    }
    assert_eq!(group_advantages(&[1.0; 4], true), [0.0; 4]);
}

proptest! {
    #[test]
    fn advantages_add_up_to_nothing(rewards in prop::collection::vec(-3.0f64..3.0, 2..20), sample: bool) {
        let sum: f64 = group_advantages(&rewards, sample).iter().sum();
        prop_assert!(sum.abs() < 1e-5);
    }

    #[test]
    fn a_group_meets_in_disjoint_pairs(n in 0usize..40, seed: u64) {
        let pairs = pair_up(n, seed, "g");
        let mut met: Vec<usize> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
        met.sort_unstable();
        met.dedup();
        prop_assert_eq!(met.len(), 2 * (n / 2));
        prop_assert!(met.iter().all(|i| *i < n));
        let outcomes: Vec<_> =
            pairs.iter().enumerate().map(|(i, m)| (*m, [Some(0), Some(1), None][i % 3])).collect();
        let rewards = judged_rewards(n, &outcomes);
        // Every match gives one point, and the odd one out gets the mean.
        prop_assert!((rewards.iter().sum::<f64>() - n as f64 / 2.0).abs() < 1e-9);
    }
}
