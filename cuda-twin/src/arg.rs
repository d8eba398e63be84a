//! Arguments of a launch.

use crate::buf::{Buf, Storage};
use crate::{Error, Result};
use bytemuck::Pod;
use std::any::TypeId;
use std::fmt;
use std::ops::Range;

/// What is known of an element type: enough to tell `f32` from `i32` and `bf16` from `f16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element {
    /// As `Param::element` in `runtime.cuh`.
    pub(crate) code: u8,
    pub(crate) bytes: usize,
}

impl Element {
    pub(crate) fn of<T: Pod>() -> Self {
        let id = TypeId::of::<T>();
        let is = |list: &[TypeId]| list.contains(&id);
        let code = if id == TypeId::of::<f32>() {
            b'f'
        } else if id == TypeId::of::<f64>() {
            b'd'
        } else if id == TypeId::of::<half::f16>() {
            b'h'
        } else if id == TypeId::of::<half::bf16>() {
            b'b'
        } else if is(&[TypeId::of::<u8>(), TypeId::of::<i8>(), TypeId::of::<u16>(), TypeId::of::<i16>()])
            || is(&[TypeId::of::<u32>(), TypeId::of::<i32>(), TypeId::of::<u64>(), TypeId::of::<i64>()])
        {
            b'i'
        } else {
            b'?'
        };
        Self { code, bytes: size_of::<T>() }
    }

    /// Whether a buffer of these can be passed for a pointer to `other`. Bytes and compound types fit everything.
    pub(crate) fn fits(self, other: Self) -> bool {
        let any = |e: Self| e.code == b'?' || e.bytes <= 1;
        any(self) || any(other) || self == other
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.bytes) {
            (b'f', _) => write!(f, "float"),
            (b'd', _) => write!(f, "double"),
            (b'h', _) => write!(f, "__half"),
            (b'b', _) => write!(f, "__nv_bfloat16"),
            (b'i', n) => write!(f, "a {}-bit integer", n * 8),
            (_, 0) => write!(f, "void"),
            (_, n) => write!(f, "a type of {n} bytes"),
        }
    }
}

/// An argument of a launch: a buffer, a part of one, or a number. Made by `From`, [`Buf::slice`] or [`Arg::value`]; the
/// macro [`crate::args!`] makes a list of them.
#[derive(Clone)]
pub struct Arg<'a>(pub(crate) Kind<'a>);

#[derive(Clone)]
pub(crate) enum Kind<'a> {
    Memory {
        storage: &'a Storage,
        bytes: Range<usize>,
        element: Element,
    },
    Value {
        bits: u64,
        element: Element,
    },
    /// An address of device memory that somebody else owns.
    Address(u64),
}

impl Arg<'static> {
    /// A number of at most 8 bytes, passed by value: [`Error::Argument`] is what the launch says if it is larger.
    pub fn value<T: Pod>(value: T) -> Self {
        let (mut bits, bytes) = ([0; 8], bytemuck::bytes_of(&value));
        if let Some(low) = bits.get_mut(..bytes.len()) {
            low.copy_from_slice(bytes);
        }
        Self(Kind::Value { bits: u64::from_le_bytes(bits), element: Element::of::<T>() })
    }

    /// An address in GPU memory that another library owns, such as the storage of a candle tensor. The emulator refuses
    /// it.
    pub fn device_address(address: u64) -> Self {
        Self(Kind::Address(address))
    }
}

impl fmt::Debug for Arg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Memory { bytes, element, .. } => {
                let n = bytes.len().checked_div(element.bytes).unwrap_or(0);
                write!(f, "a buffer of {n} elements, each {element}")
            }
            Kind::Value { element, .. } => write!(f, "a value, {element}"),
            Kind::Address(address) => write!(f, "the device address {address:#x}"),
        }
    }
}

impl<'a, T: Pod> From<&'a Buf<T>> for Arg<'a> {
    fn from(buf: &'a Buf<T>) -> Self {
        Self(Kind::Memory {
            storage: &buf.storage,
            bytes: 0..buf.len() * size_of::<T>(),
            element: Element::of::<T>(),
        })
    }
}

impl<'a, T: Pod> From<&'a mut Buf<T>> for Arg<'a> {
    fn from(buf: &'a mut Buf<T>) -> Self {
        Self::from(&*buf)
    }
}

macro_rules! from_number {
    ($($t:ty)*) => {$(
        impl From<$t> for Arg<'_> {
            fn from(value: $t) -> Self {
                Arg::value(value)
            }
        }
    )*};
}
from_number!(f32 f64 i32 u32 i64 u64 half::f16 half::bf16);

impl<T: Pod> Buf<T> {
    /// Elements `range` of the buffer as an argument. The emulator lets the kernel access those alone.
    ///
    /// # Errors
    /// [`Error::Range`] where the range does not lie in the buffer.
    pub fn slice(&self, range: Range<usize>) -> Result<Arg<'_>> {
        let (start, end, len) = (range.start, range.end, self.len());
        if start > end || end > len {
            return Err(Error::Range { start, end, len });
        }
        let bytes = start * size_of::<T>()..end * size_of::<T>();
        Ok(Arg(Kind::Memory { storage: &self.storage, bytes, element: Element::of::<T>() }))
    }
}

/// A list of [`Arg`]s: buffers by reference, numbers by value.
///
/// ```
/// # use cuda_twin::{Gpu, Options, args};
/// # let gpu = Gpu::emulated(Options::default());
/// let (x, y) = (gpu.upload(&[1.0f32; 8])?, gpu.zeros::<f32>(8)?);
/// assert_eq!(args![&x, &y, 8i32, 0.5f32].len(), 4);
/// # Ok::<(), cuda_twin::Error>(())
/// ```
#[macro_export]
macro_rules! args {
    ($($argument:expr),* $(,)?) => { [$($crate::Arg::from($argument)),*] };
}
