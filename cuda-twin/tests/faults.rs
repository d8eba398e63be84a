//! Planted faults: each is reported in every order, as what it is, with the line it is on.

use cuda_twin::{Error, FaultKind, Gpu, Launch, Options, args};

/// The kernel's parameters: 64 inputs, 64 outputs, 64. Its body starts on line 3.
fn run(body: &str, options: Options) -> Result<(), Error> {
    let source = format!(
        "#include \"twin.cuh\"\nextern \"C\" __global__ void k(const float* x, float* y, int n) {{\n{body}\n}}"
    );
    let gpu = Gpu::emulated(options);
    let module = gpu.compile("k.cu", &source)?;
    let (x, y) = (gpu.upload(&[1.0f32; 64])?, gpu.zeros::<f32>(64)?);
    // SAFETY: the checked emulator stops at the first wrong access.
    unsafe { module.launch("k", Launch::linear(1, 64).shared(16), &args![&x, &y, 64i32]) }
}

/// Asserts that `body` is reported as `kind` at `line`, in every order.
#[track_caller]
fn reported(body: &str, kind: FaultKind, line: u32) {
    for options in Options::orders() {
        let error = run(body, options).expect_err(body);
        let fault = error.fault().unwrap_or_else(|| panic!("{body}: {error}"));
        assert_eq!(fault.kind, kind, "{body}: {error}");
        let at = error.location().unwrap_or_else(|| panic!("no line: {error}"));
        assert_eq!((at.file.as_str(), at.line), ("k.cu", line), "{body}: {error}");
        assert!(error.to_string().contains(&format!("k.cu:{line}")), "{error}");
    }
}

#[track_caller]
fn fine(body: &str) {
    for options in Options::orders() {
        run(body, options).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}

#[test]
fn a_race() {
    reported("const int t = threadIdx.x;\ny[0] += x[t];", FaultKind::Race, 4);
    fine("if (threadIdx.x == 0) y[0] += x[0];");
}

#[test]
fn a_missing_barrier() {
    let body = |barrier: &str| {
        format!(
            "TWIN_SHARED(float, s, [64]);\ns[threadIdx.x] = x[threadIdx.x];\n{barrier}\ny[threadIdx.x] = s[threadIdx.x ^ 32];"
        )
    };
    fine(&body("__syncthreads();"));
    // Whoever comes second is told: the writer or the reader. Reading first, it is memory that nobody has written.
    for options in Options::orders() {
        let error = run(&body(""), options).expect_err("no barrier");
        let fault = error.fault().expect("a fault");
        assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialised), "{error}");
        assert!([4, 6].contains(&fault.at[0].line), "{error}");
    }
}

#[test]
fn a_missing_barrier_names_both_lines() {
    let body = "TWIN_SHARED(float, s, [64]);\ns[threadIdx.x] = 0.0f;\n__syncthreads();\nconst float v = s[threadIdx.x ^ 1];\n\
                s[threadIdx.x] = v + 1.0f;";
    for options in Options::orders() {
        let error = run(body, options).expect_err("no barrier between the read and the write");
        let fault = error.fault().expect("a fault");
        let mut lines: Vec<_> = fault.at.iter().map(|at| at.line).collect();
        lines.sort_unstable();
        assert_eq!((fault.kind, lines.as_slice()), (FaultKind::Race, [6, 7].as_slice()), "{error}");
    }
}

#[test]
fn out_of_bounds_by_one() {
    reported("y[threadIdx.x + 1] = 1;", FaultKind::OutOfBounds, 3);
    reported("const float v = x[n];\nif (v > 0) y[0] = v;", FaultKind::OutOfBounds, 3);
    reported("y[threadIdx.x] =\n    x[int(threadIdx.x) - 1];", FaultKind::OutOfBounds, 4);
    reported("TWIN_DYN_SHARED(float, s);\n\nif (threadIdx.x == 0) s[4] = 1;", FaultKind::OutOfBounds, 5);
}

#[test]
fn copies_are_seen() {
    reported("if (threadIdx.x == 0)\nmemcpy(y + 61, x, 16);", FaultKind::OutOfBounds, 4);
    reported("if (threadIdx.x == 0)\nmemset((float*)x, 0, 4);", FaultKind::ConstWrite, 4);
    reported(
        "TWIN_SHARED(float, s, [4]);\nif (threadIdx.x == 0)\nmemcpy(y, s, 16);",
        FaultKind::Uninitialised,
        5,
    );
    fine("if (threadIdx.x == 0) memcpy(y, x, 256);");
}

#[test]
fn a_read_of_uninitialised_shared_memory() {
    reported("TWIN_SHARED(float, s, [64]);\ny[threadIdx.x] = s[threadIdx.x];", FaultKind::Uninitialised, 4);
    reported(
        "TWIN_DYN_SHARED(int, s);\n\nif (threadIdx.x == 9) atomicAdd(&s[3], 1);",
        FaultKind::Uninitialised,
        5,
    );
}

#[test]
fn a_write_through_a_const_pointer() {
    reported("\n((float*)x)[threadIdx.x] = 0;", FaultKind::ConstWrite, 4);
}

#[test]
fn a_divergent_barrier() {
    reported("if (threadIdx.x < 32) __syncthreads();", FaultKind::Barrier, 3);
    reported("if (threadIdx.x < 32)\n__syncthreads();\nelse\n__syncthreads();", FaultKind::Barrier, 4);
    reported("if (threadIdx.x % 2) __syncwarp();\nelse return;\n__syncthreads();", FaultKind::Barrier, 5);
    reported("if (threadIdx.x == 0)\n__shfl_sync(3u, 1, 0);\nelse\n__syncthreads();", FaultKind::Barrier, 4);
}

#[test]
fn a_wrong_lane_mask() {
    reported(
        "y[threadIdx.x] = __shfl_sync(0xffffu << (threadIdx.x & 16), 1.0f, 31 - (threadIdx.x & 16));",
        FaultKind::Lane,
        3,
    );
    reported(
        "if (threadIdx.x % 2 == 0) {\ny[threadIdx.x] = __shfl_down_sync(\n0x55555555u, 1.0f, 1);\n}",
        FaultKind::Lane,
        4,
    );
    reported("\n__syncwarp(0xfffffffeu);", FaultKind::Lane, 4);
}

#[test]
fn a_misaligned_vector_access() {
    reported("if (threadIdx.x == 0)\n*(float4*)(y + 1) = make_float4(0, 0, 0, 0);", FaultKind::Misaligned, 4);
    reported("if (threadIdx.x == 0) y[0] =\n((const float2*)(x + 1))->x;", FaultKind::Misaligned, 4);
    reported("if (threadIdx.x == 0) atomicAdd((int*)((char*)y + 2), 1);", FaultKind::Misaligned, 3);
    fine("if (threadIdx.x == 0) *(float4*)(y + 4) = *(const float4*)(x + 8);");
}

#[test]
fn arguments_that_do_not_fit() -> Result<(), Error> {
    let gpu = Gpu::emulated(Options::default());
    let source = "#include \"twin.cuh\"\n\n// three parameters\nextern \"C\" __global__ void k(const float* x, float* y, int n) {}";
    let module = gpu.compile("k.cu", source)?;
    let (x, y, halves) = (gpu.zeros::<f32>(4)?, gpu.zeros::<f32>(4)?, gpu.zeros::<half::bf16>(4)?);
    let bytes = gpu.zeros::<u8>(4)?;
    // SAFETY: the kernel does nothing.
    let launch = |args: &[cuda_twin::Arg<'_>]| unsafe { module.launch("k", Launch::linear(1, 1), args) };
    launch(&args![&x, &y, 4i32])?;
    launch(&args![&bytes, &y, 4i32])?;
    let at_line_4 = |result: Result<(), Error>, words: &[&str]| {
        let error = result.expect_err("does not fit");
        assert_eq!(error.location().map(|at| at.line), Some(4), "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{error} lacks {word}");
        }
    };
    at_line_4(
        launch(&args![&x, &y, 4i64]),
        &["argument 2", "a value, a 64-bit integer", "a value, a 32-bit integer", "k.cu:4"],
    );
    at_line_4(launch(&args![&x, &y, 4.0f32]), &["argument 2", "float"]);
    at_line_4(launch(&args![&x, 4i32, &y]), &["argument 1"]);
    at_line_4(launch(&args![&halves, &y, 4i32]), &["argument 0", "__nv_bfloat16"]);
    at_line_4(launch(&args![&x, &y]), &["2 arguments", "3 parameters", "k.cu:4"]);
    at_line_4(launch(&args![&x, &y, 4i32, 4i32]), &["4 arguments"]);
    Ok(())
}

#[test]
fn arithmetic_and_indices() {
    reported("if (threadIdx.x == 3) y[n / (int(threadIdx.x) - 3)] = 0;", FaultKind::Arithmetic, 3);
    reported("const int rows = n * 1024 * 1024;\ny[0] = float(rows * 32);", FaultKind::Arithmetic, 4);
    reported(
        "float own[4];\nfor (int i = 0; i < 4; i++) own[i] = x[i];\ny[threadIdx.x] = own[threadIdx.x / 8];",
        FaultKind::Index,
        5,
    );
    reported("TWIN_SHARED(float, s, [2][64]);\nif (threadIdx.x == 0) s[0][n] = 1;", FaultKind::Index, 4);
}

#[test]
fn failed_assertions() {
    reported("const int t = threadIdx.x;\nassert(t < 63 && \"t is small\");", FaultKind::Assert, 4);
    reported("if (threadIdx.x == 63) __trap();", FaultKind::Assert, 3);
    for options in [Options::default(), Options::unchecked()] {
        let error = run("assert(n == 65);", options).expect_err("n is 64");
        let fault = error.fault().expect("a fault");
        assert!(fault.message.contains("n == 65") && fault.at[0].line == 3, "{error}");
    }
}

#[test]
fn too_much_shared_memory() {
    reported("\nTWIN_SHARED(float, s, [12289]);\ns[0] = 1;", FaultKind::SharedMemory, 4);
    fine("TWIN_SHARED(float, s, [12288]);\ns[threadIdx.x] = 1;");
}

#[test]
fn reports_name_the_thread_and_the_memory() {
    let error = run("if (threadIdx.x == 40) y[n] = 1;", Options::default()).expect_err("out of bounds");
    let words = "k: out-of-bounds write of 4 bytes at byte 256 of argument 1 (256 bytes), in thread (40, 0, 0) of block (0, 0, 0), \
                 at k.cu:3";
    assert_eq!(error.to_string(), words);
    let error =
        run("TWIN_DYN_SHARED(float, tile);\ny[0] = tile[1];", Options::default()).expect_err("uninitialised");
    assert!(
        error.to_string().contains("read of shared memory `tile` at byte 4, which nothing has written"),
        "{error}"
    );
}

#[test]
fn global_memory_that_nothing_has_written() -> Result<(), Error> {
    let source = "#include \"twin.cuh\"\nextern \"C\" __global__ void k(float* y, int first, int last) {\n\
                  for (int i = first; i < last; i++)\ny[i] = first ? y[i - 1] + 1 : 0;\n}";
    let gpu = Gpu::emulated(Options::default());
    let module = gpu.compile("k.cu", source)?;
    let y = gpu.uninit::<f32>(8)?;
    // SAFETY: the checked emulator stops at the first wrong access.
    let launch =
        |first: i32, last: i32| unsafe { module.launch("k", Launch::linear(1, 1), &args![&y, first, last]) };
    let error = launch(2, 3).expect_err("y[1] is not written");
    assert_eq!(
        (error.fault().map(|f| f.kind), error.location().map(|at| at.line)),
        (Some(FaultKind::Uninitialised), Some(4))
    );
    launch(0, 4)?;
    assert_eq!(
        y.read(),
        Err(Error::Unwritten { element: 4, len: 8 }),
        "what is written is kept between launches"
    );
    launch(4, 8)?;
    assert_eq!(y.read()?, [0., 0., 0., 0., 1., 2., 3., 4.]);
    Ok(())
}

#[test]
fn a_slice_bounds_what_the_kernel_may_touch() -> Result<(), Error> {
    let source = "#include \"twin.cuh\"\nextern \"C\" __global__ void k(float* y, int n) {\ny[n - 1] = 1;\n}";
    let gpu = Gpu::emulated(Options::default());
    let module = gpu.compile("k.cu", source)?;
    let y = gpu.zeros::<f32>(8)?;
    // SAFETY: the checked emulator stops at the first wrong access.
    let launch = |n: i32| unsafe { module.launch("k", Launch::linear(1, 1), &[y.slice(2..5)?, n.into()]) };
    launch(3)?;
    assert_eq!(y.read()?, [0., 0., 0., 0., 1., 0., 0., 0.]);
    assert_eq!(launch(4).expect_err("past the slice").fault().map(|f| f.kind), Some(FaultKind::OutOfBounds));
    assert!(matches!(y.slice(5..9), Err(Error::Range { start: 5, end: 9, len: 8 })));
    Ok(())
}

#[test]
fn rules_of_the_portable_subset_are_compile_errors() {
    let gpu = Gpu::emulated(Options::default());
    for (body, words) in [
        ("__shared__ float s[32];", "TWIN_SHARED"),
        ("extern __shared__ float s[];", ""),
        ("y[0] = __activemask();", "deleted"),
        ("y[0] = __shfl_down(1.0f, 1);", "__shfl_down"),
        ("atomicMax(y, 1.0f);", "atomicMax"),
    ] {
        let source =
            format!("#include \"twin.cuh\"\nextern \"C\" __global__ void k(float* y) {{\n{body}\n}}");
        match gpu.compile("k.cu", &source) {
            Err(Error::Compile { log, .. }) => {
                assert!(
                    log.contains("k.cu:3") && log.contains(words) && !log.contains("draft"),
                    "{body}: {log}"
                );
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn calls_that_no_device_can_do() -> Result<(), Error> {
    let gpu = Gpu::emulated(Options::default());
    let module = gpu.compile(
        "k.cu",
        "#include \"twin.cuh\"\nextern \"C\" __global__ void k() {}\n__global__ void j() {}",
    )?;
    assert_eq!(module.kernels(), ["k", "j"]);
    let plain = Launch::linear(1, 1);
    for launch in [
        Launch { grid: [0, 1, 1], ..plain },
        Launch { block: [0, 1, 1], ..plain },
        Launch { block: [32, 33, 1], ..plain },
        Launch { block: [1, 1, 65], ..plain },
        Launch { grid: [1, 1, 65_536], ..plain },
        Launch { grid: [1 << 20, 1 << 10, 1], ..plain },
        plain.shared(227 * 1024 + 1),
    ] {
        // SAFETY: the kernel does nothing.
        let result = unsafe { module.launch("k", launch, &[]) };
        assert!(matches!(result, Err(Error::Launch { .. })), "{launch:?}: {result:?}");
    }
    // SAFETY: as above.
    let result = unsafe { module.launch("l", plain, &[]) };
    assert_eq!(result.expect_err("no such kernel").to_string(), "`k.cu` has no kernel `l` (it has: k, j)");
    // SAFETY: as above.
    let result = unsafe { module.launch("k", plain, &[cuda_twin::Arg::device_address(64)]) };
    assert!(matches!(result, Err(Error::ArgumentCount { .. })));
    for name in ["", "../k.cu", "a b", ".k"] {
        assert!(matches!(gpu.compile(name, ""), Err(Error::Name { .. })), "{name}");
    }
    Ok(())
}
