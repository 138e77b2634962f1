//! Grammars in GBNF, llama.cpp's notation: which tokens may come next.

use std::ffi::CString;
use std::ptr::NonNull;

use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_sys_2 as llama;

use super::{bindings, DecoderModel, ErrorText};
use crate::error::{Error, Result};
use crate::stack;

/// Longest text of a grammar. llama.cpp's parser takes time and memory that grow faster than the text.
const MAX_BYTES: usize = 64 << 10;
/// llama.cpp's parser recurses once a parenthesis.
const MAX_NESTING: usize = 100;
/// llama.cpp writes repetitions out. Its limit is for one; this is for all together.
const MAX_REPETITIONS: u64 = 1 << 14;

/// A grammar and how far an answer has come in it.
pub struct Grammar {
    state: NonNull<bindings::Grammar>,
    /// Characters of the vocabulary's longest token, at most.
    longest_token: usize,
}

// SAFETY: the state is tied to no thread and changed by one at a time.
unsafe impl Send for Grammar {}
// SAFETY: what takes &self only reads the state.
unsafe impl Sync for Grammar {}

impl Grammar {
    /// Parses `text`; answers follow its rule `root`.
    ///
    /// # Errors
    /// `InvalidArgument` with the place for a text that is no grammar, is too large, or has a rule that begins with itself.
    pub fn new(model: &DecoderModel, text: &str, root: &str) -> Result<Grammar> {
        let bad = |problem: String| Error::InvalidArgument(format!("the grammar cannot be used: {problem}"));
        if text.len() > MAX_BYTES {
            return Err(bad(format!("it has {} bytes, {MAX_BYTES} are allowed", text.len())));
        }
        check_text(text).map_err(bad)?;
        let nul = |_| bad("it contains a NUL character".into());
        let (text, root) = (CString::new(text).map_err(nul)?, CString::new(root).map_err(nul)?);
        let mut error = ErrorText::new();
        // SAFETY: both texts are terminated and live during the call; the model is alive.
        let state = unsafe {
            bindings::tgvi_grammar_new(
                model.as_ptr(),
                text.as_ptr(),
                root.as_ptr(),
                error.0.as_mut_ptr(),
                error.0.len(),
            )
        };
        // llama.cpp quotes all of the text behind the error.
        let problem = |text: String| bad(text.lines().next().unwrap_or_default().to_owned());
        let longest_token = model.info().longest_token;
        NonNull::new(state).map(|state| Grammar { state, longest_token }).ok_or_else(|| error.cause(problem))
    }

    /// Sets the logit of every candidate that may not come next to minus infinity.
    pub fn filter(&self, candidates: &mut [LlamaTokenData]) -> Result<()> {
        // llama.cpp recurses once a character of a token.
        stack::with_room_for(self.longest_token, || self.filter_here(candidates))?
    }

    fn filter_here(&self, candidates: &mut [LlamaTokenData]) -> Result<()> {
        let mut error = ErrorText::new();
        // SAFETY: LlamaTokenData is a transparent wrapper of llama_token_data (its crate is pinned exactly).
        let done = unsafe {
            bindings::tgvi_grammar_filter(
                self.state.as_ptr(),
                candidates.as_mut_ptr().cast::<llama::llama_token_data>(),
                candidates.len(),
                error.0.as_mut_ptr(),
                error.0.len(),
            )
        };
        if done {
            Ok(())
        } else {
            Err(error.cause(|text| Error::Decoder(format!("the grammar failed: {text}"))))
        }
    }

    /// Moves on by a token that `filter` let through and that does not end the generation.
    pub fn accept(&mut self, token: i32) -> Result<()> {
        let mut error = ErrorText::new();
        // SAFETY: the state is alive; the token was checked by the caller.
        let done =
            unsafe { bindings::tgvi_grammar_accept(self.state.as_ptr(), token, error.0.as_mut_ptr(), error.0.len()) };
        if done {
            Ok(())
        } else {
            Err(error.cause(|text| Error::Decoder(format!("the grammar failed: {text}"))))
        }
    }

    /// Whether the answer so far is a whole text of the grammar.
    pub fn is_complete(&self) -> bool {
        // SAFETY: the state is alive.
        unsafe { bindings::tgvi_grammar_complete(self.state.as_ptr()) }
    }
}

impl Drop for Grammar {
    fn drop(&mut self) {
        // SAFETY: created by tgvi_grammar_new and freed once.
        unsafe { bindings::tgvi_grammar_free(self.state.as_ptr()) };
    }
}

/// Refuses what llama.cpp's parser would spend endless time, memory or stack on. Everything else is left to it.
fn check_text(text: &str) -> std::result::Result<(), String> {
    let mut chars = text.chars().peekable();
    let mut depth = 0usize;
    let mut repetitions = 0u64;
    while let Some(c) = chars.next() {
        match c {
            '"' => skip_quoted(&mut chars, '"'),
            '[' => skip_quoted(&mut chars, ']'),
            '#' => while chars.next().is_some_and(|c| c != '\n' && c != '\r') {},
            '(' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(format!("parentheses are nested more than {MAX_NESTING} deep"));
                }
            }
            ')' => depth = depth.saturating_sub(1),
            '{' => {
                let inside: String = chars.by_ref().take_while(|&c| c != '}').collect();
                repetitions = repetitions.saturating_add(repetition_count(&inside)?);
                if repetitions > MAX_REPETITIONS {
                    return Err(format!("its repetitions add up to more than {MAX_REPETITIONS}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn skip_quoted(chars: &mut impl Iterator<Item = char>, end: char) {
    while let Some(c) = chars.next() {
        if c == end {
            return;
        }
        if c == '\\' {
            chars.next();
        }
    }
}

/// The larger number of `m`, `m,` or `m,n`.
fn repetition_count(inside: &str) -> std::result::Result<u64, String> {
    let number = |text: &str| -> std::result::Result<u64, String> {
        text.trim().parse().map_err(|_| format!("'{{{inside}}}' is no repetition; write {{m}}, {{m,}} or {{m,n}}"))
    };
    match inside.split_once(',') {
        None => number(inside),
        Some((least, most)) if most.trim().is_empty() => number(least),
        Some((least, most)) => {
            let (least, most) = (number(least)?, number(most)?);
            if least > most {
                return Err(format!("'{{{inside}}}' asks for at least {least} and at most {most}"));
            }
            Ok(most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_texts_pass() {
        for text in [
            "root ::= \"a{9,1} ((\" [({9,1}] # {9,1}\n",
            r#"root ::= "\"{9,1}" [\]{9,1}] "x"{2} "y"{ 2 , 3 } "z"{2,}"#,
            "\"unclosed",
            "root ::= \\",
        ] {
            assert_eq!(check_text(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn endless_texts_do_not() {
        for (text, problem) in [
            ("root ::= \"a\"{9,1}".to_owned(), "at least 9"),
            ("root ::= \"a\"{9".to_owned() + &"9".repeat(30) + "}", "no repetition"),
            ("root ::= \"a\"{1 # ,\n,2}".to_owned(), "no repetition"),
            ("root ::= \"a\"{x}".to_owned(), "no repetition"),
            ("root ::= ".to_owned() + &"\"a\"{0,2000} ".repeat(9), "add up"),
            ("(".repeat(101), "nested"),
        ] {
            assert!(check_text(&text).unwrap_err().contains(problem), "{text}");
        }
    }
}
