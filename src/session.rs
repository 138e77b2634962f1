//! One conversation: its history, the images waiting for the next question, and the loop that generates an answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crate::decoder::{Decoder, DecoderOptions, KvType, Sampler, Sampling, Slot};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::prompt::{Segment, Template};
use crate::stream::AnswerStream;
use crate::vision::Control;

/// The reference chat's limit on new tokens (docs/model.md, section 8).
const DEFAULT_MAX_NEW_TOKENS: usize = 300;

/// Longest context that nobody asked for: models trained for very long ones would take all memory.
const MAX_DEFAULT_CONTEXT: usize = 4096;
/// Below this many weights a decoder's layers take less time than waking and awaiting a second thread.
const PARALLEL_PARAMETERS: u64 = 50_000_000;

/// Threads of a decoder. ggml's threads spin while they wait for each other, so more than there are processors would
/// multiply the time.
fn decoder_threads(wanted: usize, model: &Model) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    match wanted {
        0 if model.info().decoder_parameters < PARALLEL_PARAMETERS => 1,
        0 => model.info().threads.min(processors),
        n => n.min(processors),
    }
}

/// How a session works. `Default` is right for most uses.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Positions of the context; 0 takes what the model was trained for, 4096 at most.
    pub context: usize,
    /// Threads of the decoder, no more than processors are used; 0 takes the model's, or 1 for a very small decoder.
    pub threads: usize,
    /// Prompt template by name; `None` takes the model's default.
    pub template: Option<String>,
    /// System text in front of the first turn; `None` takes the template's own.
    pub system: Option<String>,
    /// Texts that end an answer, besides the model's own.
    pub stops: Vec<String>,
    /// Most tokens of an answer; 0 takes 300.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Numbers of the KV cache.
    pub kv_type: KvType,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finish {
    /// No answer yet.
    #[default]
    None,
    /// The model was done: a stop text or an end token.
    Stop,
    /// The limit on new tokens was reached.
    Length,
    /// The context was full.
    Context,
    /// The text callback asked to stop.
    Callback,
}

/// Figures of the last answer. Times are milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Encoding the images that were added for this answer.
    pub encode_ms: f64,
    /// Evaluating the prompt.
    pub prefill_ms: f64,
    /// Generating the answer.
    pub decode_ms: f64,
    /// Positions of the prompt, images and earlier turns included.
    pub prompt_tokens: usize,
    /// Of these, positions of images added for this answer.
    pub image_tokens: usize,
    /// Of these, positions that the KV cache already held.
    pub reused_tokens: usize,
    /// Tokens generated, the ending one included.
    pub generated_tokens: usize,
    /// Positions the conversation takes now.
    pub context_used: usize,
    /// Positions the context can hold.
    pub context_size: usize,
    /// Why the answer ended.
    pub finish: Finish,
}

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
    template: Template,
    system: String,
    stops: Vec<String>,
    max_new_tokens: usize,
    sampling: Sampling,
    cancel: Arc<AtomicBool>,
    /// The conversation so far, without the stop text of the last answer.
    history: Vec<Slot>,
    turns: usize,
    /// End of the last answer that shares a token with the stop text: it goes in front of the next turn.
    carry: String,
    waiting: Vec<Arc<Embedding>>,
    waiting_encode_ms: f64,
    statistics: Statistics,
}

impl Session {
    /// Starts a conversation.
    ///
    /// # Errors
    /// `InvalidArgument` for options out of range, `OutOfMemory` when the context cannot be had.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Session> {
        let trained = model.info().context_length;
        let context = if options.context == 0 { trained.min(MAX_DEFAULT_CONTEXT) } else { options.context };
        if context > trained {
            return Err(Error::InvalidArgument(format!(
                "a context of {context} is longer than the {trained} positions this model was trained for; ask for less, or \
                 0 for all"
            )));
        }
        options.sampling.validate()?;
        let template = model.templates().get(options.template.as_deref())?.clone();
        let system = options.system.clone().unwrap_or_else(|| template.system.clone());
        let stops = model.templates().stops().iter().chain(&options.stops).cloned().collect();
        let threads = decoder_threads(options.threads, &model);
        let cancel = Arc::new(AtomicBool::new(false));
        let decoder_options = DecoderOptions { capacity: context, threads, kv_type: options.kv_type };
        let decoder = Decoder::new(model.decoder().clone(), &decoder_options, cancel.clone())?;
        Ok(Session {
            decoder,
            template,
            system,
            stops,
            max_new_tokens: match options.max_new_tokens {
                0 => DEFAULT_MAX_NEW_TOKENS,
                n => n,
            },
            sampling: options.sampling,
            cancel,
            history: Vec::new(),
            turns: 0,
            carry: String::new(),
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
        // Control wants both borrows to be as short as the shorter one.
        let progress = progress.map(|p| p as &mut dyn FnMut(f32) -> bool);
        let control = Control { cancel: Some(&self.cancel), progress };
        let embedding = self.model.encode(image, control)?;
        self.waiting_encode_ms += milliseconds(start);
        self.waiting.push(embedding.clone());
        Ok(embedding)
    }

    /// Puts an image encoded earlier in front of the next question.
    pub fn add_embedding(&mut self, embedding: Arc<Embedding>) -> Result<()> {
        let width = self.model.info().embedding_width;
        if embedding.width() != width {
            return Err(Error::InvalidArgument(format!(
                "the embedding has vectors of {} floats, this model takes {width}; encode the image with this model",
                embedding.width()
            )));
        }
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
        if question.trim().is_empty() {
            return Err(Error::InvalidArgument("the question is empty; pass a text".into()));
        }
        let mut slots = self.history.clone();
        slots.extend(self.turn_slots(question)?);
        let capacity = self.decoder.capacity();
        let used = self.history.len();
        // One position beyond the prompt, or there is no room for an answer.
        if slots.len() >= capacity {
            return Err(Error::ContextFull { capacity, used, needed: slots.len() + 1 - used });
        }
        let mut sampler = Sampler::new(&self.sampling, self.decoder.n_vocab(), self.max_new_tokens)?;

        let start = Instant::now();
        let reused = self.decoder.evaluate(&slots)?;
        let mut statistics = Statistics {
            encode_ms: self.waiting_encode_ms,
            prefill_ms: milliseconds(start),
            prompt_tokens: slots.len(),
            image_tokens: self.waiting.iter().map(|e| e.rows()).sum(),
            reused_tokens: reused,
            context_size: capacity,
            ..Statistics::default()
        };

        let start = Instant::now();
        let answer = self.generate(&mut sampler, on_text)?;
        statistics.decode_ms = milliseconds(start);
        statistics.generated_tokens = answer.generated;
        statistics.finish = answer.finish;

        slots.extend(answer.kept.into_iter().map(Slot::Token));
        // The token that found the context full was never evaluated and has no place in it.
        slots.truncate(capacity);
        statistics.context_used = slots.len();
        self.history = slots;
        self.carry = answer.carry;
        self.turns += 1;
        self.waiting.clear();
        self.waiting_encode_ms = 0.0;
        self.statistics = statistics;
        Ok(answer.text)
    }

    /// Forgets the conversation and the images waiting. The KV cache stays: a conversation that starts like the one before
    /// (the same embedding, say) does not evaluate its beginning again.
    pub fn reset(&mut self) {
        self.history.clear();
        self.turns = 0;
        self.carry.clear();
        self.waiting.clear();
        self.waiting_encode_ms = 0.0;
        self.statistics = Statistics { context_size: self.decoder.capacity(), ..Statistics::default() };
    }

    /// Changes how tokens are chosen from the next question on.
    pub fn set_sampling(&mut self, sampling: Sampling) -> Result<()> {
        sampling.validate()?;
        self.sampling = sampling;
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
        let mut slots = self.history.clone();
        slots.extend(self.turn_slots(question)?);
        self.decoder.evaluate(&slots).map(|_| ())
    }

    fn turn_slots(&self, question: &str) -> Result<Vec<Slot>> {
        let system = (self.turns == 0).then_some(self.system.as_str());
        let mut segments = self.template.render(system, self.waiting.len(), question);
        if !self.carry.is_empty() {
            match segments.first_mut() {
                Some(Segment::Text(text)) => text.insert_str(0, &self.carry),
                _ => segments.insert(0, Segment::Text(self.carry.clone())),
            }
        }
        let mut slots = Vec::new();
        for segment in &segments {
            match segment {
                Segment::Text(text) => {
                    slots.extend(self.model.tokenizer().encode(text)?.into_iter().map(Slot::Token));
                }
                Segment::Image(i) => {
                    let embedding = &self.waiting[*i];
                    slots.extend((0..embedding.rows()).map(|row| Slot::Image(embedding.clone(), row)));
                }
            }
        }
        Ok(slots)
    }

    fn generate(&mut self, sampler: &mut Sampler, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Answer> {
        let mut stream = AnswerStream::new(&self.stops);
        let mut answer = Answer::default();
        // (token, bytes of text seen after it)
        let mut tokens: Vec<(i32, usize)> = Vec::new();
        answer.finish = loop {
            let token = sampler.sample(self.decoder.logits())?;
            answer.generated += 1;
            if self.model.decoder().is_end_of_generation(token) {
                break Finish::Stop;
            }
            let piece = stream.push(&self.model.tokenizer().token_bytes(token));
            tokens.push((token, stream.seen().len()));
            if !answer.deliver(&piece.text, on_text) {
                break Finish::Callback;
            }
            if piece.stopped {
                break Finish::Stop;
            }
            if answer.generated >= self.max_new_tokens {
                break Finish::Length;
            }
            if self.decoder.positions() >= self.decoder.capacity() {
                break Finish::Context;
            }
            // The callback may have taken its time; a cancel during it counts.
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            self.decoder.append(token)?;
        };
        if answer.finish != Finish::Callback {
            answer.deliver(&stream.finish(), on_text);
        }
        let end = stream.stopped_at().unwrap_or(usize::MAX);
        answer.kept = tokens.iter().take_while(|t| t.1 <= end).map(|t| t.0).collect();
        if let Some(end) = stream.stopped_at() {
            let kept_text = answer.kept.len().checked_sub(1).map_or(0, |i| tokens[i].1);
            answer.carry = stream.seen()[kept_text..end].to_owned();
        }
        Ok(answer)
    }
}

#[derive(Default)]
struct Answer {
    text: String,
    /// Tokens that stay in the conversation: those before the stop text.
    kept: Vec<i32>,
    carry: String,
    generated: usize,
    finish: Finish,
}

impl Answer {
    fn deliver(&mut self, text: &str, on_text: &mut dyn FnMut(&str) -> bool) -> bool {
        if text.is_empty() {
            return true;
        }
        self.text.push_str(text);
        on_text(text)
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
