//! This library, through its Rust API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use tinygptv::decoder::{Decoder, DecoderModel, DecoderOptions, Kernels, KvType, LoadOptions, Slot};
use tinygptv::gguf::Gguf;
use tinygptv::model::Profile;
use tinygptv::threads::ThreadPool;
use tinygptv::vision::{Control, VisionEncoder};
use tinygptv::{Image, Model, ModelOptions, PixelFormat, Session, SessionOptions};

use super::{seconds, token, unable, vision_file};
use crate::memory::{self, PrivateWatch};
use crate::protocol::{figures, Figures, Request};

/// Where the model is, and threads.
#[derive(Args)]
pub struct Options {
    /// Decoder file.
    #[arg(long)]
    decoder: PathBuf,
    /// Vision files by the side of the picture, the one that goes with the decoder last.
    #[arg(long, value_parser = vision_file, required = true)]
    vision: Vec<(u32, PathBuf)>,
    /// Threads.
    #[arg(long)]
    threads: usize,
    /// Copy the decoder's weights into a faster layout when loading.
    #[arg(long)]
    fast: bool,
}

/// Positions of contexts where only speed is measured.
const CONTEXT: usize = 512;
/// Questions of usual length.
const QUESTIONS: [&str; 2] = ["[vqa] What is the color of the large object on the left?", "[vqa] And on the right?"];

/// What has been loaded so far.
pub struct Ours<'a> {
    options: &'a Options,
    encoder: Option<(u32, VisionEncoder)>,
    decoder: Option<Bare>,
    model: Option<Arc<Model>>,
    pictures: u32,
}

/// The decoder without a session.
struct Bare {
    decoder: Decoder,
    width: usize,
    vocabulary: usize,
    prompt: Vec<Slot>,
    /// Numbers in matrices, and their bytes: what a position multiplies with, and what a token reads.
    parameters: f64,
    bytes: f64,
}

/// Version, and the instruction sets that the vision encoder chose.
pub fn about(options: &Options) -> Result<BTreeMap<String, String>> {
    let (_, vision) = options.vision.last().context("a vision file is needed")?;
    let encoder = VisionEncoder::load(&Gguf::open(vision)?, Arc::new(ThreadPool::new(1)))?;
    Ok(BTreeMap::from([
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("vision kernels".to_owned(), encoder.instruction_set()),
    ]))
}

/// A picture of noise and bars; another number, another picture.
pub fn picture(number: u32) -> Result<Image> {
    const SIDES: (u32, u32) = (640, 480);
    let mut state = number;
    let pixels: Vec<u8> = (0..SIDES.0 * SIDES.1 * 3)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (i / 7 + (state >> 27)) as u8
        })
        .collect();
    Ok(Image::from_pixels(&pixels, SIDES.0, SIDES.1, 0, PixelFormat::Rgb)?)
}

impl<'a> Ours<'a> {
    pub fn new(options: &'a Options) -> Ours<'a> {
        Ours { options, encoder: None, decoder: None, model: None, pictures: 0 }
    }

    pub fn perform(&mut self, request: &Request) -> Result<Figures> {
        match *request {
            Request::Load { context } => self.load(context),
            Request::Encode { side } => self.encode(side),
            Request::Prefill { positions } => self.prefill(positions),
            Request::Decode { positions, tokens } => self.decode(positions, tokens),
            Request::Questions => self.questions(),
            Request::Answer { context, tokens } => self.answer(context, tokens),
            Request::Peaks | Request::Accuracy => unable(request),
        }
    }

    fn load_model(&self) -> Result<Arc<Model>> {
        let vision = self.options.vision.last().context("a vision file is needed")?;
        let profile = if self.options.fast { Profile::Fast } else { Profile::Mapped };
        let options = ModelOptions { threads: self.options.threads, profile, ..ModelOptions::default() };
        Ok(Model::load(&self.options.decoder, Some(&vision.1), &options)?)
    }

    fn session(&self, model: &Arc<Model>, context: usize, max_new_tokens: usize) -> Result<Session> {
        let context = context.min(model.info().context_length);
        let threads = self.options.threads;
        Ok(Session::new(
            model.clone(),
            &SessionOptions { context, threads, max_new_tokens, ..SessionOptions::default() },
        )?)
    }

    fn load(&self, context: usize) -> Result<Figures> {
        let start = Instant::now();
        let model = self.load_model()?;
        let session = self.session(&model, context, 1)?;
        let taken = seconds(start);
        drop(session);
        Ok(figures([("seconds", taken)]))
    }

    /// Another picture every time, so that no cache knows it.
    fn picture(&mut self) -> Result<Image> {
        self.pictures += 1;
        picture(self.pictures)
    }

    fn encode(&mut self, side: u32) -> Result<Figures> {
        let image = self.picture()?;
        let file = self.options.vision.iter().find(|(s, _)| *s == side);
        let (_, path) = file.with_context(|| format!("there is no vision file for {side} pixels"))?;
        // Peers fill memory with weights of their own meanwhile, and the system drops pages of files for them.
        std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
        let encoder = match &mut self.encoder {
            Some((known, encoder)) if *known == side => encoder,
            slot => {
                let pool = Arc::new(ThreadPool::new(self.options.threads));
                &mut slot.insert((side, VisionEncoder::load(&Gguf::open(path)?, pool)?)).1
            }
        };
        let start = Instant::now();
        encoder.encode(&image, Control::default())?;
        Ok(figures([("seconds", seconds(start)), ("operations", encoder.flops())]))
    }

    /// A decoder that holds nothing.
    fn emptied(&mut self, positions: usize) -> Result<&mut Bare> {
        if self.decoder.is_none() {
            self.decoder = Some(Bare::load(self.options)?);
        }
        let bare = self.decoder.as_mut().context("the decoder was just loaded")?;
        bare.decoder.truncate(0);
        bare.prompt_of(positions)?;
        Ok(bare)
    }

    fn prefill(&mut self, positions: usize) -> Result<Figures> {
        let bare = self.emptied(positions)?;
        let start = Instant::now();
        bare.decoder.evaluate(&bare.prompt)?;
        let operations = 2.0 * bare.parameters * positions as f64;
        Ok(figures([("seconds", seconds(start)), ("operations", operations)]))
    }

    fn decode(&mut self, positions: usize, tokens: usize) -> Result<Figures> {
        let bare = self.emptied(positions)?;
        bare.decoder.evaluate(&bare.prompt)?;
        let start = Instant::now();
        for i in 0..tokens {
            bare.decoder.append(token(positions + i, bare.vocabulary))?;
        }
        Ok(figures([("seconds", seconds(start)), ("bytes", bare.bytes * tokens as f64)]))
    }

    fn questions(&mut self) -> Result<Figures> {
        let image = self.picture()?;
        let model = match &self.model {
            Some(model) => model.clone(),
            None => self.model.insert(self.load_model()?).clone(),
        };
        let mut session = self.session(&model, CONTEXT, 1)?;
        let mut all = Figures::new();
        let mut ask = |session: &mut Session, start: Instant, question, name: &str| -> Result<()> {
            session.ask(question, &mut |_| true)?;
            all.insert(name.to_owned(), seconds(start));
            let s = session.statistics();
            all.insert(format!("{name}_evaluated"), (s.prompt_tokens - s.reused_tokens) as f64);
            Ok(())
        };
        let start = Instant::now();
        session.add_image(&image, None)?;
        ask(&mut session, start, QUESTIONS[0], "first")?;
        ask(&mut session, Instant::now(), QUESTIONS[1], "second")?;
        drop(session);
        let mut session = self.session(&model, CONTEXT, 1)?;
        let start = Instant::now();
        session.add_image(&image, None)?;
        all.insert("same_picture".to_owned(), seconds(start));
        Ok(all)
    }

    fn answer(&mut self, context: usize, tokens: usize) -> Result<Figures> {
        let image = self.picture()?;
        let watch = PrivateWatch::start();
        let start = Instant::now();
        let model = self.load_model()?;
        let mut session = self.session(&model, context, tokens)?;
        session.add_image(&image, None)?;
        session.ask(QUESTIONS[0], &mut |_| true)?;
        let mut all = figures([("seconds", seconds(start))]);
        all.insert("tokens".to_owned(), session.statistics().generated_tokens as f64);
        // Where the system does not tell, the rows are missing.
        if let (Some(private), Some(peak)) = (watch.finish(), memory::peak_resident(None)) {
            all.insert("private".to_owned(), private as f64);
            all.insert("resident".to_owned(), peak as f64);
        }
        Ok(all)
    }
}

impl Bare {
    fn load(options: &Options) -> Result<Bare> {
        let file = Gguf::open(&options.decoder)?;
        // One row of the token table is read for a token: that is no matrix product.
        let matrices = || file.tensors().iter().filter(|t| t.shape.len() == 2 && t.name != "token_embd.weight");
        let parameters = matrices().map(|t| t.shape.iter().product::<usize>() as f64).sum();
        let bytes = matrices().map(|t| t.size_bytes as f64).sum();
        let load = LoadOptions { repack: options.fast, ..LoadOptions::default() };
        let model = Arc::new(DecoderModel::load(&file, &load, &mut |_| true)?);
        let capacity = CONTEXT.min(model.context_length());
        let (width, vocabulary) = (model.width(), model.info().n_vocab);
        let context = DecoderOptions {
            capacity,
            threads: options.threads,
            kv_type: KvType::default(),
            kernels: Kernels::default(),
        };
        let decoder = Decoder::new(model, &context, Arc::default())?;
        Ok(Bare { decoder, width, vocabulary, prompt: Vec::new(), parameters, bytes })
    }

    /// A prompt as of a question about a picture: a third of it image rows, the rest tokens.
    fn prompt_of(&mut self, positions: usize) -> Result<()> {
        if self.prompt.len() != positions {
            let (rows, width) = (positions / 3, self.width);
            let values = (0..rows * width).map(|i| (i % 29) as f32 / 290.0 - 0.05).collect();
            let image = Arc::new(tinygptv::Embedding::new(values, rows, width)?);
            let slot = |i| match i < rows {
                true => Slot::Image(image.clone(), i),
                false => Slot::Token(token(i, self.vocabulary)),
            };
            self.prompt = (0..positions).map(slot).collect();
        }
        Ok(())
    }
}
