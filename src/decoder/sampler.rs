//! From logits to the next token: greedy or random, in the order of the reference's chat (docs/model.md, section 8).

use std::ptr::NonNull;

use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as llama;

use super::{bindings, ErrorText, Grammar};
use crate::error::{Error, Result};
use crate::memory;

/// How the next token is chosen. Random sampling applies penalty, temperature, top-k, top-p, min-p, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Take the most likely token; temperature, top-k, top-p, min-p and seed are then without effect.
    pub greedy: bool,
    /// Above 0. Divides the logits.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Above 0. Weakens tokens already generated in this answer (never those of the prompt); 1 is off.
    pub repeat_penalty: f32,
    /// Of the random generator; the same seed gives the same answer.
    pub seed: u32,
}

impl Default for Sampling {
    /// Greedy: the same question gets the same answer.
    fn default() -> Self {
        Sampling { greedy: true, temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks every field's range.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, text: String| if ok { Ok(()) } else { Err(Error::InvalidArgument(text)) };
        check(
            self.temperature > 0.0 && self.temperature <= 100.0,
            format!("temperature is {}; use a value above 0 and up to 100, or greedy sampling", self.temperature),
        )?;
        check(
            self.top_p > 0.0 && self.top_p <= 1.0,
            format!("top_p is {}; use a value above 0 and up to 1", self.top_p),
        )?;
        check((0.0..=1.0).contains(&self.min_p), format!("min_p is {}; use a value from 0 to 1", self.min_p))?;
        check(
            self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0,
            format!("repeat_penalty is {}; use a value above 0 and up to 100 (1 is off)", self.repeat_penalty),
        )
    }
}

/// A chain of llama.cpp's samplers for one answer.
pub struct Sampler {
    chain: NonNull<llama::llama_sampler>,
}

// SAFETY: a chain is tied to no thread and used by one at a time.
unsafe impl Send for Sampler {}
// SAFETY: nothing can be done with &Sampler.
unsafe impl Sync for Sampler {}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { bindings::tgvi_sampler_free(self.chain.as_ptr()) };
    }
}

impl Sampler {
    /// For an answer of at most `max_tokens` tokens over a vocabulary of `n_vocab`.
    pub fn new(sampling: &Sampling, n_vocab: usize, max_tokens: usize) -> Result<Sampler> {
        sampling.validate()?;
        let with = bindings::Sampling {
            greedy: sampling.greedy,
            penalty: sampling.repeat_penalty,
            penalty_window: i32::try_from(max_tokens).unwrap_or(i32::MAX).min(1 << 16),
            temperature: sampling.temperature,
            top_k: i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed: sampling.seed,
        };
        let mut error = ErrorText::new();
        // SAFETY: plain data; the text has the room that is said.
        let chain = unsafe { bindings::tgvi_sampler_new(&with, n_vocab as i32, error.0.as_mut_ptr(), error.0.len()) };
        NonNull::new(chain).map(|chain| Sampler { chain }).ok_or_else(|| error.cause(failed))
    }

    /// Chooses a token from the logits of the whole vocabulary, among those that `grammar` allows next, and remembers it
    /// for the repetition penalty. `None` when the grammar allows no token.
    pub fn sample(&mut self, logits: &[f32], grammar: Option<&Grammar>) -> Result<Option<i32>> {
        if logits.iter().any(|l| l.is_nan()) || !logits.iter().any(|l| l.is_finite()) {
            return Err(Error::Decoder("the logits are not finite; the decoder file may be damaged".into()));
        }
        let entries = || logits.iter().enumerate().map(|(i, &l)| LlamaTokenData::new(LlamaToken(i as i32), l, 0.0));
        let all = || {
            let mut candidates = Vec::new();
            memory::extend(&mut candidates, entries()).map(|()| candidates)
        };
        let mut token = self.choose(all()?)?;
        if let Some(grammar) = grammar {
            // Checking one token is much cheaper than all, and the free choice is mostly allowed.
            let mut chosen = [LlamaTokenData::new(LlamaToken(token), 0.0, 0.0)];
            grammar.filter(&mut chosen)?;
            if !chosen[0].logit().is_finite() {
                let mut allowed = all()?;
                grammar.filter(&mut allowed)?;
                allowed.retain(|c| c.logit().is_finite());
                if allowed.is_empty() {
                    return Ok(None);
                }
                token = self.choose(allowed)?;
            }
        }
        let mut error = ErrorText::new();
        // SAFETY: the chain is alive; the text has the room that is said.
        let accepted =
            unsafe { bindings::tgvi_sampler_accept(self.chain.as_ptr(), token, error.0.as_mut_ptr(), error.0.len()) };
        if accepted {
            Ok(Some(token))
        } else {
            Err(error.cause(failed))
        }
    }

    fn choose(&mut self, mut candidates: Vec<LlamaTokenData>) -> Result<i32> {
        let mut error = ErrorText::new();
        // SAFETY: the chain is alive; LlamaTokenData is a transparent wrapper of llama_token_data (its crate is pinned
        // exactly); the text has the room that is said.
        let token = unsafe {
            bindings::tgvi_sampler_choose(
                self.chain.as_ptr(),
                candidates.as_mut_ptr().cast::<llama::llama_token_data>(),
                candidates.len(),
                error.0.as_mut_ptr(),
                error.0.len(),
            )
        };
        if token < 0 {
            return Err(error.cause(failed));
        }
        Ok(token)
    }
}

fn failed(text: String) -> Error {
    Error::Decoder(format!("no token could be chosen: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.1, -1.0, 2.9];

    fn draw(sampling: Sampling, n: usize) -> Vec<i32> {
        let mut sampler = Sampler::new(&sampling, LOGITS.len(), n).unwrap();
        (0..n).map(|_| sampler.sample(&LOGITS, None).unwrap().unwrap()).collect()
    }

    fn random() -> Sampling {
        Sampling { greedy: false, seed: 7, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_largest() {
        assert_eq!(draw(Sampling::default(), 3), [1, 1, 1]);
    }

    #[test]
    fn repetition_penalty_weakens_what_was_generated() {
        let tokens = draw(Sampling { repeat_penalty: 1.5, ..Sampling::default() }, 4);
        // Once generated, 3.0 falls to 2.0, 2.9 to 1.93 and 2.1 to 1.4; a second time changes nothing.
        assert_eq!(tokens, [1, 4, 2, 1]);
    }

    #[test]
    fn seeds_repeat_and_differ() {
        assert_eq!(draw(random(), 40), draw(random(), 40));
        assert_ne!(draw(random(), 40), draw(Sampling { seed: 8, ..random() }, 40));
    }

    #[test]
    fn cuts_keep_what_they_should() {
        let kept = |s: Sampling| {
            let mut t = draw(s, 400);
            t.sort_unstable();
            t.dedup();
            t
        };
        assert_eq!(kept(Sampling { top_k: 2, ..random() }), [1, 4]);
        assert_eq!(kept(Sampling { top_p: 0.3, ..random() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..random() }), [1, 2, 4]);
        assert_eq!(kept(Sampling { temperature: 0.01, ..random() }), [1]);
    }

    #[test]
    fn random_frequencies_follow_the_softmax() {
        let n = 20_000;
        let drawn = draw(random(), n);
        let sum: f32 = LOGITS.iter().map(|l| l.exp()).sum();
        for (i, l) in LOGITS.iter().enumerate() {
            let expected = l.exp() / sum;
            let seen = drawn.iter().filter(|&&t| t == i as i32).count() as f32 / n as f32;
            assert!((seen - expected).abs() < 0.015, "token {i}: {seen} drawn, {expected} expected");
        }
    }

    #[test]
    fn refuses_bad_fields_and_bad_logits() {
        for bad in [
            Sampling { temperature: 0.0, ..random() },
            Sampling { temperature: f32::NAN, ..random() },
            Sampling { top_p: 0.0, ..random() },
            Sampling { top_p: 1.1, ..random() },
            Sampling { min_p: -0.1, ..random() },
            Sampling { repeat_penalty: 0.0, ..random() },
        ] {
            assert!(matches!(bad.validate(), Err(Error::InvalidArgument(_))), "{bad:?}");
        }
        let mut sampler = Sampler::new(&random(), 2, 1).unwrap();
        assert!(sampler.sample(&[0.0, f32::NAN], None).is_err());
        assert!(sampler.sample(&[f32::NEG_INFINITY, f32::NEG_INFINITY], None).is_err());
    }
}
