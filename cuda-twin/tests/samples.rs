//! The sample kernels against their definitions: odd shapes, every device, and each barrier's mutant.

use cuda_twin::{Error, Gpu, Launch, Module, Options, Result, args, devices, mutants};
use half::{bf16, f16};

const ROW_OPS: &str = include_str!("../kernels/row_ops.cu");
const SUM: &str = include_str!("../kernels/sum.cu");
const GEMM: &str = include_str!("../kernels/gemm.cu");
const SHAPES: [(usize, usize, u32); 6] =
    [(1, 1, 32), (1, 31, 32), (3, 33, 32), (5, 100, 64), (4, 257, 128), (2, 33, 1024)];

fn data(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 250.0).collect()
}

trait Float: bytemuck::Pod + std::fmt::Debug {
    /// Relative to max(1, |y|): some roundings of f32, or one of the 16-bit format.
    const TOLERANCE: f32;
    fn from(v: f32) -> Self;
    fn to(self) -> f32;
}
macro_rules! float {
    ($t:ty, $tolerance:expr, $from:expr, $to:expr) => {
        impl Float for $t {
            const TOLERANCE: f32 = $tolerance;
            fn from(v: f32) -> Self {
                $from(v)
            }
            fn to(self) -> f32 {
                $to(self)
            }
        }
    };
}
float!(f32, 2e-6, |v| v, |v| v);
float!(bf16, 1.0 / 256.0, bf16::from_f32, bf16::to_f32);
float!(f16, 1.0 / 2048.0, f16::from_f32, f16::to_f32);

fn close<T: Float>(found: &[T], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (y, e)) in found.iter().map(|y| y.to()).zip(expected).enumerate() {
        let e = *e as f32;
        assert!((y - e).abs() <= T::TOLERANCE * e.abs().max(1.0), "element {i}: {y}, expected {e}");
    }
}

fn rms_norm<T: Float>(gpu: &Gpu, m: &Module, suffix: &str, x: &[T], w: &[T], block: u32) -> Result<Vec<T>> {
    let (rows, cols) = ((x.len() / w.len()) as i32, w.len() as i32);
    let (x, w, y) = (gpu.upload(x)?, gpu.upload(w)?, gpu.uninit::<T>(x.len())?);
    let args = args![&x, &w, &y, rows, cols, 1e-5f32];
    // SAFETY: buffers of rows * cols, cols and rows * cols elements, as the kernel expects.
    unsafe { m.launch(&format!("rms_norm_{suffix}"), Launch::linear(2, block), &args) }?;
    y.read()
}

fn softmax<T: Float>(
    gpu: &Gpu,
    m: &Module,
    suffix: &str,
    x: &[T],
    cols: usize,
    block: u32,
) -> Result<Vec<T>> {
    let (x, y) = (gpu.upload(x)?, gpu.uninit::<T>(x.len())?);
    let args = args![&x, &y, (x.len() / cols) as i32, cols as i32];
    // SAFETY: two buffers of rows * cols elements.
    unsafe { m.launch(&format!("softmax_{suffix}"), Launch::linear(2, block), &args) }?;
    y.read()
}

fn row_ops<T: Float>(gpu: &Gpu, m: &Module, suffix: &str) -> Result<()> {
    for (rows, cols, block) in SHAPES {
        let narrow = |v: &[f32]| v.iter().map(|v| T::from(*v)).collect::<Vec<_>>();
        let (mut x, w) = (narrow(&data(rows * cols)), narrow(&data(cols)));
        let wide = |v: &[T]| v.iter().map(|v| f64::from(v.to())).collect::<Vec<_>>();
        let (wide_x, wide_w) = (wide(&x), wide(&w));
        let norms = wide_x.chunks(cols).flat_map(|row| {
            let scale = (row.iter().map(|v| v * v).sum::<f64>() / cols as f64 + 1e-5).sqrt().recip();
            row.iter().zip(&wide_w).map(move |(v, w)| v * scale * w).collect::<Vec<_>>()
        });
        close(&rms_norm(gpu, m, suffix, &x, &w, block)?, &norms.collect::<Vec<_>>());
        if cols > 1 {
            x[cols - 1] = T::from(f32::NEG_INFINITY);
        }
        let shares = wide(&x)
            .chunks(cols)
            .flat_map(|row| {
                let top = row.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                let sum = row.iter().map(|v| (v - top).exp()).sum::<f64>();
                row.iter().map(|v| (v - top).exp() / sum).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>();
        close(&softmax(gpu, m, suffix, &x, cols, block)?, &shares);
    }
    Ok(())
}

#[test]
fn row_operations_match_their_definitions() -> Result<()> {
    for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
        let m = gpu.compile("row_ops.cu", ROW_OPS)?;
        row_ops::<f32>(gpu, &m, "f32")?;
        row_ops::<bf16>(gpu, &m, "bf16")?;
        row_ops::<f16>(gpu, &m, "f16")?;
    }
    Ok(())
}

fn sum(gpu: &Gpu, m: &Module, x: &[f32], blocks: u32) -> Result<(f32, u32)> {
    let n = x.len() as i32;
    let (x, partial) = (gpu.upload(x)?, gpu.uninit::<f32>(blocks as usize)?);
    let (out, finished) = (gpu.uninit::<f32>(1)?, gpu.zeros::<u32>(1)?);
    let launch = Launch::linear(blocks, 64).shared(64 * 4);
    // SAFETY: n inputs, a partial sum for each block, one output, one counter; a float of shared memory for each thread.
    unsafe { m.launch("sum_f32", launch, &args![&x, &partial, &out, &finished, n]) }?;
    Ok((out.read()?[0], finished.read()?[0]))
}

#[test]
fn the_last_block_adds_up_the_same_bits_in_every_order() -> Result<()> {
    for (n, blocks) in [(0, 1), (1, 1), (64, 3), (1000, 7), (4097, 40)] {
        let x = data(n);
        let expected = x.iter().map(|v| f64::from(*v)).sum::<f64>() as f32;
        let mut bits = Vec::new();
        for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
            let m = gpu.compile("sum.cu", SUM)?;
            let (found, counter) = sum(gpu, &m, &x, blocks)?;
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                "{found}, expected {expected}"
            );
            assert_eq!(counter, 0, "ready for the next launch");
            bits.push(found.to_bits());
        }
        assert!(bits.iter().all(|b| *b == bits[0]), "{bits:?}");
    }
    Ok(())
}

fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j])).sum();
    (0..m * n).map(|i| at(i / n, i % n)).collect()
}

fn gemm(gpu: &Gpu, module: &Module, a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) -> Result<Vec<f32>> {
    let (a, b, c) = (gpu.upload(a)?, gpu.upload(b)?, gpu.uninit::<f32>(m * n)?);
    let grid = [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1];
    let launch = Launch { grid, block: [16, 16, 1], shared_bytes: 0 };
    // SAFETY: m * k, k * n and m * n elements.
    unsafe { module.launch("gemm_f32", launch, &args![&a, &b, &c, m as i32, n as i32, k as i32]) }?;
    c.read()
}

#[test]
fn products_match_the_triple_loop() -> Result<()> {
    for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
        let module = gpu.compile("gemm.cu", GEMM)?;
        for [m, n, k] in [[1, 1, 1], [16, 16, 16], [17, 5, 33], [31, 40, 7]] {
            let (a, b) = (data(m * k), data(k * n));
            let found = gemm(gpu, &module, &a, &b, [m, n, k])?;
            for (y, e) in found.iter().zip(product(&a, &b, m, n, k)) {
                assert!((f64::from(*y) - e).abs() <= 1e-5 * k as f64, "{y}, expected {e}");
            }
        }
    }
    Ok(())
}

#[test]
fn tensor_core_products_match_the_triple_loop() -> Result<()> {
    for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
        let module = gpu.compile("gemm.cu", GEMM)?;
        for [m, n, k] in [[16, 8, 16], [32, 24, 48]] {
            let narrow = |v: Vec<f32>| v.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
            let wide = |v: &[bf16]| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            let (a, b) = (narrow(data(m * k)), narrow(data(k * n)));
            let expected = product(&wide(&a), &wide(&b), m, n, k);
            let (a, b, c) = (gpu.upload(&a)?, gpu.upload(&b)?, gpu.uninit::<f32>(m * n)?);
            let launch =
                Launch { grid: [n as u32 / 8, m as u32 / 16, 1], block: [32, 1, 1], shared_bytes: 0 };
            // SAFETY: m * k, k * n and m * n elements; whole tiles.
            unsafe { module.launch("gemm_bf16", launch, &args![&a, &b, &c, n as i32, k as i32]) }?;
            for (y, e) in c.read()?.iter().zip(expected) {
                assert!((f64::from(*y) - e).abs() <= 1e-5 * k as f64, "{y}, expected {e}");
            }
        }
    }
    Ok(())
}

/// Each mutant must be reported in every order, or give a wrong result.
fn all_are_noticed(source: &str, count: usize, run: impl Fn(&Gpu, &str) -> Result<()>) -> Result<()> {
    let found: Vec<_> = mutants(source).collect();
    assert_eq!(found.len(), count);
    for mutant in found {
        for options in Options::orders() {
            match run(&Gpu::emulated(options), &mutant.source) {
                Err(Error::Fault(_)) => {}
                other => panic!("without {} of line {}: {other:?}", mutant.call, mutant.line),
            }
        }
    }
    Ok(())
}

#[test]
fn no_barrier_of_the_samples_can_be_removed() -> Result<()> {
    all_are_noticed(ROW_OPS, 2, |gpu, source| {
        let m = gpu.compile("row_ops.cu", source)?;
        softmax(gpu, &m, "f32", &data(6 * 100), 100, 64)?;
        rms_norm(gpu, &m, "f32", &data(6 * 100), &data(100), 64).map(drop)
    })?;
    all_are_noticed(GEMM, 2, |gpu, source| {
        let m = gpu.compile("gemm.cu", source)?;
        gemm(gpu, &m, &data(33 * 33), &data(33 * 33), [33; 3]).map(drop)
    })?;
    all_are_noticed(SUM, 4, |gpu, source| sum(gpu, &gpu.compile("sum.cu", source)?, &data(1000), 7).map(drop))
}
