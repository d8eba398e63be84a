//! Labels and training: section 6 and 7.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{Device, Tensor, Var};
use common::{close, of_families};
use lcg::train::{Positions, TrainConfig, agreement, bce_loss, train};
use lcg::{FamilySet, LabelConfig, LabelRule, Labeller, MlpGate, NormScale, reference, row_norms};
use proptest::prelude::*;

/// Numbers in `(−1, 1)` by a seed.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let noise = lcg::Noise { seed, sequence: 9, position: 0 };
    (0..count as u32).map(|i| noise.bits(i)[0] as f32 / 2f32.powi(31) - 1.0).collect()
}

/// A model's end: hidden states `[rows, d]`, an output matrix `[V, d]` of uneven norms, families of its tokens.
struct Head {
    hidden: Vec<f32>,
    embedding: Vec<f32>,
    families: Vec<usize>,
    d: usize,
}

fn head(rows: usize, vocabulary: usize, d: usize, seed: u64) -> Head {
    let mut embedding = noise(vocabulary * d, seed + 1);
    for (v, row) in embedding.chunks_mut(d).enumerate() {
        row.iter_mut().for_each(|e| *e *= 0.5 + (v % 5) as f32);
    }
    let families = (0..vocabulary).map(|v| v * 7 % 4).collect();
    Head { hidden: noise(rows * d, seed).iter().map(|h| 3.0 * h).collect(), embedding, families, d }
}

impl Head {
    fn logits(&self) -> Vec<Vec<f32>> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let row = |h: &[f32]| self.embedding.chunks(self.d).map(|e| dot(h, e)).collect();
        self.hidden.chunks(self.d).map(row).collect()
    }

    fn labels(&self, config: LabelConfig) -> Vec<FamilySet> {
        let table = of_families(&self.families);
        let norms = row_norms(&self.embedding, self.d).unwrap();
        let labeller = Labeller::new(&table, &norms, config).unwrap();
        self.logits().iter().enumerate().map(|(r, z)| labeller.label(r, z).unwrap()).collect()
    }

    fn scaled(&self, c: f32) -> Self {
        Self {
            hidden: self.hidden.iter().map(|h| h / c).collect(),
            embedding: self.embedding.iter().map(|e| e * c).collect(),
            families: self.families.clone(),
            d: self.d,
        }
    }
}

const RULES: [LabelRule; 2] = [LabelRule::Presence, LabelRule::Mass(0.05)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Labels are those of the definition, and never empty (property 22).
    #[test]
    fn labels_agree_with_the_definition(seed in any::<u32>(), vocabulary in 4usize..40) {
        let head = head(3, vocabulary, 5, seed.into());
        let norms: Vec<f64> = row_norms(&head.embedding, 5).unwrap().iter().map(|n| f64::from(*n)).collect();
        let sets: Vec<FamilySet> = head.families.iter().map(|f| FamilySet::one(*f)).collect();
        let all = vec![true; vocabulary];
        for norm_scale in [NormScale::Unadjusted, NormScale::None, NormScale::Mean] {
            for rule in RULES {
                let config = LabelConfig { norm_scale, rule, ..LabelConfig::paper() };
                for (z, label) in head.logits().iter().zip(head.labels(config)) {
                    let z: Vec<f64> = z.iter().map(|z| f64::from(*z)).collect();
                    let adjusted = reference::adjusted(&z, &norms, &all, &all, norm_scale);
                    prop_assert_eq!(label, reference::label(&adjusted, &sets, 20, 0.95, rule));
                    prop_assert!(!label.is_empty());
                }
            }
        }
    }

    /// Property 20 for `Mean`. A power of two scales exactly.
    #[test]
    fn scaling_the_embedding_changes_no_label_by_mean(seed in any::<u32>(), c in prop::sample::select(vec![0.25f32, 4.0])) {
        let head = head(4, 30, 5, seed.into());
        for rule in RULES {
            let config = LabelConfig { norm_scale: NormScale::Mean, rule, ..LabelConfig::paper() };
            prop_assert_eq!(head.labels(config), head.scaled(c).labels(config));
        }
    }

    /// Property 21.
    #[test]
    fn equal_norms_need_no_adjustment(seed in any::<u32>()) {
        let mut head = head(4, 30, 4, seed.into());
        // Rows of ±½: every norm is 1.
        head.embedding.iter_mut().for_each(|e| *e = if *e < 0.0 { -0.5 } else { 0.5 });
        let of = |norm_scale| head.labels(LabelConfig { norm_scale, ..LabelConfig::paper() });
        prop_assert_eq!(of(NormScale::Mean), of(NormScale::Unadjusted));
    }

    /// Property 23: the loss and its gradient are the definition's, whose gradient is that of its differences.
    #[test]
    fn losses_agree_with_the_definition(rows in 1usize..5, seed in any::<u32>(), big in any::<bool>()) {
        let scale = if big { 200.0 } else { 4.0 };
        let g: Vec<f32> = noise(rows * 3, seed.into()).iter().map(|g| (g * scale).round() / 2.0).collect();
        let labels: Vec<FamilySet> = (0..rows).map(|r| FamilySet((seed >> r) & 7)).collect();
        let weights = [1.0, 0.5, 2.0];
        let var = Var::from_slice(&g, (rows, 3), &Device::Cpu).unwrap();
        let loss = bce_loss(&var, &labels, &weights).unwrap();
        let slope = loss.backward().unwrap().get(&var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (mut expected, mut slopes) = (0.0, Vec::new());
        for (g, y) in g.chunks(3).zip(&labels) {
            let g: Vec<f64> = g.iter().map(|g| f64::from(*g)).collect();
            let of = |g: &[f64]| reference::bce(g, *y, &weights.map(f64::from));
            let (loss, slope) = of(&g);
            expected += loss / rows as f64;
            for f in 0..3 {
                let at = |h: f64| { let mut g = g.clone(); g[f] += h; of(&g).0 };
                let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
                prop_assert!((numeric - slope[f]).abs() <= 1e-6 * slope[f].abs().max(1e-2), "{numeric} {}", slope[f]);
            }
            slopes.extend(slope.iter().map(|d| d / rows as f64));
        }
        close(&[f64::from(loss.to_scalar::<f32>().unwrap())], &[expected], 2e-6 * expected.max(1.0));
        close(&slope.iter().map(|d| f64::from(*d)).collect::<Vec<_>>(), &slopes, 1e-6);
    }
}

/// The other half of property 20: dividing by the norms is a temperature too.
#[test]
fn scaling_the_embedding_changes_labels_by_none() {
    let config = LabelConfig::paper();
    let differs = |seed| {
        let head = head(4, 30, 5, seed);
        head.labels(config) != head.scaled(8.0).labels(config)
    };
    assert!((0..10).any(differs));
}

/// Masked positions are dropped before anything is computed of them, and chunks change nothing.
#[test]
fn positions_are_labelled_in_chunks_without_the_masked() {
    let head = head(300, 24, 6, 3);
    let (table, device) = (of_families(&head.families), Device::Cpu);
    let norms = row_norms(&head.embedding, 6).unwrap();
    let labeller = Labeller::new(&table, &norms, LabelConfig::default()).unwrap();
    let mask: Vec<bool> = (0..300).map(|r| r % 3 != 0).collect();
    let mut with_nan = head.hidden.clone();
    (0..300).filter(|r| !mask[*r]).for_each(|r| with_nan[r * 6] = f32::NAN);
    let hidden = Tensor::from_vec(with_nan, (300, 6), &device).unwrap();
    let embedding = Tensor::from_slice(&head.embedding, (24, 6), &device).unwrap();
    let positions = Positions::label(&hidden, &mask, &embedding, &labeller).unwrap();
    let kept = |r: &usize| mask[*r];
    let expected: Vec<f32> = (0..300).filter(kept).flat_map(|r| head.hidden[r * 6..][..6].to_vec()).collect();
    assert_eq!(positions.hidden, expected);
    let labels = head.labels(LabelConfig::default());
    let expected: Vec<FamilySet> = (0..300).filter(kept).map(|r| labels[r]).collect();
    // Another order of sums may move a token over an edge.
    let equal = expected.iter().zip(&positions.labels).filter(|(a, b)| a == b).count();
    assert!(equal + 2 >= expected.len(), "{equal} of {}", expected.len());
    let none = Positions::label(&hidden, &[false; 300], &embedding, &labeller).unwrap();
    assert!(none.is_empty());
    assert!(
        Positions::label(&hidden, &[true; 3], &embedding, &labeller)
            .unwrap_err()
            .to_string()
            .contains("mask")
    );
}

/// Hidden states in which a family is a half-space.
fn separable(count: usize, seed: u64) -> Positions {
    let hidden = noise(count * 8, seed);
    let label = |h: &[f32]| {
        (0..3).filter(|f| h[*f] + 0.5 * h[f + 3] > 0.0).collect::<FamilySet>() | FamilySet::one(3)
    };
    let labels = hidden.chunks(8).map(label).collect();
    // Nothing near the border.
    let clear = |h: &[f32]| (0..3).all(|f| (h[f] + 0.5 * h[f + 3]).abs() > 0.1);
    let all = Positions { hidden, labels };
    let kept: Vec<usize> = (0..count).filter(|i| clear(&all.hidden[i * 8..][..8])).collect();
    Positions {
        hidden: kept.iter().flat_map(|i| all.hidden[i * 8..][..8].to_vec()).collect(),
        labels: kept.iter().map(|i| all.labels[*i]).collect(),
    }
}

/// Property 24, and that a seed fixes the result to the last bit.
#[test]
fn a_gate_can_be_fitted() {
    let held_out = separable(600, 1);
    let config = TrainConfig { lr: 2e-2, steps: 300, warmup: 10, ..TrainConfig::default() };
    let start = MlpGate::random(8, 32, 4, 5).unwrap();
    let fit = || {
        train(&start, &config, &held_out, &Device::Cpu, |step| Ok(Some(separable(256, 100 + step as u64))))
    };
    let (gate, result) = fit().unwrap();
    assert!(agreement(&start, &held_out).unwrap() < 0.8);
    assert!(result.agreement > 0.99, "{result:?}");
    assert_eq!(result.agreement, agreement(&gate, &held_out).unwrap());
    assert_eq!(fit().unwrap(), (gate, result));
}

#[test]
fn odd_batches() {
    let held_out = separable(50, 1);
    let config = TrainConfig { steps: 4, ..TrainConfig::default() };
    let start = MlpGate::random(8, 4, 4, 5).unwrap();
    let run = |held_out: &Positions, config: &TrainConfig, batch: Option<Positions>| {
        train(&start, config, held_out, &Device::Cpu, |_| Ok(batch.clone()))
    };
    // No position: no loss, no step, a count.
    let (gate, fit) = run(&held_out, &config, Some(Positions::default())).unwrap();
    assert_eq!((fit.empty_batches, fit.steps, &gate), (4, 4, &start));
    assert!(fit.held_out_loss.is_finite());
    assert_eq!(run(&held_out, &config, None).unwrap().1.steps, 0);
    let short = Positions { hidden: vec![0.0; 7], labels: vec![FamilySet(1)] };
    assert!(run(&held_out, &config, Some(short)).unwrap_err().to_string().contains("hidden has 7"));
    assert!(run(&Positions::default(), &config, None).unwrap_err().to_string().contains("held_out"));
    let weights = TrainConfig { family_weights: vec![1.0; 3], ..config };
    assert!(run(&held_out, &weights, None).unwrap_err().to_string().contains("family_weights has 3"));
    let none = Tensor::zeros((0, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(bce_loss(&none, &[], &[1.0; 4]).unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

/// The operation has the bits of the rows' own functions, and padding is never read.
#[test]
fn masked_log_probabilities_are_nodes_of_a_graph() {
    let table = of_families(&[1, 0, 3, 2, 3]);
    let mask = || lcg::RowMask { view: table.view(Default::default()), denied: FamilySet(3), kept: None };
    let row = [1.0f32, 3.0, 0.5, -1.0, 2.0];
    let logits = [&row[..], &[f32::NAN; 5], &row].concat();
    let var = Var::from_slice(&logits, (3, 5), &Device::Cpu).unwrap();
    let masks = [Some(mask()), None, Some(mask())];
    let weights = Tensor::new(&[2.0f32, 7.0, -0.5], &Device::Cpu).unwrap();
    let slope = |values: &Tensor| {
        let loss = (values * &weights).unwrap().sum_all().unwrap();
        loss.backward().unwrap().get(&var).unwrap().to_vec2::<f32>().unwrap()
    };
    let values = lcg::op::masked_log_probs(&var, &[2, 9, 4], &masks, 0.7).unwrap();
    let expected = [mask().logprob(0, &row, 2, 0.7).unwrap(), 0.0, mask().logprob(2, &row, 4, 0.7).unwrap()];
    assert_eq!(values.to_vec1::<f32>().unwrap(), expected);
    let found = slope(&values);
    let mut d = vec![0.0; 5];
    mask().add_gradient(0, &row, 2, 0.7, 2.0, &mut d).unwrap();
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    close(&wide(&found[0]), &wide(&d), 1e-6);
    assert!(found[1].iter().chain(&found[0][..2]).all(|d| d.to_bits() == 0));
    let leak = lcg::op::leak(&var, &[2, 9, 4], &masks, 0.7).unwrap();
    assert_eq!(leak.to_vec1::<f32>().unwrap()[..2], [mask().leak(&row, 0.7).unwrap(), 0.0]);
    let mut d = vec![0.0; 5];
    mask().add_leak_gradient(&row, 0.7, -0.5, &mut d).unwrap();
    close(&wide(&slope(&leak)[2]), &wide(&d), 1e-6);

    let refused = |targets: &[u32], temperature| {
        lcg::op::masked_log_probs(&var, targets, &masks, temperature).unwrap_err().to_string()
    };
    assert!(refused(&[1, 9, 4], 0.7).contains("token 1 is denied by its own record"));
    assert!(refused(&[2, 9], 0.7).contains("2 targets"));
    assert!(refused(&[2, 9, 4], 0.0).contains("temperature is 0"));
    let wrong = var.to_dtype(candle_core::DType::F64).unwrap();
    assert!(
        lcg::op::masked_log_probs(&wrong, &[2, 9, 4], &masks, 0.7).unwrap_err().to_string().contains("f32")
    );
}
