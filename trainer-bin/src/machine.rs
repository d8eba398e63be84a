//! What the machine can do, measured.

use std::time::Instant;

use qwen3::kernel::{bf16, matmul};
use rayon::prelude::*;

use crate::cli::ProductType;

/// Rates with all threads.
pub(crate) struct Machine {
    /// Of large matrix products, in f32.
    pub(crate) gflops: f64,
    /// Of operands rounded to bf16.
    pub(crate) bf16_gflops: f64,
    /// Of reading memory, far beyond the caches.
    pub(crate) gbytes: f64,
}

const ROUNDS: usize = 20;

fn best(mut work: impl FnMut()) -> f64 {
    let seconds = |()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    std::iter::repeat_n((), ROUNDS).map(seconds).fold(f64::INFINITY, f64::min)
}

impl Machine {
    /// GFLOP/s of products of this precision.
    pub(crate) fn products(&self, precision: ProductType) -> f64 {
        if precision == ProductType::F32 { self.gflops } else { self.bf16_gflops }
    }

    pub(crate) fn measure() -> Self {
        let (m, n, k) = (1024, 1536, 576);
        let (x, w, mut y) = (vec![0.5f32; m * k], vec![0.25f32; n * k], vec![0f32; m * n]);
        let product = best(|| matmul::matmul_nt(&x, &w, &mut y, m, n, k, false));
        let rounded = best(|| bf16::matmul_nt(&x, &w, &mut y, m, n, k, false));
        let memory = vec![1f32; 64 << 20];
        let mut sum = 0f32;
        let reading = best(|| {
            let chunk = |c: &[f32]| {
                let mut lanes = [0f32; 32];
                for part in c.chunks_exact(32) {
                    lanes.iter_mut().zip(part).for_each(|(lane, v)| *lane += v);
                }
                lanes.iter().sum::<f32>()
            };
            sum += memory.par_chunks(1 << 20).map(chunk).sum::<f32>();
        });
        std::hint::black_box((sum, &y));
        let flops = 2.0 * (m * n * k) as f64;
        Self {
            gflops: flops / product / 1e9,
            bf16_gflops: flops / rounded / 1e9,
            gbytes: 4.0 * memory.len() as f64 / reading / 1e9,
        }
    }
}

/// Lets the next peak be that of what follows (Linux; elsewhere the peak is of the whole process).
pub(crate) fn reset_peak_memory() {
    // Refused in some containers; the peak is then of the whole process, as said.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Tells the allocator never to hand freed pages back: fresh ones, which the kernel has to clear, would take a quarter of
/// a training step of a model of 0.1 G parameters.
pub(crate) fn keep_pages() {
    set_purge_delay(-1);
}

/// Runs what frees memory that nothing will need again.
pub(crate) fn give_pages_back(free: impl FnOnce()) {
    set_purge_delay(0);
    free();
    set_purge_delay(-1);
}

/// Milliseconds after which the allocator hands freed pages back; -1: never.
fn set_purge_delay(milliseconds: i64) {
    // The option before the one for NUMA nodes; the binding has no name for it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;
    // SAFETY: sets an integer.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds as _) };
}
