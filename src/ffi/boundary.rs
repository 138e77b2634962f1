//! What every exported function shares: the panic boundary, handles, option structs, strings.

use std::borrow::Cow;
use std::ffi::{c_char, CStr};
use std::sync::Arc;

use super::error::{set_last_error, tgv_status, TGV_OK};
use crate::error::{Error, Result};
use crate::memory;
use crate::panics;

/// Runs the body of an exported function. Errors and panics become a status and this thread's last error.
pub(super) fn boundary(body: impl FnOnce() -> Result<()>) -> tgv_status {
    let error = if memory::has_small(memory::SMALL) {
        match panics::quietly(body) {
            Ok(Ok(())) => return TGV_OK,
            Ok(Err(error)) => error,
            Err(payload) => Error::Internal(panics::text(payload.as_ref())),
        }
    } else {
        Error::OutOfMemory(Cow::Borrowed("there is no memory left; free some and call again"))
    };
    set_last_error(&error);
    error.status()
}

/// `boundary` of a function that computes: not begun without memory for its small allocations.
pub(super) fn working(body: impl FnOnce() -> Result<()>) -> tgv_status {
    boundary(|| {
        memory::check(memory::HEADROOM)?;
        body()
    })
}

/// Ties an opaque C type to what its handles own. Every handle is an `Arc` in disguise: a call in progress holds its own
/// reference, so freeing a handle from a callback, or freeing parents before children, is sound.
pub(super) trait Handle: Sized {
    /// What a handle points to.
    type Inner;
    /// For messages.
    const NAME: &'static str;

    /// A new handle for C.
    fn give(inner: Arc<Self::Inner>) -> *mut Self {
        Arc::into_raw(inner).cast_mut().cast()
    }

    /// Another reference to what the handle owns.
    ///
    /// # Safety
    /// `handle` is NULL or came from `give` and was not taken back yet.
    unsafe fn share(handle: *const Self) -> Result<Arc<Self::Inner>> {
        if handle.is_null() {
            return Err(Error::InvalidArgument(format!("the {} is NULL; pass one that was created", Self::NAME)));
        }
        let inner = handle.cast::<Self::Inner>();
        // SAFETY: per the contract the pointer came from Arc::into_raw and its reference is still counted.
        unsafe {
            Arc::increment_strong_count(inner);
            Ok(Arc::from_raw(inner))
        }
    }

    /// Takes a handle back; NULL does nothing.
    ///
    /// # Safety
    /// As for `share`, and the handle is not used afterwards.
    unsafe fn take_back(handle: *mut Self) {
        if !handle.is_null() {
            // Dropping may run into C++; nothing of it may unwind into C.
            let _ = panics::quietly(|| {
                // SAFETY: per the contract.
                drop(unsafe { Arc::from_raw(handle.cast::<Self::Inner>().cast_const()) });
            });
        }
    }
}

/// Checks an out parameter.
pub(super) fn require_out<T>(out: *mut T, name: &str) -> Result<()> {
    if out.is_null() {
        return Err(Error::InvalidArgument(format!("{name} is NULL; pass the address of a variable for the result")));
    }
    Ok(())
}

/// A required UTF-8 text.
///
/// # Safety
/// `text` is NULL or terminated, and lives for `'a`.
pub(super) unsafe fn require_text<'a>(text: *const c_char, what: &'static str) -> Result<&'a str> {
    // SAFETY: passed on.
    unsafe { optional_text(text, what) }?
        .ok_or_else(|| Error::InvalidArgument(format!("{what} is NULL; pass a terminated UTF-8 string")))
}

/// A UTF-8 text or NULL.
///
/// # Safety
/// `text` is NULL or terminated, and lives for `'a`.
pub(super) unsafe fn optional_text<'a>(text: *const c_char, what: &'static str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: per the contract.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    std::str::from_utf8(bytes).map(Some).map_err(|e| Error::InvalidUtf8 { what, offset: e.valid_up_to() })
}

/// An array of UTF-8 texts; NULL is fine when `count` is 0.
///
/// # Safety
/// `texts` is NULL or points to `count` texts, each NULL or terminated, which live for `'a`.
pub(super) unsafe fn text_array<'a>(
    texts: *const *const c_char,
    count: usize,
    most: usize,
    array: &str,
    what: &'static str,
) -> Result<Vec<&'a str>> {
    if count > most {
        return Err(Error::InvalidArgument(format!("{array} has {count} texts; at most {most} are allowed")));
    }
    if count > 0 && texts.is_null() {
        return Err(Error::InvalidArgument(format!("{array} is NULL; pass an array of {count} texts")));
    }
    // SAFETY: per the contract.
    (0..count).map(|i| unsafe { require_text(*texts.add(i), what) }).collect()
}

/// A struct whose first field is its size as the caller's header knows it. All-zero is a valid value and the default.
///
/// # Safety
/// `repr(C)`, first field `struct_size: usize`, valid for every bit pattern, no padding that matters.
pub(super) unsafe trait SizedStruct: Copy {
    /// For messages.
    const NAME: &'static str;
    /// Size in the first released header; smaller is an uninitialised struct.
    const FIRST_SIZE: usize;
}

/// Copies an option struct; NULL gives all defaults. Fields that the caller's header does not have yet are zero; fields
/// that this library does not know yet must be zero.
///
/// # Safety
/// `options` is NULL or points to as many bytes as its first field says.
pub(super) unsafe fn read_options<T: SizedStruct>(options: *const T) -> Result<T> {
    let own = size_of::<T>();
    // SAFETY: SizedStruct is valid for every bit pattern.
    let mut value: T = unsafe { std::mem::zeroed() };
    if options.is_null() {
        return Ok(value);
    }
    // SAFETY: per the contract, and the first field is the size.
    let size = unsafe { options.cast::<usize>().read() };
    check_size::<T>(size)?;
    // SAFETY: both are at least that long.
    unsafe {
        std::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(own));
    }
    if size > own {
        // SAFETY: the caller's struct is `size` long.
        let unknown = unsafe { std::slice::from_raw_parts(options.cast::<u8>().add(own), size - own) };
        if unknown.iter().any(|&b| b != 0) {
            return Err(Error::InvalidArgument(format!(
                "{} sets a field that this version of the library does not know; update the library",
                T::NAME
            )));
        }
    }
    Ok(value)
}

/// Fills a result struct as far as the caller's header knows it; its `struct_size` stays as it is.
///
/// # Safety
/// `out` is NULL or points to as many bytes as its first field says.
pub(super) unsafe fn write_result<T: SizedStruct>(out: *mut T, value: &T) -> Result<()> {
    require_out(out, T::NAME)?;
    // SAFETY: per the contract, and the first field is the size.
    let size = unsafe { out.cast::<usize>().read() };
    check_size::<T>(size)?;
    let skip = size_of::<usize>();
    // SAFETY: both are at least that long and do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (value as *const T).cast::<u8>().add(skip),
            out.cast::<u8>().add(skip),
            size.min(size_of::<T>()) - skip,
        );
    }
    Ok(())
}

/// More than any struct of this ABI will ever be: a larger value is an uninitialised struct.
const MAX_STRUCT_SIZE: usize = 4096;

fn check_size<T: SizedStruct>(size: usize) -> Result<()> {
    if (T::FIRST_SIZE..=MAX_STRUCT_SIZE).contains(&size) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!(
        "struct_size of {} is {size}; initialise the struct with its ..._INIT macro",
        T::NAME
    )))
}

/// A reserved field, which may come to mean something: other values than zero are refused until it does.
pub(super) fn require_zero(reserved: impl Into<i64>, name: &str) -> Result<()> {
    if reserved.into() == 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{name}.reserved is not 0; initialise the struct with its _INIT macro")))
}

/// A count from a C integer: negative is refused.
pub(super) fn count(value: i32, name: &str) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::InvalidArgument(format!("{name} is {value}; use 0 for the default")))
}

/// `int32_t (*)(float fraction, void *user_data)`: called with the fraction done, from 0 to 1, on the thread of the call
/// that it was passed to and never after that call has returned. Return 0 to go on, anything else to stop; the call then
/// returns TGV_ERROR_CANCELLED.
pub type tgv_progress_callback = Option<unsafe extern "C" fn(fraction: f32, user_data: *mut std::ffi::c_void) -> i32>;

/// The callback as a closure that returns whether to go on.
pub(super) fn progress_closure(
    callback: tgv_progress_callback,
    user_data: *mut std::ffi::c_void,
) -> impl FnMut(f32) -> bool {
    move |fraction| match callback {
        // SAFETY: the caller of the ABI promises that the callback and its data are good during the call.
        Some(callback) => unsafe { callback(fraction, user_data) == 0 },
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Known {
        struct_size: usize,
        a: u64,
        b: u64,
    }

    // SAFETY: plain integers.
    unsafe impl SizedStruct for Known {
        const NAME: &'static str = "known";
        const FIRST_SIZE: usize = 16;
    }

    fn read(words: &[usize]) -> Result<Known> {
        // SAFETY: the slices below are as long as their first word says, or refused by it.
        unsafe { read_options(words.as_ptr().cast()) }
    }

    #[test]
    fn older_and_newer_structs_are_read() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read_options::<Known>(std::ptr::null()) }.unwrap().a, 0);
        assert_eq!(read(&[16, 5]).unwrap(), Known { struct_size: 16, a: 5, b: 0 });
        assert_eq!(read(&[24, 5, 6]).unwrap(), Known { struct_size: 24, a: 5, b: 6 });
        assert_eq!(read(&[32, 5, 6, 0]).unwrap().b, 6);
        assert!(read(&[32, 5, 6, 1]).unwrap_err().to_string().contains("update"));
        assert!(read(&[0, 5, 6]).unwrap_err().to_string().contains("_INIT"));
        assert!(read(&[usize::MAX, 5, 6]).is_err());
    }

    #[test]
    fn results_fill_what_the_caller_knows() {
        let value = Known { struct_size: 24, a: 1, b: 2 };
        let mut out = [16usize, 9, 9];
        // SAFETY: out is longer than its first word says.
        unsafe { write_result(out.as_mut_ptr().cast(), &value) }.unwrap();
        assert_eq!(out, [16, 1, 9]);
    }

    #[test]
    fn panics_become_a_status() {
        assert_eq!(boundary(|| panic!("oops")), Error::Internal(String::new()).status());
        assert_eq!(boundary(|| Ok(())), TGV_OK);
    }
}
