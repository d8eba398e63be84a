//! The estimate of a pass's memory against what it allocates.
#![allow(missing_docs, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{Device, Tensor};
use mrope::Grid;
use qwen3::{Batch, Config, ForwardOptions, Model, VisualItems, VlConfig, VlModel};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use train_core::footprint::{Footprint, TrainingPass};
use train_core::policy::Policy;

/// Counts the bytes in use, and the most there were.
struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// One test at a time, so that a count is one test's.
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: it only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn text(moe: bool) -> Value {
    let mut config = json!({
        "model_type": "qwen3", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6,
        "rope_theta": 1e4, "max_position_embeddings": 2048, "tie_word_embeddings": true,
    });
    if moe {
        config["model_type"] = json!("qwen3_moe");
        config["num_experts"] = json!(4);
        config["num_experts_per_tok"] = json!(2);
        config["moe_intermediate_size"] = json!(48);
        config["norm_topk_prob"] = json!(true);
    }
    config
}

fn vision() -> VlConfig {
    let mut text = text(false);
    text["rope_parameters"] = json!({ "rope_theta": 1e4, "rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": true });
    let config = json!({
        "model_type": "qwen3_vl", "image_token_id": 59, "video_token_id": 60, "vision_start_token_id": 61,
        "vision_end_token_id": 62, "tie_word_embeddings": true, "text_config": text,
        "vision_config": {
            "depth": 6, "hidden_size": 48, "num_heads": 2, "intermediate_size": 96, "in_channels": 3,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 64,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 2], "hidden_act": "gelu_pytorch_tanh",
        },
    });
    VlConfig::from_json(&config.to_string()).unwrap()
}

fn rng(i: usize) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(i as u64)
}

/// The most bytes that forward and backward have at once, of which `gradients` bytes are the weights'.
fn measured(model: &mut Policy, batch: &Batch, items: &VisualItems, recompute: bool) -> f64 {
    model.set_recompute(recompute);
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let hidden = model.forward(batch, items, &ForwardOptions::default()).unwrap();
    let offsets = [0, batch.tokens.len()];
    let (loss, _) = model.cross_entropy(&hidden.states, &batch.tokens, &offsets, batch.tokens.len()).unwrap();
    drop(model.gradients(&loss, items).unwrap());
    (MOST.load(Relaxed) - before) as f64
}

#[test]
fn estimates_are_near_what_is_allocated() {
    let _alone = ALONE.lock().unwrap();
    let image = VisualItems {
        image_pixels: Some(Tensor::zeros((1024, 96), candle_core::DType::F32, &Device::Cpu).unwrap()),
        image_grids: vec![Grid::new(1, 32, 32)],
        ..VisualItems::default()
    };
    let of_text = |moe| {
        let config = Config::from_json(&text(moe).to_string()).unwrap();
        let footprint = Footprint::new(&config);
        (Policy::from(Model::init(config, rng).unwrap()), footprint, VisualItems::default(), 0)
    };
    let of_vision = || {
        let model = VlModel::init(vision(), rng).unwrap();
        (Policy::Vision(Box::new(model)), Footprint::with_vision(&vision()), image.clone(), 1024)
    };
    for (name, (mut model, footprint, items, patches)) in
        [("dense", of_text(false)), ("experts", of_text(true)), ("vision", of_vision())]
    {
        let mut tokens: Vec<u32> = (0..1024).map(|i| i * 7 % 50).collect();
        if patches > 0 {
            tokens[0] = 61;
            tokens[1..257].fill(59);
            tokens[257] = 62;
        }
        let batch = Batch::pack([&tokens[..]]);
        let mut peaks = Vec::new();
        for recompute in [false, true] {
            let estimate = footprint.training(TrainingPass { tokens: 1024, patches, recompute });
            let estimate = (estimate.activations + estimate.gradients) as f64;
            let found = measured(&mut model, &batch, &items, recompute);
            eprintln!("{name}, recompute {recompute}: {found} bytes, estimate {estimate}");
            assert!(
                (0.75..1.5).contains(&(found / estimate)),
                "{name}, recompute {recompute}: {found} bytes, estimate {estimate}"
            );
            peaks.push(found);
        }
        assert!(peaks[1] < 0.5 * peaks[0], "{name}: {peaks:?}");
    }
}
