//! `preprocessor_config.json` and `video_preprocessor_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::expand::VideoWrapper;
use super::frames::FrameRate;
use super::patches::Patching;
use super::{PixelBounds, Processor, VideoBudget};
use crate::error::{Error, Result};
use crate::vision::config::VlConfig;

/// The fields of either file that change what the model sees.
#[derive(Deserialize)]
struct File {
    size: Option<Size>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    patch_size: usize,
    temporal_patch_size: usize,
    merge_size: usize,
    image_mean: [f32; 3],
    image_std: [f32; 3],
    fps: Option<f64>,
    min_frames: Option<usize>,
    max_frames: Option<usize>,
    cap_pixels_per_frame: Option<bool>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_sample_frames: Option<bool>,
    resample: Option<i64>,
    rescale_factor: Option<f64>,
}

#[derive(Deserialize)]
struct Size {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

impl Processor {
    /// The processor of the released checkpoints, for a model of any patch size.
    pub fn released(config: VlConfig) -> Self {
        let v = &config.vision;
        let patching = Patching {
            patch: v.patch_size,
            merge: v.spatial_merge_size,
            temporal: v.temporal_patch_size,
            mean: [0.5; 3],
            std: [0.5; 3],
        };
        Self {
            image_bounds: PixelBounds { least: 65_536, most: 16_777_216 },
            video_bounds: PixelBounds { least: 4_096, most: 25_165_824 },
            frame_rate: FrameRate { fps: 2.0, min_frames: 4, max_frames: 768 },
            video_budget: VideoBudget::Total,
            video_wrapper: VideoWrapper::default(),
            image: patching,
            video: patching,
            config,
        }
    }

    /// Reads the files of a model directory: `preprocessor_config.json` and `video_preprocessor_config.json`, or the
    /// sections `image_processor` and `video_processor` of a `processor_config.json`.
    pub fn from_dir(dir: &Path, config: VlConfig) -> Result<Self> {
        let read = |name: &str| -> Result<Value> {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            serde_json::from_str(&text).map_err(|e| Error::format(&path, e))
        };
        let (images, videos) = ("preprocessor_config.json", "video_preprocessor_config.json");
        let joint = "processor_config.json";
        let (image, video, names) = if dir.join(images).exists() || !dir.join(joint).exists() {
            (read(images)?, read(videos)?, [images, videos])
        } else {
            let mut joint_file = read(joint)?;
            let mut take = |name: &str| joint_file.get_mut(name).map(Value::take).unwrap_or_default();
            (take("image_processor"), take("video_processor"), [joint, joint])
        };
        let file = |value: Value, name: &str| -> Result<File> {
            serde_json::from_value(value).map_err(|e| Error::format(&dir.join(name), e))
        };
        let (image, video) = (file(image, names[0])?, file(video, names[1])?);
        let mut processor = Self::released(config);
        let bad = |name: &str, e: (&str, String)| Error::config(&format!("{name}: {}", e.0), e.1);
        (processor.image_bounds, processor.image) =
            image.read(processor.image).map_err(|e| bad(names[0], e))?;
        (processor.video_bounds, processor.video) =
            video.read(processor.video).map_err(|e| bad(names[1], e))?;
        let missing = |field| bad(names[1], (field, "is missing".into()));
        let fps = video.fps.ok_or_else(|| missing("fps"))?;
        if !(fps > 0.0 && fps.is_finite()) {
            return Err(bad(names[1], ("fps", format!("is {fps}, expected a positive number"))));
        }
        processor.frame_rate = FrameRate {
            fps,
            min_frames: video.min_frames.ok_or_else(|| missing("min_frames"))?,
            max_frames: video.max_frames.ok_or_else(|| missing("max_frames"))?,
        };
        if video.cap_pixels_per_frame == Some(true) {
            processor.video_budget = VideoBudget::CapPerFrame;
        }
        Ok(processor)
    }
}

impl Processor {
    /// Writes what [`Processor::from_dir`] reads, as transformers does too. (Of [`VideoBudget::PerFrame`] and
    /// [`VideoWrapper`] the files know nothing.)
    pub fn save(&self, dir: &Path) -> Result<()> {
        let common = |bounds: PixelBounds, patching: Patching| {
            json!({
                "size": { "shortest_edge": bounds.least, "longest_edge": bounds.most },
                "patch_size": patching.patch, "temporal_patch_size": patching.temporal,
                "merge_size": patching.merge,
                "image_mean": patching.mean.map(shortest), "image_std": patching.std.map(shortest),
                "processor_class": "Qwen3VLProcessor",
            })
        };
        let mut image = common(self.image_bounds, self.image);
        image["image_processor_type"] = json!("Qwen2VLImageProcessor");
        let mut video = common(self.video_bounds, self.video);
        video["video_processor_type"] = json!("Qwen3VLVideoProcessor");
        let FrameRate { fps, min_frames, max_frames } = self.frame_rate;
        (video["fps"], video["min_frames"], video["max_frames"]) =
            (json!(fps), json!(min_frames), json!(max_frames));
        if self.video_budget == VideoBudget::CapPerFrame {
            video["cap_pixels_per_frame"] = json!(true);
        }
        for (name, content) in
            [("preprocessor_config.json", image), ("video_preprocessor_config.json", video)]
        {
            let path = dir.join(name);
            std::fs::write(&path, format!("{content:#}")).map_err(|e| Error::io(&path, e))?;
        }
        Ok(())
    }
}

/// The number that a 32-bit float is written as: 0.1, not the 64-bit number next to it.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

impl File {
    /// Bounds and patches, or the field at fault. `model` is what the tower reads.
    fn read(&self, model: Patching) -> std::result::Result<(PixelBounds, Patching), (&'static str, String)> {
        let sizes = [
            ("patch_size", self.patch_size, model.patch),
            ("temporal_patch_size", self.temporal_patch_size, model.temporal),
            ("merge_size", self.merge_size, model.merge),
        ];
        if let Some((field, found, tower)) = sizes.iter().find(|(_, found, tower)| found != tower) {
            return Err((field, format!("{found}, but the vision tower's is {tower}")));
        }
        for (field, value) in [
            ("do_resize", self.do_resize),
            ("do_rescale", self.do_rescale),
            ("do_normalize", self.do_normalize),
            ("do_sample_frames", self.do_sample_frames),
        ] {
            if value == Some(false) {
                return Err((field, "false is not supported".into()));
            }
        }
        if self.resample.is_some_and(|filter| filter != 3) {
            return Err(("resample", "only 3 (bicubic) is supported".into()));
        }
        if self.rescale_factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-9) {
            return Err(("rescale_factor", "only 1/255 is supported".into()));
        }
        if self.image_std.iter().any(|s| *s <= 0.0 || !s.is_finite()) {
            return Err(("image_std", format!("{:?}, expected positive numbers", self.image_std)));
        }
        let size = self.size.as_ref();
        let least = self.min_pixels.or(size.and_then(|s| s.shortest_edge));
        let most = self.max_pixels.or(size.and_then(|s| s.longest_edge));
        match (least, most) {
            (Some(least), Some(most)) if 0 < least && least <= most => {
                let bounds = PixelBounds { least, most };
                Ok((bounds, Patching { mean: self.image_mean, std: self.image_std, ..model }))
            }
            _ => Err(("size", format!("expected bounds of pixels, got {least:?} to {most:?}"))),
        }
    }
}
