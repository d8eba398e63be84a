//! A position design as data: five choices that every published design is a combination of.

use crate::error::{Error, Result, require};
use crate::positions::{Positions, Sequence};

/// How tokens get their coordinates.
///
/// The constructors are the published designs; the fields are there to combine new ones.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionDesign {
    /// Coordinates inside a visual block.
    pub layout: Layout,
    /// Time of a frame.
    pub temporal: Temporal,
    /// Where text continues after a block.
    pub advance: Advance,
    /// Coordinates of text on the spatial axes.
    pub text_spatial: TextSpatial,
    /// Whether every frame of a video is a block of its own.
    pub frame_split: bool,
    /// Patches per side that become one token (`spatial_merge_size`).
    pub merge: u32,
}

/// Coordinates `(t, h, w)` of the token at frame `k`, row `y`, column `x` of a block of `T` by `H` by `W` tokens that
/// starts at `p0`. `tau` is the time of a frame ([`Temporal`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// The `j`-th token is at `p0 - 1 + step·(j+1)` on every axis: one-dimensional positions (step 1), V2PE.
    Flat(FlatStep),
    /// `(p0 + tau, p0 + y, p0 + x)`: Qwen-VL.
    Grid,
    /// `(p0 + tau, y, x)`: spatial-reset (arXiv 2510.23095).
    GridReset,
    /// `q = p0 + tau`; `(q, q + y - ⌊(H-1)/2⌋, q + x - ⌊(W-1)/2⌋)`: VideoRoPE, HoPE. Large frames reach coordinates
    /// that the following text gets again.
    Diagonal,
    /// A circle around the text axis: CircleRoPE.
    Circle(Circle),
    /// `(p0 + st·tau, p0 + sh·y, p0 + sw·x)`: MM-RoPE.
    Scaled {
        /// `st`.
        t: f64,
        /// `sh`.
        h: f64,
        /// `sw`.
        w: f64,
    },
    /// Four coordinates, which grow towards the four corners: VRoPE (arXiv 2502.11664). Time is in the block's start:
    /// `b = p0 + k(H+W-1)`; `(b+x+y, b+x-y+H-1, b-x-y+H+W-2, b-x+y+W-1)`.
    Symmetric4,
}

/// How far apart the tokens of a [`Layout::Flat`] block are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FlatStep {
    /// This distance. V2PE uses 1, 1/2, … 1/256, which `f32` holds exactly.
    Step(f64),
    /// This distance divided by the number of tokens of the item, which so ends exactly that far after the text.
    Span(f64),
}

/// Parameters of CircleRoPE (arXiv 2505.16416).
///
/// The released models alternate circle and grid positions from layer to layer: make two tables and let each layer
/// choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Circle {
    /// Radius.
    pub radius: f64,
    /// Weight of the token's direction from the centre against its index in the frame, 0 to 1.
    pub alpha: f64,
    /// Whether directions are measured from the middle of the frame (or else from its first token).
    pub center: bool,
}

impl Default for Circle {
    fn default() -> Self {
        Self { radius: 10.0, alpha: 0.5, center: true }
    }
}

/// The time `tau(k)` of frame `k`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Temporal {
    /// `k · stride`.
    Stride(f64),
    /// Absolute time (Qwen2.5-VL): `trunc(k · tokens_per_second · seconds_per_grid)` in `f32`, as transformers computes
    /// it; 0 for images.
    Absolute {
        /// Temporal coordinates per second.
        tokens_per_second: f64,
        /// Whether `seconds_per_grid` is truncated to whole seconds first. transformers 4 does, so that all frames of a
        /// video with 0.5 s per grid fall on one time.
        whole_seconds: bool,
    },
}

/// The coordinate `next` of the text after a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// One past the largest coordinate of the block on any axis; spatially reset coordinates count as if they had not
    /// been reset.
    MaxPlusOne,
    /// `p0 + tau(T-1) + 1`.
    TemporalPlusOne,
    /// `p0 + max(H, W)`: transformers 5. Text after a long unsplit video overlaps its temporal coordinates.
    SpatialMax,
    /// `p0 + max(tau(T-1) + 1, H, W)`.
    Extent,
    /// `p0 + T·H·W`.
    Count,
    /// `⌈last temporal coordinate⌉ + 1`, but not before `p0`.
    CeilPlusOne,
    /// `p0 + T·(H+W-1)`.
    Frames4,
}

/// The spatial coordinates of text at `p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSpatial {
    /// `(p, p, p)`: text is encoded as in a text model.
    Copy,
    /// `(p, 0, 0)`.
    Zero,
}

impl PositionDesign {
    /// Number of coordinates of a token.
    pub fn axes(&self) -> usize {
        match self.layout {
            Layout::Symmetric4 => 4,
            _ => 3,
        }
    }

    /// One text token for each row, at the row's `next`, which advances: a decoding step.
    ///
    /// A generated token is text even if its id is a placeholder's. The state is the caller's, one [`Sequence`] for
    /// each key/value cache.
    pub fn decode(&self, rows: &mut [Sequence]) -> Result<Positions> {
        let mut axes = vec![Vec::with_capacity(rows.len()); self.axes()];
        for row in rows.iter() {
            self.push_text(row.next, &mut axes);
        }
        let step = |row: &Sequence| Sequence {
            tokens: row.tokens + 1,
            next: row.next + 1.0,
            largest: row.largest.max(row.next),
        };
        let after: Vec<Sequence> = rows.iter().map(step).collect();
        let positions = Positions::new(axes, after.clone())?;
        rows.copy_from_slice(&after);
        Ok(positions)
    }

    pub(crate) fn push_text(&self, p: f64, axes: &mut [Vec<f64>]) {
        for (axis, out) in axes.iter_mut().enumerate() {
            out.push(if axis == 0 || self.text_spatial == TextSpatial::Copy { p } else { 0.0 });
        }
    }

    /// Refuses numbers that no design has.
    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |name, value: f64| require(name, value, value > 0.0, "a positive number");
        match self.layout {
            Layout::Flat(FlatStep::Step(step)) => positive("flat step", step)?,
            Layout::Flat(FlatStep::Span(span)) => positive("flat span", span)?,
            Layout::Scaled { t, h, w } => {
                positive("temporal scale", t)?;
                positive("height scale", h)?;
                positive("width scale", w)?;
            }
            Layout::Circle(Circle { radius, alpha, .. }) => {
                positive("circle radius", radius)?;
                require("circle alpha", alpha, (0.0..=1.0).contains(&alpha), "0 to 1")?;
            }
            Layout::Grid | Layout::GridReset | Layout::Diagonal | Layout::Symmetric4 => {}
        }
        match self.temporal {
            Temporal::Stride(stride) => positive("temporal stride", stride)?,
            Temporal::Absolute { tokens_per_second, .. } => positive("tokens_per_second", tokens_per_second)?,
        }
        if self.merge == 0 {
            return Err(Error::Parameter { name: "spatial merge", value: 0.0, expected: "at least 1" });
        }
        Ok(())
    }
}
