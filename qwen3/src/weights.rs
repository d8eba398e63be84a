//! Parameters by name: their order, their place in Hugging Face files, loading, saving and random initial values.
//!
//! Projections that run together are stored together here (`q`, `k` and `v`; gate and up; all experts of a
//! layer). In files they are separate tensors, whose concatenation in order is exactly the stored one, so
//! loading appends and saving slices.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use rand::RngCore;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result};

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
    /// Rounded to nearest even.
    Bf16,
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
pub fn init<R: RngCore>(config: &Config, rng: impl FnMut(usize) -> R) -> Vec<NamedTensor> {
    init_specs(parameter_specs(config), config.initializer_range, rng)
}

/// [`init`] for any list of parameters; zeros for biases.
pub(crate) fn init_specs<R: RngCore>(
    specs: Vec<ParameterSpec>,
    std: f64,
    mut rng: impl FnMut(usize) -> R,
) -> Vec<NamedTensor> {
    let specs = specs.into_iter().enumerate();
    specs
        .map(|(index, spec)| {
            let len = spec.shape.iter().product();
            let data = match spec.group {
                _ if spec.name.ends_with(".bias") => vec![0.0; len],
                ParameterGroup::Norm => vec![1.0; len],
                _ => normal(&mut rng(index), len, std),
            };
            NamedTensor { name: spec.name, shape: spec.shape, data }
        })
        .collect()
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

/// The weight files of a directory: those of the index, or the single one.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        return Ok(vec![dir.join("model.safetensors")]);
    }
    let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| Error::format(&index, e))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::format(&index, "has no `weight_map`"));
    };
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    // A shard lies beside its index: a name that leads elsewhere would read any file.
    if let Some(name) = names.iter().find(|n| Path::new(n).file_name() != Some(n.as_ref())) {
        return Err(Error::format(&index, format!("`{name}` is not the name of a file in this directory")));
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}

fn decode(view: &TensorView<'_>) -> std::result::Result<Vec<f32>, String> {
    let data = view.data();
    let half = |f: fn([u8; 2]) -> f32| data.as_chunks::<2>().0.iter().map(|b| f(*b)).collect();
    match view.dtype() {
        Dtype::F32 => Ok(data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::BF16 => Ok(half(|b| half::bf16::from_le_bytes(b).to_f32())),
        Dtype::F16 => Ok(half(|b| half::f16::from_le_bytes(b).to_f32())),
        other => Err(format!("has type {other:?}, expected F32, BF16 or F16")),
    }
}

/// Reads the weights of a Hugging Face directory (one file or shards; BF16, F16 or F32), in the order of
/// [`parameter_specs`]. Every tensor must be there, fit and be used; all that is wrong is reported at once.
pub fn load(dir: &Path, config: &Config) -> Result<Vec<NamedTensor>> {
    load_specs(dir, parameter_specs(config))
}

/// [`load`] for any list of parameters, whose first is the token embedding.
pub(crate) fn load_specs(dir: &Path, specs: Vec<ParameterSpec>) -> Result<Vec<NamedTensor>> {
    let embedding = specs.first().map(|s| s.name.clone()).unwrap_or_default();
    let wanted: BTreeMap<&str, &[usize]> =
        specs.iter().flat_map(|s| &s.parts).map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let mut found: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut tied_head = None;
    for path in files(dir)? {
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| Error::format(&path, e))?;
        for (name, view) in tensors.iter() {
            match wanted.get(name) {
                Some(shape) if *shape == view.shape() => match decode(&view) {
                    Ok(data) => drop(found.insert(name.to_string(), data)),
                    Err(why) => problems.push(format!("{name} {why}")),
                },
                Some(shape) => problems.push(format!("{name} is {:?}, expected {shape:?}", view.shape())),
                None if name == "lm_head.weight" => tied_head = decode(&view).ok(),
                None if name.ends_with("rotary_emb.inv_freq") => {}
                None => problems.push(format!("{name} is not a tensor of this architecture")),
            }
        }
    }
    let missing = wanted.keys().filter(|n| !found.contains_key(**n));
    problems.extend(missing.map(|n| format!("{n} is missing")));
    if tied_head.is_some_and(|head| found.get(&embedding) != Some(&head)) {
        problems
            .push("lm_head.weight differs from the embedding although tie_word_embeddings is true".into());
    }
    if !problems.is_empty() {
        return Err(Error::Weights { path: dir.to_path_buf(), problems });
    }
    Ok(specs
        .into_iter()
        .map(|spec| {
            let data = spec.parts.iter().flat_map(|(n, _)| found.remove(n).unwrap_or_default()).collect();
            NamedTensor { name: spec.name, shape: spec.shape, data }
        })
        .collect())
}

/// Writes `config.json` and `model.safetensors` under the names of [`ParameterSpec::parts`]. Each file appears
/// whole or not at all.
pub fn save(dir: &Path, config: &Config, tensors: &[NamedTensor], save_type: SaveType) -> Result<()> {
    save_specs(dir, parameter_specs(config), &config.to_json(save_type), tensors, save_type)
}

/// [`save`] for any list of parameters.
pub(crate) fn save_specs(
    dir: &Path,
    specs: Vec<ParameterSpec>,
    config: &str,
    tensors: &[NamedTensor],
    save_type: SaveType,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    let (dtype, width) = match save_type {
        SaveType::F32 => (Dtype::F32, 4),
        SaveType::Bf16 => (Dtype::BF16, 2),
    };
    let encoded: Vec<Vec<u8>> = tensors
        .iter()
        .map(|t| match save_type {
            SaveType::F32 => t.data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            SaveType::Bf16 => t.data.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        })
        .collect();
    let mut views = Vec::new();
    for (spec, bytes) in specs.into_iter().zip(&encoded) {
        let mut start = 0;
        for (name, shape) in spec.parts {
            let len = shape.iter().product::<usize>() * width;
            let Some(part) = bytes.get(start..start + len) else {
                return Err(Error::Batch(format!("{name} has too few values for its shape {shape:?}")));
            };
            views.push((name, TensorView::new(dtype, shape, part).map_err(|e| Error::format(dir, e))?));
            start += len;
        }
    }
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::format(dir, e))?;
    write_whole(&dir.join("model.safetensors"), &bytes)?;
    write_whole(&dir.join("config.json"), config.as_bytes())
}

/// Writes under a temporary name, then renames.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, e)
    })
}
