//! The table and the rotation: `kernels/rotary.cu`.

use cuda_twin::{Arg, Gpu, Module, Result, args};

use super::{int, refused, threads};
use crate::rotate::Pairing;
use crate::sources::{HEADERS, ROTARY};

/// The element type of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `f32`
    F32,
    /// `bf16`
    Bf16,
    /// `f16`
    F16,
}

impl Dtype {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    pub(super) fn name(self, kernel: &str) -> String {
        let suffix = match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        };
        format!("{kernel}_{suffix}")
    }
}

/// The sizes of a table `[planes, tokens, pairs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// Planes: 1, or one an axis where heads differ.
    pub planes: usize,
    /// Tokens.
    pub tokens: usize,
    /// Rotary pairs.
    pub pairs: usize,
}

/// Elements from one batch row, token and head to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadStrides {
    /// From one batch row to the next; of no account where there is one.
    pub batch: usize,
    /// From one token to the next.
    pub token: usize,
    /// From one head to the next.
    pub head: usize,
}

/// What to rotate, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Tokens, in all batch rows.
    pub tokens: usize,
    /// Tokens of a batch row.
    pub seq: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Lanes of a head.
    pub head_dim: usize,
    /// Rotary pairs; lanes beyond them are copied.
    pub pairs: usize,
    /// Which lanes are pairs.
    pub pairing: Pairing,
    /// Elements from one plane of the table to the next.
    pub plane_stride: usize,
    /// The adjoint, which a backward pass applies to gradients.
    pub adjoint: bool,
    /// Of the input.
    pub from: HeadStrides,
    /// Of the output.
    pub to: HeadStrides,
}

impl Rotation {
    /// Whether 16 bytes can be moved at once; `aligned` says that both buffers start at a multiple of 16 bytes.
    pub fn vectors(&self, dtype: Dtype, aligned: bool) -> bool {
        let lanes = 16 / dtype.bytes();
        let HeadStrides { batch, token, head } = self.from;
        let strides = [batch, token, head, self.to.batch, self.to.token, self.to.head];
        let even = |n: usize| n.is_multiple_of(lanes);
        aligned
            && self.pairing == Pairing::HalfSplit
            && even(self.pairs)
            && even(self.head_dim)
            && strides.into_iter().all(even)
    }
}

/// The compiled kernels on one device.
pub struct RotaryKernels(Module);

impl RotaryKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile_with("rotary.cu", ROTARY, HEADERS).map(Self)
    }

    /// Writes `cos` and `sin`, `f32` `[planes, tokens, pairs]`, scaled by `scaling`, from `positions` `[axes, tokens]` and
    /// `inv` `[pairs]` in `f32` and `axes` `[planes, pairs]` in `i32`: the row of `positions` that drives each pair, negative
    /// for none.
    ///
    /// # Safety
    /// The buffers hold what is said here, and device addresses are of this device.
    ///
    /// # Errors
    /// As [`Module::launch`]; [`cuda_twin::Error::Launch`] for a shape that does not fit 32 bits.
    #[expect(clippy::too_many_arguments, reason = "one for each buffer")]
    pub unsafe fn table(
        &self,
        shape: TableShape,
        scaling: f32,
        positions: Arg<'_>,
        inv: Arg<'_>,
        axes: Arg<'_>,
        cos: Arg<'_>,
        sin: Arg<'_>,
    ) -> Result<()> {
        let name = "rotary_table";
        let TableShape { planes, tokens, pairs } = shape;
        let count = planes.saturating_mul(tokens).saturating_mul(pairs);
        let Some(launch) = threads(name, "elements of the table", count, 256)? else { return Ok(()) };
        let [planes, tokens, pairs] =
            [int(name, "planes", planes)?, int(name, "tokens", tokens)?, int(name, "pairs", pairs)?];
        let args = args![positions, inv, axes, scaling, planes, tokens, pairs, cos, sin];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(name, launch, &args) }
    }

    /// Rotates `x` into `y`, which may be the same memory with the same strides. `cos` and `sin` as from [`Self::table`];
    /// `planes` `[heads]` in `i32`: the table's plane for each head, negative for one that is copied. `vectors` as
    /// [`Rotation::vectors`] allows: the results are the same, bit for bit.
    ///
    /// # Safety
    /// As [`Self::table`]; with `vectors`, both buffers start at a multiple of 16 bytes.
    ///
    /// # Errors
    /// As [`Self::table`].
    #[expect(clippy::too_many_arguments, reason = "one for each buffer")]
    pub unsafe fn rotate(
        &self,
        dtype: Dtype,
        rotation: &Rotation,
        vectors: bool,
        x: Arg<'_>,
        y: Arg<'_>,
        cos: Arg<'_>,
        sin: Arg<'_>,
        planes: Arg<'_>,
    ) -> Result<()> {
        let r = rotation;
        let name = dtype.name(if vectors { "rotate16" } else { "rotate" });
        if 2 * r.pairs > r.head_dim {
            return Err(refused(&name, "pairs", r.pairs, format!("at most {}", r.head_dim / 2)));
        }
        if vectors && !r.vectors(dtype, true) {
            return Err(refused(
                &name,
                "sizes",
                format!("{r:?}"),
                "half-split pairs in multiples of 16 bytes",
            ));
        }
        let lanes = if vectors { 16 / dtype.bytes() } else { 1 };
        let items = (r.head_dim - r.pairs) / lanes;
        let count = r.tokens.saturating_mul(r.heads).saturating_mul(items);
        let Some(launch) = threads(&name, "pairs of all heads", count, 256)? else { return Ok(()) };
        let size = |what, n: usize| int(&name, what, n);
        let long = |n: usize| n as i64;
        let args = args![
            x,
            y,
            cos,
            sin,
            planes,
            long(r.plane_stride),
            if r.adjoint { -1f32 } else { 1f32 },
            size("tokens", r.tokens)?,
            size("heads", r.heads)?,
            size("lanes of a head", r.head_dim)?,
            size("pairs", r.pairs)?,
            i32::from(r.pairing == Pairing::Adjacent),
            size("tokens of a batch row", r.seq.max(1))?,
            long(r.from.batch),
            long(r.from.token),
            long(r.from.head),
            long(r.to.batch),
            long(r.to.token),
            long(r.to.head),
        ];
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&name, launch, &args) }
    }
}
