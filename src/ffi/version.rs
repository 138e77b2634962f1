//! Versions.

use std::ffi::{c_char, CStr};

/// Version of the ABI that this header describes. The library keeps it as long as programs built against this header run
/// with it unchanged.
pub const TGV_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no NUL"),
};

/// The library's version, such as "1.2.3". Compare with TGV_VERSION of the header. Static, never NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub extern "C" fn tgv_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The ABI version the library was built with. It must equal TGV_ABI_VERSION of the header.
///
/// Thread-safety: any thread.
#[no_mangle]
pub extern "C" fn tgv_abi_version() -> u32 {
    TGV_ABI_VERSION
}
