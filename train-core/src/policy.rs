//! The model that is trained: a decoder, or a decoder with a vision tower.

use std::path::Path;

use candle_core::Tensor;
use policy_loss::{Advantages, LinearHead, LossConfig, Normalizer, TokenBatch};
use qwen3::{
    Batch, Config, Decoder, ForwardOptions, Hidden, MatmulPrecision, Model, Parameter, Precision, Result,
    SaveType, VisualItems, VlModel,
};

use crate::learner::UpdateError;

/// A trainable model.
pub enum Policy {
    /// Text alone.
    Text(Box<Model>),
    /// Text, images and video.
    Vision(Box<VlModel>),
}

impl Policy {
    /// The model of a Hugging Face directory.
    ///
    /// # Errors
    /// When it cannot be read, or weights are missing or do not fit.
    pub fn load(dir: &Path) -> Result<Self> {
        if has_vision(dir) {
            Ok(Self::Vision(Box::new(VlModel::load(dir)?)))
        } else {
            Ok(Self::Text(Box::new(Model::load(dir)?)))
        }
    }

    /// Writes a Hugging Face directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, save_type: SaveType) -> Result<()> {
        self.save_sharded(dir, save_type, u64::MAX)
    }

    /// Writes a Hugging Face directory in files of at most `max_shard_size` bytes of weights.
    ///
    /// # Errors
    /// As [`Policy::save`].
    pub fn save_sharded(&self, dir: &Path, save_type: SaveType, max_shard_size: u64) -> Result<()> {
        match self {
            Self::Text(model) => model.save_sharded(dir, save_type, max_shard_size),
            Self::Vision(model) => model.save_sharded(dir, save_type, max_shard_size),
        }
    }

    /// As [`Model::set_matmul_precision`].
    pub fn set_matmul_precision(&mut self, precision: MatmulPrecision) {
        match self {
            Self::Text(model) => model.set_matmul_precision(precision),
            Self::Vision(model) => model.set_matmul_precision(precision),
        }
    }

    /// The decoder.
    #[must_use]
    pub fn text(&self) -> &Model {
        match self {
            Self::Text(model) => model,
            Self::Vision(model) => model.text(),
        }
    }

    /// The decoder's sizes.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.text().config()
    }

    /// All parameters in a fixed order.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        match self {
            Self::Text(model) => model.parameters(),
            Self::Vision(model) => model.parameters(),
        }
    }

    /// [`Model::set_recompute`].
    pub fn set_recompute(&mut self, recompute: bool) {
        match self {
            Self::Text(model) => model.set_recompute(recompute),
            Self::Vision(model) => model.set_recompute(recompute),
        }
    }

    /// Runs the model over packed sequences with the images of their prompts.
    ///
    /// # Errors
    /// As [`Model::forward`]; images without a vision tower.
    pub fn forward(
        &self,
        batch: &Batch,
        items: &VisualItems,
        options: &ForwardOptions<'_>,
    ) -> Result<Hidden> {
        match self {
            Self::Text(model) if items.is_empty() => model.forward(batch, options),
            Self::Text(_) => Err(qwen3::Error::Batch("images need a model with a vision tower".into())),
            Self::Vision(model) => model.forward(batch, items, options),
        }
    }

    /// `−Σ log p / tokens` of rows of states `[rows, hidden_size]` that predict `targets`, in one pass with the head
    /// ([`Model::head_loss`]); sequences lie between `offsets`. Also its value in `f64`.
    ///
    /// # Errors
    /// When slices do not fit, or a log-probability is not a number.
    pub fn cross_entropy(
        &self,
        states: &Tensor,
        targets: &[u32],
        offsets: &[usize],
        tokens: usize,
    ) -> std::result::Result<(Tensor, f64), UpdateError> {
        let loss = LossConfig::cross_entropy().validate()?;
        let normalizer = Normalizer { tokens: Some(tokens as f64), ..Normalizer::default() };
        let advantages = vec![1.0; offsets.len().saturating_sub(1)];
        let batch = TokenBatch::new(offsets, &[], Advantages::PerSequence(&advantages));
        let (scalar, found) = self.text().head_loss(states, |head, products, grad| {
            let head = LinearHead { targets, ..head };
            loss.evaluate_linear(&head, &batch, &normalizer, &products, grad).map_err(UpdateError::from)
        })?;
        Ok((scalar, found.loss.loss))
    }

    /// The gradient of every parameter, in order, after a pass with these items; empty for one that takes no part.
    ///
    /// # Errors
    /// The names of parameters that should have one and have not.
    pub fn gradients(&self, loss: &Tensor, items: &VisualItems) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Text(model) => model.gradients(loss),
            Self::Vision(model) => model.gradients(loss, items),
        }
    }

    /// A frozen copy for generation, in numbers of its own.
    ///
    /// # Errors
    /// When candle refuses.
    pub fn decoder(&self, precision: Precision) -> Result<Decoder> {
        let longest = self.config().max_position_embeddings;
        match self {
            Self::Text(model) => Decoder::with_precision(model, longest, precision),
            Self::Vision(model) => Decoder::with_vision(model, longest, precision),
        }
    }
}

impl From<Model> for Policy {
    fn from(model: Model) -> Self {
        Self::Text(Box::new(model))
    }
}

/// Whether a directory's `config.json` is of a model with a vision tower.
#[must_use]
pub fn has_vision(dir: &Path) -> bool {
    let text = std::fs::read_to_string(dir.join("config.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    json.get("vision_config").is_some()
}

/// The images of some prompts, one after the other.
pub(crate) fn join_items<'a>(all: impl Iterator<Item = &'a VisualItems>) -> candle_core::Result<VisualItems> {
    let (mut joined, mut images, mut videos) = (VisualItems::default(), Vec::new(), Vec::new());
    for items in all {
        images.extend(items.image_pixels.clone());
        videos.extend(items.video_pixels.clone());
        joined.image_grids.extend(&items.image_grids);
        joined.video_grids.extend(&items.video_grids);
    }
    let cat = |parts: Vec<Tensor>| match parts.is_empty() {
        true => Ok(None),
        false => Tensor::cat(&parts, 0).map(Some),
    };
    joined.image_pixels = cat(images)?;
    joined.video_pixels = cat(videos)?;
    Ok(joined)
}
