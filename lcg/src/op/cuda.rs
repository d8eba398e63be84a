//! The same on a GPU: the kernels of `kernels/logprob.cu` on candle's memory and stream.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, InplaceOp3, Layout, Result, Shape, Tensor, bail,
};
use cuda_twin::{Arg, Gpu};

use super::Term;
use crate::family::FamilySet;
use crate::kernels::{DeviceTable, Dtype, KeptTokens, LogprobKernels, RowMasks};
use crate::logprob::RowMask;
use crate::table::FamilyTable;

pub(super) fn apply(
    logits: &Tensor,
    targets: &[u32],
    masks: &[Option<RowMask<'_>>],
    temperature: f32,
    term: Term,
) -> Result<Tensor> {
    let Some(table) = masks.iter().flatten().map(|mask| mask.view.table()).next() else {
        return Tensor::zeros(targets.len(), DType::F32, logits.device());
    };
    let score = |denials| {
        let op = Scores::new(logits.device(), table, targets, masks, temperature, denials)?;
        logits.apply_op1(op)?.narrow(1, 0, 1)?.squeeze(1)
    };
    match term {
        Term::Logprob => score(true),
        // With and without the mask the log-probability of one token differs by that of what the gate left.
        Term::Leak => score(true)? - score(false)?,
    }
}

/// Logits `[rows, V]` to the four scores of each row that `kernels/logprob.cu` writes: the log-probability, and what the backward
/// needs.
pub(super) struct Scores {
    masks: Mutex<(DeviceTable, RowMasks, KeptTokens)>,
    /// Negative for padding.
    targets: Vec<i32>,
    vocabulary: usize,
    temperature: f32,
}

impl Scores {
    /// Of masks over `table`; without `denials`, rows with something denied are over all tokens.
    pub(super) fn new(
        device: &Device,
        table: &FamilyTable,
        targets: &[u32],
        masks: &[Option<RowMask<'_>>],
        temperature: f32,
        denials: bool,
    ) -> Result<Self> {
        let (empty, vocabulary) = (table.view(Default::default()), table.len());
        let (mut rows, mut tokens, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (mask, target)) in masks.iter().zip(targets).enumerate() {
            let Some(mask) = mask else {
                rows.push((empty.clone(), FamilySet::EMPTY));
                tokens.push(-1);
                kept.push(None);
                continue;
            };
            if !std::ptr::eq(mask.view.table(), table) {
                bail!("row {row}: a mask over another table than the first");
            }
            mask.check_token(row, *target)?;
            rows.push((mask.view.clone(), if denials { mask.denied } else { FamilySet::EMPTY }));
            // Where nothing is denied both scores are the same, and the leak is 0 as on the CPU.
            kept.push(mask.kept.as_deref().filter(|_| denials || mask.denied.is_empty()));
            tokens.push(*target as i32);
        }
        let gpu = Gpu::from_stream(device.as_cuda_device()?.cuda_stream()).map_err(Error::wrap)?;
        let table = DeviceTable::new(&gpu, table).map_err(Error::wrap)?;
        let kept = KeptTokens::new(&gpu, vocabulary, kept).map_err(Error::wrap)?;
        let masks = Mutex::new((table, RowMasks::new(&gpu, &rows).map_err(Error::wrap)?, kept));
        Ok(Self { masks, targets: tokens, vocabulary, temperature })
    }

    /// The number of rows, and where the logits begin.
    fn shape(&self, layout: &Layout) -> Result<(usize, usize)> {
        let (rows, width) = layout.shape().dims2()?;
        if rows != self.targets.len() || width != self.vocabulary {
            let (targets, vocabulary) = (self.targets.len(), self.vocabulary);
            bail!("logits [{rows}, {width}] for {targets} targets of a table of {vocabulary} tokens");
        }
        let Some((start, _)) = layout.contiguous_offsets() else { bail!("logits must be contiguous") };
        Ok((rows, start))
    }
}

fn kernels(storage: &CudaStorage) -> Result<(Gpu, LogprobKernels)> {
    let gpu = Gpu::from_stream(storage.device().cuda_stream()).map_err(Error::wrap)?;
    let kernels = LogprobKernels::new(&gpu).map_err(Error::wrap)?;
    Ok((gpu, kernels))
}

impl CustomOp1 for Scores {
    fn name(&self) -> &'static str {
        "lcg-masked-log-probs"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("masks on a GPU, logits on the CPU")
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, start) = self.shape(layout)?;
        let (gpu, kernels) = kernels(logits)?;
        let (device, stream) = (logits.device().clone(), logits.device().cuda_stream());
        let targets = gpu.upload(&self.targets).map_err(Error::wrap)?;
        // SAFETY: the kernel writes every element.
        let mut scores = unsafe { device.alloc::<f32>(4 * rows.max(1)) }?;
        {
            let (address, _scores) = scores.device_ptr_mut(&stream);
            let (table, masks, kept) = &*self.masks.lock().unwrap_or_else(PoisonError::into_inner);
            let run = |dtype, logits: u64| {
                let logits = Arg::device_address(logits);
                let out = [(&targets).into(), Arg::device_address(address)];
                // SAFETY: `shape` compared targets, table and logits, targets lie in the vocabulary, and both tensors are alive.
                unsafe { kernels.forward(dtype, table, masks, kept, self.temperature, logits, out) }
                    .map_err(Error::wrap)
            };
            match &logits.slice {
                CudaStorageSlice::F32(a) => run(Dtype::F32, a.slice(start..).device_ptr(&stream).0)?,
                CudaStorageSlice::BF16(a) => run(Dtype::Bf16, a.slice(start..).device_ptr(&stream).0)?,
                _ => bail!("logits must be f32 or bf16"),
            }
        }
        Ok((CudaStorage { slice: CudaStorageSlice::F32(scores), device }, (rows, 4).into()))
    }

    fn bwd(&self, logits: &Tensor, scores: &Tensor, d_scores: &Tensor) -> Result<Option<Tensor>> {
        let gradient = logits.force_contiguous()?;
        gradient.inplace_op3(scores, &d_scores.narrow(1, 0, 1)?.contiguous()?, self)?;
        Ok(Some(gradient))
    }
}

impl InplaceOp3 for Scores {
    fn name(&self) -> &'static str {
        "lcg-masked-log-probs-backward"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        bail!("masks on a GPU, logits on the CPU")
    }

    fn cuda_fwd(
        &self,
        logits: &mut CudaStorage,
        layout: &Layout,
        scores: &CudaStorage,
        scores_layout: &Layout,
        upstream: &CudaStorage,
        upstream_layout: &Layout,
    ) -> Result<()> {
        let (_, start) = self.shape(layout)?;
        let (gpu, kernels) = kernels(logits)?;
        let stream = logits.device().cuda_stream();
        let targets = gpu.upload(&self.targets).map_err(Error::wrap)?;
        let f32s = |what: &str, storage: &CudaStorage, layout: &Layout| match (
            &storage.slice,
            layout.contiguous_offsets(),
        ) {
            (CudaStorageSlice::F32(data), Some((start, _))) => Ok(data.slice(start..).device_ptr(&stream).0),
            _ => bail!("{what} must be contiguous f32"),
        };
        let scores = f32s("scores", scores, scores_layout)?;
        let upstream = f32s("upstream gradients", upstream, upstream_layout)?;
        let (table, masks, kept) = &*self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        let run = |dtype, logits: u64| {
            let [logits, scores, upstream] = [logits, scores, upstream].map(Arg::device_address);
            let rest = [(&targets).into(), scores, upstream];
            // SAFETY: as in `cuda_fwd`; scores and upstream have 4 columns and 1 of as many rows.
            unsafe { kernels.backward(dtype, table, masks, kept, self.temperature, logits, rest) }
                .map_err(Error::wrap)
        };
        match &mut logits.slice {
            CudaStorageSlice::F32(a) => run(Dtype::F32, a.slice_mut(start..).device_ptr_mut(&stream).0),
            CudaStorageSlice::BF16(a) => run(Dtype::Bf16, a.slice_mut(start..).device_ptr_mut(&stream).0),
            _ => bail!("logits must be f32 or bf16"),
        }
    }
}
