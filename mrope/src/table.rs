//! Cosines and sines of a batch, built once and used by every layer, forward and backward.

use std::sync::Arc;

use candle_core::{CpuStorage, Device, Layout, Storage, Tensor};
use rayon::prelude::*;

use crate::allocation::Allocation;
use crate::error::{Error, Result};
use crate::frequencies::Frequencies;
use crate::positions::Positions;
use crate::rotate::{Direction, Pairing, turn};

/// Cosines and sines of every token and rotary pair, `f32`, on a device. A clone shares them.
///
/// Angles follow transformers' arithmetic, so that long contexts agree with it: the frequency is rounded to `f32`, the
/// coordinate is an `f32`, their product is one `f32` multiplication. Cosine and sine of that `f32` are accurate to its
/// last place, but at position 131 071 they are off by up to 3.9e-3 from those of the exact angle (base 5e6), which is
/// in [`reference`](crate::reference).
#[derive(Clone, Debug)]
pub struct RotaryTable {
    /// `[planes, tokens, pairs]`.
    cos: Tensor,
    sin: Tensor,
    pairing: Pairing,
    /// The plane of each key/value head, where heads differ.
    kv_planes: Option<Arc<[Option<usize>]>>,
}

impl RotaryTable {
    /// The table of `positions`. The allocation must suit the number of pairs and read only axes that there are.
    pub fn new(
        positions: &Positions,
        allocation: &Allocation,
        frequencies: &Frequencies,
        device: &Device,
    ) -> Result<Self> {
        let pairs = frequencies.pairs();
        let plan = allocation.plan(pairs)?;
        let (planes, tokens) = (plan.planes.len(), positions.len());
        let inv: Vec<f32> = frequencies.inv().iter().map(|inv| *inv as f32).collect();
        let scaling = frequencies.scaling() as f32;
        let mut cos = vec![0f32; planes * tokens * pairs];
        let mut sin = cos.clone();
        for (plane, axes) in plan.planes.iter().enumerate() {
            let columns: Vec<Option<&[f64]>> = axes
                .iter()
                .map(|axis| {
                    axis.map(|axis| {
                        let missing = Error::MissingAxis { axis: axis.0, axes: positions.axes().len() };
                        positions.axis(axis).ok_or(missing)
                    })
                    .transpose()
                })
                .collect::<Result<_>>()?;
            let rows = plane * tokens * pairs..(plane + 1) * tokens * pairs;
            let cos = cos[rows.clone()].par_chunks_exact_mut(pairs);
            let sin = sin[rows].par_chunks_exact_mut(pairs);
            cos.zip(sin).enumerate().for_each(|(token, (cos, sin))| {
                for i in 0..pairs {
                    let angle = columns[i].map_or(0.0, |column| column[token] as f32 * inv[i]);
                    // In f64, then rounded: the last place of f32 whatever the platform's cosf does.
                    let (s, c) = f64::from(angle).sin_cos();
                    cos[i] = c as f32 * scaling;
                    sin[i] = s as f32 * scaling;
                }
            });
        }
        let shape = (planes, tokens, pairs);
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
            pairing: Pairing::default(),
            kv_planes: plan.kv_planes.map(Arc::from),
        })
    }

    /// The same table for another pairing of lanes.
    pub fn with_pairing(self, pairing: Pairing) -> Self {
        Self { pairing, ..self }
    }

    /// The table of tokens `start..start + len`, for a prefill in pieces. Nothing is recomputed or copied.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        within("tokens", start, len, self.tokens())?;
        Ok(Self {
            cos: self.cos.narrow(1, start, len)?,
            sin: self.sin.narrow(1, start, len)?,
            ..self.clone()
        })
    }

    /// The table for key/value heads `first..first + count` and the query heads that they serve: one device of several
    /// that share the heads. Only a table by heads ([`Allocation::PerHead`]) depends on which heads they are.
    pub fn shard(&self, first: usize, count: usize) -> Result<Self> {
        let Some(planes) = &self.kv_planes else {
            return Ok(self.clone());
        };
        within("key/value heads", first, count, planes.len())?;
        Ok(Self { kv_planes: Some(planes[first..first + count].into()), ..self.clone() })
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.cos.dims()[1]
    }

    /// Number of lanes that rotate.
    pub fn rotary_dim(&self) -> usize {
        2 * self.cos.dims()[2]
    }

    #[cfg(feature = "candle-cuda")]
    pub(crate) fn pairing(&self) -> Pairing {
        self.pairing
    }

    #[cfg(feature = "candle-cuda")]
    pub(crate) fn plane_stride(&self) -> usize {
        self.cos.stride()[0]
    }

    /// Cosines and sines `[planes, tokens, pairs]`.
    #[cfg(feature = "candle-cuda")]
    pub(crate) fn angles(&self) -> (&Tensor, &Tensor) {
        (&self.cos, &self.sin)
    }

    pub(crate) fn kv_heads(&self) -> Option<usize> {
        self.kv_planes.as_ref().map(|planes| planes.len())
    }

    /// The plane of each of `heads` heads (all query heads, or all key heads); `None` is not rotated.
    pub(crate) fn head_planes(&self, heads: usize) -> Result<Vec<Option<usize>>> {
        let Some(planes) = &self.kv_planes else {
            return Ok(vec![Some(0); heads]);
        };
        if planes.is_empty() || !heads.is_multiple_of(planes.len()) {
            return Err(Error::HeadGroups { heads, kv_heads: planes.len() });
        }
        let group = heads / planes.len();
        Ok((0..heads).map(|head| planes[head / group]).collect())
    }

    /// Lends the angles of a table on the CPU, for kernels that rotate as a part of something else (a norm before it, a
    /// cache after it).
    ///
    /// ```
    /// # use candle_core::Device;
    /// # use mrope::{Allocation, Frequencies, Positions, RotaryTable};
    /// let positions = Positions::from_axes(vec![vec![0.0, 1.0]])?;
    /// let table = RotaryTable::new(&positions, &Allocation::OneAxis, &Frequencies::new(1e4, 2)?, &Device::Cpu)?;
    /// let mut head = [1.0, 0.0];
    /// table.with_angles(|angles| angles.rotate(&mut head, 1, 0, 1))?;
    /// assert_eq!(head, [1f32.cos(), 1f32.sin()]);
    /// # Ok::<(), mrope::Error>(())
    /// ```
    pub fn with_angles<R>(&self, f: impl FnOnce(&Angles<'_>) -> R) -> Result<R> {
        let (cos, layout) = self.cos.storage_and_layout();
        let (sin, _) = self.sin.storage_and_layout();
        Ok(f(&Angles {
            cos: floats(&cos, layout)?,
            sin: floats(&sin, layout)?,
            plane_stride: layout.stride()[0],
            pairs: self.cos.dims()[2],
            pairing: self.pairing,
            kv_planes: self.kv_planes.as_deref(),
        }))
    }
}

fn within(what: &'static str, start: usize, len: usize, available: usize) -> Result<()> {
    if start.checked_add(len).is_none_or(|end| end > available) {
        return Err(Error::Range { what, start, len, available });
    }
    Ok(())
}

fn floats<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(CpuStorage::F32(data)) => Ok(&data[layout.start_offset()..]),
        _ => Err(candle_core::Error::Msg("the rotary table is not on the CPU".into()).into()),
    }
}

/// Cosines and sines in memory, lent by [`RotaryTable::with_angles`].
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    plane_stride: usize,
    pairs: usize,
    pairing: Pairing,
    kv_planes: Option<&'a [Option<usize>]>,
}

impl<'a> Angles<'a> {
    /// Cosines and sines `[pairs]` of a token for head `head` of `heads` query or key heads; `None` for heads that are
    /// not rotated.
    ///
    /// # Panics
    ///
    /// If the table has no such token or head.
    #[inline]
    pub fn of(&self, token: usize, head: usize, heads: usize) -> Option<(&'a [f32], &'a [f32])> {
        let plane = match self.kv_planes {
            None => 0,
            Some(planes) => planes[head / (heads / planes.len())]?,
        };
        Some(self.row(token, plane))
    }

    /// Rotates one head `[head_dim]` in place.
    ///
    /// # Panics
    ///
    /// If the table has no such token or head, or the head is narrower than the rotary dimension.
    #[inline]
    pub fn rotate(&self, lanes: &mut [f32], token: usize, head: usize, heads: usize) {
        if let Some((cos, sin)) = self.of(token, head, heads) {
            turn(lanes, cos, sin, self.pairing, Direction::Forward);
        }
    }

    /// The adjoint of [`Angles::rotate`]: what a backward pass applies to the gradient of a rotated head.
    ///
    /// # Panics
    ///
    /// As [`Angles::rotate`].
    #[inline]
    pub fn rotate_adjoint(&self, lanes: &mut [f32], token: usize, head: usize, heads: usize) {
        if let Some((cos, sin)) = self.of(token, head, heads) {
            turn(lanes, cos, sin, self.pairing, Direction::Adjoint);
        }
    }

    #[inline]
    pub(crate) fn row(&self, token: usize, plane: usize) -> (&'a [f32], &'a [f32]) {
        let start = plane * self.plane_stride + token * self.pairs;
        (&self.cos[start..start + self.pairs], &self.sin[start..start + self.pairs])
    }

    pub(crate) fn pairing(&self) -> Pairing {
        self.pairing
    }
}
