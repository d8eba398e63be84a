//! Numbers that were computed by hand or by other programs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{close, noise, of_families, plan};
use lcg::speculative::{acceptance, residual};
use lcg::{
    Decision, FamilySet, LabelConfig, LabelRule, Labeller, MlpGate, NormScale, PassReason, RowMask, Rules,
    Sampling, Support, Truncation, Widen, draw, reference, sample,
};

const LOW_RES: FamilySet = FamilySet(8);
const CJ_LATIN: FamilySet = FamilySet(3);
const EXACT: f64 = 1e-10;

/// Of all three scales: labels, the support in order, and probabilities of what it lists.
#[test]
fn norm_adjustment() {
    let families = [1, 1, 0, 3, 3, 2, 1, 3];
    let table = of_families(&families);
    let (h, cos) = (14.0, [0.46, 0.42, 0.56, 0.80, 0.78, 0.45, 0.10, 0.70]);
    let n = [1.50, 1.40, 1.64, 1.05, 1.09, 1.00, 1.60, 0.98];
    let z: Vec<f64> = (0..8).map(|v| h * cos[v] * n[v]).collect();
    close(&z, &[9.66, 8.232, 12.8576, 11.76, 11.9028, 6.3, 2.24, 9.604], EXACT);
    close(
        &reference::softmax(&z),
        &[
            0.022583445095,
            0.005415239562,
            0.552700973350,
            0.184420249854,
            0.212728588315,
            0.000784441813,
            0.000013530852,
            0.021353531160,
        ],
        1e-12,
    );
    let cases = [
        (NormScale::Unadjusted, 0b1011, vec![2, 4, 3, 0], vec![0.552700973350, 0.212728588315]),
        (NormScale::None, 0b1000, vec![3, 4, 7], vec![0.485890620192, 0.367228230867, 0.119819151747]),
        (NormScale::Mean, 0b1000, vec![3, 4, 7], vec![0.531072219440, 0.370850129905, 0.088181573017]),
    ];
    for (scale, label, tokens, probabilities) in cases {
        let adjusted = reference::adjusted(&z, &n, &[true; 8], &[true; 8], scale);
        let kept = Truncation::new(20, 0.95).unwrap().weighted(&adjusted);
        assert_eq!(kept.iter().map(|k| k.0).collect::<Vec<u32>>(), tokens, "{scale:?}");
        let found: Vec<f64> = kept.iter().take(probabilities.len()).map(|k| k.1).collect();
        close(&found, &probabilities, 1e-11);
        if scale == NormScale::None {
            close(&[reference::softmax(&adjusted)[2]], &[0.016877536511], 1e-11);
        }
        let sets = families.map(FamilySet::one);
        let of = |rule| reference::label(&adjusted, &sets, 20, 0.95, rule);
        assert_eq!(of(LabelRule::Presence), FamilySet(label), "{scale:?}");
        let config = LabelConfig { norm_scale: scale, ..LabelConfig::paper() };
        let labeller = Labeller::new(&table, &n.map(|n| n as f32), config).unwrap();
        let logits: Vec<f32> = z.iter().map(|z| *z as f32).collect();
        assert_eq!(labeller.label(0, &logits).unwrap(), FamilySet(label), "{scale:?}");
    }
    let mean = reference::adjusted(&z, &n, &[true; 8], &[true; 8], NormScale::Mean);
    close(&mean, &[8.2593, 7.5411, 10.0548, 14.364, 14.00490, 8.07975, 1.7955, 12.5685], EXACT);
}

#[test]
fn gate_and_loss() {
    let w1 = [0.5, -0.25, 1.0, 1.0, 0.5, -1.0, -0.5, -1.0, 0.25, 0.2, 0.1, 0.3];
    let w2 = [0.3, -1.0, -0.6, 0.2, -0.8, 0.4, 0.1, -1.5, 1.0, 0.0, 0.5, 0.25, 0.2, -0.3, 0.9, 0.4];
    let h = [1.0, -2.0, 0.5];
    let g = reference::gate(&w1, &w2, &h);
    close(&g, &[-0.495, -1.2625, 2.35, 1.8225], EXACT);
    let narrow = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let gate = MlpGate::new(3, 4, 4, narrow(&w1), narrow(&w2)).unwrap();
    let fast = gate.logits(&narrow(&h)).unwrap();
    close(&fast.iter().map(|g| f64::from(*g)).collect::<Vec<_>>(), &g, 1e-6);
    assert_eq!(gate.allowed(&fast), Some(FamilySet(0b1100)), "symbols and low_res");
    let (loss, slope) = reference::bce(&g, LOW_RES, &[1.0; 4]);
    close(&[loss, 4.0 * loss], &[0.829008624612, 3.316034498450], 1e-11);
    close(&slope, &[0.094679101202, 0.055135957840, 0.228233556890, -0.034783540778], 1e-11);
}

/// A row of these probabilities.
fn logs(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

fn tokens(kept: &[bool]) -> Vec<u32> {
    (0..kept.len() as u32).filter(|v| kept[*v as usize]).collect()
}

#[test]
fn an_intervention() {
    let table = of_families(&[1, 0, 3, 3, 2, 1, 0, 3, 2, 1]);
    let p = [0.46, 0.30, 0.09, 0.06, 0.035, 0.025, 0.015, 0.008, 0.005, 0.002];
    let x: Vec<f64> = p.iter().map(|p: &f64| p.ln()).collect();
    let user = reference::support(&x, 20, 0.8);
    assert_eq!(tokens(&user), [0, 1, 2]);
    assert_eq!(tokens(&reference::support(&x, 5, 0.999)), [0, 1, 2, 3, 4]);
    assert_eq!(tokens(&reference::support(&x, 20, 0.95)), [0, 1, 2, 3, 4, 5]);
    let sigmoid = [0.08f64, 0.21, 0.35, 0.97];
    let gate = MlpGate::random(1, 1, 4, 0).unwrap();
    let predicted = gate.allowed(&sigmoid.map(|s| (s / (1.0 - s)).ln() as f32)).unwrap();
    assert_eq!(predicted, LOW_RES);
    let plan = plan(&table, &Rules::paper(), predicted, LOW_RES);
    assert_eq!(plan.denied, CJ_LATIN);
    let (view, logits) = (table.view(Default::default()), logs(&p));
    let sampling = Sampling { top_k: 20, top_p: 0.8, ..Sampling::default() };
    for (widen, left) in [(Widen::Always, vec![2, 3, 4]), (Widen::IfEmpty, vec![2])] {
        let kept = reference::decide(&x, &user, &view, predicted, CJ_LATIN, widen).unwrap();
        assert_eq!(tokens(&kept), left, "{widen:?}");
        let mut drawn = std::collections::BTreeMap::new();
        for seed in 0..200 {
            let step = sample(0, &logits, &sampling, widen, &plan, &view, &noise(seed)).unwrap();
            assert!(matches!(step.decision, Decision::Intervene { denied: CJ_LATIN, .. }));
            assert!((f64::from(step.record.denied_mass) - 0.894117647059).abs() < 1e-6);
            drawn.insert(step.token, step.record.logprob);
        }
        assert_eq!(drawn.keys().copied().collect::<Vec<_>>(), left, "{widen:?}");
        let found: Vec<f64> = drawn.values().map(|l| f64::from(*l).exp()).collect();
        let expected = [0.486486486486, 0.324324324324, 0.189189189189];
        close(&found, if left.len() == 3 { &expected } else { &[1.0] }, 1e-6);
    }
}

/// The case in which the authors' code leaves no token.
#[test]
fn the_union_leaves_survivors() {
    let table = of_families(&[1, 3, 3, 2, 1, 0]);
    let p = [0.96, 0.02, 0.009, 0.006, 0.003, 0.002];
    let x: Vec<f64> = p.iter().map(|p: &f64| p.ln()).collect();
    assert_eq!(tokens(&reference::support(&x, 20, 0.95)), [0]);
    assert_eq!(tokens(&reference::support(&x, 5, 0.999)), [0, 1, 2, 3, 4]);
    let plan = plan(&table, &Rules::paper(), LOW_RES, LOW_RES);
    let view = table.view(Default::default());
    let user = reference::support(&x, 0, 0.8);
    assert_eq!(tokens(&user), [0]);
    for widen in [Widen::Always, Widen::IfEmpty] {
        let kept = reference::decide(&x, &user, &view, LOW_RES, plan.denied, widen).unwrap();
        assert_eq!(tokens(&kept), [1, 2, 3]);
        let expected = [0.571428571429, 0.257142857143, 0.171428571429];
        for seed in 0..60 {
            let step =
                draw(0, &logs(&p), 1.0, Support::Tokens(&[0]), widen, &plan, &view, &noise(seed)).unwrap();
            let at = step.token as usize;
            assert!((1..4).contains(&at));
            assert!((f64::from(step.record.logprob).exp() - expected[at - 1]).abs() < 1e-6);
            assert!(step.record.flipped && step.record.denied_mass == 1.0);
        }
    }
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let step = sample(0, &logs(&p), &greedy, Widen::Always, &plan, &view, &noise(0)).unwrap();
    assert_eq!((step.token, step.record.logprob), (1, 0.0));
}

#[test]
fn ratios() {
    let table = of_families(&[3, 1, 3, 1, 3]);
    let mask = RowMask { view: table.view(Default::default()), denied: FamilySet(2), kept: None };
    let allowed = [true, false, true, false, true];
    let (z, new) = ([2.0, 0.5, 1.0, -1.0, 0.0], [2.1, 0.3, 1.2, -1.1, -0.1]);
    let narrow = |z: &[f64]| z.iter().map(|z| *z as f32).collect::<Vec<f32>>();
    let (before, _) = reference::masked_logprob(&z, &allowed, 2, 1.0);
    let (after, gradient) = reference::masked_logprob(&new, &allowed, 2, 1.0);
    let full = |z: &[f64]| reference::softmax(z)[2].ln();
    close(&[before, full(&z), after], &[-1.407605964444, -1.574437939628, -1.316980430293], 1e-11);
    close(&[(full(&z) - before).exp()], &[0.846341805817], 1e-11);
    close(&[(after - before).exp(), (full(&new) - before).exp()], &[1.094858941203, 0.963952947141], 1e-11);
    let slopes = [-0.659033816917, 0.0, 0.732056845299, 0.0, -0.073023028382];
    close(&gradient, &slopes, 1e-11);
    let (loss, slope) = reference::leak(&new, &allowed, 1.0);
    close(&[loss], &[0.127338329734], 1e-11);
    let leak = [-0.078796887597, 0.095912519322, -0.032036423779, 0.023651736069, -0.008730944015];
    close(&slope, &leak, 1e-11);

    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let found = mask.logprob(0, &narrow(&new), 2, 1.0).unwrap();
    close(&[f64::from(found), f64::from(mask.leak(&narrow(&new), 1.0).unwrap())], &[after, loss], 1e-6);
    let mut d = vec![0.0; 5];
    mask.add_gradient(0, &narrow(&new), 2, 1.0, 1.0, &mut d).unwrap();
    close(&wide(&d), &slopes, 1e-6);
    assert_eq!((d[1], d[3]), (0.0, 0.0));
    let mut d = vec![0.0; 5];
    mask.add_leak_gradient(&narrow(&new), 1.0, 1.0, &mut d).unwrap();
    close(&wide(&d), &leak, 1e-6);
}

#[test]
fn a_contradicted_gate_does_nothing() {
    let table = of_families(&[1, 1, 0, 3]);
    let logits = logs(&[0.6, 0.3, 0.1 - 1e-9, 1e-9]);
    let plan = plan(&table, &Rules::paper(), LOW_RES, LOW_RES);
    let view = table.view(Default::default());
    let step = sample(0, &logits, &Sampling::default(), Widen::Always, &plan, &view, &noise(3)).unwrap();
    assert_eq!(step.decision, Decision::Pass(PassReason::Contradicted));
    assert!(!step.record.intervened && step.record.denied.is_empty());
}

#[test]
fn speculation() {
    let (draft, target) = ([0.5, 0.3, 0.2], [0.6, 0.0, 0.4]);
    let accepted: Vec<f64> = (0..3).map(|v| acceptance(target[v], draft[v])).collect();
    close(&accepted, &[1.0, 0.0, 1.0], 0.0);
    let rest = residual(&target, &draft).unwrap();
    close(&rest, &[1.0 / 3.0, 0.0, 2.0 / 3.0], 1e-15);
    let rejected: f64 = (0..3).map(|v| draft[v] * (1.0 - accepted[v])).sum();
    let output: Vec<f64> = (0..3).map(|v| draft[v] * accepted[v] + rejected * rest[v]).collect();
    close(&output, &target, 1e-15);
    assert_eq!(residual(&target, &target).unwrap(), target);
    assert!(residual(&target, &draft[..2]).unwrap_err().to_string().contains("draft has 2"));
}

/// A hundred thousand verified drafts of a draft model without a gate: the gated distribution, and no denied token.
#[test]
fn drafted_tokens_follow_the_gated_distribution() {
    let table = of_families(&[1, 3, 0, 3, 2, 1, 3, 0, 3, 2, 3, 1, 0, 3, 2, 3]);
    let view = table.view(Default::default());
    let x: Vec<f64> = (0..16).map(|v| f64::from(v * 5 % 16) * 0.2).collect();
    let q = reference::softmax(&(0..16).map(|v| f64::from(v * 3 % 16) * 0.2).collect::<Vec<_>>());
    let kept = reference::decide(&x, &[true; 16], &view, LOW_RES, CJ_LATIN, Widen::Always).unwrap();
    let gated: Vec<f64> = (0..16).map(|v| if kept[v] { x[v] } else { f64::NEG_INFINITY }).collect();
    let (p, rest) = (reference::softmax(&gated), residual(&reference::softmax(&gated), &q).unwrap());
    let pick = |p: &[f64], bits: u32| {
        let mut left = f64::from(bits) / 2f64.powi(32) * p.iter().sum::<f64>();
        p.iter()
            .position(|p| {
                left -= p;
                left < 0.0
            })
            .unwrap()
    };
    let mut counts = [0u32; 16];
    for i in 0..100_000 {
        let [a, b, c, _] = noise(11).bits(i);
        let drafted = pick(&q, a);
        let accepted = f64::from(b) / 2f64.powi(32) < acceptance(p[drafted], q[drafted]);
        counts[if accepted { drafted } else { pick(&rest, c) }] += 1;
    }
    assert!((0..16).all(|v| kept[v] || counts[v] == 0));
    let square = |v: usize| (f64::from(counts[v]) - 1e5 * p[v]).powi(2) / (1e5 * p[v]);
    let chi2: f64 = (0..16).filter(|v| kept[*v]).map(square).sum();
    // 10 tokens are left: 9 degrees of freedom, p = 1e-4.
    assert_eq!(kept.iter().filter(|k| **k).count(), 10);
    assert!(chi2 < 33.7, "{chi2}");
}
