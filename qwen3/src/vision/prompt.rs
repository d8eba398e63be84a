//! Prompts with images and videos, for generation.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mrope::{PositionBuilder, Positions, Run, Sequence};

use super::config::VlConfig;
use super::join::VisualItems;
use super::model::VlModel;
use super::tower::VisionTower;
use crate::error::{Error, Result};
use crate::kernel::rope::RopeTable;
use crate::model::Batch;

/// A prompt whose images and videos the tower has seen. Sequences that share the prompt share it.
#[derive(Clone, Debug)]
pub struct VisualPrompt {
    tokens: Vec<u32>,
    /// Coordinates `[axes][tokens]`.
    axes: Vec<Vec<f64>>,
    /// Where text goes on.
    end: Sequence,
    /// For each token its row among the features.
    sources: Vec<Option<u32>>,
    /// `[visual tokens, hidden_size]`: what stands in place of embeddings, then what each first layer adds.
    features: Vec<Vec<f32>>,
}

impl VisualPrompt {
    /// What the model reads, with a placeholder for every visual token.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Features of token `index`, `None` for text: `part` 0 stands in place of the embedding, `1 + j` is added behind
    /// layer `j`.
    fn feature(&self, index: usize, part: usize, hidden: usize) -> Option<&[f32]> {
        let row = (*self.sources.get(index)?)? as usize;
        self.features.get(part)?.get(row * hidden..(row + 1) * hidden)
    }

    /// What stands in place of the embedding of token `index`.
    pub(crate) fn embedding(&self, index: usize, hidden: usize) -> Option<&[f32]> {
        self.feature(index, 0, hidden)
    }

    /// What is added to token `index` behind decoder layer `layer`.
    pub(crate) fn level(&self, index: usize, layer: usize, hidden: usize) -> Option<&[f32]> {
        self.feature(index, 1 + layer, hidden)
    }
}

/// A frozen copy of a tower.
pub(crate) struct FrozenVision {
    config: VlConfig,
    tower: VisionTower,
}

impl FrozenVision {
    pub(crate) fn new(model: &VlModel) -> Result<Self> {
        let copy = |t: crate::weights::NamedTensor| Tensor::from_vec(t.data, t.shape, &Device::Cpu);
        let tensors = model.to_tensors()?.into_iter().skip(model.text().parameters().len());
        let tensors = tensors.map(copy).collect::<candle_core::Result<_>>()?;
        let config = model.config().clone();
        Ok(Self { tower: VisionTower::new(&config.vision, tensors)?, config })
    }

    pub(crate) fn prompt(&self, tokens: &[u32], items: &VisualItems) -> Result<VisualPrompt> {
        let batch = Batch::pack([tokens]);
        let positions = items.positions(&self.config, &batch)?;
        let features = match items.encode(&self.tower)? {
            Some(features) => {
                let parts = std::iter::once(features.merged).chain(features.levels);
                parts.map(|t| Ok(t.flatten_all()?.to_vec1()?)).collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        Ok(VisualPrompt {
            tokens: tokens.to_vec(),
            axes: positions.axes().to_vec(),
            end: positions.sequences()[0],
            sources: items.sources(&self.config, &batch)?,
            features,
        })
    }

    /// One row of angles for each `(prompt, place in the sequence)`. Behind its prompt a sequence is text.
    pub(crate) fn rotation<'a>(
        &self,
        rows: impl Iterator<Item = (Option<&'a VisualPrompt>, usize)>,
    ) -> Result<Arc<RopeTable>> {
        let rotation = &self.config.rotation;
        let mut axes = vec![Vec::new(); rotation.design.axes()];
        for (prompt, index) in rows {
            match prompt {
                Some(prompt) if index < prompt.tokens.len() => {
                    axes.iter_mut().zip(&prompt.axes).for_each(|(all, axis)| all.push(axis[index]));
                }
                prompt => {
                    let end = prompt.map_or(Sequence::default(), |p| p.end);
                    let next = end.next + (index - end.tokens) as f64;
                    let mut builder =
                        PositionBuilder::resume(rotation.design.clone(), Sequence::at(index, next))?;
                    builder.push(Run::Text(1))?;
                    let one = builder.finish();
                    axes.iter_mut().zip(one.axes()).for_each(|(all, axis)| all.extend(axis));
                }
            }
        }
        let positions = Positions::from_axes(axes)?;
        Ok(Arc::new(RopeTable::of_tokens(&positions, &rotation.allocation, &rotation.frequencies)?))
    }

    /// Refuses a row that is not the prompt's.
    pub(crate) fn check(prompt: &VisualPrompt, index: usize, token: u32) -> Result<()> {
        match prompt.tokens.get(index) {
            Some(expected) if *expected != token => {
                Err(Error::Batch(format!("token {index} of a prompt is {expected}, but {token} was fed")))
            }
            _ => Ok(()),
        }
    }
}
