//! What Pillow and transformers make of images and videos (`oracles/make_processor_golden.py`), byte for byte.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;

use mrope::Grid;
use qwen3::VlConfig;
use qwen3::vision::processor::{Image, PixelBounds, Processor, Video, VideoBudget, VideoWrapper};
use serde_json::{Value, json};

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/processor.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn processor() -> Processor {
    let config = json!({
        "model_type": "qwen3_vl", "tie_word_embeddings": true,
        "image_token_id": 59, "video_token_id": 60, "vision_start_token_id": 61, "vision_end_token_id": 62,
        "text_config": {
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64,
            "rope_parameters": { "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": true }
        },
        "vision_config": {
            "depth": 1, "hidden_size": 24, "num_heads": 2, "intermediate_size": 40, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 32,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0]
        }
    });
    let mut processor = Processor::released(VlConfig::from_json(&config.to_string()).unwrap());
    processor.image_bounds = PixelBounds { least: 256, most: 1024 };
    processor.video_bounds = PixelBounds { least: 512, most: 4096 };
    processor
}

/// The oracle's own image: bytes that change quickly.
fn frame(height: usize, width: usize, number: usize) -> Image {
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let value = |c: usize| 37 * y + 11 * x * x + 53 * c * x + 29 * c + 17 * number * (y + 1);
            rgb.extend((0..3).map(|c| (value(c) % 256) as u8));
        }
    }
    Image::from_rgb(height, width, rgb).unwrap()
}

fn list(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn pair(value: &Value) -> (usize, usize) {
    let [a, b] = list(value)[..] else { panic!("{value} is no pair") };
    (a, b)
}

fn bytes(value: &Value) -> Vec<u8> {
    let hex = value.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn grid(value: &Value) -> Grid {
    let [t, h, w] = list(value)[..] else { panic!("{value} is no grid") };
    Grid::new(t as u32, h as u32, w as u32)
}

/// Normalised values against the bytes that they come from.
#[track_caller]
fn near(what: &str, found: &[f32], wanted: &Value, bytes_off: f32) {
    let wanted = bytes(wanted);
    assert_eq!(found.len(), wanted.len(), "{what}: another number of values");
    let off = |(f, w): (&f32, &u8)| (f - (f32::from(*w) - 127.5) / 127.5).abs() * 127.5;
    let largest = found.iter().zip(&wanted).map(off).fold(0.0, f32::max);
    assert!(largest <= bytes_off, "{what}: off by {largest} of 255");
}

#[test]
fn resampling_is_pillows() {
    let cases = golden()["resize"].as_array().unwrap().clone();
    assert!(cases.len() > 5);
    for case in cases {
        let ((height, width), (to_height, to_width)) = (pair(&case["from"]), pair(&case["to"]));
        let out = frame(height, width, 0).resize(to_height, to_width).unwrap();
        assert!(out.rgb() == bytes(&case["rgb"]), "{height}x{width} to {to_height}x{to_width}");
    }
}

#[test]
fn images_are_those_of_transformers() {
    let cases = golden()["images"].as_array().unwrap().clone();
    assert!(cases.len() > 3);
    for case in cases {
        let (height, width) = pair(&case["size"]);
        let patches = processor().image(&frame(height, width, 1)).unwrap();
        let what = format!("{height}x{width}");
        assert_eq!(patches.grid, grid(&case["grid"]), "{what}");
        near(&what, &patches.pixels, &case["pixels"], 1e-3);
    }
}

/// transformers resamples frames in torchvision, whose rounding is another by at most one of 255.
#[test]
fn videos_are_those_of_transformers() {
    let cases = golden()["videos"].as_array().unwrap().clone();
    assert!(cases.len() > 3);
    for case in cases {
        let (height, width) = pair(&case["size"]);
        let (total, fps) = (case["total"].as_u64().unwrap() as usize, case["fps"].as_f64());
        let what = format!("{total} frames of {height}x{width}");
        let mut processor = processor();
        if case["capped"] == true {
            processor.video_budget = VideoBudget::CapPerFrame;
        }
        processor.video_wrapper = VideoWrapper::Keep;
        let indices = processor.frame_rate.sample(total, fps).unwrap();
        assert_eq!(indices, list(&case["indices"]), "{what}");
        let frames = indices.iter().map(|i| frame(height, width, *i)).collect();
        let video = Video::new(frames, indices, fps).unwrap();
        let patches = processor.video(&video).unwrap();
        let wanted = grid(&case["grid"]);
        assert_eq!(patches.grid, wanted, "{what}");
        let resized = (wanted.h as usize * 4, wanted.w as usize * 4) != (height, width);
        near(&what, &patches.pixels, &case["pixels"], if resized { 1.001 } else { 1e-3 });

        let encode = |text: &str| Ok(text.chars().map(|c| 1000 + c as u32).collect());
        let prompt = processor.prompt(&[61, 60, 62], &[], &[video], encode).unwrap();
        let tokens: Vec<usize> = prompt.tokens.iter().map(|t| *t as usize).collect();
        assert_eq!(tokens, list(&case["tokens"]), "{what}");
        assert_eq!(prompt.items.video_grids, [wanted]);
    }
}
