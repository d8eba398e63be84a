//! Which axis drives which rotary pair.

use crate::axis::Axis;
use crate::error::{Error, Result};

/// An assignment of rotary pairs to axes. Pair 0 turns fastest.
///
/// Text has equal coordinates on all axes, so every allocation but those that leave something at rest encodes text as
/// the one-dimensional model does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Every pair follows the first axis.
    OneAxis,
    /// Consecutive blocks of these sizes, on axes `t, h, w, t, …` (Qwen2-VL: `[16, 24, 24]`). Time gets the high
    /// frequencies and width the low ones, which a width of 60 columns hardly turns.
    Chunked(Vec<usize>),
    /// MRoPE-I as shipped (Qwen3-VL: `[24, 20, 20]`): pairs `1, 4, …` below `3·sh` follow `h`, pairs `2, 5, …` below
    /// `3·sw` follow `w`, the rest `t`. Every axis gets the whole spectrum.
    ///
    /// Lists that the rule would clip are refused; public code clips silently. [`Allocation::clipped_interleaved`] is
    /// the list it would use.
    Interleaved([usize; 3]),
    /// `t, h, w` in turn, passing over axes whose count is used up (GLM-V). Any number of axes, any counts; equal to
    /// `Interleaved` for `[24, 20, 20]`.
    RoundRobin(Vec<usize>),
    /// `h` and `w` in turn over the first pairs (the longer one goes on alone), `t` on the last ones (VideoRoPE: `[16, 24, 24]`).
    SpatialHigh {
        /// Pairs of `t`, `h` and `w`.
        sections: [usize; 3],
        /// Whether the pairs of `t` rotate. HoPE leaves them at rest, for text too.
        rotate_time: bool,
    },
    /// `t, t, h, w, h, w, h, w`, repeated (MM-RoPE).
    Meta8,
    /// Pair `i` follows axis `i mod k` (VRoPE: 4).
    Cyclic(usize),
    /// MHRoPE: all pairs of a key/value head, and of the query heads that it serves, follow one axis. The first
    /// `sections[0]` heads follow `t`, the next `h`, `w`, and so on; heads left over are not rotated at all.
    PerHead {
        /// Key/value heads of each axis (for 8 heads `[2, 3, 3]`).
        sections: Vec<usize>,
        /// Key/value heads of the model.
        kv_heads: usize,
    },
}

/// An allocation applied to a number of pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The axis of each pair, `None` at rest; more than one plane where heads differ.
    pub(crate) planes: Vec<Vec<Option<Axis>>>,
    /// The plane of each key/value head, `None` where it is not rotated; absent where all heads are alike.
    pub(crate) kv_planes: Option<Vec<Option<usize>>>,
}

impl Allocation {
    /// The sections that the interleaving rule makes of a list it cannot honour: what public implementations use in
    /// silence. `Interleaved` of the result is the allocation of such a checkpoint.
    ///
    /// ```
    /// # use mrope::Allocation;
    /// assert_eq!(Allocation::clipped_interleaved([16, 24, 24], 64), [22, 21, 21]);
    /// assert_eq!(Allocation::clipped_interleaved([24, 20, 20], 64), [24, 20, 20]);
    /// ```
    pub fn clipped_interleaved(sections: [usize; 3], pairs: usize) -> [usize; 3] {
        // Pairs 1, 4, 7, … and pairs 2, 5, 8, … that exist.
        let h = sections[1].min((pairs + 1) / 3);
        let w = sections[2].min(pairs / 3);
        [pairs - h - w, h, w]
    }

    /// The axis of each of `pairs` rotary pairs; `None` is at rest. For `PerHead`, the axis of each key/value head,
    /// whatever `pairs` is.
    pub fn axes(&self, pairs: usize) -> Result<Vec<Option<Axis>>> {
        let all = |axes: Vec<usize>| Ok(axes.into_iter().map(|axis| Some(Axis(axis))).collect());
        match self {
            Self::OneAxis => all(vec![0; pairs]),
            Self::Chunked(sections) => {
                covers(sections, pairs)?;
                all(blocks(sections.iter().enumerate().map(|(block, len)| (block % 3, *len))))
            }
            Self::Interleaved(sections) => {
                covers(sections, pairs)?;
                let clipped = Self::clipped_interleaved(*sections, pairs);
                if clipped != *sections {
                    return Err(Error::InterleavedClips { sections: *sections, pairs, clipped });
                }
                let [_, h, w] = *sections;
                all((0..pairs)
                    .map(|i| match i % 3 {
                        1 if i < 3 * h => 1,
                        2 if i < 3 * w => 2,
                        _ => 0,
                    })
                    .collect())
            }
            Self::RoundRobin(sections) => {
                covers(sections, pairs)?;
                all(in_turn(sections, pairs))
            }
            Self::SpatialHigh { sections, rotate_time } => {
                covers(sections, pairs)?;
                let [t, h, w] = *sections;
                let spatial = in_turn(&[h, w], h + w).into_iter().map(|axis| Some(Axis(1 + axis)));
                Ok(spatial.chain(std::iter::repeat_n(rotate_time.then_some(Axis::T), t)).collect())
            }
            Self::Meta8 => all((0..pairs).map(|i| [0, 0, 1, 2, 1, 2, 1, 2][i % 8]).collect()),
            Self::Cyclic(0) => {
                Err(Error::Parameter { name: "cyclic axes", value: 0.0, expected: "at least 1" })
            }
            Self::Cyclic(axes) => all((0..pairs).map(|i| i % axes).collect()),
            Self::PerHead { sections, kv_heads } => {
                let taken = sections.iter().try_fold(0usize, |sum, s| sum.checked_add(*s));
                if taken.is_none_or(|taken| taken > *kv_heads) {
                    return Err(Error::PerHeadSections { sections: sections.clone(), kv_heads: *kv_heads });
                }
                let mut heads: Vec<_> = blocks(sections.iter().copied().enumerate())
                    .into_iter()
                    .map(|axis| Some(Axis(axis)))
                    .collect();
                heads.resize(*kv_heads, None);
                Ok(heads)
            }
        }
    }

    pub(crate) fn plan(&self, pairs: usize) -> Result<Plan> {
        let axes = self.axes(pairs)?;
        let Self::PerHead { sections, .. } = self else {
            return Ok(Plan { planes: vec![axes], kv_planes: None });
        };
        let planes = (0..sections.len()).map(|axis| vec![Some(Axis(axis)); pairs]).collect();
        Ok(Plan { planes, kv_planes: Some(axes.iter().map(|axis| axis.map(|a| a.0)).collect()) })
    }
}

/// Refuses sections that do not add up to the pairs.
fn covers(sections: &[usize], pairs: usize) -> Result<()> {
    let sum = sections.iter().fold(0usize, |sum, s| sum.saturating_add(*s));
    if sum == pairs { Ok(()) } else { Err(Error::Sections { sections: sections.to_vec(), sum, pairs }) }
}

/// `0, 1, 2, …` in turn, passing over values whose count is used up. The counts add up to `len`.
fn in_turn(counts: &[usize], len: usize) -> Vec<usize> {
    let mut left = counts.to_vec();
    (0..len)
        .map(|i| {
            let mut value = i % left.len();
            while left[value] == 0 {
                value = (value + 1) % left.len();
            }
            left[value] -= 1;
            value
        })
        .collect()
}

/// `(value, len)` blocks, written out.
fn blocks(blocks: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    blocks.flat_map(|(value, len)| std::iter::repeat_n(value, len)).collect()
}
