//! Numbers worked out by hand for one small batch; every example runs on the fast path and on the definition.
#![allow(missing_docs, clippy::unwrap_used)]

use ndarray::{Array1, Array2};
use policy_loss::reference::{self, Inputs};
use policy_loss::{
    AdvantageEstimator, Advantages, Base, Control, Correction, KlKind, KlPenalty, Level, LossConfig,
    LossOutput, Mode, Normalizer, Objective, Rejection, SingletonPolicy, TokenBatch, TruncationTarget,
    dynamic_sampling_keep, gae, overlong_penalty, returns_to_go, whiten,
};

const OFFSETS: [usize; 4] = [0, 4, 6, 9];
const LOGP: [f64; 9] = [-0.5, -1.2, -0.3, -2.0, -0.7, -0.6, -1.5, -0.9, -0.4];
const OLD: [f64; 9] = [-0.5, -1.5, -0.2, -1.6, -0.95, -0.25, -1.2, -1.0, -0.9];
const MU: [f64; 9] = [-0.55, -1.48, -0.2, -1.7, -0.92, -0.65, -1.22, -1.7, -0.91];
const REF: [f64; 9] = [-0.6, -1.0, -0.3, -2.2, -0.7, -0.9, -1.4, -0.9, -0.6];
const GROUPS: [u32; 3] = [0, 0, 1];

fn run(config: LossConfig, normalizer: &Normalizer) -> LossOutput<f64> {
    run_with(config, normalizer, &[1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.5, 0.5, 0.5])
}

fn run_with(config: LossConfig, normalizer: &Normalizer, adv: &[f64; 9]) -> LossOutput<f64> {
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
fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

#[track_caller]
fn check(config: LossConfig, loss: f64, gradient: [f64; 9]) -> LossOutput<f64> {
    let out = run(config, &Normalizer::default());
    close("loss", out.loss, loss, 1e-8);
    for (i, (found, expected)) in out.grad_logp.iter().zip(gradient).enumerate() {
        close(&format!("gradient {i}"), *found, expected, 1e-8);
    }
    out
}

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

fn corrected(level: Level, control: Control) -> LossConfig {
    let correction = Correction { base: Base::Mismatch, level, control, batch_normalize: false };
    LossConfig { correction: Some(correction), ..LossConfig::new(ppo(0.2, 0.2), Mode::TokenMean) }
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
    let out = check(LossConfig::new(sapo, Mode::SeqMeanTokenMean), -0.386973004, g);
    close("gate/mean", out.metrics.get("gate/mean").unwrap(), 0.975320423, 1e-8);
    // E15: the coherence gaps of the three sequences, and their mean.
    let gap = (0.015280163 + 0.024335746 + 0.025720075) / 3.0;
    close("gate/coherence_gap", out.metrics.get("gate/coherence_gap").unwrap(), gap, 2e-3);
}

#[test]
fn e9_mini_rl() {
    let g =
        [-0.350423699, 0.0, -0.301612473, -0.246939407, 0.415358910, 0.0, -0.125963957, -0.370923488, 0.0];
    let seq = |objective| LossConfig::new(objective, Mode::SeqMeanTokenSum);
    let out = check(seq(mini_rl(5.0)), 0.991600242, g);
    close("clip/frac", out.metrics.get("clip/frac").unwrap(), 3.0 / 9.0, 1e-12);
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
    let out = check(corrected(Level::Token, Control::Truncate { max: 2.0, min: 0.0 }), -0.391413505, tis);
    close("is/mean", out.metrics.get("is/mean").unwrap(), 1.181018046, 1e-8);
    close("is/ess", out.metrics.get("is/ess").unwrap(), 0.928790265, 1e-8);
    let mut masked = tis;
    masked[7] = 0.0;
    let out = check(corrected(Level::Token, Control::Mask { min: 0.5, max: 2.0 }), -0.268616736, masked);
    close("is/ess", out.metrics.get("is/ess").unwrap(), 0.869470632, 1e-8);
    let out = run(corrected(Level::Token, Control::None {}), &Normalizer::default());
    close("is/ess", out.metrics.get("is/ess").unwrap(), 0.927407615, 1e-8);
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
        close("kl/ref", out.metrics.get("kl/ref").unwrap(), mean, 1e-8);
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
fn e15_metrics() {
    let out = run(corrected(Level::SeqProduct, Control::None {}), &Normalizer::default());
    for (name, expected) in [
        ("mismatch/kl_k1", -0.136666667),
        ("mismatch/kl_k3", 0.045879459),
        ("mismatch/abs_mean", 0.147777778),
        ("mismatch/abs_max", 0.7),
        ("mismatch/extreme_frac", 1.0 / 9.0),
        ("mismatch/chi2_token", 0.507875629),
        ("mismatch/chi2_seq", 1.566275043),
        ("kl/policy_k1", 0.0),
        ("kl/policy_k3", 0.045382243),
        ("is/max", 2.075080608),
        ("is/min", 1.138828383),
    ] {
        close(name, out.metrics.get(name).unwrap(), expected, 1e-8);
    }
    let geo = run(corrected(Level::SeqGeo, Control::None {}), &Normalizer::default());
    close("is/max", geo.metrics.get("is/max").unwrap(), 1.275493718, 1e-8);
    close("is/min", geo.metrics.get("is/min").unwrap(), 1.033033893, 1e-8);
}

#[test]
fn e16_logits() {
    use candle_core::{Device, Tensor, Var};
    let row = |a: [f32; 5], y: u32, t: f64, g: f32, h: f32, stats: [f64; 2], expected: [f64; 5]| {
        let logits = Var::from_slice(&a, (1, 5), &Device::Cpu).unwrap();
        let out = policy_loss::op::log_probs(&logits, &[y], t).unwrap();
        let found = out.to_vec2::<f32>().unwrap();
        close("logp", found[0][0].into(), stats[0], 1e-6);
        close("entropy", found[0][1].into(), stats[1], 1e-6);
        let upstream = Tensor::new(&[[g, h]], &Device::Cpu).unwrap();
        let store = (out * upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let d = store.get(&logits).unwrap().to_vec2::<f32>().unwrap();
        for (found, expected) in d[0].iter().zip(expected) {
            close("dlogits", (*found).into(), expected, 1e-6);
        }
    };
    let a = [2.0, 1.0, 0.0, -1.0, 0.5];
    let d = [0.144313891, -0.198981126, 0.018006829, 0.006344030, 0.030316376];
    row(a, 1, 1.0, -0.25, -0.01, [-1.574437940, 1.206489208], d);
    let d = [0.255791969, -0.299266603, 0.013049406, 0.002930622, 0.027494606];
    row(a, 1, 0.7, -0.25, -0.01, [-1.784962958, 0.928339989], d);
    let d = [-0.024069414, -0.016257267, 0.086747738, -0.043355580, -0.003065476];
    row([0.1, -0.3, 3.0, 0.7, -2.0], 2, 1.0, 0.5, -0.01, [-0.181407121, 0.636462104], d);
}

#[test]
fn e18_advantages() {
    let same = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            close("advantage", *f, *e, 1e-8);
        }
    };
    let of = |e: AdvantageEstimator, r: &[f64], g: &[u32], n: Option<&[usize]>| {
        e.estimate(r, g, n, SingletonPolicy::Zero).unwrap().values
    };
    let std = |eps, ddof| AdvantageEstimator::GroupMeanStd { eps, ddof };
    let (r, one) = ([0.9, 0.1, 0.4, 0.6], [0; 4]);
    same(&of(AdvantageEstimator::GroupMean {}, &r, &one, None), &[0.4, -0.4, -0.1, 0.1]);
    same(&of(std(1e-6, 1), &r, &one, None), &[1.188173522, -1.188173522, -0.297043381, 0.297043381]);
    assert!((of(std(1e-4, 1), &r, &one, None)[3] - 0.296956054).abs() < 1e-8);
    same(
        &of(AdvantageEstimator::Rloo {}, &r, &one, None),
        &[8.0 / 15.0, -8.0 / 15.0, -2.0 / 15.0, 2.0 / 15.0],
    );
    same(&of(AdvantageEstimator::Opo {}, &r, &one, Some(&[4, 2, 3, 1])), &[0.34, -0.46, -0.16, 0.04]);
    let binary = [1.0, 0.0, 0.0, 1.0];
    assert!((of(std(1e-6, 1), &binary, &one, None)[0] - 0.866023904).abs() < 1e-8);
    assert!((of(std(1e-6, 0), &binary, &one, None)[0] - 0.999998).abs() < 1e-8);
    let two = [1.0, 0.0, 0.0, 1.0, 0.2, 0.2, 0.2, 0.6];
    let g = [0, 0, 0, 0, 1, 1, 1, 1];
    let (a, b) = (1.207323133, -0.241464627);
    let found = of(AdvantageEstimator::GroupMeanBatchStd { eps: 1e-4 }, &two, &g, None);
    same(&found, &[a, -a, -a, a, b, b, b, 0.724393880]);
    assert_eq!(of(std(1e-6, 1), &[1000.1; 16], &[0; 16], None), [0.0; 16]);
    assert!(!dynamic_sampling_keep(&[0.7; 16], &[0; 16]).unwrap()[&0]);

    let (v, mask) = ([0.2, 0.3, 0.5, 0.6], [true; 4]);
    let (adv, ret) = gae(&[0.0, 0.0, 0.0, 1.0], &v, &mask, 1.0, 0.95);
    same(&adv, &[0.7232, 0.656, 0.48, 0.4]);
    same(&ret, &[0.9232, 0.956, 0.98, 1.0]);
    let (adv, _) = gae(&[0.0, 0.0, 0.0, 1.0], &v, &[true, false, false, true], 1.0, 0.95);
    same(&[adv[0], adv[3]], &[0.78, 0.4]);
    same(&returns_to_go(&[-0.01, -0.02, 0.0, 0.97], &mask, 0.9), &[0.67913, 0.7657, 0.873, 0.97]);
    let mut white = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.5, 0.5, 0.5];
    whiten(&mut white, &[true; 9]);
    same(&[white[0], white[4], white[6]], &[0.933333306, -1.466666624, -0.266666659]);
    for (n, penalty) in [(16_384, 0.0), (17_408, -0.25), (20_480, -1.0), (20_481, -1.0)] {
        close("overlong", overlong_penalty(n, 20_480, 4_096), penalty, 1e-12);
    }
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
