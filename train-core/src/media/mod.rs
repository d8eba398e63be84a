//! Images and videos from files, as a vision model's processor takes them.
//!
//! What comes out is what transformers' loaders give: `load_image` (Pillow with its EXIF rotation and
//! `convert("RGB")`) for images, the processor's own choice of frames for videos. A broken file is an error that names
//! it, and no file makes more memory than [`MAX_PIXELS`] at one time.
//!
//! `image.rs` reads images, `animation.rs` GIF, WebP and APNG, `ffmpeg.rs` everything that ffmpeg reads; `video.rs` is what
//! they have in common, and directories of frames.

mod animation;
mod ffmpeg;
mod image;
mod video;

use std::path::{Path, PathBuf};

pub use self::image::read_image;
pub use video::read_video;

/// Most pixels of an image or of one frame: where Pillow too takes a file for an attack ("decompression bomb").
pub const MAX_PIXELS: u64 = 178_956_970;

/// Why an image or a video cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is broken, or of no format that is read here.
    #[error("{}: {reason}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// More pixels than [`MAX_PIXELS`].
    #[error("{}: {width} by {height} pixels are more than the {MAX_PIXELS} that are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its columns.
        width: u64,
        /// Its rows.
        height: u64,
    },
    /// More frames than the processor's `max_frames` in a directory, of which all are used.
    #[error("{}: {frames} frames are more than the processor's max_frames = {limit}", path.display())]
    TooManyFrames {
        /// The directory.
        path: PathBuf,
        /// Its frames.
        frames: usize,
        /// How many the model takes.
        limit: usize,
    },
    /// A video that needs a program that is not there.
    #[error(
        "{}: reading this video takes {program}, which is not on PATH: install ffmpeg (with ffprobe), or give a \
         directory of frames, a GIF, an animated WebP or an APNG",
        path.display()
    )]
    NoProgram {
        /// The video.
        path: PathBuf,
        /// `ffmpeg` or `ffprobe`.
        program: &'static str,
    },
    /// The processor refused.
    #[error("{}: {source}", path.display())]
    Processor {
        /// The image or video.
        path: PathBuf,
        /// Why.
        source: Box<qwen3::Error>,
    },
}

impl MediaError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    fn decode(path: &Path, reason: impl ToString) -> Self {
        Self::Decode { path: path.to_path_buf(), reason: reason.to_string() }
    }

    fn processor(path: &Path, source: qwen3::Error) -> Self {
        Self::Processor { path: path.to_path_buf(), source: Box::new(source) }
    }
}

/// Refuses sizes beyond [`MAX_PIXELS`] before there is memory for them.
fn check_size(path: &Path, width: u64, height: u64) -> Result<(), MediaError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(MediaError::TooLarge { path: path.to_path_buf(), width, height }),
    }
}
