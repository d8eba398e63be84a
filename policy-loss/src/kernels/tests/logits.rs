//! Definition, CPU path and kernels agree on rows of logits.

use bytemuck::Pod;
use cuda_twin::{Error, Gpu, Options, Result, args, devices, mutants};
use half::bf16;

use super::noise;
use crate::kernels::{Dtype, LogitKernels, Rows};
use crate::logits::{Logit, row_grad, row_stats};
use crate::reference::{LogitRow, logit_row};
use crate::sources::LOGITS;

trait Element: Logit + Pod + std::fmt::Debug {
    const DTYPE: Dtype;
    /// Of a gradient rounded to it, relative.
    const ROUNDING: f64;
}
impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    const ROUNDING: f64 = 0.0;
}
impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    const ROUNDING: f64 = 1.0 / 256.0;
}

struct Case<T> {
    rows: Rows,
    logits: Vec<T>,
    targets: Vec<i32>,
    upstream: Vec<f32>,
}

/// Rows of every kind: plain, with banned tokens, all equal, large, a single finite logit, masked with NaN in it, and with
/// an upstream of 0.
fn case<T: Element>(rows: usize, vocabulary: usize, temperature: f64, seed: u64) -> Case<T> {
    let mut logits: Vec<f64> = noise(rows * vocabulary, seed).iter().map(|a| 6.0 * a).collect();
    let mut targets: Vec<i32> = (0..rows).map(|r| (r * 7919 % vocabulary) as i32).collect();
    targets[rows - 1] = vocabulary as i32 - 1;
    let mut upstream: Vec<f32> = noise(2 * rows, seed + 1).iter().map(|g| *g as f32).collect();
    for (r, row) in logits.chunks_mut(vocabulary).enumerate() {
        let target = targets[r] as usize;
        match r % 7 {
            1 => (0..vocabulary)
                .filter(|v| *v != target && v % 3 == 0)
                .for_each(|v| row[v] = f64::NEG_INFINITY),
            2 => row.fill(1.5),
            3 => row.iter_mut().for_each(|a| *a *= 2000.0),
            4 => (0..vocabulary).filter(|v| *v != target).for_each(|v| row[v] = f64::NEG_INFINITY),
            5 => {
                row.fill(f64::NAN);
                targets[r] = -1;
            }
            6 => upstream[2 * r..2 * r + 2].fill(0.0),
            _ => {}
        }
    }
    let logits = logits.into_iter().map(|a| T::round(a as f32)).collect();
    Case { rows: Rows { rows, vocabulary, temperature }, logits, targets, upstream }
}

impl<T: Element> Case<T> {
    fn kernels(&self, gpu: &Gpu, kernels: &LogitKernels) -> Result<(Vec<f32>, Vec<T>)> {
        let (logits, targets) = (gpu.upload(&self.logits)?, gpu.upload(&self.targets)?);
        let scores = gpu.uninit::<f32>(4 * self.rows.rows)?;
        let upstream = gpu.upload(&self.upstream)?;
        let [l, t, s, u] = args![&logits, &targets, &scores, &upstream];
        // SAFETY: the buffers have the shapes of `rows`, and targets lie in the vocabulary.
        unsafe { kernels.row_stats(T::DTYPE, &self.rows, l.clone(), t.clone(), s.clone()) }?;
        // SAFETY: as before.
        unsafe { kernels.row_grad(T::DTYPE, &self.rows, l, t, s, u) }?;
        Ok((scores.read()?, logits.read()?))
    }

    fn cpu(&self) -> (Vec<f32>, Vec<T>) {
        let (mut scores, mut grad) = (Vec::new(), self.logits.clone());
        let inv = (1.0 / self.rows.temperature) as f32;
        for (r, row) in grad.chunks_mut(self.rows.vocabulary).enumerate() {
            let Ok(target) = usize::try_from(self.targets[r]) else {
                scores.extend([0.0; 4]);
                row.fill(T::round(0.0));
                continue;
            };
            let found = row_stats(row, inv, f32::exp);
            scores.extend([found.log_prob(row[target].wide()), found.entropy, found.top, found.log_sum]);
            row_grad(row, target, &found, [self.upstream[2 * r], self.upstream[2 * r + 1]], f32::exp);
        }
        (scores, grad)
    }

    /// Within the tolerances of the kernels: f32 arithmetic, rounded once.
    fn check(&self, who: &str, scores: &[f32], grad: &[T]) {
        let Rows { vocabulary, temperature, .. } = self.rows;
        for (r, target) in self.targets.iter().enumerate() {
            let (scores, grad) = (&scores[4 * r..][..4], &grad[r * vocabulary..][..vocabulary]);
            let [g, h] = [0, 1].map(|i| f64::from(self.upstream[2 * r + i]));
            if *target < 0 || g == 0.0 && h == 0.0 {
                assert!(grad.iter().all(|d| d.wide().to_bits() == 0), "{who}: gradient of silent row {r}");
            }
            let Ok(target) = usize::try_from(*target) else {
                assert!(scores.iter().all(|s| s.to_bits() == 0), "{who}: scores of masked row {r}");
                continue;
            };
            let row: Vec<f64> =
                self.logits[r * vocabulary..][..vocabulary].iter().map(|a| a.wide().into()).collect();
            let LogitRow { lse, logp, entropy, grad: expected, .. } =
                logit_row(&row, target, temperature, g, h);
            let size = 4e-6 * lse.abs().max(1.0);
            for (found, expected) in [(scores[0], logp), (scores[1], entropy)] {
                let off = (f64::from(found) - expected).abs();
                assert!(off <= size, "{who}: row {r} of {vocabulary}: {found}, expected {expected}");
            }
            for (v, (d, e)) in grad.iter().zip(expected).enumerate() {
                // Where the terms of the entropy cancel, what remains has their errors.
                let log_p = row[v] / temperature - lse;
                let terms =
                    if log_p > -80.0 { log_p.exp() * (g.abs() + h.abs() * (1.0 - log_p)) } else { 0.0 };
                let size = (2e-5 + T::ROUNDING) * e.abs() + size * terms / temperature + 1e-8;
                assert!(
                    (f64::from(d.wide()) - e).abs() <= size,
                    "{who}: row {r}, logit {v}: {d:?}, expected {e}"
                );
            }
        }
    }
}

fn bits<T: Element>(scores: &[f32], grad: &[T]) -> (Vec<u32>, Vec<u8>) {
    (scores.iter().map(|s| s.to_bits()).collect(), bytemuck::cast_slice(grad).to_vec())
}

fn agree<T: Element>() -> Result<()> {
    let shapes = [(1, 1), (7, 2), (8, 31), (9, 257), (7, 1009)];
    for (index, (rows, vocabulary)) in shapes.into_iter().enumerate() {
        for temperature in [0.6, 1.0, 1.3] {
            let case = case::<T>(rows, vocabulary, temperature, index as u64);
            let (scores, grad) = case.cpu();
            case.check("CPU", &scores, &grad);
            let mut seen = None;
            for gpu in devices()?.iter().chain([&Gpu::emulated(Options::unchecked())]) {
                let (scores, grad) = case.kernels(gpu, &LogitKernels::new(gpu)?)?;
                case.check("kernel", &scores, &grad);
                // Between emulation and a GPU bits may differ.
                if gpu.emulation().is_some() {
                    let found = bits(&scores, &grad);
                    assert_eq!(*seen.get_or_insert(found.clone()), found, "bits depend on the order");
                }
            }
        }
    }
    Ok(())
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
fn rows_of_a_real_vocabulary_agree() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let kernels = LogitKernels::new(&gpu)?;
    let full = case::<bf16>(3, 151_936, 1.0, 5);
    let (scores, grad) = full.kernels(&gpu, &kernels)?;
    full.check("kernel", &scores, &grad);
    let prime = case::<f32>(2, 151_937, 0.7, 6);
    let (scores, grad) = prime.kernels(&gpu, &kernels)?;
    prime.check("kernel", &scores, &grad);
    Ok(())
}

#[test]
fn masked_rows_and_other_rows_do_not_matter() -> Result<()> {
    for gpu in devices()? {
        let kernels = LogitKernels::new(&gpu)?;
        let mut case = case::<f32>(7, 100, 1.0, 9);
        let (scores, grad) = case.kernels(&gpu, &kernels)?;
        let whole = bits(&scores, &grad);
        // Whatever is in a masked row.
        for poison in [f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.0] {
            case.logits[5 * 100..6 * 100].fill(poison);
            let (scores, grad) = case.kernels(&gpu, &kernels)?;
            assert_eq!(bits(&scores, &grad), whole, "{poison}");
        }
        // A row alone.
        for r in 0..7 {
            let alone = Case {
                rows: Rows { rows: 1, ..case.rows },
                logits: case.logits[r * 100..][..100].to_vec(),
                targets: vec![case.targets[r]],
                upstream: case.upstream[2 * r..][..2].to_vec(),
            };
            let (s, d) = alone.kernels(&gpu, &kernels)?;
            assert_eq!(bits(&s, &d), bits(&scores[4 * r..][..4], &grad[r * 100..][..100]), "row {r}");
        }
    }
    Ok(())
}

#[test]
fn a_masked_row_is_never_read() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let kernels = LogitKernels::new(&gpu)?;
    let rows = Rows { rows: 1, vocabulary: 64, temperature: 1.0 };
    // The checked emulator reports the first read of memory that nothing has written.
    for (target, untouched) in [(-1, true), (3, false)] {
        let (logits, targets) = (gpu.uninit::<f32>(64)?, gpu.upload(&[target])?);
        let scores = gpu.uninit::<f32>(4)?;
        let [l, t, s] = args![&logits, &targets, &scores];
        // SAFETY: buffers of one row of 64.
        let done = unsafe { kernels.row_stats(Dtype::F32, &rows, l, t, s) };
        assert_eq!(done.is_ok(), untouched);
    }
    Ok(())
}

#[test]
fn no_rows_are_no_launch_and_no_barrier_can_be_removed() -> Result<()> {
    let header = crate::sources::HEADERS[0];
    let run = |gpu: &Gpu, header: &str| -> Result<()> {
        let module = gpu.compile_with("logits.cu", LOGITS, &[("block.cuh", header)])?;
        let case = case::<f32>(1, 100, 1.0, 1);
        case.kernels(gpu, &LogitKernels::of_module(module)).map(drop)
    };
    assert_eq!(mutants(LOGITS).count(), 0);
    let found: Vec<_> = mutants(header.1).collect();
    assert_eq!(found.len(), 1);
    for options in Options::orders() {
        let gpu = Gpu::emulated(options);
        run(&gpu, header.1)?;
        for mutant in &found {
            let done = run(&gpu, &mutant.source);
            assert!(matches!(done, Err(Error::Fault(_))), "without line {}: {done:?}", mutant.line);
        }
    }
    let gpu = Gpu::emulated(Options::default());
    let none = Case::<f32> {
        rows: Rows { rows: 0, vocabulary: 5, temperature: 1.0 },
        logits: vec![],
        targets: vec![],
        upstream: vec![],
    };
    assert_eq!(none.kernels(&gpu, &LogitKernels::new(&gpu)?)?.0, Vec::<f32>::new());
    Ok(())
}
