//! Definition (f64), CPU (f32) and kernels agree on the router losses and their gradients.

use cuda_twin::{Gpu, Options, Result, args};

use super::{
    close, everywhere, logits, no_barrier_can_be_removed, noise, recorded, routers, same_bits, wide,
};
use crate::kernels::{LossKernels, check, compile};
use crate::sources::LOSSES;
use crate::{AuxForm, ExpertCounts, Router, load_balance, z_loss};

/// Load balance with these shares, or the z-loss.
type Loss<'a> = Option<(&'a Router, &'a [f64])>;

fn run(
    gpu: &Gpu,
    kernels: &LossKernels,
    shape: [usize; 2],
    logits: &[f32],
    loss: Loss<'_>,
) -> Result<(f32, Vec<f32>, Vec<i32>)> {
    let [tokens, experts] = shape;
    let (logits, sum) = (gpu.upload(logits)?, gpu.uninit::<f32>(1)?);
    let (gradient, parts) = (gpu.uninit::<f32>(tokens * experts)?, gpu.uninit::<f32>(tokens)?);
    let status = gpu.uninit::<i32>(tokens)?;
    let out = args![&sum, &gradient, &parts, &status];
    match loss {
        Some((router, shares)) => {
            let shares = gpu.upload(&shares.iter().map(|s| *s as f32).collect::<Vec<_>>())?;
            let [l, s] = args![&logits, &shares];
            // SAFETY: buffers of the shape.
            unsafe { kernels.load_balance(router, shape, l, s, out) }?;
        }
        // SAFETY: the same.
        None => unsafe { kernels.z_loss(shape, (&logits).into(), out) }?,
    }
    Ok((sum.read()?[0], gradient.read()?, status.read()?))
}

const SHAPES: [[usize; 2]; 7] = [[1, 1], [6, 2], [5, 31], [5, 32], [5, 33], [10, 128], [7, 257]];

#[test]
fn load_balance_agrees() -> Result<()> {
    everywhere(|gpu| {
        let kernels = LossKernels::new(gpu)?;
        for (seed, shape) in SHAPES.into_iter().enumerate() {
            let ([tokens, experts], seed) = (shape, seed as u64);
            let (logits, k) = (logits(tokens, experts, 1, seed), experts.min(4));
            let counts = ExpertCounts::of(&recorded(tokens, experts, k, seed), experts).unwrap();
            for (router, form) in
                routers(experts, k).iter().zip([AuxForm::Switch, AuxForm::Hf].iter().cycle())
            {
                let (value, gradient) = load_balance(&wide(&logits), &counts, k, router, *form).unwrap();
                let cpu = load_balance(&logits, &counts, k, router, *form).unwrap();
                let shares = form.shares(&counts, k);
                let (found, d_found, status) = run(gpu, &kernels, shape, &logits, Some((router, &shares)))?;
                check(&status, 1, None).unwrap();
                for (who, (found, d_found)) in [("CPU", cpu), ("kernel", (found, d_found))] {
                    let what = format!("{who}: {shape:?} {router:?}");
                    close(&what, &[found], &[value], 1e-5, 0.0);
                    close(&what, &d_found, &gradient, 4e-5, 2e-6 * value / tokens as f64);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn z_loss_agrees() -> Result<()> {
    everywhere(|gpu| {
        let kernels = LossKernels::new(gpu)?;
        for (seed, shape) in SHAPES.into_iter().enumerate() {
            let logits = logits(shape[0], shape[1], 1, seed as u64);
            let (value, gradient) = z_loss(&wide(&logits), shape[1]).unwrap();
            let cpu = z_loss(&logits, shape[1]).unwrap();
            let (found, d_found, status) = run(gpu, &kernels, shape, &logits, None)?;
            check(&status, 1, None).unwrap();
            // A logit of 1e4 has an ulp of 1e-3, and so has its distance to the logarithm of the sum.
            let large =
                logits.iter().fold(1.0f64, |a, s| if s.is_finite() { a.max(f64::from(s.abs())) } else { a });
            for (who, (found, d_found)) in [("CPU", cpu), ("kernel", (found, d_found))] {
                let what = format!("{who}: {shape:?}");
                close(&what, &[found], &[value], 1e-5, 0.0);
                close(&what, &d_found, &gradient, 4e-6 + 3e-7 * large, 1e-9);
            }
        }
        Ok(())
    })
}

#[test]
fn many_tokens_unchecked_and_none_at_all() -> Result<()> {
    let gpu = Gpu::emulated(Options::unchecked());
    let kernels = LossKernels::new(&gpu)?;
    let logits: Vec<f32> = noise(2003 * 128, 1).iter().map(|s| 3.0 * *s as f32).collect();
    let (value, gradient) = z_loss(&wide(&logits), 128).unwrap();
    let (found, d_found, _) = run(&gpu, &kernels, [2003, 128], &logits, None)?;
    close("loss", &[found], &[value], 2e-6, 0.0);
    close("gradient", &d_found, &gradient, 1e-5, 0.0);
    let (none, d_none, _) = run(&gpu, &kernels, [0, 128], &[], None)?;
    assert_eq!((none.to_bits(), d_none.len()), (0, 0));
    Ok(())
}

#[test]
fn errors_are_the_cpus() -> Result<()> {
    everywhere(|gpu| {
        let kernels = LossKernels::new(gpu)?;
        let router = Router::TopKSoftmax;
        let counts = ExpertCounts::of(&[0, 1], 40).unwrap();
        let shares = AuxForm::Switch.shares(&counts, 2);
        let mut bad = logits(5, 40, 1, 0);
        // What is no logit in one row changes no bit of the others.
        let [z, balance] =
            [None, Some((&router, &shares[..]))].map(|loss| run(gpu, &kernels, [5, 40], &bad, loss));
        let clean = [z?.1, balance?.1];
        bad[3 * 40..4 * 40].fill(f32::NEG_INFINITY);
        for (at, value) in [(3 * 40, f32::NEG_INFINITY), (4 * 40 + 39, f32::INFINITY), (33, f32::NAN)] {
            bad[at] = value;
            let on_cpu = z_loss(&bad, 40).unwrap_err().to_string();
            assert_eq!(
                load_balance(&bad, &counts, 2, &router, AuxForm::Switch).unwrap_err().to_string(),
                on_cpu
            );
            for loss in [None, Some((&router, &shares[..]))] {
                let (_, gradient, status) = run(gpu, &kernels, [5, 40], &bad, loss)?;
                assert_eq!(check(&status, 1, None).unwrap_err().to_string(), on_cpu);
                for t in 0..5 {
                    let row = &gradient[t * 40..][..40];
                    let alone = status[t] != 0 && row.iter().all(|d| *d == 0.0);
                    assert!(alone || row == &clean[usize::from(loss.is_some())][t * 40..][..40], "row {t}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let (shape, logits) = ([300, 3], logits(300, 3, 1, 4));
    same_bits(|gpu| run(gpu, &LossKernels::new(gpu)?, shape, &logits, None))?;
    no_barrier_can_be_removed(LOSSES, 1, |gpu, source| {
        let kernels = LossKernels::of_module(compile(gpu, "losses.cu", source)?);
        run(gpu, &kernels, shape, &logits, None).map(drop)
    })
}
