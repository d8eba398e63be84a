//! The architecture of a model, read from and written to Hugging Face's `config.json`.

use std::path::Path;

use moe_routing::{RouteShape, Router};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::weights::SaveType;

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and SmolLM2: no norm on queries and keys.
    Llama,
    /// Qwen3 dense.
    Qwen3,
    /// Qwen3 with mixture-of-experts layers.
    Qwen3Moe,
}

impl Architecture {
    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3_moe",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }
}

/// The sizes of a decoder. Field names are those of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of dense MLPs.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Lanes of a head; even; not derived from `hidden_size`.
    pub head_dim: usize,
    /// Added to the mean square in norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The longest sequence. Longer ones are an error here, where transformers only warns: to extrapolate on
    /// purpose, raise this number.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
    /// Tokens that end a response.
    pub eos_token_ids: Vec<u32>,
    /// Token for padding, when there is one.
    pub pad_token_id: Option<u32>,
    /// Mixture-of-experts layers, when there are some.
    pub moe: Option<MoeConfig>,
}

/// The sizes of mixture-of-experts layers.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeConfig {
    /// Experts of a layer.
    pub num_experts: usize,
    /// Experts that a token runs through.
    pub num_experts_per_tok: usize,
    /// Inner width of an expert.
    pub moe_intermediate_size: usize,
    /// Whether the gates of a token add up to 1.
    pub norm_topk_prob: bool,
    /// Every how many layers one is a mixture of experts.
    pub decoder_sparse_step: usize,
    /// Layers that stay dense.
    pub mlp_only_layers: Vec<usize>,
    /// Coefficient of the load-balance loss in pre-training.
    pub router_aux_loss_coef: f64,
}

impl MoeConfig {
    /// The router of every layer.
    pub fn router(&self) -> Router {
        Router::SoftmaxTopK { renorm: self.norm_topk_prob }
    }
}

impl Config {
    /// Reads the text of a `config.json`, in the form of transformers 4 or 5.
    ///
    /// A missing field that changes the forward pass is an error, never a default.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| Error::config("config.json", e.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(Error::config("config.json", "expected an object"));
        };
        Fields(&fields).config()
    }

    /// Reads `config.json` of a model directory; `eos_token_id` of `generation_config.json`, when there is one,
    /// goes before the one in `config.json`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let mut config = Self::from_json(&text)?;
        config.read_generation_config(dir)?;
        Ok(config)
    }

    pub(crate) fn read_generation_config(&mut self, dir: &Path) -> Result<()> {
        let path = dir.join("generation_config.json");
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            let value: Value = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
            if let Value::Object(fields) = &value
                && fields.get("eos_token_id").is_some_and(|v| !v.is_null())
            {
                self.eos_token_ids = Fields(fields).token_ids("eos_token_id")?;
            }
        }
        Ok(())
    }

    /// The text of a `config.json` that transformers 4 and 5 and inference engines read, beside weights of
    /// `save_type`.
    pub fn to_json(&self, save_type: SaveType) -> String {
        let dtype = match save_type {
            SaveType::F32 => "float32",
            SaveType::Bf16 => "bfloat16",
            SaveType::F16 => "float16",
        };
        let ids = |ids: &[u32]| match ids {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut fields = json!({
            "architectures": [self.architecture.class()],
            "model_type": self.architecture.model_type(),
            "attention_bias": false,
            "attention_dropout": 0.0,
            "dtype": dtype,
            "eos_token_id": ids(&self.eos_token_ids),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let (Some(moe), Value::Object(fields)) = (&self.moe, &mut fields) {
            fields.insert("num_experts".into(), json!(moe.num_experts));
            fields.insert("num_experts_per_tok".into(), json!(moe.num_experts_per_tok));
            fields.insert("moe_intermediate_size".into(), json!(moe.moe_intermediate_size));
            fields.insert("norm_topk_prob".into(), json!(moe.norm_topk_prob));
            fields.insert("decoder_sparse_step".into(), json!(moe.decoder_sparse_step));
            fields.insert("mlp_only_layers".into(), json!(moe.mlp_only_layers));
            fields.insert("router_aux_loss_coef".into(), json!(moe.router_aux_loss_coef));
        }
        format!("{fields:#}\n")
    }

    /// Whether layer `layer` (from 0) is a mixture of experts.
    pub fn is_moe_layer(&self, layer: usize) -> bool {
        self.moe.as_ref().is_some_and(|moe| {
            (layer + 1).is_multiple_of(moe.decoder_sparse_step) && !moe.mlp_only_layers.contains(&layer)
        })
    }

    /// The layers that are mixtures of experts.
    pub fn moe_layers(&self) -> Vec<usize> {
        (0..self.num_hidden_layers).filter(|l| self.is_moe_layer(*l)).collect()
    }

    /// Whether queries and keys are normalised by head.
    pub fn has_qk_norm(&self) -> bool {
        self.architecture != Architecture::Llama
    }

    /// The mixture-of-experts sizes, or an error for a model without.
    pub fn moe(&self) -> Result<&MoeConfig> {
        self.moe.as_ref().ok_or_else(|| Error::config("num_experts", "the model has no experts"))
    }

    /// What a trace of recorded experts must agree with; `None` for a model without experts.
    pub fn route_shape(&self) -> Result<Option<RouteShape>> {
        let layers = self.moe_layers();
        match &self.moe {
            Some(moe) if !layers.is_empty() => {
                Ok(Some(RouteShape::new(moe.num_experts, moe.num_experts_per_tok, &layers)?))
            }
            _ => Ok(None),
        }
    }

    /// Refuses sizes that no model can have.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(Error::config(field, "is 0, expected 1 or more"));
        }
        // Far beyond any model, and small enough that a broken file is refused before it asks for memory.
        let experts = self.moe.as_ref().map_or(0, |moe| moe.num_experts);
        let counts = [
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_experts", experts, usize::from(u16::MAX)),
            ("vocab_size", self.vocab_size, 1 << 26),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 24),
            ("num_attention_heads", self.num_attention_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 14),
        ];
        if let Some((field, value, most)) = counts.into_iter().find(|(_, value, most)| value > most) {
            return Err(Error::config(field, format!("is {value}, expected at most {most}")));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(Error::config(
                "num_key_value_heads",
                format!(
                    "{} does not divide the {} query heads",
                    self.num_key_value_heads, self.num_attention_heads
                ),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::config("head_dim", format!("{} is odd", self.head_dim)));
        }
        for (field, value) in [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope_theta),
            ("initializer_range", self.initializer_range),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::config(field, format!("is {value}, expected a positive number")));
            }
        }
        let Some(moe) = &self.moe else { return Ok(()) };
        if moe.num_experts_per_tok == 0 || moe.num_experts_per_tok > moe.num_experts {
            return Err(Error::config(
                "num_experts_per_tok",
                format!("is {}, expected 1 to num_experts = {}", moe.num_experts_per_tok, moe.num_experts),
            ));
        }
        if moe.moe_intermediate_size == 0 || moe.decoder_sparse_step == 0 {
            return Err(Error::config("moe_intermediate_size, decoder_sparse_step", "must be 1 or more"));
        }
        match moe.mlp_only_layers.iter().find(|l| **l >= self.num_hidden_layers) {
            Some(layer) => Err(Error::config(
                "mlp_only_layers",
                format!("layer {layer} is beyond the {} layers", self.num_hidden_layers),
            )),
            None => Ok(()),
        }
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn find(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|n| self.0.get(*n).filter(|v| !v.is_null()))
    }

    fn size_or(&self, names: &[&str], default: Option<usize>) -> Result<usize> {
        match (self.find(names), default) {
            (Some(v), _) => v
                .as_u64()
                .map(|v| v as usize)
                .ok_or_else(|| Error::config(names[0], format!("expected a whole number, got {v}"))),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::config(names[0], "is missing")),
        }
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.size_or(&[name], None)
    }

    fn number(&self, name: &str, default: Option<f64>) -> Result<f64> {
        match (self.find(&[name]), default) {
            (Some(v), _) => {
                v.as_f64().ok_or_else(|| Error::config(name, format!("expected a number, got {v}")))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::config(name, "is missing")),
        }
    }

    fn flag(&self, name: &str, default: Option<bool>) -> Result<bool> {
        match (self.find(&[name]), default) {
            (Some(v), _) => {
                v.as_bool().ok_or_else(|| Error::config(name, format!("expected true or false, got {v}")))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::config(name, "is missing")),
        }
    }

    fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| {
            v.as_u64()
                .and_then(|v| u32::try_from(v).ok())
                .ok_or_else(|| Error::config(name, format!("expected a token id, got {v}")))
        };
        match self.find(&[name]) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(one).collect(),
            Some(id) => Ok(vec![one(id)?]),
        }
    }

    /// transformers 4 keeps `rope_theta` beside `rope_scaling`, 5 keeps both in `rope_parameters`.
    fn rope_theta(&self) -> Result<f64> {
        let nested = match self.find(&["rope_parameters", "rope_scaling"]) {
            None => None,
            Some(Value::Object(rope)) => {
                let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str);
                if kind.is_some_and(|k| k != "default") {
                    return Err(Error::config(
                        "rope_type",
                        format!("`{}` is not supported", kind.unwrap_or("")),
                    ));
                }
                rope.get("rope_theta").and_then(Value::as_f64)
            }
            Some(other) => {
                return Err(Error::config("rope_parameters", format!("expected an object, got {other}")));
            }
        };
        match nested {
            Some(theta) => Ok(theta),
            None => self.number("rope_theta", None),
        }
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for name in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            if self.flag(name, Some(false))? {
                return Err(Error::config(name, "true is not supported"));
            }
        }
        match self.find(&["hidden_act"]) {
            Some(act) if act.as_str() != Some("silu") => {
                Err(Error::config("hidden_act", format!("{act} is not supported, only \"silu\"")))
            }
            _ if self.find(&["quantization_config"]).is_some() => {
                Err(Error::config("quantization_config", "quantised checkpoints are not supported"))
            }
            _ => Ok(()),
        }
    }

    fn config(&self) -> Result<Config> {
        let kind = self.find(&["model_type"]).and_then(Value::as_str);
        let architecture = match kind {
            Some("llama") => Architecture::Llama,
            Some("qwen3") => Architecture::Qwen3,
            Some("qwen3_moe") => Architecture::Qwen3Moe,
            Some(other) => return Err(Error::UnsupportedArchitecture(other.into())),
            None => return Err(Error::config("model_type", "is missing")),
        };
        self.refuse_unsupported()?;
        let hidden_size = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let config = Config {
            architecture,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            intermediate_size: self.size("intermediate_size")?,
            num_hidden_layers: self.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: self.size_or(&["num_key_value_heads"], Some(heads))?,
            head_dim: self.size_or(&["head_dim"], Some(hidden_size / heads.max(1)))?,
            rms_norm_eps: self.number("rms_norm_eps", None)?,
            rope_theta: self.rope_theta()?,
            max_position_embeddings: self.size("max_position_embeddings")?,
            tie_word_embeddings: self.flag("tie_word_embeddings", Some(false))?,
            initializer_range: self.number("initializer_range", Some(0.02))?,
            eos_token_ids: self.token_ids("eos_token_id")?,
            pad_token_id: self.token_ids("pad_token_id")?.first().copied(),
            moe: if architecture == Architecture::Qwen3Moe { Some(self.moe()?) } else { None },
        };
        config.validate()?;
        Ok(config)
    }

    fn moe(&self) -> Result<MoeConfig> {
        let mlp_only_layers = match self.find(&["mlp_only_layers"]) {
            None => Vec::new(),
            Some(v) => serde_json::from_value(v.clone())
                .map_err(|e| Error::config("mlp_only_layers", e.to_string()))?,
        };
        Ok(MoeConfig {
            num_experts: self.size_or(&["num_experts", "num_local_experts"], None)?,
            num_experts_per_tok: self.size("num_experts_per_tok")?,
            moe_intermediate_size: self.size("moe_intermediate_size")?,
            norm_topk_prob: self.flag("norm_topk_prob", None)?,
            decoder_sparse_step: self.size_or(&["decoder_sparse_step"], Some(1))?,
            mlp_only_layers,
            router_aux_loss_coef: self.number("router_aux_loss_coef", Some(0.001))?,
        })
    }
}
