//! A machine without a C++ compiler is told what to install.

use cuda_twin::{Error, Gpu, Options};

#[test]
fn a_missing_compiler_is_a_typed_error() {
    // SAFETY: the only test of this program, before it reads the environment.
    unsafe { std::env::set_var("CXX", "no-such-compiler") };
    let error = Gpu::emulated(Options::default()).compile("k.cu", "").expect_err("no compiler");
    assert!(matches!(&error, Error::Program { program, .. } if program == "no-such-compiler"), "{error}");
    assert!(error.to_string().contains("install g++"), "{error}");
}
