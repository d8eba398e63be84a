#![allow(clippy::unwrap_used)]

mod logits;
mod objective;

use cuda_twin::testing::noise;

#[cfg(feature = "cuda")]
#[test]
fn nvrtc_compiles_the_sources() -> cuda_twin::Result<()> {
    cuda_twin::testing::nvrtc_compiles(crate::sources::SOURCES, crate::sources::HEADERS)
}
