//! What can go wrong between token ids and rotated heads.

use crate::run::{Grid, Modality};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number outside its range: a stride, a base, a factor.
    #[error("{name} is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The value found.
        value: f64,
        /// The range.
        expected: &'static str,
    },
    /// A rotary dimension that is not an even number of lanes.
    #[error(
        "rotary dimension is {rotary_dim}, expected an even number from 2 to {}",
        crate::frequencies::MAX_ROTARY_DIM
    )]
    RotaryDim {
        /// The value found.
        rotary_dim: usize,
    },
    /// Heads narrower than the rotary dimension.
    #[error("rotary dimension {rotary_dim} is larger than the head dimension {head_dim}")]
    HeadDim {
        /// Lanes that rotate.
        rotary_dim: usize,
        /// Lanes of a head.
        head_dim: usize,
    },
    /// Sections that do not cover every rotary pair once.
    #[error("sections {sections:?} add up to {sum}, expected {pairs} rotary pairs")]
    Sections {
        /// The list found.
        sections: Vec<usize>,
        /// Its sum.
        sum: usize,
        /// Half the rotary dimension.
        pairs: usize,
    },
    /// A negative entry in a section list of a configuration.
    #[error("mrope_section[{index}] is {value}, expected a non-negative number of rotary pairs")]
    NegativeSection {
        /// Which entry.
        index: usize,
        /// The value found.
        value: i64,
    },
    /// A section list of the wrong length.
    #[error("{allocation} takes 3 sections, found {found}")]
    SectionCount {
        /// The allocation's name.
        allocation: &'static str,
        /// Entries found.
        found: usize,
    },
    /// An interleaved list that the interleaving rule cannot honour.
    #[error(
        "interleaved sections {sections:?} do not fit into {pairs} rotary pairs: they would be clipped to {clipped:?}"
    )]
    InterleavedClips {
        /// The list found.
        sections: [usize; 3],
        /// Half the rotary dimension.
        pairs: usize,
        /// What would be left of it.
        clipped: [usize; 3],
    },
    /// More heads asked for than there are.
    #[error("allocation is per head over {kv_heads} key/value heads, sections {sections:?} ask for more")]
    PerHeadSections {
        /// The list found.
        sections: Vec<usize>,
        /// Heads there are.
        kv_heads: usize,
    },
    /// Heads that do not divide into the groups of grouped-query attention.
    #[error("{heads} heads cannot be divided among {kv_heads} key/value heads")]
    HeadGroups {
        /// Heads of the tensor.
        heads: usize,
        /// Key/value heads of the table or the layout.
        kv_heads: usize,
    },
    /// A range outside of what it selects from.
    #[error("{what} {start}..{} is outside of 0..{available}", .start.saturating_add(*.len))]
    Range {
        /// What is selected.
        what: &'static str,
        /// First one.
        start: usize,
        /// How many.
        len: usize,
        /// How many there are.
        available: usize,
    },
    /// An allocation that reads an axis which the positions do not have.
    #[error("the allocation reads axis {axis}, the positions have {axes} axes")]
    MissingAxis {
        /// The axis asked for, from 0.
        axis: usize,
        /// Axes there are.
        axes: usize,
    },
    /// Designs of a different number of axes in one table.
    #[error("a design of {found} axes cannot be mixed with one of {expected}")]
    MixedAxes {
        /// Axes of the second.
        found: usize,
        /// Axes of the first.
        expected: usize,
    },
    /// A grid with a zero, or sides that the spatial merge does not divide.
    #[error(
        "{modality} grid {grid} cannot be merged {merge} by {merge}: every side must be a positive multiple"
    )]
    Grid {
        /// Image or video.
        modality: Modality,
        /// The grid in patches.
        grid: Grid,
        /// Patches per side of a token.
        merge: u32,
    },
    /// More tokens than positions can be told apart in `f32`.
    #[error("a sequence of {tokens} tokens is longer than {}", crate::positions::MAX_COORDINATE)]
    TooManyTokens {
        /// Tokens wanted.
        tokens: u128,
    },
    /// A coordinate that `f32` cannot hold, or no number.
    #[error(
        "coordinate {value} of token {token} on axis {axis} is not a number within ±{}",
        crate::positions::MAX_COORDINATE
    )]
    Coordinate {
        /// The axis, from 0.
        axis: usize,
        /// The token, from 0.
        token: usize,
        /// The value found.
        value: f64,
    },
    /// A fractional coordinate where whole ones are wanted.
    #[error("coordinate {value} of token {token} on axis {axis} is not a whole number")]
    Fractional {
        /// The axis, from 0.
        axis: usize,
        /// The token, from 0.
        token: usize,
        /// The value found.
        value: f64,
    },
    /// A run of placeholder tokens that ends inside an item.
    #[error(
        "sequence {sequence}: the run of {len} {modality} placeholders at token {start} ends inside {modality} grid \
         {item}, which would end after {expected}"
    )]
    PlaceholderRun {
        /// The sequence, from 0.
        sequence: usize,
        /// Image or video.
        modality: Modality,
        /// First token of the run.
        start: usize,
        /// Its length.
        len: usize,
        /// The grid it ends in, from 0 (frames count one each where videos are split).
        item: usize,
        /// The length with which the grid would be complete.
        expected: usize,
    },
    /// As [`Error::PlaceholderRun`], at the end of the sequence: it was truncated.
    #[error(
        "sequence {sequence} is cut inside {modality} grid {item}: it ends {len} tokens into the run that starts at \
         token {start}, expected {expected}"
    )]
    CutRun {
        /// The sequence, from 0.
        sequence: usize,
        /// Image or video.
        modality: Modality,
        /// First token of the run.
        start: usize,
        /// Its length.
        len: usize,
        /// The grid it ends in, from 0 (frames count one each where videos are split).
        item: usize,
        /// The length with which the grid would be complete.
        expected: usize,
    },
    /// More placeholders than grids, or none at all.
    #[error(
        "sequence {sequence}: token {token} is a {modality} placeholder, but all {given} {modality} grids are used"
    )]
    GridsExhausted {
        /// The sequence, from 0.
        sequence: usize,
        /// Image or video.
        modality: Modality,
        /// The first placeholder without a grid.
        token: usize,
        /// Grids given (frames count one each where videos are split).
        given: usize,
    },
    /// More grids than placeholders.
    #[error("{given} {modality} grids were given, the token ids use {used}")]
    GridsLeft {
        /// Image or video.
        modality: Modality,
        /// Grids given (frames count one each where videos are split).
        given: usize,
        /// Grids with placeholders.
        used: usize,
    },
    /// Masked slots between the tokens of one visual item.
    #[error("row {row}: the mask has a hole at slot {slot}, inside a visual item")]
    MaskHole {
        /// The row, from 0.
        row: usize,
        /// The masked slot.
        slot: usize,
    },
    /// Inputs whose lengths do not fit together.
    #[error("{what} has {found} elements, expected {expected}")]
    Length {
        /// Which input.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits the others.
        expected: usize,
    },
    /// A tensor of another shape than the table and the heads ask for.
    #[error("tensor has shape {found:?}, expected {expected}")]
    Shape {
        /// The shape found.
        found: Vec<usize>,
        /// What fits.
        expected: String,
    },
    /// A tensor whose heads are not contiguous; this crate does not copy behind the caller's back.
    #[error("the last dimension of the tensor must be contiguous, its strides are {strides:?}")]
    Strides {
        /// The strides found.
        strides: Vec<usize>,
    },
    /// A view that reaches the same memory twice, given to the in-place rotation.
    #[error(
        "cannot rotate in place: rows of the view overlap, its shape is {shape:?}, its strides are {strides:?}"
    )]
    Overlap {
        /// The shape found.
        shape: Vec<usize>,
        /// The strides found.
        strides: Vec<usize>,
    },
    /// An element type without a rotation.
    #[error("cannot rotate tensors of {0:?}: expected f32, bf16 or f16")]
    DType(candle_core::DType),
    /// A tensor on the autograd tape, given to the in-place rotation.
    #[error("cannot rotate in place: the tensor is tracked for gradients")]
    Tracked,
    /// A trained length for which YaRN has no ramp.
    #[error(
        "YaRN from a trained length of {trained_len} tokens has its ramp from pair {low} to {high}: this base has no \
         pair to blend"
    )]
    YarnRange {
        /// `original_max_position_embeddings`.
        trained_len: f64,
        /// Where the ramp would start.
        low: f64,
        /// Where it would end.
        high: f64,
    },
    /// A rotary configuration without a key.
    #[error("rope parameters of type {rope_type:?} need {key}")]
    MissingKey {
        /// The type they say to be of.
        rope_type: String,
        /// The key.
        key: &'static str,
    },
    /// A kind of frequency scaling that this crate does not know.
    #[error("rope_type {0:?} is not supported: expected default, mrope, linear, dynamic, yarn or llama3")]
    RopeType(String),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => Self::wrap(error),
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A finite number that satisfies a range, or an error that names it.
pub(crate) fn require(name: &'static str, value: f64, ok: bool, expected: &'static str) -> Result<()> {
    if value.is_finite() && ok { Ok(()) } else { Err(Error::Parameter { name, value, expected }) }
}
