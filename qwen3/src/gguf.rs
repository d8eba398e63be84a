//! Models from and to GGUF files. Quantised weights are dequantised: what comes out is an ordinary trainable model.

mod write;

pub use write::{FileType, save};

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};

use crate::config::{Architecture, Config, MoeConfig};
use crate::error::{Error, Result};
use crate::weights::{NamedTensor, parameter_specs};

/// Reads the architecture and the weights, in the order of [`parameter_specs`], of a GGUF file of a `llama`, `qwen3` or
/// `qwen3moe` model. Every tensor must be there, fit and be used; all that is wrong is reported at once.
///
/// # Errors
/// [`Error::Format`] for a broken file, [`Error::UnsupportedArchitecture`], [`Error::Config`] with the metadata key at
/// fault, [`Error::Weights`].
pub fn load(path: &Path) -> Result<(Config, Vec<NamedTensor>)> {
    let (mut reader, content) = open(path)?;
    let config = config(&content)?;
    let specs = parameter_specs(&config);
    let parts: Vec<(Source, &[usize])> = specs
        .iter()
        .flat_map(|spec| &spec.parts)
        .map(|(name, shape)| Ok((source(name, &config)?, shape.as_slice())))
        .collect::<Result<_>>()?;

    let mut wanted: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (source, shape) in &parts {
        let shape = match source.pick {
            Pick::Expert { of, .. } => [&[of], *shape].concat(),
            _ => shape.to_vec(),
        };
        wanted.insert(&source.name, shape);
    }
    let mut problems = Vec::new();
    for (name, info) in &content.tensor_infos {
        match wanted.get(name.as_str()) {
            Some(shape) if shape.as_slice() == info.shape.dims() => {}
            Some(shape) => problems.push(format!("{name} is {:?}, expected {shape:?}", info.shape.dims())),
            None => problems.push(format!("{name} is not a tensor of this architecture")),
        }
    }
    let missing = wanted.keys().filter(|name| !content.tensor_infos.contains_key(**name));
    problems.extend(missing.map(|name| format!("{name} is missing")));
    let mut found: HashMap<&str, Vec<f32>> = HashMap::new();
    if problems.is_empty() {
        for name in wanted.keys() {
            let tensor = content.tensor(&mut reader, name, &Device::Cpu);
            let values = tensor.and_then(|t| t.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>());
            match values {
                Ok(values) => drop(found.insert(name, values)),
                Err(why) => problems.push(format!("{name}: {why}")),
            }
        }
    }
    if !problems.is_empty() {
        problems.sort();
        return Err(Error::Weights { path: path.to_path_buf(), problems });
    }
    let mut parts = parts.iter();
    let tensors = specs
        .iter()
        .map(|spec| {
            let parts = parts.by_ref().take(spec.parts.len());
            let data = parts.flat_map(|(source, shape)| source.pick.of(&found[source.name.as_str()], shape));
            NamedTensor { name: spec.name.clone(), shape: spec.shape.clone(), data: data.collect() }
        })
        .collect();
    Ok((config, tensors))
}

/// Reads the architecture alone.
///
/// # Errors
/// As [`load`], for the metadata.
pub fn load_config(path: &Path) -> Result<Config> {
    config(&open(path)?.1)
}

fn open(path: &Path) -> Result<(BufReader<File>, Content)> {
    let mut reader = BufReader::new(File::open(path).map_err(|e| Error::io(path, e))?);
    let content = Content::read(&mut reader).map_err(|e| Error::format(path, e))?;
    Ok((reader, content))
}

/// Where a tensor of a Hugging Face file is in a GGUF file.
struct Source {
    name: String,
    pick: Pick,
}

#[derive(Clone, Copy)]
enum Pick {
    Whole,
    /// Llama's queries and keys: the rows of a head are stored for the rotation of adjacent lanes.
    Permuted {
        heads: usize,
    },
    /// One of the stacked experts.
    Expert {
        index: usize,
        of: usize,
    },
}

impl Pick {
    fn of(self, values: &[f32], shape: &[usize]) -> Vec<f32> {
        match self {
            Self::Whole => values.to_vec(),
            Self::Expert { index, .. } => {
                let len = shape.iter().product::<usize>();
                values[index * len..(index + 1) * len].to_vec()
            }
            Self::Permuted { heads } => {
                let (rows, width) = (shape[0], shape[1]);
                let stored = |row| Self::stored_row(row, rows / heads);
                (0..rows).flat_map(|row| values[stored(row) * width..][..width].iter().copied()).collect()
            }
        }
    }

    /// Where a row of permuted heads of `d` lanes is stored: `s · d/2 + i` of a head as `2 i + s`.
    fn stored_row(row: usize, d: usize) -> usize {
        let half = d / 2;
        row / d * d + 2 * (row % half) + row % d / half
    }
}

fn source(part: &str, config: &Config) -> Result<Source> {
    let unknown = || Error::Batch(format!("{part} has no place in a GGUF file"));
    let whole = |name: &str| Ok(Source { name: name.into(), pick: Pick::Whole });
    match part {
        "model.embed_tokens.weight" => return whole("token_embd.weight"),
        "model.norm.weight" => return whole("output_norm.weight"),
        "lm_head.weight" => return whole("output.weight"),
        _ => {}
    }
    let (layer, rest) =
        part.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
    let rest = rest.strip_suffix(".weight").ok_or_else(unknown)?;
    let permuted = |heads| match config.architecture {
        Architecture::Llama => Pick::Permuted { heads },
        _ => Pick::Whole,
    };
    let (name, pick) = match rest {
        "input_layernorm" => ("attn_norm", Pick::Whole),
        "self_attn.q_proj" => ("attn_q", permuted(config.num_attention_heads)),
        "self_attn.k_proj" => ("attn_k", permuted(config.num_key_value_heads)),
        "self_attn.v_proj" => ("attn_v", Pick::Whole),
        "self_attn.o_proj" => ("attn_output", Pick::Whole),
        "self_attn.q_norm" => ("attn_q_norm", Pick::Whole),
        "self_attn.k_norm" => ("attn_k_norm", Pick::Whole),
        "post_attention_layernorm" => ("ffn_norm", Pick::Whole),
        "mlp.gate_proj" => ("ffn_gate", Pick::Whole),
        "mlp.up_proj" => ("ffn_up", Pick::Whole),
        "mlp.down_proj" => ("ffn_down", Pick::Whole),
        "mlp.gate" => ("ffn_gate_inp", Pick::Whole),
        expert => {
            let (index, which) = expert
                .strip_prefix("mlp.experts.")
                .and_then(|rest| rest.split_once('.'))
                .ok_or_else(unknown)?;
            let pick =
                Pick::Expert { index: index.parse().map_err(|_| unknown())?, of: config.moe()?.num_experts };
            match which {
                "gate_proj" => ("ffn_gate_exps", pick),
                "up_proj" => ("ffn_up_exps", pick),
                "down_proj" => ("ffn_down_exps", pick),
                _ => return Err(unknown()),
            }
        }
    };
    Ok(Source { name: format!("blk.{layer}.{name}.weight"), pick })
}

/// The metadata of one architecture.
struct Metadata<'a> {
    content: &'a Content,
    prefix: &'a str,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{key}", self.prefix))
    }

    fn fault(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::config(&format!("{}.{key}", self.prefix), reason)
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.fault(key, "is missing"))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.to_u64().map_err(|e| self.fault(key, e.to_string()))?;
        // Sizes beyond this are of no model, and their products might not fit.
        match usize::try_from(size) {
            Ok(size) if size <= 1 << 31 => Ok(Some(size)),
            _ => Err(self.fault(key, format!("is {size}"))),
        }
    }

    /// A number that was written as f32, by its shortest decimal: 1e-5, not 9.99999974e-6.
    fn number(&self, key: &str) -> Result<f64> {
        let value = self.get(key).ok_or_else(|| self.fault(key, "is missing"))?;
        let value = value.to_f32().map_err(|e| self.fault(key, e.to_string()))?;
        value.to_string().parse().map_err(|_| self.fault(key, format!("is {value}")))
    }
}

fn config(content: &Content) -> Result<Config> {
    let text = |key: &str| content.metadata.get(key).and_then(|v| v.to_string().ok()).map(String::as_str);
    let prefix = text("general.architecture")
        .ok_or_else(|| Error::config("general.architecture", "is missing or no text"))?;
    let architecture = match prefix {
        "llama" => Architecture::Llama,
        "qwen3" => Architecture::Qwen3,
        "qwen3moe" => Architecture::Qwen3Moe,
        other => return Err(Error::UnsupportedArchitecture(other.into())),
    };
    let m = Metadata { content, prefix };
    if let Some(kind) = text(&format!("{prefix}.rope.scaling.type"))
        && kind != "none"
    {
        return Err(m.fault("rope.scaling.type", format!("`{kind}` is not supported")));
    }
    let Some(embedding) = content.tensor_infos.get("token_embd.weight") else {
        return Err(Error::config("token_embd.weight", "is missing"));
    };
    let (vocab_size, _) = embedding
        .shape
        .dims2()
        .map_err(|_| Error::config("token_embd.weight", format!("is {:?}", embedding.shape.dims())))?;
    let (hidden, heads) = (m.size("embedding_length")?, m.size("attention.head_count")?);
    let head_dim = match m.optional_size("attention.key_length")?.or(m.optional_size("rope.dimension_count")?)
    {
        Some(d) => d,
        None => hidden.checked_div(heads).ok_or_else(|| m.fault("attention.head_count", "is 0"))?,
    };
    let moe = match architecture {
        Architecture::Qwen3Moe => Some(MoeConfig {
            num_experts: m.size("expert_count")?,
            num_experts_per_tok: m.size("expert_used_count")?,
            moe_intermediate_size: m.size("expert_feed_forward_length")?,
            // Every published Qwen3-MoE has it so, and the format has no key for it.
            norm_topk_prob: true,
            decoder_sparse_step: 1,
            mlp_only_layers: Vec::new(),
            router_aux_loss_coef: 0.001,
        }),
        _ => None,
    };
    let token = |key: &str| content.metadata.get(key).and_then(|v| v.to_u32().ok());
    let config = Config {
        architecture,
        vocab_size,
        hidden_size: hidden,
        intermediate_size: match &moe {
            Some(moe) => m.optional_size("feed_forward_length")?.unwrap_or(moe.moe_intermediate_size),
            None => m.size("feed_forward_length")?,
        },
        num_hidden_layers: m.size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: m.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: m.number("attention.layer_norm_rms_epsilon")?,
        rope_theta: m.number("rope.freq_base")?,
        max_position_embeddings: m.size("context_length")?,
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
        initializer_range: 0.02,
        eos_token_ids: token("tokenizer.ggml.eos_token_id").into_iter().collect(),
        pad_token_id: token("tokenizer.ggml.padding_token_id"),
        moe,
    };
    // A layer has at least nine tensors: a broken count must not become as many names.
    if config.num_hidden_layers > content.tensor_infos.len() {
        return Err(m.fault("block_count", format!("is {}", config.num_hidden_layers)));
    }
    config.validate()?;
    Ok(config)
}
