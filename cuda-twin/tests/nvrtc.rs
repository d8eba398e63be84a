//! The same sources compile for real GPUs; runs where NVRTC can be loaded.
#![cfg(feature = "cuda")]

use cuda_twin::{Error, nvrtc};

const SOURCES: [(&str, &str); 4] = [
    ("row_ops.cu", include_str!("../kernels/row_ops.cu")),
    ("sum.cu", include_str!("../kernels/sum.cu")),
    ("gemm.cu", include_str!("../kernels/gemm.cu")),
    ("types.cu", include_str!("kernels/types.cu")),
];

fn present() -> bool {
    if !nvrtc::is_present() {
        eprintln!("skipped: no libnvrtc here (scripts/cuda-wheels.sh installs it; then set CUDA_HOME)");
    }
    nvrtc::is_present()
}

#[test]
fn all_kernels_compile_for_three_architectures() -> Result<(), Error> {
    if !present() {
        return Ok(());
    }
    for (name, source) in SOURCES {
        for arch in ["sm_80", "sm_90", "sm_100"] {
            let cubin = nvrtc::cubin(name, source, &[], arch)?;
            assert_eq!(&cubin[..4], b"\x7fELF", "{name} for {arch}");
        }
    }
    Ok(())
}

#[test]
fn errors_are_the_compilers_own_words() {
    if !present() {
        let error = nvrtc::cubin("k.cu", "", &[], "sm_90").expect_err("no library");
        assert!(matches!(error, Error::Cuda { call: "load NVRTC", .. }), "{error}");
        return;
    }
    let error =
        nvrtc::cubin("k.cu", "#include \"twin.cuh\"\nint x = y;\n", &[], "sm_90").expect_err("y is unknown");
    assert!(
        matches!(&error, Error::Compile { log, .. } if log.contains("k.cu(2)") && log.contains("\"y\"")),
        "{error}"
    );
    let error = nvrtc::cubin("k.cu", "", &[], "compute_90").expect_err("a virtual architecture");
    assert!(error.to_string().contains("sm_90, not compute_90"), "{error}");
}

#[test]
fn headers_of_the_caller_are_found() -> Result<(), Error> {
    if !present() {
        return Ok(());
    }
    let source = "#include \"twin.cuh\"\n#include \"own/two.cuh\"\nextern \"C\" __global__ void k(int* y) { *y = TWO; }";
    assert!(nvrtc::cubin("k.cu", source, &[], "sm_90").is_err());
    nvrtc::cubin("k.cu", source, &[("own/two.cuh", "#define TWO 2\n")], "sm_90").map(drop)
}
