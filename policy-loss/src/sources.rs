//! The text of the CUDA kernels, for compilers and reports; always there, also where nothing can run them.

/// The kernels: `(file name, text)`. They include the headers of `cuda_twin::headers()` and [`HEADERS`].
pub const SOURCES: &[(&str, &str)] = &[("logits.cu", LOGITS), ("objective.cu", OBJECTIVE)];

/// What the kernels include: `(file name, text)`.
pub const HEADERS: &[(&str, &str)] = &[("block.cuh", include_str!("../kernels/block.cuh"))];

/// Threads of a block in a launch of usual size, by entry point: [`SOURCES`] are launched without dynamic shared memory.
pub const BLOCKS: &[(&str, u32)] = &[
    ("row_stats_f32", 1024),
    ("row_stats_bf16", 1024),
    ("row_grad_f32", 1024),
    ("row_grad_bf16", 1024),
    ("objective_f32", 256),
];

pub(crate) const LOGITS: &str = include_str!("../kernels/logits.cu");
pub(crate) const OBJECTIVE: &str = include_str!("../kernels/objective.cu");
