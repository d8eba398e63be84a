//! Diagnostics: numbers worked out by hand, and what each name means.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/worked.rs"]
mod worked;

use policy_loss::{
    Advantages, Control, KlKind, KlPenalty, Level, LossConfig, Metrics, Mode, Normalizer, Objective, Opsm,
    Rejection, TokenBatch, TruncationTarget,
};
use worked::*;

fn ppo() -> LossConfig {
    LossConfig::new(Objective::PpoClip { clip_low: 0.2, clip_high: 0.2, dual_clip: None }, Mode::TokenMean)
}

fn sapo() -> LossConfig {
    LossConfig::new(Objective::Sapo { tau_pos: 1.0, tau_neg: 1.05 }, Mode::SeqMeanTokenMean)
}

fn plain(config: LossConfig) -> policy_loss::LossOutput<f64> {
    run(config, &Normalizer::default())
}

#[test]
fn e15_mismatch_and_weights() {
    let out = plain(corrected(Level::SeqProduct, Control::None {}));
    measured(
        &out,
        &[
            ("mismatch/kl_k1", -0.136666667),
            ("mismatch/kl_k3", 0.045879459),
            ("mismatch/abs_mean", 0.147777778),
            ("mismatch/abs_max", 0.7),
            ("mismatch/extreme_frac", 1.0 / 9.0),
            ("mismatch/chi2_token", 0.507875629),
            ("mismatch/chi2_seq", 1.566275043),
            ("kl/policy_k1", 0.0),
            ("kl/policy_k3", 0.045382243),
            ("is/min", 1.138828383),
            ("is/max", 2.075080608),
            ("is/mean", (4.0 * 1.138828383 + 2.0 * 1.447734615 + 3.0 * 2.075080608) / 9.0),
        ],
    );
    measured(&plain(LossConfig { extreme_ratio: 1.4, ..ppo() }), &[("mismatch/extreme_frac", 2.0 / 9.0)]);
    let token = |control| plain(corrected(Level::Token, control));
    let truncated = token(Control::Truncate { max: 2.0, min: 0.0 });
    measured(
        &truncated,
        &[("is/mean", 1.181018046), ("is/ess", 0.928790265), ("is/max", 2.0), ("is/oob_frac", 1.0 / 9.0)],
    );
    measured(&token(Control::None {}), &[("is/ess", 0.927407615), ("is/oob_frac", 0.0)]);
    let masked = token(Control::Mask { min: 0.5, max: 2.0 });
    measured(&masked, &[("is/ess", 0.869470632), ("is/min", 0.0), ("is/oob_frac", 1.0 / 9.0)]);
    let geo = plain(corrected(Level::SeqGeo, Control::None {}));
    measured(
        &geo,
        &[
            ("is/min", 1.033033893),
            ("is/max", 1.275493718),
            ("is/mean", (4.0 * 1.033033893 + 2.0 * 1.203218440 + 3.0 * 1.275493718) / 9.0),
        ],
    );
}

#[test]
fn e15_sapo_gates() {
    measured(&plain(sapo()), &[("gate/mean", 0.975320423)]);
    // Variance, gap and its bound by sequence.
    for (i, a, [var, gap, bound]) in [
        (0, 1.0, [0.0625, 0.015280163, 0.015625]),
        (1, -1.0, [0.09, 0.024335746, 0.02480625]),
        (2, 0.5, [0.106666667, 0.025720075, 0.026666667]),
    ] {
        let at = OFFSETS[i]..OFFSETS[i + 1];
        let (offsets, adv) = ([0, at.len()], [a]);
        let view = TokenBatch {
            logp_old: Some(&OLD[at.clone()]),
            ..TokenBatch::new(&offsets, &LOGP[at], Advantages::PerSequence(&adv))
        };
        let out = sapo().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
        measured(&out, &[("gate/var", var), ("gate/coherence_gap", gap)]);
        let tau: f64 = if a > 0.0 { 1.0 } else { 1.05 };
        close("bound", tau * tau / 4.0 * metric(&out, "gate/var"), bound, 1e-8);
    }
    let out = plain(sapo());
    measured(&out, &[("gate/var", (0.0625 + 0.09 + 0.106666667) / 3.0)]);
    // f'(r) = sech²(τ(r − 1)/2), by the advantage's sign.
    let gate = |tau: f64, delta: f64| (tau * (delta.exp() - 1.0) / 2.0).cosh().powi(-2);
    let positive: Vec<f64> = [0.0, 0.3, -0.1, -0.4, -0.3, 0.1, 0.5].map(|d| gate(1.0, d)).to_vec();
    let negative = [gate(1.05, 0.25), gate(1.05, -0.35)];
    measured(
        &out,
        &[
            ("gate/mean_pos", positive.iter().sum::<f64>() / 7.0),
            ("gate/mean_neg", negative.iter().sum::<f64>() / 2.0),
            ("gate/min", gate(1.0, 0.5)),
        ],
    );
}

#[test]
fn ratios() {
    let s = [0.951229425, 0.951229425, 1.105170918];
    measured(
        &plain(ppo()),
        &[
            (
                "ratio/mean",
                (1.0 + 1.349858808
                    + 0.904837418
                    + 0.670320046
                    + 1.284025417
                    + 0.704688090
                    + 0.740818221
                    + 1.105170918
                    + 1.648721271)
                    / 9.0,
            ),
            ("ratio/min", 0.670320046),
            ("ratio/max", 1.648721271),
            ("ratio/log_min", -0.4),
            ("ratio/log_max", 0.5),
            ("ratio/saturated_frac", 0.0),
            ("seq_ratio/mean", s.iter().sum::<f64>() / 3.0),
            ("seq_ratio/min", s[0]),
            ("seq_ratio/max", s[2]),
            ("len/mean", 3.0),
            ("len/max", 4.0),
            ("tokens", 9.0),
            ("seqs", 3.0),
        ],
    );
    // Quantiles are exact to the width of a bin.
    let p99 = metric(&plain(ppo()), "ratio/p99");
    assert!((p99 / 1.648721271 - 1.0).abs() < 0.016, "{p99}");
    let d99 = metric(&plain(ppo()), "mismatch/abs_p99");
    assert!((d99 / 0.7 - 1.0).abs() < 0.016, "{d99}");
}

#[test]
fn clips() {
    // E2: (0,1) and (2,2) above with A > 0, (1,1) below with A < 0.
    let shares = [("clip/high_frac", 2.0 / 9.0), ("clip/low_frac", 1.0 / 9.0), ("clip/frac", 3.0 / 9.0)];
    measured(&plain(ppo()), &shares);
    let mini = LossConfig::new(
        Objective::MiniRl {
            clip_low: 0.2,
            clip_high: 0.27,
            cap: 1.4,
            truncation_target: TruncationTarget::Full,
            no_clip: false,
            no_train_infer_is: false,
        },
        Mode::SeqMeanTokenSum,
    );
    // Its own weight min(π_θ/μ, cap), of clipped tokens too; 1.4 = cap is passed by (2,1) and (2,2).
    let w = [0.05f64, 0.28, -0.1, -0.3, 0.22, 0.05, -0.28, 0.8, 0.51].map(|x| x.exp().min(1.4));
    let (sum, squares) = (w.iter().sum::<f64>(), w.iter().map(|w| w * w).sum::<f64>());
    let out = plain(mini);
    measured(&out, &shares);
    measured(
        &out,
        &[
            ("is/mean", sum / 9.0),
            ("is/min", (-0.3f64).exp()),
            ("is/max", 1.4),
            ("is/oob_frac", 2.0 / 9.0),
            ("is/ess", sum * sum / (9.0 * squares)),
        ],
    );
    let cispo = LossConfig::new(Objective::Cispo { ratio_min: 0.7, ratio_max: 1.28 }, Mode::TokenMean);
    measured(&plain(cispo), &[("cispo/high_frac", 3.0 / 9.0), ("cispo/low_frac", 1.0 / 9.0)]);
    let gspo = LossConfig::new(Objective::Gspo { clip_low: 0.2, clip_high: 0.1 }, Mode::SeqMeanTokenMean);
    measured(&plain(gspo), &[("clip/seq_frac", 1.0 / 3.0), ("clip/high_frac", 3.0 / 9.0)]);
    // A < 0 in sequence 1, with r = 1.284 and 0.705.
    let dual = Objective::PpoClip { clip_low: 0.2, clip_high: 0.2, dual_clip: Some(1.25) };
    measured(&plain(LossConfig::new(dual, Mode::TokenMean)), &[("clip/dual_frac", 1.0 / 9.0)]);
}

#[test]
fn perplexities() {
    let mean = |values: &[f64], i: usize| {
        let row = &values[OFFSETS[i]..OFFSETS[i + 1]];
        row.iter().sum::<f64>() / row.len() as f64
    };
    let over = |f: &dyn Fn(usize) -> f64| (0..3).map(f).sum::<f64>() / 3.0;
    measured(
        &plain(ppo()),
        &[
            ("mismatch/ppl_train", over(&|i| (-mean(&OLD, i)).exp())),
            ("mismatch/ppl_rollout", over(&|i| (-mean(&MU, i)).exp())),
            ("mismatch/log_ppl_diff", over(&|i| mean(&MU, i) - mean(&OLD, i))),
        ],
    );
}

#[test]
fn rejections() {
    let kl = Some(KlPenalty { kind: KlKind::K2, beta: 0.0, clamp: true });
    // e^{mean d}: 1.033, 1.203, 1.275, so sequence 2 goes.
    let whole = LossConfig { rejection: vec![Rejection::SeqGeoRatio { lo: 0.9, hi: 1.25 }], kl, ..ppo() };
    // The mean of k is over the structural mask: rejection does not change it (E14).
    measured(
        &plain(whole),
        &[("reject/token_frac", 3.0 / 9.0), ("reject/seq_frac", 1.0 / 3.0), ("kl/ref", 0.012777778)],
    );
    let token = LossConfig { rejection: vec![Rejection::TokenRatio { lo: 0.5, hi: 1.45 }], ..ppo() };
    measured(&plain(token), &[("reject/token_frac", 2.0 / 9.0), ("reject/seq_frac", 0.0)]);
    // Sequence 1 has A < 0 and drifts by −(Δ + d) = −0.135 on average.
    let opsm = |delta| LossConfig { opsm: Some(Opsm { delta, keeps_denominator: true }), ..ppo() };
    measured(&plain(opsm(-0.136)), &[("reject/opsm_frac", 1.0 / 3.0)]);
    measured(&plain(opsm(-0.134)), &[("reject/opsm_frac", 0.0)]);
}

#[test]
fn advantages_and_groups() {
    let adv = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0, 0.0];
    let out = run_with(ppo(), &Normalizer::default(), &adv);
    let mean = 2.0 / 9.0;
    measured(
        &out,
        &[
            ("adv/mean", mean),
            ("adv/std", (6.0f64 / 9.0 - mean * mean).sqrt()),
            ("adv/zero_frac", 3.0 / 9.0),
            // Of the groups {0, 1} and {2}.
            ("adv/degenerate_groups", 1.0),
        ],
    );
    // A group split over parts is degenerate when all its parts are.
    let part = |rows: std::ops::Range<usize>, adv: &[f64]| {
        let at = OFFSETS[rows.start]..OFFSETS[rows.end];
        let offsets: Vec<usize> = OFFSETS[rows.start..=rows.end].iter().map(|o| o - at.start).collect();
        let view = TokenBatch {
            logp_old: Some(&OLD[at.clone()]),
            groups: Some(&[7, 7][..rows.len()]),
            ..TokenBatch::new(&offsets, &LOGP[at], Advantages::PerSequence(adv))
        };
        ppo().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap().metrics
    };
    let merged = |parts: [Metrics; 2]| {
        let mut all = Metrics::default();
        parts.iter().for_each(|p| all.merge(p));
        all.get("adv/degenerate_groups")
    };
    assert_eq!(merged([part(0..1, &[0.0]), part(1..2, &[0.0])]), Some(1.0));
    assert_eq!(merged([part(0..1, &[0.0]), part(1..2, &[1.0])]), Some(0.0));
}

#[test]
fn entropies() {
    let entropy = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
    let view = TokenBatch {
        logp_old: Some(&OLD),
        entropy: Some(&entropy),
        ..TokenBatch::new(&OFFSETS, &LOGP, Advantages::PerSequence(&[1.0, -1.0, 0.5]))
    };
    let out = ppo().validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap();
    close("entropy/mean", metric(&out, "entropy/mean"), 0.5, 1e-12);
    let p10 = metric(&out, "entropy/p10");
    assert!((p10 / 0.1 - 1.0).abs() < 0.016, "{p10}");
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let readme = include_str!("../README.md");
    let section = readme.split("## Metrics").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut listed: Vec<&str> =
        section.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    listed.sort_unstable();
    let entropy = [1.0; 9];
    let mut found = Metrics::default();
    let kl = Some(KlPenalty { kind: KlKind::K3, beta: 0.1, clamp: true });
    let gspo = LossConfig::new(Objective::Gspo { clip_low: 0.2, clip_high: 0.2 }, Mode::SeqMeanTokenMean);
    let cispo = LossConfig::new(Objective::Cispo { ratio_min: 0.0, ratio_max: 5.0 }, Mode::TokenMean);
    for config in [LossConfig { kl, ..corrected(Level::Token, Control::None {}) }, sapo(), gspo, cispo] {
        let view = TokenBatch {
            logp_old: Some(&OLD),
            logp_mu: Some(&MU),
            logp_ref: Some(&REF),
            groups: Some(&GROUPS),
            entropy: Some(&entropy),
            ..TokenBatch::new(&OFFSETS, &LOGP, Advantages::PerSequence(&[1.0, -1.0, 0.5]))
        };
        found.merge(&config.validate().unwrap().evaluate(&view, &Normalizer::default()).unwrap().metrics);
    }
    assert_eq!(found.finish().into_keys().collect::<Vec<_>>(), listed);
}
