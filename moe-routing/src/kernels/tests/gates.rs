//! Definition (f64), CPU (f32) and kernels agree on gates and their gradient.

use cuda_twin::{Gpu, Options, Result, args};

use super::{
    close, everywhere, logits, no_barrier_can_be_removed, noise, recorded, routers, same_bits, wide,
};
use crate::kernels::{GateKernels, check, compile};
use crate::sources::GATES;
use crate::{Router, gates, gates_backward};

const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 1], [6, 2, 2], [5, 8, 8], [5, 31, 4], [5, 33, 33], [5, 128, 8], [3, 200, 65], [5, 257, 9]];

fn run(
    gpu: &Gpu,
    kernels: &GateKernels,
    router: &Router,
    shape: [usize; 3],
    (logits, ids, upstream): (&[f32], &[u32], &[f32]),
) -> Result<(Vec<f32>, Vec<f32>, Vec<i32>)> {
    let [tokens, experts, k] = shape;
    let (logits, ids) = (gpu.upload(logits)?, gpu.upload(ids)?);
    let (gates, status) = (gpu.uninit::<f32>(tokens * k)?, gpu.uninit::<i32>(tokens)?);
    let (d_gates, d_logits) = (gpu.upload(upstream)?, gpu.uninit::<f32>(tokens * experts)?);
    let [l, i, g, s] = args![&logits, &ids, &gates, &status];
    // SAFETY: buffers of the shape.
    unsafe { kernels.gates(router, shape, l.clone(), i.clone(), g, s) }?;
    let status = status.read()?;
    if status.iter().any(|s| *s != 0) {
        return Ok((gates.read()?, vec![], status));
    }
    let [d, o] = args![&d_gates, &d_logits];
    // SAFETY: the same; no row has a status.
    unsafe { kernels.gates_backward(router, shape, l, i, d, o) }?;
    Ok((gates.read()?, d_logits.read()?, status))
}

#[test]
fn gates_and_gradients_agree() -> Result<()> {
    everywhere(|gpu| {
        let kernels = GateKernels::new(gpu)?;
        for (seed, shape) in SHAPES.into_iter().enumerate() {
            let ([tokens, experts, k], seed) = (shape, seed as u64);
            let logits = logits(tokens, experts, experts.min(k + experts / 2), seed);
            // Drifted ids: whatever was recorded, not what these logits would choose.
            let ids = recorded(tokens, experts, k, seed + 10);
            let upstream: Vec<f32> = noise(tokens * k, seed + 20).iter().map(|d| *d as f32).collect();
            // A row of which all experts are disabled has no gates; the error has a test of its own.
            let enabled =
                |(row, ids): (&[f32], &[u32])| ids.iter().any(|i| row[*i as usize] > f32::NEG_INFINITY);
            assert!(logits.chunks(experts).zip(ids.chunks(k)).all(enabled), "{shape:?}");
            for router in
                routers(experts, k).into_iter().filter(|r| !matches!(r, Router::GroupLimited { .. }))
            {
                let expected = gates(&wide(&logits), experts, &ids, k, &router).unwrap();
                let d_expected =
                    gates_backward(&wide(&logits), experts, &ids, k, &router, &wide(&upstream)).unwrap();
                let on_cpu = gates(&logits, experts, &ids, k, &router).unwrap();
                let d_on_cpu = gates_backward(&logits, experts, &ids, k, &router, &upstream).unwrap();
                let (found, d_found, status) =
                    run(gpu, &kernels, &router, shape, (&logits, &ids, &upstream))?;
                check(&status, k, Some((&ids, k, experts))).unwrap();
                for (who, found, d_found) in [("CPU", on_cpu, d_on_cpu), ("kernel", found, d_found)] {
                    let what = format!("{who}: {shape:?} {router:?}");
                    close(&what, &found, &expected, 4e-6, 1e-12);
                    close(&what, &d_found, &d_expected, 2e-5, 2e-6);
                    let outside = |(i, _): &(usize, &f32)| {
                        !ids[i / experts * k..][..k].contains(&((i % experts) as u32))
                    };
                    if !matches!(router, Router::SoftmaxTopK { renorm: false }) {
                        let zero = d_found.iter().enumerate().filter(outside).all(|(_, d)| *d == 0.0);
                        assert!(zero, "{what}: no gradient outside the choice");
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn many_tokens_unchecked() -> Result<()> {
    let (gpu, shape) = (Gpu::emulated(Options::unchecked()), [1009, 128, 8]);
    let router = Router::SoftmaxTopK { renorm: true };
    let logits: Vec<f32> = noise(1009 * 128, 1).iter().map(|s| 3.0 * *s as f32).collect();
    let (ids, up) = (recorded(1009, 128, 8, 2), noise(1009 * 8, 3));
    let upstream: Vec<f32> = up.iter().map(|d| *d as f32).collect();
    let (found, d_found, _) =
        run(&gpu, &GateKernels::new(&gpu)?, &router, shape, (&logits, &ids, &upstream))?;
    close("gates", &found, &gates(&wide(&logits), 128, &ids, 8, &router).unwrap(), 4e-6, 0.0);
    let expected = gates_backward(&wide(&logits), 128, &ids, 8, &router, &wide(&upstream)).unwrap();
    close("gradient", &d_found, &expected, 2e-5, 2e-7);
    Ok(())
}

#[test]
fn the_order_of_slots_changes_no_bit() -> Result<()> {
    let ([tokens, experts, k], upstream) = ([4, 40, 7], noise(28, 3));
    let (logits, ids) = (logits(tokens, experts, experts, 5), recorded(tokens, experts, k, 6));
    let upstream: Vec<f32> = upstream.iter().map(|d| *d as f32).collect();
    everywhere(|gpu| {
        let kernels = GateKernels::new(gpu)?;
        for router in routers(experts, k) {
            let run = |ids: &[u32], up: &[f32]| {
                run(gpu, &kernels, &router, [tokens, experts, k], (&logits, ids, up))
            };
            let (g, d, _) = run(&ids, &upstream)?;
            let turned = |i: usize| i / k * k + (i % k + 3) % k;
            let turned_ids: Vec<u32> = (0..ids.len()).map(|i| ids[turned(i)]).collect();
            let turned_up: Vec<f32> = (0..ids.len()).map(|i| upstream[turned(i)]).collect();
            let (turned_g, turned_d, _) = run(&turned_ids, &turned_up)?;
            assert!((0..g.len()).all(|i| turned_g[i].to_bits() == g[turned(i)].to_bits()), "{router:?}");
            assert!(d.iter().zip(&turned_d).all(|(a, b)| a.to_bits() == b.to_bits()), "{router:?}");
        }
        Ok(())
    })
}

#[test]
fn errors_are_the_cpus() -> Result<()> {
    let (shape, router) = ([5, 40, 4], Router::TopKSoftmax);
    let (good, good_ids) = (logits(5, 40, 40, 0), recorded(5, 40, 4, 1));
    everywhere(|gpu| {
        let kernels = GateKernels::new(gpu)?;
        let case = |change: &dyn Fn(&mut Vec<f32>, &mut Vec<u32>)| {
            let (mut logits, mut ids) = (good.clone(), good_ids.clone());
            change(&mut logits, &mut ids);
            let (gates_found, _, status) =
                run(gpu, &kernels, &router, shape, (&logits, &ids, &[0.0; 20])).unwrap();
            let expected = gates(&logits, 40, &ids, 4, &router).unwrap_err().to_string();
            let found = check(&status, 1, Some((&ids, 4, 40))).unwrap_err().to_string();
            assert_eq!(found, expected);
            for t in (0..5).filter(|t| status[*t] != 0) {
                assert_eq!(gates_found[4 * t..4 * t + 4], [0.0; 4]);
            }
        };
        case(&|logits, _| logits[3 * 40 + 7] = f32::NAN);
        case(&|logits, ids| {
            logits[3 * 40 + 39] = f32::INFINITY;
            ids[0] = 40;
        });
        case(&|_, ids| ids[4 * 2 + 1] = ids[4 * 2 + 3]);
        case(&|_, ids| ids[4 * 4] = u32::MAX);
        case(&|logits, ids| ids[4..8].iter().for_each(|i| logits[40 + *i as usize] = f32::NEG_INFINITY));
        Ok(())
    })
}

#[test]
fn bits_do_not_depend_on_the_order_and_no_barrier_can_be_removed() -> Result<()> {
    let (shape, router) = ([3, 40, 7], Router::SoftmaxTopK { renorm: false });
    let (logits, ids) = (logits(3, 40, 40, 5), recorded(3, 40, 7, 6));
    let upstream: Vec<f32> = noise(21, 3).iter().map(|d| *d as f32).collect();
    let inputs = (&logits[..], &ids[..], &upstream[..]);
    let renormalised = Router::SoftmaxTopK { renorm: true };
    for router in [&router, &renormalised] {
        same_bits(|gpu| run(gpu, &GateKernels::new(gpu)?, router, shape, inputs))?;
    }
    no_barrier_can_be_removed(GATES, 4, |gpu, source| {
        let kernels = GateKernels::of_module(compile(gpu, "gates.cu", source)?);
        run(gpu, &kernels, &renormalised, shape, inputs)?;
        run(gpu, &kernels, &router, shape, inputs).map(drop)
    })
}

#[test]
fn nan_stays_with_its_token() -> Result<()> {
    let ([tokens, experts, k], token) = ([5, 40, 4], 3);
    let (logits, ids) = (logits(tokens, experts, experts, 1), recorded(tokens, experts, k, 2));
    let upstream: Vec<f32> = noise(tokens * k, 3).iter().map(|d| *d as f32).collect();
    let mut poisoned = upstream.clone();
    poisoned[token * k..][..k].fill(f32::NAN);
    everywhere(|gpu| {
        let kernels = GateKernels::new(gpu)?;
        for router in routers(experts, k) {
            let run = |up: &[f32]| run(gpu, &kernels, &router, [tokens, experts, k], (&logits, &ids, up));
            let ((_, clean, _), (_, found, _)) = (run(&upstream)?, run(&poisoned)?);
            for (i, (a, b)) in clean.iter().zip(&found).enumerate() {
                assert!(
                    i / experts == token || a.to_bits() == b.to_bits(),
                    "{router:?}: token {}",
                    i / experts
                );
            }
            let chosen = |s: usize| found[token * experts + ids[token * k + s] as usize];
            assert!((0..k).all(|s| chosen(s).is_nan()), "{router:?}");
        }
        Ok(())
    })
}
