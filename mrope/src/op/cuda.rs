//! The same on a GPU: the kernel of `kernels/rotary.cu` on candle's memory and stream.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut};
use candle_core::{CudaStorage, DType, Error as CandleError, Layout, Result, Shape, Storage, Tensor, bail};
use cuda_twin::{Arg, Gpu};

use super::Rotate;
use crate::error::Error;
use crate::kernels::{Dtype, HeadStrides, RotaryKernels, Rotation};
use crate::rotate::Direction;
use crate::rows::HeadRows;

impl Rotate {
    fn rotation(&self, rows: &HeadRows, to: HeadStrides) -> Rotation {
        let (tokens, pairs) = (rows.tokens(), self.table.rotary_dim() / 2);
        Rotation {
            tokens,
            seq: rows.seq(),
            heads: rows.heads(),
            head_dim: rows.head_dim(),
            pairs,
            pairing: self.table.pairing(),
            plane_stride: self.table.plane_stride(),
            adjoint: self.direction == Direction::Adjoint,
            from: rows.head_strides(),
            to,
        }
    }

    /// From the heads at device address `x` to those at `y`.
    fn launch(&self, storage: &CudaStorage, rotation: &Rotation, dtype: Dtype, x: u64, y: u64) -> Result<()> {
        let stream = storage.device().cuda_stream();
        let gpu = Gpu::from_stream(stream.clone()).map_err(CandleError::wrap)?;
        let kernels = RotaryKernels::new(&gpu).map_err(CandleError::wrap)?;
        let planes: Vec<i32> = self.planes.iter().map(|p| p.map_or(-1, |p| p as i32)).collect();
        let planes = gpu.upload(&planes).map_err(CandleError::wrap)?;
        let address = |table: &Tensor| {
            let (storage, layout) = table.storage_and_layout();
            match &*storage {
                Storage::Cuda(CudaStorage { slice: CudaStorageSlice::F32(data), .. }) => {
                    Ok(data.slice(layout.start_offset()..).device_ptr(&stream).0)
                }
                _ => bail!("the rotary table is not on the GPU"),
            }
        };
        let (cos, sin) = self.table.angles();
        let (cos, sin) = (address(cos)?, address(sin)?);
        let vectors = rotation.vectors(dtype, x.is_multiple_of(16) && y.is_multiple_of(16));
        let [x, y, cos, sin] = [x, y, cos, sin].map(Arg::device_address);
        // SAFETY: `HeadRows` lie in the tensors, `checked` compared them with the table, and all are alive until the launch
        // is in the stream.
        unsafe { kernels.rotate(dtype, rotation, vectors, x, y, cos, sin, (&planes).into()) }
            .map_err(CandleError::wrap)
    }

    pub(super) fn forward_on_gpu(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let rows = HeadRows::of(layout)?;
        let rotation = self.rotation(&rows, rows.contiguous_strides());
        let (device, stream) = (x.device().clone(), x.device().cuda_stream());
        let len = (rows.count() * rows.head_dim()).max(1);
        macro_rules! run {
            ($data:expr, $t:ty, $dtype:expr, $variant:path) => {{
                // SAFETY: the kernel writes every element.
                let mut y = unsafe { device.alloc::<$t>(len) }?;
                {
                    let (y, _held) = y.device_ptr_mut(&stream);
                    self.launch(x, &rotation, $dtype, $data.slice(rows.start()..).device_ptr(&stream).0, y)?;
                }
                $variant(y)
            }};
        }
        let slice = match &x.slice {
            CudaStorageSlice::F32(a) => run!(a, f32, Dtype::F32, CudaStorageSlice::F32),
            CudaStorageSlice::BF16(a) => run!(a, half::bf16, Dtype::Bf16, CudaStorageSlice::BF16),
            CudaStorageSlice::F16(a) => run!(a, half::f16, Dtype::F16, CudaStorageSlice::F16),
            _ => return Err(Error::DType(dtype(x)).into()),
        };
        Ok((CudaStorage { slice, device }, layout.shape().clone()))
    }

    pub(super) fn in_place_on_gpu(&self, x: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let rows = HeadRows::of(layout)?;
        let rotation = self.rotation(&rows, rows.head_strides());
        let stream = x.device().cuda_stream();
        let start = rows.start()..;
        let (dtype, address) = match &x.slice {
            CudaStorageSlice::F32(a) => (Dtype::F32, a.slice(start).device_ptr(&stream).0),
            CudaStorageSlice::BF16(a) => (Dtype::Bf16, a.slice(start).device_ptr(&stream).0),
            CudaStorageSlice::F16(a) => (Dtype::F16, a.slice(start).device_ptr(&stream).0),
            _ => return Err(Error::DType(dtype(x)).into()),
        };
        self.launch(x, &rotation, dtype, address, address)
    }
}

fn dtype(storage: &CudaStorage) -> DType {
    storage.dtype()
}
