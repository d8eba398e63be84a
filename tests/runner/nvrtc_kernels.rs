//! The kernels of every crate compile for GPUs with NVRTC, which is stricter than nvcc in what it includes; runs where it can be loaded
//! (`scripts/cuda-wheels.sh` installs it; then set `CUDA_HOME`).
#![cfg(feature = "cuda")]

use cuda_twin::{Result, nvrtc};

#[test]
fn all_kernels_compile_for_three_architectures() -> Result<()> {
    if !nvrtc::is_present() {
        eprintln!("skipped: no libnvrtc here (scripts/cuda-wheels.sh installs it; then set CUDA_HOME)");
        return Ok(());
    }
    for (sources, headers) in [
        (policy_loss::sources::SOURCES, policy_loss::sources::HEADERS),
        (moe_routing::sources::SOURCES, moe_routing::sources::HEADERS),
        (mrope::sources::SOURCES, mrope::sources::HEADERS),
        (lcg::sources::SOURCES, lcg::sources::HEADERS),
        (toolrm::sources::SOURCES, toolrm::sources::HEADERS),
    ] {
        for (name, source) in sources {
            for arch in ["sm_80", "sm_90", "sm_100"] {
                let cubin = nvrtc::cubin(name, source, headers, arch)?;
                assert_eq!(&cubin[..4], b"\x7fELF", "{name} for {arch}");
            }
        }
    }
    Ok(())
}
