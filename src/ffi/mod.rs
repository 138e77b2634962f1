//! The C ABI, one file a noun. No logic: arguments are checked and converted, the safe API does the work, and errors become
//! a status and a thread-local message.

#![allow(non_camel_case_types)]
// The safety contract of every exported function is its C documentation.
#![allow(clippy::missing_safety_doc)]

mod batch;
mod boundary;
mod constraint;
mod embedding;
mod error;
mod grounding;
mod image;
mod log;
mod model;
mod plan;
mod rank;
mod session;
mod version;
