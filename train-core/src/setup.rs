//! From a configuration to the parts of a run.

use std::path::Path;

use qwen3::vision::processor::{PixelBounds, Processor};
use qwen3::{Model, VlConfig, VlModel};
use rollout_engine::random::{Stream, keyed_rng};
use serde_json::{Value, json};

use crate::config::{Architecture, Config, ModelSection};
use crate::data::{COV, CovSource, DataError, FileSource, GeneratedSource, PromptSource, Task, TextCodec};
use crate::policy::{Policy, has_vision};
use crate::trainer::TrainError;
use crate::types::Prompt;

/// The decoder's architecture of a Hugging Face directory or a GGUF file, without its weights.
///
/// # Errors
/// When it cannot be read.
pub fn read_architecture(path: &Path) -> Result<qwen3::Config, qwen3::Error> {
    match path.is_file() {
        true => qwen3::gguf::load_config(path),
        false if has_vision(path) => Ok(VlConfig::from_dir(path)?.text),
        false => qwen3::Config::from_dir(path),
    }
}

/// The model of a Hugging Face directory or a GGUF file.
///
/// # Errors
/// When it cannot be read, or weights are missing or do not fit.
pub fn read_model(path: &Path) -> Result<Model, qwen3::Error> {
    if path.is_file() {
        let (config, tensors) = qwen3::gguf::load(path)?;
        Model::from_tensors(config, tensors)
    } else {
        Model::load(path)
    }
}

/// The tokenizer of a Hugging Face directory or a GGUF file, for a model of this architecture.
///
/// # Errors
/// When it cannot be read, or has more tokens than the model.
pub fn read_codec(path: &Path, architecture: &qwen3::Config) -> Result<TextCodec, DataError> {
    let codec = TextCodec::open(path, architecture.eos_token_ids.clone())?;
    if codec.vocab_size() > architecture.vocab_size {
        return Err(DataError::Tokenizer(format!(
            "the tokenizer of {} has {} tokens, the model {}",
            path.display(),
            codec.vocab_size(),
            architecture.vocab_size
        )));
    }
    Ok(codec)
}

/// The codec and the architecture's description of a run.
///
/// # Errors
/// When the model cannot be read, or sizes do not fit.
pub fn codec_and_model(config: &Config) -> Result<(TextCodec, qwen3::Config), TrainError> {
    if !config.model.path.is_empty() {
        let path = Path::new(&config.model.path);
        let model = read_architecture(path)?;
        return Ok((read_codec(path, &model)?, model));
    }
    let codec = match Task::by_name(&config.data.task) {
        Some(task) if config.data.path.is_empty() => TextCodec::characters(task.alphabet())?,
        _ => TextCodec::bytes()?,
    };
    let model = random_model(&config.model, &codec)?;
    if config.model.architecture == Architecture::Qwen3Vl {
        let vision = random_vision(&config.model, &model)?;
        return Ok((codec.with_processor(random_processor(vision)), model));
    }
    Ok((codec, model))
}

/// For a small model of any context: an image or a video takes at most a quarter of it.
fn random_processor(model: VlConfig) -> Processor {
    let token = (model.vision.patch_size * model.vision.spatial_merge_size).pow(2);
    let (tokens, frames) =
        ((model.text.max_position_embeddings / 4).max(4), model.vision.temporal_patch_size);
    let mut processor = Processor::released(model);
    processor.image_bounds = PixelBounds { least: token, most: tokens * token };
    processor.video_bounds = PixelBounds { least: frames * token, most: tokens * frames * token };
    processor
}

fn random_model(m: &ModelSection, codec: &TextCodec) -> Result<qwen3::Config, TrainError> {
    let config = qwen3::Config {
        architecture: match m.architecture {
            Architecture::Qwen3Moe => qwen3::Architecture::Qwen3Moe,
            Architecture::Qwen3 | Architecture::Qwen3Vl => qwen3::Architecture::Qwen3,
            Architecture::Llama => qwen3::Architecture::Llama,
        },
        vocab_size: codec.vocab_size()
            + if m.architecture == Architecture::Qwen3Vl { VISION_TOKENS } else { 0 },
        hidden_size: m.hidden_size,
        intermediate_size: m.intermediate_size,
        num_hidden_layers: m.num_hidden_layers,
        num_attention_heads: m.num_attention_heads,
        num_key_value_heads: m.num_key_value_heads,
        head_dim: m.head_dim,
        rms_norm_eps: 1e-6,
        rope_theta: m.rope_theta,
        max_position_embeddings: m.max_position_embeddings,
        tie_word_embeddings: m.tie_word_embeddings,
        initializer_range: m.initializer_range,
        eos_token_ids: codec.stop_tokens().to_vec(),
        pad_token_id: None,
        moe: (m.architecture == Architecture::Qwen3Moe).then(|| qwen3::MoeConfig {
            num_experts: m.num_experts,
            num_experts_per_tok: m.num_experts_per_tok,
            moe_intermediate_size: m.moe_intermediate_size,
            norm_topk_prob: true,
            decoder_sparse_step: 1,
            mlp_only_layers: Vec::new(),
            router_aux_loss_coef: 0.001,
        }),
    };
    config.validate()?;
    Ok(config)
}

/// The model a run starts from: loaded, or random by the run's seed.
///
/// # Errors
/// When weights are missing or do not fit.
pub fn initial_model(config: &Config, architecture: &qwen3::Config) -> Result<Policy, TrainError> {
    if !config.model.path.is_empty() {
        return Ok(read_policy(Path::new(&config.model.path))?);
    }
    let seed = config.run.seed;
    let random = |i: usize| keyed_rng(seed, Stream::Init, [i as u64, 0]);
    Ok(match config.model.architecture {
        Architecture::Qwen3Vl => {
            Policy::Vision(Box::new(VlModel::init(random_vision(&config.model, architecture)?, random)?))
        }
        _ => Model::init(architecture.clone(), random)?.into(),
    })
}

/// The model of a Hugging Face directory, with or without a vision tower, or of a GGUF file.
///
/// # Errors
/// When it cannot be read, or weights are missing or do not fit.
pub fn read_policy(path: &Path) -> Result<Policy, qwen3::Error> {
    if path.is_file() { read_model(path).map(Policy::from) } else { Policy::load(path) }
}

/// The vision part of a run's model, when it has one.
fn vision(config: &Config, architecture: &qwen3::Config) -> Result<Option<VlConfig>, TrainError> {
    let path = Path::new(&config.model.path);
    Ok(match config.model.path.is_empty() {
        true if config.model.architecture == Architecture::Qwen3Vl => {
            Some(random_vision(&config.model, architecture)?)
        }
        false if has_vision(path) => Some(VlConfig::from_dir(path)?),
        _ => None,
    })
}

/// Token ids that a vision model has behind those of its tokenizer: image, video, start and end of an item.
const VISION_TOKENS: usize = 4;

fn random_vision(m: &ModelSection, text: &qwen3::Config) -> Result<VlConfig, TrainError> {
    let first = text.vocab_size - VISION_TOKENS;
    let mut fields: Value = serde_json::from_str(&text.to_json(qwen3::SaveType::F32)).unwrap_or_default();
    fields["rope_parameters"] = json!({
        "rope_type": "default", "rope_theta": m.rope_theta, "mrope_section": m.mrope_section,
        "mrope_interleaved": m.mrope_interleaved, "position_scheme": m.position_scheme,
    });
    let config = json!({
        "model_type": "qwen3_vl",
        "tie_word_embeddings": m.tie_word_embeddings,
        "image_token_id": first, "video_token_id": first + 1,
        "vision_start_token_id": first + 2, "vision_end_token_id": first + 3,
        "text_config": fields,
        "vision_config": {
            "depth": m.vision_depth, "hidden_size": m.vision_hidden_size, "num_heads": m.vision_num_heads,
            "intermediate_size": m.vision_intermediate_size, "in_channels": 3,
            "patch_size": m.vision_patch_size, "temporal_patch_size": 2, "spatial_merge_size": 2,
            "out_hidden_size": m.hidden_size, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0], "hidden_act": "gelu_pytorch_tanh",
        },
    });
    Ok(VlConfig::from_json(&config.to_string())?)
}

/// The prompts of a run.
///
/// # Errors
/// When the data is at fault, or no prompt fits the model's context.
pub fn prompt_source(
    config: &Config,
    codec: &TextCodec,
    architecture: &qwen3::Config,
) -> Result<Box<dyn PromptSource>, TrainError> {
    let (held_out, new) = (config.eval.prompts, config.rollout.max_new_tokens);
    let context = architecture.max_position_embeddings;
    if !config.data.path.is_empty() {
        let source = FileSource::new(&config.data, codec, config.run.seed, held_out, new, context)?;
        return Ok(Box::new(source));
    }
    if config.data.task == COV {
        let seed = config.run.seed;
        let source = CovSource::new(&config.data, &config.cov, codec, seed, held_out, new, context)?;
        return Ok(Box::new(source));
    }
    let vision = vision(config, architecture)?;
    let source = GeneratedSource::new(&config.data, codec.clone(), vision, config.run.seed, held_out)?;
    let new = |p: &Prompt| p.turns() * new;
    let longest = source.held_out().iter().max_by_key(|p| p.put());
    if let Some(p) = longest.filter(|p| p.put() + new(p) > context) {
        return Err(DataError::TooLong {
            id: p.id,
            tokens: p.put(),
            new: new(p),
            context,
            text: p.text.clone(),
        }
        .into());
    }
    Ok(Box::new(source))
}
