//! Hints to the processor of what memory is needed soon. There need not be any memory: a hint never fails.

/// Fetches bytes to the first-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn fetch<T>(p: *const T, bytes: usize) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
    for line in (0..bytes).step_by(64) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_byte_add(line).cast()) };
    }
}

/// Fetches bytes to the second-level cache: for where the first has no room for what is not needed at once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn fetch_to_second_level<T>(p: *const T, bytes: usize) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T1};
    for line in (0..bytes).step_by(64) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.wrapping_byte_add(line).cast()) };
    }
}

/// Elsewhere there is no stable way to.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn fetch<T>(_p: *const T, _bytes: usize) {}

/// Elsewhere there is no stable way to.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn fetch_to_second_level<T>(_p: *const T, _bytes: usize) {}
