//! Rankings: `kernels/wins.cu`.

use std::time::Instant;

use cuda_twin::{Buf, Gpu, Launch, Module, Result, args};

use super::{Timing, int, refused};
use crate::sources::WINS;
use crate::wins::{BradleyTerry, Standing, Strengths, WinMatrix, fit};

/// The compiled kernels on one device.
pub struct WinKernels(Module);

impl WinKernels {
    /// Compiles them, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        gpu.compile("wins.cu", WINS).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of_module(module: Module) -> Self {
        Self(module)
    }

    /// A block of 8 warps for 32 rows.
    fn launch(n: i32) -> Launch {
        Launch { grid: [n.cast_unsigned().div_ceil(32), 1, 1], block: [32, 8, 1], shared_bytes: 0 }
    }

    /// As [`WinMatrix::standings`], on a device.
    ///
    /// # Errors
    /// As [`Gpu::upload`] and [`Module::launch`]; [`cuda_twin::Error::Launch`] for sizes beyond 31 bits.
    pub fn standings(&self, gpu: &Gpu, matrix: &WinMatrix) -> Result<(Vec<Standing>, Timing)> {
        let (mut timing, items) = (Timing::default(), matrix.items());
        let n = int("standings_f32", "items", items)?;
        if n == 0 {
            return Ok((Vec::new(), timing));
        }
        let start = Instant::now();
        let w = gpu.upload(matrix.cells())?;
        let (points, margin): (Buf<i32>, Buf<f64>) = (gpu.uninit(items)?, gpu.uninit(items)?);
        timing.transfer = start.elapsed();
        let start = Instant::now();
        // SAFETY: w has n rows of n, the others n numbers.
        unsafe { self.0.launch("standings_f32", Self::launch(n), &args![&w, &points, &margin, n]) }?;
        let one = |(points, margin): (i32, f64)| Standing { points: points.cast_unsigned(), margin };
        let out = points.read()?.into_iter().zip(margin.read()?).map(one).collect();
        timing.device = start.elapsed();
        Ok((out, timing))
    }

    /// As [`WinMatrix::bradley_terry`], with each step on a device.
    ///
    /// # Errors
    /// As [`WinKernels::standings`]; [`cuda_twin::Error::Launch`] for a prior that is not above 0.
    pub fn bradley_terry(
        &self,
        gpu: &Gpu,
        matrix: &WinMatrix,
        options: &BradleyTerry,
    ) -> Result<(Strengths, Timing)> {
        let name = "bradley_terry_f32";
        let (mut timing, items) = (Timing::default(), matrix.items());
        let n = int(name, "items", items)?;
        if options.prior.is_nan() || options.prior <= 0.0 {
            return Err(refused(name, "prior", options.prior, "above 0"));
        }
        if n == 0 {
            return Ok((fit(0, options, |_| Ok::<_, cuda_twin::Error>(Vec::new()))?, timing));
        }
        let start = Instant::now();
        let w = gpu.upload(matrix.cells())?;
        let (mut p, out): (Buf<f64>, Buf<f64>) = (gpu.uninit(items)?, gpu.uninit(items)?);
        timing.transfer = start.elapsed();
        let start = Instant::now();
        let fitted = fit(items, options, |strengths| {
            p.write(strengths)?;
            // SAFETY: w has n rows of n, the others n numbers.
            unsafe { self.0.launch(name, Self::launch(n), &args![&w, &p, &out, options.prior, n]) }?;
            out.read()
        })?;
        timing.device = start.elapsed();
        Ok((fitted, timing))
    }
}
