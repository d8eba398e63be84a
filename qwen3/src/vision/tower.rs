//! The vision tower: patches to features of the decoder's width.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mrope::{Allocation, Frequencies, Grid, Positions};

use super::config::VisionConfig;
use crate::error::{Error, Result};
use crate::kernel::attention::HeadShape;
use crate::kernel::rope::RopeTable;
use crate::ops::{Attention, GatherRows, LayerNorm, Linear, QkNormRope, Segments};
use crate::part::recompute;

const NORM: LayerNorm = LayerNorm { eps: 1e-6 };

/// What the tower gives for some items, in their order.
#[derive(Clone, Debug)]
pub struct VisualFeatures {
    /// What stands in place of embeddings: `[tokens, out_hidden_size]`.
    pub merged: Tensor,
    /// What is added behind the first decoder layers, of the same shape each (DeepStack).
    pub levels: Vec<Tensor>,
}

struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.apply_op2(&self.weight, Linear::default())?.broadcast_add(&self.bias)?)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.apply_op3(&self.weight, &self.bias, NORM)?)
    }
}

struct Block {
    norm1: Affine,
    norm2: Affine,
    qkv: Affine,
    proj: Affine,
    fc1: Affine,
    fc2: Affine,
}

/// Where patches stand in their frames, and where frames end.
#[derive(Clone)]
struct Frames {
    rotate: QkNormRope,
    segments: Segments,
}

struct Merger {
    norm: Affine,
    fc1: Affine,
    fc2: Affine,
}

/// The vision tower of Qwen3-VL (after SigLIP-2, with learned and rotary positions).
pub struct VisionTower {
    config: VisionConfig,
    patch: Affine,
    blocks: Vec<Arc<Block>>,
    merger: Merger,
    levels: Vec<Merger>,
    positions: Tensor,
    recompute: bool,
}

impl VisionTower {
    /// Takes tensors in the order of `tower_specs`.
    pub(super) fn new(config: &VisionConfig, tensors: Vec<Tensor>) -> Result<Self> {
        let mut rest = tensors.into_iter();
        let mut next = || rest.next().ok_or_else(|| Error::Batch("too few parameters".into()));
        let mut pair = || Ok::<_, Error>(Affine { weight: next()?, bias: next()? });
        let mut patch = pair()?;
        patch.weight = patch.weight.reshape((config.hidden_size, config.patch_width()))?;
        let mut blocks = Vec::with_capacity(config.depth);
        for _ in 0..config.depth {
            blocks.push(Arc::new(Block {
                norm1: pair()?,
                norm2: pair()?,
                qkv: pair()?,
                proj: pair()?,
                fc1: pair()?,
                fc2: pair()?,
            }));
        }
        let mut merger = || Ok::<_, Error>(Merger { norm: pair()?, fc1: pair()?, fc2: pair()? });
        let last = merger()?;
        let levels = (0..config.deepstack_visual_indexes.len()).map(|_| merger()).collect::<Result<_>>()?;
        let positions = next()?;
        Ok(Self { config: config.clone(), patch, blocks, merger: last, levels, positions, recompute: false })
    }

    /// Keep each block's input alone, as [`crate::Model::set_recompute`] says. Not for a tower of constants.
    pub(super) fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Encodes items: `pixels` are `[patches, in_channels · temporal_patch_size · patch_size²]`, item by item in the
    /// order of merge blocks; `grids` are in patches. Frames never see each other.
    pub fn encode(&self, pixels: &Tensor, grids: &[Grid]) -> Result<VisualFeatures> {
        let c = &self.config;
        let merge = c.spatial_merge_size as u32;
        let sides =
            |g: &Grid| g.t > 0 && [g.h, g.w].iter().all(|side| *side > 0 && side.is_multiple_of(merge));
        if let Some((item, grid)) = grids.iter().enumerate().find(|(_, g)| !sides(g)) {
            return Err(Error::Batch(format!(
                "visual item {item}: grid {grid} has a side that the merge size {merge} does not divide"
            )));
        }
        let expected: u128 = grids.iter().map(|g| u128::from(g.t) * u128::from(g.h) * u128::from(g.w)).sum();
        if pixels.dims().len() != 2
            || pixels.dims()[0] as u128 != expected
            || pixels.dims()[1] != c.patch_width()
            || expected == 0
        {
            return Err(Error::Batch(format!(
                "pixels are {:?}, expected [{expected}, {}] from the {} grids and the patch size",
                pixels.dims(),
                c.patch_width(),
                grids.len()
            )));
        }
        let cells: Vec<Cell> = grids.iter().flat_map(|g| cells(*g, merge)).collect();
        let mut x = (self.patch.linear(pixels)? + self.learned_positions(&cells)?)?;
        let mut ends = vec![0u32];
        for grid in grids {
            for _ in 0..grid.t {
                ends.push(ends[ends.len() - 1] + grid.h * grid.w);
            }
        }
        let frames = Frames { rotate: self.rotation(&cells)?, segments: Segments::new(&ends, &[]) };
        let mut levels = Vec::with_capacity(self.levels.len());
        for (index, block) in self.blocks.iter().enumerate() {
            x = if self.recompute {
                let value = block.detach().forward(&x.detach(), &frames)?;
                let again = {
                    let (block, frames) = (block.clone(), frames.clone());
                    move |x: &Tensor| Ok(vec![block.forward(x, &frames)?])
                };
                recompute(&x, &block.parameters(), vec![value], again)?.remove(0)
            } else {
                block.forward(&x, &frames)?
            };
            if let Some(level) = c.deepstack_visual_indexes.iter().position(|i| *i == index) {
                let merger = &self.levels[level];
                levels.push(merger.mlp(&merger.norm.norm(&self.join(&x)?)?)?);
                // A view: the blocks behind give `x` one gradient, in whichever way they run, and the merger the other.
                x = x.reshape(x.shape())?;
            }
        }
        let merged = self.merger.mlp(&self.join(&self.merger.norm.norm(&x)?)?)?;
        Ok(VisualFeatures { merged, levels })
    }

    /// The patches of a token side by side.
    fn join(&self, x: &Tensor) -> Result<Tensor> {
        let per_token = self.config.patches_per_token();
        Ok(x.reshape((x.dim(0)? / per_token, per_token * self.config.hidden_size))?)
    }

    /// The learned table at the patches' places, bilinear with aligned corners, the same for every frame.
    fn learned_positions(&self, cells: &[Cell]) -> Result<Tensor> {
        let side = self.config.table_side();
        let mut corners = vec![(Vec::with_capacity(cells.len()), Vec::with_capacity(cells.len())); 4];
        for cell in cells {
            for (corner, (index, weight)) in corners.iter_mut().zip(cell.corners(side)) {
                corner.0.push(index);
                corner.1.push(weight);
            }
        }
        let mut sum: Option<Tensor> = None;
        for (rows, weights) in corners {
            let weights = Tensor::from_vec(weights, (cells.len(), 1), &Device::Cpu)?;
            let part = self.positions.apply_op1(GatherRows { rows: rows.into() })?.broadcast_mul(&weights)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => (sum + part)?,
            });
        }
        sum.ok_or_else(|| Error::Batch("no patches".into()))
    }

    /// Rotation by row and column: half of the pairs each, with the same frequencies.
    fn rotation(&self, cells: &[Cell]) -> Result<QkNormRope> {
        let (heads, head_dim) = (self.config.num_heads, self.config.head_dim());
        let axis = |f: fn(&Cell) -> u32| cells.iter().map(|cell| f64::from(f(cell))).collect();
        let positions = Positions::from_axes(vec![axis(|c| c.row), axis(|c| c.column)])?;
        let frequencies = Frequencies::new(1e4, head_dim / 2)?.repeat(2)?;
        let allocation = Allocation::Chunked(vec![head_dim / 4, head_dim / 4]);
        Ok(QkNormRope {
            shape: HeadShape { query_heads: heads, kv_heads: heads, head_dim },
            eps: 0.0,
            table: Arc::new(RopeTable::of_tokens(&positions, &allocation, &frequencies)?),
            positions: (0..cells.len() as u32).collect(),
        })
    }
}

impl Block {
    fn forward(&self, x: &Tensor, Frames { rotate, segments }: &Frames) -> Result<Tensor> {
        let attention = Attention::full(rotate.shape, segments.clone());
        let qkv = self.qkv.linear(&self.norm1.norm(x)?)?.apply_op1(rotate.clone())?;
        let x = (x + self.proj.linear(&qkv.apply_op1(attention)?)?)?;
        // `Tensor::gelu` is the tanh form, which blocks use; mergers use the exact one.
        let inner = self.fc1.linear(&self.norm2.norm(&x)?)?.gelu()?;
        Ok((&x + self.fc2.linear(&inner)?)?)
    }

    fn affine(&self) -> [&Affine; 6] {
        [&self.norm1, &self.norm2, &self.qkv, &self.proj, &self.fc1, &self.fc2]
    }

    fn parameters(&self) -> Vec<Tensor> {
        self.affine().into_iter().flat_map(|a| [a.weight.clone(), a.bias.clone()]).collect()
    }

    /// The same weights, outside of any graph.
    fn detach(&self) -> Self {
        let [norm1, norm2, qkv, proj, fc1, fc2] =
            self.affine().map(|a| Affine { weight: a.weight.detach(), bias: a.bias.detach() });
        Self { norm1, norm2, qkv, proj, fc1, fc2 }
    }
}

impl Merger {
    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.linear(&self.fc1.linear(x)?.gelu_erf()?)
    }
}

/// A patch's place in its frame, and the frame's size.
struct Cell {
    row: u32,
    column: u32,
    height: u32,
    width: u32,
}

impl Cell {
    /// The four table rows around the place, with their weights.
    fn corners(&self, side: usize) -> [(u32, f32); 4] {
        let along = |at: u32, len: u32| {
            let exact = f64::from(at) * (side - 1) as f64 / f64::from(len.max(2) - 1);
            let low = (exact.floor() as usize).min(side - 1);
            (low as u32, (low + 1).min(side - 1) as u32, (exact - low as f64) as f32)
        };
        let (y0, y1, a) = along(self.row, self.height);
        let (x0, x1, b) = along(self.column, self.width);
        let index = |y: u32, x: u32| y * side as u32 + x;
        [
            (index(y0, x0), (1.0 - a) * (1.0 - b)),
            (index(y0, x1), (1.0 - a) * b),
            (index(y1, x0), a * (1.0 - b)),
            (index(y1, x1), a * b),
        ]
    }
}

/// The patches of an item in the order of merge blocks: frame, block row, block column, row and column inside.
fn cells(grid: Grid, merge: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    for _ in 0..grid.t {
        for block_row in (0..grid.h).step_by(merge as usize) {
            for block_column in (0..grid.w).step_by(merge as usize) {
                for row in block_row..block_row + merge {
                    for column in block_column..block_column + merge {
                        cells.push(Cell { row, column, height: grid.h, width: grid.w });
                    }
                }
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_visited_block_by_block() {
        let order: Vec<(u32, u32)> = cells(Grid::new(1, 4, 6), 2).iter().map(|c| (c.row, c.column)).collect();
        let blocks = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)];
        assert_eq!((&order[..8], order[12]), (&blocks[..], (2, 0)));
    }

    /// The worked weights of tables of side 4 and 48.
    #[test]
    fn table_corners_are_aligned() {
        let check = |side, size: (u32, u32), at: (u32, u32), indices: [u32; 4], weights: [f32; 4]| {
            let cell = Cell { row: at.0, column: at.1, height: size.0, width: size.1 };
            let found = cell.corners(side);
            assert_eq!(found.map(|c| c.0), indices);
            assert!(found.iter().zip(weights).all(|(c, w)| (c.1 - w).abs() < 1e-6), "{found:?}");
        };
        check(4, (4, 6), (0, 1), [0, 1, 4, 5], [0.4, 0.6, 0.0, 0.0]);
        check(4, (4, 6), (0, 5), [3, 3, 7, 7], [1.0, 0.0, 0.0, 0.0]);
        check(48, (30, 40), (1, 1), [49, 50, 97, 98], [0.301503, 0.077807, 0.493369, 0.127321]);
        check(48, (30, 40), (14, 20), [1080, 1081, 1128, 1129], [0.278515, 0.031830, 0.618922, 0.070734]);
    }
}
