//! The text of the CUDA kernels, for compilers and reports; always there, also where nothing can run them.

/// The kernels: `(file name, text)`. They include the headers of `cuda_twin::headers()` and [`HEADERS`].
pub const SOURCES: &[(&str, &str)] = &[("sample.cu", SAMPLE), ("gate.cu", GATE), ("logprob.cu", LOGPROB)];

/// What the kernels include: `(file name, text)`.
pub const HEADERS: &[(&str, &str)] = &[("deny.cuh", include_str!("../kernels/deny.cuh"))];

/// Threads of a block in a launch of usual size, by entry point.
pub const BLOCKS: &[(&str, u32)] = &[
    ("lcg_scan_f32", 256),
    ("lcg_scan_bf16", 256),
    ("lcg_nucleus_f32", 1024),
    ("lcg_nucleus_bf16", 1024),
    ("lcg_draw_f32", 32),
    ("lcg_draw_bf16", 32),
    ("lcg_gate_f32", 128),
    ("masked_logprob_f32", 1024),
    ("masked_logprob_bf16", 1024),
    ("masked_logprob_grad_f32", 1024),
    ("masked_logprob_grad_bf16", 1024),
];

pub(crate) const SAMPLE: &str = include_str!("../kernels/sample.cu");
pub(crate) const GATE: &str = include_str!("../kernels/gate.cu");
pub(crate) const LOGPROB: &str = include_str!("../kernels/logprob.cu");
