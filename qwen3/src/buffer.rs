//! Memory that is used again: a step of a decoder takes what the one before gave back.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// What each thread keeps at most.
const KEPT: usize = 64;

/// A thread's vectors that nobody holds.
pub(crate) type Free<T> = RefCell<Vec<Vec<T>>>;

/// What a [`Buffer`] may hold.
pub trait Pooled: Copy + Default + 'static {
    #[doc(hidden)]
    fn free() -> &'static LocalKey<Free<Self>>;
}

/// Lets a type be what a [`Buffer`] holds.
macro_rules! pooled {
    ($($number:ty),*) => {$(
        impl $crate::buffer::Pooled for $number {
            fn free() -> &'static std::thread::LocalKey<$crate::buffer::Free<Self>> {
                thread_local!(static FREE: $crate::buffer::Free<$number> = const { std::cell::RefCell::new(Vec::new()) });
                &FREE
            }
        }
    )*};
}
pub(crate) use pooled;
pooled!(f32, u32, usize, policy_loss::logits::Partial);

/// A vector whose memory goes back to the thread that drops it, and is the next one's of about its length.
#[derive(Debug, Default)]
pub struct Buffer<T: Pooled = f32>(Vec<T>);

impl<T: Pooled> Buffer<T> {
    /// `len` numbers, whatever they were before: the smallest free vector that holds so many, or else the largest, which grows.
    #[must_use]
    pub fn of(len: usize) -> Self {
        let taken = T::free().try_with(|free| {
            let mut free = free.borrow_mut();
            let fits = |i: &usize| free[*i].capacity() >= len;
            let all = 0..free.len();
            let best = all.clone().filter(fits).min_by_key(|i| free[*i].capacity());
            let best = best.or_else(|| all.max_by_key(|i| free[*i].capacity()));
            best.map(|i| free.swap_remove(i))
        });
        let mut numbers = taken.ok().flatten().unwrap_or_default();
        numbers.resize(len, T::default());
        Self(numbers)
    }

    /// `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::of(len);
        buffer.fill(T::default());
        buffer
    }
}

impl<T: Pooled> Drop for Buffer<T> {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        if numbers.capacity() > 0 {
            // A thread that ends keeps nothing.
            _ = T::free().try_with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(numbers);
                }
            });
        }
    }
}

impl<T: Pooled> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::of(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: Pooled> Deref for Buffer<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T: Pooled> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn memory_is_taken_again() {
        let first = Buffer::<usize>::zeroed(100);
        let (at, second) = (first.as_ptr(), Buffer::<usize>::of(10));
        drop((first, second));
        // The smallest that is large enough; the larger stays for who needs it.
        let (small, large) = (Buffer::<usize>::of(7), Buffer::<usize>::of(60));
        assert_ne!(small.as_ptr(), at);
        assert_eq!((large.as_ptr(), large.len()), (at, 60));
        drop(large);
        assert_eq!(Buffer::<usize>::zeroed(100).iter().sum::<usize>(), 0);
    }
}
