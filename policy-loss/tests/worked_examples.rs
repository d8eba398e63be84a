//! Numbers worked out by hand for one small batch: losses and gradients.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/worked.rs"]
mod worked;

use policy_loss::{
    Advantages, Control, KlKind, KlPenalty, Level, LossConfig, Mode, Normalizer, Objective, Rejection,
    TokenBatch, TruncationTarget,
};
use worked::*;

fn ppo(clip_low: f64, clip_high: f64) -> Objective {
    Objective::PpoClip { clip_low, clip_high, dual_clip: None }
}

fn mini_rl(cap: f64) -> Objective {
    Objective::MiniRl {
        clip_low: 0.2,
        clip_high: 0.27,
        cap,
        truncation_target: TruncationTarget::Full,
        no_clip: false,
        no_train_infer_is: false,
    }
}

const THIRD: f64 = 1.0 / 3.0;
const E3: [f64; 9] =
    [-0.111111111, 0.0, -0.100537491, -0.074480005, 0.142669491, 0.0, -0.041156568, -0.061398384, 0.0];

#[test]
fn e1_reinforce() {
    let g = [-THIRD, -THIRD, -THIRD, -THIRD, THIRD, THIRD, -THIRD / 2.0, -THIRD / 2.0, -THIRD / 2.0];
    check(LossConfig::new(Objective::Reinforce {}, Mode::SeqMeanTokenSum), 1.366666667, g);
}

#[test]
fn e2_grpo() {
    let g =
        [-0.083333333, 0.0, -0.075403118, -0.055860004, 0.214004236, 0.0, -0.041156568, -0.061398384, 0.0];
    check(LossConfig::new(ppo(0.2, 0.2), Mode::SeqMeanTokenMean), -0.136480505, g);
}

#[test]
fn e3_dapo() {
    check(LossConfig::new(ppo(0.2, 0.28), Mode::TokenMean), -0.370458513, E3);
    check(LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean), -0.357125180, E3);
    let g =
        [-0.083333333, 0.0, -0.075403118, -0.055860004, 0.107002118, 0.0, -0.061734852, -0.092097577, 0.0];
    check(LossConfig::new(ppo(0.2, 0.28), Mode::GroupTokenMean), -0.408093432, g);
}

#[test]
fn e4_dr_grpo() {
    let g =
        [-0.041666667, 0.0, -0.037701559, -0.027930002, 0.053501059, 0.0, -0.015433713, -0.023024394, 0.0];
    check(LossConfig::new(ppo(0.2, 0.2), Mode::SeqMeanTokenSumNorm { len: 8.0 }), -0.133921942, g);
}

#[test]
fn e5_gspo_and_luspo() {
    let row = |a: f64, b: f64, c: f64| [a, a, a, a, b, b, c, c, c];
    let gspo = |low, high| Objective::Gspo { clip_low: low, clip_high: high };
    check(
        LossConfig::new(gspo(3e-4, 4e-4), Mode::SeqMeanTokenMean),
        -0.150576475,
        row(-0.079269119, 0.0, 0.0),
    );
    let g = row(-0.079269119, 0.158538237, -0.061398384);
    check(LossConfig::new(gspo(0.2, 0.2), Mode::SeqMeanTokenMean), -0.184195153, g);
    let luspo = Objective::Luspo { clip_low: 0.2, clip_high: 0.2 };
    let g = row(-0.317076475, 0.317076475, -0.184195153);
    check(LossConfig::new(luspo, Mode::SeqMeanTokenSum), -1.186738409, g);
}

#[test]
fn e6_gspo_token() {
    let config =
        LossConfig::new(Objective::GspoToken { clip_low: 0.2, clip_high: 0.2 }, Mode::SeqMeanTokenMean);
    let adv = [1.0, 1.0, -1.0, 0.5, -1.0, -2.0, 0.5, 0.5, 0.5];
    let out = run_with(config, &Normalizer::default(), &adv);
    close("loss", out.loss, 0.172515881, 1e-8);
    let g = [
        -0.079269119,
        -0.079269119,
        0.079269119,
        -0.039634559,
        0.158538237,
        0.317076475,
        -0.061398384,
        -0.061398384,
        -0.061398384,
    ];
    for (found, expected) in out.grad_logp.iter().zip(g) {
        close("gradient", *found, expected, 1e-8);
    }
}

#[test]
fn e7_cispo() {
    let g = [
        -0.111111111,
        -0.142222222,
        -0.100537491,
        -0.074480005,
        0.142222222,
        0.078298677,
        -0.041156568,
        -0.061398384,
        -0.071111111,
    ];
    check(
        LossConfig::new(Objective::Cispo { ratio_min: 0.0, ratio_max: 1.28 }, Mode::TokenMean),
        0.404246560,
        g,
    );
}

#[test]
fn e8_sapo() {
    let g = [
        -0.083333333,
        -0.109115083,
        -0.075232664,
        -0.054369242,
        0.209315552,
        0.114669546,
        -0.040473058,
        -0.061228916,
        -0.082596589,
    ];
    let sapo = Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 };
    check(LossConfig::new(sapo, Mode::SeqMeanTokenMean), -0.386973004, g);
}

#[test]
fn e9_mini_rl() {
    let g =
        [-0.350423699, 0.0, -0.301612473, -0.246939407, 0.415358910, 0.0, -0.125963957, -0.370923488, 0.0];
    let seq = |objective| LossConfig::new(objective, Mode::SeqMeanTokenSum);
    check(seq(mini_rl(5.0)), 0.991600242, g);
    let with = |v: f64| {
        let mut g = g;
        g[7] = v;
        g
    };
    check(seq(mini_rl(2.0)), 0.957769103, with(-0.333333333));
    let Objective::MiniRl { clip_low, clip_high, .. } = mini_rl(2.0) else { unreachable!() };
    let variant = |cap, truncation_target, no_clip, no_train_infer_is| Objective::MiniRl {
        clip_low,
        clip_high,
        cap,
        truncation_target,
        no_clip,
        no_train_infer_is,
    };
    check(seq(variant(2.0, TruncationTarget::Mismatch, false, false)), 0.989320379, with(-0.368390306));
    let d =
        [-0.087605925, 0.0, -0.075403118, -0.061734852, 0.207679455, 0.0, -0.041987986, -0.123641163, 0.0];
    check(LossConfig::new(mini_rl(5.0), Mode::SeqMeanTokenMean), 0.218777008, d);
    let e =
        [-0.333333333, 0.0, -0.301612473, -0.223440015, 0.428008472, 0.0, -0.123469703, -0.184195153, 0.0];
    check(seq(variant(5.0, TruncationTarget::Full, false, true)), 0.755404701, e);
    let f = [
        -0.350423699,
        -0.441043271,
        -0.301612473,
        -0.246939407,
        0.415358910,
        0.350423699,
        -0.125963957,
        -0.370923488,
        -0.277548532,
    ];
    check(seq(variant(5.0, TruncationTarget::Full, true, false)), 1.421617361, f);
}

#[test]
fn e10_corrections() {
    let tis =
        [-0.116807900, 0.0, -0.100537491, -0.082313136, 0.138452970, 0.0, -0.041987986, -0.122796769, 0.0];
    check(corrected(Level::Token, Control::Truncate { max: 2.0, min: 0.0 }), -0.391413505, tis);
    let mut masked = tis;
    masked[7] = 0.0;
    check(corrected(Level::Token, Control::Mask { min: 0.5, max: 2.0 }), -0.268616736, masked);
    let g =
        [-0.126536487, 0.0, -0.114494948, -0.084819944, 0.206547560, 0.0, -0.082313136, -0.122796769, 0.0];
    check(corrected(Level::SeqProduct, Control::Truncate { max: 2.0, min: 0.0 }), -0.480903320, g);
    let mut band = tis;
    band[6..].fill(0.0);
    check(
        corrected(Level::Token, Control::SeqGeoBandTokenWeight { min: 0.9, max: 1.25 }),
        -0.159292073,
        band,
    );
    let rejecting = LossConfig {
        rejection: vec![Rejection::SeqGeoRatio { lo: 0.9, hi: 1.25 }],
        ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)
    };
    close("loss", run(rejecting.clone(), &Normalizer::default()).loss, -0.281855341, 1e-8);
    let nine = Normalizer { tokens: Some(9.0), ..Normalizer::default() };
    close("loss", run(rejecting, &nine).loss, -0.187903561, 1e-8);
}

#[test]
fn e11_gmpo() {
    let (a, b, c) = (-0.079269119, 0.158538237, -0.059385506);
    let gmpo = Objective::Gmpo { clip_low: 0.4, clip_high: 0.4 };
    check(LossConfig::new(gmpo, Mode::SeqMeanTokenMean), -0.178156518, [a, a, a, a, b, b, c, c, 0.0]);
}

#[test]
fn e12_dppo_and_vespo() {
    let g = [
        -0.111111111,
        -0.149984312,
        -0.100537491,
        -0.074480005,
        0.142669491,
        0.0,
        -0.041156568,
        -0.061398384,
        0.0,
    ];
    let dppo = Objective::DppoTv { delta_low: 0.15, delta_high: 0.15, cap: 20.0 };
    check(LossConfig::new(dppo, Mode::TokenMean), 0.431782742, g);
    let (a, b, c) = (-0.128295788, 0.099569497, -0.035438794);
    let vespo = Objective::Vespo { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 };
    check(LossConfig::new(vespo, Mode::TokenMean), 0.482971429, [a, a, a, a, b, b, c, c, c]);
}

#[test]
fn e13_and_e14_kl() {
    let kl = |kind, beta| LossConfig {
        kl: Some(KlPenalty { kind, beta, clamp: true }),
        ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean)
    };
    let g = [
        -0.110688166,
        -0.000984012,
        -0.100537491,
        -0.073674364,
        0.142669491,
        0.001151919,
        -0.041623994,
        -0.061398384,
        0.000805641,
    ];
    check(kl(KlKind::K3, 0.04), -0.356637665, g);
    for (kind, mean) in [(KlKind::K1, 0.055555556), (KlKind::K2, 0.012777778), (KlKind::K3, 0.012187869)] {
        let out = run(kl(kind, 1.0), &Normalizer::default());
        close("kl/ref", metric(&out, "kl/ref"), mean, 1e-8);
    }
    let gradient = |kind, expected: [f64; 9]| {
        let out =
            run_with(kl(kind, 1.0), &Normalizer { tokens: Some(1.0), ..Normalizer::default() }, &[0.0; 9]);
        for (found, expected) in out.grad_logp.iter().zip(expected) {
            close("KL gradient", *found, expected, 1e-8);
        }
    };
    gradient(
        KlKind::K3,
        [0.095162582, -0.221402758, 0.0, 0.181269247, 0.0, 0.259181779, -0.105170918, 0.0, 0.181269247],
    );
    gradient(
        KlKind::K3Is,
        [0.1, -0.269971762, 0.0, 0.134064009, 0.0, 0.211406427, -0.074081822, 0.0, 0.329744254],
    );
}

#[test]
fn e19_scalars() {
    let one = |objective: Objective, a: f64, r: f64| {
        let batch = TokenBatch {
            logp_old: Some(&[-5.0]),
            ..TokenBatch::new(&[0, 1], &[0.0], Advantages::PerSequence(&[0.0]))
        };
        let (logp, adv) = ([-5.0 + r.ln()], [a]);
        let batch = TokenBatch { logp: &logp, advantages: Advantages::PerSequence(&adv), ..batch };
        let loss = LossConfig::new(objective, Mode::TokenSum).validate().unwrap();
        let out = loss.evaluate(&batch, &Normalizer::default()).unwrap();
        (out.loss, -out.grad_logp[0])
    };
    let dual = Objective::PpoClip { clip_low: 0.2, clip_high: 0.2, dual_clip: Some(3.0) };
    assert_eq!(one(dual, -1.0, 4.0), (3.0, 0.0));
    let plain = one(ppo(0.2, 0.2), -1.0, 4.0);
    close("plain", plain.0, 4.0, 1e-12);
    close("plain", plain.1, -4.0, 1e-12);
    let sapo = Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 };
    for (a, r, loss, c) in [
        (1.0, 0.5, -1.510162675, 0.470007424),
        (1.0, 1.5, -2.489837325, 1.410022273),
        (-1.0, 0.5, 1.415938330, -0.467069912),
        (-1.0, 2.0, 2.821999616, -1.536219583),
        (-1.0, 4.0, 3.652985607, -0.630444561),
    ] {
        let found = one(sapo, a, r);
        close("sapo loss", found.0, loss, 1e-8);
        close("sapo coefficient", found.1, c, 1e-8);
    }
}
