//! What may be absent, wrong or not finite in a batch, and what happens then.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use policy_loss::{
    Advantages, Aggregation, Base, Control, EntropyAggregation, EntropyBonus, KlKind, KlPenalty, Level,
    LossConfig, LossOutput, Mode, NonFinitePolicy, Normalizer, Objective, Rejection, Result, SeqCount,
    TokenBatch, TruncationTarget,
};
use std::collections::BTreeMap;

const PAIR: [f64; 2] = [-1.0, -1.2];

fn view() -> TokenBatch<'static, f64> {
    TokenBatch {
        logp_old: Some(&PAIR),
        logp_mu: Some(&PAIR),
        ..TokenBatch::new(&[0, 1, 2], &PAIR, Advantages::PerSequence(&[1.0, -1.0]))
    }
}

fn mean() -> LossConfig {
    LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)
}

fn evaluate(config: LossConfig, batch: &TokenBatch<'_, f64>, n: &Normalizer) -> Result<LossOutput<f64>> {
    config.validate().unwrap().evaluate(batch, n)
}

fn refuse(config: LossConfig, batch: &TokenBatch<'_, f64>) -> String {
    evaluate(config, batch, &Normalizer::default()).unwrap_err().to_string()
}

#[test]
fn empty_batches_give_zero() {
    for config in losses() {
        for (offsets, logp, mask, adv, groups) in [
            (vec![0], vec![], vec![], vec![], vec![]),
            (vec![0, 0, 2], vec![-1.0; 2], vec![false; 2], vec![1.0; 2], vec![0, 1]),
        ] {
            let view = TokenBatch {
                logp_old: Some(&logp),
                logp_mu: Some(&logp),
                mask: Some(&mask),
                groups: Some(&groups),
                ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv))
            };
            let out = evaluate(config.clone(), &view, &Normalizer::default()).unwrap();
            assert_eq!(out.loss, 0.0);
            assert!(out.grad_logp.iter().all(|g| *g == 0.0));
            assert_eq!(out.metrics.get("loss/empty"), Some(1.0));
        }
    }
    // A denominator of 0 that is given is the same.
    let zero = Normalizer { tokens: Some(0.0), ..Normalizer::default() };
    let out = evaluate(mean(), &view(), &zero).unwrap();
    assert_eq!((out.loss, out.metrics.get("loss/empty")), (0.0, Some(1.0)));
    assert_eq!(out.grad_logp, [0.0, 0.0]);
    let whole = evaluate(mean(), &view(), &Normalizer::default()).unwrap();
    assert_eq!(whole.metrics.get("loss/empty"), Some(0.0));
}

#[test]
fn what_a_loss_needs_must_be_given() {
    let kl = |kind| Some(KlPenalty { kind, beta: 0.0, clamp: true });
    let no_mu = TokenBatch { logp_mu: None, ..view() };
    let no_old = TokenBatch { logp_old: None, ..view() };
    let reinforce = LossConfig::new(Objective::Reinforce {}, Mode::TokenMean);
    let mini = LossConfig::new(mini_rl(5.0, TruncationTarget::Full), Mode::SeqMeanTokenSum);
    let bonus = Some(EntropyBonus { coef: 0.1, aggregation: EntropyAggregation::TokenMean });
    let token = correction(Base::Mismatch, Level::Token, Control::None {});
    for (config, batch, error) in [
        (mini, no_mu, "mini_rl needs logp_mu"),
        (LossConfig { correction: token, ..mean() }, no_mu, "the correction needs logp_mu"),
        (
            LossConfig { rejection: vec![Rejection::Veto { min: 0.1 }], ..mean() },
            no_mu,
            "rejection needs logp_mu",
        ),
        (mean(), no_old, "ppo_clip needs logp_old"),
        (LossConfig { kl: kl(KlKind::K3), ..mean() }, view(), "the KL penalty needs logp_ref"),
        (
            LossConfig { kl: kl(KlKind::K3Is), ..reinforce.clone() },
            TokenBatch { logp_ref: Some(&PAIR), ..no_old },
            "k3_is needs logp_old",
        ),
        (LossConfig { entropy: bonus, ..mean() }, view(), "the entropy bonus needs entropy"),
        (LossConfig { entropy_top_share: Some(0.5), ..mean() }, view(), "entropy_top_share needs entropy"),
        (LossConfig::new(ppo(0.2, 0.2), Mode::GroupTokenMean), view(), "group_token_mean needs groups"),
    ] {
        assert_eq!(refuse(config, &batch), error);
    }
    evaluate(reinforce, &no_old, &Normalizer::default()).unwrap();
    evaluate(LossConfig { on_policy: true, ..mean() }, &no_old, &Normalizer::default()).unwrap();
}

#[test]
fn slices_that_do_not_fit_are_named() {
    let short = [-1.0];
    for (batch, error) in [
        (TokenBatch { logp_old: Some(&short), ..view() }, "logp_old has 1 elements, expected 2"),
        (TokenBatch { log_kept_mass: Some(&short), ..view() }, "log_kept_mass has 1 elements, expected 2"),
        (TokenBatch { groups: Some(&[0]), ..view() }, "groups has 1 elements, expected 2"),
        (
            TokenBatch { advantages: Advantages::PerSequence(&short), ..view() },
            "advantages has 1 elements, expected 2",
        ),
        (
            TokenBatch { offsets: &[0, 2, 1], ..view() },
            "offsets must rise from 0 to the number of tokens (2)",
        ),
        (TokenBatch { offsets: &[], ..view() }, "offsets must rise from 0 to the number of tokens (2)"),
    ] {
        assert_eq!(refuse(mean(), &batch), error);
    }
}

#[test]
fn the_error_is_that_of_the_lowest_row_whatever_the_threads_do() {
    let n = 400;
    let mut logp = vec![-1.0; 2 * n];
    for row in [171, 172, 250, 399] {
        logp[2 * row + 1] = f64::NAN;
        logp[2 * row] = -1.0 - row as f64;
    }
    let (old, offsets, adv) = (vec![-1.0; 2 * n], (0..=n).map(|i| 2 * i).collect::<Vec<_>>(), vec![1.0; n]);
    let batch = TokenBatch {
        logp_old: Some(&old[..]),
        ..TokenBatch::new(&offsets, &logp, Advantages::PerSequence(&adv))
    };
    for _ in 0..200 {
        assert_eq!(refuse(mean(), &batch), "logp is NaN at sequence 171, token 1");
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let (nan, minus) = ([-1.0, f64::NAN], [-1.0, f64::NEG_INFINITY]);
    let positive = [-1.0, 0.5];
    for (batch, error) in [
        (TokenBatch { logp_old: Some(&nan), ..view() }, "logp_old is NaN at sequence 1, token 0"),
        (TokenBatch { logp_mu: Some(&minus), ..view() }, "logp_mu is -inf at sequence 1, token 0"),
        (TokenBatch { logp_ref: Some(&nan), ..view() }, "logp_ref is NaN at sequence 1, token 0"),
        (TokenBatch { entropy: Some(&nan), ..view() }, "entropy is NaN at sequence 1, token 0"),
        (TokenBatch { log_kept_mass: Some(&nan), ..view() }, "log_kept_mass is NaN at sequence 1, token 0"),
        (
            TokenBatch { advantages: Advantages::PerToken(&nan), ..view() },
            "advantages is NaN at sequence 1, token 0",
        ),
        (TokenBatch { logp: &positive, ..view() }, "logp is 0.5 at sequence 1, token 0"),
    ] {
        assert_eq!(refuse(mean(), &batch), error);
    }
    // Up to 1e-4 above 0 is rounding of 0.
    let rounded = |v: f64| {
        let logp = [-1.0, v];
        let out = evaluate(mean(), &TokenBatch { logp: &logp, ..view() }, &Normalizer::default()).unwrap();
        (out.loss, out.grad_logp)
    };
    assert_eq!(rounded(1e-4), rounded(0.0));
}

#[test]
fn dropping_a_token_is_masking_it() {
    let logp = [-1.0, f64::NAN];
    let dropping = LossConfig { non_finite: NonFinitePolicy::DropToken, ..mean() };
    let broken = TokenBatch { logp: &logp, ..view() };
    let dropped = evaluate(dropping, &broken, &Normalizer::default()).unwrap();
    let masked = TokenBatch { mask: Some(&[true, false]), ..broken };
    let expected = evaluate(mean(), &masked, &Normalizer::default()).unwrap();
    assert_eq!((dropped.loss, dropped.grad_logp), (expected.loss, expected.grad_logp));
    assert_eq!(dropped.metrics.get("nonfinite/dropped"), Some(1.0));
    assert_eq!(expected.metrics.get("nonfinite/dropped"), Some(0.0));
    assert_eq!(dropped.metrics.get("tokens"), Some(1.0));
}

#[test]
fn propagating_computes_with_what_there_is() {
    let logp = [-1.0, f64::NAN];
    let config = LossConfig { non_finite: NonFinitePolicy::Propagate, ..mean() };
    let out = evaluate(config, &TokenBatch { logp: &logp, ..view() }, &Normalizer::default()).unwrap();
    assert!(out.loss.is_nan() && out.grad_logp[1].is_nan());
    assert_eq!(out.grad_logp[0], -0.5);
}

#[test]
fn the_kept_mass_is_taken_out_of_the_mismatch() {
    let config =
        LossConfig { correction: correction(Base::Mismatch, Level::Token, Control::None {}), ..mean() };
    // Sampled with half of the mass: μ over the kept tokens is twice what it was.
    let (mass, renormalised) = ([0.5f64.ln(); 2], PAIR.map(|p| p + 2f64.ln()));
    let cut = TokenBatch { logp_mu: Some(&renormalised), ..view() };
    let of = |batch: &TokenBatch<'_, f64>| evaluate(config.clone(), batch, &Normalizer::default()).unwrap();
    let corrected = of(&TokenBatch { log_kept_mass: Some(&mass), ..cut });
    assert!((corrected.metrics.get("is/mean").unwrap() - 1.0).abs() < 1e-15);
    assert!((of(&cut).metrics.get("is/mean").unwrap() - 0.5).abs() < 1e-15);
    assert!((corrected.loss - of(&view()).loss).abs() < 1e-15);
}

#[test]
fn rows_without_a_token_count_where_all_do() {
    let mask = [true, false];
    let batch = TokenBatch { mask: Some(&mask), ..view() };
    let of = |seq_count| {
        let aggregation = Aggregation { mode: Mode::SeqMeanTokenSum, seq_count };
        evaluate(LossConfig { aggregation, ..mean() }, &batch, &Normalizer::default()).unwrap()
    };
    let (all, non_empty) = (of(SeqCount::All), of(SeqCount::NonEmpty));
    assert_eq!((all.loss, non_empty.loss), (-0.5, -1.0));
    assert_eq!((all.grad_logp[0], non_empty.grad_logp[0]), (-0.5, -1.0));
}

#[test]
fn a_part_of_a_batch_must_know_of_the_rest() {
    let part = Normalizer { tokens: Some(8.0), seqs: Some(4.0), groups: Some(2.0), ..Normalizer::default() };
    let refuse = |config: LossConfig, n: &Normalizer| {
        let batch = TokenBatch { groups: Some(&[3, 9]), entropy: Some(&[0.5, 0.6]), ..view() };
        evaluate(config, &batch, n).map(|out| out.loss).map_err(|e| e.to_string())
    };
    let group = LossConfig::new(ppo(0.2, 0.2), Mode::GroupTokenMean);
    assert_eq!(
        refuse(group.clone(), &part).unwrap_err(),
        "group_token_mean of a part of a batch needs normalizer.group_tokens"
    );
    let tokens = |of: &[(u32, f64)]| Normalizer {
        group_tokens: Some(of.iter().copied().collect::<BTreeMap<_, _>>()),
        ..part.clone()
    };
    assert_eq!(
        refuse(group.clone(), &tokens(&[(3, 4.0)])).unwrap_err(),
        "group 9 needs an entry of normalizer.group_tokens"
    );
    // ω = 1/(2·4) and 1/(2·5).
    let loss = refuse(group.clone(), &tokens(&[(3, 4.0), (9, 5.0)])).unwrap();
    assert!((loss - (-1.0 / 8.0 + 1.0 / 10.0)).abs() < 1e-15);
    // The number of groups follows from them.
    let counted = Normalizer { groups: None, ..tokens(&[(3, 4.0), (9, 5.0), (11, 1.0), (12, 0.0)]) };
    let loss = refuse(group, &counted).unwrap();
    assert!((loss - (-1.0 / 12.0 + 1.0 / 15.0)).abs() < 1e-15);

    let top = LossConfig { entropy_top_share: Some(0.5), ..mean() };
    assert_eq!(
        refuse(top.clone(), &part).unwrap_err(),
        "entropy_top_share of a part of a batch needs normalizer.entropy_threshold"
    );
    let known = Normalizer { entropy_threshold: Some(0.55), ..part.clone() };
    assert_eq!(refuse(top, &known), Ok(1.0 / 8.0));
    let mut correction = correction(Base::Mismatch, Level::Token, Control::None {}).unwrap();
    correction.batch_normalize = true;
    let normalising = LossConfig { correction: Some(correction), ..mean() };
    assert_eq!(
        refuse(normalising.clone(), &part).unwrap_err(),
        "batch_normalize of a part of a batch needs normalizer.mean_weight"
    );
    let group_only = Normalizer { tokens: None, seqs: None, groups: None, ..tokens(&[(3, 4.0), (9, 5.0)]) };
    assert!(refuse(normalising.clone(), &group_only).is_err());
    let halved = TokenBatch { advantages: Advantages::PerSequence(&[1.0, 0.0]), ..view() };
    let known = Normalizer { mean_weight: Some(2.0), ..part.clone() };
    assert_eq!(evaluate(normalising, &halved, &known).unwrap().loss, -1.0 / 16.0);
    for (bad, error) in [
        (Normalizer { tokens: Some(f64::NAN), ..part.clone() }, "normalizer.tokens is NaN"),
        (Normalizer { seqs: Some(-1.0), ..part.clone() }, "normalizer.seqs is -1"),
        (Normalizer { groups: Some(f64::INFINITY), ..part.clone() }, "normalizer.groups is inf"),
        (Normalizer { mean_weight: Some(-1.0), ..part.clone() }, "normalizer.mean_weight is -1"),
        (
            Normalizer { entropy_threshold: Some(f64::NAN), ..part.clone() },
            "normalizer.entropy_threshold is NaN",
        ),
        (Normalizer { grad_world_scale: f64::NAN, ..part.clone() }, "normalizer.grad_world_scale is NaN"),
        (tokens(&[(3, f64::NAN), (9, 1.0)]), "normalizer.group_tokens is NaN"),
    ] {
        let found = refuse(mean(), &bad).unwrap_err();
        assert!(found.starts_with(error), "{found}");
    }
}
