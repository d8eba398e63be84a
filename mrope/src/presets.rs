//! The published designs.
//!
//! Each names the frequency allocation it was published with; the two are chosen separately.

use crate::design::{Advance, Circle, FlatStep, Layout, PositionDesign, Temporal, TextSpatial};
use crate::positions::{Delta, Sequence};

/// Whose reading of the Qwen designs to follow where public code differs.
///
/// Images, and everything in Qwen3-VL, are the same in all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// The papers, vLLM and the official training scripts: text continues past the largest coordinate, seconds are
    /// fractional.
    #[default]
    Qwen,
    /// transformers 4 (to 5.2): as `Qwen`, with `seconds_per_grid` truncated to an integer, 1 at padded slots, deltas
    /// relative to the padded length.
    Transformers4,
    /// transformers 5.3 and later: text continues past the *spatial* extent of a video.
    Transformers5,
}

impl Compat {
    /// The coordinate of padded slots.
    pub fn pad_value(self) -> f64 {
        if self == Self::Transformers4 { 1.0 } else { 0.0 }
    }

    /// The rope delta of a row that was padded to `padded_len` tokens.
    ///
    /// transformers counts from the largest coordinate, not from the last. That differs where text is behind a video
    /// ([`Compat::Transformers5`]): its generated tokens then start at `tokens + delta`, beyond `next`.
    pub fn delta(self, row: &Sequence, padded_len: usize) -> Delta {
        let tokens = match self {
            Self::Qwen => return row.delta(),
            Self::Transformers4 => padded_len,
            Self::Transformers5 => row.tokens,
        };
        Sequence::at(tokens, row.largest + 1.0).delta()
    }

    fn advance(self) -> Advance {
        if self == Self::Transformers5 { Advance::SpatialMax } else { Advance::MaxPlusOne }
    }
}

impl PositionDesign {
    fn grid() -> Self {
        Self {
            layout: Layout::Grid,
            temporal: Temporal::Stride(1.0),
            advance: Advance::MaxPlusOne,
            text_spatial: TextSpatial::Copy,
            frame_split: false,
            merge: 2,
        }
    }

    /// One-dimensional positions. `Allocation::OneAxis` (all axes are equal, so any other gives the same).
    pub fn vanilla() -> Self {
        Self { layout: Layout::Flat(FlatStep::Step(1.0)), advance: Advance::Count, ..Self::grid() }
    }

    /// V2PE (arXiv 2412.09616): visual tokens take smaller steps. `Allocation::OneAxis`. A step that differs from item
    /// to item is given to [`PositionBuilder::push_with`](crate::PositionBuilder::push_with).
    pub fn v2pe(step: FlatStep) -> Self {
        Self { layout: Layout::Flat(step), advance: Advance::CeilPlusOne, ..Self::grid() }
    }

    /// Qwen2-VL's MRoPE (arXiv 2409.12191). `Allocation::Chunked([16, 24, 24])`.
    pub fn qwen2_vl(compat: Compat) -> Self {
        Self { advance: compat.advance(), ..Self::grid() }
    }

    /// Qwen2.5-VL (arXiv 2502.13923): absolute time, `tokens_per_second` as in the vision configuration (2 in released
    /// checkpoints). `Allocation::Chunked([16, 24, 24])`.
    pub fn qwen2_5_vl(tokens_per_second: f64, compat: Compat) -> Self {
        let whole_seconds = compat == Compat::Transformers4;
        Self {
            temporal: Temporal::Absolute { tokens_per_second, whole_seconds },
            advance: compat.advance(),
            ..Self::grid()
        }
    }

    /// Qwen3-VL (arXiv 2511.21631) and Qwen3.5: every frame is a block between its timestamps; no spatial reset.
    /// `Allocation::Interleaved([24, 20, 20])`.
    pub fn qwen3_vl() -> Self {
        Self { frame_split: true, ..Self::grid() }
    }

    /// MRoPE-I as published (arXiv 2510.23095): spatial reset, frames between timestamps as in Qwen3-VL (unset
    /// `frame_split` for videos in one block). `Allocation::Interleaved([24, 20, 20])`. The released Qwen3-VL
    /// checkpoints do *not* reset: use [`PositionDesign::qwen3_vl`] for them.
    pub fn mrope_i() -> Self {
        Self { layout: Layout::GridReset, ..Self::qwen3_vl() }
    }

    /// MHRoPE (arXiv 2510.23095): the positions of [`PositionDesign::mrope_i`]. `Allocation::PerHead`.
    pub fn mhrope() -> Self {
        Self::mrope_i()
    }

    /// VideoRoPE (arXiv 2502.05173), `delta = 2` in the paper. `Allocation::SpatialHigh`.
    pub fn videorope(delta: f64) -> Self {
        Self {
            layout: Layout::Diagonal,
            temporal: Temporal::Stride(delta),
            advance: Advance::TemporalPlusOne,
            ..Self::grid()
        }
    }

    /// HoPE (arXiv 2505.20444): VideoRoPE's positions with a stride that training draws anew for each video from 0.5,
    /// 0.75, 1, 1.25, 1.5 ([`PositionBuilder::push_with`](crate::PositionBuilder::push_with)).
    /// `Allocation::SpatialHigh` with the temporal pairs at rest, for text too.
    pub fn hope(delta: f64) -> Self {
        Self::videorope(delta)
    }

    /// CircleRoPE (arXiv 2505.16416). `Allocation::Chunked([16, 24, 24])`.
    pub fn circle(circle: Circle) -> Self {
        Self { layout: Layout::Circle(circle), ..Self::grid() }
    }

    /// Omni-RoPE as arXiv 2510.23095 describes it: spatial coordinates of text are zero. Its released code copies them
    /// ([`TextSpatial::Copy`]). `Allocation::Chunked([16, 24, 24])`.
    pub fn omni() -> Self {
        Self {
            layout: Layout::GridReset,
            advance: Advance::Extent,
            text_spatial: TextSpatial::Zero,
            ..Self::grid()
        }
    }

    /// IL-RoPE: the positions of [`PositionDesign::omni`]. `Allocation::Interleaved([24, 20, 20])`.
    pub fn il() -> Self {
        Self::omni()
    }

    /// MM-RoPE (Lumos-1, arXiv 2507.08801), scales `(4, 8, 8)` for instance. `Allocation::Meta8`.
    pub fn mm(t: f64, h: f64, w: f64) -> Self {
        Self { layout: Layout::Scaled { t, h, w }, ..Self::grid() }
    }

    /// VRoPE (arXiv 2502.11664): four coordinates. `Allocation::Cyclic(4)`.
    pub fn vrope() -> Self {
        Self { layout: Layout::Symmetric4, advance: Advance::Frames4, ..Self::grid() }
    }

    /// A grid after which text continues as if every visual token had counted (RoPE-Tie). `Allocation::Interleaved`.
    pub fn rope_tie() -> Self {
        Self { advance: Advance::Count, ..Self::grid() }
    }
}
