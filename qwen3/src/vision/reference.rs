//! The definition of Qwen3-VL: tower and decoder in `f64`, one patch and token at a time, written to be read.
//!
//! It takes coordinates from the crate `mrope`, and shares nothing else with the fast path. Notation as in the Qwen3-VL
//! technical report (arXiv 2511.21631).

use std::collections::BTreeMap;

use mrope::{Allocation, Grid};
use ndarray::{Array1, Array2, ArrayView1, s};

use super::config::{VisionConfig, VlConfig};
use super::join::VisualItems;
use super::weights::tower_specs;
use crate::error::{Error, Result};
use crate::model::Batch;
use crate::reference::{self, Output, rotate, softmax};
use crate::weights::{NamedTensor, parameter_specs as text_specs};

/// Weights by name; vectors have one row.
#[derive(Clone, Debug)]
pub struct Weights {
    text: reference::Weights,
    vision: BTreeMap<String, Array2<f64>>,
}

impl Weights {
    /// From the parameters of a model, in their order.
    pub fn new(config: &VlConfig, tensors: &[NamedTensor]) -> Result<Self> {
        let count = text_specs(&config.text).len();
        let (text, tower) = tensors.split_at_checked(count).unwrap_or((tensors, &[]));
        let mut vision = BTreeMap::new();
        for (spec, tensor) in tower_specs(&config.vision).into_iter().zip(tower) {
            let rows = if spec.shape.len() == 1 { 1 } else { spec.shape[0] };
            let values: Vec<f64> = tensor.data.iter().map(|v| f64::from(*v)).collect();
            let matrix = Array2::from_shape_vec((rows, values.len() / rows), values)
                .map_err(|e| Error::Batch(format!("{}: {e}", spec.name)))?;
            vision.insert(spec.name, matrix);
        }
        Ok(Self { text: reference::Weights::new(&config.text, text)?, vision })
    }

    /// One tensor, to look at or to change: of the tower by its name in files, of the decoder by its name in files of
    /// the text model.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Array2<f64>> {
        match self.vision.get_mut(name) {
            Some(tensor) => Some(tensor),
            None => self.text.get_mut(name),
        }
    }

    fn get(&self, name: &str) -> Result<&Array2<f64>> {
        let name = format!("model.visual.{name}");
        self.vision.get(&name).ok_or_else(|| Error::Batch(format!("{name} is missing")))
    }

    fn linear(&self, name: &str, x: ArrayView1<'_, f64>) -> Result<Array1<f64>> {
        Ok(self.get(&format!("{name}.weight"))?.dot(&x) + self.get(&format!("{name}.bias"))?.row(0))
    }

    fn layer_norm(&self, name: &str, x: ArrayView1<'_, f64>) -> Result<Array1<f64>> {
        let n = x.len() as f64;
        let centred = x.mapv(|v| v - x.sum() / n);
        let rstd = 1.0 / (centred.dot(&centred) / n + 1e-6).sqrt();
        let w = self.get(&format!("{name}.weight"))?;
        Ok(centred * rstd * w.row(0) + self.get(&format!("{name}.bias"))?.row(0))
    }
}

/// Logits of one sequence; `replay` as in [`crate::reference::forward`].
pub fn forward(
    config: &VlConfig,
    weights: &Weights,
    tokens: &[u32],
    items: &VisualItems,
    replay: Option<&[Vec<Vec<usize>>]>,
) -> Result<Output> {
    let batch = Batch::pack([tokens]);
    let positions = items.positions(config, &batch)?;
    let mut features = vec![Vec::new(); 1 + config.vision.deepstack_visual_indexes.len()];
    for (pixels, grids) in
        [(&items.image_pixels, &items.image_grids), (&items.video_pixels, &items.video_grids)]
    {
        let Some(pixels) = pixels else { continue };
        let rows = pixels.to_vec2::<f32>()?;
        let mut rows = rows.iter().map(|row| row.iter().map(|v| f64::from(*v)).collect());
        for grid in grids {
            // Frames never see each other.
            for _ in 0..grid.t {
                let frame: Vec<Array1<f64>> = rows.by_ref().take((grid.h * grid.w) as usize).collect();
                for (all, part) in features.iter_mut().zip(encode(&config.vision, weights, &frame, *grid)?) {
                    all.extend(part);
                }
            }
        }
    }
    let sources = items.sources(config, &batch)?;
    if sources.iter().flatten().any(|row| *row as usize >= features[0].len()) {
        return Err(Error::Batch("there are fewer pixels than the grids say".into()));
    }
    let mut x = weights.text.embed(tokens)?;
    for (x, source) in x.iter_mut().zip(&sources) {
        if let Some(row) = source {
            x.assign(&features[0][*row as usize]);
        }
    }
    let level = |level: &Vec<Array1<f64>>| {
        sources.iter().map(|row| row.map(|row| level[row as usize].clone())).collect()
    };
    let levels: Vec<Vec<Option<Array1<f64>>>> = features[1..].iter().map(level).collect();

    let (allocation, frequencies) = (&config.rotation.allocation, &config.rotation.frequencies);
    let axes = allocation.axes(frequencies.pairs())?;
    let turn = |head: &mut Array1<f64>, token: usize, kv_head: usize| {
        let angle = |i: usize, _| {
            let by_head = matches!(allocation, Allocation::PerHead { .. });
            let axis = axes[if by_head { kv_head } else { i }];
            let coordinate = axis.and_then(|axis| positions.axis(axis)).map_or(0.0, |axis| axis[token]);
            coordinate * frequencies.inv()[i]
        };
        rotate(head, angle, frequencies.scaling());
    };
    reference::decode(&config.text, &weights.text, x, &turn, &levels, replay)
}

/// A frame through the tower: what takes the place of embeddings, then each DeepStack level, a token for every
/// block of patches.
fn encode(
    config: &VisionConfig,
    weights: &Weights,
    pixels: &[Array1<f64>],
    grid: Grid,
) -> Result<Vec<Vec<Array1<f64>>>> {
    let places = places(grid, config.spatial_merge_size);
    let mut x = Vec::new();
    for (pixels, place) in pixels.iter().zip(&places) {
        let learned = learned_position(config, weights, *place, grid)?;
        x.push(weights.linear("patch_embed.proj", pixels.view())? + learned);
    }
    let mut levels = Vec::new();
    for block in 0..config.depth {
        let name = |rest: &str| format!("blocks.{block}.{rest}");
        let mut normed = Vec::new();
        for x in &x {
            normed.push(weights.layer_norm(&name("norm1"), x.view())?);
        }
        for (x, out) in x.iter_mut().zip(attention(config, weights, &name("attn"), &normed, &places)?) {
            *x += &out;
        }
        for x in &mut x {
            let normed = weights.layer_norm(&name("norm2"), x.view())?;
            let inner = weights.linear(&name("mlp.linear_fc1"), normed.view())?.mapv(gelu_tanh);
            *x += &weights.linear(&name("mlp.linear_fc2"), inner.view())?;
        }
        if let Some(level) = config.deepstack_visual_indexes.iter().position(|b| *b == block) {
            let name = format!("deepstack_merger_list.{level}");
            let mut tokens = Vec::new();
            for patches in x.chunks(config.patches_per_token()) {
                let joined = weights.layer_norm(&format!("{name}.norm"), join(patches).view())?;
                tokens.push(merge(weights, &name, &joined)?);
            }
            levels.push(tokens);
        }
    }
    let mut tokens = Vec::new();
    for patches in x.chunks(config.patches_per_token()) {
        let mut normed = Vec::new();
        for patch in patches {
            normed.push(weights.layer_norm("merger.norm", patch.view())?);
        }
        tokens.push(merge(weights, "merger", &join(&normed))?);
    }
    levels.insert(0, tokens);
    Ok(levels)
}

/// Row and column of each patch, block by block.
fn places(grid: Grid, merge: usize) -> Vec<(usize, usize)> {
    let (h, w) = (grid.h as usize, grid.w as usize);
    let mut places = Vec::new();
    for block in 0..h * w / (merge * merge) {
        let (block_row, block_column) = (block / (w / merge), block % (w / merge));
        for inside in 0..merge * merge {
            places.push((block_row * merge + inside / merge, block_column * merge + inside % merge));
        }
    }
    places
}

/// Bilinear in the learned table, corners aligned.
fn learned_position(
    config: &VisionConfig,
    weights: &Weights,
    (row, column): (usize, usize),
    grid: Grid,
) -> Result<Array1<f64>> {
    let side = config.table_side();
    let table = weights.get("pos_embed.weight")?;
    let exact = |at: usize, len: u32| at as f64 * (side - 1) as f64 / f64::from((len - 1).max(1));
    let (y, x) = (exact(row, grid.h), exact(column, grid.w));
    let mut sum = Array1::zeros(config.hidden_size);
    for (i, entry) in table.rows().into_iter().enumerate() {
        // A hat function around each place of the table.
        let hat = |at: f64, place: usize| (1.0 - (at - place as f64).abs()).max(0.0);
        sum.scaled_add(hat(y, i / side) * hat(x, i % side), &entry);
    }
    Ok(sum)
}

fn attention(
    config: &VisionConfig,
    weights: &Weights,
    name: &str,
    u: &[Array1<f64>],
    places: &[(usize, usize)],
) -> Result<Vec<Array1<f64>>> {
    let (d, width) = (config.head_dim(), config.hidden_size);
    let mut qkv = Vec::new();
    for (u, (row, column)) in u.iter().zip(places) {
        let mut out = weights.linear(&format!("{name}.qkv"), u.view())?;
        for head in 0..2 * config.num_heads {
            let mut lanes = out.slice(s![head * d..(head + 1) * d]).to_owned();
            // The first half of the pairs turns by rows, the second by columns, at the same frequencies.
            let angle = |i: usize, pairs: usize| {
                let (at, i) = if i < pairs / 2 { (row, i) } else { (column, i - pairs / 2) };
                *at as f64 * 1e4f64.powf(-2.0 * i as f64 / pairs as f64)
            };
            rotate(&mut lanes, angle, 1.0);
            out.slice_mut(s![head * d..(head + 1) * d]).assign(&lanes);
        }
        qkv.push(out);
    }
    let mut outs = Vec::new();
    for from in &qkv {
        let mut joined = Array1::zeros(width);
        for head in 0..config.num_heads {
            let lanes = |part: usize| s![part * width + head * d..part * width + (head + 1) * d];
            let scores: Vec<f64> = qkv
                .iter()
                .map(|to| from.slice(lanes(0)).dot(&to.slice(lanes(1))) / (d as f64).sqrt())
                .collect();
            let mut out = joined.slice_mut(lanes(0));
            for (p, to) in softmax(&scores).into_iter().zip(&qkv) {
                out.scaled_add(p, &to.slice(lanes(2)));
            }
        }
        outs.push(weights.linear(&format!("{name}.proj"), joined.view())?);
    }
    Ok(outs)
}

/// The patches of a token side by side.
fn join(patches: &[Array1<f64>]) -> Array1<f64> {
    patches.iter().flat_map(|patch| patch.iter().copied()).collect()
}

fn merge(weights: &Weights, name: &str, x: &Array1<f64>) -> Result<Array1<f64>> {
    let inner = weights.linear(&format!("{name}.linear_fc1"), x.view())?.mapv(gelu);
    weights.linear(&format!("{name}.linear_fc2"), inner.view())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The exact form: `x` times the normal distribution's cumulative.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// `2/√π · e^(-x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!`, whose terms have one sign.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_has_its_known_values() {
        for (x, value) in [(0.0, 0.0), (0.5, 0.5204998778130465), (2.0, 0.9953222650189527), (-7.0, -1.0)] {
            assert!((erf(x) - value).abs() < 1e-15, "erf({x}) = {}", erf(x));
        }
    }
}
