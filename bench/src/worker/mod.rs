//! The child processes that measure: each holds one program under test, so that memory, threads and failures are its own.

mod accuracy;
mod ggml;
mod llama;
mod ours;
mod peaks;

use std::collections::BTreeMap;
use std::io::{stdin, stdout};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, Result};
use clap::{Args, Subcommand};

use crate::protocol::{serve, Figures, Request};

/// What a child process is.
#[derive(Subcommand)]
pub enum Worker {
    /// This library.
    Tinygptv(ours::Options),
    /// llama.cpp's own API on a stock Phi-2.
    Llama(llama::Options),
    /// ggml graphs of ViT-g's linear layers.
    Ggml(ggml::Options),
    /// This library's embeddings of a rounded vision file beside those of an exact one.
    Accuracy(accuracy::Options),
    /// The machine's limits.
    Peaks(Threads),
}

/// How many threads to use.
#[derive(Args)]
pub struct Threads {
    /// Threads.
    #[arg(long)]
    threads: usize,
}

/// A file for a side of the picture: `SIDE=FILE`.
fn vision_file(text: &str) -> Result<(u32, PathBuf), String> {
    let (side, path) = text.split_once('=').ok_or("it is not SIDE=FILE")?;
    Ok((side.parse().map_err(|_| format!("'{side}' is no number of pixels"))?, path.into()))
}

/// Serves requests on stdin.
///
/// # Errors
/// What cannot be prepared.
pub fn run(worker: &Worker) -> Result<()> {
    let (input, output) = (stdin().lock(), stdout().lock());
    match worker {
        Worker::Tinygptv(options) => {
            let mut ours = ours::Ours::new(options);
            serve(ours::about(options)?, input, output, |request| ours.perform(request))
        }
        Worker::Llama(options) => {
            let mut llama = llama::Llama::new(options);
            serve(llama::about(), input, output, |request| llama.perform(request))
        }
        Worker::Ggml(options) => {
            let mut ggml = ggml::Ggml::new(options)?;
            serve(ggml.about(), input, output, |request| ggml.perform(request))
        }
        Worker::Accuracy(options) => {
            let mut accuracy = accuracy::Accuracy::new(options);
            serve(accuracy::about(options)?, input, output, |request| accuracy.perform(request))
        }
        Worker::Peaks(Threads { threads }) => serve(BTreeMap::new(), input, output, |request| match request {
            Request::Peaks => Ok(peaks::measure(*threads)),
            other => unable(other),
        }),
    }
}

fn unable(request: &Request) -> Result<Figures> {
    bail!("this worker cannot do {request:?}")
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// A token of a prompt that every vocabulary has.
fn token(position: usize, vocabulary: usize) -> i32 {
    ((position * 37 + 11) % vocabulary.min(50_000)) as i32
}
