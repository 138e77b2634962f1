//! Figures of an answer.

use std::time::Instant;

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
    /// Questions and answers that were forgotten to make room for this one.
    pub dropped_turns: usize,
    /// Images that were forgotten with them.
    pub dropped_images: usize,
    /// Positions the conversation takes now.
    pub context_used: usize,
    /// Positions the context can hold.
    pub context_size: usize,
    /// Why the answer ended.
    pub finish: Finish,
}

pub(super) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
