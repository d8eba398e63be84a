//! What videos have in common, and directories of frames.

use std::path::{Path, PathBuf};

use image::ImageFormat;
use qwen3::vision::processor::{Image, Processor, Video};

use super::{MediaError, animation, ffmpeg, read_image};

/// The frames that a model is shown of a video, in the processor's size.
///
/// A directory is a video whose frames are its files in the order of their names (numbers by value). All of them are used,
/// for whoever wrote them has chosen; `directory_fps` says how many were taken a second (`None`: 24, as in transformers). Of
/// a file the processor's frames are taken, at the file's own rate: GIF, animated WebP and APNG here, anything else by the
/// programs `ffprobe` and `ffmpeg`. Frames are shrunk one by one, so memory is that of one frame and of what the model sees.
///
/// # Errors
/// When something cannot be read or is broken, is too large, or ffmpeg is needed and not there.
pub fn read_video(
    path: &Path,
    processor: &Processor,
    directory_fps: Option<f64>,
) -> Result<Video, MediaError> {
    if path.is_dir() {
        return directory(path, processor, directory_fps);
    }
    let head = animation::head(path)?;
    match image::guess_format(&head) {
        Ok(format) if animation::is_animated(path, format)? => animation::read(path, format, processor),
        Ok(
            ImageFormat::Gif | ImageFormat::Png | ImageFormat::WebP | ImageFormat::Jpeg | ImageFormat::Bmp,
        ) => Err(MediaError::decode(path, "is an image, not a video")),
        _ => ffmpeg::read(path, processor),
    }
}

/// Collects frames of a video, shrinking each as it comes.
pub(super) struct Frames<'a> {
    path: &'a Path,
    processor: &'a Processor,
    indices: Vec<usize>,
    fps: Option<f64>,
    source: Option<(usize, usize)>,
    frames: Vec<Image>,
}

impl<'a> Frames<'a> {
    /// For the frames with these numbers in the video.
    pub(super) fn new(
        path: &'a Path,
        processor: &'a Processor,
        indices: Vec<usize>,
        fps: Option<f64>,
    ) -> Self {
        Self { path, processor, indices, fps, source: None, frames: Vec::new() }
    }

    /// The number of the frame that is wanted next; `None` when there are all.
    pub(super) fn next(&self) -> Option<usize> {
        self.indices.get(self.frames.len()).copied()
    }

    pub(super) fn push(&mut self, frame: &Image) -> Result<(), MediaError> {
        let bad = |e| MediaError::processor(self.path, e);
        let size = (frame.height(), frame.width());
        let source = *self.source.get_or_insert(size);
        if size != source {
            let reason = format!("frame {} is {size:?} pixels, the first is {source:?}", self.frames.len());
            return Err(MediaError::decode(self.path, reason));
        }
        let (height, width) = self.processor.video_frame_size(self.indices.len(), source).map_err(bad)?;
        self.frames.push(frame.resize(height, width).map_err(bad)?);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Video, MediaError> {
        if self.frames.len() < self.indices.len() {
            let reason =
                format!("the video ends after {} of {} frames", self.frames.len(), self.indices.len());
            return Err(MediaError::decode(self.path, reason));
        }
        let video = Video::new(self.frames, self.indices, self.fps);
        let video = video.map_err(|e| MediaError::processor(self.path, e))?;
        Ok(video.resized_from(self.source.unwrap_or_default()))
    }
}

fn directory(path: &Path, processor: &Processor, fps: Option<f64>) -> Result<Video, MediaError> {
    let files = frame_files(path)?;
    let limit = processor.frame_rate.max_frames;
    if files.len() > limit {
        return Err(MediaError::TooManyFrames { path: path.to_path_buf(), frames: files.len(), limit });
    }
    let mut frames = Frames::new(path, processor, (0..files.len()).collect(), fps);
    for file in &files {
        frames.push(&read_image(file)?)?;
    }
    frames.finish()
}

/// The files of a directory, hidden ones left out.
fn frame_files(path: &Path) -> Result<Vec<PathBuf>, MediaError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| MediaError::io(path, e))? {
        let entry = entry.map_err(|e| MediaError::io(path, e))?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if entry.path().is_file() && !hidden {
            files.push(entry.path());
        }
    }
    files.sort_by_cached_key(|file| by_number(&file.file_name().unwrap_or_default().to_string_lossy()));
    Ok(files)
}

/// A name in parts that compare as people count: `2.png` before `10.png`. A part is a text, then a number, as a value and
/// as written.
fn by_number(name: &str) -> Vec<(String, u128, String)> {
    let mut parts = Vec::new();
    let mut part = (String::new(), 0u128, String::new());
    for c in name.chars() {
        match c.to_digit(10) {
            Some(digit) => {
                part.1 = part.1.saturating_mul(10).saturating_add(digit.into());
                part.2.push(c);
            }
            None => {
                if !part.2.is_empty() {
                    parts.push(std::mem::take(&mut part));
                }
                part.0.push(c);
            }
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_in_the_order_of_their_numbers() {
        let mut names = ["f10.png", "f9.png", "f2b.png", "f02.png", "f2.png", "e11.png", "f.png"];
        names.sort_by_cached_key(|name| by_number(name));
        assert_eq!(names, ["e11.png", "f02.png", "f2.png", "f2b.png", "f9.png", "f10.png", "f.png"]);
    }
}
