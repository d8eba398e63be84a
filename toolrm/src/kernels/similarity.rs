//! Diversity: `kernels/similarity.cu`.

use std::time::Instant;

use cuda_twin::{Gpu, Launch, Module, Result, args};

use super::{Timing, int};
use crate::sample::{Embeddings, farthest_first};
use crate::sources::SIMILARITY;

const STEP: &str = "farthest_step_f32";

/// The compiled kernel on one device.
pub struct SimilarityKernels(Module);

impl SimilarityKernels {
    /// Compiles it, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile("similarity.cu", SIMILARITY).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// As [`farthest_first`](crate::farthest_first()), on a device: rows of `pool` in the order in which they are chosen. Nothing is read back
    /// before all are.
    ///
    /// # Errors
    /// As [`Gpu::upload`] and [`Module::launch`]; [`cuda_twin::Error::Launch`] for sizes beyond 31 bits.
    ///
    /// # Panics
    /// As [`Embeddings::row`], for a row in `pool` that there is not.
    pub fn farthest_first(
        &self,
        gpu: &Gpu,
        embeddings: &Embeddings,
        pool: &[usize],
        count: usize,
    ) -> Result<(Vec<usize>, Timing)> {
        let (mut timing, count) = (Timing::default(), count.min(pool.len()));
        let (n, d) = (int(STEP, "rows", pool.len())?, int(STEP, "width", embeddings.width())?);
        if count == 0 {
            return Ok((Vec::new(), timing));
        }
        let start = Instant::now();
        let rows: Vec<f32> = pool.iter().flat_map(|i| embeddings.row(*i)).copied().collect();
        let x = gpu.upload(&rows)?;
        let nearest = gpu.upload(&vec![f32::NEG_INFINITY; pool.len()])?;
        // The first choice is the first row.
        let mut keys = vec![u64::MAX; count];
        keys[0] = 0;
        let choices = gpu.upload(&keys)?;
        timing.transfer = start.elapsed();
        let start = Instant::now();
        // A warp has a row; beyond 4096 blocks each has several.
        let launch = Launch::linear((n.cast_unsigned()).div_ceil(8).min(4096), 256);
        for step in 0..count - 1 {
            let step = int(STEP, "steps", step)?;
            // SAFETY: x has n rows of d, nearest n numbers, and choices a key for this step and the next.
            unsafe { self.0.launch(STEP, launch, &args![&x, &nearest, &choices, step, n, d]) }?;
        }
        let keys = choices.read()?;
        timing.device = start.elapsed();
        Ok((keys.iter().map(|key| pool[(key & 0xffff_ffff) as usize]).collect(), timing))
    }
}

/// Choices in groups of all sizes: large ones are made on a device, small ones are sooner made on the CPU.
pub struct Chooser {
    gpu: Gpu,
    kernels: SimilarityKernels,
    least: usize,
    /// Groups whose choice was made on the device.
    pub on_device: u64,
    /// Groups whose choice was made on the CPU.
    pub on_cpu: u64,
    /// Where the device's time went.
    pub timing: Timing,
}

impl Chooser {
    /// Groups whose embeddings have at least `least` numbers go to the device (see [`WORTHWHILE`](super::WORTHWHILE)).
    ///
    /// # Errors
    /// As [`SimilarityKernels::new`].
    pub fn new(gpu: Gpu, least: usize) -> Result<Self> {
        let kernels = SimilarityKernels::new(&gpu)?;
        Ok(Chooser { gpu, kernels, least, on_device: 0, on_cpu: 0, timing: Timing::default() })
    }

    /// As [`farthest_first`](crate::farthest_first()).
    ///
    /// # Errors
    /// As [`SimilarityKernels::farthest_first`].
    ///
    /// # Panics
    /// As [`Embeddings::row`], for a row in `pool` that there is not.
    pub fn choose(&mut self, embeddings: &Embeddings, pool: &[usize], count: usize) -> Result<Vec<usize>> {
        if pool.len() * embeddings.width() < self.least {
            self.on_cpu += 1;
            return Ok(farthest_first(embeddings, pool, count));
        }
        let (chosen, timing) = self.kernels.farthest_first(&self.gpu, embeddings, pool, count)?;
        self.on_device += 1;
        self.timing.transfer += timing.transfer;
        self.timing.device += timing.device;
        Ok(chosen)
    }
}
