//! What orders memory between threads and blocks, and waits that never end.

use cuda_twin::{Error, FaultKind, Gpu, Launch, Options, Result, args, capture_printf};

/// Runs a kernel of `(int* data, unsigned* flag)`, 64 zeros each, and returns data.
fn run(body: &str, launch: Launch, options: Options) -> Result<Vec<i32>> {
    let source = format!(
        "#include \"twin.cuh\"\nextern \"C\" __global__ void k(int* data, unsigned* flag) {{\n{body}\n}}"
    );
    let gpu = Gpu::emulated(options);
    let module = gpu.compile("k.cu", &source)?;
    let (data, flag) = (gpu.zeros::<i32>(64)?, gpu.zeros::<u32>(64)?);
    // SAFETY: the checked emulator stops at the first wrong access; unchecked bodies here are right.
    unsafe { module.launch("k", launch, &args![&data, &flag]) }?;
    data.read()
}

fn all_orders(body: &str, launch: Launch) -> Result<Vec<i32>> {
    let found = Options::orders().map(|o| run(body, launch, o));
    let [first, ..] = found.clone();
    for other in found {
        assert_eq!(other?, first.clone()?, "{body}");
    }
    first
}

#[track_caller]
fn kind(body: &str, launch: Launch, options: Options) -> FaultKind {
    let error = run(body, launch, options).expect_err(body);
    error.fault().unwrap_or_else(|| panic!("{error}")).kind
}

/// A value handed to another block: written, released, taken.
fn handed(release: &str, acquire: &str) -> String {
    format!(
        "if (blockIdx.x == 0) {{\ndata[0] = 7;\n{release}\natomicExch(flag, 1u);\n}} else {{\n\
         while (atomicAdd(flag, 0u) == 0) {{}}\n{acquire}\ndata[1] = data[0];\n}}"
    )
}

#[test]
fn fences_and_atomics_hand_data_to_another_block() -> Result<()> {
    let found = all_orders(&handed("__threadfence();", "__threadfence();"), Launch::linear(2, 1))?;
    assert_eq!(found[..2], [7, 7]);
    Ok(())
}

#[test]
fn a_missing_or_too_narrow_fence_is_a_race() {
    for (release, acquire) in
        [("", "__threadfence();"), ("__threadfence();", ""), ("__threadfence_block();", "__threadfence();")]
    {
        for options in Options::orders() {
            assert_eq!(
                kind(&handed(release, acquire), Launch::linear(2, 1), options),
                FaultKind::Race,
                "{release} {acquire}"
            );
        }
    }
}

#[test]
fn a_volatile_flag_does_as_an_atomic() -> Result<()> {
    let body = |fence: &str| {
        format!(
            "volatile unsigned* seen = flag;\nif (blockIdx.x == 0) {{\ndata[0] = 7;\n{fence}\nseen[0] = 1;\n}} else {{\n\
             while (seen[0] == 0) {{}}\n__threadfence();\ndata[1] = data[0];\n}}"
        )
    };
    assert_eq!(all_orders(&body("__threadfence();"), Launch::linear(2, 1))?[..2], [7, 7]);
    for options in Options::orders() {
        assert_eq!(kind(&body(""), Launch::linear(2, 1), options), FaultKind::Race);
    }
    Ok(())
}

/// CUDA's own example has no fence after the counter; the barrier that follows is enough.
#[test]
fn the_last_block_may_read_what_all_have_left() -> Result<()> {
    let body = |fence: &str| {
        format!(
            "TWIN_SHARED(bool, last, [1]);\nif (threadIdx.x == 0) {{\ndata[blockIdx.x] = blockIdx.x + 1;\n{fence}\n\
             last[0] = atomicInc(flag, gridDim.x - 1) == gridDim.x - 1;\n}}\n__syncthreads();\n\
             if (last[0] && threadIdx.x == 33) {{\nint sum = 0;\nfor (int b = 0; b < gridDim.x; b++) sum += data[b];\ndata[63] = sum;\n}}"
        )
    };
    assert_eq!(all_orders(&body("__threadfence();"), Launch::linear(10, 64))?[63], 55);
    for options in Options::orders() {
        assert_eq!(kind(&body(""), Launch::linear(10, 64), options), FaultKind::Race);
    }
    Ok(())
}

const GRID_BARRIER: &str = "const int b = blockIdx.x, n = gridDim.x;\n\
    for (int round = 1; round <= 3; round++) {\n\
      if (threadIdx.x == 0) data[b] += round;\n\
      for (int phase = 0; phase < 2; phase++) {\n\
        __syncthreads();\n\
        if (threadIdx.x == 0) {\n\
          __threadfence();\n\
          atomicAdd(flag, 1u);\n\
          while (atomicAdd(flag, 0u) < unsigned((2 * round - 1 + phase) * n)) __nanosleep(20);\n\
          __threadfence();\n\
        }\n\
        __syncthreads();\n\
        if (phase == 0 && threadIdx.x == 32) data[32 + b] += data[(b + 1) % n];\n\
      }\n\
    }";

#[test]
fn a_grid_barrier_works_and_makes_all_its_blocks_resident() -> Result<()> {
    let found = all_orders(GRID_BARRIER, Launch::linear(12, 64))?;
    assert!(
        found[..12].iter().all(|v| *v == 6) && found[32..44].iter().all(|v| *v == 1 + 3 + 6),
        "{found:?}"
    );
    assert_eq!(run(GRID_BARRIER, Launch::linear(12, 64), Options::unchecked())?, found);
    Ok(())
}

#[test]
fn a_grid_barrier_of_more_blocks_than_can_be_resident_never_ends() {
    for options in Options::orders() {
        let options = Options { max_resident_blocks: 5, ..options };
        let error = run(GRID_BARRIER, Launch::linear(6, 64), options).expect_err("one block is missing");
        let fault = error.fault().expect("a fault");
        assert_eq!((fault.kind, fault.at[0].line), (FaultKind::NeverEnds, 11), "{error}");
        assert!(fault.message.contains("5 of 6 blocks"), "{error}");
    }
}

#[test]
fn a_spin_lock_protects_a_counter() -> Result<()> {
    let body = |acquire: &str, release: &str| {
        format!(
            "while (atomicCAS(flag, 0u, 1u) != 0) {{}}\n{acquire}\ndata[0] = data[0] + 1;\n{release}\natomicExch(flag, 0u);"
        )
    };
    let launch = Launch::linear(3, 8);
    assert_eq!(all_orders(&body("__threadfence();", "__threadfence();"), launch)?[0], 24);
    assert_eq!(run(&body("__threadfence();", "__threadfence();"), launch, Options::unchecked())?[0], 24);
    for (acquire, release) in [("", "__threadfence();"), ("__threadfence();", "")] {
        for options in Options::orders() {
            assert_eq!(kind(&body(acquire, release), launch, options), FaultKind::Race);
        }
    }
    Ok(())
}

#[test]
fn waits_that_never_end_are_reported() {
    for (body, line) in [
        ("\nwhile (atomicAdd(flag, 0u) == 0) {}", 4),
        ("\nwhile (*(volatile unsigned*)flag == 0) {}", 4),
        (
            "if (threadIdx.x > 0) __syncthreads();\nelse\nwhile (atomicCAS(flag, 1u, 0u) != 1) __nanosleep(100);",
            5,
        ),
    ] {
        for options in Options::orders() {
            let error = run(body, Launch::linear(2, 64), options).expect_err(body);
            let fault = error.fault().unwrap_or_else(|| panic!("{error}"));
            assert_eq!((fault.kind, fault.at[0].line), (FaultKind::NeverEnds, line), "{error}");
        }
    }
    let options = Options { fuel: 100_000, ..Options::default() };
    let error = run(
        "unsigned i = flag[0];\nwhile (i != 77) i = i * 1664525 + 1013904223;\ndata[0] = int(i);",
        Launch::linear(1, 1),
        options,
    )
    .expect_err("no end");
    let fault = error.fault().expect("a fault");
    assert_eq!((fault.kind, fault.at[0].line), (FaultKind::NeverEnds, 4), "{error}");
}

#[test]
fn atomics_do_not_race_with_one_another_but_do_with_plain_accesses() -> Result<()> {
    assert_eq!(all_orders("atomicAdd(data, 1);", Launch::linear(3, 64))?[0], 192);
    let counted = "TWIN_SHARED(int, s, [1]);\nif (threadIdx.x == 0) s[0] = 0;\n__syncthreads();\natomicAdd(s, 1);\n\
                   __syncthreads();\ndata[threadIdx.x] = s[0];";
    assert_eq!(all_orders(counted, Launch::linear(1, 64))?, [64; 64]);
    for body in ["atomicAdd(data, 1);\nif (data[0] == -1) flag[0] = 1;", "atomicAdd(data, 1);\ndata[0] = 1;"]
    {
        for options in Options::orders() {
            assert_eq!(kind(body, Launch::linear(1, 64), options), FaultKind::Race, "{body}");
        }
    }
    Ok(())
}

#[test]
fn only_syncwarp_orders_memory_within_a_warp() -> Result<()> {
    let body = |between: &str| {
        format!(
            "TWIN_SHARED(int, s, [64]);\nconst int t = threadIdx.x;\nconst unsigned half = 0xffffu << (t & 16);\ns[t] = t;\n\
             {between}\ndata[t] = s[t ^ 5] + int(half & 0);"
        )
    };
    let expected: Vec<_> = (0..64).map(|t| t ^ 5).collect();
    for between in ["__syncwarp();", "__syncwarp(half);", "__syncthreads();"] {
        assert_eq!(all_orders(&body(between), Launch::linear(1, 64))?, expected, "{between}");
    }
    for between in ["__shfl_sync(~0u, t, 0);", "__threadfence_block();", "__syncwarp(0x0f0fu << (t & 20));"] {
        for options in Options::orders() {
            let error = run(&body(between), Launch::linear(1, 64), options).expect_err(between);
            let kind = error.fault().expect("a fault").kind;
            assert!(matches!(kind, FaultKind::Race | FaultKind::Uninitialised), "{between}: {error}");
        }
    }
    Ok(())
}

#[test]
fn lanes_that_have_ended_are_not_waited_for() -> Result<()> {
    let body =
        "const int t = threadIdx.x;\nif (t % 2) return;\ndata[t] = __shfl_sync(~0u, t, 2);\n__syncwarp();";
    let found = all_orders(body, Launch::linear(1, 50))?;
    assert_eq!([found[0], found[1], found[30], found[48], found[50]], [2, 0, 2, 34, 0]);
    Ok(())
}

#[test]
fn fast_lanes_do_not_disturb_what_slow_ones_have_yet_to_read() -> Result<()> {
    let body = "const int t = threadIdx.x % 32;\nint v = __shfl_xor_sync(~0u, t, 31);\n\
                if (t < 4) for (int i = 0; i < 20; i++) v += __shfl_xor_sync(0xfu, t * 100, 1) * 0;\ndata[threadIdx.x] = v;";
    assert_eq!(all_orders(body, Launch::linear(1, 64))?, (0..64).map(|t| 31 - t % 32).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn votes_of_a_block() -> Result<()> {
    let body = "const int t = threadIdx.x;\nconst int c = __syncthreads_count(t % 3 == 0), a = __syncthreads_and(t < 64), \
                b = __syncthreads_and(t < 63), o = __syncthreads_or(t == 9), p = __syncthreads_or(t == 64);\n\
                data[t] = c + 100 * (a != 0) + 200 * (b != 0) + 400 * (o != 0) + 800 * (p != 0);";
    assert_eq!(all_orders(body, Launch::linear(1, 64))?, [22 + 100 + 400; 64]);
    Ok(())
}

#[test]
fn kernels_print() {
    for options in [Options::default(), Options::unchecked()] {
        let body = "if (threadIdx.x == 3) printf(\"%s %d %.2f\\n\", \"three\", threadIdx.x, 1.5f);";
        let (result, text) = capture_printf(|| run(body, Launch::linear(1, 32), options));
        assert!(result.is_ok());
        assert_eq!(text, "three 3 1.50\n");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() -> Result<()> {
    let body = "data[atomicAdd(flag, 1u)] = threadIdx.x;";
    let order = |seed| run(body, Launch::linear(1, 64), Options { seed, ..Options::default() });
    assert_eq!(order(5)?, order(5)?);
    assert_ne!(order(5)?, order(6)?);
    Ok(())
}

#[test]
fn launches_on_several_os_threads_do_not_meet() -> Result<()> {
    let body = "TWIN_SHARED(int, s, [64]);\ns[threadIdx.x] = threadIdx.x;\n__syncthreads();\ndata[threadIdx.x] = s[63 - threadIdx.x];";
    let all: Vec<Result<Vec<i32>>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            Options::orders().map(|o| scope.spawn(move || run(body, Launch::linear(1, 64), o))).into();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| panic!("a launch panicked"))).collect()
    });
    for found in all {
        assert_eq!(found?, (0..64).rev().collect::<Vec<_>>());
    }
    Ok::<(), Error>(())
}
