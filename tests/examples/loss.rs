//! Times a loss and its gradient, from logits or from hidden states, for `bench/compare.py`: one for every line of standard
//! input, answered with the seconds and the peak of memory, as `bench/worker.py` does for the peers.
//!
//! `loss logits|hidden TOKENS VOCABULARY SIZE f32|bf16`, by GRPO's objective over 16 sequences; SIZE is the hidden size. With
//! `bf16` the products round their operands to it.

#![expect(clippy::print_stdout, reason = "a command that reports")]

use std::error::Error;
use std::time::Instant;

use policy_loss::{Advantages, LinearHead, LossConfig, Normalizer, PolicyLoss, TokenBatch};
use qwen3::MatmulPrecision;
use train_core::metrics::peak_memory_mib;

/// The allocator of `trainer`, which keeps freed pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn keep_pages() {
    // The option before the one for NUMA nodes; the binding has no name for it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: sets an integer; -1 means never.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

const SEQUENCES: usize = 16;
/// Bytes of logits that exist at a time, whatever the vocabulary.
const CHUNK_BYTES: usize = 96 << 20;

/// Numbers from -1 to 1 without a pattern that matters here.
fn noise(count: usize, scale: f32) -> Vec<f32> {
    let number =
        |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..count).map(|i| scale * number(i)).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    keep_pages();
    let usage = "usage: loss logits|hidden TOKENS VOCABULARY SIZE f32|bf16";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [start, tokens, vocabulary, size, precision] = arguments.as_slice() else { return Err(usage.into()) };
    let [tokens, vocabulary, size] = [tokens, vocabulary, size].map(|n| n.parse::<usize>());
    let (tokens, vocabulary, size) = (tokens? / SEQUENCES * SEQUENCES, vocabulary?, size?);
    let products = match precision.as_str() {
        "f32" => MatmulPrecision::F32,
        "bf16" => MatmulPrecision::Bf16,
        _ => return Err(usage.into()),
    };
    let (config, _) = LossConfig::preset("grpo", tokens)?;
    let loss = LossConfig { kl: None, ..config }.validate()?;
    let targets: Vec<u32> = (0..tokens).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let offsets: Vec<usize> = (0..=SEQUENCES).map(|i| i * tokens / SEQUENCES).collect();
    let (advantages, old) = (noise(SEQUENCES, 1.0), vec![-(vocabulary as f32).ln(); tokens]);
    let batch = TokenBatch {
        logp_old: Some(&old),
        ..TokenBatch::new(&offsets, &[], Advantages::PerSequence(&advantages))
    };
    let counts =
        Normalizer { tokens: Some(tokens as f64), seqs: Some(SEQUENCES as f64), ..Normalizer::default() };
    match start.as_str() {
        "logits" => {
            let mut logits = noise(tokens * vocabulary, 3.0);
            serve(|| {
                // In place: from the second time on these are gradients, which take as long.
                loss.evaluate_logits(&mut logits, &targets, 1.0, &batch, &counts)?;
                Ok(())
            })
        }
        "hidden" => {
            let (hidden, weight) =
                (noise(tokens * size, 1.0), noise(vocabulary * size, (3.0 / size as f32).sqrt()));
            let head = LinearHead {
                hidden: &hidden,
                weight: &weight,
                size,
                targets: &targets,
                temperature: 1.0,
                chunk: CHUNK_BYTES / (4 * vocabulary),
                banned: None,
            };
            serve(|| from_hidden(&loss, &head, &batch, &counts, &products))
        }
        _ => Err(usage.into()),
    }
}

fn from_hidden(
    loss: &PolicyLoss,
    head: &LinearHead<'_>,
    batch: &TokenBatch<'_, f32>,
    counts: &Normalizer,
    products: &MatmulPrecision,
) -> Result<(), Box<dyn Error>> {
    let mut grad_weight = vec![0.0; head.weight.len()];
    let out = loss.evaluate_linear(head, batch, counts, products, &mut grad_weight)?;
    std::hint::black_box((out, grad_weight));
    Ok(())
}

fn serve(mut measure: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    measure()?;
    // Refused in some containers; the peak then counts what made the inputs too.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    println!("ready");
    for line in std::io::stdin().lines() {
        line?;
        let start = Instant::now();
        measure()?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", serde_json::json!({ "seconds": seconds, "peak_mib": peak_memory_mib() }));
    }
    Ok(())
}
