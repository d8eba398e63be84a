//! Numbers worked out by hand in f64.

#![allow(missing_docs, clippy::unwrap_used)]

use moe_routing::reference::Layer;
use moe_routing::{
    AuxCounts, AuxForm, AuxPooling, Discrepancy, Dispatch, ExpertCounts, Router, gates, gates_backward,
    load_balance, margins, top_k, z_loss,
};
use ndarray::{Array2, Array3, array};

const LOGITS: [f64; 12] = [1.0, 0.2, 0.9, -0.5, 0.1, 0.3, 0.2, 1.5, -0.4, 0.8, 0.75, 0.0];
const RENORM: Router = Router::SoftmaxTopK { renorm: true };
const PLAIN: Router = Router::SoftmaxTopK { renorm: false };
const REPLAYED: [u32; 6] = [0, 1, 3, 1, 2, 3];
const D_GATES: [f64; 6] = [0.3, -0.2, 0.1, 0.4, -0.5, 0.25];

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < 1e-9, "{got:?} against {want:?}");
    }
}

#[test]
fn m1_m2_natural_choice_and_gates() {
    let ids = top_k(&LOGITS, 4, 2, &RENORM).unwrap();
    assert_eq!(ids, [0, 2, 3, 1, 1, 2]);
    let want = [0.524979187, 0.475020813, 0.768524783, 0.231475217, 0.512497396, 0.487502604];
    close(&gates(&LOGITS, 4, &ids, 2, &RENORM).unwrap(), &want);
    let want = [0.388003469, 0.351080057, 0.549353064, 0.165461963, 0.370130115, 0.352078656];
    close(&gates(&LOGITS, 4, &ids, 2, &PLAIN).unwrap(), &want);
}

#[test]
fn m3_sigmoid_gates_ignore_the_selection_bias() {
    let router = |bias: Vec<f32>, scale| Router::SigmoidTopK { renorm: true, bias, scale };
    let plain = router(vec![], 1.0);
    let ids = top_k(&LOGITS, 4, 2, &plain).unwrap();
    let want = [0.506972595, 0.493027405, 0.587330816, 0.412669184, 0.503942503, 0.496057497];
    close(&gates(&LOGITS, 4, &ids, 2, &plain).unwrap(), &want);
    for (scale, want) in [(1.0, [0.570741522, 0.429258478]), (2.5, [1.426853806, 1.073146194])] {
        let biased = router(vec![0.0, 0.1, -0.1, 0.05], scale);
        let ids = top_k(&LOGITS[..4], 4, 2, &biased).unwrap();
        assert_eq!(ids, [0, 1]);
        close(&gates(&LOGITS[..4], 4, &ids, 2, &biased).unwrap(), &want);
    }
}

#[test]
fn m4_replay_and_its_gradient() {
    let want = [0.689974481, 0.310025519, 0.768524783, 0.231475217, 0.679178699, 0.320821301];
    close(&gates(&LOGITS, 4, &REPLAYED, 2, &RENORM).unwrap(), &want);
    let want = [
        0.106954848,
        -0.106954848,
        0.0,
        0.0,
        0.0,
        0.053368332,
        0.0,
        -0.053368332,
        0.0,
        0.0,
        -0.163421245,
        0.163421245,
    ];
    close(&gates_backward(&LOGITS, 4, &REPLAYED, 2, &RENORM, &D_GATES).unwrap(), &want);
}

#[test]
fn m4b_natural_gradient() {
    let ids = top_k(&LOGITS, 4, 2, &RENORM).unwrap();
    let want = [
        0.124688020,
        0.0,
        -0.124688020,
        0.0,
        0.0,
        0.053368332,
        0.0,
        -0.053368332,
        0.0,
        -0.187382861,
        0.187382861,
        0.0,
    ];
    close(&gates_backward(&LOGITS, 4, &ids, 2, &RENORM, &D_GATES).unwrap(), &want);
    let want = [
        0.098481089,
        -0.008051953,
        -0.086430654,
        -0.003998482,
        -0.016407993,
        0.046144017,
        -0.018133637,
        -0.011602387,
        0.010818722,
        -0.149145635,
        0.122187276,
        0.016139637,
    ];
    close(&gates_backward(&LOGITS, 4, &ids, 2, &PLAIN, &D_GATES).unwrap(), &want);
}

fn balance(logits: &[f64], ids: &[u32], form: AuxForm) -> (f64, Vec<f64>) {
    load_balance(logits, &ExpertCounts::of(ids, 4).unwrap(), 2, &RENORM, form).unwrap()
}

#[test]
fn m5_load_balance() {
    let natural = top_k(&LOGITS, 4, 2, &RENORM).unwrap();
    assert_eq!(ExpertCounts::of(&natural, 4).unwrap().as_slice(), [1, 2, 2, 1]);
    let (switch, gradient) = balance(&LOGITS, AuxCounts::Natural.pick(&natural, &REPLAYED), AuxForm::Switch);
    close(&[switch], &[1.013957370]);
    close(&gradient[..4], &[-0.045303393, 0.018386361, 0.037025585, -0.010108553]);
    close(&[balance(&LOGITS, &natural, AuxForm::Hf).0], &[2.027914739]);
    let replayed = AuxCounts::Replayed.pick(&natural, &REPLAYED);
    assert_eq!(ExpertCounts::of(replayed, 4).unwrap().as_slice(), [1, 2, 1, 2]);
    close(&[balance(&LOGITS, replayed, AuxForm::Switch).0], &[1.002704844]);
}

#[test]
fn m6_pooling_over_layers() {
    let second = [2.0, 0.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0, 1.5, 1.0, 0.0, -1.0];
    let layers = [LOGITS, second];
    let counts = layers.map(|s| ExpertCounts::of(&top_k(&s, 4, 2, &RENORM).unwrap(), 4).unwrap());
    let mean = |pooling: AuxPooling| {
        let counts = pooling.apply(counts.to_vec()).unwrap();
        let loss =
            |(s, c): (&[f64; 12], &ExpertCounts)| load_balance(s, c, 2, &RENORM, AuxForm::Hf).unwrap().0;
        layers.iter().zip(&counts).map(loss).sum::<f64>() / 2.0
    };
    close(&[load_balance(&second, &counts[1], 2, &RENORM, AuxForm::Hf).unwrap().0], &[3.035474469]);
    close(&[mean(AuxPooling::Pooled), mean(AuxPooling::PerLayerMean)], &[2.158430034, 2.531694604]);
}

#[test]
fn m7_z_loss() {
    let (loss, gradient) = z_loss(&LOGITS, 4).unwrap();
    close(&[loss], &[3.804579888]);
    close(&gradient[..4], &[0.503561507, 0.226264770, 0.455641294, 0.112359760]);
}

#[test]
fn m8_discrepancy() {
    let of = |logits: &[f64], ids: &[u32]| {
        Discrepancy::of_replay(&[logits.to_vec()], &[ids.to_vec()], 4, 2, &RENORM).unwrap()
    };
    let rows: Vec<_> = (0..3).map(|t| of(&LOGITS[t * 4..][..4], &REPLAYED[t * 2..][..2])).collect();
    let each = |f: fn(&Discrepancy) -> Option<f64>| rows.iter().map(|r| f(r).unwrap()).collect::<Vec<f64>>();
    close(&each(|d| d.overlap().map(|o| o * 2.0)), &[1.0, 2.0, 1.0]);
    close(&each(Discrepancy::jaccard), &[1.0 / 3.0, 1.0, 1.0 / 3.0]);
    close(&each(Discrepancy::gate_tv), &[0.475020813, 0.0, 0.512497396]);
    close(&margins(&LOGITS, 4, 2, &RENORM).unwrap(), &[0.7, 0.1, 0.75]);

    let mut merged = Discrepancy::default();
    rows.iter().for_each(|row| merged.merge(row));
    let all = of(&LOGITS, &REPLAYED);
    close(&[merged.gate_tv().unwrap()], &[all.gate_tv().unwrap()]);
    let found = [all.overlap(), all.exact_match(), all.jaccard()].map(Option::unwrap);
    close(&found, &[2.0 / 3.0, 1.0 / 3.0, 5.0 / 9.0]);
    for (quantile, margin) in [(0.01, 0.1), (0.5, 0.7), (1.0, 0.75)] {
        assert!((all.margin(quantile).unwrap() / margin - 1.0).abs() < 0.016);
    }
}

#[test]
fn m9_dispatch() {
    let dispatch = Dispatch::new(&REPLAYED, 3, 4, 2).unwrap();
    assert_eq!(dispatch.order(), [0, 1, 3, 4, 2, 5]);
    assert_eq!(dispatch.token_of(), [0, 0, 1, 2, 1, 2]);
    assert_eq!(dispatch.offsets(), [0, 1, 3, 4, 6]);
    assert_eq!(dispatch.inverse(), [0, 1, 4, 2, 3, 5]);
}

fn stacked(experts: [[[f64; 2]; 2]; 4]) -> Array3<f64> {
    Array3::from_shape_vec((4, 2, 2), experts.as_flattened().as_flattened().to_vec()).unwrap()
}

fn tiny_layer() -> (Layer, Array2<f64>) {
    let gate = stacked([
        [[0.2, -0.1], [0.4, 0.3]],
        [[-0.5, 0.2], [0.1, 0.6]],
        [[0.3, 0.3], [-0.2, 0.5]],
        [[0.6, -0.4], [0.2, 0.1]],
    ]);
    let up = stacked([
        [[0.1, 0.5], [-0.3, 0.2]],
        [[0.4, -0.2], [0.3, 0.3]],
        [[-0.1, 0.6], [0.5, -0.4]],
        [[0.2, 0.2], [0.7, -0.1]],
    ]);
    let down = stacked([
        [[0.3, -0.2], [0.5, 0.1]],
        [[0.2, 0.4], [-0.6, 0.3]],
        [[0.1, 0.1], [0.4, -0.5]],
        [[-0.3, 0.2], [0.6, 0.2]],
    ]);
    let gate_up = ndarray::concatenate(ndarray::Axis(1), &[gate.view(), up.view()]).unwrap();
    let router = array![[0.5, 0.2], [-0.3, 0.4], [0.1, -0.6], [0.7, 0.1]];
    (Layer { router, gate_up, down }, array![[1.0, -0.5], [0.3, 0.8]])
}

fn flat(a: &Array2<f64>) -> Vec<f64> {
    a.iter().copied().collect()
}

#[test]
fn m10_a_whole_layer_natural() {
    let (layer, x) = tiny_layer();
    let out = layer.forward(&x, 2, &RENORM, None).unwrap();
    close(&flat(&out.logits), &[0.4, -0.5, 0.4, 0.65, 0.31, 0.23, -0.45, 0.29]);
    // Experts 0 and 2 of the first token tie, and 0 wins.
    assert_eq!(out.ids, [3, 0, 0, 3]);
    assert_eq!(top_k(&[0.4, -0.5, 0.4, 0.65], 4, 2, &RENORM).unwrap(), [3, 0]);
    assert_eq!(top_k(&[2.0f32; 6], 6, 3, &RENORM).unwrap(), [0, 1, 2]);
    close(&out.gates, &[0.562176501, 0.437823499, 0.504999833, 0.495000167]);
    close(&flat(&out.y), &[-0.000357691, 0.018340177, 0.000946778, -0.003615577]);
}

#[test]
fn m10_a_whole_layer_replayed() {
    let (layer, x) = tiny_layer();
    let out = layer.forward(&x, 2, &RENORM, Some(&[3, 2, 1, 0])).unwrap();
    close(&out.gates, &[0.562176501, 0.437823499, 0.480010660, 0.519989340]);
    close(&flat(&out.y), &[-0.009293006, 0.046618574, 0.017963094, 0.014865601]);
    let dy = array![[1.0, -1.0], [0.5, 0.25]];
    let gradients = layer.backward(&x, 2, &RENORM, &out, &dy).unwrap();
    close(&gradients.gates, &[-0.049678163, -0.063915448, 0.028927656, -0.002283962]);
    let want = [
        -0.002337130,
        -0.006232346,
        0.002337130,
        0.006232346,
        -0.003504281,
        0.001752141,
        0.003504281,
        -0.001752141,
    ];
    close(&flat(&gradients.router), &want);
}

#[test]
fn m11_a_near_tie_swaps_a_whole_expert() {
    let near = [5.001, 5.0, 0.0, 6.0];
    // Two parts in ten thousand of one logit: enough to swap the two.
    let moved = [5.001 * (1.0 - 2e-4 - 1e-9), 5.0, 0.0, 6.0];
    assert_eq!(top_k(&near, 4, 2, &RENORM).unwrap(), [3, 0]);
    assert_eq!(top_k(&moved, 4, 2, &RENORM).unwrap(), [3, 1]);
    let p: Vec<f64> = RENORM.probabilities(&near);
    assert!((p[0] / p[1] - 1.001).abs() < 1e-6, "the two probabilities differ by a thousandth");

    // The output of a layer jumps there, and nowhere near: a router that is the identity on two inputs.
    let (mut layer, _) = tiny_layer();
    layer.router = array![[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 1.0]];
    let y = |x0: f64| layer.forward(&array![[x0, 1.0]], 2, &RENORM, None).unwrap().y;
    let distance = |a: f64, b: f64| (y(a) - y(b)).iter().map(|d| d.abs()).sum::<f64>();
    let step = 1e-9;
    assert!(distance(1.0 + step, 1.0 - step) > 1e-2);
    assert!(distance(1.0 + 2.0 * step, 1.0 + step) < 1e-8);
    assert!(distance(1.0 - 2.0 * step, 1.0 - step) < 1e-8);
}
