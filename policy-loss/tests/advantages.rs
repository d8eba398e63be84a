//! Advantage estimators, reward shaping and the value loss.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/worked.rs"]
mod worked;

use common::{all_near, near};
use policy_loss::{
    AdvantageEstimator, AdvantageValues, Advantages, Aggregation, Estimate, KlKind, KlPenalty, Mode,
    Normalizer, RewardBatch, SingletonPolicy, ValueBatch, dynamic_sampling_keep, overlong_penalty,
    value_loss,
};
use proptest::prelude::*;
use worked::close;

fn estimate(estimator: AdvantageEstimator, batch: &RewardBatch<'_>) -> Estimate {
    estimator.estimate(batch, SingletonPolicy::Zero).unwrap()
}

fn values(estimator: AdvantageEstimator, batch: &RewardBatch<'_>) -> Vec<f64> {
    match estimate(estimator, batch).values {
        AdvantageValues::PerSequence(values) | AdvantageValues::PerToken(values) => values,
    }
}

#[track_caller]
fn same(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).for_each(|(f, e)| close("advantage", *f, *e, 1e-8));
}

fn std(eps: f64, ddof: u8) -> AdvantageEstimator {
    AdvantageEstimator::GroupMeanStd { eps, ddof }
}

const GROUP: [u32; 4] = [0; 4];

#[test]
fn e18_groups() {
    let r = RewardBatch::new(&[0.9, 0.1, 0.4, 0.6], &GROUP);
    same(&values(AdvantageEstimator::GroupMean {}, &r), &[0.4, -0.4, -0.1, 0.1]);
    same(&values(std(1e-6, 1), &r), &[1.188173522, -1.188173522, -0.297043381, 0.297043381]);
    let eps4 = values(std(1e-4, 1), &r);
    same(&[eps4[0], eps4[3]], &[1.187824215, 0.296956054]);
    same(&values(AdvantageEstimator::Rloo {}, &r), &[8.0 / 15.0, -8.0 / 15.0, -2.0 / 15.0, 2.0 / 15.0]);
    let lengths = RewardBatch { offsets: Some(&[0, 4, 6, 9, 10]), ..r };
    same(&values(AdvantageEstimator::Opo {}, &lengths), &[0.34, -0.46, -0.16, 0.04]);
    // Masked tokens have no length: again 4, 2, 3 and 1.
    let mask = [true, true, true, true, true, true, false, true, true, true, true];
    let masked = RewardBatch { offsets: Some(&[0, 4, 7, 10, 11]), mask: Some(&mask), ..r };
    same(&values(AdvantageEstimator::Opo {}, &masked), &[0.34, -0.46, -0.16, 0.04]);
    let binary = RewardBatch::new(&[1.0, 0.0, 0.0, 1.0], &GROUP);
    same(&values(std(1e-6, 1), &binary)[..1], &[0.866023904]);
    close("ddof 0", values(std(1e-6, 0), &binary)[0], 0.999998, 1e-6);
    let two = RewardBatch::new(&[1.0, 0.0, 0.0, 1.0, 0.2, 0.2, 0.2, 0.6], &[0, 0, 0, 0, 1, 1, 1, 1]);
    let (a, b) = (1.207323133, -0.241464627);
    same(
        &values(AdvantageEstimator::GroupMeanBatchStd { eps: 1e-4 }, &two),
        &[a, -a, -a, a, b, b, b, 0.724393880],
    );
    assert_eq!(values(std(1e-6, 1), &RewardBatch::new(&[1000.1; 16], &[0; 16])), [0.0; 16]);
    assert!(!dynamic_sampling_keep(&[0.7; 16], &[0; 16]).unwrap()[&0]);
}

#[test]
fn e18_tokens() {
    let gae = |whiten| AdvantageEstimator::Gae { gamma: 1.0, lambda: 0.95, whiten, kl: None };
    let one = RewardBatch {
        offsets: Some(&[0, 4]),
        values: Some(&[0.2, 0.3, 0.5, 0.6]),
        ..RewardBatch::new(&[1.0], &[0])
    };
    let out = estimate(gae(false), &one);
    let AdvantageValues::PerToken(found) = &out.values else { panic!("{out:?}") };
    same(found, &[0.7232, 0.656, 0.48, 0.4]);
    same(out.returns.as_deref().unwrap(), &[0.9232, 0.956, 0.98, 1.0]);
    // Observation tokens are passed through and never read.
    let observed = RewardBatch {
        mask: Some(&[true, false, false, true]),
        values: Some(&[0.2, f64::NAN, f64::INFINITY, 0.6]),
        ..one
    };
    same(&values(gae(false), &observed), &[0.78, 0.0, 0.0, 0.4]);
    // (x − 0.59)/sqrt(0.0722 + 1e-8): two values, unbiased variance.
    let white = (0.78 - 0.59) / (0.0722f64 + 1e-8).sqrt();
    same(&values(gae(true), &observed), &[white, 0.0, 0.0, -white]);

    // Token rewards −0.01, −0.02, 0 and 1 − 0.03: a penalty of 0.1·(logp_old − logp_ref).
    let kl = Some(KlPenalty { kind: KlKind::K1, beta: 0.1, clamp: true });
    let shaped = RewardBatch {
        logp_old: Some(&[-1.0, -1.0, -1.0, -1.0]),
        logp_ref: Some(&[-1.1, -1.2, -1.0, -1.3]),
        ..one
    };
    let out = estimate(AdvantageEstimator::ReinforcePp { gamma: 0.9, kl }, &shaped);
    same(out.returns.as_deref().unwrap(), &[0.67913, 0.7657, 0.873, 0.97]);
    let AdvantageValues::PerToken(white) = &out.values else { panic!("{out:?}") };
    close("mean", white.iter().sum::<f64>(), 0.0, 1e-12);
    close("variance", white.iter().map(|w| w * w).sum::<f64>() / 3.0, 1.0, 1e-6);
    // The penalty reaches GAE too: with λ = 1 and V = 0 its advantages are the returns.
    let zeros = RewardBatch { values: Some(&[0.0; 4]), ..shaped };
    let as_returns = AdvantageEstimator::Gae { gamma: 0.9, lambda: 1.0, whiten: false, kl };
    same(&values(as_returns, &zeros), &[0.67913, 0.7657, 0.873, 0.97]);

    // Whitening 1 ×4, 0 ×2 and 0.5 ×3; subtracting the group's mean first changes nothing.
    let tokens = RewardBatch { offsets: Some(&[0, 4, 6, 9]), ..RewardBatch::new(&[1.0, 0.0, 0.5], &[0; 3]) };
    let (a, b, c) = (0.933333306, -1.466666624, -0.266666659);
    for estimator in
        [AdvantageEstimator::ReinforcePpBaseline {}, AdvantageEstimator::ReinforcePp { gamma: 1.0, kl: None }]
    {
        same(&values(estimator, &tokens), &[a, a, a, a, b, b, c, c, c]);
    }
    // An observation between passes the return through.
    let mask = [true, false, true];
    let gap = RewardBatch { offsets: Some(&[0, 3]), mask: Some(&mask), ..RewardBatch::new(&[1.0], &[0]) };
    let out = estimate(AdvantageEstimator::ReinforcePp { gamma: 0.5, kl: None }, &gap);
    assert_eq!(out.returns.unwrap(), [0.5, 0.0, 1.0]);
}

#[test]
fn gdpo_whitens_the_weighted_sum_of_components() {
    let (a, b) = ([1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.2, 0.4]);
    let gdpo = AdvantageEstimator::Gdpo { eps: 1e-6, ddof: 1 };
    let components = [(1.0, &a[..]), (3.0, &b[..])];
    let batch = RewardBatch { components: &components, ..RewardBatch::new(&[0.0; 4], &GROUP) };
    // Both components become ±s: sums s·(1 − 3, −1 + 3, −1 − 3, 1 + 3), of mean 0 and variance 40s²/3.
    let unit = (40.0f64 / 3.0).sqrt();
    let expected = [-2.0, 2.0, -4.0, 4.0].map(|x| x / unit);
    assert!(all_near(&values(gdpo, &batch), &expected, 1e-5), "{:?}", values(gdpo, &batch));
    let bad = [(1.0, &a[..3])];
    let error = gdpo.estimate(&RewardBatch { components: &bad, ..batch }, SingletonPolicy::Zero).unwrap_err();
    assert_eq!(error.to_string(), "rewards has 3 elements, expected 4");
}

#[test]
fn external_advantages_are_checked_and_passed_on() {
    let external = |values| RewardBatch {
        offsets: Some(&[0, 2, 3]),
        mask: Some(&[true, false, true]),
        external: Some(values),
        ..RewardBatch::new(&[0.0, 1.0], &[0, 0])
    };
    let of = |values| AdvantageEstimator::External {}.estimate(&external(values), SingletonPolicy::Zero);
    let out = of(Advantages::PerSequence(&[1.0, 2.0])).unwrap();
    assert_eq!(out.values, AdvantageValues::PerSequence(vec![1.0, 2.0]));
    let out = of(Advantages::PerToken(&[1.0, f64::NAN, 2.0])).unwrap();
    assert_eq!(out.values, AdvantageValues::PerToken(vec![1.0, 0.0, 2.0]));
    let refuse = |values| of(values).unwrap_err().to_string();
    assert_eq!(refuse(Advantages::PerToken(&[1.0, 1.0, f64::NAN])), "external is NaN at sequence 1, token 0");
    assert_eq!(refuse(Advantages::PerToken(&[1.0])), "external has 1 elements, expected 3");
    assert_eq!(refuse(Advantages::PerSequence(&[1.0])), "external has 1 elements, expected 2");
}

#[test]
fn estimators_from_files_and_what_they_refuse() {
    let parse = |text: &str| serde_json::from_str::<AdvantageEstimator>(text).unwrap();
    assert_eq!(parse(r#"{"kind":"group_mean_std"}"#), std(1e-6, 1));
    assert_eq!(
        parse(r#"{"kind":"group_mean_batch_std"}"#),
        AdvantageEstimator::GroupMeanBatchStd { eps: 1e-6 }
    );
    assert_eq!(parse(r#"{"kind":"reinforce_pp"}"#), AdvantageEstimator::ReinforcePp { gamma: 1.0, kl: None });
    let gae = AdvantageEstimator::Gae { gamma: 1.0, lambda: 0.95, whiten: false, kl: None };
    assert_eq!(parse(r#"{"kind":"gae"}"#), gae);
    assert!(serde_json::from_str::<AdvantageEstimator>(r#"{"kind":"rloo","eps":1}"#).is_err());
    let r = RewardBatch::new(&[0.0, 1.0], &[0, 0]);
    let refuse = |e: AdvantageEstimator, batch: &RewardBatch<'_>| {
        e.estimate(batch, SingletonPolicy::Error).unwrap_err().to_string()
    };
    assert_eq!(refuse(std(-1.0, 1), &r), "estimator.eps is -1, expected a finite number of 0 or more");
    assert_eq!(refuse(std(f64::NAN, 1), &r), "estimator.eps is NaN, expected a finite number of 0 or more");
    assert_eq!(refuse(std(0.0, 2), &r), "estimator.ddof is 2, expected 0 or 1");
    let pp = |gamma, kl| AdvantageEstimator::ReinforcePp { gamma, kl };
    assert_eq!(refuse(pp(1.5, None), &r), "estimator.gamma is 1.5, expected 0 to 1");
    assert_eq!(refuse(pp(1.0, None), &r), "reinforce_pp needs offsets");
    let lambda = AdvantageEstimator::Gae { gamma: 1.0, lambda: -0.1, whiten: false, kl: None };
    assert_eq!(refuse(lambda, &r), "estimator.lambda is -0.1, expected 0 to 1");
    let tokens = RewardBatch { offsets: Some(&[0, 1, 2]), ..r };
    assert_eq!(refuse(gae, &tokens), "gae needs values");
    let kl = Some(KlPenalty { kind: KlKind::K1, beta: 0.1, clamp: true });
    assert_eq!(refuse(pp(1.0, kl), &tokens), "a KL penalty in the reward needs logp_old");
    let negative = Some(KlPenalty { kind: KlKind::K1, beta: -0.1, clamp: true });
    assert!(refuse(pp(1.0, negative), &tokens).starts_with("estimator.kl.beta is -0.1"));
    let infinite = RewardBatch { values: Some(&[0.0, f64::INFINITY]), ..tokens };
    assert_eq!(refuse(gae, &infinite), "values is inf at sequence 1, token 0");
    assert_eq!(
        refuse(gae, &RewardBatch { values: Some(&[0.0]), ..tokens }),
        "values has 1 elements, expected 2"
    );
    assert_eq!(
        refuse(gae, &RewardBatch { offsets: Some(&[0, 2]), ..r }),
        "offsets has 2 elements, expected 3"
    );
    assert_eq!(refuse(AdvantageEstimator::Opo {}, &r), "opo needs offsets");
    assert_eq!(refuse(AdvantageEstimator::Gdpo { eps: 0.0, ddof: 1 }, &r), "gdpo needs components");
    assert_eq!(refuse(AdvantageEstimator::External {}, &r), "the external estimator needs external");
    let mean = AdvantageEstimator::GroupMean {};
    assert_eq!(refuse(mean, &RewardBatch::new(&[0.0, f64::NAN], &[0, 0])), "reward 1 is NaN");
    assert_eq!(refuse(mean, &RewardBatch::new(&[0.0], &[0, 0])), "rewards has 1 elements, expected 2");
    assert_eq!(
        refuse(mean, &RewardBatch::new(&[0.0], &[5])),
        "group 5 has a single sample, which has no baseline"
    );
    let single = RewardBatch::new(&[2.0], &[5]);
    let of = |policy| mean.estimate(&single, policy).unwrap().values;
    assert_eq!(of(SingletonPolicy::Zero), AdvantageValues::PerSequence(vec![0.0]));
    assert_eq!(of(SingletonPolicy::Raw), AdvantageValues::PerSequence(vec![2.0]));
    assert_eq!(mean.estimate(&RewardBatch::default(), SingletonPolicy::Error).unwrap().groups, 0);
}

#[test]
fn overlong_responses() {
    for (n, share) in [(16_384, 0.0), (17_408, -0.25), (20_480, -1.0), (20_481, -1.0)] {
        close("overlong", overlong_penalty(n, 20_480, 4_096, 1.0), share, 1e-12);
        close("overlong", overlong_penalty(n, 20_480, 4_096, 0.5), share * 0.5, 1e-12);
    }
    assert_eq!(overlong_penalty(5, 10, 0, 1.0), 0.0);
    assert_eq!(overlong_penalty(11, 10, 0, 1.0), -1.0);
}

#[test]
fn values_are_learned_within_the_clip() {
    // v = 1, 0.5, 3 and 0.9; v_old = 0, 0.5, 0 and 1; R = 2, 0, 4 and 1.
    let batch = ValueBatch {
        offsets: &[0, 2, 4],
        values: &[1.0, 0.5, 3.0, 0.9],
        values_old: &[0.0, 0.5, 0.0, 1.0],
        returns: &[2.0, 0.0, 4.0, 1.0],
        mask: None,
        groups: None,
    };
    // Clipped to within 0.2 of v_old: errors −1.8, 0.5, −3.8 and −0.1; unclipped −1, 0.5, −1, −0.1.
    let (loss, gradient) = value_loss(&batch, 0.2, Mode::TokenMean.into(), &Normalizer::default()).unwrap();
    close("loss", loss, 0.5 * (3.24 + 0.25 + 14.44 + 0.01) / 4.0, 1e-12);
    same(&gradient, &[0.0, 0.5 / 4.0, 0.0, -0.1 / 4.0]);
    let masked =
        ValueBatch { mask: Some(&[true, true, false, true]), returns: &[2.0, 0.0, f64::NAN, 1.0], ..batch };
    let aggregation: Aggregation = Mode::SeqMeanTokenMean.into();
    let (loss, gradient) = value_loss(&masked, f64::INFINITY, aggregation, &Normalizer::default()).unwrap();
    close("loss", loss, 0.5 * ((1.0 + 0.25) / 4.0 + 0.01 / 2.0), 1e-12);
    same(&gradient, &[-1.0 / 4.0, 0.5 / 4.0, 0.0, -0.1 / 2.0]);
    let refuse = |batch: &ValueBatch<'_, f64>, clip| {
        value_loss(batch, clip, aggregation, &Normalizer::default()).unwrap_err().to_string()
    };
    assert_eq!(refuse(&batch, f64::NAN), "the value clip is NaN, expected 0 or more");
    let nan = ValueBatch { values_old: &[0.0, f64::NAN, 0.0, 0.0], ..batch };
    assert_eq!(refuse(&nan, 0.2), "values_old is NaN at sequence 0, token 1");
    assert_eq!(refuse(&ValueBatch { returns: &[1.0], ..batch }, 0.2), "returns has 1 elements, expected 4");
    assert_eq!(
        refuse(&ValueBatch { offsets: &[], ..batch }, 0.2),
        "offsets must rise from 0 to the number of tokens (4)"
    );
}

/// Groups of which some are degenerate: constant, or constant up to rounding.
fn rewards() -> impl Strategy<Value = (Vec<f64>, Vec<u32>)> {
    let group = (prop::collection::vec(-5.0f64..5.0, 1..6), 0u8..4, -1e3f64..1e3);
    prop::collection::vec(group, 1..5).prop_map(|groups| {
        let (mut rewards, mut ids) = (Vec::new(), Vec::new());
        for (id, (values, kind, at)) in groups.into_iter().enumerate() {
            for v in values {
                rewards.push(match kind {
                    0 => at,
                    1 => at + at * 1e-13 * v,
                    _ => v,
                });
                ids.push(id as u32);
            }
        }
        (rewards, ids)
    })
}

const OF_GROUPS: [AdvantageEstimator; 4] = [
    AdvantageEstimator::GroupMeanStd { eps: 0.0, ddof: 1 },
    AdvantageEstimator::GroupMean {},
    AdvantageEstimator::GroupMeanBatchStd { eps: 1e-6 },
    AdvantageEstimator::Rloo {},
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    // P12
    #[test]
    fn advantages((rewards, ids) in rewards(), a in 0.1f64..10.0, b in -100.0f64..100.0, seed in any::<u64>()) {
        let of = |e, r: &[f64]| values(e, &RewardBatch::new(r, &ids));
        let moved: Vec<f64> = rewards.iter().map(|r| a * r + b).collect();
        let keep = dynamic_sampling_keep(&rewards, &ids).unwrap();
        if keep == dynamic_sampling_keep(&moved, &ids).unwrap() {
            prop_assert!(all_near(&of(OF_GROUPS[0], &rewards), &of(OF_GROUPS[0], &moved), 1e-6));
        }
        let [_, mean, _, rloo] = OF_GROUPS.map(|e| of(e, &rewards));
        for (group, keep) in &keep {
            let members: Vec<usize> = (0..ids.len()).filter(|i| ids[*i] == *group).collect();
            let n = members.len() as f64;
            for estimator in OF_GROUPS {
                let found = of(estimator, &rewards);
                prop_assert!(members.iter().map(|i| found[*i]).sum::<f64>().abs() < 1e-9);
                prop_assert!(*keep || members.iter().all(|i| found[*i] == 0.0), "{estimator:?}");
                prop_assert!(!keep || members.iter().any(|i| found[*i] != 0.0), "{estimator:?}");
            }
            for i in members.iter().filter(|_| n > 1.0) {
                prop_assert!(near(rloo[*i], n / (n - 1.0) * mean[*i], 1e-9));
            }
        }
        // GroupMean is linear in the rewards.
        let scaled: Vec<f64> = rewards.iter().map(|r| a * r).collect();
        if keep == dynamic_sampling_keep(&scaled, &ids).unwrap() {
            let expected: Vec<f64> = mean.iter().map(|m| a * m).collect();
            prop_assert!(all_near(&of(OF_GROUPS[1], &scaled), &expected, 1e-9));
        }
        // Rows in another order.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|i| seed.wrapping_mul(2 * *i as u64 + 1) >> 7);
        let turned: Vec<f64> = order.iter().map(|i| rewards[*i]).collect();
        let turned_ids: Vec<u32> = order.iter().map(|i| ids[*i]).collect();
        for estimator in OF_GROUPS {
            let (found, was) = (values(estimator, &RewardBatch::new(&turned, &turned_ids)), of(estimator, &rewards));
            let expected: Vec<f64> = order.iter().map(|i| was[*i]).collect();
            prop_assert!(all_near(&found, &expected, 1e-9));
        }
    }

    // §13.7
    #[test]
    fn huge_rewards_give_numbers(signs in prop::collection::vec(any::<bool>(), 2..6), which in 0usize..7) {
        let rewards: Vec<f64> = signs.iter().map(|s| if *s { 1e30 } else { -1e30 }).collect();
        let (ids, offsets): (Vec<u32>, Vec<usize>) = (vec![0; rewards.len()], (0..=rewards.len()).collect());
        let components = [(1.0, &rewards[..])];
        let zeros = vec![0.0; rewards.len()];
        let batch = RewardBatch { offsets: Some(&offsets), components: &components, values: Some(&zeros), ..RewardBatch::new(&rewards, &ids) };
        let more = [AdvantageEstimator::Opo {}, AdvantageEstimator::Gdpo { eps: 1e-6, ddof: 1 },
            AdvantageEstimator::Gae { gamma: 1.0, lambda: 0.95, whiten: true, kl: None }];
        let estimator = OF_GROUPS.into_iter().chain(more).nth(which).unwrap();
        prop_assert!(values(estimator, &batch).iter().all(|v| v.is_finite()));
    }
}
