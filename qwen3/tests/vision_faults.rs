//! Configurations, weights and items of Qwen3-VL that do not fit, and the forms that do.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::vl::{config_json, model, pixels};
use mrope::Grid;
use qwen3::{Batch, ForwardOptions, VisualItems, VlConfig, VlModel};
use serde_json::{Value, json};

/// `rope_theta` beside `rope_scaling` (transformers 4) is the same as `rope_parameters` (transformers 5).
#[test]
fn both_forms_of_rotary_parameters_are_read() {
    let new = config_json(false);
    let mut old = new.clone();
    let text = old["text_config"].as_object_mut().unwrap();
    let mut rope = text.remove("rope_parameters").unwrap();
    let theta = rope.as_object_mut().unwrap().remove("rope_theta").unwrap();
    text.insert("rope_theta".into(), theta);
    text.insert("rope_scaling".into(), rope);
    let read = |v: &Value| VlConfig::from_json(&v.to_string()).unwrap();
    assert_eq!(read(&old), read(&new));
}

#[test]
fn configurations_at_fault_are_named() {
    let fault = |path: &[&str], value: Value| {
        let mut config = config_json(false);
        *path.iter().fold(&mut config, |at, name| &mut at[*name]) = value;
        VlConfig::from_json(&config.to_string()).unwrap_err().to_string()
    };
    for (path, value, reason) in [
        (&["text_config"][..], json!(null), "text_config: expected an object"),
        (&["image_token_id"], json!(null), "image_token_id: is missing"),
        (&["image_token_id"], json!(64), "image_token_id: 64 is outside the vocabulary of 64"),
        (&["video_token_id"], json!(59), "video_token_id: equals image_token_id"),
        (&["text_config", "rope_parameters"], json!(null), "rope_parameters: is missing"),
        (&["text_config", "rope_parameters", "rope_theta"], json!(null), "rope_theta: is missing"),
        (&["text_config", "rope_parameters", "rope_type"], json!("dynamic"), "`dynamic` is not supported"),
        (&["text_config", "rope_parameters", "mrope_section"], json!(null), "mrope_section: is missing"),
        (&["text_config", "rope_parameters", "mrope_section"], json!([4, 2, 1]), "section"),
        (
            &["text_config", "rope_parameters", "mrope_section"],
            json!([0, 4, 4]),
            "would be clipped to [3, 3, 2]",
        ),
        (&["text_config", "rope_parameters", "mrope_section"], json!([4, 2, -2]), "-2"),
        (
            &["text_config", "rope_parameters", "position_scheme"],
            json!("spiral"),
            "\"spiral\" is none of qwen3_vl",
        ),
        (&["model_type"], json!("qwen2_vl"), "`qwen2_vl` is not supported here"),
        (&["text_config", "attention_bias"], json!(true), "attention_bias: true is not supported"),
        (&["vision_config", "num_position_embeddings"], json!(15), "15 is no square"),
        (&["vision_config", "num_heads"], json!(5), "5 does not divide 24"),
        (&["vision_config", "num_heads"], json!(4), "heads of 6 lanes"),
        (&["vision_config", "hidden_act"], json!("gelu"), "hidden_act: \"gelu\" is not supported"),
        (&["vision_config", "out_hidden_size"], json!(16), "16 is not the decoder's hidden_size 32"),
        (&["vision_config", "deepstack_visual_indexes"], json!([1, 0]), "must rise strictly"),
        (&["vision_config", "deepstack_visual_indexes"], json!([0, 4]), "stay below depth = 4"),
        (&["vision_config", "depth"], json!(-1), "vision_config.depth: expected a whole number, got -1"),
    ] {
        let error = fault(path, value);
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
}

#[test]
fn items_that_do_not_fit_are_named() {
    let (_dir, model) = model(&config_json(false));
    let fault = |tokens: &[u32], items: &VisualItems| {
        let forward = model.forward(&Batch::pack([tokens]), items, &ForwardOptions::default());
        forward.map(|_| ()).unwrap_err().to_string()
    };
    let image = |grid: Grid, patches: usize| VisualItems {
        image_pixels: Some(pixels("pixel_values", patches)),
        image_grids: vec![grid],
        ..VisualItems::default()
    };
    let wide = Grid::new(1, 4, 6);
    let six = [61, 59, 59, 59, 59, 59, 59, 62];
    for (error, reason) in [
        (fault(&six[..5], &image(wide, 24)), "sequence 0 is cut inside image grid 0"),
        (fault(&[1, 2], &image(wide, 24)), "1 image grids were given, the token ids use 0"),
        (fault(&six, &VisualItems::default()), "token 1 is a image placeholder, but all 0 image grids"),
        (fault(&six, &image(wide, 23)), "pixels are [23, 96], expected [24, 96]"),
        (fault(&six, &image(Grid::new(1, 3, 8), 24)), "(1, 3, 8)"),
        (fault(&six, &image(Grid::new(0, 4, 6), 0)), "(0, 4, 6)"),
        (
            fault(&six, &VisualItems { prompt_lens: vec![9], ..image(wide, 24) }),
            "sequence 0: a prompt of 9 tokens in a sequence of 8",
        ),
        (
            fault(&six, &VisualItems { image_uses: vec![1], ..image(wide, 24) }),
            "image_uses has image 1, of 1",
        ),
        (
            fault(&six, &VisualItems { image_grids: vec![wide; 2], image_uses: vec![1], ..image(wide, 24) }),
            "image 0 stands nowhere in image_uses",
        ),
        (
            fault(&six, &VisualItems { prompt_lens: vec![8, 8], ..image(wide, 24) }),
            "2 prompt_lens for 1 sequences",
        ),
        (
            fault(&six, &VisualItems { image_grids: vec![wide], ..VisualItems::default() }),
            "1 image grids without pixels",
        ),
        (
            fault(&[1], &VisualItems { video_pixels: Some(pixels("v", 4)), ..VisualItems::default() }),
            "video pixels without grids",
        ),
        (fault(&[64], &VisualItems::default()), "token id 64 is outside the vocabulary"),
    ] {
        assert!(error.contains(reason), "{error}, expected: {reason}");
    }
}

/// Whatever stands in place of one value, the directory is refused or read; nothing panics or asks for endless memory.
#[test]
fn broken_configurations_are_refused_or_read() {
    let (dir, _) = model(&config_json(false));
    let good = config_json(false);
    let values = [
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(7),
        json!(u64::MAX),
        json!(1u64 << 40),
        json!(1e300),
        json!(0.5),
        json!("yarn"),
        json!(true),
        json!([]),
        json!([0, 1, 2]),
        json!([1u64 << 60, 1, 1]),
        json!({}),
    ];
    let (mut refused, mut read) = (0, 0);
    for section in ["/vision_config", "/text_config/rope_parameters", ""] {
        for key in good.pointer(section).unwrap().as_object().unwrap().keys() {
            for value in &values {
                let mut config = good.clone();
                config.pointer_mut(section).unwrap()[key] = value.clone();
                std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
                match VlModel::load(dir.path()) {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 250 && read > 10, "{refused} refused, {read} read");
}

/// Everything that is wrong with the weights is said at once.
#[test]
fn weights_that_do_not_fit_are_named() {
    let (dir, _) = model(&config_json(false));
    let mut config = config_json(false);
    config["vision_config"]["intermediate_size"] = json!(48);
    config["vision_config"]["deepstack_visual_indexes"] = json!([0, 1, 2, 3]);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let Err(error) = VlModel::load(dir.path()) else { panic!("loaded") };
    let error = error.to_string();
    for part in [
        "model.visual.blocks.2.mlp.linear_fc1.weight is [40, 24], expected [48, 24]",
        "model.visual.blocks.0.mlp.linear_fc2.weight is [24, 40], expected [24, 48]",
        "model.visual.deepstack_merger_list.3.norm.bias is missing",
    ] {
        assert!(error.contains(part), "{error}, expected: {part}");
    }
    config["vision_config"]["deepstack_visual_indexes"] = json!([0]);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let Err(error) = VlModel::load(dir.path()) else { panic!("loaded") };
    let part = "deepstack_merger_list.2.norm.weight is not a tensor of this architecture";
    assert!(error.to_string().contains(part), "{error}");
}
