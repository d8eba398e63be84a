//! From a prompt with one placeholder an item to one with a placeholder for every visual token.

use mrope::Placeholders;

use crate::error::{Error, Result};

/// What becomes of the `vision_start` and `vision_end` around a video's placeholder: each group of frames gets a pair of
/// its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoWrapper {
    /// They go, as in transformers 4 and vLLM.
    #[default]
    Replace,
    /// They stay around all groups, as in transformers 5: two tokens more.
    Keep,
}

/// A video in a prompt.
pub(super) struct VideoText {
    /// The tokens of each group's timestamp.
    pub(super) timestamps: Vec<Vec<u32>>,
    /// Visual tokens of a group.
    pub(super) tokens_per_group: usize,
}

/// The ids that the expansion reads and writes.
pub(super) struct Markers {
    pub(super) placeholders: Placeholders,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) wrapper: VideoWrapper,
}

impl Markers {
    /// Repeats the placeholder of each image (`images`: its tokens), and writes each video group by group.
    pub(super) fn expand(&self, prompt: &[u32], images: &[usize], videos: &[VideoText]) -> Result<Vec<u32>> {
        let Placeholders { image, video } = self.placeholders;
        for (kind, id, given) in [("image", image, images.len()), ("video", video, videos.len())] {
            let found = prompt.iter().filter(|t| **t == id).count();
            if found != given {
                let reason = format!("the prompt has {found} {kind} placeholders for {given} {kind}s");
                return Err(Error::visual(kind, reason));
            }
        }
        let (mut images, mut videos) = (images.iter(), videos.iter());
        let mut out = Vec::with_capacity(prompt.len());
        let mut rest = prompt;
        while let [token, tail @ ..] = rest {
            rest = tail;
            if *token == image {
                out.extend(std::iter::repeat_n(image, images.next().copied().unwrap_or(0)));
            } else if *token == video {
                let wrapped = out.last() == Some(&self.start) && rest.first() == Some(&self.end);
                if wrapped && self.wrapper == VideoWrapper::Replace {
                    out.pop();
                    rest = &rest[1..];
                }
                let Some(item) = videos.next() else { continue };
                for timestamp in &item.timestamps {
                    out.extend_from_slice(timestamp);
                    out.push(self.start);
                    out.extend(std::iter::repeat_n(video, item.tokens_per_group));
                    out.push(self.end);
                }
            } else {
                out.push(*token);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 61;
    const END: u32 = 62;

    fn expand(wrapper: VideoWrapper, prompt: &[u32]) -> Vec<u32> {
        let placeholders = Placeholders { image: 59, video: 60 };
        let markers = Markers { placeholders, start: START, end: END, wrapper };
        let count = |id: u32| prompt.iter().filter(|t| **t == id).count();
        let video = || VideoText { timestamps: vec![vec![7], vec![8, 9]], tokens_per_group: 2 };
        let videos: Vec<VideoText> = (0..count(60)).map(|_| video()).collect();
        markers.expand(prompt, &vec![3; count(59)], &videos).unwrap()
    }

    #[test]
    fn placeholders_are_expanded_item_by_item() {
        let groups = [7, 61, 60, 60, 62, 8, 9, 61, 60, 60, 62];
        let of = |before: &[u32], after: &[u32]| [before, &groups, after].concat();
        for (wrapper, prompt, expected) in [
            (VideoWrapper::Replace, vec![1, 61, 59, 62, 2], vec![1, 61, 59, 59, 59, 62, 2]),
            (VideoWrapper::Replace, vec![1, 61, 60, 62, 2], of(&[1], &[2])),
            (VideoWrapper::Keep, vec![1, 61, 60, 62, 2], of(&[1, 61], &[62, 2])),
            // A placeholder that stands alone, at the ends of the prompt, or half wrapped.
            (VideoWrapper::Replace, vec![60], of(&[], &[])),
            (VideoWrapper::Replace, vec![61, 60, 2], of(&[61], &[2])),
            (VideoWrapper::Replace, vec![2, 60, 62], of(&[2], &[62])),
            (VideoWrapper::Replace, vec![61, 60, 62, 61, 60, 62], of(&[], &groups)),
            // Two images side by side.
            (VideoWrapper::Replace, vec![59, 59], vec![59; 6]),
        ] {
            assert_eq!(expand(wrapper, &prompt), expected, "{wrapper:?} {prompt:?}");
        }
    }

    #[test]
    fn counts_that_differ_are_named() {
        let placeholders = Placeholders { image: 59, video: 60 };
        let markers = Markers { placeholders, start: START, end: END, wrapper: VideoWrapper::Replace };
        for (prompt, images, reason) in [
            (&[59u32, 1][..], &[][..], "the prompt has 1 image placeholders for 0 images"),
            (&[1], &[4, 4], "the prompt has 0 image placeholders for 2 images"),
            (&[60], &[], "the prompt has 1 video placeholders for 0 videos"),
        ] {
            let error = markers.expand(prompt, images, &[]).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
