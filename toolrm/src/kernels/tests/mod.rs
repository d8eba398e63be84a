#![allow(clippy::unwrap_used)]

mod similarity;
mod wins;

use cuda_twin::{Gpu, Options, Result};

use crate::sources::{BLOCKS, SOURCES};

#[test]
fn every_kernel_says_its_block() -> Result<()> {
    let gpu = Gpu::emulated(Options::default());
    let mut found = Vec::new();
    for (name, source) in SOURCES {
        found.extend(gpu.compile(name, source)?.kernels());
    }
    let mut listed: Vec<&str> = BLOCKS.iter().map(|(kernel, _)| *kernel).collect();
    found.sort_unstable();
    listed.sort_unstable();
    assert_eq!(found, listed);
    Ok(())
}
