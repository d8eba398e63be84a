//! Tower and decoder as one trainable model.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use mrope::{Grid, Positions};

use super::config::VlConfig;
use super::join::{VisualItems, VisualRows};
use super::tower::{VisionTower, VisualFeatures};
use super::weights::{TOWER, file_specs, parameter_specs, tower_specs, transpose_experts};
use crate::error::{Error, Result};
use crate::head::LogProbs;
use crate::kernel::MatmulPrecision;
use crate::kernel::rope::RopeTable;
use crate::model::{Batch, ForwardOptions, Hidden, Model, Parameter, copies};
use crate::sink;
use crate::weights::{NamedTensor, SaveType, init_specs, load_specs, save_specs};

/// A trainable Qwen3-VL or Qwen3-VL-MoE in `f32` on the CPU.
pub struct VlModel {
    config: VlConfig,
    text: Model,
    tower: VisionTower,
    /// The same weights, outside of any graph.
    constant_tower: VisionTower,
    parameters: Vec<Parameter>,
    frozen_tower: bool,
}

impl VlModel {
    /// Builds a model from its parameters, in the order of [`super::parameter_specs`].
    pub fn from_tensors(config: VlConfig, tensors: Vec<NamedTensor>) -> Result<Self> {
        let specs = parameter_specs(&config);
        if tensors.len() != specs.len() {
            return Err(Error::Batch(format!("{} tensors for {} parameters", tensors.len(), specs.len())));
        }
        for (spec, tensor) in specs.iter().zip(&tensors) {
            if spec.name != tensor.name || spec.shape != tensor.shape {
                return Err(Error::Batch(format!(
                    "expected {} {:?}, got {} {:?}",
                    spec.name, spec.shape, tensor.name, tensor.shape
                )));
            }
        }
        let mut text = tensors;
        let visual = text.split_off(specs.len() - tower_specs(&config.vision).len());
        let text_specs = crate::weights::parameter_specs(&config.text);
        for (tensor, spec) in text.iter_mut().zip(text_specs) {
            tensor.name = spec.name;
        }
        let text = Model::from_tensors(config.text.clone(), text)?;
        let mut vars = text.parameters().iter().map(|p| p.var.clone()).collect::<Vec<Var>>();
        for tensor in visual {
            vars.push(Var::from_vec(tensor.data, tensor.shape, &Device::Cpu)?);
        }
        let of_tower = &vars[text.parameters().len()..];
        let tower = |tensor: fn(&Var) -> Tensor| {
            VisionTower::new(&config.vision, of_tower.iter().map(tensor).collect())
        };
        let (tower, constant_tower) = (tower(|v| v.as_tensor().clone())?, tower(Var::as_detached_tensor)?);
        let parameters = specs
            .into_iter()
            .zip(vars)
            .map(|(spec, var)| Parameter { name: spec.name, group: spec.group, var })
            .collect();
        Ok(Self { config, text, tower, constant_tower, parameters, frozen_tower: false })
    }

    /// Reads a Hugging Face directory. Experts are read in the layout of released files, and in that of
    /// [`super::parameter_specs`], in which transformers 5 writes a model that it has made itself.
    pub fn load(dir: &Path) -> Result<Self> {
        let config = VlConfig::from_dir(dir)?;
        let released = load_specs(dir, file_specs(&config)).map(|mut tensors| {
            transpose_experts(&mut tensors);
            tensors
        });
        let tensors = match released {
            // The shapes of at least one of a layer's two tensors tell the layouts apart.
            Err(Error::Weights { .. }) if config.text.moe.is_some() => {
                load_specs(dir, parameter_specs(&config)).or(released)?
            }
            other => other?,
        };
        Self::from_tensors(config, tensors)
    }

    /// Random weights: normal with the text configuration's `initializer_range`, ones for norms, zeros for biases. `rng`
    /// is asked for one generator a parameter, by its index.
    pub fn init<R: rand::RngCore>(config: VlConfig, rng: impl FnMut(usize) -> R) -> Result<Self> {
        let tensors = init_specs(parameter_specs(&config), config.text.initializer_range, rng).collect();
        Self::from_tensors(config, tensors)
    }

    /// Writes a Hugging Face directory that other engines load. An untouched model is written back byte for byte in the
    /// type that it was saved in.
    pub fn save(&self, dir: &Path, save_type: SaveType) -> Result<()> {
        self.save_sharded(dir, save_type, u64::MAX)
    }

    /// As [`Model::save_sharded`].
    pub fn save_sharded(&self, dir: &Path, save_type: SaveType, max_shard_size: u64) -> Result<()> {
        let mut tensors = self.to_tensors()?;
        transpose_experts(&mut tensors);
        let config = self.config.to_json(save_type);
        save_specs(dir, file_specs(&self.config), &config, &tensors, save_type, max_shard_size)
    }

    /// Copies of all parameters, in order.
    pub fn to_tensors(&self) -> Result<Vec<NamedTensor>> {
        copies(&self.parameters)
    }

    /// The architecture.
    pub fn config(&self) -> &VlConfig {
        &self.config
    }

    /// As [`Model::set_matmul_precision`], of the decoder; the tower keeps `f32`.
    pub fn set_matmul_precision(&mut self, precision: MatmulPrecision) {
        self.text.set_matmul_precision(precision);
    }

    /// The decoder.
    pub fn text(&self) -> &Model {
        &self.text
    }

    /// As [`Model::set_recompute`], of decoder layers and of the tower's blocks.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.text.set_recompute(recompute);
        self.tower.set_recompute(recompute);
    }

    /// Trains the decoder alone: the tower, its mergers included, is no longer among [`VlModel::parameters`], and nothing
    /// of it is differentiated.
    pub fn freeze_vision(&mut self) {
        self.frozen_tower = true;
    }

    /// The parameters that are trained, in a fixed order, decoder first.
    pub fn parameters(&self) -> &[Parameter] {
        let count = if self.frozen_tower { self.text.parameters().len() } else { self.parameters.len() };
        &self.parameters[..count]
    }

    /// Coordinates of every row, `[3][rows]`, and where each sequence ends. Errors name the sequence and token whose
    /// placeholders do not fit the grids.
    pub fn positions(&self, batch: &Batch, items: &VisualItems) -> Result<Positions> {
        items.positions(&self.config, batch)
    }

    /// Runs the tower over items of one kind.
    pub fn encode(&self, pixels: &Tensor, grids: &[Grid]) -> Result<VisualFeatures> {
        self.tower.encode(pixels, grids)
    }

    /// Runs tower and decoder over packed sequences; without items, the decoder alone.
    ///
    /// Rows at placeholders are never targets of a loss: leaving them out is the caller's part.
    pub fn forward(
        &self,
        batch: &Batch,
        items: &VisualItems,
        options: &ForwardOptions<'_>,
    ) -> Result<Hidden> {
        let positions = self.positions(batch, items)?;
        let rotation = &self.config.rotation;
        let table = RopeTable::of_tokens(&positions, &rotation.allocation, &rotation.frequencies)?;
        let places = (0..batch.tokens.len() as u32).collect();
        let table = (Arc::new(table), places);
        let constant = options.no_grad || self.frozen_tower;
        let visual = match items.encode(if constant { &self.constant_tower } else { &self.tower })? {
            Some(features) => Some(VisualRows::new(features, &items.sources(&self.config, batch)?)?),
            None => None,
        };
        self.text.forward_placed(batch, options, table, visual.as_ref())
    }

    /// [`Model::logits`].
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        self.text.logits(states)
    }

    /// [`Model::log_probs`].
    pub fn log_probs(&self, states: &Tensor, targets: &[u32], temperature: f64) -> Result<LogProbs> {
        self.text.log_probs(states, targets, temperature)
    }

    /// As [`Model::gradients`]. After a pass without images and videos those of the tower are empty.
    pub fn gradients(&self, loss: &Tensor, items: &VisualItems) -> Result<Vec<Vec<f32>>> {
        sink::gradients(loss, self.parameters(), |p| !items.is_empty() || !p.name.starts_with(TOWER))
    }
}
