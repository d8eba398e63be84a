//! Qwen3-VL against its f64 definition: logits, and the gradient of every parameter, over random shapes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use candle_core::{Device, Tensor};
use mrope::Grid;
use proptest::prelude::*;
use qwen3::vision::parameter_specs;
use qwen3::vision::reference::{self, Weights};
use qwen3::weights::parameter_specs as text_specs;
use qwen3::{Batch, ForwardOptions, VisualItems, VlConfig, VlModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const IMAGE: u32 = 1;
const VIDEO: u32 = 2;

fn configs() -> impl Strategy<Value = VlConfig> {
    let text = (1usize..3, 1usize..4, 2usize..5, 3usize..16, 1usize..10, 1usize..4, any::<bool>());
    let vision = (1usize..4, 1usize..3, 1usize..3, 1usize..12, 1usize..4, 1usize..6, any::<u8>());
    let scheme = prop_oneof![Just("qwen3_vl"), Just("mrope_i"), Just("mhrope"), Just("vanilla")];
    (text, vision, scheme, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(
            (kv, group, half, hidden, inner, layers, tied),
            (depth, heads, quarter, wide, patch, side, levels),
            scheme,
            moe,
            interleaved,
            yarn,
        )| {
            let levels: Vec<usize> = (0..depth).filter(|b| levels >> b & 1 == 1).take(layers).collect();
            let (h, w) = ((half + 1) / 3, half / 3);
            let section =
                if scheme == "mhrope" { [0, kv / 2, kv - kv / 2] } else { [half - h - w, h, w] };
            let kind = if yarn { "yarn" } else { "default" };
            let config = json!({
                "model_type": if moe { "qwen3_vl_moe" } else { "qwen3_vl" },
                "image_token_id": IMAGE, "video_token_id": VIDEO, "tie_word_embeddings": tied,
                "text_config": {
                    "vocab_size": 17, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
                    "num_attention_heads": kv * group, "num_key_value_heads": kv, "head_dim": 2 * half,
                    "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "initializer_range": 0.3,
                    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 5,
                    "rope_parameters": {
                        "rope_theta": 100.0, "rope_type": kind, "factor": 2.0, "mrope_section": section,
                        "mrope_interleaved": interleaved, "position_scheme": scheme
                    }
                },
                "vision_config": {
                    "depth": depth, "hidden_size": 4 * quarter * heads, "num_heads": heads, "intermediate_size": wide,
                    "in_channels": 3, "patch_size": patch, "temporal_patch_size": 2, "spatial_merge_size": 2,
                    "out_hidden_size": hidden, "num_position_embeddings": side * side,
                    "deepstack_visual_indexes": levels
                }
            });
            VlConfig::from_json(&config.to_string()).unwrap()
        },
    )
}

/// Weights that matter: no norm at one, no bias at zero.
fn model(config: &VlConfig, seed: u64) -> VlModel {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = VlModel::init(config.clone(), |i| ChaCha8Rng::seed_from_u64(seed * 1000 + i as u64))
        .unwrap()
        .to_tensors()
        .unwrap();
    for tensor in tensors.iter_mut().filter(|t| t.shape.len() == 1) {
        tensor.data.iter_mut().for_each(|v| *v += rng.random_range(-0.3..0.3));
    }
    VlModel::from_tensors(config.clone(), tensors).unwrap()
}

/// Text, an image, text, a video of frames between markers, text.
fn input(config: &VlConfig, image: Grid, video: Grid, seed: u64) -> (Vec<u32>, VisualItems) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tokens = vec![5, 3];
    tokens.extend(std::iter::repeat_n(IMAGE, (image.t * image.h * image.w / 4) as usize));
    for _ in 0..video.t {
        tokens.push(rng.random_range(3..17));
        tokens.extend(std::iter::repeat_n(VIDEO, (video.h * video.w / 4) as usize));
    }
    tokens.extend([7, 4]);
    let mut pixels = |grid: Grid| {
        let shape = ((grid.t * grid.h * grid.w) as usize, config.vision.patch_width());
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.random_range(-1.0..1.0)).collect();
        Some(Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    let items = VisualItems {
        image_pixels: pixels(image),
        image_grids: vec![image],
        video_pixels: pixels(video),
        video_grids: vec![video],
        ..VisualItems::default()
    };
    (tokens, items)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_parameter_has_the_gradient_of_the_definition(
        config in configs(), sides in (1u32..4, 1u32..4, 1u32..3, 1u32..3, 1u32..3), seed in 0u64..1000,
    ) {
        let model = model(&config, seed);
        let (image, video) =
            (Grid::new(1, 2 * sides.0, 2 * sides.1), Grid::new(sides.2, 2 * sides.3, 2 * sides.4));
        let (tokens, items) = input(&config, image, video, seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 1);
        let targets: Vec<u32> = tokens.iter().map(|_| rng.random_range(0..17)).collect();
        let coefficients: Vec<f32> = tokens.iter().map(|_| rng.random_range(-1.0..1.0)).collect();

        let hidden = model.forward(&Batch::pack([&tokens[..]]), &items, &ForwardOptions::default()).unwrap();
        let scores = model.log_probs(&hidden.states, &targets, 1.0).unwrap();
        let weight = Tensor::new(&coefficients[..], &Device::Cpu).unwrap();
        let loss = (scores.logp * weight).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();

        let routes: Vec<Vec<Vec<usize>>> = hidden
            .routes
            .iter()
            .map(|ids| ids.chunks(2).map(|row| row.iter().map(|e| *e as usize).collect()).collect())
            .collect();
        let weights = Weights::new(&config, &model.to_tensors().unwrap()).unwrap();
        let logits = |w: &Weights| reference::forward(&config, w, &tokens, &items, Some(&routes)).unwrap().logits;
        let value = |w: &Weights| -> f64 {
            let rows = logits(w);
            let rows = rows.rows().into_iter().zip(&targets).zip(&coefficients);
            rows.map(|((row, t), c)| qwen3::reference::log_prob(row, *t as usize, 1.0).0 * f64::from(*c)).sum()
        };
        let found: Vec<f32> = model.logits(&hidden.states).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (i, (found, expected)) in found.iter().zip(logits(&weights).iter()).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            prop_assert!(off < 1e-4 * (1.0 + expected.abs()), "logit {i}: {found}, definition {expected}");
        }

        let of_text = text_specs(&config.text);
        for (index, spec) in parameter_specs(&config).iter().enumerate() {
            let parameter = &model.parameters()[index];
            let gradient: Vec<f32> =
                gradients.get(parameter.var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            // The decoder's parts, by their names there; a tensor of the tower is whole.
            let parts = of_text.get(index).unwrap_or(spec).parts.clone();
            let mut offset = 0;
            for (name, shape) in parts {
                let len: usize = shape.iter().product();
                let entry = rng.random_range(0..len);
                let at = |step: f64| {
                    let mut moved = weights.clone();
                    moved.get_mut(&name).unwrap().as_slice_mut().unwrap()[entry] += step;
                    value(&moved)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found = f64::from(gradient[offset + entry]);
                prop_assert!(
                    (found - expected).abs() < 2e-3 * (1.0 + expected.abs()),
                    "{name}[{entry}]: gradient {found}, definition {expected}"
                );
                offset += len;
            }
        }
    }
}
