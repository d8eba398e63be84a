//! Sixteen numbers at a time, with explicit instructions where the compiler does not find them by itself.

/// Numbers that are worked on together.
pub(super) const LANES: usize = 16;

/// Instructions that the processor has. A value is the proof.
pub(super) trait Simd: Copy {
    /// [`LANES`] numbers.
    type Vector: Copy;

    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, from: &[f32; LANES]) -> Self::Vector;
    fn store(self, vector: Self::Vector, to: &mut [f32; LANES]);
    /// `a · b + c`, rounded once.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Vector {
        *from
    }

    #[inline(always)]
    fn store(self, vector: Self::Vector, to: &mut [f32; LANES]) {
        *to = vector;
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Simd};

    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(());

    impl Avx2 {
        pub(in super::super) fn detect() -> Option<Self> {
            let there =
                std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
            there.then_some(Self(()))
        }
    }

    impl Avx512 {
        pub(in super::super) fn detect() -> Option<Self> {
            std::arch::is_x86_feature_detected!("avx512f").then_some(Self(()))
        }
    }

    // SAFETY, of all blocks below: a value of the type exists only where its instructions were detected, and an array has
    // as many numbers as are loaded or stored.

    impl Simd for Avx2 {
        type Vector = [__m256; 2];

        #[inline(always)]
        fn splat(self, value: f32) -> Self::Vector {
            unsafe { [_mm256_set1_ps(value); 2] }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::Vector {
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }

        #[inline(always)]
        fn store(self, [low, high]: Self::Vector, to: &mut [f32; LANES]) {
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), low);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), high);
            }
        }

        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }

    impl Simd for Avx512 {
        type Vector = __m512;

        #[inline(always)]
        fn splat(self, value: f32) -> Self::Vector {
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        fn load(self, from: &[f32; LANES]) -> Self::Vector {
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }

        #[inline(always)]
        fn store(self, vector: Self::Vector, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), vector) }
        }

        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }
}

/// As `multiversion!`, for bodies that name their instructions: `simd` is a [`Simd`].
macro_rules! with_simd {
    ($($(#[$meta:meta])* pub fn $name:ident[$simd:ident]($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => { $(
        $(#[$meta])*
        pub fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn body<S: $crate::kernel::lanes::Simd>($simd: S, $($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernel::lanes::{Avx2, Avx512};
                #[target_feature(enable = "avx512f")]
                fn avx512(simd: Avx512, $($arg: $ty),*) { body(simd, $($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2(simd: Avx2, $($arg: $ty),*) { body(simd, $($arg),*) }
                if let Some(simd) = Avx512::detect() {
                    // SAFETY: the instructions were just detected.
                    return unsafe { avx512(simd, $($arg),*) };
                }
                if let Some(simd) = Avx2::detect() {
                    // SAFETY: as above.
                    return unsafe { avx2(simd, $($arg),*) };
                }
            }
            body($crate::kernel::lanes::Portable, $($arg),*)
        }
    )* };
}
pub(super) use with_simd;
