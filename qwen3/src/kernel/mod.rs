//! Plain `f32` kernels on slices: what the candle operations of [`crate::ops`] and the decoder share.
//!
//! One invariant holds for every kernel that computes a row of the forward pass: **the bits of a row depend on
//! that row alone**, not on the rows beside it, not on how rows are grouped into calls, not on the number of
//! threads. Generation and training therefore give the same log-probabilities, and a sample does not depend on
//! what else is in the batch. Backward sums over rows run in row order in fixed chunks, for the same reason.

pub mod activation;
pub mod attention;
pub mod bf16;
pub mod experts;
mod lanes;
pub mod matmul;
pub mod norm;
mod precision;
pub mod rope;
pub mod softmax;
pub(crate) mod stored;

pub use precision::MatmulPrecision;

/// Compiles a function for AVX-512, for AVX2 and for the baseline, and picks one at run time.
///
/// The body is the same safe code; only what the compiler may assume differs. `mul_add` is not used inside, so
/// all versions give the same bits.
macro_rules! multiversion {
    ($($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => { $(
        $(#[$meta])*
        #[inline]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features the function is compiled for were just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the two features the function is compiled for were just detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )* };
}
pub(crate) use multiversion;

/// Rows in one unit of parallel work. Fixed, so that the split does not depend on the number of threads.
pub(crate) const ROW_CHUNK: usize = 64;

/// A raw pointer that tasks may share when they write disjoint ranges.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(*mut T);
// SAFETY: every user hands disjoint ranges to its tasks; see the call sites.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    /// # Safety
    /// `[start, start + len)` must lie in the slice this was made from, must be touched by no other task, and
    /// the slice must outlive the result.
    pub(crate) unsafe fn range<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    pub(crate) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}
