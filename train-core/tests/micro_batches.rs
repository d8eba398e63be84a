//! An update is the same however the batch is cut into micro-batches.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use rollout_engine::{Finish, Generation};
use train_core::config::{Config, Layers};
use train_core::learner::{Learner, UpdateReport};
use train_core::sample::{Packed, Sample, micro_batches};
use train_core::setup::{codec_and_model, initial_model};
use train_core::types::{Prompt, SampleKey};

/// Three groups of two samples of 3 to 8 tokens, with numbers that look random.
fn samples() -> Vec<Sample> {
    let noise = |n: usize| ((n as f32 * 12.9898).sin() * 43758.547).fract().abs();
    (0..6usize)
        .map(|i| {
            let len = 3 + i;
            let key = SampleKey { prompt: i as u64 / 2, epoch: 0, index: i as u32 % 2 };
            let prompt = Arc::new(Prompt {
                id: key.prompt,
                task: "reverse".into(),
                tokens: vec![2, 3, 4 + i as u32 / 2],
                text: String::new(),
                answer: None,
                follow_ups: Vec::new(),
                images: Default::default(),
                columns: Default::default(),
            });
            let logps: Vec<f32> = (0..len).map(|t| -2.0 - noise(100 * i + t)).collect();
            let generation = Generation {
                request: key.prompt,
                sample: i % 2,
                tokens: (0..len).map(|t| 1 + (noise(7 * i + t) * 8.0) as u32).collect(),
                truncated_logps: logps.clone(),
                entropies: vec![1.0; len],
                logps,
                finish: Finish::Stop,
                routes: None,
                gate: None,
            };
            let mut sample = Sample::new(key, prompt, i as u32 / 2, String::new(), generation);
            sample.advantage = if i % 2 == 0 { 1.0 + i as f64 } else { -0.5 };
            sample
        })
        .collect()
}

fn update(overrides: &str, objective: &str, tokens_per_micro: usize) -> UpdateReport {
    update_with(&[
        &format!("loss.objective={objective}"),
        &format!("loss.overrides={overrides}"),
        &format!("update.tokens_per_micro={tokens_per_micro}"),
    ])
}

fn update_with(settings: &[&str]) -> UpdateReport {
    let mut layers = Layers::preset("reverse-dense").unwrap();
    settings.iter().for_each(|setting| layers.set(setting, "--set").unwrap());
    let config: Config = layers.resolve().unwrap();
    let (_, architecture) = codec_and_model(&config).unwrap();
    let model = initial_model(&config, &architecture).unwrap();
    let mut learner = Learner::new(model, config.loss_choice().unwrap().loss, &config);
    learner.update(&mut samples(), 0).unwrap()
}

#[test]
fn micro_batches_give_the_update_of_the_batch() {
    for (objective, overrides) in [
        ("dapo", "{}"),
        ("dapo", "{ aggregation = { mode = \"group_token_mean\" } }"),
        ("dapo", "{ entropy_top_share = 0.4 }"),
        ("grpo_tis", "{ correction = { batch_normalize = true } }"),
    ] {
        let (whole, parts) = (update(overrides, objective, 10_000), update(overrides, objective, 1));
        let (a, b) = (whole.grad_norms[0], parts.grad_norms[0]);
        assert!(a > 1e-3, "{overrides}: nothing to compare");
        assert!((a - b).abs() < 1e-4 * a, "{overrides}: gradient norm {a} of the batch, {b} of its parts");
        assert!((whole.loss - parts.loss).abs() < 1e-5, "{overrides}: {} and {}", whole.loss, parts.loss);
    }
}

#[test]
fn micro_batches_side_by_side_give_the_same_bits() {
    let of = |parallel: usize| {
        let setting = format!("update.parallel_micros={parallel}");
        update_with(&[&setting, "update.tokens_per_micro=1", "loss.entropy_coef=0.1"])
    };
    let one = of(1);
    for parallel in [2, 5, 100] {
        let several = of(parallel);
        assert_eq!(several.grad_norms, one.grad_norms);
        assert_eq!(several.loss.to_bits(), one.loss.to_bits());
        assert_eq!(several.metrics, one.metrics);
        assert_eq!(several.tokens, one.tokens);
        assert_eq!(several.mismatch, one.mismatch);
    }
}

#[test]
fn micro_batches_hold_every_sample_once_and_are_about_equal() {
    let samples = samples();
    let all: Vec<&Sample> = samples.iter().collect();
    let rows = |run: &Vec<&Sample>| Packed::new(run).unwrap().batch.tokens.len();
    let total = rows(&all);
    let fed: usize = all.iter().map(|s| s.fed()).sum();
    assert_eq!(total, fed - 3 * 3, "the prompt of each of three groups is computed once");
    for tokens in 1..=total + 1 {
        let runs = micro_batches(&all, tokens);
        let order: Vec<_> = runs.iter().flatten().map(|s| s.key).collect();
        assert_eq!(order, all.iter().map(|s| s.key).collect::<Vec<_>>(), "{tokens}");
        let sizes: Vec<usize> = runs.iter().map(rows).collect();
        assert!(runs.iter().zip(&sizes).all(|(run, size)| run.len() == 1 || *size <= tokens), "{sizes:?}");
        assert!(runs.len() <= 2 * total.div_ceil(tokens).max(all.len().div_ceil(2)), "{sizes:?}");
    }
    // Two halves rather than a full one and a rest.
    let sizes: Vec<usize> = micro_batches(&all, total - 1).iter().map(rows).collect();
    assert_eq!(sizes.len(), 2);
    assert!(sizes[0].abs_diff(sizes[1]) <= all.iter().map(|s| s.fed()).max().unwrap(), "{sizes:?}");
}

#[test]
fn estimators_that_the_samples_cannot_carry_are_refused() {
    for (name, reason) in [
        ("reinforce_pp", "gives one advantage a token"),
        ("gae", "gives one advantage a token"),
        ("external", "gives one advantage a token"),
        ("gdpo", "needs rewards by component"),
        ("group_means", "unknown variant `group_means`"),
    ] {
        let mut layers = Layers::preset("reverse").unwrap();
        layers.set(&format!("advantage.estimator={name}"), "--set").unwrap();
        let error = layers.resolve().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
