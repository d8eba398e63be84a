//! What emulation costs: nanoseconds of CPU time for each kind of event, checked and unchecked.
//!
//! ```sh
//! cargo run --release -p cuda-twin --example speed
//! ```

#![allow(clippy::print_stdout)] // the table is what it is for

use cuda_twin::{Gpu, Launch, Module, Options, Result, args};

const SOURCE: &str = r#"
#include "twin.cuh"
extern "C" __global__ void start(float* y, int n) {}
extern "C" __global__ void barriers(float* y, int n) {
  for (int i = 0; i < n; i++) __syncthreads();
}
extern "C" __global__ void shuffles(float* y, int n) {
  float v = threadIdx.x;
  for (int i = 0; i < n; i++) v += __shfl_xor_sync(0xffffffffu, v, 1);
  if (v == -1.0f) y[threadIdx.x] = v;
}
extern "C" __global__ void loads(float* y, int n) {
  float v = 0.0f;
  for (int i = 0; i < n; i++) v += y[(threadIdx.x + i * blockDim.x) % 4096];
  if (v == -1.0f) y[threadIdx.x] = v;
}
extern "C" __global__ void stores(float* y, int n) {
  for (int i = 0; i < n; i++) y[(threadIdx.x + i * blockDim.x) % 4096] = i;
}
"#;

/// CPU time of this thread in nanoseconds.
fn cpu_time() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

/// Least CPU time of five runs.
fn least(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let before = cpu_time();
        run()?;
        best = best.min(cpu_time() - before);
    }
    Ok(best)
}

fn events(gpu: &Gpu, module: &Module, kernel: &str, blocks: u32, n: u32) -> Result<f64> {
    let y = gpu.zeros::<f32>(4096)?;
    let launch = Launch::linear(blocks, 256);
    // SAFETY: the kernels touch the 4096 elements alone.
    let time = least(|| unsafe { module.launch(kernel, launch, &args![&y, n as i32]) })?;
    Ok(time / f64::from(blocks * 256 * n))
}

fn rms_norm(gpu: &Gpu) -> Result<f64> {
    let module = gpu.compile("row_ops.cu", include_str!("../kernels/row_ops.cu"))?;
    let (rows, cols) = (16, 1000);
    let (x, w, y) =
        (gpu.zeros::<f32>(rows * cols)?, gpu.zeros::<f32>(cols)?, gpu.uninit::<f32>(rows * cols)?);
    let args = args![&x, &w, &y, rows as i32, cols as i32, 1e-5f32];
    // SAFETY: rows * cols, cols and rows * cols elements.
    let time = least(|| unsafe { module.launch("rms_norm_f32", Launch::linear(4, 256), &args) })?;
    Ok(time / (rows * cols) as f64)
}

fn gemm(gpu: &Gpu, kernel: &str, n: usize) -> Result<f64> {
    let module = gpu.compile("gemm.cu", include_str!("../kernels/gemm.cu"))?;
    let c = gpu.uninit::<f32>(n * n)?;
    let (side, size) = (n as u32, n as i32);
    let time = if kernel == "gemm_f32" {
        let (a, b) = (gpu.zeros::<f32>(n * n)?, gpu.zeros::<f32>(n * n)?);
        let launch = Launch { grid: [side / 16, side / 16, 1], block: [16, 16, 1], shared_bytes: 0 };
        // SAFETY: n x n elements each.
        least(|| unsafe { module.launch(kernel, launch, &args![&a, &b, &c, size, size, size]) })?
    } else {
        let (a, b) = (gpu.zeros::<half::bf16>(n * n)?, gpu.zeros::<half::bf16>(n * n)?);
        let launch = Launch { grid: [side / 8, side / 16, 1], block: [32, 1, 1], shared_bytes: 0 };
        // SAFETY: n x n elements each, in whole tiles.
        least(|| unsafe { module.launch(kernel, launch, &args![&a, &b, &c, size, size]) })?
    };
    Ok(time / (n * n * n) as f64)
}

fn main() -> Result<()> {
    let quiet = Options { yield_per_mille: 0, ..Options::default() };
    let gpus = [Options { checked: false, ..quiet }, quiet, Options { yield_per_mille: 20, ..quiet }]
        .map(Gpu::emulated);
    println!("ns of CPU time           unchecked    checked   checked, 20 of 1000 accesses give way");
    let line = |name: &str, time: &dyn Fn(&Gpu) -> Result<f64>| -> Result<()> {
        let [plain, checked, yielding] = [time(&gpus[0])?, time(&gpus[1])?, time(&gpus[2])?];
        println!("{name:<24} {plain:>9.1}  {checked:>9.1}  {yielding:>9.1}");
        Ok(())
    };
    let of = |kernel: &'static str, blocks, n| {
        move |gpu: &Gpu| events(gpu, &gpu.compile("speed.cu", SOURCE)?, kernel, blocks, n)
    };
    line("start of a thread", &of("start", 64, 1))?;
    line("barrier, each thread", &of("barriers", 1, 200))?;
    line("shuffle, each thread", &of("shuffles", 1, 200))?;
    line("load", &of("loads", 1, 1000))?;
    line("store", &of("stores", 1, 1000))?;
    line("RMS norm, each element", &rms_norm)?;
    line("tiled GEMM, each product", &|gpu| gemm(gpu, "gemm_f32", 64))?;
    line("mma GEMM, each product", &|gpu| gemm(gpu, "gemm_bf16", 64))
}
