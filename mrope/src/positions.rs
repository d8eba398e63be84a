//! A table of coordinates, and what generation continues from.

use candle_core::{Device, Tensor};

use crate::axis::Axis;
use crate::error::{Error, Result};

/// The largest coordinate, and the longest sequence: up to 2^24 whole numbers are exact in `f32`. (In `bf16`, 257
/// would be 256: coordinates are never held in 16 bits.)
pub const MAX_COORDINATE: u32 = 1 << 24;

/// Coordinates of every token on every axis: `[axes][tokens]`, host `f64`, whole numbers within ±2^24 for most designs.
///
/// The tokens are those of one sequence, or of several, packed or padded.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    axes: Vec<Vec<f64>>,
    sequences: Vec<Sequence>,
}

/// Where a sequence stands. It belongs to the sequence and travels with its key/value cache; a model that keeps it
/// continues one request from the coordinates of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sequence {
    /// Real tokens so far.
    pub tokens: usize,
    /// The coordinate of the next text token.
    pub next: f64,
    /// The largest coordinate so far. Text does not depend on it; transformers' delta does.
    pub(crate) largest: f64,
}

impl Default for Sequence {
    fn default() -> Self {
        Self::at(0, 0.0)
    }
}

/// By how much a sequence's coordinates run ahead of its token count (`rope_delta`).
///
/// A fractional one (V2PE, CircleRoPE, HoPE) is another case, so that no decoding loop drops the fraction unawares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delta {
    /// The usual case; mostly negative, since visual blocks take fewer coordinates than tokens.
    Whole(i64),
    /// A design with fractional coordinates.
    Fractional(f64),
}

impl Sequence {
    /// A sequence of `tokens` tokens whose next text token is at `next`.
    pub fn at(tokens: usize, next: f64) -> Self {
        Self { tokens, next, largest: next - 1.0 }
    }

    /// `next - tokens`: the `j`-th generated token is at `tokens + j + delta`.
    pub fn delta(&self) -> Delta {
        let delta = self.next - self.tokens as f64;
        if delta.fract() == 0.0 { Delta::Whole(delta as i64) } else { Delta::Fractional(delta) }
    }
}

impl Positions {
    pub(crate) fn new(axes: Vec<Vec<f64>>, sequences: Vec<Sequence>) -> Result<Self> {
        let tokens = axes.first().map_or(0, Vec::len);
        for (axis, values) in axes.iter().enumerate() {
            if values.len() != tokens {
                return Err(Error::Length {
                    what: "an axis of positions",
                    found: values.len(),
                    expected: tokens,
                });
            }
            check(axis, 0, values)?;
        }
        Ok(Self { axes, sequences })
    }

    /// Coordinates that a builder has checked.
    pub(crate) fn trusted(axes: Vec<Vec<f64>>, sequence: Sequence) -> Self {
        Self { axes, sequences: vec![sequence] }
    }

    /// The coordinates and the end of a single sequence.
    pub(crate) fn into_parts(self) -> (Vec<Vec<f64>>, Sequence) {
        let end = self.sequences.last().copied().unwrap_or_default();
        (self.axes, end)
    }

    /// Positions from coordinates `[axes][tokens]` that come from elsewhere (rows and columns of a vision tower,
    /// recorded positions), as one sequence that text continues one past the largest coordinate.
    pub fn from_axes(axes: Vec<Vec<f64>>) -> Result<Self> {
        let tokens = axes.first().map_or(0, Vec::len);
        let largest = axes.iter().flatten().copied().fold(-1.0, f64::max);
        Self::new(axes, vec![Sequence::at(tokens, largest + 1.0)])
    }

    /// The coordinates on each axis, `[axes][tokens]`.
    pub fn axes(&self) -> &[Vec<f64>] {
        &self.axes
    }

    /// The coordinates on one axis.
    pub fn axis(&self, axis: Axis) -> Option<&[f64]> {
        self.axes.get(axis.0).map(Vec::as_slice)
    }

    /// Number of slots, padding included.
    pub fn len(&self) -> usize {
        self.axes.first().map_or(0, Vec::len)
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where each sequence stands after its tokens.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The coordinate of the next text token of the last (or only) sequence; 0 without one.
    pub fn next(&self) -> f64 {
        self.sequences.last().map_or(0.0, |s| s.next)
    }

    /// The delta of the last (or only) sequence; 0 without one.
    pub fn delta(&self) -> Delta {
        self.sequences.last().copied().unwrap_or_default().delta()
    }

    /// Integer coordinates `[axes][tokens]`; an error for designs with fractional ones.
    pub fn to_i32(&self) -> Result<Vec<Vec<i32>>> {
        let whole = |(axis, values): (usize, &Vec<f64>)| {
            let convert = |(token, value): (usize, &f64)| {
                if value.fract() == 0.0 {
                    Ok(*value as i32)
                } else {
                    Err(Error::Fractional { axis, token, value: *value })
                }
            };
            values.iter().enumerate().map(convert).collect()
        };
        self.axes.iter().enumerate().map(whole).collect()
    }

    /// Coordinates as a tensor `[axes, tokens]`, `f32`.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = self.axes.iter().flatten().map(|c| *c as f32).collect();
        Ok(Tensor::from_vec(values, (self.axes.len(), self.len()), device)?)
    }
}

/// Refuses coordinates that `f32` cannot hold. `first` is the token of the first value.
pub(crate) fn check(axis: usize, first: usize, values: &[f64]) -> Result<()> {
    let limit = f64::from(MAX_COORDINATE);
    match values.iter().position(|c| !(-limit..=limit).contains(c)) {
        Some(i) => Err(Error::Coordinate { axis, token: first + i, value: values[i] }),
        None => Ok(()),
    }
}
