//! The batch of the worked examples: three sequences of 4, 2 and 3 tokens. Every example runs on the fast path and on
//! the definition.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use ndarray::{Array1, Array2};
use policy_loss::reference::{self, Inputs};
use policy_loss::{
    Advantages, Base, Control, Correction, Level, LossConfig, LossOutput, Mode, Normalizer, Objective,
    TokenBatch,
};

pub const OFFSETS: [usize; 4] = [0, 4, 6, 9];
pub const LOGP: [f64; 9] = [-0.5, -1.2, -0.3, -2.0, -0.7, -0.6, -1.5, -0.9, -0.4];
pub const OLD: [f64; 9] = [-0.5, -1.5, -0.2, -1.6, -0.95, -0.25, -1.2, -1.0, -0.9];
pub const MU: [f64; 9] = [-0.55, -1.48, -0.2, -1.7, -0.92, -0.65, -1.22, -1.7, -0.91];
pub const REF: [f64; 9] = [-0.6, -1.0, -0.3, -2.2, -0.7, -0.9, -1.4, -0.9, -0.6];
pub const GROUPS: [u32; 3] = [0, 0, 1];

pub fn run(config: LossConfig, normalizer: &Normalizer) -> LossOutput<f64> {
    run_with(config, normalizer, &[1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.5, 0.5, 0.5])
}

pub fn run_with(config: LossConfig, normalizer: &Normalizer, adv: &[f64; 9]) -> LossOutput<f64> {
    let batch = TokenBatch {
        logp_old: Some(&OLD),
        logp_mu: Some(&MU),
        logp_ref: Some(&REF),
        groups: Some(&GROUPS),
        ..TokenBatch::new(&OFFSETS, &LOGP, Advantages::PerToken(adv))
    };
    let out = config.clone().validate().unwrap().evaluate(&batch, normalizer).unwrap();
    // The definition, on the same numbers padded with NaN.
    let pad = |flat: &[f64]| {
        Array2::from_shape_fn((3, 4), |(i, t)| {
            let at = OFFSETS[i] + t;
            if at < OFFSETS[i + 1] { flat[at] } else { f64::NAN }
        })
    };
    let inputs = Inputs {
        logp: pad(&LOGP),
        logp_old: pad(&OLD),
        logp_mu: pad(&MU),
        logp_ref: pad(&REF),
        entropy: Array2::zeros((3, 4)),
        mask: pad(&LOGP).mapv(f64::is_finite),
        advantages: pad(adv),
        groups: Array1::from(GROUPS.to_vec()),
    };
    let exact = reference::evaluate(&config, &inputs, normalizer);
    close("definition's loss", exact.loss, out.loss, 1e-12);
    for i in 0..3 {
        for at in OFFSETS[i]..OFFSETS[i + 1] {
            close("definition's gradient", exact.grad_logp[[i, at - OFFSETS[i]]], out.grad_logp[at], 1e-12);
        }
    }
    out
}

#[track_caller]
pub fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

#[track_caller]
pub fn check(config: LossConfig, loss: f64, gradient: [f64; 9]) -> LossOutput<f64> {
    let out = run(config, &Normalizer::default());
    close("loss", out.loss, loss, 1e-8);
    for (i, (found, expected)) in out.grad_logp.iter().zip(gradient).enumerate() {
        close(&format!("gradient {i}"), *found, expected, 1e-8);
    }
    out
}

pub fn corrected(level: Level, control: Control) -> LossConfig {
    let correction = Correction { base: Base::Mismatch, level, control, batch_normalize: false };
    LossConfig {
        correction: Some(correction),
        ..LossConfig::new(
            Objective::PpoClip { clip_low: 0.2, clip_high: 0.2, dual_clip: None },
            Mode::TokenMean,
        )
    }
}

/// A finished metric.
#[track_caller]
pub fn metric(out: &LossOutput<f64>, name: &str) -> f64 {
    out.metrics.get(name).unwrap_or_else(|| panic!("{name} was not measured"))
}

/// Finished metrics against what they should be.
#[track_caller]
pub fn measured(out: &LossOutput<f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        close(name, metric(out, name), *value, 1e-8);
    }
}
