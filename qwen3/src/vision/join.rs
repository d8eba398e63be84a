//! Which rows of a batch the tower fills, and with what.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mrope::{Grid, Placeholders, PositionBuilder, Positions, Run, RunReader, Sequence, VideoItem};

use super::config::VlConfig;
use super::tower::{VisionTower, VisualFeatures};
use crate::error::{Error, Result};
use crate::model::Batch;
use crate::ops::GatherRows;

/// Images and videos of a batch, each kind in the order of its placeholders over all sequences, or used as `image_uses`
/// and `video_uses` say.
#[derive(Clone, Debug, Default)]
pub struct VisualItems {
    /// Patches of all images: `[patches, patch_width]`; `None` without images.
    pub image_pixels: Option<Tensor>,
    /// Sizes of the images in patches.
    pub image_grids: Vec<Grid>,
    /// Which image stands at each place, in the order of placeholders, where images stand at more than one (the samples of
    /// one prompt): it is encoded once, and its gradients add up. Empty: each once, in their order.
    pub image_uses: Vec<usize>,
    /// Patches of all videos; `None` without videos.
    pub video_pixels: Option<Tensor>,
    /// Sizes of the videos in patches (rows of `video_grid_thw`, not split by frame).
    pub video_grids: Vec<Grid>,
    /// As `image_uses`.
    pub video_uses: Vec<usize>,
    /// Tokens of each sequence among which placeholders are looked for; a placeholder's id behind them is text, for a
    /// policy can draw one. Empty: all tokens of all sequences. A segment that continues a shared prefix is text.
    pub prompt_lens: Vec<usize>,
}

impl VisualItems {
    /// Whether there is neither image nor video.
    pub fn is_empty(&self) -> bool {
        self.image_grids.is_empty()
            && self.video_grids.is_empty()
            && self.image_pixels.is_none()
            && self.video_pixels.is_none()
    }

    /// The items of `times` sequences that begin with the prompt of these, packed one behind the other.
    pub fn repeat(&self, times: usize) -> Self {
        let again = |uses: &[usize], items: usize| match uses {
            [] => (0..items).collect::<Vec<_>>().repeat(times),
            uses => uses.repeat(times),
        };
        Self {
            image_uses: again(&self.image_uses, self.image_grids.len()),
            video_uses: again(&self.video_uses, self.video_grids.len()),
            prompt_lens: self.prompt_lens.repeat(times),
            ..self.clone()
        }
    }

    /// Each sequence's rows, and how many of them are its prompt.
    fn prompts(&self, batch: &Batch) -> Result<Vec<(usize, usize, usize)>> {
        let sequences = batch.cu_seqlens.len() - 1;
        if !self.prompt_lens.is_empty() && self.prompt_lens.len() != sequences {
            return Err(Error::Batch(format!(
                "{} prompt_lens for {sequences} sequences",
                self.prompt_lens.len()
            )));
        }
        let ends = batch.cu_seqlens.windows(2).enumerate();
        ends.map(|(i, w)| {
            let (start, end) = (w[0] as usize, w[1] as usize);
            if batch.prefixes[i].is_some() {
                return Ok((start, end, 0));
            }
            match self.prompt_lens.get(i) {
                Some(len) if *len > end - start => Err(Error::Batch(format!(
                    "sequence {i}: a prompt of {len} tokens in a sequence of {}",
                    end - start
                ))),
                len => Ok((start, end, len.copied().unwrap_or(end - start))),
            }
        })
        .collect()
    }

    /// Coordinates of every row, and where each sequence ends (of a batch with shared prefixes: where all of it does).
    pub(super) fn positions(&self, config: &VlConfig, batch: &Batch) -> Result<Positions> {
        batch.check(&config.text)?;
        let design = &config.rotation.design;
        let pick = |grids: &[Grid], uses: Vec<usize>| uses.into_iter().map(|i| grids[i]).collect::<Vec<_>>();
        let images = pick(&self.image_grids, uses("image", &self.image_uses, self.image_grids.len())?);
        let videos = pick(&self.video_grids, uses("video", &self.video_uses, self.video_grids.len())?);
        let videos: Vec<VideoItem> =
            videos.into_iter().map(|grid| VideoItem { grid, seconds_per_grid: None }).collect();
        let mut reader = RunReader::new(config.placeholders, &images, &videos, design)?;
        let mut sequences = Vec::with_capacity(batch.cu_seqlens.len());
        for ((start, end, prompt), prefix) in self.prompts(batch)?.into_iter().zip(&batch.prefixes) {
            let mut runs = reader.read(&batch.tokens[start..start + prompt])?;
            runs.push(Run::Text(end - start - prompt));
            if prefix.is_none() {
                sequences.push(runs);
            }
        }
        reader.finish()?;
        let whole = design.packed(&sequences, None)?;
        if batch.prefixes.iter().all(Option::is_none) {
            return Ok(whole);
        }
        // What continues a prefix is text, from where the prefix ends.
        let mut axes = vec![Vec::with_capacity(batch.tokens.len()); design.axes()];
        let (mut next, mut ends) = (0, whole.sequences().iter());
        let mut end = Sequence::default();
        for (rows, prefix) in batch.cu_seqlens.windows(2).zip(&batch.prefixes) {
            let len = (rows[1] - rows[0]) as usize;
            match prefix {
                None => {
                    end = ends.next().copied().unwrap_or_default();
                    axes.iter_mut()
                        .zip(whole.axes())
                        .for_each(|(to, from)| to.extend(&from[next..next + len]));
                    next += len;
                }
                Some(_) => {
                    let mut builder = PositionBuilder::resume(design.clone(), end)?;
                    builder.push(Run::Text(len))?;
                    let own = builder.finish();
                    axes.iter_mut().zip(own.axes()).for_each(|(to, from)| to.extend(from));
                }
            }
        }
        Ok(Positions::from_axes(axes)?)
    }

    /// Runs the tower over all items, images before videos; `None` without items.
    pub(super) fn encode(&self, tower: &VisionTower) -> Result<Option<VisualFeatures>> {
        let mut parts = Vec::new();
        for (kind, pixels, grids) in [
            ("image", &self.image_pixels, &self.image_grids),
            ("video", &self.video_pixels, &self.video_grids),
        ] {
            match (pixels, grids.is_empty()) {
                (None, true) => {}
                (Some(pixels), false) => parts.push(tower.encode(pixels, grids)?),
                (Some(_), true) => return Err(Error::Batch(format!("{kind} pixels without grids"))),
                (None, false) => {
                    return Err(Error::Batch(format!("{} {kind} grids without pixels", grids.len())));
                }
            }
        }
        let [_, _] = &parts[..] else { return Ok(parts.pop()) };
        let join =
            |f: &dyn Fn(&VisualFeatures) -> Tensor| Tensor::cat(&parts.iter().map(f).collect::<Vec<_>>(), 0);
        let levels = (0..parts[0].levels.len()).map(|level| join(&|p| p.levels[level].clone()));
        Ok(Some(VisualFeatures {
            merged: join(&|p| p.merged.clone())?,
            levels: levels.collect::<candle_core::Result<_>>()?,
        }))
    }

    /// For each row its row among the features of [`VisualItems::encode`]; `None` for text. To be asked after
    /// [`VisualItems::positions`], which refuses placeholders and items that do not fit together.
    pub(super) fn sources(&self, config: &VlConfig, batch: &Batch) -> Result<Vec<Option<u32>>> {
        let Placeholders { image, video } = config.placeholders;
        let per_token = config.vision.patches_per_token() as u32;
        let mut first = 0;
        // The features at each placeholder of a kind, in order.
        let mut features = |kind, grids: &[Grid], used: &[usize]| -> Result<std::vec::IntoIter<u32>> {
            let rows: Vec<Range<u32>> = grids
                .iter()
                .map(|g| {
                    let start = first;
                    first += g.t * g.h * g.w / per_token;
                    start..first
                })
                .collect();
            let order = uses(kind, used, grids.len())?.into_iter().flat_map(|i| rows[i].clone());
            Ok(order.collect::<Vec<u32>>().into_iter())
        };
        let mut images = features("image", &self.image_grids, &self.image_uses)?;
        let mut videos = features("video", &self.video_grids, &self.video_uses)?;
        let mut sources = vec![None; batch.tokens.len()];
        for (start, _, prompt) in self.prompts(batch)? {
            for row in start..start + prompt {
                sources[row] = match batch.tokens[row] {
                    token if token == image => images.next(),
                    token if token == video => videos.next(),
                    _ => None,
                };
            }
        }
        Ok(sources)
    }
}

/// The item at each place. Each must stand somewhere: one that does not would take no part in the loss.
fn uses(kind: &str, uses: &[usize], items: usize) -> Result<Vec<usize>> {
    if uses.is_empty() {
        return Ok((0..items).collect());
    }
    if let Some(item) = uses.iter().find(|item| **item >= items) {
        return Err(Error::Batch(format!("{kind}_uses has {kind} {item}, of {items}")));
    }
    match (0..items).find(|item| !uses.contains(item)) {
        Some(item) => Err(Error::Batch(format!("{kind} {item} stands nowhere in {kind}_uses"))),
        None => Ok(uses.to_vec()),
    }
}

/// What the decoder takes from the tower, in the order of its rows.
pub(crate) struct VisualRows {
    merged: Tensor,
    /// For each row of the batch, its row in `[embeddings; merged]`.
    pick: Arc<[u32]>,
    /// Added behind the first layers: `[rows, hidden_size]` each, zero where no visual token is.
    pub(crate) levels: Vec<Tensor>,
}

impl VisualRows {
    pub(super) fn new(features: VisualFeatures, sources: &[Option<u32>]) -> Result<Self> {
        let VisualFeatures { merged, levels } = features;
        let (rows, count) = (sources.len() as u32, merged.dim(0)? as u32);
        let pick = sources.iter().zip(0..).map(|(s, row)| s.map_or(row, |s| rows + s)).collect();
        // Text takes the row of zeros behind the features.
        let of_row: Arc<[u32]> = sources.iter().map(|s| s.unwrap_or(count)).collect();
        let zero = Tensor::zeros((1, merged.dim(1)?), DType::F32, &Device::Cpu)?;
        let spread = |level: Tensor| -> Result<Tensor> {
            let rows = Tensor::cat(&[&level, &zero], 0)?;
            Ok(rows.apply_op1(GatherRows { rows: of_row.clone() })?)
        };
        let levels = levels.into_iter().map(spread).collect::<Result<_>>()?;
        Ok(Self { merged, pick, levels })
    }

    /// Embeddings with the visual rows replaced.
    pub(crate) fn replace(&self, embeddings: &Tensor) -> Result<Tensor> {
        let rows = Tensor::cat(&[embeddings, &self.merged], 0)?;
        Ok(rows.apply_op1(GatherRows { rows: self.pick.clone() })?)
    }
}
