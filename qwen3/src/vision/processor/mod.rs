//! From images and videos to what the model reads: patches, and a prompt with a token for each merged patch.
//!
//! A prompt is expanded once, and token ids, not text, go from sampling to training: an expansion that differs by one
//! token moves everything behind it.

mod config;
mod expand;
mod frames;
mod image;
mod patches;
mod size;

use candle_core::{Device, Tensor};

use super::config::VlConfig;
use super::join::VisualItems;
use crate::error::{Error, Result};
use expand::{Markers, VideoText};
use patches::Patching;

pub use expand::VideoWrapper;
pub use frames::{FrameRate, Video, timestamp_text};
pub use image::Image;
pub use patches::Patches;
pub use size::{frame_size, image_size, video_size};

/// Least and most pixels of an item (of all frames of a video together); `size` in the checkpoint's files, where they
/// are called `shortest_edge` and `longest_edge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBounds {
    /// Smaller items are enlarged.
    pub least: usize,
    /// Larger items are shrunk.
    pub most: usize,
}

/// What the pixels of a video are bounded by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoBudget {
    /// All frames together, so that a short video keeps its resolution: transformers.
    #[default]
    Total,
    /// A frame's share of that, at most 768 tokens a frame: transformers' `cap_pixels_per_frame`.
    CapPerFrame,
    /// Each frame for itself: [`frame_size`].
    PerFrame,
}

/// Turns images, videos and prompts into a model's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    /// Bounds of images.
    pub image_bounds: PixelBounds,
    /// Bounds of videos.
    pub video_bounds: PixelBounds,
    /// How many frames are taken of a video.
    pub frame_rate: FrameRate,
    /// What the bounds of videos bound.
    pub video_budget: VideoBudget,
    /// What becomes of the markers around a video's placeholder.
    pub video_wrapper: VideoWrapper,
    image: Patching,
    video: Patching,
    config: VlConfig,
}

/// An expanded prompt and its items.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// What the model reads.
    pub tokens: Vec<u32>,
    /// Its images and videos.
    pub items: VisualItems,
}

impl Processor {
    /// The model that prompts are made for.
    pub fn model(&self) -> &VlConfig {
        &self.config
    }

    /// The patches of an image, and its size.
    pub fn image(&self, image: &Image) -> Result<Patches> {
        let (height, width) =
            image_size(image.height(), image.width(), self.image.factor(), self.image_bounds)?;
        Ok(self.image.of(&[image.resize(height, width)?]))
    }

    /// The patches of a video, and its size.
    pub fn video(&self, video: &Video) -> Result<Patches> {
        let frames = video.frames();
        let (height, width) = self.video_frame_size(frames.len(), video.source())?;
        let resized: Vec<Image> = frames.iter().map(|f| f.resize(height, width)).collect::<Result<_>>()?;
        Ok(self.video.of(&resized))
    }

    /// Height and width that `frames` frames of `size` (height, width) are resized to.
    pub fn video_frame_size(&self, frames: usize, size: (usize, usize)) -> Result<(usize, usize)> {
        let (factor, temporal) = (self.video.factor(), self.video.temporal);
        let PixelBounds { least, most } = self.video_bounds;
        match self.video_budget {
            VideoBudget::Total => video_size(frames, size, temporal, factor, self.video_bounds),
            VideoBudget::CapPerFrame => {
                let share = (768 * factor * factor).min(most / frames.max(1));
                let most = share.max((least as f64 * 1.05) as usize) * frames;
                video_size(frames, size, temporal, factor, PixelBounds { least, most })
            }
            VideoBudget::PerFrame => frame_size(frames, size, temporal, factor, most),
        }
    }

    /// Expands a prompt that has one placeholder for each image and one for each video, in their order.
    ///
    /// `encode` gives the tokens of a timestamp's text. They do not merge with the text before them: a tokenizer that
    /// reads an expanded text instead may join them to a word or sign directly in front of the video.
    pub fn prompt(
        &self,
        tokens: &[u32],
        images: &[Image],
        videos: &[Video],
        mut encode: impl FnMut(&str) -> Result<Vec<u32>>,
    ) -> Result<Prompt> {
        let markers = self.markers()?;
        let merged = self.config.vision.patches_per_token();
        let mut items = VisualItems::default();
        let (mut pixels, mut counts) = (Vec::new(), Vec::new());
        for (i, image) in images.iter().enumerate() {
            let patches = self.image(image).map_err(|e| e.of_item("image", i))?;
            counts.push((patches.grid.h * patches.grid.w) as usize / merged);
            pixels.extend(patches.pixels);
            items.image_grids.push(patches.grid);
        }
        items.image_pixels = self.tensor(pixels)?;
        let (mut pixels, mut texts) = (Vec::new(), Vec::new());
        for (i, video) in videos.iter().enumerate() {
            let patches = self.video(video).map_err(|e| e.of_item("video", i))?;
            let times = video.timestamps(self.video.temporal);
            texts.push(VideoText {
                timestamps: times.iter().map(|t| encode(&timestamp_text(*t))).collect::<Result<_>>()?,
                tokens_per_group: (patches.grid.h * patches.grid.w) as usize / merged,
            });
            pixels.extend(patches.pixels);
            items.video_grids.push(patches.grid);
        }
        items.video_pixels = self.tensor(pixels)?;
        let tokens = markers.expand(tokens, &counts, &texts)?;
        items.prompt_lens = vec![tokens.len()];
        Ok(Prompt { tokens, items })
    }

    fn tensor(&self, pixels: Vec<f32>) -> Result<Option<Tensor>> {
        let width = self.config.vision.patch_width();
        let rows = pixels.len() / width;
        Ok(if rows == 0 { None } else { Some(Tensor::from_vec(pixels, (rows, width), &Device::Cpu)?) })
    }

    fn markers(&self) -> Result<Markers> {
        let missing = |name| Error::config(name, "is missing");
        let config = &self.config;
        Ok(Markers {
            placeholders: config.placeholders,
            start: config.vision_start_token_id.ok_or_else(|| missing("vision_start_token_id"))?,
            end: config.vision_end_token_id.ok_or_else(|| missing("vision_end_token_id"))?,
            wrapper: self.video_wrapper,
        })
    }
}
