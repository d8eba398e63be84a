//! The text of the CUDA kernels, for compilers and reports; always there, also where nothing can run them.

/// The kernels: `(file name, text)`. They include the headers of `cuda_twin::headers()` and [`HEADERS`].
pub const SOURCES: &[(&str, &str)] = &[("rotary.cu", ROTARY), ("norm.cu", NORM)];

/// What the kernels include: `(file name, text)`.
pub const HEADERS: &[(&str, &str)] = &[("rotary.cuh", include_str!("../kernels/rotary.cuh"))];

/// Threads of a block, by entry point: [`SOURCES`] are launched without dynamic shared memory.
pub const BLOCKS: &[(&str, u32)] = &[
    ("rotary_table", 256),
    ("rotate_f32", 256),
    ("rotate_bf16", 256),
    ("rotate_f16", 256),
    ("rotate16_f32", 256),
    ("rotate16_bf16", 256),
    ("rotate16_f16", 256),
    ("norm_rotate_f32", 128),
    ("norm_rotate_bf16", 128),
    ("norm_rotate_f16", 128),
    ("norm_rotate_backward_f32", 128),
    ("norm_rotate_backward_bf16", 128),
    ("norm_rotate_backward_f16", 128),
    ("norm_rotate_weights", 128),
];

pub(crate) const ROTARY: &str = include_str!("../kernels/rotary.cu");
pub(crate) const NORM: &str = include_str!("../kernels/norm.cu");
