//! Whether there is memory left, asked before code runs that could not tell of its lack.
//!
//! Large buffers are reserved where a failure is an error. But Rust ends the process when one of the many small allocations
//! fails, in our code or in the crates it uses, and parts of ggml do not look at what malloc gives them. So a call of the C API
//! that computes first makes sure that more than all of these take together could be had. Memory may vanish meanwhile all the
//! same: then `reserve.c` has some.

use std::borrow::Cow;

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// More than the small allocations of any call take together.
pub(crate) const HEADROOM: usize = 8 << 20;

/// More than a call takes that does not compute, and a thread's first destructor.
pub(crate) const SMALL: usize = 4 << 10;

/// What `check` says of no more than `HEADROOM`.
const NONE_TO_WORK_WITH: &str = "there are no 8 MB of memory left to work with; free some memory and call again";

/// Makes sure that `bytes` could be had. Costs two system calls: nothing of the memory is touched, and the allocator's own
/// stock stays as it is.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn check(bytes: usize) -> Result<()> {
    match MmapMut::map_anon(bytes) {
        Ok(_) => Ok(()),
        // A text that needs no memory of its own.
        Err(_) if bytes <= HEADROOM => Err(Error::OutOfMemory(Cow::Borrowed(NONE_TO_WORK_WITH))),
        Err(_) => Err(Error::OutOfMemory(
            format!("there are no {} MB of memory left to work with; free some memory and call again", bytes >> 20)
                .into(),
        )),
    }
}

/// Whether allocations of `bytes` together could be had of the system's allocator: the C library has small needs of its own.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn has_small(bytes: usize) -> bool {
    // The one function of its kind that the reserve does not stand in front of.
    // SAFETY: plain calls; free takes NULL, too.
    unsafe {
        // An allocation that nobody looks at could be optimised away.
        let memory = std::hint::black_box(libc::memalign(16, bytes));
        libc::free(memory);
        !memory.is_null()
    }
}

/// Whether allocations of `bytes` together could be had of the allocator.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn has_small(bytes: usize) -> bool {
    // An allocation that nobody looks at could be optimised away.
    std::hint::black_box(Vec::<u8>::new()).try_reserve_exact(std::hint::black_box(bytes)).is_ok()
}

/// Appends items whose number is known.
///
/// # Errors
/// `OutOfMemory`; `buffer` is then as it was.
pub(crate) fn extend<T>(buffer: &mut Vec<T>, items: impl ExactSizeIterator<Item = T>) -> Result<()> {
    let count = items.len();
    buffer.try_reserve_exact(count).map_err(|_| {
        Error::OutOfMemory(
            format!("no memory for {} bytes; free some memory and call again", count.saturating_mul(size_of::<T>()))
                .into(),
        )
    })?;
    buffer.extend(items);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_told() {
        check(HEADROOM).unwrap();
        let told = check(usize::MAX / 4).unwrap_err();
        assert!(matches!(&told, Error::OutOfMemory(text) if text.contains("MB")), "{told}");
        let mut buffer = vec![1u8];
        assert!(matches!(extend(&mut buffer, std::iter::repeat_n(0, usize::MAX / 2)), Err(Error::OutOfMemory(_))));
        extend(&mut buffer, 2..5).unwrap();
        assert_eq!(buffer, [1, 2, 3, 4]);
    }
}
