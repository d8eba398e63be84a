//! What must hold for every model: gradients against finite differences of the f64 definition, causality,
//! packing, decoding, replay, saving.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::{random_model, tiny};
use proptest::prelude::*;
use qwen3::decode::{Context, Row};
use qwen3::ops::GatherRows;
use qwen3::reference::{self, Weights};
use qwen3::weights::parameter_specs;
use qwen3::{
    Architecture, Batch, Config, Decoder, ForwardOptions, MatmulPrecision, Model, MoeConfig, Precision,
    SaveType,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Odd sizes of every family.
fn configs() -> impl Strategy<Value = Config> {
    let family =
        prop_oneof![Just(Architecture::Llama), Just(Architecture::Qwen3), Just(Architecture::Qwen3Moe)];
    let sizes = (1usize..4, 1usize..4, 1usize..5, 3usize..20, 1usize..13, 1usize..4, 5usize..40);
    let moe = (1usize..6, 1usize..6, any::<bool>(), 1usize..9, 1usize..3);
    (family, sizes, any::<bool>(), moe).prop_map(
        |(
            architecture,
            (kv, group, half, hidden, inner, layers, vocabulary),
            tied,
            (experts, k, renorm, expert_inner, sparse),
        )| {
            Config {
                num_key_value_heads: kv,
                num_attention_heads: kv * group,
                head_dim: 2 * half,
                hidden_size: hidden,
                intermediate_size: inner,
                num_hidden_layers: layers,
                vocab_size: vocabulary,
                tie_word_embeddings: tied,
                moe: (architecture == Architecture::Qwen3Moe).then(|| MoeConfig {
                    num_experts: experts,
                    num_experts_per_tok: k.min(experts),
                    moe_intermediate_size: expert_inner,
                    norm_topk_prob: renorm,
                    decoder_sparse_step: sparse,
                    mlp_only_layers: Vec::new(),
                    router_aux_loss_coef: 0.0,
                }),
                ..tiny(architecture)
            }
        },
    )
}

fn tokens(config: &Config, lengths: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    lengths.iter().map(|n| (0..*n).map(|_| rng.random_range(0..config.vocab_size as u32)).collect()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn logits(model: &Model, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let batch = Batch::pack(sequences.iter().map(Vec::as_slice));
    let hidden = model.forward(&batch, &ForwardOptions { no_grad: true, ..Default::default() }).unwrap();
    model.logits(&hidden.states).unwrap().to_vec2().unwrap()
}

/// `Σ_row a_row · logp_row + b_row · entropy_row` of the packed sequences, by the definition, with fixed routes.
fn objective(
    config: &Config,
    weights: &Weights,
    sequences: &[Vec<u32>],
    coefficients: &[(f64, f64)],
    temperature: f64,
    routes: &[Vec<Vec<Vec<usize>>>],
) -> f64 {
    let mut coefficients = coefficients.iter();
    let mut sum = 0.0;
    for (sequence, routes) in sequences.iter().zip(routes) {
        let out = reference::forward(config, weights, sequence, Some(routes)).unwrap();
        for (row, logits) in out.logits.rows().into_iter().enumerate() {
            let target = sequence[(row + 1) % sequence.len()] as usize;
            let (logp, entropy) = reference::log_prob(logits, target, temperature);
            let (a, b) = coefficients.next().unwrap();
            sum += a * logp + b * entropy;
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_shared_prefix_gives_what_copies_of_it_give(
        config in configs(), groups in prop::collection::vec((1usize..5, prop::collection::vec(0usize..5, 1..4)), 1..4),
        seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let of = |n: usize, salt: u64| tokens(model.config(), &[n], seed + salt).remove(0);
        let (mut shared, mut copies) = (Batch::new(), Batch::new());
        for (g, (prefix, own)) in groups.iter().enumerate() {
            let prefix = of(*prefix, g as u64);
            let index = shared.push(&prefix, None);
            for (i, n) in own.iter().enumerate() {
                let own = if *n == 0 { Vec::new() } else { of(*n, 100 + 7 * g as u64 + i as u64) };
                shared.push(&own, Some(index));
                copies.push(&[prefix.clone(), own].concat(), None);
            }
        }
        let of_copies: Vec<u32> = shared.sequences().into_iter().flatten().collect();
        let positions = shared.positions();
        let gathered: Vec<u32> = of_copies.iter().map(|row| positions[*row as usize]).collect();
        prop_assert_eq!(gathered, copies.positions());

        let coefficients: Vec<f32> =
            (0..of_copies.len() * model.config().hidden_size).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.5).collect();
        let run = |batch: &Batch, rows: Vec<u32>| {
            let hidden = model.forward(batch, &ForwardOptions::default()).unwrap();
            let states = hidden.states.apply_op1(GatherRows { rows: rows.into() }).unwrap();
            let weights = Tensor::from_vec(coefficients.clone(), states.shape(), &Device::Cpu).unwrap();
            let gradients = (&states * weights).unwrap().sum_all().unwrap().backward().unwrap();
            let bits: Vec<u32> =
                states.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
            (bits, gradients)
        };
        let (bits, gradients) = run(&shared, of_copies.clone());
        let (expected, of_all) = run(&copies, (0..of_copies.len() as u32).collect());
        prop_assert_eq!(bits, expected);
        for p in model.parameters() {
            let values = |g: &candle_core::backprop::GradStore| {
                g.get(p.var.as_tensor()).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            };
            let (Some(got), Some(want)) = (values(&gradients), values(&of_all)) else {
                // The head, when it is not tied.
                prop_assert!(values(&of_all).is_none(), "{}", p.name);
                continue;
            };
            let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
            for (got, want) in got.iter().zip(&want) {
                prop_assert!((got - want).abs() <= 2e-5 * largest, "{}: {got} and {want}", p.name);
            }
        }
    }

    #[test]
    fn every_parameter_has_the_gradient_of_the_definition(
        config in configs(), lengths in prop::collection::vec(1usize..7, 1..4), seed in 0u64..1000,
        temperature in prop_oneof![Just(1.0), Just(0.7)],
    ) {
        let model = random_model(config, seed);
        let config = model.config();
        let sequences = tokens(config, &lengths, seed);
        let rows: usize = lengths.iter().sum();
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 1);
        let coefficients: Vec<(f64, f64)> =
            (0..rows).map(|_| (rng.random_range(-1.0..1.0), rng.random_range(-0.5..0.5))).collect();
        let targets: Vec<u32> =
            sequences.iter().flat_map(|s| (0..s.len()).map(|i| s[(i + 1) % s.len()])).collect();

        let batch = Batch::pack(sequences.iter().map(Vec::as_slice));
        let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
        let scores = model.log_probs(&hidden.states, &targets, temperature).unwrap();
        let column = |f: fn(&(f64, f64)) -> f64| {
            let values: Vec<f32> = coefficients.iter().map(|c| f(c) as f32).collect();
            candle_core::Tensor::new(values, &candle_core::Device::Cpu).unwrap()
        };
        let loss = ((scores.logp * column(|c| c.0)).unwrap() + (scores.entropy * column(|c| c.1)).unwrap()).unwrap();
        let loss = loss.sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        // The same beside candle's store, to the order of the sums of a tied embedding.
        for (p, lean) in model.parameters().iter().zip(model.gradients(&loss).unwrap()) {
            let usual = gradients.get(p.var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(usual.len(), lean.len());
            for (u, l) in usual.iter().zip(&lean) {
                prop_assert!((u - l).abs() <= 1e-5 * (1.0 + u.abs()), "{}: {u} and {l}", p.name);
            }
        }

        // The routes that ran, by sequence, as the definition wants them.
        let mut routes = Vec::new();
        let mut start = 0;
        for length in &lengths {
            let by_layer = hidden.routes.iter().map(|ids| {
                let k = config.moe.as_ref().unwrap().num_experts_per_tok;
                let rows = start..start + length;
                rows.map(|r| ids[r * k..][..k].iter().map(|e| *e as usize).collect()).collect()
            });
            routes.push(by_layer.collect::<Vec<Vec<Vec<usize>>>>());
            start += length;
        }
        let tensors = model.to_tensors().unwrap();
        let weights = Weights::new(config, &tensors).unwrap();
        let value = |w: &Weights| objective(config, w, &sequences, &coefficients, temperature, &routes);
        let exact = value(&weights);
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        prop_assert!((found - exact).abs() < 1e-4 * (1.0 + rows as f64), "loss {found}, definition {exact}");

        for spec in parameter_specs(config) {
            let parameter = model.parameters().iter().find(|p| p.name == spec.name).unwrap();
            let gradient: Vec<f32> =
                gradients.get(parameter.var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let mut offset = 0;
            for (name, shape) in &spec.parts {
                let len: usize = shape.iter().product();
                let entry = rng.random_range(0..len);
                let at = |step: f64| {
                    let mut moved = weights.clone();
                    let tensor = moved.get_mut(name).unwrap();
                    tensor.as_slice_mut().unwrap()[entry] += step;
                    value(&moved)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found = f64::from(gradient[offset + entry]);
                prop_assert!(
                    (found - expected).abs() <= 2e-3 * (1.0 + expected.abs()),
                    "{name}[{entry}]: gradient {found}, finite difference {expected}"
                );
                offset += len;
            }
        }
    }

    #[test]
    fn a_packed_sequence_has_the_bits_it_has_alone(
        config in configs(), lengths in prop::collection::vec(1usize..40, 1..5), seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let sequences = tokens(model.config(), &lengths, seed);
        let packed = logits(&model, &sequences);
        let alone: Vec<Vec<f32>> = sequences.iter().flat_map(|s| logits(&model, std::slice::from_ref(s))).collect();
        for (a, b) in packed.iter().zip(&alone) {
            prop_assert_eq!(bits(a), bits(b));
        }
    }

    #[test]
    fn a_token_changes_nothing_before_it(config in configs(), length in 2usize..20, at in 1usize..20, seed in 0u64..1000) {
        let at = at % length;
        prop_assume!(at > 0);
        let model = random_model(config, seed);
        let mut sequences = tokens(model.config(), &[length], seed);
        let before = logits(&model, &sequences);
        sequences[0][at] = (sequences[0][at] + 1) % model.config().vocab_size as u32;
        let after = logits(&model, &sequences);
        for row in 0..at {
            prop_assert_eq!(bits(&before[row]), bits(&after[row]));
        }
        prop_assert_ne!(bits(&before[at]), bits(&after[at]));
    }

    #[test]
    fn decoding_has_the_bits_of_the_training_forward(
        config in configs(), length in 1usize..30, chunk in 1usize..9, shared in 0usize..30, seed in 0u64..1000,
        in_bf16: bool,
    ) {
        let mut model = random_model(config, seed);
        model.set_matmul_precision(if in_bf16 { MatmulPrecision::Bf16 } else { MatmulPrecision::F32 });
        let sequence = tokens(model.config(), &[length], seed).remove(0);
        let whole = logits(&model, std::slice::from_ref(&sequence));
        let decoder = Decoder::new(&model, 64).unwrap();
        let shared = shared % length;
        let mut context = Context::default();
        let mut found = Vec::new();
        let (mut fed, mut prefix) = (0, shared == 0);
        while fed < length {
            if fed == shared && !prefix {
                context = Context::after(context.into_prefix().unwrap());
                prefix = true;
            }
            let end = if fed < shared { shared.min(fed + chunk) } else { length.min(fed + chunk) };
            let rows: Vec<Row> = sequence[fed..end].iter().map(|t| Row { context: 0, token: *t }).collect();
            let step = decoder.step(&rows, &mut [&mut context]).unwrap();
            found.extend(decoder.logits(&step.states).chunks(model.config().vocab_size).map(bits));
            fed = end;
        }
        prop_assert_eq!(found, whole.iter().map(|r| bits(r)).collect::<Vec<_>>());
    }

    #[test]
    fn a_decoder_of_fewer_bits_is_near_the_model_and_a_row_stands_alone(
        config in configs(), length in 1usize..20, chunk in 1usize..9, seed in 0u64..1000,
    ) {
        let model = random_model(config, seed);
        let sequence = tokens(model.config(), &[length], seed).remove(0);
        let exact = logits(&model, std::slice::from_ref(&sequence));
        for precision in [Precision::Bf16, Precision::Q8] {
            let decoder = Decoder::with_precision(&model, 64, precision).unwrap();
            let run = |chunk: usize| {
                let mut context = Context::default();
                let mut found = Vec::new();
                for tokens in sequence.chunks(chunk) {
                    let rows: Vec<Row> = tokens.iter().map(|t| Row { context: 0, token: *t }).collect();
                    let step = decoder.step(&rows, &mut [&mut context]).unwrap();
                    found.extend(decoder.logits(&step.states).chunks(model.config().vocab_size).map(bits));
                }
                found
            };
            let found = run(length);
            prop_assert_eq!(&found, &run(chunk));
            prop_assert_ne!(&found, &exact.iter().map(|r| bits(r)).collect::<Vec<_>>());
            // Where another expert runs, the difference has no bound.
            if model.config().moe.is_none() {
                let scale = exact.iter().flatten().fold(1f32, |m, z| m.max(z.abs()));
                for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
                    prop_assert!((f32::from_bits(*found) - exact).abs() < 0.3 * scale, "{:?}", precision);
                }
            }
        }
    }

    #[test]
    fn saving_and_loading_changes_no_bit(config in configs(), seed in 0u64..1000) {
        let model = random_model(config, seed);
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), SaveType::F32).unwrap();
        let again = Model::load(dir.path()).unwrap();
        prop_assert_eq!(model.config(), again.config());
        prop_assert_eq!(model.to_tensors().unwrap(), again.to_tensors().unwrap());
    }

    #[test]
    fn the_chunk_of_the_head_does_not_matter(rows in 1usize..50, chunk in 1usize..60, seed in 0u64..1000) {
        use candle_core::{Device, Tensor, Var};
        use qwen3::ops::HeadLogProbs;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let y = Var::from_vec(values(rows * 7), (rows, 7), &Device::Cpu).unwrap();
        let w = Var::from_vec(values(13 * 7), (13, 7), &Device::Cpu).unwrap();
        let targets: Arc<[u32]> = (0..rows as u32).map(|r| r % 13).collect();
        let run = |chunk: usize| {
            let op = HeadLogProbs::new(targets.clone(), 0.8, chunk, MatmulPrecision::F32);
            let out: Tensor = y.apply_op2(&w, op).unwrap();
            let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (bits(&flat(&out)), flat(gradients.get(&y).unwrap()), flat(gradients.get(&w).unwrap()))
        };
        let (whole, cut) = (run(rows), run(chunk));
        prop_assert_eq!(whole.0, cut.0);
        prop_assert_eq!(bits(&whole.1), bits(&cut.1));
        for (a, b) in whole.2.iter().zip(&cut.2) {
            prop_assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()));
        }
    }
}

#[test]
fn a_step_of_many_rows_gives_each_row_its_own_bits() {
    let model = random_model(tiny(Architecture::Qwen3Moe), 3);
    let decoder = Decoder::new(&model, 16).unwrap();
    // One to four rows a context, so that a context lies where a block of rows would end.
    let sequences: Vec<Vec<u32>> =
        (0..300).map(|i| (0..1 + i % 4).map(|t| (7 * i + t) % 11).collect()).collect();
    let rows: Vec<Row> =
        (0..).zip(&sequences).flat_map(|(c, s)| s.iter().map(move |t| (c, *t))).map(row).collect();
    let of = |rows: &[Row], contexts: usize| {
        let mut contexts = vec![Context::default(); contexts];
        let mut contexts: Vec<&mut Context> = contexts.iter_mut().collect();
        let first = decoder.step(rows, &mut contexts).unwrap();
        // The caches too: what comes next depends on them.
        let next: Vec<Row> = (0..contexts.len()).map(|context| Row { context, token: 5 }).collect();
        (first, decoder.step(&next, &mut contexts).unwrap())
    };
    let (together, next) = of(&rows, sequences.len());
    let hidden = model.config().hidden_size;
    let mut start = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let alone: Vec<Row> = sequence.iter().map(|t| row((0, *t))).collect();
        let (first, then) = of(&alone, 1);
        let len = first.states.len();
        assert_eq!(bits(&together.states[start..start + len]), bits(&first.states), "context {i}");
        assert_eq!(bits(&next.states[i * hidden..][..hidden]), bits(&then.states), "after context {i}");
        for (at, _) in sequence.iter().enumerate() {
            let routes = together.routes_of(start / hidden + at);
            assert_eq!(routes, first.routes_of(at), "routes of context {i}");
            assert!(!routes.is_empty());
        }
        start += len;
    }
    // In the order of positions instead of contexts.
    let mut mixed: Vec<(usize, usize)> = (0..rows.len()).map(|at| (at, rows[at].context)).collect();
    mixed.sort_by_key(|(at, context)| at - rows.iter().position(|r| r.context == *context).unwrap());
    let shuffled: Vec<Row> = mixed.iter().map(|(at, _)| rows[*at]).collect();
    let (other, _) = of(&shuffled, sequences.len());
    for (i, (at, _)) in mixed.iter().enumerate() {
        let (a, b) = (&other.states[i * hidden..][..hidden], &together.states[at * hidden..][..hidden]);
        assert_eq!(bits(a), bits(b), "row {at}");
    }
}

fn row((context, token): (usize, u32)) -> Row {
    Row { context, token }
}

#[test]
fn tied_gradient_is_the_sum_of_both_uses() {
    let tied = random_model(Config { tie_word_embeddings: true, ..tiny(Architecture::Qwen3) }, 5);
    let mut tensors = tied.to_tensors().unwrap();
    let mut head = tensors[0].clone();
    head.name = "lm_head.weight".into();
    tensors.push(head);
    let untied =
        Model::from_tensors(Config { tie_word_embeddings: false, ..tied.config().clone() }, tensors).unwrap();
    let sequence = [3u32, 9, 9, 41];
    let gradients = |model: &Model| {
        let batch = Batch::pack([sequence.as_slice()]);
        let hidden = model.forward(&batch, &ForwardOptions::default()).unwrap();
        let scores = model.log_probs(&hidden.states, &[9, 9, 41, 7], 1.0).unwrap();
        let store = scores.logp.sum_all().unwrap().backward().unwrap();
        let of = |i: usize| {
            let tensor = model.parameters()[i].var.as_tensor();
            store.get(tensor).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        (of(0), of(model.parameters().len() - 1))
    };
    let (both, (embedding, head)) = (gradients(&tied).0, gradients(&untied));
    for ((both, e), h) in both.iter().zip(&embedding).zip(&head) {
        assert!((both - (e + h)).abs() < 1e-5);
    }
}

#[test]
fn bad_input_is_named() {
    let model = random_model(tiny(Architecture::Qwen3Moe), 1);
    let run = |tokens: &[u32]| {
        model.forward(&Batch::pack([tokens]), &ForwardOptions::default()).unwrap_err().to_string()
    };
    assert_eq!(run(&[3, 64]), "row 1: token id 64 is outside the vocabulary of 64");
    assert_eq!(run(&[]), "a batch needs at least one token");
    assert_eq!(
        run(&[1; 65]),
        "65 tokens are more than max_position_embeddings = 64 (raise it to extrapolate)"
    );
    let crooked = |cu_seqlens: &[u32], prefixes: &[Option<u32>]| {
        let batch =
            Batch { tokens: vec![1, 2], cu_seqlens: cu_seqlens.to_vec(), prefixes: prefixes.to_vec() };
        model.forward(&batch, &ForwardOptions::default()).unwrap_err().to_string()
    };
    let error = crooked(&[0, 3], &[None]);
    assert!(error.starts_with("cu_seqlens must rise from 0"), "{error}");
    let error = crooked(&[0, 1, 2], &[None]);
    assert!(error.starts_with("prefixes must name one segment or none for each of 2"), "{error}");
    for (segment, prefix, prefixes) in [
        (0, 0, vec![Some(0), None, None]),
        (1, 2, vec![None, Some(2), None]),
        (2, 1, vec![None, Some(0), Some(1)]),
        (2, 0, vec![None, None, Some(0)]),
    ] {
        let error = crooked(&[0, 1, 2, 2], &prefixes);
        assert!(
            error.starts_with(&format!("segment {segment} cannot continue segment {prefix}:")),
            "{error}"
        );
    }
}
