//! The nested `config.json` of Qwen3-VL.

use std::path::Path;

use mrope::Placeholders;
use serde_json::{Map, Value, json};

use super::scheme::Rotation;
use crate::config::{Architecture, Config};
use crate::error::{Error, Result};
use crate::weights::SaveType;

/// The sizes of a vision tower. Field names are those of `vision_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width of the tower.
    pub hidden_size: usize,
    /// Inner width of its MLPs.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Channels of a pixel.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames of a patch.
    pub temporal_patch_size: usize,
    /// Patches along each side of a token.
    pub spatial_merge_size: usize,
    /// Width of the decoder.
    pub out_hidden_size: usize,
    /// Rows of the learned position table; a square.
    pub num_position_embeddings: usize,
    /// The blocks whose outputs are added behind the first decoder layers, ascending.
    pub deepstack_visual_indexes: Vec<usize>,
}

impl VisionConfig {
    /// Values of a patch.
    pub fn patch_width(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches of a token.
    pub fn patches_per_token(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Side of the position table.
    pub fn table_side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Lanes of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    fn validate(&self, text: &Config) -> Result<()> {
        let bad = |field: &str, reason: String| Err(Error::config(&format!("vision_config.{field}"), reason));
        let positive = [
            ("depth", self.depth),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_heads", self.num_heads),
            ("in_channels", self.in_channels),
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
            ("num_position_embeddings", self.num_position_embeddings),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return bad(field, "is 0, expected 1 or more".into());
        }
        // Far above every tower, and low enough that no product of sizes overflows and no list of names fills memory.
        let most = |field: &str| if field == "depth" { 1 << 12 } else { 1 << 15 };
        if let Some((field, found)) = positive.iter().find(|(field, v)| *v > most(field)) {
            return bad(field, format!("is {found}, more than {}", most(field)));
        }
        // The position design of this family (`mrope::PositionDesign::qwen3_vl`) merges 2 by 2.
        if self.spatial_merge_size != 2 {
            return bad(
                "spatial_merge_size",
                format!("{} is not supported, only 2", self.spatial_merge_size),
            );
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            return bad("num_heads", format!("{} does not divide {}", self.num_heads, self.hidden_size));
        }
        if !self.head_dim().is_multiple_of(4) {
            return bad("num_heads", format!("heads of {} lanes, expected a multiple of 4", self.head_dim()));
        }
        if self.table_side().pow(2) != self.num_position_embeddings {
            return bad("num_position_embeddings", format!("{} is no square", self.num_position_embeddings));
        }
        if self.out_hidden_size != text.hidden_size {
            return bad(
                "out_hidden_size",
                format!("{} is not the decoder's hidden_size {}", self.out_hidden_size, text.hidden_size),
            );
        }
        let levels = &self.deepstack_visual_indexes;
        if levels.windows(2).any(|w| w[0] >= w[1]) || levels.last().is_some_and(|l| *l >= self.depth) {
            return bad(
                "deepstack_visual_indexes",
                format!("{levels:?} must rise strictly and stay below depth = {}", self.depth),
            );
        }
        if levels.len() > text.num_hidden_layers {
            return bad(
                "deepstack_visual_indexes",
                format!("{} levels for {} decoder layers", levels.len(), text.num_hidden_layers),
            );
        }
        Ok(())
    }
}

/// The configuration of a Qwen3-VL or Qwen3-VL-MoE model.
#[derive(Clone, Debug, PartialEq)]
pub struct VlConfig {
    /// The decoder; its architecture is `Qwen3` or `Qwen3Moe`.
    pub text: Config,
    /// The tower.
    pub vision: VisionConfig,
    /// Where tokens stand, and how that turns queries and keys.
    pub rotation: Rotation,
    /// Ids that stand for visual tokens.
    pub placeholders: Placeholders,
    /// `vision_start_token_id`, when the file has one.
    pub vision_start_token_id: Option<u32>,
    /// `vision_end_token_id`, when the file has one.
    pub vision_end_token_id: Option<u32>,
}

impl VlConfig {
    /// Reads the text of a `config.json`, in the form of transformers 4 (`rope_theta` beside `rope_scaling`) or 5
    /// (`rope_parameters`). A missing field that changes the forward pass is an error, never a default.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| Error::config("config.json", e.to_string()))?;
        let architecture = match value["model_type"].as_str() {
            Some("qwen3_vl") => Architecture::Qwen3,
            Some("qwen3_vl_moe") => Architecture::Qwen3Moe,
            Some(other) => {
                let reason = format!("`{other}` is not supported here, only qwen3_vl and qwen3_vl_moe");
                return Err(Error::config("model_type", reason));
            }
            None => return Err(Error::config("model_type", "is missing")),
        };
        let mut fields = section(&value, "text_config")?.clone();
        let rope = rope(&mut fields)?;
        fields.insert("model_type".into(), json!(architecture.model_type()));
        // The top level wins over the section.
        if let Some(tied) = value.get("tie_word_embeddings").filter(|v| !v.is_null()) {
            fields.insert("tie_word_embeddings".into(), tied.clone());
        }
        if architecture == Architecture::Qwen3Moe {
            // Gates of this family always add up to 1; transformers' class ignores the key.
            fields.insert("norm_topk_prob".into(), json!(true));
        }
        let text = Config::from_json(&Value::Object(fields).to_string())?;
        let rotation = Rotation::new(rope, &text)?;
        let vision = vision(section(&value, "vision_config")?)?;
        vision.validate(&text)?;
        let need = |name: &str| id(&value, name)?.ok_or_else(|| Error::config(name, "is missing"));
        let placeholders = Placeholders { image: need("image_token_id")?, video: need("video_token_id")? };
        if placeholders.image == placeholders.video {
            return Err(Error::config("video_token_id", "equals image_token_id"));
        }
        for (name, id) in [("image_token_id", placeholders.image), ("video_token_id", placeholders.video)] {
            if id as usize >= text.vocab_size {
                return Err(Error::config(
                    name,
                    format!("{id} is outside the vocabulary of {}", text.vocab_size),
                ));
            }
        }
        Ok(Self {
            vision_start_token_id: id(&value, "vision_start_token_id")?,
            vision_end_token_id: id(&value, "vision_end_token_id")?,
            text,
            vision,
            rotation,
            placeholders,
        })
    }

    /// Reads `config.json` of a model directory; ids of `generation_config.json` go before those in `config.json`.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        let mut config = Self::from_json(&text)?;
        config.text.read_generation_config(dir)?;
        Ok(config)
    }

    /// The text of a `config.json` that transformers 4 and 5 read, beside weights of `save_type`.
    pub fn to_json(&self, save_type: SaveType) -> String {
        let moe = if self.text.moe.is_some() { "_moe" } else { "" };
        let mut text: Map<String, Value> =
            serde_json::from_str(&self.text.to_json(save_type)).unwrap_or_default();
        let dtype = text.get("dtype").cloned().unwrap_or_default();
        let rope = Value::Object(self.rotation.parameters().clone());
        text.remove("architectures");
        text.insert("model_type".into(), json!(format!("qwen3_vl{moe}_text")));
        text.insert("rope_parameters".into(), rope.clone());
        text.insert("rope_scaling".into(), rope);
        let (v, class) = (&self.vision, if moe.is_empty() { "Qwen3VL" } else { "Qwen3VLMoe" });
        let json = json!({
            "architectures": [format!("{class}ForConditionalGeneration")],
            "model_type": format!("qwen3_vl{moe}"),
            "dtype": dtype,
            "image_token_id": self.placeholders.image,
            "video_token_id": self.placeholders.video,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "text_config": text,
            "vision_config": {
                "deepstack_visual_indexes": v.deepstack_visual_indexes,
                "depth": v.depth,
                "hidden_act": "gelu_pytorch_tanh",
                "hidden_size": v.hidden_size,
                "in_channels": v.in_channels,
                "intermediate_size": v.intermediate_size,
                "model_type": format!("qwen3_vl{moe}"),
                "num_heads": v.num_heads,
                "num_position_embeddings": v.num_position_embeddings,
                "out_hidden_size": v.out_hidden_size,
                "patch_size": v.patch_size,
                "spatial_merge_size": v.spatial_merge_size,
                "temporal_patch_size": v.temporal_patch_size,
            },
        });
        format!("{json:#}\n")
    }
}

fn section<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>> {
    value.get(name).and_then(Value::as_object).ok_or_else(|| Error::config(name, "expected an object"))
}

fn id(value: &Value, name: &str) -> Result<Option<u32>> {
    match value.get(name).filter(|v| !v.is_null()) {
        None => Ok(None),
        Some(v) => match v.as_u64().and_then(|v| u32::try_from(v).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::config(name, format!("expected a token id, got {v}"))),
        },
    }
}

/// Takes the rotary section out of the text fields, with `rope_theta` in it, and leaves a plain `rope_theta`.
fn rope(fields: &mut Map<String, Value>) -> Result<Map<String, Value>> {
    let (new, old) = (fields.remove("rope_parameters"), fields.remove("rope_scaling"));
    let mut rope = match new.filter(|v| !v.is_null()).or(old).filter(|v| !v.is_null()) {
        Some(Value::Object(rope)) => rope,
        Some(other) => {
            return Err(Error::config("rope_parameters", format!("expected an object, got {other}")));
        }
        None => return Err(Error::config("rope_parameters", "is missing")),
    };
    match rope.get("rope_theta").filter(|v| !v.is_null()) {
        Some(theta) => drop(fields.insert("rope_theta".into(), theta.clone())),
        None => {
            rope.insert("rope_theta".into(), fields.get("rope_theta").cloned().unwrap_or_default());
        }
    }
    Ok(rope)
}

fn vision(fields: &Map<String, Value>) -> Result<VisionConfig> {
    let name_of = |name: &str| format!("vision_config.{name}");
    let whole = |name: &str, value: &Value| {
        value
            .as_u64()
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| Error::config(&name_of(name), format!("expected a whole number, got {value}")))
    };
    let size = |name: &str| match fields.get(name) {
        Some(value) => whole(name, value),
        None => Err(Error::config(&name_of(name), "is missing")),
    };
    match fields.get("hidden_act") {
        Some(act) if act.as_str() != Some("gelu_pytorch_tanh") => {
            return Err(Error::config(&name_of("hidden_act"), format!("{act} is not supported")));
        }
        _ => {}
    }
    let levels = fields.get("deepstack_visual_indexes").and_then(Value::as_array);
    let levels = levels.ok_or_else(|| Error::config(&name_of("deepstack_visual_indexes"), "is missing"))?;
    Ok(VisionConfig {
        depth: size("depth")?,
        hidden_size: size("hidden_size")?,
        intermediate_size: size("intermediate_size")?,
        num_heads: size("num_heads")?,
        in_channels: if fields.contains_key("in_chans") { size("in_chans")? } else { size("in_channels")? },
        patch_size: size("patch_size")?,
        temporal_patch_size: size("temporal_patch_size")?,
        spatial_merge_size: size("spatial_merge_size")?,
        out_hidden_size: size("out_hidden_size")?,
        num_position_embeddings: size("num_position_embeddings")?,
        deepstack_visual_indexes: levels
            .iter()
            .map(|v| whole("deepstack_visual_indexes", v))
            .collect::<Result<_>>()?,
    })
}
