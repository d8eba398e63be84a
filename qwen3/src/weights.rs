//! Parameters by name: their order, their place in Hugging Face files, and random initial values.
//!
//! Projections that run together are stored together here (`q`, `k` and `v`; gate and up; all experts of a
//! layer). In files they are separate tensors, whose concatenation in order is exactly the stored one, so
//! loading appends and saving slices.

use std::path::Path;

use rand::RngCore;

use crate::config::Config;
use crate::error::Result;
pub(crate) use crate::files::{load_specs, save_specs};

/// What kind of parameter; optimisers choose weight decay and learning rates by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterGroup {
    /// Token embedding and, when it is a parameter of its own, the head.
    Embedding,
    /// Weight matrices of attention, MLPs and experts.
    Matrix,
    /// Norm weights.
    Norm,
    /// Router matrices.
    Router,
}

/// One parameter: a concatenation of tensors of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Stable name.
    pub name: String,
    /// Its kind.
    pub group: ParameterGroup,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Names and shapes in Hugging Face files, in order of concatenation.
    pub parts: Vec<(String, Vec<usize>)>,
}

/// A parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// [`ParameterSpec::name`].
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub data: Vec<f32>,
}

/// The element type of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveType {
    /// 32-bit floats: what training holds.
    F32,
    /// bfloat16, rounded to nearest even.
    Bf16,
    /// IEEE half precision, rounded to nearest even. A value beyond its range is an error.
    F16,
}

/// All parameters of a model, in their fixed order.
pub fn parameter_specs(config: &Config) -> Vec<ParameterSpec> {
    use ParameterGroup::{Embedding, Matrix, Norm, Router};
    let (h, d) = (config.hidden_size, config.head_dim);
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let single = |name: String, group, shape: &[usize]| ParameterSpec {
        parts: vec![(name.clone(), shape.to_vec())],
        name,
        group,
        shape: shape.to_vec(),
    };
    let mut specs = vec![single("model.embed_tokens.weight".into(), Embedding, &[config.vocab_size, h])];
    for layer in 0..config.num_hidden_layers {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let part = |rest: &str, shape: [usize; 2]| (name(rest), shape.to_vec());
        specs.push(single(name("input_layernorm.weight"), Norm, &[h]));
        specs.push(ParameterSpec {
            name: name("self_attn.qkv_proj.weight"),
            group: Matrix,
            shape: vec![q + 2 * kv, h],
            parts: vec![
                part("self_attn.q_proj.weight", [q, h]),
                part("self_attn.k_proj.weight", [kv, h]),
                part("self_attn.v_proj.weight", [kv, h]),
            ],
        });
        if config.has_qk_norm() {
            specs.push(single(name("self_attn.q_norm.weight"), Norm, &[d]));
            specs.push(single(name("self_attn.k_norm.weight"), Norm, &[d]));
        }
        specs.push(single(name("self_attn.o_proj.weight"), Matrix, &[h, q]));
        specs.push(single(name("post_attention_layernorm.weight"), Norm, &[h]));
        match &config.moe {
            Some(moe) if config.is_moe_layer(layer) => {
                let (experts, inner) = (moe.num_experts, moe.moe_intermediate_size);
                let expert =
                    |e: usize, which: &str, shape| part(&format!("mlp.experts.{e}.{which}.weight"), shape);
                specs.push(single(name("mlp.gate.weight"), Router, &[experts, h]));
                specs.push(ParameterSpec {
                    name: name("mlp.experts.gate_up_proj"),
                    group: Matrix,
                    shape: vec![experts, 2 * inner, h],
                    parts: (0..experts)
                        .flat_map(|e| [expert(e, "gate_proj", [inner, h]), expert(e, "up_proj", [inner, h])])
                        .collect(),
                });
                specs.push(ParameterSpec {
                    name: name("mlp.experts.down_proj"),
                    group: Matrix,
                    shape: vec![experts, h, inner],
                    parts: (0..experts).map(|e| expert(e, "down_proj", [h, inner])).collect(),
                });
            }
            _ => {
                let inner = config.intermediate_size;
                specs.push(ParameterSpec {
                    name: name("mlp.gate_up_proj.weight"),
                    group: Matrix,
                    shape: vec![2 * inner, h],
                    parts: vec![
                        part("mlp.gate_proj.weight", [inner, h]),
                        part("mlp.up_proj.weight", [inner, h]),
                    ],
                });
                specs.push(single(name("mlp.down_proj.weight"), Matrix, &[h, inner]));
            }
        }
    }
    specs.push(single("model.norm.weight".into(), Norm, &[h]));
    if !config.tie_word_embeddings {
        specs.push(single("lm_head.weight".into(), Embedding, &[config.vocab_size, h]));
    }
    specs
}

/// Random values: normal with standard deviation [`Config::initializer_range`], ones for norms. `rng` gives one
/// generator a parameter, by its index.
pub fn init<R: RngCore, F: FnMut(usize) -> R>(
    config: &Config,
    rng: F,
) -> impl Iterator<Item = NamedTensor> + use<R, F> {
    init_specs(parameter_specs(config), config.initializer_range, rng)
}

/// [`init`] for any list of parameters; zeros for biases.
pub(crate) fn init_specs<R: RngCore>(
    specs: Vec<ParameterSpec>,
    std: f64,
    mut rng: impl FnMut(usize) -> R,
) -> impl Iterator<Item = NamedTensor> {
    specs.into_iter().enumerate().map(move |(index, spec)| {
        let len = spec.shape.iter().product();
        let data = match spec.group {
            _ if spec.name.ends_with(".bias") => vec![0.0; len],
            ParameterGroup::Norm => vec![1.0; len],
            _ => normal(&mut rng(index), len, std),
        };
        NamedTensor { name: spec.name, shape: spec.shape, data }
    })
}

/// Box–Muller on 53-bit uniforms.
fn normal(rng: &mut impl RngCore, len: usize, std: f64) -> Vec<f32> {
    let mut uniform = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut values = Vec::with_capacity(len + 1);
    while values.len() < len {
        let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        values.push((std * radius * angle.cos()) as f32);
        values.push((std * radius * angle.sin()) as f32);
    }
    values.truncate(len);
    values
}

/// Reads the weights of a Hugging Face directory (one file or shards; BF16, F16 or F32), in the order of
/// [`parameter_specs`]. Every tensor must be there, fit, be used, and stand where the index says; all that is wrong is
/// reported at once.
pub fn load(dir: &Path, config: &Config) -> Result<Vec<NamedTensor>> {
    load_specs(dir, parameter_specs(config))
}

/// Writes `config.json` and the weights under the names of [`ParameterSpec::parts`]: `model.safetensors`, or, beyond
/// `max_shard_size` bytes of them, shards and `model.safetensors.index.json` as transformers does. A tensor is never cut.
/// Each file appears whole or not at all; weight files of an earlier save are removed.
pub fn save(
    dir: &Path,
    config: &Config,
    tensors: &[NamedTensor],
    save_type: SaveType,
    max_shard_size: u64,
) -> Result<()> {
    save_specs(dir, parameter_specs(config), &config.to_json(save_type), tensors, save_type, max_shard_size)
}
