#![allow(clippy::unwrap_used)]

mod dispatch;
mod gates;
mod losses;
mod permute;
mod router;
mod trace;

use cuda_twin::testing::{everywhere, no_barrier_can_be_removed, noise, same_bits};
use cuda_twin::{Gpu, Options, Result};

use crate::Router;
use crate::kernels::compile;
use crate::sources::{BLOCKS, SOURCES};

/// Logits of every kind by row: plain, with many equals, with disabled experts, large, all equal. `k` stay enabled.
fn logits(tokens: usize, experts: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut logits: Vec<f32> = noise(tokens * experts, seed).iter().map(|a| (4.0 * a) as f32).collect();
    for (t, row) in logits.chunks_mut(experts).enumerate() {
        match (t as u64 + seed) % 5 {
            1 => row.iter_mut().for_each(|s| *s = s.round() / 2.0),
            2 => row.iter_mut().take(experts - k).step_by(2).for_each(|s| *s = f32::NEG_INFINITY),
            3 => row.iter_mut().for_each(|s| *s *= 2500.0),
            4 => row.fill(0.25),
            _ => {}
        }
    }
    logits
}

/// Distinct ids for each token that have nothing to do with its logits, in no order.
fn recorded(tokens: usize, experts: usize, k: usize, seed: u64) -> Vec<u32> {
    let keys = noise(tokens * experts, seed);
    let row = |keys: &[f64]| {
        let mut all: Vec<u32> = (0..experts as u32).collect();
        all.sort_by(|a, b| keys[*a as usize].total_cmp(&keys[*b as usize]));
        all.truncate(k);
        all
    };
    keys.chunks(experts).flat_map(row).collect()
}

/// All families, and those limited to groups that fit.
fn routers(experts: usize, k: usize) -> Vec<Router> {
    let bias = || noise(experts, 77).iter().map(|b| *b as f32 / 4.0).collect::<Vec<_>>();
    let families = vec![
        Router::SoftmaxTopK { renorm: true },
        Router::SoftmaxTopK { renorm: false },
        Router::TopKSoftmax,
        Router::SigmoidTopK { renorm: true, bias: vec![], scale: 1.0 },
        Router::SigmoidTopK { renorm: true, bias: bias(), scale: 2.5 },
        Router::SigmoidTopK { renorm: false, bias: vec![], scale: 2.5 },
    ];
    let limited = families.iter().flat_map(|family| {
        let sizes = [(2, 1), (4, 2), (4, 4), (8, 4), (40, 5)];
        sizes.map(|(groups, keep)| Router::GroupLimited { groups, keep, router: Box::new(family.clone()) })
    });
    let limited: Vec<_> = limited.filter(|r| r.validate(experts, k).is_ok()).collect();
    families.into_iter().chain(limited).collect()
}

#[test]
fn every_kernel_says_its_block() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let mut found = Vec::new();
    for (name, source) in SOURCES {
        found.extend(compile(&gpu, name, source)?.kernels());
    }
    let mut listed: Vec<&str> = BLOCKS.iter().map(|(kernel, _)| *kernel).collect();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed);
    Ok(())
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (y, e)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*y) - e).abs();
        assert!(off <= relative * e.abs() + absolute, "{what}: element {i}: {y}, expected {e}");
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
