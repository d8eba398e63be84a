//! The text of the CUDA kernels, for compilers and reports; always there, also where nothing can run them.

/// The kernels: `(file name, text)`. They include the headers of `cuda_twin::headers()`.
pub const SOURCES: &[(&str, &str)] = &[("similarity.cu", SIMILARITY), ("wins.cu", WINS)];

/// What the kernels include beside those: `(file name, text)`.
pub const HEADERS: &[(&str, &str)] = &[];

/// Threads of a block in a launch of usual size, by entry point.
pub const BLOCKS: &[(&str, u32)] =
    &[("farthest_step_f32", 256), ("standings_f32", 256), ("bradley_terry_f32", 256)];

pub(crate) const SIMILARITY: &str = include_str!("../kernels/similarity.cu");
pub(crate) const WINS: &str = include_str!("../kernels/wins.cu");
