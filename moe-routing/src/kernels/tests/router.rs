//! Definition (f64), CPU and kernel choose the same experts.

use cuda_twin::{Gpu, Options, Result, args};

use super::{everywhere, logits, no_barrier_can_be_removed, routers, same_bits, wide};
use crate::kernels::{RouterKernels, check, compile};
use crate::sources::ROUTER;
use crate::{Router, top_k};

const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [7, 2, 1],
    [5, 8, 8],
    [5, 31, 4],
    [5, 32, 8],
    [5, 33, 33],
    [5, 40, 10],
    [10, 128, 8],
    [5, 264, 9],
];

fn run(
    gpu: &Gpu,
    kernels: &RouterKernels,
    router: &Router,
    shape: [usize; 3],
    logits: &[f32],
) -> Result<(Vec<u32>, Vec<i32>)> {
    let bias = match router.family() {
        Router::SigmoidTopK { bias, .. } if !bias.is_empty() => Some(gpu.upload(bias)?),
        _ => None,
    };
    let (logits, ids) = (gpu.upload(logits)?, gpu.uninit::<u32>(shape[0] * shape[2])?);
    let status = gpu.uninit::<i32>(shape[0])?;
    let [l, i, s] = args![&logits, &ids, &status];
    // SAFETY: buffers of the shape.
    unsafe { kernels.top_k(router, shape, l, bias.as_ref().map(Into::into), i, s) }?;
    Ok((ids.read()?, status.read()?))
}

#[test]
fn the_kernel_chooses_as_the_cpu_and_the_definition() -> Result<()> {
    everywhere(|gpu| {
        let kernels = RouterKernels::new(gpu)?;
        for (seed, shape) in SHAPES.into_iter().enumerate() {
            let [tokens, experts, k] = shape;
            // Groups may hold too few enabled experts, so those rows stay away from limited routers.
            let all = logits(tokens, experts, k, seed as u64);
            let finite: Vec<f32> = all.iter().map(|s| s.max(-5.0)).collect();
            for router in routers(experts, k) {
                let limited = matches!(router, Router::GroupLimited { .. });
                let logits = if limited { &finite } else { &all };
                let expected = top_k(logits, experts, k, &router).unwrap();
                // In f32 the exponentials that groups add up underflow where logits are far apart.
                for (t, row) in
                    logits.chunks(experts).enumerate().filter(|(t, _)| !limited || (t + seed) % 5 != 3)
                {
                    let wanted = top_k(&wide(row), experts, k, &router).unwrap();
                    assert_eq!(wanted, expected[t * k..(t + 1) * k], "{shape:?} {router:?}");
                }
                let (ids, status) = run(gpu, &kernels, &router, shape, logits)?;
                assert_eq!(ids, expected, "{shape:?} {router:?}");
                check(&status, k, None).unwrap();
            }
        }
        Ok(())
    })
}

#[test]
fn many_tokens_of_a_large_router_unchecked() -> Result<()> {
    let (gpu, shape) = (Gpu::emulated(Options::unchecked()), [503, 512, 10]);
    let router = Router::SoftmaxTopK { renorm: true };
    let logits: Vec<f32> = logits(503, 512, 10, 4);
    let (ids, _) = run(&gpu, &RouterKernels::new(&gpu)?, &router, shape, &logits)?;
    assert_eq!(ids, top_k(&logits, 512, 10, &router).unwrap());
    Ok(())
}

#[test]
fn errors_are_the_cpus() -> Result<()> {
    let shape = [6, 40, 4];
    let limited = Router::GroupLimited {
        groups: 4,
        keep: 2,
        router: Box::new(Router::SigmoidTopK { renorm: true, bias: vec![], scale: 1.0 }),
    };
    everywhere(|gpu| {
        let kernels = RouterKernels::new(gpu)?;
        for router in [Router::TopKSoftmax, limited.clone()] {
            let fine: Vec<f32> = logits(6, 40, 4, 0).iter().map(|s| s.max(-5.0)).collect();
            let mut few = fine.clone();
            few[3 * 40..4 * 40 - 3].fill(f32::NEG_INFINITY);
            let with = |at: usize, value: f32| {
                let mut bad = few.clone();
                bad[at] = value;
                bad
            };
            let cases =
                [few.clone(), with(5 * 40 + 39, f32::NAN), with(4 * 40, f32::INFINITY), with(2, f32::NAN)];
            for logits in cases {
                let (ids, status) = run(gpu, &kernels, &router, shape, &logits)?;
                let expected = top_k(&logits, 40, 4, &router).unwrap_err();
                assert_eq!(check(&status, 4, None).unwrap_err().to_string(), expected.to_string());
                for (t, s) in status.iter().enumerate().filter(|(_, s)| **s != 0) {
                    assert_eq!(ids[4 * t..4 * t + 4], [0, 1, 2, 3], "token {t} of status {s}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn launches_that_make_no_sense_are_refused() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let kernels = RouterKernels::new(&gpu)?;
    let (logits, ids, status) = (gpu.zeros::<f32>(4)?, gpu.zeros::<u32>(4)?, gpu.zeros::<i32>(4)?);
    let run = |router: &Router, shape| {
        let [l, i, s] = args![&logits, &ids, &status];
        // SAFETY: nothing is launched, or it is checked.
        unsafe { kernels.top_k(router, shape, l, None, i, s) }.map_err(|e| e.to_string())
    };
    let plain = Router::TopKSoftmax;
    assert_eq!(run(&plain, [0, 4, 1]), Ok(()));
    assert!(run(&plain, [1, 4, 5]).unwrap_err().contains("top_k is 5"));
    assert!(run(&plain, [1, 20_000, 5]).unwrap_err().contains("49152 bytes"));
    assert!(run(&plain, [usize::MAX, 4, 1]).unwrap_err().contains("rows"));
    let biased = Router::SigmoidTopK { renorm: true, bias: vec![0.0; 4], scale: 1.0 };
    assert!(run(&biased, [1, 4, 1]).unwrap_err().contains("bias"));
    Ok(())
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let shape = [5, 40, 10];
    let logits: Vec<f32> = logits(5, 40, 10, 0).iter().map(|s| s.max(-5.0)).collect();
    let family = Router::SigmoidTopK { renorm: true, bias: vec![], scale: 1.0 };
    let limited = Router::GroupLimited { groups: 4, keep: 2, router: Box::new(family) };
    same_bits(|gpu| run(gpu, &RouterKernels::new(gpu)?, &limited, shape, &logits))?;
    no_barrier_can_be_removed(ROUTER, 2, |gpu, source| {
        let kernels = RouterKernels::of_module(compile(gpu, "router.cu", source)?);
        run(gpu, &kernels, &limited, shape, &logits).map(drop)
    })
}
