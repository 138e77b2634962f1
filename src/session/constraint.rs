//! Constrained answers: what an answer may be, as a grammar.

use crate::error::{Error, Result};

/// What answers must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A grammar in GBNF, llama.cpp's notation, whose rule `root` is the answer.
    Grammar(String),
    /// One of these texts. White space at their ends does not count, as with every answer.
    Answers(Vec<String>),
}

/// The rule that a constrained answer starts with.
pub(super) const ROOT: &str = "tgv-answer";

impl Constraint {
    /// The grammar of the answer as the model writes it: perhaps a space in front, perhaps a stop text behind.
    ///
    /// # Errors
    /// `InvalidArgument` for a list without answers, or with one that is empty or contains a stop text.
    pub(super) fn grammar(&self, stops: &[String]) -> Result<String> {
        let stops: Vec<String> = stops.iter().filter(|s| !s.is_empty()).map(|s| literal(s)).collect();
        let end = if stops.is_empty() { String::new() } else { format!(" (\" \"? ({}))?", stops.join(" | ")) };
        let rules = match self {
            Constraint::Grammar(text) => text.clone(),
            Constraint::Answers(answers) => format!("root ::= {}\n", alternatives(answers)?),
        };
        Ok(format!("{ROOT} ::= \" \"? root{end}\n{rules}"))
    }

    /// Checks what only the list of stop texts can tell: an answer that contains one would be cut.
    pub(super) fn check(&self, stops: &[String]) -> Result<()> {
        let Constraint::Answers(answers) = self else { return Ok(()) };
        for answer in answers {
            if let Some(stop) = stops.iter().find(|s| !s.is_empty() && answer.contains(s.as_str())) {
                return Err(Error::InvalidArgument(format!(
                    "the allowed answer '{answer}' contains '{stop}', which ends an answer; leave it out"
                )));
            }
        }
        Ok(())
    }
}

fn alternatives(answers: &[String]) -> Result<String> {
    if answers.is_empty() {
        return Err(Error::InvalidArgument("the list of allowed answers is empty; pass at least one".into()));
    }
    let mut texts = Vec::with_capacity(answers.len());
    for answer in answers {
        let answer = answer.trim();
        if answer.is_empty() {
            return Err(Error::InvalidArgument("an allowed answer is empty; leave it out".into()));
        }
        texts.push(literal(answer));
    }
    Ok(texts.join(" | "))
}

/// A text as a literal of GBNF.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(texts: &[&str]) -> Constraint {
        Constraint::Answers(texts.iter().map(|t| t.to_string()).collect())
    }

    #[test]
    fn a_list_becomes_alternatives() {
        let grammar = answers(&["yes", " no "]).grammar(&["###".into(), String::new()]).unwrap();
        assert_eq!(grammar, "tgv-answer ::= \" \"? root (\" \"? (\"###\"))?\nroot ::= \"yes\" | \"no\"\n");
    }

    #[test]
    fn literals_are_escaped() {
        assert_eq!(literal("a\"b\\c\nd"), "\"a\\\"b\\\\c\\U0000000Ad\"");
    }

    #[test]
    fn lists_that_cannot_work_are_refused() {
        let stops = ["###".to_string()];
        assert!(answers(&[]).grammar(&stops).is_err());
        assert!(answers(&["a", " "]).grammar(&stops).is_err());
        assert!(answers(&["a###b"]).check(&stops).unwrap_err().to_string().contains("'###'"));
        assert!(answers(&["a"]).check(&stops).is_ok());
    }
}
