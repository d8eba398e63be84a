//! Parameters and memory of a model, from its sizes alone.

use qwen3::vision::{VisionConfig, parameter_specs as vision_specs};
use qwen3::weights::{ParameterSpec, parameter_specs};
use qwen3::{Config, ParameterGroup, VlConfig};

/// Bytes of an f32.
const FLOAT: u64 = 4;
/// The logits that head and loss hold in training (`qwen3::Model::head_loss`).
const HEAD_LOGITS: u64 = 1 << 24;

/// A tensor of a Hugging Face file, and how many layers and experts have one like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRow {
    /// Its name, with `*` for the numbers of layers and experts.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How many there are.
    pub times: usize,
}

/// A model's parameters.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// All tensors, in the order of the first of their kind.
    pub tensors: Vec<TensorRow>,
    /// All parameters.
    pub parameters: usize,
    /// Those that take part in the computation of one token: without the experts that are not chosen.
    pub active: usize,
    config: Config,
    vision: Option<VisionConfig>,
}

/// What goes through a model in one training pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingPass {
    /// Tokens, all of them with a loss.
    pub tokens: usize,
    /// Patches of images; they meet the vision tower where there is one.
    pub patches: usize,
    /// Whether layers run again in the backward (`model.recompute`).
    pub recompute: bool,
}

/// Bytes of a run's memory while it trains, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingMemory {
    /// Weights.
    pub weights: u64,
    /// Gradients.
    pub gradients: u64,
    /// First and second moments.
    pub moments: u64,
    /// The sampler's frozen copy of the weights.
    pub sampler: u64,
    /// What one forward pass keeps for its backward, with what the head, or a layer's backward, holds at once.
    pub activations: u64,
}

/// Bytes while it decodes, in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodingMemory {
    /// Weights.
    pub weights: u64,
    /// Keys and values of all sequences at their full length.
    pub cache: u64,
    /// One row of logits a sequence.
    pub logits: u64,
}

impl TrainingMemory {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.sampler + self.activations
    }
}

impl DecodingMemory {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.logits
    }
}

impl Footprint {
    /// Counts the parameters of a decoder.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::of(parameter_specs(config), config, None)
    }

    /// Counts the parameters of a decoder with its vision tower.
    #[must_use]
    pub fn with_vision(config: &VlConfig) -> Self {
        Self::of(vision_specs(config), &config.text, Some(config.vision.clone()))
    }

    fn of(specs: Vec<ParameterSpec>, config: &Config, vision: Option<VisionConfig>) -> Self {
        let mut tensors: Vec<TensorRow> = Vec::new();
        let (mut parameters, mut idle) = (0, 0);
        for spec in specs {
            let count = spec.shape.iter().product::<usize>();
            parameters += count;
            if let (Some(moe), ParameterGroup::Matrix, [experts, _, _]) =
                (&config.moe, spec.group, &spec.shape[..])
            {
                idle += count / experts * (experts - moe.num_experts_per_tok);
            }
            for (name, shape) in spec.parts {
                let numbered = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
                let name: Vec<&str> = name.split('.').map(|p| if numbered(p) { "*" } else { p }).collect();
                let name = name.join(".");
                match tensors.iter_mut().find(|row| row.name == name && row.shape == shape) {
                    Some(row) => row.times += 1,
                    None => tensors.push(TensorRow { name, shape, times: 1 }),
                }
            }
        }
        Self { tensors, parameters, active: parameters - idle, config: config.clone(), vision }
    }

    /// Memory of a run whose passes are like this one.
    #[must_use]
    pub fn training(&self, pass: TrainingPass) -> TrainingMemory {
        let (c, tokens) = (&self.config, pass.tokens as u64);
        let weights = self.parameters as u64 * FLOAT;
        let hidden = c.hidden_size as u64;
        let layers: Vec<[u64; 2]> = (0..c.num_hidden_layers).map(|layer| self.layer(layer)).collect();
        let (text, layer) = kept(&layers, hidden, pass.recompute);
        let (mut always, mut in_turn) = (tokens * (text + 2 * hidden), tokens * layer);
        if let Some(v) = self.vision.as_ref().filter(|_| pass.patches > 0) {
            let patches = pass.patches as u64;
            let width = v.hidden_size as u64;
            // As the graph of a block: norms, attention, projections before and behind their biases, sums; the projections
            // to queries, keys and values, and their rotation; the MLP's inner rows.
            let block = 18 * width + 3 * v.intermediate_size as u64;
            let blocks = vec![[block; 2]; v.depth];
            let (tower, block) = kept(&blocks, width, pass.recompute);
            let levels = v.deepstack_visual_indexes.len() as u64;
            let out = v.out_hidden_size as u64 / v.patches_per_token() as u64;
            // Patches with their places; a merger and those of DeepStack, whose rows are spread over the tokens' (with one
            // of zeros) and added to them.
            always += patches * (tower + 14 * width + (1 + levels) * (4 * width + 2 * out) + levels * out);
            always += tokens * hidden * (2 + 2 * levels);
            in_turn = in_turn.max(patches * block);
        }
        // Logits, and the gradient of the head's input: gone in the backward of layers.
        let head = (tokens * c.vocab_size as u64).min(HEAD_LOGITS) + 2 * tokens * hidden;
        TrainingMemory {
            weights,
            gradients: weights,
            moments: 2 * weights,
            sampler: weights,
            activations: (always + head.max(in_turn)) * FLOAT,
        }
    }

    /// Numbers that a decoder layer keeps of one token for its backward, as `qwen3::Model::forward` does it: its input,
    /// queries, keys and values, heads and a log-sum-exp of each, what comes between attention and MLP, and what SwiGLU
    /// takes; and those that it has while it runs, forward or backward.
    fn layer(&self, layer: usize) -> [u64; 2] {
        let c = &self.config;
        let hidden = c.hidden_size as u64;
        let (q, kv) =
            ((c.num_attention_heads * c.head_dim) as u64, (c.num_key_value_heads * c.head_dim) as u64);
        let attention = 2 * hidden + 2 * q + 2 * kv + c.num_attention_heads as u64;
        let (inner, of_pairs) = match &c.moe {
            Some(moe) if c.is_moe_layer(layer) => {
                let rows = moe.num_experts_per_tok as u64;
                (rows * moe.moe_intermediate_size as u64, rows * hidden + 2 * moe.num_experts as u64)
            }
            _ => (c.intermediate_size as u64, 0),
        };
        [attention + 2 * inner, (3 * hidden + 4 * inner + of_pairs).max(2 * hidden + 2 * q + 4 * kv)]
    }

    /// Memory of `batch` sequences of `length` tokens that are decoded together.
    #[must_use]
    pub fn decoding(&self, batch: usize, length: usize) -> DecodingMemory {
        let c = &self.config;
        let token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim;
        DecodingMemory {
            weights: self.parameters as u64 * FLOAT,
            cache: (batch * length * token) as u64 * FLOAT,
            logits: (batch * c.vocab_size) as u64 * FLOAT,
        }
    }
}

/// What is kept of layers until the backward, and what else exists of one at a time, of the sizes that one keeps and works
/// with.
fn kept(layers: &[[u64; 2]], input: u64, recompute: bool) -> (u64, u64) {
    let all: u64 = layers.iter().map(|[kept, _]| kept).sum();
    let largest = |of: fn(&[u64; 2]) -> u64| layers.iter().map(of).max().unwrap_or(0);
    match recompute {
        false => (all, largest(|[_, works]| *works)),
        true => (layers.len() as u64 * input, largest(|[kept, works]| kept + works)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn config(
        hidden: usize,
        layers: usize,
        heads: [usize; 2],
        inner: usize,
        tied: bool,
        experts: bool,
    ) -> Config {
        let mut json = serde_json::json!({
            "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads[0], "num_key_value_heads": heads[1],
            "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40_960,
            "tie_word_embeddings": tied,
        });
        if experts {
            json["model_type"] = "qwen3_moe".into();
            json["num_experts"] = 128.into();
            json["num_experts_per_tok"] = 8.into();
            json["moe_intermediate_size"] = 768.into();
            json["norm_topk_prob"] = true.into();
        }
        Config::from_json(&json.to_string()).unwrap()
    }

    /// The released checkpoints' numbers.
    #[test]
    fn parameters_and_caches_of_known_models() {
        let small = Footprint::new(&config(1024, 28, [16, 8], 3072, true, false));
        assert_eq!((small.parameters, small.active), (596_049_920, 596_049_920));
        // 114 688 bytes a token in bf16.
        assert_eq!(small.decoding(3, 5).cache, 15 * 2 * 114_688);
        assert_eq!(small.decoding(3, 5).logits, 3 * 4 * 151_936);
        let sparse = Footprint::new(&config(2048, 48, [32, 4], 6144, false, true));
        assert_eq!((sparse.parameters, sparse.active), (30_532_122_624, 3_353_032_704));
        let row = sparse.tensors.iter().find(|row| row.name == "model.layers.*.mlp.experts.*.up_proj.weight");
        assert_eq!((row.unwrap().times, row.unwrap().shape.as_slice()), (48 * 128, [768, 2048].as_slice()));
        let counted: usize = sparse.tensors.iter().map(|r| r.times * r.shape.iter().product::<usize>()).sum();
        assert_eq!(counted, sparse.parameters);
    }

    #[test]
    fn memory_grows_with_tokens() {
        let model = Footprint::new(&config(1024, 28, [16, 8], 3072, true, false));
        let pass = |tokens, recompute| model.training(TrainingPass { tokens, patches: 0, recompute });
        let (one, two) = (pass(2048, false), pass(4096, false));
        assert_eq!((one.weights, one.moments), (4 * 596_049_920, 8 * 596_049_920));
        // Kept by each of 28 layers: 2 · 1024 + 4096 + 2048 + 16 + 2 · 3072 numbers; twice 1024; and of the MLP that runs
        // 3 · 1024 + 4 · 3072.
        assert_eq!(two.activations - one.activations, 2048 * 4 * (28 * 14_352 + 2048 + 15_360));
        assert_eq!(two.total() - one.total(), two.activations - one.activations);
        // 28 inputs of 1024 numbers, twice 1024, and a layer that runs.
        let (one, two) = (pass(2048, true), pass(4096, true));
        assert_eq!(two.activations - one.activations, 2048 * 4 * (28 * 1024 + 2048 + 14_352 + 15_360));
    }

    /// The released checkpoints' numbers: 2B, whose decoder is that of 1.7B.
    #[test]
    fn towers_are_counted() {
        let text = config(2048, 28, [16, 8], 6144, true, false);
        let mut text: serde_json::Value = serde_json::from_str(&text.to_json(qwen3::SaveType::F32)).unwrap();
        text["rope_parameters"] = serde_json::json!({
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": true,
        });
        let json = serde_json::json!({
            "model_type": "qwen3_vl", "image_token_id": 151_655, "video_token_id": 151_656,
            "vision_start_token_id": 151_652, "vision_end_token_id": 151_653, "text_config": text,
            "tie_word_embeddings": true,
            "vision_config": {
                "depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "in_channels": 3,
                "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": 2048,
                "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
                "hidden_act": "gelu_pytorch_tanh",
            },
        });
        let model = Footprint::with_vision(&VlConfig::from_json(&json.to_string()).unwrap());
        assert_eq!(model.parameters, 1_720_574_976 + 406_957_056);
        let counted: usize = model.tensors.iter().map(|r| r.times * r.shape.iter().product::<usize>()).sum();
        assert_eq!(counted, model.parameters);
        let pass = |patches| TrainingPass { tokens: 512, patches, recompute: false };
        let image = model.training(pass(3520)).activations - model.training(pass(0)).activations;
        let blocks = 3520 * 4 * 24 * (18 * 1024 + 3 * 4096);
        assert!(image > blocks && image < blocks * 5 / 4);
    }
}
