//! Qwen3-VL against worked numbers (f64, compared with transformers 5), and what its structure promises.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use candle_core::Tensor;
use common::vl::{INPUT, config_json, items, model, pixels};
use mrope::Grid;
use qwen3::{Batch, ForwardOptions, Model, SaveType, VisualItems, VlConfig, VlModel};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

fn logits(model: &VlModel, tokens: &[&[u32]], items: &VisualItems) -> Vec<Vec<f32>> {
    let batch = Batch::pack(tokens.iter().copied());
    let hidden = model.forward(&batch, items, &ForwardOptions::default()).unwrap();
    model.logits(&hidden.states).unwrap().to_vec2().unwrap()
}

#[track_caller]
fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

/// Loss and gradient norms of the next tokens, placeholders included.
fn check(model: &VlModel, loss: f64, rows: [(usize, [f64; 6]); 3], gradients: &[(&str, f64)]) {
    let batch = Batch::pack([INPUT.as_slice()]);
    let hidden = model.forward(&batch, &items(), &ForwardOptions::default()).unwrap();
    let logits: Vec<Vec<f32>> = model.logits(&hidden.states).unwrap().to_vec2().unwrap();
    for (row, expected) in rows {
        for (i, expected) in expected.into_iter().enumerate() {
            close(&format!("logits[{row}][{i}]"), logits[row][i].into(), expected, 1e-5);
        }
    }
    let states = hidden.states.narrow(0, 0, 26).unwrap().contiguous().unwrap();
    let scores = model.log_probs(&states, &INPUT[1..], 1.0).unwrap();
    let found = scores.logp.mean_all().unwrap().neg().unwrap();
    close("loss", found.to_scalar::<f32>().unwrap().into(), loss, 2e-6);
    assert!(model.gradients(&found, &items()).unwrap().iter().all(|g| !g.is_empty()));
    let store = found.backward().unwrap();
    for (name, expected) in gradients {
        let parameter = model.parameters().iter().find(|p| p.name == *name).unwrap();
        let gradient = store.get(parameter.var.as_tensor()).unwrap();
        let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        close(name, norm.into(), *expected, 2e-5 * expected);
    }
}

#[test]
fn dense_worked_numbers() {
    let (_dir, model) = model(&config_json(false));
    check(
        &model,
        5.837_457_243_1,
        [
            (0, [1.309840108, -0.789945424, -1.243187785, 0.307158339, 0.366248320, 2.814289891]),
            (13, [-2.638939321, 0.834919682, -3.092369898, -2.799107310, 0.089062246, 1.042317572]),
            (26, [-1.736759647, 1.609141601, -0.735550482, -3.071298696, 1.387947615, 1.064808289]),
        ],
        &[
            ("model.language_model.embed_tokens.weight", 4.716258434),
            ("model.language_model.layers.0.self_attn.q_norm.weight", 0.425111538),
            ("model.visual.patch_embed.proj.weight", 5.203648518),
            ("model.visual.pos_embed.weight", 0.960466297),
            ("model.visual.deepstack_merger_list.1.linear_fc2.weight", 2.104560175),
            ("model.visual.merger.norm.weight", 0.584674178),
        ],
    );
    let features = model.encode(&pixels("pixel_values", 24), &[Grid::new(1, 4, 6)]).unwrap();
    let sum = |t: &Tensor| f64::from(t.sum_all().unwrap().to_scalar::<f32>().unwrap());
    close("merged", sum(&features.merged), -19.467845548, 1e-4);
    close("level 2", sum(&features.levels[2]), -20.508014999, 1e-4);
}

#[test]
fn mixture_of_experts_worked_numbers() {
    let (_dir, model) = model(&config_json(true));
    check(
        &model,
        4.461_565_962,
        [
            (0, [0.524169371, -0.048298074, 0.192153704, -1.623334237, -0.326248977, 0.699420479]),
            (13, [1.230125357, -0.335314675, -0.463586101, 0.232194650, 0.206803817, 0.051894207]),
            (26, [0.487068264, -2.485983728, -1.278954936, -0.158758671, 0.115911755, 0.731349894]),
        ],
        &[
            ("model.language_model.embed_tokens.weight", 0.966032225),
            ("model.language_model.layers.2.mlp.gate.weight", 0.116561517),
            ("model.language_model.layers.0.mlp.experts.gate_up_proj", 0.898387425),
            ("model.visual.patch_embed.proj.weight", 2.301988073),
        ],
    );
}

#[test]
fn positions_are_the_worked_ones() {
    let (_dir, model) = model(&config_json(false));
    let positions = model.positions(&Batch::pack([INPUT.as_slice()]), &items()).unwrap().to_i32().unwrap();
    let rows = [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8, 9, 10, 10, 10, 10, 12, 13, 14, 15, 15, 15, 15, 17, 18, 19],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8, 9, 10, 10, 11, 11, 12, 13, 14, 15, 15, 16, 16, 17, 18, 19],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10, 11, 10, 11, 12, 13, 14, 15, 16, 15, 16, 17, 18, 19],
    ];
    assert_eq!(positions, rows);
}

/// An untouched model is written back byte for byte, fused experts included.
#[test]
fn a_round_trip_keeps_every_byte() {
    for moe in [false, true] {
        let (_dir, model) = model(&config_json(moe));
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.save(first.path(), SaveType::Bf16).unwrap();
        let again = VlModel::load(first.path()).unwrap();
        assert_eq!(again.config(), model.config());
        again.save(second.path(), SaveType::Bf16).unwrap();
        for name in ["config.json", "model.safetensors"] {
            let read = |dir: &tempfile::TempDir| std::fs::read(dir.path().join(name)).unwrap();
            assert!(read(&first) == read(&second), "{name} differs");
        }
    }
}

/// Pixels change nothing before their image; tokens nothing before them.
#[test]
fn rows_see_what_is_behind_them_only() {
    let (_dir, model) = model(&config_json(false));
    let before = logits(&model, &[&INPUT], &items());
    let mut changed = items();
    changed.image_pixels = Some((changed.image_pixels.unwrap() * 0.5).unwrap());
    let after = logits(&model, &[&INPUT], &changed);
    assert_eq!((&before[..3], before[3] == after[3]), (&after[..3], false));
}

/// A packed sequence gets the bits it gets alone; frames and items of the tower too. Adjacent images are two images.
#[test]
fn packing_changes_no_bit() {
    let (_dir, model) = model(&config_json(false));
    let (image, text) = ([61, 59, 59, 59, 59, 59, 59, 62, 7], [5, 6, 7]);
    let both = [61, 59, 59, 59, 59, 59, 59, 59, 59, 59, 59, 62, 7];
    let pixels = pixels("pixel_values", 40);
    let of = |start, len, grids: &[Grid]| VisualItems {
        image_pixels: Some(pixels.narrow(0, start, len).unwrap().contiguous().unwrap()),
        image_grids: grids.to_vec(),
        ..VisualItems::default()
    };
    let (wide, square) = (Grid::new(1, 4, 6), Grid::new(1, 4, 4));
    let first = logits(&model, &[&image], &of(0, 24, &[wide]));
    let second = logits(&model, &[&text], &VisualItems::default());
    let packed = logits(&model, &[&image, &text], &of(0, 24, &[wide]));
    assert_eq!(packed, [first, second].concat());
    let alone = |start, len, grid| {
        model.encode(&pixels.narrow(0, start, len).unwrap().contiguous().unwrap(), &[grid])
    };
    let whole = model.encode(&pixels, &[wide, square]).unwrap();
    let rows = |t: &Tensor| t.to_vec2::<f32>().unwrap();
    let parts = [alone(0, 24, wide).unwrap(), alone(24, 16, square).unwrap()];
    assert_eq!(rows(&whole.merged), [rows(&parts[0].merged), rows(&parts[1].merged)].concat());
    assert_eq!(logits(&model, &[&both], &of(0, 40, &[wide, square])).len(), both.len());
}

/// Random weights: norms start at one, biases at zero, and every parameter has a gradient.
#[test]
fn random_weights_learn() {
    for moe in [false, true] {
        let config = VlConfig::from_json(&config_json(moe).to_string()).unwrap();
        let rng = |i| ChaCha8Rng::seed_from_u64(i as u64);
        let model = VlModel::init(config, rng).unwrap();
        let first = |end: &str| {
            let tensors = model.to_tensors().unwrap();
            tensors.into_iter().find(|t| t.name.ends_with(end)).unwrap().data[0]
        };
        assert_eq!((first("blocks.0.norm1.weight"), first("merger.norm.bias")), (1.0, 0.0));
        let batch = Batch::pack([INPUT.as_slice()]);
        let hidden = model.forward(&batch, &items(), &ForwardOptions::default()).unwrap();
        let scores = model.log_probs(&hidden.states, &[1; 27], 1.0).unwrap();
        model.gradients(&scores.logp.sum_all().unwrap(), &items()).unwrap();
    }
}

/// Without images a VL model is the text model, bit for bit.
#[test]
fn on_text_it_is_the_text_model() {
    let mut config = config_json(false);
    for scheme in ["qwen3_vl", "mrope_i", "vanilla"] {
        config["text_config"]["rope_parameters"]["position_scheme"] = json!(scheme);
        let (_dir, model) = model(&config);
        let mut tensors = model.to_tensors().unwrap();
        tensors.retain(|t| !t.name.starts_with("model.visual."));
        for tensor in &mut tensors {
            tensor.name = tensor.name.replace("model.language_model.", "model.");
        }
        let text = Model::from_tensors(model.config().text.clone(), tensors).unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 59).collect();
        let batch = Batch::pack([&tokens[..], &tokens[..5]]);
        let hidden = text.forward(&batch, &ForwardOptions::default()).unwrap();
        let expected: Vec<Vec<f32>> = text.logits(&hidden.states).unwrap().to_vec2().unwrap();
        assert!(logits(&model, &[&tokens, &tokens[..5]], &VisualItems::default()) == expected, "{scheme}");
    }
}

/// The position schemes differ on images, all parameters learn under each, and a saved model keeps its scheme.
#[test]
fn position_schemes() {
    let mut seen: Vec<Vec<Vec<f32>>> = Vec::new();
    for (scheme, section, interleaved) in [
        ("qwen3_vl", json!([4, 2, 2]), true),
        ("qwen3_vl", json!([4, 2, 2]), false),
        ("mrope_i", json!([4, 2, 2]), true),
        ("mhrope", json!([0, 1, 1]), true),
        ("vanilla", json!([4, 2, 2]), true),
    ] {
        let mut config = config_json(false);
        let rope = &mut config["text_config"]["rope_parameters"];
        rope["position_scheme"] = json!(scheme);
        rope["mrope_section"] = section;
        rope["mrope_interleaved"] = json!(interleaved);
        let (_dir, model) = model(&config);
        let batch = Batch::pack([INPUT.as_slice()]);
        let hidden = model.forward(&batch, &items(), &ForwardOptions::default()).unwrap();
        let scores = model.log_probs(&hidden.states, &[1; 27], 1.0).unwrap();
        model.gradients(&scores.logp.sum_all().unwrap(), &items()).unwrap();
        let found: Vec<Vec<f32>> = model.logits(&hidden.states).unwrap().to_vec2().unwrap();
        assert!(seen.iter().all(|other| *other != found), "{scheme} changes nothing");
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path(), SaveType::F32).unwrap();
        let again = VlModel::load(saved.path()).unwrap();
        assert!(logits(&again, &[&INPUT], &items()) == found, "{scheme} is another after saving");
        seen.push(found);
    }
}

/// The samples of a prompt share its images: the bits of images of their own, and gradients that are their sum. A
/// frozen tower has none.
#[test]
fn images_are_shared_by_samples() {
    let (_dir, mut model) = model(&config_json(false));
    let sequences = [[&INPUT[..], &[4, 9]].concat(), [&INPUT[..], &[59]].concat()];
    let batch = Batch::pack(sequences.iter().map(Vec::as_slice));
    let one = VisualItems { prompt_lens: vec![INPUT.len()], ..items() };
    let twice = |pixels: &Option<Tensor>| {
        let pixels = pixels.as_ref().unwrap();
        Some(Tensor::cat(&[pixels, pixels], 0).unwrap())
    };
    let own = VisualItems {
        image_pixels: twice(&one.image_pixels),
        image_grids: one.image_grids.repeat(2),
        video_pixels: twice(&one.video_pixels),
        video_grids: one.video_grids.repeat(2),
        prompt_lens: vec![INPUT.len(); 2],
        ..VisualItems::default()
    };
    let run = |model: &VlModel, items: &VisualItems| {
        let hidden = model.forward(&batch, items, &ForwardOptions::default()).unwrap();
        let loss = model.log_probs(&hidden.states, &batch.tokens, 1.0).unwrap().logp.sum_all().unwrap();
        model.gradients(&loss, items).unwrap();
        let gradients = loss.backward().unwrap();
        let patch = model.parameters().iter().find(|p| p.name.ends_with("patch_embed.proj.weight"));
        let gradient = patch.map(|p| gradients.get(p.var.as_tensor()).unwrap().flatten_all().unwrap());
        (hidden.states.to_vec2::<f32>().unwrap(), gradient.map(|g| g.to_vec1::<f32>().unwrap()))
    };
    let (expected, found) = (run(&model, &own), run(&model, &one.repeat(2)));
    assert!(found.0 == expected.0);
    for (found, expected) in found.1.unwrap().iter().zip(&expected.1.unwrap()) {
        assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{found}, expected {expected}");
    }

    // Scoring builds no graph, and sees weights as they are now.
    let score = |model: &VlModel| {
        let options = ForwardOptions { no_grad: true, ..ForwardOptions::default() };
        model.forward(&batch, &one.repeat(2), &options).unwrap().states
    };
    let pos = model.parameters().iter().find(|p| p.name.ends_with("pos_embed.weight")).unwrap().var.clone();
    let before = pos.copy().unwrap();
    assert!(!score(&model).track_op() && score(&model).to_vec2::<f32>().unwrap() == expected.0);
    pos.set(&(&before * 2.0).unwrap()).unwrap();
    assert!(score(&model).to_vec2::<f32>().unwrap() != expected.0);
    pos.set(&before).unwrap();

    let all = model.parameters().len();
    model.freeze_vision();
    let frozen = run(&model, &one.repeat(2));
    assert!(frozen.0 == expected.0 && frozen.1.is_none());
    assert_eq!(model.parameters().len(), model.text().parameters().len());
    assert_eq!(model.to_tensors().unwrap().len(), all);
}

/// `image_uses` says which image stands where.
#[test]
fn uses_choose_images() {
    let (_dir, model) = model(&config_json(false));
    let tokens = [61, 59, 59, 59, 59, 59, 59, 62, 5, 61, 59, 59, 59, 59, 59, 59, 62, 7];
    let (first, second) = (pixels("pixel_values", 24), pixels("pixel_values_videos", 24));
    let of = |pixels: [&Tensor; 2], image_uses: Vec<usize>| VisualItems {
        image_pixels: Some(Tensor::cat(&pixels, 0).unwrap()),
        image_grids: vec![Grid::new(1, 4, 6); 2],
        image_uses,
        ..VisualItems::default()
    };
    let swapped = logits(&model, &[&tokens], &of([&second, &first], vec![]));
    assert!(logits(&model, &[&tokens], &of([&first, &second], vec![1, 0])) == swapped);
    assert!(logits(&model, &[&tokens], &of([&first, &second], vec![])) != swapped);
}

/// A placeholder's id behind the prompt is text: its row has its embedding, and the rows before it keep their bits.
#[test]
fn placeholders_behind_the_prompt_are_text() {
    let (_dir, model) = model(&config_json(false));
    let mut longer = INPUT.to_vec();
    longer.extend([59, 60, 3]);
    let items = VisualItems { prompt_lens: vec![INPUT.len()], ..items() };
    let found = logits(&model, &[&longer], &items);
    assert_eq!(found[..INPUT.len()], logits(&model, &[&INPUT], &items));
    let positions = model.positions(&Batch::pack([&longer[..]]), &items).unwrap();
    assert!(positions.to_i32().unwrap().iter().all(|axis| axis[27..] == [20, 21, 22]));
}
