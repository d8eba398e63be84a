//! The definition: `f64` throughout, one pair at a time, written to be read.
//!
//! It shares the allocation and the frequencies with the fast path, and no arithmetic.

use ndarray::{Array3, ArrayView3};

use crate::allocation::Allocation;
use crate::error::{Error, Result};
use crate::frequencies::Frequencies;
use crate::positions::Positions;
use crate::rotate::Pairing;

/// `a·cos(phi)` and `a·sin(phi)`, each `[tokens, heads, pairs]`, with `phi = pos[axis[i]]·inv[i]`, for a tensor of
/// `heads` query or key heads. A head that the allocation leaves out has cosine 1 and sine 0.
pub fn cos_sin(
    positions: &Positions,
    allocation: &Allocation,
    frequencies: &Frequencies,
    heads: usize,
) -> Result<(Array3<f64>, Array3<f64>)> {
    let pairs = frequencies.pairs();
    let axes = allocation.axes(pairs)?;
    let shape = (positions.len(), heads, pairs);
    let (mut cos, mut sin) = (Array3::ones(shape), Array3::zeros(shape));
    for token in 0..positions.len() {
        for head in 0..heads {
            for i in 0..pairs {
                let axis = match allocation {
                    Allocation::PerHead { kv_heads, .. } => {
                        if *kv_heads == 0 || !heads.is_multiple_of(*kv_heads) {
                            return Err(Error::HeadGroups { heads, kv_heads: *kv_heads });
                        }
                        match axes[head / (heads / kv_heads)] {
                            Some(axis) => Some(axis),
                            None => continue,
                        }
                    }
                    _ => axes[i],
                };
                let coordinate = match axis {
                    Some(axis) => {
                        let missing = Error::MissingAxis { axis: axis.0, axes: positions.axes().len() };
                        positions.axis(axis).ok_or(missing)?[token]
                    }
                    None => 0.0,
                };
                let phi = coordinate * frequencies.inv()[i];
                cos[[token, head, i]] = frequencies.scaling() * phi.cos();
                sin[[token, head, i]] = frequencies.scaling() * phi.sin();
            }
        }
    }
    Ok((cos, sin))
}

/// Rotates `x` `[tokens, heads, d]`: `y1 = x1·c - x2·s`, `y2 = x2·c + x1·s` for the two lanes of each pair; lanes beyond
/// the pairs are copied.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn rotate(
    x: ArrayView3<'_, f64>,
    cos: ArrayView3<'_, f64>,
    sin: ArrayView3<'_, f64>,
    pairing: Pairing,
) -> Array3<f64> {
    let (tokens, heads, pairs) = cos.dim();
    let mut y = x.to_owned();
    for token in 0..tokens {
        for head in 0..heads {
            for i in 0..pairs {
                let (first, second) = match pairing {
                    Pairing::HalfSplit => (i, i + pairs),
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                };
                let (x1, x2) = (x[[token, head, first]], x[[token, head, second]]);
                let (c, s) = (cos[[token, head, i]], sin[[token, head, i]]);
                y[[token, head, first]] = x1 * c - x2 * s;
                y[[token, head, second]] = x2 * c + x1 * s;
            }
        }
    }
    y
}

/// The adjoint of [`rotate`]: the gradient of the input from that of the output, the rotation by `-phi`.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn rotate_adjoint(
    dy: ArrayView3<'_, f64>,
    cos: ArrayView3<'_, f64>,
    sin: ArrayView3<'_, f64>,
    pairing: Pairing,
) -> Array3<f64> {
    rotate(dy, cos, (-&sin).view(), pairing)
}
