//! Small models for tests.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod vl;

use qwen3::weights::{NamedTensor, parameter_specs};
use qwen3::{Architecture, Config, Model, MoeConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The sizes shared by the tiny models of the worked numbers.
pub fn tiny(architecture: Architecture) -> Config {
    Config {
        architecture,
        vocab_size: 64,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        initializer_range: 0.02,
        eos_token_ids: vec![1],
        pad_token_id: None,
        moe: (architecture == Architecture::Qwen3Moe).then(|| MoeConfig {
            num_experts: 8,
            num_experts_per_tok: 2,
            moe_intermediate_size: 12,
            norm_topk_prob: true,
            decoder_sparse_step: 1,
            mlp_only_layers: vec![1],
            router_aux_loss_coef: 0.001,
        }),
    }
}

/// A model with weights large enough that every part of it matters.
pub fn random_model(config: Config, seed: u64) -> Model {
    let config = Config { initializer_range: 0.3, ..config };
    Model::init(config, |i| ChaCha8Rng::seed_from_u64(seed * 1000 + i as u64)).unwrap()
}

/// Weights as a function of the tensor's name: FNV-1a of the name, then SplitMix64.
pub fn named_weights(config: &Config) -> Vec<NamedTensor> {
    let specs = parameter_specs(config).into_iter();
    specs
        .map(|spec| {
            let data = spec.parts.iter().flat_map(|(name, shape)| values(name, shape)).collect();
            NamedTensor { name: spec.name, shape: spec.shape, data }
        })
        .collect()
}

pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let uniform = |i: usize| {
        let mut z = hash.wrapping_add((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        2.0 * ((z >> 11) as f64 / (1u64 << 53) as f64) - 1.0
    };
    // Fused experts are input-major.
    let fan: usize = if shape.len() == 3 { shape[1] } else { shape.iter().skip(1).product() };
    let scale = |u: f64| {
        if ["norm.weight", "norm1.weight", "norm2.weight"].iter().any(|end| name.ends_with(end)) {
            1.0 + 0.25 * u
        } else if name.ends_with(".bias") {
            0.1 * u
        } else if name.starts_with("pixel_values") {
            u
        } else if name.contains("embed_tokens") || name.contains("pos_embed") {
            0.5 * u
        } else {
            u * 1.5 / (fan as f64).sqrt()
        }
    };
    (0..shape.iter().product()).map(|i| scale(uniform(i)) as f32).collect()
}
