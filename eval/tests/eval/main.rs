//! Small made datasets in every format, with scores worked out by hand; runs that are cut off; the program on the demo model.

mod common;
mod formats;
mod program;
mod refs;
mod runs;
