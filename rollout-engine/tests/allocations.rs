//! Once a batch is on its way, a step takes no memory but pages of caches.
#![allow(missing_docs, clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use qwen3::{Config, Decoder, Model, Precision, VisualItems};
use rollout_engine::random::{Stream, keyed_rng};
use rollout_engine::{Engine, EngineOptions, Request, SamplingParams};

struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LAYERS: usize = 2;
/// Tokens of a page.
const PAGE: usize = 32;

/// Allocations of each step of `sequences` that decode.
fn taken(moe: bool, precision: Precision, sequences: u64, [temperature, top_p]: [f32; 2]) -> Vec<usize> {
    let kind = if moe { "qwen3_moe" } else { "qwen3" };
    let config = Config::from_json(&format!(
        r#"{{ "model_type": "{kind}", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "norm_topk_prob": true, "vocab_size": 3000, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": {LAYERS}, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": true }}"#
    ))
    .unwrap();
    let model = Model::init(config, |i| keyed_rng(11, Stream::Init, [i as u64, 0])).unwrap();
    let decoder = Decoder::with_precision(&model, 256, precision).unwrap();
    let mut engine =
        Engine::new(Arc::new(decoder), EngineOptions { max_rows: 150, ..EngineOptions::default() }).unwrap();
    let params =
        Arc::new(SamplingParams { max_new_tokens: 80, temperature, top_p, ..SamplingParams::default() });
    let samples = (0..sequences).map(|i| [1, i]).collect();
    let request =
        Request { id: 1, prompt: vec![1, 2, 3], items: VisualItems::default(), samples, seed: 5, params };
    engine.submit(request).unwrap();
    let mut taken = Vec::with_capacity(200);
    while !engine.is_idle() {
        let before = TAKEN.load(Ordering::Relaxed);
        engine.step().unwrap();
        taken.push(TAKEN.load(Ordering::Relaxed) - before);
    }
    assert_eq!(taken.len(), 80);
    taken
}

/// Of each step after the first ones, in which buffers find their sizes, what it took beyond pages.
fn beyond_pages(threads: usize) -> Vec<(String, usize)> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut beyond = Vec::new();
    for (moe, precision) in [
        (false, Precision::F32),
        (false, Precision::Bf16),
        (false, Precision::Q8),
        (true, Precision::F32),
        (true, Precision::Bf16),
    ] {
        // Up to several blocks of rows.
        for (sequences, sampling) in [(1, [1.0, 0.9]), (9, [0.0, 1.0]), (150, [0.7, 1.0])] {
            let taken = pool.install(|| taken(moe, precision, sequences, sampling));
            for (step, taken) in taken.iter().enumerate().take(79).skip(20) {
                // The first step reads the prompt of three tokens, behind which a sequence that is alone goes on in its pages; others have
                // their own. Step s puts token s - 1 of the response into a cache.
                let place = if sequences == 1 { 3 + step - 1 } else { step - 1 };
                let pages = if place % PAGE == 0 { 2 * LAYERS * sequences as usize } else { 0 };
                let case = format!("experts {moe}, {precision:?}, {sequences} sequences, step {step}");
                beyond.push((case, taken.saturating_sub(pages)));
            }
        }
    }
    beyond
}

#[test]
fn decoding_takes_nothing_but_pages() {
    let taken: Vec<_> = beyond_pages(1).into_iter().filter(|(_, taken)| *taken > 0).collect();
    assert!(taken.is_empty(), "{taken:?}");
    // Where threads take work from one another, a thread may meet a task of a kind for the first time late.
    let beyond = beyond_pages(2);
    let taken: Vec<_> = beyond.iter().filter(|(_, taken)| *taken > 0).collect();
    assert!(taken.len() < beyond.len() / 20, "{taken:?}");
}
