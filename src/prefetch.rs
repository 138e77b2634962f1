//! Hints to the processor of what memory is needed soon. There need not be any memory: a hint never fails.

/// Bytes of a cache line, where hints are given.
const LINE: usize = 64;

/// Fetches bytes to the first-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn fetch<T>(p: *const T, bytes: usize) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
    for line in (0..bytes).step_by(LINE) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_byte_add(line).cast()) };
    }
}

/// Fetches bytes to the second-level cache: for where the first has no room for what is not needed at once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn fetch_to_second_level<T>(p: *const T, bytes: usize) {
    use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T1};
    for line in (0..bytes).step_by(LINE) {
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

/// Blocks of memory that are fetched to the second-level cache in shares, so that hints do not wait for each other.
pub(crate) struct Shares {
    at: *const u8,
    /// Lines of a block, and those that are left of this one.
    lines: usize,
    left: usize,
    /// Bytes from a block's last line to the next block.
    gap: usize,
    /// Blocks left behind this one.
    blocks: usize,
    /// Lines at a time.
    share: usize,
}

impl Shares {
    /// `blocks` blocks of `bytes` bytes, from one to the next `step` bytes, in `times` shares.
    #[inline(always)]
    pub(crate) fn new(at: *const u8, bytes: usize, step: usize, blocks: usize, times: usize) -> Shares {
        let lines = bytes / LINE;
        Shares { at, lines, left: 0, gap: step - lines * LINE, blocks, share: (lines * blocks).div_ceil(times) }
    }

    /// The next share.
    #[inline(always)]
    pub(crate) fn fetch(&mut self) {
        for _ in 0..self.share {
            if self.left == 0 {
                if self.blocks == 0 {
                    return;
                }
                self.blocks -= 1;
                self.left = self.lines;
            }
            fetch_to_second_level(self.at, LINE);
            self.left -= 1;
            let gap = if self.left == 0 { self.gap } else { 0 };
            self.at = self.at.wrapping_add(LINE + gap);
        }
    }
}
