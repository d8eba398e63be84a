//! The tiny Qwen3-VL of the worked numbers.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use mrope::Grid;
use qwen3::vision::parameter_specs;
use qwen3::{VisualItems, VlConfig, VlModel};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::values;

#[rustfmt::skip]
pub const INPUT: [u32; 27] = [
    3, 17, 61, 59, 59, 59, 59, 59, 59, 62, 42, 8, 61, 60, 60, 60, 60, 62, 9, 61, 60, 60, 60, 60, 62, 25, 31,
];

/// The tiny model of the worked numbers, in the form of transformers 5.
pub fn config_json(moe: bool) -> Value {
    let mut config = json!({
        "model_type": "qwen3_vl",
        "image_token_id": 59, "video_token_id": 60, "vision_start_token_id": 61, "vision_end_token_id": 62,
        "tie_word_embeddings": true,
        "text_config": {
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64,
            "rope_parameters": {
                "rope_theta": 5e6, "rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": true
            }
        },
        "vision_config": {
            "depth": 4, "hidden_size": 24, "num_heads": 2, "intermediate_size": 40, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 32,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1, 3],
            "hidden_act": "gelu_pytorch_tanh"
        }
    });
    if moe {
        config["model_type"] = json!("qwen3_vl_moe");
        config["tie_word_embeddings"] = json!(false);
        let text = config["text_config"].as_object_mut().unwrap();
        for (key, value) in [
            ("num_experts", json!(8)),
            ("num_experts_per_tok", json!(2)),
            ("moe_intermediate_size", json!(12)),
            ("mlp_only_layers", json!([1])),
        ] {
            text.insert(key.into(), value);
        }
    }
    config
}

/// The model, by way of a checkpoint whose values are a function of the tensors' names. Fused experts are
/// `[experts, input, output]` in it.
pub fn model(config: &Value) -> (tempfile::TempDir, VlModel) {
    let text = config.to_string();
    let mut stored = Vec::new();
    for spec in parameter_specs(&VlConfig::from_json(&text).unwrap()) {
        for (name, mut shape) in spec.parts {
            if name.contains(".mlp.experts.") {
                shape.swap(1, 2);
            }
            let bytes: Vec<u8> = values(&name, &shape).into_iter().flat_map(f32::to_le_bytes).collect();
            stored.push((name, shape, bytes));
        }
    }
    let views = stored.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    std::fs::write(dir.path().join("config.json"), text).unwrap();
    let model = VlModel::load(dir.path()).unwrap();
    (dir, model)
}

pub fn pixels(name: &str, patches: usize) -> Tensor {
    Tensor::from_vec(values(name, &[patches, 96]), (patches, 96), &Device::Cpu).unwrap()
}

pub fn items() -> VisualItems {
    VisualItems {
        image_pixels: Some(pixels("pixel_values", 24)),
        image_grids: vec![Grid::new(1, 4, 6)],
        video_pixels: Some(pixels("pixel_values_videos", 32)),
        video_grids: vec![Grid::new(2, 4, 4)],
        ..VisualItems::default()
    }
}
