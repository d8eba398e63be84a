//! Writing GGUF files.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::{Pick, source};
use crate::config::{Architecture, Config};
use crate::error::{Error, Result};
use crate::weights::{NamedTensor, parameter_specs};

/// The element type of matrices in a written file. Norms and routers stay in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

/// Writes a model as [`super::load`] and llama.cpp read it; `metadata` is what the file says besides its sizes, such as the
/// tokenizer. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Config`] with the field that the format cannot hold, [`Error::Io`].
pub fn save(
    path: &Path,
    config: &Config,
    tensors: &[NamedTensor],
    file_type: FileType,
    metadata: &[(String, Value)],
) -> Result<()> {
    let mut entries = sizes(config, file_type)?;
    entries.extend_from_slice(metadata);
    let tensors = stored(config, tensors)?
        .into_iter()
        .map(|tensor| Ok((tensor.name.clone(), encode(tensor, file_type)?)))
        .collect::<Result<Vec<_>>>()?;
    let entries: Vec<(&str, &Value)> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let temporary = path.with_extension("gguf.tmp");
    let written = File::create(&temporary).map_err(|e| Error::io(&temporary, e)).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file, &entries, &tensors).map_err(|e| Error::format(path, e))?;
        let file = file.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
        file.sync_all().and_then(|()| std::fs::rename(&temporary, path)).map_err(|e| Error::io(path, e))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn encode(NamedTensor { name, shape, data }: NamedTensor, file_type: FileType) -> Result<QTensor> {
    let dtype = match file_type {
        _ if shape.len() < 2 || name.ends_with("ffn_gate_inp.weight") => GgmlDType::F32,
        FileType::F32 => GgmlDType::F32,
        FileType::F16 => GgmlDType::F16,
        FileType::Bf16 => GgmlDType::BF16,
    };
    Ok(QTensor::quantize(&Tensor::from_vec(data, shape, &Device::Cpu)?, dtype)?)
}

/// The tensors under the names and in the layout of the format.
fn stored(config: &Config, tensors: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
    let mut out: Vec<NamedTensor> = Vec::new();
    for (spec, tensor) in parameter_specs(config).iter().zip(tensors) {
        let mut rest = tensor.data.as_slice();
        for (part, shape) in &spec.parts {
            let len = shape.iter().product::<usize>();
            let (values, after) = rest
                .split_at_checked(len)
                .ok_or_else(|| Error::Batch(format!("{part} has too few values for its shape {shape:?}")))?;
            rest = after;
            let place = source(part, config)?;
            let mut put =
                |shape: Vec<usize>, data| out.push(NamedTensor { name: place.name.clone(), shape, data });
            match place.pick {
                Pick::Whole => put(shape.clone(), values.to_vec()),
                Pick::Permuted { heads } => {
                    let width = shape[1];
                    let mut rows = vec![0.0; len];
                    for (row, values) in values.chunks(width).enumerate() {
                        rows[Pick::stored_row(row, shape[0] / heads) * width..][..width]
                            .copy_from_slice(values);
                    }
                    put(shape.clone(), rows);
                }
                Pick::Expert { index: 0, of } => put([&[of], shape.as_slice()].concat(), values.to_vec()),
                // The parts of a parameter come by ascending expert.
                Pick::Expert { .. } => {
                    if let Some(tensor) = out.iter_mut().rev().find(|tensor| tensor.name == place.name) {
                        tensor.data.extend_from_slice(values);
                    }
                }
            }
        }
    }
    Ok(out)
}

fn sizes(config: &Config, file_type: FileType) -> Result<Vec<(String, Value)>> {
    let prefix = match config.architecture {
        Architecture::Llama => "llama",
        Architecture::Qwen3 => "qwen3",
        Architecture::Qwen3Moe => "qwen3moe",
    };
    let size = |key: &str, value: usize| -> Result<(String, Value)> {
        let small = u32::try_from(value).map_err(|_| Error::config(key, format!("is {value}")))?;
        Ok((format!("{prefix}.{key}"), Value::U32(small)))
    };
    let file_type = match file_type {
        FileType::F32 => 0,
        FileType::F16 => 1,
        FileType::Bf16 => 32,
    };
    let mut entries = vec![
        ("general.architecture".to_owned(), Value::String(prefix.into())),
        ("general.file_type".to_owned(), Value::U32(file_type)),
        size("vocab_size", config.vocab_size)?,
        size("block_count", config.num_hidden_layers)?,
        size("context_length", config.max_position_embeddings)?,
        size("embedding_length", config.hidden_size)?,
        size("feed_forward_length", config.intermediate_size)?,
        size("attention.head_count", config.num_attention_heads)?,
        size("attention.head_count_kv", config.num_key_value_heads)?,
        size("attention.key_length", config.head_dim)?,
        size("attention.value_length", config.head_dim)?,
        size("rope.dimension_count", config.head_dim)?,
        (format!("{prefix}.attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps as f32)),
        (format!("{prefix}.rope.freq_base"), Value::F32(config.rope_theta as f32)),
    ];
    if let Some(moe) = &config.moe {
        let refuse = |field: &str, value: String| {
            Err(Error::config(field, format!("{value} has no place in a GGUF file")))
        };
        if !moe.norm_topk_prob {
            return refuse("norm_topk_prob", "false".into());
        }
        if moe.decoder_sparse_step != 1 {
            return refuse("decoder_sparse_step", moe.decoder_sparse_step.to_string());
        }
        if !moe.mlp_only_layers.is_empty() {
            return refuse("mlp_only_layers", format!("{:?}", moe.mlp_only_layers));
        }
        entries.push(size("expert_count", moe.num_experts)?);
        entries.push(size("expert_used_count", moe.num_experts_per_tok)?);
        entries.push(size("expert_feed_forward_length", moe.moe_intermediate_size)?);
    }
    Ok(entries)
}
