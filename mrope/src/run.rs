//! A token sequence as runs of text and visual items, and how to read them from token ids.

use std::fmt;

use crate::design::PositionDesign;
use crate::error::{Error, Result};
use crate::positions::MAX_COORDINATE;

/// The kind of a visual item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Modality {
    /// A still image.
    Image,
    /// A video, or a frame of one.
    Video,
}

impl fmt::Display for Modality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Video => "video",
        })
    }
}

/// The size of a visual item in *patches* (a row of Hugging Face's `grid_thw`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Frames, after temporal patching.
    pub t: u32,
    /// Rows.
    pub h: u32,
    /// Columns.
    pub w: u32,
}

impl Grid {
    /// A grid of `t` frames of `h` by `w` patches.
    pub fn new(t: u32, h: u32, w: u32) -> Self {
        Self { t, h, w }
    }

    /// Frames, rows and columns of *tokens* after merging `merge` by `merge` patches. A side that the merge does
    /// not divide is an error (transformers floors it).
    pub(crate) fn merged(self, modality: Modality, merge: u32) -> Result<[usize; 3]> {
        let divides = |side: u32| merge > 0 && side > 0 && side.is_multiple_of(merge);
        if self.t == 0 || !divides(self.h) || !divides(self.w) {
            return Err(Error::Grid { modality, grid: self, merge });
        }
        let merged = [self.t, self.h / merge, self.w / merge].map(|side| side as usize);
        let tokens = merged.iter().map(|side| *side as u128).product();
        if tokens > MAX_COORDINATE as u128 {
            return Err(Error::TooManyTokens { tokens });
        }
        Ok(merged)
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}, {})", self.t, self.h, self.w)
    }
}

/// A piece of a sequence, in token order.
///
/// Markers (`vision_start`, `vision_end`, the text of a timestamp) are text to this crate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Run {
    /// This many text tokens.
    Text(usize),
    /// An image: one token for each merged block of patches. A grid of several frames is one block.
    Image(Grid),
    /// A video.
    Video {
        /// Its size.
        grid: Grid,
        /// Seconds between two frames of the grid (`temporal_patch_size / fps`); `None` means 1.
        seconds_per_grid: Option<f64>,
    },
}

impl Run {
    /// Number of tokens under a spatial merge of `merge` by `merge` patches.
    pub fn tokens(&self, merge: u32) -> Result<usize> {
        match *self {
            Self::Text(len) => Ok(len),
            Self::Image(grid) => Ok(grid.merged(Modality::Image, merge)?.iter().product()),
            Self::Video { grid, .. } => Ok(grid.merged(Modality::Video, merge)?.iter().product()),
        }
    }

    pub(crate) fn is_visual(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

/// A video as the image processor reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoItem {
    /// A row of `video_grid_thw`.
    pub grid: Grid,
    /// Seconds between two frames of the grid (`temporal_patch_size / fps`); `None` means 1.
    pub seconds_per_grid: Option<f64>,
}

/// The token ids that stand for visual tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placeholders {
    /// `image_token_id`.
    pub image: u32,
    /// `video_token_id`.
    pub video: u32,
}

impl Placeholders {
    fn modality(self, id: u32) -> Option<Modality> {
        if id == self.image {
            Some(Modality::Image)
        } else if id == self.video {
            Some(Modality::Video)
        } else {
            None
        }
    }
}

/// Reads the runs of one sequence after another from token ids; the grids are used up in order over all of them.
///
/// **A maximal run of one placeholder id is consumed grid by grid.** So two images without a marker between them
/// are two images: transformers 4 takes the second for text, transformers 5 refuses it; on every input that both
/// accept, the three agree.
///
/// Under a design with `frame_split`, every frame of a video is an item of its own, as Qwen3-VL's prompts have it
/// (timestamp text between the frames).
#[derive(Clone, Debug)]
pub struct RunReader {
    placeholders: Placeholders,
    merge: u32,
    images: Queue,
    videos: Queue,
    sequence: usize,
}

/// Items of one modality that wait for their placeholders.
#[derive(Clone, Debug)]
struct Queue {
    modality: Modality,
    items: Vec<Run>,
    used: usize,
}

impl RunReader {
    /// A reader for the visual items of a batch, in the order of their placeholders.
    pub fn new(
        placeholders: Placeholders,
        images: &[Grid],
        videos: &[VideoItem],
        design: &PositionDesign,
    ) -> Result<Self> {
        let images: Vec<Run> = images.iter().map(|grid| Run::Image(*grid)).collect();
        let mut frames = Vec::with_capacity(videos.len());
        for &VideoItem { grid, seconds_per_grid } in videos {
            // Checked before it is multiplied: a grid of 2^32 frames must not become 2^32 items.
            grid.merged(Modality::Video, design.merge)?;
            if design.frame_split {
                let frame = Run::Video { grid: Grid { t: 1, ..grid }, seconds_per_grid };
                frames.extend(std::iter::repeat_n(frame, grid.t as usize));
            } else {
                frames.push(Run::Video { grid, seconds_per_grid });
            }
        }
        Ok(Self {
            placeholders,
            merge: design.merge,
            images: Queue { modality: Modality::Image, items: images, used: 0 },
            videos: Queue { modality: Modality::Video, items: frames, used: 0 },
            sequence: 0,
        })
    }

    /// The runs of the next sequence. `ids` holds its real tokens, without padding.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<Run>> {
        let placeholders = self.placeholders;
        let mut runs = Vec::new();
        let mut start = 0;
        for stretch in ids.chunk_by(|a, b| placeholders.modality(*a) == placeholders.modality(*b)) {
            let queue = match placeholders.modality(stretch[0]) {
                None => {
                    runs.push(Run::Text(stretch.len()));
                    start += stretch.len();
                    continue;
                }
                Some(Modality::Image) => &mut self.images,
                Some(Modality::Video) => &mut self.videos,
            };
            let at_end = start + stretch.len() == ids.len();
            queue.consume(self.sequence, self.merge, start, stretch.len(), at_end, &mut runs)?;
            start += stretch.len();
        }
        self.sequence += 1;
        Ok(runs)
    }

    /// Ends the batch: every grid must have been used.
    pub fn finish(self) -> Result<()> {
        for Queue { modality, items, used } in [self.images, self.videos] {
            if used < items.len() {
                return Err(Error::GridsLeft { modality, given: items.len(), used });
            }
        }
        Ok(())
    }
}

impl Queue {
    fn consume(
        &mut self,
        sequence: usize,
        merge: u32,
        start: usize,
        len: usize,
        at_end: bool,
        runs: &mut Vec<Run>,
    ) -> Result<()> {
        let modality = self.modality;
        let mut done = 0;
        while done < len {
            let Some(item) = self.items.get(self.used) else {
                return Err(Error::GridsExhausted {
                    sequence,
                    modality,
                    token: start + done,
                    given: self.items.len(),
                });
            };
            let (item, expected) = (*item, done + item.tokens(merge)?);
            if expected > len {
                let item = self.used;
                return Err(if at_end {
                    Error::CutRun { sequence, modality, start, len, item, expected }
                } else {
                    Error::PlaceholderRun { sequence, modality, start, len, item, expected }
                });
            }
            runs.push(item);
            self.used += 1;
            done = expected;
        }
        Ok(())
    }
}

/// The runs of one sequence that uses all the given grids: [`RunReader`] for a batch of one.
pub fn runs_from_ids(
    ids: &[u32],
    placeholders: Placeholders,
    images: &[Grid],
    videos: &[VideoItem],
    design: &PositionDesign,
) -> Result<Vec<Run>> {
    let mut reader = RunReader::new(placeholders, images, videos, design)?;
    let runs = reader.read(ids)?;
    reader.finish()?;
    Ok(runs)
}
