//! Ranking: how likely the model finds each of several given answers (docs/model.md, section 9).

use std::sync::atomic::Ordering;

use super::Session;
use crate::decoder::{BranchSlot, Slot};
use crate::error::{Error, Result};

/// How candidates are ranked. `Default` is what the paper's ranking script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankOptions {
    /// Text that ends each candidate; it counts like a part of it.
    pub end: String,
    /// Whether the prompt begins with the vocabulary's BOS token, as in training.
    pub bos: bool,
}

impl Default for RankOptions {
    fn default() -> Self {
        RankOptions { end: "\n".into(), bos: true }
    }
}

/// A candidate's tokens and the loss of those scored so far.
struct Candidate {
    tokens: Vec<i32>,
    loss: f64,
}

impl Session {
    /// The mean loss, in nats a token, of each candidate as the answer to a question about the images waiting and the
    /// conversation so far: the lowest is the model's choice. The prompt is evaluated once, the candidates side by side.
    /// The conversation and the images waiting stay as they are.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty question, no candidates, a candidate without a token, or a decoder of a recurrent
    /// architecture; `ContextFull`; `Cancelled`.
    pub fn rank(&mut self, question: &str, candidates: &[&str], options: &RankOptions) -> Result<Vec<f32>> {
        self.cancel.store(false, Ordering::Relaxed);
        let mut prompt = self.prompt(question)?;
        if options.bos {
            let bos = self.model.decoder().bos().ok_or_else(|| {
                Error::InvalidArgument("this model's vocabulary has no BOS token; rank without it".into())
            })?;
            prompt.insert(0, Slot::Token(bos));
        }
        let mut candidates = self.candidate_tokens(candidates, &options.end)?;
        self.fits(prompt.len())?;
        self.evaluate(&prompt)?;
        let first = LogProbabilities::of(self.decoder.logits());
        for candidate in &mut candidates {
            candidate.loss = -first.get(candidate.tokens[0]);
        }
        self.score_rest(&mut candidates)?;
        Ok(candidates.iter().map(|c| (c.loss / c.tokens.len() as f64) as f32).collect())
    }

    fn candidate_tokens(&self, candidates: &[&str], end: &str) -> Result<Vec<Candidate>> {
        if candidates.is_empty() {
            return Err(Error::InvalidArgument("there are no candidates to rank; pass at least one".into()));
        }
        let tokens = |text: &&str| {
            let tokens = self.model.tokenizer().encode(&format!("{text}{end}"))?;
            if tokens.is_empty() {
                return Err(Error::InvalidArgument("a candidate is empty and has no end text; leave it out".into()));
            }
            Ok(Candidate { tokens, loss: 0.0 })
        };
        candidates.iter().map(tokens).collect()
    }

    /// Adds the losses of all tokens but the first: each needs the logits after the one before it.
    fn score_rest(&mut self, candidates: &mut [Candidate]) -> Result<()> {
        let most = self.decoder.max_branches();
        if most == 0 && candidates.iter().any(|c| c.tokens.len() > 1) {
            return Err(Error::InvalidArgument(
                "this decoder's architecture keeps one state only and cannot rank answers of several tokens".into(),
            ));
        }
        let free = self.decoder.capacity() - self.decoder.positions();
        for group in groups(candidates, most, free) {
            let mut branches = self.decoder.branches(group.len())?;
            let mut slots = Vec::new();
            let mut targets = Vec::new();
            for (branch, candidate) in group.iter().enumerate() {
                for pair in candidate.tokens.windows(2) {
                    slots.push(BranchSlot { branch, slot: Slot::Token(pair[0]), wants_logits: true });
                    targets.push((branch, pair[1]));
                }
            }
            branches.evaluate(&slots, &mut |i, logits| {
                let (branch, token) = targets[i];
                group[branch].loss -= LogProbabilities::of(logits).get(token);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Cuts the candidates into groups that fit into the context side by side; one that does not fit alone stands alone, and
/// its evaluation tells so.
fn groups(candidates: &mut [Candidate], most: usize, free: usize) -> Vec<&mut [Candidate]> {
    let mut groups = Vec::new();
    let mut rest = candidates;
    while !rest.is_empty() {
        let mut positions = 0;
        let fitting = rest.iter().take(most.max(1)).take_while(|c| {
            positions += c.tokens.len() - 1;
            positions <= free
        });
        let length = fitting.count().max(1);
        let (group, others) = rest.split_at_mut(length);
        groups.push(group);
        rest = others;
    }
    groups
}

/// The softmax of a row of logits, in the logarithm.
struct LogProbabilities<'a> {
    logits: &'a [f32],
    log_sum: f64,
}

impl<'a> LogProbabilities<'a> {
    fn of(logits: &'a [f32]) -> LogProbabilities<'a> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        LogProbabilities { logits, log_sum: f64::from(largest) + sum.ln() }
    }

    fn get(&self, token: i32) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1000.0, 999.0, -1000.0, 998.5];
        let p = LogProbabilities::of(&logits);
        let sum: f64 = (0..4).map(|i| p.get(i).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12 && p.get(0) > p.get(1));
        let even = LogProbabilities::of(&[0.5; 8]);
        assert!((even.get(3) + 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn groups_keep_to_the_context_and_to_the_branches() {
        let lengths = |most, free| -> Vec<usize> {
            let mut all: Vec<Candidate> =
                [3, 3, 3, 9, 1, 1].map(|n| Candidate { tokens: vec![0; n], loss: 0.0 }).into();
            groups(&mut all, most, free).iter().map(|g| g.len()).collect()
        };
        assert_eq!(lengths(16, 100), [6]);
        assert_eq!(lengths(2, 100), [2, 2, 2]);
        assert_eq!(lengths(16, 4), [2, 1, 1, 2]);
    }
}
