//! A loss in one pass with the head against the same loss of log-probabilities.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use candle_core::Tensor;
use common::{random_model, tiny};
use policy_loss::op::loss_tensor;
use policy_loss::{
    Advantages, EntropyAggregation, EntropyBonus, LinearHead, LossConfig, Normalizer, TokenBatch,
};
use proptest::prelude::*;
use qwen3::ops::LogitMask;
use qwen3::{Architecture, Batch, ForwardOptions, MatmulPrecision};

/// Takes out every third token but the target.
struct Thirds(Vec<u32>);

impl LogitMask for Thirds {
    fn ban(&self, row: usize, first: usize, logits: &mut [f32]) {
        for (token, z) in (first..).zip(logits) {
            if (token + row).is_multiple_of(3) && token != self.0[row] as usize {
                *z = f32::NEG_INFINITY;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_loss_of_log_probabilities(
        lengths in prop::collection::vec(1usize..9, 1..6),
        moe in any::<bool>(),
        masked in any::<bool>(),
        bf16 in any::<bool>(),
        temperature in (0.5f32..1.5).prop_map(f64::from),
        // Powers of two, so that in bf16 it is the same whether gradients of logits are scaled before they are rounded or after.
        scale in prop_oneof![Just(1.0f64), Just(0.25), Just(2.0)],
        seed in 0u64..1000,
    ) {
        let architecture = if moe { Architecture::Qwen3Moe } else { Architecture::Qwen3 };
        let mut model = random_model(tiny(architecture), seed);
        model.set_matmul_precision(if bf16 { MatmulPrecision::Bf16 } else { MatmulPrecision::F32 });
        let vocabulary = model.config().vocab_size as u32;
        let sequences: Vec<Vec<u32>> = lengths
            .iter()
            .enumerate()
            .map(|(i, n)| (0..*n as u32).map(|t| (7 * i as u32 + 3 * t + seed as u32) % vocabulary).collect())
            .collect();
        let batch = Batch::pack(sequences.iter().map(Vec::as_slice));
        let targets: Vec<u32> = batch.tokens.iter().map(|t| (t + 5) % vocabulary).collect();
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |sum, n| { *sum += n; Some(*sum) }));
        let advantages: Vec<f32> = (0..lengths.len()).map(|i| 0.8 - 0.5 * i as f32).collect();
        let old = vec![-2.4f32; targets.len()];
        let config = LossConfig {
            entropy: Some(EntropyBonus { coef: 0.02, aggregation: EntropyAggregation::SameAsPolicy }),
            ..LossConfig::preset("gspo", 8).unwrap().0
        };
        let loss = config.validate().unwrap();
        let counts = Normalizer {
            tokens: Some(targets.len() as f64),
            seqs: Some(lengths.len() as f64),
            ..Normalizer::default()
        };
        let tokens = TokenBatch {
            logp_old: Some(&old),
            logp_mu: Some(&old),
            ..TokenBatch::new(&offsets, &[], Advantages::PerSequence(&advantages))
        };
        let mask = masked.then(|| Arc::new(Thirds(targets.clone())));
        let scaled = |loss: &Tensor| model.gradients(&loss.affine(scale, 0.3).unwrap()).unwrap();

        let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
        let banned = mask.as_deref().map(|m| m as &dyn LogitMask);
        let (scalar, found) = model
            .head_loss(&hidden.states, |head, products, grad| {
                let head = LinearHead { targets: &targets, temperature, banned, ..head };
                loss.evaluate_linear(&head, &tokens, &counts, &products, grad).map_err(candle_core::Error::wrap)
            })
            .unwrap();
        let one_pass = scaled(&scalar);

        let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
        let mask = mask.map(|m| m as Arc<dyn LogitMask>);
        let scores = model.masked_log_probs(&hidden.states, &targets, temperature, mask).unwrap();
        let [logp, entropy] = [&scores.logp, &scores.entropy].map(|t| t.to_vec1::<f32>().unwrap());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&found.logp), bits(&logp));
        prop_assert_eq!(bits(&found.entropy), bits(&entropy));
        let tokens = TokenBatch { logp: &logp, entropy: Some(&entropy), ..tokens };
        let want = loss.evaluate(&tokens, &counts).unwrap();
        prop_assert!((found.loss.loss - want.loss).abs() < 1e-9);
        let two_passes = scaled(&loss_tensor(&want, &scores.logp, Some(&scores.entropy)).unwrap());
        for (found, want) in one_pass.iter().zip(&two_passes) {
            let top = want.iter().fold(1e-3f32, |top, g| top.max(g.abs()));
            for (a, b) in found.iter().zip(want) {
                prop_assert!((a - b).abs() <= 1e-4 * top, "{a} and {b}, the largest is {top}");
            }
        }
    }
}

#[test]
fn a_second_backward_is_an_error() {
    let model = random_model(tiny(Architecture::Qwen3), 1);
    let hidden = model.forward(&Batch::pack([[3u32, 1, 4].as_slice()]), &ForwardOptions::default()).unwrap();
    let loss = LossConfig::cross_entropy().validate().unwrap();
    let (scalar, _) = model
        .head_loss(&hidden.states, |head, products, grad| {
            let head = LinearHead { targets: &[1, 4, 1], ..head };
            let batch = TokenBatch::new(&[0, 3], &[], Advantages::PerSequence(&[1.0]));
            let counts = Normalizer::default();
            loss.evaluate_linear(&head, &batch, &counts, &products, grad).map_err(candle_core::Error::wrap)
        })
        .unwrap();
    model.gradients(&scalar).unwrap();
    assert!(model.gradients(&scalar).unwrap_err().to_string().contains("a second backward"));
}

#[test]
fn states_of_another_width_are_refused() {
    let model = random_model(tiny(Architecture::Qwen3), 1);
    let size = model.config().hidden_size;
    // A divisor, with which the head's weight would still be a matrix.
    let states = Tensor::zeros((1, size / 2), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let loss = LossConfig::cross_entropy().validate().unwrap();
    let found = model.head_loss(&states, |head, products, grad| {
        let head = LinearHead { targets: &[1], ..head };
        let batch = TokenBatch::new(&[0, 1], &[], Advantages::PerSequence(&[1.0]));
        loss.evaluate_linear(&head, &batch, &Normalizer::default(), &products, grad)
            .map_err(candle_core::Error::wrap)
    });
    assert!(found.unwrap_err().to_string().contains(&format!("states [1, {}]", size / 2)));
}
