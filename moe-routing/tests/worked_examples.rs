//! Numbers worked out by hand in f64.

use moe_routing::{Agreement, AuxForm, Dispatch, Router, gates, gates_backward, load_balance, top_k, z_loss};

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
    let biased = router(vec![0.0, 0.1, -0.1, 0.05], 2.5);
    let ids = top_k(&LOGITS[..4], 4, 2, &biased).unwrap();
    assert_eq!(ids, [0, 1]);
    close(&gates(&LOGITS[..4], 4, &ids, 2, &biased).unwrap(), &[1.426853806, 1.073146194]);
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

#[test]
fn m5_load_balance() {
    let (switch, gradient) = load_balance(&LOGITS, 4, &[1, 2, 2, 1], 2, AuxForm::Switch).unwrap();
    close(&[switch], &[1.013957370]);
    close(&gradient[..4], &[-0.045303393, 0.018386361, 0.037025585, -0.010108553]);
    close(&[load_balance(&LOGITS, 4, &[1, 2, 2, 1], 2, AuxForm::Hf).unwrap().0], &[2.027914739]);
    close(&[load_balance(&LOGITS, 4, &[1, 2, 1, 2], 2, AuxForm::Switch).unwrap().0], &[1.002704844]);
}

#[test]
fn m7_z_loss() {
    let (loss, gradient) = z_loss(&LOGITS, 4);
    close(&[loss], &[3.804579888]);
    close(&gradient[..4], &[0.503561507, 0.226264770, 0.455641294, 0.112359760]);
}

#[test]
fn m8_agreement() {
    let natural = top_k(&LOGITS, 4, 2, &RENORM).unwrap();
    let agreement = Agreement::of(&natural, &REPLAYED, 2);
    close(
        &[agreement.overlap().unwrap(), agreement.exact_match().unwrap()],
        &[2.0 / 3.0, 1.0 / 3.0].map(|x| x),
    );
    close(&[agreement.jaccard().unwrap()], &[(1.0 / 3.0 + 1.0 + 1.0 / 3.0) / 3.0]);
}

#[test]
fn m9_dispatch() {
    let dispatch = Dispatch::new(&REPLAYED, 3, 4, 2).unwrap();
    assert_eq!(dispatch.order(), [0, 1, 3, 4, 2, 5]);
    assert_eq!(dispatch.token_of(), [0, 0, 1, 2, 1, 2]);
    assert_eq!(dispatch.offsets(), [0, 1, 3, 4, 6]);
    assert_eq!(dispatch.inverse(), [0, 1, 4, 2, 3, 5]);
}

#[test]
fn m10_ties_go_to_the_lower_id() {
    assert_eq!(top_k(&[0.4, -0.5, 0.4, 0.65], 4, 2, &RENORM).unwrap(), [3, 0]);
    assert_eq!(top_k(&[2.0f32; 6], 6, 3, &RENORM).unwrap(), [0, 1, 2]);
}
