//! What tests of kernels share.

/// `n` numbers in `[-1, 1)` that depend on `seed` alone: the same on every machine.
pub fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// NVRTC, which is stricter than nvcc in what it includes, compiles each `(name, source)` with these headers for every
/// architecture that the kernels are for. Where it cannot be loaded a line says so.
///
/// # Errors
/// What [`nvrtc::cubin`](crate::nvrtc::cubin) says of the first that fails.
#[cfg(feature = "cuda")]
pub fn nvrtc_compiles(sources: &[(&str, &str)], headers: &[(&str, &str)]) -> crate::Result<()> {
    use crate::nvrtc;
    if !nvrtc::is_present() {
        eprintln!("skipped: no libnvrtc here (scripts/cuda-wheels.sh installs it; then set CUDA_HOME)");
        return Ok(());
    }
    for (name, source) in sources {
        for arch in ["sm_80", "sm_90", "sm_100"] {
            let cubin = nvrtc::cubin(name, source, headers, arch)?;
            assert_eq!(&cubin[..4], b"\x7fELF", "{name} for {arch}");
        }
    }
    Ok(())
}
