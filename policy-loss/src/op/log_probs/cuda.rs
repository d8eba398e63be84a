//! The same on a GPU: the kernels of `kernels/logits.cu` on candle's memory and stream.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::{CudaStorage, Error, Layout, Result, Shape, bail};
use cuda_twin::{Arg, Gpu};

use super::LogProbs;
use crate::kernels::{Dtype, LogitKernels, Rows};

impl LogProbs {
    fn kernels(&self, storage: &CudaStorage, layout: &Layout) -> Result<(Gpu, LogitKernels, Rows, usize)> {
        let (rows, vocabulary, range) = self.shape(layout)?;
        let gpu = Gpu::from_stream(storage.device().cuda_stream()).map_err(Error::wrap)?;
        let kernels = LogitKernels::new(&gpu).map_err(Error::wrap)?;
        Ok((gpu, kernels, Rows { rows, vocabulary, temperature: self.temperature }, range.start))
    }

    pub(super) fn stats_on_gpu(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (gpu, kernels, rows, start) = self.kernels(logits, layout)?;
        let (device, stream) = (logits.device().clone(), logits.device().cuda_stream());
        let targets = gpu.upload(&self.targets).map_err(Error::wrap)?;
        // SAFETY: the kernel writes every element.
        let mut scores = unsafe { device.alloc::<f32>(4 * rows.rows.max(1)) }?;
        {
            let (address, _scores) = scores.device_ptr_mut(&stream);
            let run = |dtype, logits: u64| {
                let logits = Arg::device_address(logits);
                // SAFETY: `shape` compared targets and rows, targets lie in the vocabulary, and both tensors are alive.
                unsafe {
                    kernels.row_stats(dtype, &rows, logits, (&targets).into(), Arg::device_address(address))
                }
                .map_err(Error::wrap)
            };
            match &logits.slice {
                CudaStorageSlice::F32(a) => run(Dtype::F32, a.slice(start..).device_ptr(&stream).0)?,
                CudaStorageSlice::BF16(a) => run(Dtype::Bf16, a.slice(start..).device_ptr(&stream).0)?,
                _ => bail!("logits must be f32 or bf16"),
            }
        }
        Ok((CudaStorage { slice: CudaStorageSlice::F32(scores), device }, (rows.rows, 4).into()))
    }

    pub(super) fn gradient_on_gpu(
        &self,
        logits: &mut CudaStorage,
        layout: &Layout,
        scores: (&CudaStorage, &Layout),
        upstream: (&CudaStorage, &Layout),
    ) -> Result<()> {
        let (gpu, kernels, rows, start) = self.kernels(logits, layout)?;
        let stream = logits.device().cuda_stream();
        let targets = gpu.upload(&self.targets).map_err(Error::wrap)?;
        let f32s = |what: &str, (storage, layout): (&CudaStorage, &Layout)| match (
            &storage.slice,
            layout.contiguous_offsets(),
        ) {
            (CudaStorageSlice::F32(data), Some((start, _))) => Ok(data.slice(start..).device_ptr(&stream).0),
            _ => bail!("{what} must be contiguous f32"),
        };
        let [scores, upstream] = [f32s("scores", scores)?, f32s("upstream gradients", upstream)?];
        let run = |dtype, logits: u64| {
            let [logits, scores, upstream] = [logits, scores, upstream].map(Arg::device_address);
            // SAFETY: as in `stats_on_gpu`; scores and upstream have 4 and 2 columns of as many rows.
            unsafe { kernels.row_grad(dtype, &rows, logits, (&targets).into(), scores, upstream) }
                .map_err(Error::wrap)
        };
        match &mut logits.slice {
            CudaStorageSlice::F32(a) => run(Dtype::F32, a.slice_mut(start..).device_ptr_mut(&stream).0),
            CudaStorageSlice::BF16(a) => run(Dtype::Bf16, a.slice_mut(start..).device_ptr_mut(&stream).0),
            _ => bail!("logits must be f32 or bf16"),
        }
    }
}
