//! The rotation of one head, on slices.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Which two lanes of a head form rotary pair `i` of `n`.
///
/// This is not about axes: interleaved MRoPE changes which *axis* drives a pair, never its lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    /// Lanes `i` and `i + n` ("rotate half"): every Qwen model, and Hugging Face's Llama.
    #[default]
    HalfSplit,
    /// Lanes `2i` and `2i + 1`: Llama in GGUF files, GLM.
    Adjacent,
}

/// Forward, or the adjoint that the backward pass applies: `a·R(-phi)`, the same with the sign of the sine flipped.
/// (The inverse would be `R(-phi)/a`; they agree only without YaRN's factor `a`.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Adjoint,
}

impl Direction {
    pub(crate) fn flipped(self) -> Self {
        match self {
            Self::Forward => Self::Adjoint,
            Self::Adjoint => Self::Forward,
        }
    }
}

/// Turns the first `2n` lanes of a head in place; the others are left alone.
#[inline]
pub(crate) fn turn(lanes: &mut [f32], cos: &[f32], sin: &[f32], pairing: Pairing, direction: Direction) {
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    let n = cos.len();
    let sin = &sin[..n];
    match pairing {
        Pairing::HalfSplit => {
            let (low, rest) = lanes.split_at_mut(n);
            let high = &mut rest[..n];
            for i in 0..n {
                let (x1, x2, s) = (low[i], high[i], sign * sin[i]);
                low[i] = x1 * cos[i] - x2 * s;
                high[i] = x2 * cos[i] + x1 * s;
            }
        }
        Pairing::Adjacent => {
            for (i, pair) in lanes[..2 * n].chunks_exact_mut(2).enumerate() {
                let (x1, x2, s) = (pair[0], pair[1], sign * sin[i]);
                pair[0] = x1 * cos[i] - x2 * s;
                pair[1] = x2 * cos[i] + x1 * s;
            }
        }
    }
}

/// An element type that can be rotated: in `f32`, rounded once when stored.
pub(crate) trait Lane: Copy + Default + Send + Sync {
    /// [`turn`] for this type. `scratch` is the caller's, so that a head costs no allocation.
    fn turn(
        lanes: &mut [Self],
        cos: &[f32],
        sin: &[f32],
        pairing: Pairing,
        direction: Direction,
        scratch: &mut Vec<f32>,
    );
}

impl Lane for f32 {
    fn turn(
        lanes: &mut [Self],
        cos: &[f32],
        sin: &[f32],
        pairing: Pairing,
        direction: Direction,
        _scratch: &mut Vec<f32>,
    ) {
        turn(lanes, cos, sin, pairing, direction);
    }
}

macro_rules! half_lane {
    ($($half:ty),*) => {$(
        impl Lane for $half {
            fn turn(
                lanes: &mut [Self],
                cos: &[f32],
                sin: &[f32],
                pairing: Pairing,
                direction: Direction,
                scratch: &mut Vec<f32>,
            ) {
                let rotary = &mut lanes[..2 * cos.len()];
                scratch.resize(rotary.len(), 0.0);
                rotary.convert_to_f32_slice(scratch);
                turn(scratch, cos, sin, pairing, direction);
                rotary.convert_from_f32_slice(scratch);
            }
        }
    )*};
}

half_lane!(bf16, f16);
