//! What goes together, what does not, and what is said about it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::*;
use policy_loss::{
    Advantages, Base, Control, Correction, EntropyAggregation, EntropyBonus, Feature, KlKind, KlPenalty,
    Level, LossConfig, Mode, Normalizer, Objective, ObjectiveKind, Opsm, PRESETS, Rejection, Support,
    TokenBatch, TruncationTarget, support,
};

/// A valid loss of a kind with nothing optional.
fn plain(kind: ObjectiveKind) -> LossConfig {
    let config = losses().into_iter().find(|c| c.objective.kind() == kind).unwrap();
    match config.objective {
        Objective::PpoClip { clip_low, clip_high, .. } => {
            LossConfig { objective: ppo(clip_low, clip_high), ..config }
        }
        _ => config,
    }
}

/// Whether a kind may be used with a feature and nothing else, by trying; the error otherwise.
fn attempt(kind: ObjectiveKind, feature: Feature, opt_in: bool) -> Result<(), String> {
    let mut config = LossConfig { allow_length_weighting: opt_in, ..plain(kind) };
    // The base that the kind admits, so that only the feature is at stake.
    let own = if kind == ObjectiveKind::Reinforce { Base::Full } else { Base::Mismatch };
    let raw = |base, level| Correction { base, level, control: Control::None {}, batch_normalize: false };
    match feature {
        Feature::TokenAdvantages => {}
        Feature::OtherAggregation => config.aggregation = Mode::TokenMean.into(),
        Feature::DualClip => {
            // Only what can be said can be refused: in a file.
            let mut json = serde_json::to_value(&config).unwrap();
            json["objective"]["dual_clip"] = 3.0.into();
            config = serde_json::from_value(json).map_err(|e| e.to_string())?;
        }
        Feature::MismatchCorrection => config.correction = Some(raw(Base::Mismatch, Level::SeqProduct)),
        Feature::FullCorrection => config.correction = Some(raw(Base::Full, Level::SeqProduct)),
        Feature::TokenWeights => config.correction = Some(raw(own, Level::Token)),
        Feature::GeoWeights => config.correction = Some(raw(own, Level::SeqGeo)),
        Feature::BoundedWeights => {
            let control = Control::Truncate { max: 2.0, min: 0.0 };
            config.correction = Some(Correction { control, ..raw(own, Level::SeqProduct) });
        }
        Feature::BatchNormalize => {
            config.correction = Some(Correction { batch_normalize: true, ..raw(own, Level::SeqProduct) });
        }
        Feature::Bypass => config.bypass = true,
        Feature::EntropyTopShare => config.entropy_top_share = Some(0.5),
        Feature::Rejection => config.rejection = vec![Rejection::Veto { min: 1e-4 }],
        Feature::Opsm => config.opsm = Some(Opsm { delta: 0.1, keeps_denominator: true }),
        Feature::KlPenalty => config.kl = Some(KlPenalty { kind: KlKind::K3, beta: 0.1, clamp: true }),
        Feature::EntropyBonus => {
            config.entropy = Some(EntropyBonus { coef: 0.1, aggregation: EntropyAggregation::TokenMean });
        }
        Feature::OnPolicy => config.on_policy = true,
    }
    let loss = config.validate().map_err(|e| e.to_string())?;
    let values = [-1.0, -1.0];
    let view = TokenBatch {
        logp_old: Some(&values),
        logp_mu: Some(&values),
        logp_ref: Some(&values),
        entropy: Some(&[0.5, 0.6]),
        groups: Some(&[0]),
        ..TokenBatch::new(&[0, 2], &values, Advantages::PerToken(&[1.0, 1.0]))
    };
    let adv = if feature == Feature::TokenAdvantages { [1.0, 2.0] } else { [1.0, 1.0] };
    let view = TokenBatch { advantages: Advantages::PerToken(&adv), ..view };
    loss.evaluate(&view, &Normalizer::default()).map(drop).map_err(|e| e.to_string())
}

#[test]
fn every_cell_of_the_table_is_what_happens() {
    let mut cells = 0;
    for (feature, kind) in Feature::all().flat_map(|f| ObjectiveKind::ALL.map(|k| (f, k))) {
        cells += 1;
        let cell = support(kind, feature);
        let what = format!("{} and {}", kind.name(), feature.name());
        match (cell, attempt(kind, feature, false)) {
            (Support::Yes, result) => result.unwrap_or_else(|e| panic!("{what}: {e}")),
            (Support::OptIn(why), Err(e)) => {
                assert!(e.contains(why), "{what}: {e}");
                attempt(kind, feature, true).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            (Support::No(why), Err(e)) => {
                let said = match feature {
                    Feature::DualClip => "unknown field `dual_clip`",
                    Feature::TokenAdvantages => "varies within sequence 0",
                    _ => why,
                };
                assert!(e.contains(said), "{what}: {e}");
                assert!(attempt(kind, feature, true).is_err(), "{what}");
            }
            (cell, Ok(())) => panic!("{what}: {cell:?}, but it was accepted"),
        }
    }
    assert_eq!(cells, 12 * 16);
    // Rows of the table are found by position.
    assert!(Feature::all().enumerate().all(|(i, f)| f as usize == i));
    assert!(ObjectiveKind::ALL.iter().enumerate().all(|(i, k)| *k as usize == i));
}

#[test]
fn the_readme_has_the_table() {
    let mut table = String::from("| |");
    ObjectiveKind::ALL.iter().for_each(|k| table.push_str(&format!(" `{}` |", k.name())));
    table.push_str(&format!("\n|{}", "---|".repeat(13)));
    for feature in Feature::all() {
        table.push_str(&format!("\n| {} |", feature.name()));
        for kind in ObjectiveKind::ALL {
            table.push_str(match support(kind, feature) {
                Support::Yes => " ✓ |",
                Support::OptIn(_) => " opt-in |",
                Support::No(_) => " – |",
            });
        }
    }
    assert!(include_str!("../README.md").contains(&table), "the README should have\n{table}");
}

#[test]
fn names_are_those_of_configurations() {
    for config in losses() {
        let json = serde_json::to_value(config.objective).unwrap();
        assert_eq!(json["kind"], config.objective.name());
    }
}

#[test]
fn presets_are_valid() {
    for name in PRESETS.into_iter().chain(["minirl"]) {
        let (config, estimator) = LossConfig::preset(name, 8).unwrap();
        estimator.validate().unwrap();
        // And survive a file.
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<LossConfig>(&text).unwrap(), config);
        config.validate().unwrap();
    }
    assert!(LossConfig::preset("grpo2", 8).unwrap_err().to_string().contains("known: sapo, grpo"));
}

#[test]
fn parameters_without_a_meaning_are_refused() {
    let of = |objective| LossConfig::new(objective, Mode::SeqMeanTokenMean);
    let base = of(ppo(0.2, 0.2));
    let nan = f64::NAN;
    let dual = |c| Objective::PpoClip { clip_low: 0.2, clip_high: 0.3, dual_clip: Some(c) };
    let sapo = |tau_pos, tau_neg| Objective::Sapo { tau_pos, tau_neg };
    let rejecting = |r| LossConfig { rejection: vec![Rejection::Veto { min: 0.1 }, r], ..base.clone() };
    let bounded = |control| LossConfig {
        correction: correction(Base::Mismatch, Level::Token, control),
        ..base.clone()
    };
    let kl =
        |beta| LossConfig { kl: Some(KlPenalty { kind: KlKind::K3, beta, clamp: true }), ..base.clone() };
    for (config, error) in [
        (of(ppo(-0.1, 0.2)), "objective.clip_low is -0.1, expected 0 or more"),
        (of(ppo(0.1, nan)), "objective.clip_high is NaN"),
        (of(Objective::Gspo { clip_low: 0.1, clip_high: -1.0 }), "objective.clip_high is -1"),
        (of(Objective::Luspo { clip_low: nan, clip_high: 0.1 }), "objective.clip_low is NaN"),
        (of(dual(1.2)), "objective.dual_clip is 1.2, expected 1 + clip_high or more"),
        (of(sapo(0.0, 1.0)), "objective.tau_pos is 0, expected a positive number"),
        (of(sapo(1.0, f64::INFINITY)), "objective.tau_neg is inf, expected a finite number"),
        (of(mini_rl(0.0, TruncationTarget::Full)), "objective.cap is 0"),
        (
            of(Objective::Cispo { ratio_min: 2.0, ratio_max: 1.0 }),
            "objective.ratio_max is 1, expected ratio_min or more",
        ),
        (of(Objective::DppoTv { delta_low: -1.0, delta_high: 0.1, cap: 1.0 }), "objective.delta_low is -1"),
        (
            of(Objective::Vespo { k_pos: 1.0, lambda_pos: nan, k_neg: 1.0, lambda_neg: 1.0 }),
            "objective.lambda_pos is NaN",
        ),
        (LossConfig::new(ppo(0.2, 0.2), Mode::SeqMeanTokenSumNorm { len: 0.0 }), "aggregation.len is 0"),
        (LossConfig { log_ratio_clamp: Some(0.0), ..base.clone() }, "log_ratio_clamp is 0"),
        (LossConfig { entropy_top_share: Some(1.1), ..base.clone() }, "entropy_top_share is 1.1"),
        (LossConfig { extreme_ratio: 0.5, ..base.clone() }, "extreme_ratio is 0.5"),
        (kl(-0.1), "kl.beta is -0.1, expected a finite number of 0 or more"),
        (kl(f64::INFINITY), "kl.beta is inf"),
        (
            LossConfig { opsm: Some(Opsm { delta: nan, keeps_denominator: true }), ..base.clone() },
            "opsm.delta is NaN",
        ),
        (
            LossConfig {
                entropy: Some(EntropyBonus { coef: nan, aggregation: EntropyAggregation::TokenMean }),
                ..base.clone()
            },
            "entropy.coef is NaN",
        ),
        (bounded(Control::Mask { min: 2.0, max: 0.5 }), "correction.control.max is 0.5"),
        (bounded(Control::Truncate { min: 0.0, max: nan }), "correction.control.max is NaN"),
        (rejecting(Rejection::TokenRatio { lo: 2.0, hi: 1.0 }), "rejection.hi is 1, expected lo or more"),
        (rejecting(Rejection::SeqGeoRatio { lo: nan, hi: 1.0 }), "rejection.lo is NaN"),
        (rejecting(Rejection::SeqSumRatio { lo: 0.5, hi: nan }), "rejection.hi is NaN"),
        (rejecting(Rejection::TokenK2 { max: -1.0 }), "rejection.max is -1, expected 0 or more"),
        (rejecting(Rejection::TokenK3 { max: nan }), "rejection.max is NaN"),
        (rejecting(Rejection::SeqMeanK3 { max: -0.1 }), "rejection.max is -0.1"),
        (rejecting(Rejection::SeqMaxK3 { max: nan }), "rejection.max is NaN"),
        (rejecting(Rejection::Veto { min: nan }), "rejection.min is NaN"),
        (
            LossConfig { bypass: true, ..bounded(Control::None {}) },
            "bypass and a correction do not go together: the ratio is π_θ/μ already",
        ),
    ] {
        let found = config.validate().expect_err(error).to_string();
        assert!(found.contains(error), "{found}, expected: {error}");
    }
    for (text, error) in [
        (r#"{"mode":"seq_mean_token_sum_norm"}"#, "needs `len`"),
        (r#"{"mode":"token_mean","len":3}"#, "`len` belongs to"),
    ] {
        let found = serde_json::from_str::<policy_loss::Aggregation>(text).unwrap_err().to_string();
        assert!(found.contains(error), "{found}");
    }
}
