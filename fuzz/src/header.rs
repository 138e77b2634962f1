//! include/tinygptv.h, as bindgen reads it.

#![allow(dead_code, non_camel_case_types, non_upper_case_globals, missing_docs)]
#![allow(clippy::all)]

include!(concat!(env!("OUT_DIR"), "/header.rs"));
