//! What the program and its child processes tell each other: one line of JSON each way. `peers.py` speaks it too.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a child is to do once. It prepares (loads, allocates) before it starts its clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Load the model and make it ready for a question.
    Load {
        /// Positions of the context.
        context: usize,
    },
    /// Encode a picture of `side` pixels.
    Encode {
        /// Width and height that the picture is resized to.
        side: u32,
    },
    /// Evaluate a prompt.
    Prefill {
        /// Its positions.
        positions: usize,
    },
    /// Generate tokens one by one.
    Decode {
        /// Positions before the first.
        positions: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// Two questions about a picture, then the same picture in a new conversation.
    Questions,
    /// From an empty process to the end of an answer.
    Answer {
        /// Positions of the context.
        context: usize,
        /// Tokens of the answer.
        tokens: usize,
    },
    /// How far embeddings are from those of the same weights in F32.
    Accuracy,
    /// What the machine can do at most.
    Peaks,
}

/// Measured numbers by name: seconds, bytes, counts.
pub type Figures = BTreeMap<String, f64>;

/// What a child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// First of all: versions and settings by name.
    Hello(BTreeMap<String, String>),
    /// What a request gave.
    Figures(Figures),
    /// Why it cannot work here; it ends then.
    Missing(String),
    /// Why a request failed.
    Error(String),
}

/// Figures from pairs.
pub fn figures<const N: usize>(pairs: [(&str, f64); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The child's side: answers requests until there are no more.
///
/// # Errors
/// Requests that are none; a parent that has gone away.
pub fn serve(
    about: BTreeMap<String, String>,
    requests: impl BufRead,
    mut replies: impl Write,
    mut perform: impl FnMut(&Request) -> Result<Figures>,
) -> Result<()> {
    let mut say = |reply: &Reply| -> Result<()> {
        writeln!(replies, "{}", serde_json::to_string(reply)?)?;
        Ok(replies.flush()?)
    };
    say(&Reply::Hello(about))?;
    for line in requests.lines() {
        let line = line?;
        let request = serde_json::from_str(&line).with_context(|| format!("'{line}' is no request"))?;
        say(&match perform(&request) {
            Ok(figures) => Reply::Figures(figures),
            Err(error) => Reply::Error(format!("{error:#}")),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_in_order_and_failures_told() {
        let requests = concat!(
            r#"{"do":"encode","side":224}"#,
            "\n",
            r#"{"do":"decode","positions":96,"tokens":4}"#,
            "\n",
            r#"{"do":"peaks"}"#,
            "\n"
        );
        let mut out = Vec::new();
        serve(BTreeMap::new(), requests.as_bytes(), &mut out, |request| match request {
            Request::Encode { side } => Ok(figures([("seconds", f64::from(*side))])),
            Request::Decode { positions, tokens } => Ok(figures([("seconds", (positions * tokens) as f64)])),
            other => anyhow::bail!("no {other:?}"),
        })
        .unwrap();
        let said: Vec<Reply> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = [
            Reply::Hello(BTreeMap::new()),
            Reply::Figures(figures([("seconds", 224.0)])),
            Reply::Figures(figures([("seconds", 384.0)])),
            Reply::Error("no Peaks".into()),
        ];
        assert_eq!(said, expected);
        assert!(serve(BTreeMap::new(), "nonsense\n".as_bytes(), Vec::new(), |_| Ok(Figures::new())).is_err());
    }
}
