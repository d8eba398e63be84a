#![allow(clippy::unwrap_used)]

mod logits;
mod objective;

/// Numbers in `[-1, 1)`, by multiplicative hashing: the same on every machine.
fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Where NVRTC can be loaded; it is stricter than nvcc in what it includes.
#[cfg(feature = "cuda")]
#[test]
fn nvrtc_compiles_the_sources() -> cuda_twin::Result<()> {
    use cuda_twin::nvrtc;
    if !nvrtc::is_present() {
        eprintln!("skipped: no libnvrtc here (scripts/cuda-wheels.sh installs it; then set CUDA_HOME)");
        return Ok(());
    }
    for (name, source) in crate::sources::SOURCES {
        for arch in ["sm_80", "sm_90", "sm_100"] {
            let cubin = nvrtc::cubin(name, source, crate::sources::HEADERS, arch)?;
            assert_eq!(&cubin[..4], b"\x7fELF", "{name} for {arch}");
        }
    }
    Ok(())
}
