//! Runs the program on the demo model's checkpoint and on changed copies of it.

mod common;
mod files;
mod layouts;
