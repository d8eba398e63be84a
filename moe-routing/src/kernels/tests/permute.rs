//! Definition (f64) and kernels agree on moving activations to experts and back, forward and gradient.

use bytemuck::Pod;
use cuda_twin::{Arg, Gpu, Options, Result, args};
use half::bf16;

use super::{close, everywhere, no_barrier_can_be_removed, noise, recorded, same_bits};
use crate::Dispatch;
use crate::kernels::{Dtype, PermuteKernels, compile};
use crate::sources::PERMUTE;

trait Element: Pod + PartialEq + std::fmt::Debug {
    const DTYPE: Dtype;
    /// Of a result rounded to it, relative.
    const ROUNDING: f64;
    fn of(x: f64) -> Self;
    fn wide(self) -> f32;
}
impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    const ROUNDING: f64 = 1e-7;
    fn of(x: f64) -> Self {
        x as Self
    }
    fn wide(self) -> f32 {
        self
    }
}
impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    const ROUNDING: f64 = 1.0 / 256.0;
    fn of(x: f64) -> Self {
        Self::from_f64(x)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

struct Case<T> {
    tokens: usize,
    k: usize,
    width: usize,
    dispatch: Dispatch,
    gates: Vec<f32>,
    /// `[tokens, width]`: x, and the gradient of y.
    x: Vec<T>,
    dy: Vec<T>,
    /// `[pairs, width]`: outputs of experts, and the gradient of their inputs.
    rows: Vec<T>,
    d_rows: Vec<T>,
}

/// What the four kernels give, and the reference of them.
#[derive(Debug, PartialEq)]
struct Out<T, G> {
    permuted: Vec<T>,
    dx: Vec<T>,
    y: Vec<T>,
    d_out: Vec<T>,
    d_gates: Vec<G>,
}

impl<T: Element> Case<T> {
    fn new(tokens: usize, experts: usize, k: usize, width: usize, seed: u64) -> Self {
        let some = |n: usize, seed| noise(n, seed).into_iter().map(|v| T::of(2.0 * v)).collect();
        let ids = recorded(tokens, experts, k, seed);
        Self {
            tokens,
            k,
            width,
            dispatch: Dispatch::new(&ids, tokens, experts, k).unwrap(),
            gates: noise(tokens * k, seed + 1).iter().map(|g| *g as f32).collect(),
            x: some(tokens * width, seed + 2),
            dy: some(tokens * width, seed + 3),
            rows: some(tokens * k * width, seed + 4),
            d_rows: some(tokens * k * width, seed + 5),
        }
    }

    fn run(&self, gpu: &Gpu, kernels: &PermuteKernels) -> Result<Out<T, f32>> {
        let (tokens, pairs, width) = (self.tokens, self.tokens * self.k, self.width);
        let shape = [tokens, self.k, width];
        let [order, token_of, inverse] =
            [self.dispatch.order(), self.dispatch.token_of(), self.dispatch.inverse()].map(|v| gpu.upload(v));
        let (order, token_of, inverse, gates) = (order?, token_of?, inverse?, gpu.upload(&self.gates)?);
        let [x, dy, rows, d_rows] = [&self.x, &self.dy, &self.rows, &self.d_rows].map(|v| gpu.upload(v));
        let (x, dy, rows, d_rows) = (x?, dy?, rows?, d_rows?);
        let [permuted, d_out] = [gpu.uninit::<T>(pairs * width)?, gpu.uninit(pairs * width)?];
        let [dx, y] = [gpu.uninit::<T>(tokens * width)?, gpu.uninit(tokens * width)?];
        let d_gates = gpu.uninit::<f32>(pairs)?;
        let arg = |b| Arg::from(b);
        // SAFETY: buffers of the shape, indices of its dispatch.
        unsafe {
            kernels.permute(T::DTYPE, [pairs, width], arg(&x), (&token_of).into(), arg(&permuted))?;
            kernels.permute_backward(T::DTYPE, shape, arg(&d_rows), (&inverse).into(), arg(&dx))?;
            let [g, i] = args![&gates, &inverse];
            kernels.unpermute(T::DTYPE, shape, arg(&rows), g, i, arg(&y))?;
            let inputs = args![&dy, &rows, &gates, &order];
            kernels.unpermute_backward(T::DTYPE, shape, inputs, arg(&d_out), (&d_gates).into())?;
        }
        Ok(Out {
            permuted: permuted.read()?,
            dx: dx.read()?,
            y: y.read()?,
            d_out: d_out.read()?,
            d_gates: d_gates.read()?,
        })
    }

    fn reference(&self) -> Out<f64, f64> {
        let (pairs, width, k) = (self.tokens * self.k, self.width, self.k);
        let at = |v: &[T], row: usize, i: usize| f64::from(v[row * width + i].wide());
        let mut out = Out {
            permuted: vec![0.0; pairs * width],
            dx: vec![0.0; self.tokens * width],
            y: vec![0.0; self.tokens * width],
            d_out: vec![0.0; pairs * width],
            d_gates: vec![0.0; pairs],
        };
        for slot in 0..pairs {
            let (token, p, gate) =
                (slot / k, self.dispatch.inverse()[slot] as usize, f64::from(self.gates[slot]));
            for i in 0..width {
                out.permuted[p * width + i] = at(&self.x, token, i);
                out.dx[token * width + i] += at(&self.d_rows, p, i);
                out.y[token * width + i] += gate * at(&self.rows, p, i);
                out.d_out[p * width + i] = gate * at(&self.dy, token, i);
                out.d_gates[slot] += at(&self.dy, token, i) * at(&self.rows, p, i);
            }
        }
        out
    }

    fn check(&self, found: &Out<T, f32>) {
        let expected = self.reference();
        let what = format!("{} x {} x {} {:?}", self.tokens, self.k, self.width, T::DTYPE);
        let wide = |v: &[T]| v.iter().map(|v| v.wide()).collect::<Vec<_>>();
        // f32 sums of k terms below 2, and of `width` terms below 4.
        let sum = |n: usize| 4e-7 * n as f64;
        close(&what, &wide(&found.permuted), &expected.permuted, 0.0, 0.0);
        close(&what, &wide(&found.dx), &expected.dx, T::ROUNDING, sum(self.k));
        close(&what, &wide(&found.y), &expected.y, T::ROUNDING, sum(self.k));
        close(&what, &wide(&found.d_out), &expected.d_out, T::ROUNDING, 0.0);
        close(&what, &found.d_gates, &expected.d_gates, 1e-6, sum(self.width));
    }
}

fn agree<T: Element>() -> Result<()> {
    // Widths that 16 bytes divide and do not, below and above a block's 256 threads.
    let shapes = [
        [0, 3, 2, 8],
        [1, 1, 1, 1],
        [5, 4, 4, 3],
        [7, 9, 2, 4],
        [3, 40, 33, 8],
        [5, 16, 8, 33],
        [3, 8, 3, 259],
        [4, 8, 2, 1040],
        [2, 4, 2, 2056],
    ];
    everywhere(|gpu| {
        let kernels = PermuteKernels::new(gpu)?;
        for (seed, [tokens, experts, k, width]) in shapes.into_iter().enumerate() {
            let case = Case::<T>::new(tokens, experts, k, width, seed as u64);
            case.check(&case.run(gpu, &kernels)?);
        }
        Ok(())
    })
}

#[test]
fn f32_rows_agree() -> Result<()> {
    agree::<f32>()
}

#[test]
fn bf16_rows_agree() -> Result<()> {
    agree::<bf16>()
}

#[test]
fn many_tokens_unchecked() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let case = Case::<bf16>::new(61, 128, 8, 2048, 3);
    case.check(&case.run(&gpu, &PermuteKernels::new(&gpu)?)?);
    Ok(())
}

#[test]
fn the_order_of_slots_changes_no_bit() -> Result<()> {
    let (tokens, experts, k, width) = (4, 16, 5, 9);
    let ids = recorded(tokens, experts, k, 1);
    let turned = |i: usize| i / k * k + (i % k + 2) % k;
    let turned_ids: Vec<u32> = (0..ids.len()).map(|i| ids[turned(i)]).collect();
    everywhere(|gpu| {
        let kernels = PermuteKernels::new(gpu)?;
        let mut case = Case::<f32>::new(tokens, experts, k, width, 1);
        let first = case.run(gpu, &kernels)?;
        case.gates = (0..ids.len()).map(|i| case.gates[turned(i)]).collect();
        case.dispatch = Dispatch::new(&turned_ids, tokens, experts, k).unwrap();
        let second = case.run(gpu, &kernels)?;
        assert_eq!((&first.y, &first.dx, &first.d_out), (&second.y, &second.dx, &second.d_out));
        assert!((0..ids.len()).all(|i| second.d_gates[i] == first.d_gates[turned(i)]));
        Ok(())
    })
}

#[test]
fn there_and_back_is_the_identity() -> Result<()> {
    // With equal gates of a power of two nothing is rounded.
    everywhere(|gpu| {
        let kernels = PermuteKernels::new(gpu)?;
        let mut case = Case::<f32>::new(6, 8, 4, 12, 2);
        case.gates.fill(0.25);
        case.rows = case.run(gpu, &kernels)?.permuted;
        assert_eq!(case.run(gpu, &kernels)?.y, case.x);
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let case = Case::<f32>::new(3, 8, 4, 100, 2);
    same_bits(|gpu| case.run(gpu, &PermuteKernels::new(gpu)?))?;
    no_barrier_can_be_removed(PERMUTE, 1, |gpu, source| {
        let kernels = PermuteKernels::of_module(compile(gpu, "permute.cu", source)?);
        case.run(gpu, &kernels).map(drop)
    })
}

#[test]
fn nan_stays_with_its_token() -> Result<()> {
    let clean = Case::<bf16>::new(5, 16, 3, 24, 4);
    let mut poisoned = Case::<bf16>::new(5, 16, 3, 24, 4);
    let (nan, token) = (bf16::NAN, 2);
    let of_token = |p: usize| clean.dispatch.token_of()[p] as usize == token;
    poisoned.x[token * 24..][..24].fill(nan);
    poisoned.dy[token * 24..][..24].fill(nan);
    for p in (0..15).filter(|p| of_token(*p)) {
        poisoned.rows[p * 24..][..24].fill(nan);
        poisoned.d_rows[p * 24..][..24].fill(nan);
    }
    everywhere(|gpu| {
        let kernels = PermuteKernels::new(gpu)?;
        let (clean, found) = (clean.run(gpu, &kernels)?, poisoned.run(gpu, &kernels)?);
        let by_position = [(&clean.permuted, &found.permuted), (&clean.d_out, &found.d_out)];
        for (i, (a, b)) in by_position.into_iter().flat_map(|(a, b)| a.iter().zip(b).enumerate()) {
            assert!(if of_token(i / 24) { b.is_nan() } else { a == b }, "position {}", i / 24);
        }
        let by_token = [(&clean.dx, &found.dx), (&clean.y, &found.y)];
        for (i, (a, b)) in by_token.into_iter().flat_map(|(a, b)| a.iter().zip(b).enumerate()) {
            assert!(if i / 24 == token { b.is_nan() } else { a == b }, "token {}", i / 24);
        }
        for (slot, (a, b)) in clean.d_gates.iter().zip(&found.d_gates).enumerate() {
            assert!(if slot / 3 == token { b.is_nan() } else { a == b }, "slot {slot}");
        }
        Ok(())
    })
}
