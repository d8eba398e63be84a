//! Which frames of a video are looked at, and what time they are said to have.

use super::image::Image;
use crate::error::{Error, Result};

/// How many frames are taken of a video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameRate {
    /// Frames a second.
    pub fps: f64,
    /// At least so many, while the video has them.
    pub min_frames: usize,
    /// At most so many.
    pub max_frames: usize,
}

/// The frame rate that a video without one is taken to have.
const UNKNOWN_FPS: f64 = 24.0;

impl FrameRate {
    /// The frames to take of a video of `total` frames at `fps` a second (`None`: 24), evenly spaced from the first to
    /// the last; halves go to the even frame.
    pub fn sample(&self, total: usize, fps: Option<f64>) -> Result<Vec<usize>> {
        let fps = rate(fps)?;
        if total == 0 {
            return Err(Error::visual("video", "has 0 frames"));
        }
        let wanted = (total as f64 / fps * self.fps) as usize;
        let count = wanted.max(self.min_frames).min(self.max_frames).min(total);
        if count <= 1 {
            return Ok(vec![0; count]);
        }
        let step = (total - 1) as f64 / (count - 1) as f64;
        Ok((0..count).map(|i| (i as f64 * step).round_ties_even() as usize).collect())
    }
}

fn rate(fps: Option<f64>) -> Result<f64> {
    let fps = fps.unwrap_or(UNKNOWN_FPS);
    if fps > 0.0 && fps.is_finite() {
        Ok(fps)
    } else {
        Err(Error::visual("video", format!("has {fps} frames a second, expected a positive number")))
    }
}

/// The frames of a video that the model is to see.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    frames: Vec<Image>,
    indices: Vec<usize>,
    fps: f64,
    /// Height and width of the frames before they were resized.
    source: (usize, usize),
}

impl Video {
    /// Frames that were taken from a video of `fps` frames a second (`None`: 24), with their `indices` in it
    /// ([`FrameRate::sample`] says which to take). All of one size.
    pub fn new(frames: Vec<Image>, indices: Vec<usize>, fps: Option<f64>) -> Result<Self> {
        let fps = rate(fps)?;
        let Some(first) = frames.first() else { return Err(Error::visual("video", "has 0 frames")) };
        let size = |image: &Image| (image.height(), image.width());
        if let Some(i) = frames.iter().position(|frame| size(frame) != size(first)) {
            let reason =
                format!("frame {i} is {:?} pixels, the first is {:?}", size(&frames[i]), size(first));
            return Err(Error::visual("video", reason));
        }
        if indices.len() != frames.len() || indices.windows(2).any(|w| w[0] > w[1]) {
            let reason = format!(
                "{} indices for {} frames, expected rising ones, one a frame",
                indices.len(),
                frames.len()
            );
            return Err(Error::visual("video", reason));
        }
        let source = size(first);
        Ok(Self { frames, indices, fps, source })
    }

    /// Says that the frames were `height` by `width` pixels before they were resized as
    /// [`Processor::video_frame_size`](super::Processor::video_frame_size) wants them: a long video need never be in memory
    /// in its own size.
    #[must_use]
    pub fn resized_from(self, (height, width): (usize, usize)) -> Self {
        Self { source: (height, width), ..self }
    }

    /// Height and width that the processor's size follows from.
    pub(super) fn source(&self) -> (usize, usize) {
        self.source
    }

    /// All `frames`, which lie `1 / fps` seconds apart.
    pub fn whole(frames: Vec<Image>, fps: Option<f64>) -> Result<Self> {
        let indices = (0..frames.len()).collect();
        Self::new(frames, indices, fps)
    }

    /// The frames.
    pub fn frames(&self) -> &[Image] {
        &self.frames
    }

    /// Seconds of each group of `temporal` frames: the mean of its first and last frame, the last frame repeated to
    /// fill the last group.
    pub fn timestamps(&self, temporal: usize) -> Vec<f64> {
        let seconds = |i: &usize| *i as f64 / self.fps;
        let groups = self.indices.chunks(temporal.max(1));
        groups
            .map(|group| group.first().map_or(0.0, seconds) / 2.0 + group.last().map_or(0.0, seconds) / 2.0)
            .collect()
    }
}

/// What the prompt says of a time.
pub fn timestamp_text(seconds: f64) -> String {
    format!("<{seconds:.1} seconds>")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: FrameRate = FrameRate { fps: 2.0, min_frames: 4, max_frames: 768 };

    fn times(indices: &[usize], fps: f64) -> Vec<String> {
        let frame = Image::from_grey(1, 1, &[0]).unwrap();
        let video = Video::new(vec![frame; indices.len()], indices.to_vec(), Some(fps)).unwrap();
        video.timestamps(2).into_iter().map(|t| format!("{t:.1}")).collect()
    }

    /// The worked frames and times.
    #[test]
    fn frames_and_times() {
        for (total, fps, count, first, shown) in [
            (40, 10.0, 8, &[0usize, 6, 11, 17, 22, 28, 33, 39][..], &["0.3", "1.4", "2.5", "3.6"][..]),
            (300, 30.0, 20, &[0, 16, 31, 47, 63, 79, 94, 110], &["0.3", "1.3", "2.4", "3.4", "4.5"]),
            (25, 24.0, 4, &[0, 8, 16, 24], &["0.2", "0.8"]),
            (9, 30.0, 4, &[0, 3, 5, 8], &["0.1", "0.2"]),
            (7, 2.0, 7, &[0, 1, 2, 3, 4, 5, 6], &["0.2", "1.2", "2.2", "3.0"]),
            (150, 29.97, 10, &[0, 17, 33, 50], &["0.3", "1.4", "2.5", "3.6", "4.7"]),
        ] {
            let indices = RATE.sample(total, Some(fps)).unwrap();
            assert_eq!((indices.len(), &indices[..first.len()]), (count, first));
            assert_eq!(times(&indices, fps)[..shown.len()], *shown, "{total} frames at {fps}");
        }
    }

    /// One decimal of the exact binary value, as Python prints it.
    #[test]
    fn printed_times() {
        let cases = [
            (0.25, "0.2"),
            (0.35, "0.3"),
            (0.75, "0.8"),
            (0.05, "0.1"),
            (1.25, "1.2"),
            (1.45, "1.4"),
            (3.65, "3.6"),
        ];
        for (seconds, text) in cases {
            assert_eq!(timestamp_text(seconds), format!("<{text} seconds>"));
        }
    }

    #[test]
    fn videos_that_are_none_are_refused() {
        let frame = |n: usize| Image::from_grey(1, n, &vec![0; n]).unwrap();
        let refused = |video: Result<Video>| video.unwrap_err().to_string();
        for (error, reason) in [
            (RATE.sample(0, None).unwrap_err().to_string(), "video: has 0 frames"),
            (RATE.sample(4, Some(0.0)).unwrap_err().to_string(), "has 0 frames a second"),
            (refused(Video::whole(vec![], None)), "has 0 frames"),
            (refused(Video::whole(vec![frame(1)], Some(f64::NAN))), "has NaN frames a second"),
            (
                refused(Video::whole(vec![frame(1), frame(2)], None)),
                "frame 1 is (1, 2) pixels, the first is (1, 1)",
            ),
            (refused(Video::new(vec![frame(1)], vec![0, 1], None)), "2 indices for 1 frames"),
        ] {
            assert!(error.contains(reason), "{error}, expected: {reason}");
        }
    }
}
