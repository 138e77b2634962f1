//! How far the vision file's embeddings are from those of the same weights in F32.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use tinygptv::gguf::Gguf;
use tinygptv::threads::ThreadPool;
use tinygptv::vision::{Control, VisionEncoder};

use super::{ours, unable};
use crate::protocol::{figures, Figures, Request};

/// The two files, and threads.
#[derive(Args)]
pub struct Options {
    /// Vision file.
    #[arg(long)]
    vision: PathBuf,
    /// The same in F32.
    #[arg(long)]
    exact: PathBuf,
    /// Threads.
    #[arg(long)]
    threads: usize,
}

/// Pictures that are encoded with both files.
const PICTURES: u32 = 2;

/// Whatever the round, the answer is the same: it is computed once.
pub struct Accuracy<'a> {
    options: &'a Options,
    cosine: Option<f64>,
}

pub fn about(options: &Options) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::from([("vision kernels".to_owned(), load(&options.vision, 1)?.instruction_set())]))
}

fn load(path: &Path, threads: usize) -> Result<VisionEncoder> {
    Ok(VisionEncoder::load(&Gguf::open(path)?, Arc::new(ThreadPool::new(threads)))?)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

impl<'a> Accuracy<'a> {
    pub fn new(options: &'a Options) -> Accuracy<'a> {
        Accuracy { options, cosine: None }
    }

    pub fn perform(&mut self, request: &Request) -> Result<Figures> {
        let Request::Accuracy = request else { return unable(request) };
        let cosine = match self.cosine {
            Some(known) => known,
            None => *self.cosine.insert(self.measure()?),
        };
        Ok(figures([("cosine", cosine)]))
    }

    /// The smallest cosine between vectors of the two files' embeddings.
    fn measure(&self) -> Result<f64> {
        let [rounded, exact] = [&self.options.vision, &self.options.exact].map(|path| load(path, self.options.threads));
        let (rounded, exact) = (rounded?, exact?);
        let width = exact.dims().projection_dim;
        let mut least: Option<f64> = None;
        for number in 1..=PICTURES {
            let image = ours::picture(number)?;
            let [a, b] = [&rounded, &exact].map(|encoder| encoder.encode(&image, Control::default()));
            let (a, b) = (a?, b?);
            let vectors = a.chunks_exact(width).zip(b.chunks_exact(width));
            least = vectors.map(|(a, b)| cosine(a, b)).chain(least).min_by(f64::total_cmp);
        }
        least.context("an embedding has no vectors")
    }
}
