//! Runs TinyGPT-V on the benchmarks of its paper: the datasets' own files in, one line a question out, and the score.
//!
//! | module | job |
//! |---|---|
//! | `benchmark` | the benchmarks: names, questions, the paper's figures |
//! | `formats` | each dataset's files → items |
//! | `scoring` | truth and answer → score |
//! | `answerer` | picture and question → answer: a trait, and the model behind it |
//! | `results` | the file of results: header, lines, going on where a run ended |
//! | `runner` | the loop over the items |
//! | `summary` | results → table |

pub mod answerer;
pub mod benchmark;
pub mod formats;
pub mod results;
pub mod runner;
pub mod scoring;
pub mod summary;
