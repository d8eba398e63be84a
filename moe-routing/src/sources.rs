//! The text of the CUDA kernels, for compilers and reports; always there, also where nothing can run them.

/// The kernels: `(file name, text)`. They include the headers of `cuda_twin::headers()` and [`HEADERS`].
pub const SOURCES: &[(&str, &str)] = &[
    ("router.cu", ROUTER),
    ("gates.cu", GATES),
    ("dispatch.cu", DISPATCH),
    ("permute.cu", PERMUTE),
    ("losses.cu", LOSSES),
    ("trace.cu", TRACE),
];

/// What the kernels include: `(file name, text)`.
pub const HEADERS: &[(&str, &str)] = &[("warp.cuh", include_str!("../kernels/warp.cuh"))];

/// Threads of a block in a launch of usual size, by entry point.
pub const BLOCKS: &[(&str, u32)] = &[
    ("top_k_f32", 128),
    ("gates_f32", 128),
    ("gates_backward_f32", 128),
    ("dispatch_count", 32),
    ("dispatch_scan", 128),
    ("dispatch_scatter", 32),
    ("permute_f32", 256),
    ("permute_f32_wide", 256),
    ("permute_bf16", 256),
    ("permute_bf16_wide", 256),
    ("permute_backward_f32", 256),
    ("permute_backward_f32_wide", 256),
    ("permute_backward_bf16", 256),
    ("permute_backward_bf16_wide", 256),
    ("unpermute_f32", 256),
    ("unpermute_f32_wide", 256),
    ("unpermute_bf16", 256),
    ("unpermute_bf16_wide", 256),
    ("unpermute_backward_f32", 256),
    ("unpermute_backward_f32_wide", 256),
    ("unpermute_backward_bf16", 256),
    ("unpermute_backward_bf16_wide", 256),
    ("load_balance_f32", 128),
    ("z_loss_f32", 128),
    ("loss_sum_f32", 256),
    ("trace_pack_u8", 256),
    ("trace_pack_u16", 256),
    ("trace_gather_u8", 256),
    ("trace_gather_u16", 256),
];

pub(crate) const ROUTER: &str = include_str!("../kernels/router.cu");
pub(crate) const GATES: &str = include_str!("../kernels/gates.cu");
pub(crate) const DISPATCH: &str = include_str!("../kernels/dispatch.cu");
pub(crate) const PERMUTE: &str = include_str!("../kernels/permute.cu");
pub(crate) const LOSSES: &str = include_str!("../kernels/losses.cu");
pub(crate) const TRACE: &str = include_str!("../kernels/trace.cu");
