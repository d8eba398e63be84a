//! A machine without binutils gets the fault all the same, and is told what to install for the line.

use cuda_twin::{FaultKind, Gpu, Launch, Options, Result, args};

#[test]
fn a_fault_without_addr2line_says_what_is_missing() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let source = "#include \"twin.cuh\"\nextern \"C\" __global__ void k(float* y) { y[1] = 0; }";
    let (module, y) = (gpu.compile("k.cu", source)?, gpu.zeros::<f32>(1)?);
    // SAFETY: the only test of this program, and no other thread of it reads the environment.
    unsafe { std::env::set_var("PATH", "") };
    // SAFETY: the checked emulator stops at the wrong access.
    let error = unsafe { module.launch("k", Launch::linear(1, 1), &args![&y]) }.expect_err("out of bounds");
    let fault = error.fault().expect("a fault");
    assert_eq!((fault.kind, fault.at.len()), (FaultKind::OutOfBounds, 0));
    assert!(error.to_string().contains("install binutils"), "{error}");
    Ok(())
}
