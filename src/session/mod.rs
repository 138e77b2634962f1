//! One conversation: its turns, the images waiting for the next question, and the loop that generates an answer.

mod answer;
mod batch;
mod constraint;
mod conversation;
mod options;
mod progress;
mod rank;
mod statistics;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use answer::{Answer, Answering, Step};
use conversation::{Conversation, Turn};
use progress::Reporter;
use statistics::milliseconds;

use crate::decoder::{Decoder, DecoderOptions, Grammar, Kernels, Sampler, Sampling, Slot};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::memory;
use crate::model::Model;
use crate::plan::Share;
use crate::vision::Control;

pub use constraint::Constraint;
pub use options::{SessionOptions, WhenFull};
pub use progress::{Phase, Progress, ProgressListener};
pub use rank::RankOptions;
pub use statistics::{Finish, Statistics};

/// Stops a session's running call from another thread.
#[derive(Clone)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Makes the call that is running return `Error::Cancelled` soon. Without one it has no effect.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One conversation with a model. Used by one thread at a time.
pub struct Session {
    model: Arc<Model>,
    decoder: Decoder,
    /// Given back with the session.
    _memory: Share,
    stops: Vec<String>,
    max_new_tokens: usize,
    sampling: Sampling,
    when_full: WhenFull,
    /// The grammar that answers follow, if they are constrained.
    grammar: Option<String>,
    listener: Option<ProgressListener>,
    cancel: Arc<AtomicBool>,
    conversation: Conversation,
    waiting: Vec<Arc<Embedding>>,
    waiting_encode_ms: f64,
    statistics: Statistics,
}

impl Session {
    /// Starts a conversation.
    ///
    /// # Errors
    /// `InvalidArgument` for options out of range, `OutOfMemory` when the context cannot be had or is beyond the model's memory limit.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Session> {
        let context = options.context(model.info().context_length)?;
        options.sampling.validate()?;
        let template = options.template(model.templates())?;
        let system = options.system.clone().unwrap_or_else(|| template.system.clone());
        let stops = model.templates().stops().iter().chain(&options.stops).cloned().collect();
        let threads = options::decoder_threads(options.threads, &model);
        let cancel = Arc::new(AtomicBool::new(false));
        let needed = model.decoder().session_bytes(context, options.kv_type);
        let share = model.budget().take(needed)?;
        memory::check(usize::try_from(needed).unwrap_or(usize::MAX))?;
        let decoder_options =
            DecoderOptions { capacity: context, threads, kv_type: options.kv_type, kernels: Kernels::default() };
        let decoder = Decoder::new(model.decoder().clone(), &decoder_options, cancel.clone())?;
        Ok(Session {
            decoder,
            _memory: share,
            stops,
            max_new_tokens: match options.max_new_tokens {
                0 => options::DEFAULT_MAX_NEW_TOKENS,
                n => n,
            },
            sampling: options.sampling,
            when_full: options.when_full,
            grammar: None,
            listener: None,
            cancel,
            conversation: Conversation::new(template, system),
            waiting: Vec::new(),
            waiting_encode_ms: 0.0,
            statistics: Statistics { context_size: context, ..Statistics::default() },
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// For cancelling from another thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.cancel.clone())
    }

    /// Encodes an image and puts it in front of the next question. `progress` gets the fraction done and may ask to stop.
    pub fn add_image(
        &mut self,
        image: &Image,
        progress: Option<&mut dyn FnMut(f32) -> bool>,
    ) -> Result<Arc<Embedding>> {
        self.cancel.store(false, Ordering::Relaxed);
        let start = Instant::now();
        let (mut own, mut reporter) = (progress, Reporter::new(self.listener.as_mut(), Phase::Encode));
        let mut tell = |fraction: f32| own.as_mut().is_none_or(|own| own(fraction)) && reporter.tell(fraction);
        let control = Control { cancel: Some(&self.cancel), progress: Some(&mut tell) };
        let embedding = self.model.encode(image, control)?;
        self.waiting_encode_ms += milliseconds(start);
        self.waiting.push(embedding.clone());
        Ok(embedding)
    }

    /// Puts an image encoded earlier in front of the next question.
    pub fn add_embedding(&mut self, embedding: Arc<Embedding>) -> Result<()> {
        self.model.check_width(embedding.width())?;
        self.waiting.push(embedding);
        Ok(())
    }

    /// Asks a question about the images added since the last one, or goes on with the conversation. `on_text` gets the
    /// answer in whole UTF-8 pieces as it is generated and returns whether to go on; the returned text is all pieces
    /// together.
    ///
    /// # Errors
    /// After any error the conversation is as it was before the call, images still waiting: `InvalidArgument` for an empty
    /// question, `ContextFull` when it does not fit, `Cancelled`.
    pub fn ask(&mut self, question: &str, on_text: &mut dyn FnMut(&str) -> bool) -> Result<String> {
        self.cancel.store(false, Ordering::Relaxed);
        let Placed { mut conversation, images, mut slots, dropped_turns, dropped_images } = self.place(question)?;
        let model = self.model.clone();
        let answering = self.answering(&model)?;
        let mut statistics = Statistics { dropped_turns, dropped_images, ..self.new_statistics(slots.len()) };

        let start = Instant::now();
        statistics.reused_tokens = self.evaluate(&slots)?;
        statistics.prefill_ms = milliseconds(start);
        let start = Instant::now();
        let answer = self.generate(answering, on_text)?;
        statistics.decode_ms = milliseconds(start);
        statistics.generated_tokens = answer.generated;
        statistics.finish = answer.finish;

        slots.extend(answer.kept.iter().map(|&t| Slot::Token(t)));
        // The token that found the context full was never evaluated and has no place in it.
        slots.truncate(self.decoder.capacity());
        statistics.context_used = slots.len();
        let turn = Turn { images, question: question.to_owned(), answer: answer.kept, carry: answer.carry };
        conversation.push(turn, slots);
        self.conversation = conversation;
        self.waiting.clear();
        self.waiting_encode_ms = 0.0;
        self.statistics = statistics;
        Ok(answer.text)
    }

    /// Forgets the conversation and the images waiting. The KV cache stays: a conversation that starts like the one before
    /// (the same embedding, say) does not evaluate its beginning again.
    pub fn reset(&mut self) {
        self.conversation.clear();
        self.waiting.clear();
        self.waiting_encode_ms = 0.0;
        self.statistics = Statistics { context_size: self.decoder.capacity(), ..Statistics::default() };
    }

    /// Lets a listener hear of every phase from now on: encoding, prefill, decode. It may ask to stop, which gives
    /// `Error::Cancelled`.
    pub fn set_progress_listener(&mut self, listener: Option<ProgressListener>) {
        self.listener = listener;
    }

    /// Changes how tokens are chosen from the next question on.
    pub fn set_sampling(&mut self, sampling: Sampling) -> Result<()> {
        sampling.validate()?;
        self.sampling = sampling;
        Ok(())
    }

    /// Constrains the answers from the next question on; `None` frees them. An answer may still end early, at the limit on
    /// new tokens or with the context: its `Finish` tells.
    ///
    /// # Errors
    /// `InvalidArgument` for a grammar that cannot be parsed or a list that cannot be answered from; the constraint then
    /// stays as it was.
    pub fn set_constraint(&mut self, constraint: Option<&Constraint>) -> Result<()> {
        self.grammar = match constraint {
            Some(constraint) => {
                constraint.check(&self.stops)?;
                let grammar = constraint.grammar(&self.stops)?;
                Grammar::new(self.model.decoder(), &grammar, constraint::ROOT)?;
                Some(grammar)
            }
            None => None,
        };
        Ok(())
    }

    /// Figures of the last answer.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Logits after the last evaluated position: for tests and for callers with samplers of their own.
    pub fn logits(&self) -> &[f32] {
        self.decoder.logits()
    }

    /// Evaluates the prompt of a question without generating or changing the conversation; `logits` then tells what the
    /// model would say first.
    pub fn prefill(&mut self, question: &str) -> Result<()> {
        self.cancel.store(false, Ordering::Relaxed);
        let prompt = self.prompt(question)?;
        self.evaluate(&prompt).map(|_| ())
    }

    /// The conversation with a question about the images waiting.
    fn prompt(&self, question: &str) -> Result<Vec<Slot>> {
        if question.trim().is_empty() {
            return Err(Error::InvalidArgument("the question is empty; pass a text".into()));
        }
        self.conversation.prompt(self.model.tokenizer(), &self.waiting, question)
    }

    /// A prompt needs one position beyond it, or there is no room for an answer.
    fn fits(&self, prompt: usize) -> Result<()> {
        let (capacity, used) = (self.decoder.capacity(), self.conversation.len().min(prompt));
        if prompt >= capacity {
            return Err(Error::ContextFull { capacity, used, needed: prompt + 1 - used });
        }
        Ok(())
    }

    /// Finds a place for a question, where `when_full` allows it by forgetting what is oldest.
    fn place(&self, question: &str) -> Result<Placed> {
        let mut placed = Placed {
            conversation: self.conversation.clone(),
            images: self.waiting.clone(),
            slots: self.prompt(question)?,
            dropped_turns: 0,
            dropped_images: 0,
        };
        if self.when_full == WhenFull::DropOldest {
            let capacity = self.decoder.capacity();
            // Room for an answer, but not at the price of most of the conversation.
            let answer = self.max_new_tokens.min(capacity / 4).max(1);
            let tokenizer = self.model.tokenizer();
            let keep_images = self.waiting.len().max(1);
            loop {
                let prompt = placed.slots.len();
                if prompt + answer > capacity && placed.conversation.has_turns() {
                    let mut images = placed.conversation.drop_oldest(tokenizer)?;
                    images.append(&mut placed.images);
                    placed.images = images;
                    placed.dropped_turns += 1;
                } else if prompt >= capacity && placed.images.len() > keep_images {
                    placed.images.remove(0);
                    placed.dropped_images += 1;
                } else {
                    break;
                }
                placed.slots = placed.conversation.prompt(tokenizer, &placed.images, question)?;
            }
        }
        self.fits(placed.slots.len())?;
        Ok(placed)
    }

    /// Figures of an answer that begins now.
    fn new_statistics(&self, prompt_tokens: usize) -> Statistics {
        Statistics {
            encode_ms: self.waiting_encode_ms,
            prompt_tokens,
            image_tokens: self.waiting.iter().map(|e| e.rows()).sum(),
            context_size: self.decoder.capacity(),
            ..Statistics::default()
        }
    }

    /// An answer by the session's sampling, constraint and limits.
    fn answering<'m>(&self, model: &'m Model) -> Result<Answering<'m>> {
        let sampler = Sampler::new(&self.sampling, self.decoder.n_vocab(), self.max_new_tokens)?;
        let grammar = match &self.grammar {
            Some(text) => Some(Grammar::new(model.decoder(), text, constraint::ROOT)?),
            None => None,
        };
        Ok(Answering::new(model, sampler, grammar, &self.stops, self.max_new_tokens))
    }

    /// Makes the decoder hold a prompt; returns how many positions it held already.
    fn evaluate(&mut self, prompt: &[Slot]) -> Result<usize> {
        let mut reporter = Reporter::new(self.listener.as_mut(), Phase::Prefill);
        let reused = if reporter.is_heard() {
            self.decoder.evaluate_with(prompt, Some(&mut |fraction| reporter.tell(fraction)))?
        } else {
            self.decoder.evaluate(prompt)?
        };
        if reporter.tell(1.0) {
            Ok(reused)
        } else {
            Err(Error::Cancelled)
        }
    }

    /// Generates an answer after what the decoder holds.
    fn generate(&mut self, mut answering: Answering, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Answer> {
        let mut reporter = Reporter::new(self.listener.as_mut(), Phase::Decode);
        let finish = loop {
            let step = answering.step(self.decoder.logits(), on_text)?;
            if !reporter.tell(answering.generated() as f32 / self.max_new_tokens as f32) {
                return Err(Error::Cancelled);
            }
            match step {
                Step::Done(finish) => break finish,
                Step::Next(_) if self.decoder.positions() >= self.decoder.capacity() => break Finish::Context,
                // The callback may have taken its time; a cancel during it counts.
                Step::Next(_) if self.cancel.load(Ordering::Relaxed) => return Err(Error::Cancelled),
                Step::Next(token) => self.decoder.append(token)?,
            }
        };
        Ok(answering.finish(finish, on_text))
    }
}

/// A question with its place in a conversation.
struct Placed {
    /// What it follows.
    conversation: Conversation,
    /// Images in front of it.
    images: Vec<Arc<Embedding>>,
    /// The whole prompt.
    slots: Vec<Slot>,
    dropped_turns: usize,
    dropped_images: usize,
}
