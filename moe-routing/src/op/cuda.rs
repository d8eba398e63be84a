//! The same on a GPU: the kernels of this crate on candle's memory and stream.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::{CudaStorage, Error as CandleError, Layout, Result, Shape, bail};
use cuda_twin::{Arg, Buf, Gpu};

use super::rows::{Combine, Move};
use super::{Choice, Gates, RouterLoss};
use crate::Error;
use crate::kernels::{Dtype, GateKernels, LossKernels, PermuteKernels, RouterKernels, check};
use crate::router::Router;

fn gpu(storage: &CudaStorage) -> Result<Gpu> {
    Gpu::from_stream(storage.device().cuda_stream()).map_err(CandleError::wrap)
}

/// Where contiguous `f32` values lie.
fn address<'a>(what: &str, storage: &CudaStorage, layout: &Layout) -> Result<Arg<'a>> {
    let stream = storage.device().cuda_stream();
    match (&storage.slice, layout.contiguous_offsets()) {
        (CudaStorageSlice::F32(data), Some((start, end))) => {
            Ok(Arg::device_address(data.slice(start..end).device_ptr(&stream).0))
        }
        _ => bail!("{what} must be contiguous f32"),
    }
}

/// Memory for `len` elements, all of which the kernel that gets the address must write.
fn output<T: DeviceRepr>(like: &CudaStorage, len: usize) -> Result<(CudaSlice<T>, Arg<'static>)> {
    let (device, stream) = (like.device(), like.device().cuda_stream());
    // SAFETY: written before it is read, as said above.
    let mut memory = unsafe { device.alloc::<T>(len.max(1)) }?;
    let address = memory.device_ptr_mut(&stream).0;
    Ok((memory, Arg::device_address(address)))
}

fn storage(slice: CudaStorageSlice, like: &CudaStorage) -> CudaStorage {
    CudaStorage { slice, device: like.device().clone() }
}

fn statuses(gpu: &Gpu, tokens: usize) -> Result<Buf<i32>> {
    gpu.zeros(tokens).map_err(CandleError::wrap)
}

impl Choice<'_> {
    pub(super) fn on_gpu(&self, s: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (tokens, experts) = layout.shape().dims2()?;
        let (gpu, logits, shape) =
            (gpu(s)?, address("router_logits", s, layout)?, [tokens, experts, self.top_k]);
        self.router.validate(experts, self.top_k)?;
        let kernels = RouterKernels::new(&gpu).map_err(CandleError::wrap)?;
        let bias = match self.router.family() {
            Router::SigmoidTopK { bias, .. } if !bias.is_empty() => {
                Some(gpu.upload(bias).map_err(CandleError::wrap)?)
            }
            _ => None,
        };
        let (bias, status) = (bias.as_ref().map(Arg::from), statuses(&gpu, tokens)?);
        let (ids, out) = output(s, tokens * self.top_k)?;
        // SAFETY: buffers of the shape; the tensor is alive.
        unsafe { kernels.top_k(self.router, shape, logits, bias, out, (&status).into()) }
            .map_err(CandleError::wrap)?;
        check(&status.read().map_err(CandleError::wrap)?, self.top_k, None)?;
        Ok((storage(CudaStorageSlice::U32(ids), s), (tokens, self.top_k).into()))
    }
}

impl Gates {
    /// The shape of a call, once the ids fit it.
    fn shape(&self, layout: &Layout) -> Result<[usize; 3]> {
        let (tokens, experts) = layout.shape().dims2()?;
        self.router.validate(experts, self.top_k)?;
        let (found, expected) = (self.ids.len(), tokens * self.top_k);
        if found != expected {
            Err(Error::Shape { what: "ids", found, expected })?;
        }
        Ok([tokens, experts, self.top_k])
    }

    pub(super) fn on_gpu(&self, s: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = self.shape(layout)?;
        let [tokens, experts, top_k] = shape;
        let (gpu, logits) = (gpu(s)?, address("router_logits", s, layout)?);
        let kernels = GateKernels::new(&gpu).map_err(CandleError::wrap)?;
        let (ids, status) = (gpu.upload(&self.ids).map_err(CandleError::wrap)?, statuses(&gpu, tokens)?);
        let (gates, out) = output(s, tokens * top_k)?;
        // SAFETY: buffers of the shape; the tensor is alive.
        unsafe { kernels.gates(&self.router, shape, logits, (&ids).into(), out, (&status).into()) }
            .map_err(CandleError::wrap)?;
        check(&status.read().map_err(CandleError::wrap)?, 1, Some((&self.ids, top_k, experts)))?;
        Ok((storage(CudaStorageSlice::F32(gates), s), (tokens, top_k).into()))
    }

    /// For logits that [`Self::on_gpu`] took.
    pub(super) fn backward_on_gpu(
        &self,
        (s, layout): (&CudaStorage, &Layout),
        (d, d_layout): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape)> {
        let shape = self.shape(layout)?;
        let (gpu, logits) = (gpu(s)?, address("router_logits", s, layout)?);
        let d_gates = address("d_gates", d, d_layout)?;
        let kernels = GateKernels::new(&gpu).map_err(CandleError::wrap)?;
        let ids = gpu.upload(&self.ids).map_err(CandleError::wrap)?;
        let expected = self.ids.len();
        let found = d_layout.shape().elem_count();
        if found != expected {
            Err(Error::Shape { what: "d_gates", found, expected })?;
        }
        let (d_logits, out) = output(s, shape[0] * shape[1])?;
        // SAFETY: buffers of the shape, for which the forward had no status; the tensors are alive.
        unsafe { kernels.gates_backward(&self.router, shape, logits, (&ids).into(), d_gates, out) }
            .map_err(CandleError::wrap)?;
        Ok((storage(CudaStorageSlice::F32(d_logits), s), layout.shape().clone()))
    }
}

impl RouterLoss {
    /// The loss and its gradient.
    pub(super) fn on_gpu(&self, s: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, CudaStorage)> {
        let (experts, logits) = (self.experts(layout)?, address("router_logits", s, layout)?);
        let tokens = layout.shape().dims2()?.0;
        let gpu = gpu(s)?;
        let status = statuses(&gpu, tokens)?;
        let kernels = LossKernels::new(&gpu).map_err(CandleError::wrap)?;
        let parts = gpu.uninit::<f32>(tokens).map_err(CandleError::wrap)?;
        let shares = match self {
            Self::Balance { counts, top_k, router, form } => {
                router.validate(experts, *top_k)?;
                let shares: Vec<f32> = form.shares(counts, *top_k).into_iter().map(|s| s as f32).collect();
                Some((router, gpu.upload(&shares).map_err(CandleError::wrap)?))
            }
            Self::Z => None,
        };
        let ((loss, to_loss), (gradient, to_gradient)) = (output(s, 1)?, output(s, tokens * experts)?);
        let out = [to_loss, to_gradient, (&parts).into(), (&status).into()];
        match &shares {
            // SAFETY: buffers of the shape; the tensor is alive.
            Some((router, shares)) => unsafe {
                kernels.load_balance(router, [tokens, experts], logits, shares.into(), out)
            },
            // SAFETY: the same.
            None => unsafe { kernels.z_loss([tokens, experts], logits, out) },
        }
        .map_err(CandleError::wrap)?;
        check(&status.read().map_err(CandleError::wrap)?, 1, None)?;
        let [loss, gradient] = [loss, gradient].map(|slice| storage(CudaStorageSlice::F32(slice), s));
        Ok((loss, gradient))
    }
}

/// As [`address`], for rows that are read 16 bytes at once.
fn rows_address<'a>(what: &str, storage: &CudaStorage, layout: &Layout) -> Result<Arg<'a>> {
    let start = layout.start_offset() * size_of::<f32>();
    if layout.dims().last().is_some_and(|width| width.is_multiple_of(4)) && !start.is_multiple_of(16) {
        bail!("{what} must start at a multiple of 16 bytes, not at byte {start} of its storage");
    }
    address(what, storage, layout)
}

fn indices(gpu: &Gpu, values: &[u32]) -> Result<Buf<u32>> {
    gpu.upload(values).map_err(CandleError::wrap)
}

impl Move {
    pub(super) fn on_gpu(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let [_, to, width] = self.shape(layout)?;
        let (gpu, from) = (gpu(x)?, rows_address("activations", x, layout)?);
        let kernels = PermuteKernels::new(&gpu).map_err(CandleError::wrap)?;
        let (y, out) = output::<f32>(x, to * width)?;
        if self.to_tokens {
            let inverse = indices(&gpu, self.dispatch.inverse())?;
            let shape = [to, self.dispatch.top_k(), width];
            // SAFETY: buffers of the dispatch's shape; the tensor is alive.
            unsafe { kernels.permute_backward(Dtype::F32, shape, from, (&inverse).into(), out) }
        } else {
            let token_of = indices(&gpu, self.dispatch.token_of())?;
            // SAFETY: as above.
            unsafe { kernels.permute(Dtype::F32, [to, width], from, (&token_of).into(), out) }
        }
        .map_err(CandleError::wrap)?;
        Ok((storage(CudaStorageSlice::F32(y), x), (to, width).into()))
    }
}

type Part<'a> = (&'a CudaStorage, &'a Layout);

impl Combine {
    pub(super) fn on_gpu(&self, rows: Part<'_>, gates: Part<'_>) -> Result<(CudaStorage, Shape)> {
        let shape = self.shape(rows.1, gates.1)?;
        let gpu = gpu(rows.0)?;
        let kernels = PermuteKernels::new(&gpu).map_err(CandleError::wrap)?;
        let inverse = indices(&gpu, self.dispatch.inverse())?;
        let (y, out) = output::<f32>(rows.0, shape[0] * shape[2])?;
        let (from, weights) = (rows_address("rows", rows.0, rows.1)?, address("gates", gates.0, gates.1)?);
        // SAFETY: buffers of the dispatch's shape; both tensors are alive.
        unsafe { kernels.unpermute(Dtype::F32, shape, from, weights, (&inverse).into(), out) }
            .map_err(CandleError::wrap)?;
        Ok((storage(CudaStorageSlice::F32(y), rows.0), (shape[0], shape[2]).into()))
    }

    pub(super) fn backward_on_gpu(
        &self,
        dy: Part<'_>,
        rows: Part<'_>,
        gates: Part<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        let [tokens, k, width] = self.shape(rows.1, gates.1)?;
        if dy.1.dims() != [tokens, width] {
            bail!("the gradient is {:?}, expected [{tokens}, {width}]", dy.1.dims());
        }
        let gpu = gpu(rows.0)?;
        let kernels = PermuteKernels::new(&gpu).map_err(CandleError::wrap)?;
        let order = indices(&gpu, self.dispatch.order())?;
        let (device, stream) = (rows.0.device(), rows.0.device().cuda_stream());
        let (pairs, len) = (tokens * k, tokens * k * (width + 1));
        // SAFETY: the kernel writes all rows and all gates.
        let mut both = unsafe { device.alloc::<f32>(len.max(1)) }?;
        let start = both.device_ptr_mut(&stream).0;
        let d_rows = Arg::device_address(start);
        let d_gates = Arg::device_address(start + (pairs * width * size_of::<f32>()) as u64);
        let inputs = [
            rows_address("the gradient", dy.0, dy.1)?,
            rows_address("rows", rows.0, rows.1)?,
            address("gates", gates.0, gates.1)?,
            (&order).into(),
        ];
        // SAFETY: buffers of the dispatch's shape; all tensors are alive.
        unsafe { kernels.unpermute_backward(Dtype::F32, [tokens, k, width], inputs, d_rows, d_gates) }
            .map_err(CandleError::wrap)?;
        Ok((storage(CudaStorageSlice::F32(both), rows.0), len.into()))
    }
}
