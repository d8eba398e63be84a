//! Memory of a device.

use crate::emulator::Memory;
use crate::{Error, Result};
use bytemuck::Pod;
use std::fmt;
use std::marker::PhantomData;

/// `len` elements in a device's memory. Freed on drop.
pub struct Buf<T> {
    pub(crate) storage: Storage,
    len: usize,
    element: PhantomData<T>,
}

pub(crate) enum Storage {
    Emulated(Memory),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Memory),
}

impl<T: Pod> Buf<T> {
    pub(crate) fn new(storage: Storage, len: usize) -> Self {
        Self { storage, len, element: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, copied to the host after all launches before.
    ///
    /// # Errors
    /// [`Error::Unwritten`] from the checked emulator for an element of [`crate::Gpu::uninit`] that nothing has written;
    /// [`Error::Cuda`] from a GPU.
    pub fn read(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        match &self.storage {
            Storage::Emulated(memory) => {
                if let Some(byte) = memory.first_unwritten() {
                    return Err(Error::Unwritten { element: byte / size_of::<T>(), len: self.len });
                }
                memory.read(bytes);
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.read(bytes)?,
        }
        Ok(values)
    }

    /// Replaces all elements.
    ///
    /// # Errors
    /// [`Error::Length`] for another number of values; [`Error::Cuda`] from a GPU.
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        if values.len() != self.len {
            return Err(Error::Length { found: values.len(), expected: self.len });
        }
        match &mut self.storage {
            Storage::Emulated(memory) => memory.write(bytemuck::cast_slice(values)),
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.write(bytemuck::cast_slice(values))?,
        }
        Ok(())
    }

    /// Where the elements are: a device address on a GPU, a host address in emulation.
    pub fn address(&self) -> u64 {
        match &self.storage {
            Storage::Emulated(memory) => memory.start() as u64,
            #[cfg(feature = "cuda")]
            Storage::Cuda(memory) => memory.address(),
        }
    }
}

impl<T> fmt::Debug for Buf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buf<{}>({})", std::any::type_name::<T>(), self.len)
    }
}
