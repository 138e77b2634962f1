//! A made-up vocabulary of GPT-2's kind with the layout of Phi-2's: 256 bytes, merges, `<|endoftext|>`, runs of spaces and
//! tabs as added tokens, padding. `###` and ` ###` are tokens.

use std::collections::HashSet;

use anyhow::{ensure, Result};
use serde_json::{json, Map, Value as Json};

use super::draw::{key, mix};

const BYTES: usize = 256;
/// GPT-2's number of merges.
const MOST_MERGES: usize = 50_000;
/// Merges of a token of `###` and ` ###`, with their ids in Phi-2's vocabulary.
const SEPARATOR: [(&str, &str, usize); 3] = [("#", "#", 2235), ("##", "#", 21017), ("Ġ", "###", 44386)];
/// Longest runs of spaces and of tabs.
const SPACES: usize = 31;
const TABS: usize = 9;
/// Added tokens behind `<|endoftext|>`: runs of two and more.
const RUNS: usize = SPACES - 1 + TABS - 1;
/// Longest token, in characters.
const LONGEST: usize = 16;

/// Words that become one token each, with a space in front.
const WORDS: &str = "the of and a to in is you that it he was for on are as with his they I at be this have from or one had \
    by word but not what all were we when your can said there use an each which she do how their if will up other about \
    out many then them these so some her would make like him into time has look two more write go see number no way could \
    people my than first water been call who its now find long down day did get come made may part image picture question \
    answer Human Assistant Give following able once provide please red green blue yellow black white circle square \
    triangle star left right above below between yes true false You Please questions What color large object And give me \
    location describe detail Based respond short statement";
/// What else the prompts and questions of TinyGPT-V break into with Phi-2's vocabulary, so that they have as many tokens with
/// this one. Where two want the same letter, the first takes it.
const PIECES: &str =
    "Human Assistant Give Image Content INST qa ident ground ing re fer red ca ption det ection ify Ġ< </ >. Ġ[ >[ Ġ[/";

/// How many merges a vocabulary of so many rows has room for.
fn merges_in(rows: usize) -> usize {
    rows.saturating_sub(BYTES + 1 + RUNS).min(MOST_MERGES)
}

/// The id of `<|endoftext|>`.
pub fn end_of_text(rows: usize) -> usize {
    BYTES + merges_in(rows)
}

/// What tokenizer.json would hold for an embedding of so many rows.
pub fn tokenizer_json(rows: usize) -> Result<Json> {
    let least = BYTES + SEPARATOR.len() + 1 + RUNS;
    ensure!(rows >= least, "a vocabulary of {rows} rows is too small; {least} is the least");
    let mut makings = Makings::new(merges_in(rows));
    WORDS.split_whitespace().for_each(|word| makings.word("Ġ", word));
    PIECES.split_whitespace().for_each(|piece| makings.word("", piece));
    makings.anything();
    let end = makings.tokens.len();
    let mut vocabulary: Map<String, Json> = makings.tokens.into_iter().zip((0..end).map(Json::from)).collect();
    vocabulary.insert("<|endoftext|>".into(), end.into());
    let runs = (2..=SPACES).rev().map(|n| " ".repeat(n)).chain((2..=TABS).rev().map(|n| "\t".repeat(n)));
    let mut added = vec![json!({"id": end, "content": "<|endoftext|>", "special": true})];
    added.extend(runs.enumerate().map(|(i, run)| json!({"id": end + 1 + i, "content": run, "special": false})));
    Ok(json!({
        "model": {"type": "BPE", "vocab": vocabulary, "merges": makings.merges},
        "pre_tokenizer": {"type": "ByteLevel"},
        "added_tokens": added
    }))
}

/// GPT-2's stand-in characters for bytes, in the order of its vocabulary: the printable ones first.
fn byte_characters() -> impl Iterator<Item = char> {
    let printable = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}');
    printable.chain(('\u{100}'..).take(BYTES - 188))
}

/// A vocabulary in the making.
struct Makings {
    tokens: Vec<String>,
    merges: Vec<String>,
    known: HashSet<String>,
    /// How many merges there will be.
    wanted: usize,
    /// Merges of the separator that are to come, the next one last, with their index among the merges.
    separators: Vec<(&'static str, &'static str, usize)>,
    random: u64,
}

impl Makings {
    fn new(wanted: usize) -> Makings {
        let tokens: Vec<String> = byte_characters().map(String::from).collect();
        let place = |(i, (left, right, id)): (usize, (_, _, usize))| match id - BYTES < wanted {
            true => (left, right, id - BYTES),
            // In a small vocabulary they come first.
            false => (left, right, i),
        };
        let mut separators: Vec<_> = SEPARATOR.into_iter().enumerate().map(place).collect();
        // Each needs the one before it.
        if separators.iter().zip(&separators[1..]).any(|(a, b)| a.2 >= b.2) {
            separators.iter_mut().enumerate().for_each(|(i, s)| s.2 = i);
        }
        separators.reverse();
        let known = tokens.iter().cloned().collect();
        Makings { tokens, merges: Vec::new(), known, wanted, separators, random: key(0, "vocabulary") }
    }

    fn is_full(&self) -> bool {
        self.merges.len() == self.wanted
    }

    /// Adds a merge unless its token is there already.
    fn merge(&mut self, left: &str, right: &str) {
        while let Some(&(l, r, _)) = self.separators.last().filter(|s| s.2 == self.merges.len()) {
            self.separators.pop();
            self.push(l, r);
        }
        if !self.is_full() && !self.known.contains(&format!("{left}{right}")) {
            self.push(left, right);
        }
    }

    fn push(&mut self, left: &str, right: &str) {
        let token = format!("{left}{right}");
        self.merges.push(format!("{left} {right}"));
        self.known.insert(token.clone());
        self.tokens.push(token);
    }

    /// A word letter by letter from the front, before any other merge could take its letters.
    fn word(&mut self, start: &str, rest: &str) {
        let mut left = String::from(start);
        for letter in rest.chars().map(String::from) {
            if !left.is_empty() {
                self.merge(&left, &letter);
            }
            left += &letter;
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_add(1);
        ((u128::from(mix(self.random)) * n as u128) >> 64) as usize
    }

    /// Below `n`, and more likely a small number.
    fn early(&mut self, n: usize) -> usize {
        let most = self.below(n) + 1;
        self.below(most)
    }

    /// Fills up with tokens of two that are there: pairs of letters at first, longer ones later.
    fn anything(&mut self) {
        // Letters only, so that no token begins or ends inside a character, and none is made of the separator's signs.
        let mut right: Vec<String> = ('a'..='z').map(String::from).collect();
        let mut left = vec![String::from("Ġ")];
        left.extend(('a'..='z').chain('A'..='Z').map(String::from));
        while !self.is_full() {
            // Every third begins a word.
            let first = if self.below(3) == 0 { 0 } else { self.early(left.len()) };
            let (a, b) = (&left[first], &right[self.early(right.len())]);
            let token = format!("{a}{b}");
            // Mostly a vowel and a consonant by turns, as in words.
            let meets_its_kind = is_vowel(a.chars().last()) == is_vowel(b.chars().next());
            let unlikely = first != 0 && meets_its_kind && self.below(8) != 0;
            if unlikely || token.chars().count() > LONGEST || self.known.contains(&token) {
                continue;
            }
            self.merge(a, b);
            if self.known.contains(&token) {
                if token.chars().all(|c| c.is_ascii_lowercase()) {
                    right.push(token.clone());
                }
                left.push(token);
            }
        }
    }
}

fn is_vowel(letter: Option<char>) -> bool {
    letter.is_some_and(|c| "aeiouyAEIOUY".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(rows: usize) -> (Vec<String>, Vec<String>) {
        let json = tokenizer_json(rows).unwrap();
        let vocabulary = json["model"]["vocab"].as_object().unwrap();
        let mut tokens = vec![String::new(); vocabulary.len()];
        for (text, id) in vocabulary {
            tokens[id.as_u64().unwrap() as usize] = text.clone();
        }
        let merges = json["model"]["merges"].as_array().unwrap();
        (tokens, merges.iter().map(|m| m.as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn the_full_size_has_the_real_one_s_layout() {
        let (tokens, merges) = parts(51200);
        assert_eq!((tokens.len(), merges.len()), (50257, 50000));
        assert_eq!((tokens[21017].as_str(), tokens[44386].as_str()), ("###", "Ġ###"));
        assert_eq!((tokens[50256].as_str(), end_of_text(51200)), ("<|endoftext|>", 50256));
        assert_eq!((tokens[0].as_str(), tokens[220].as_str()), ("!", "Ġ"));
        let json = tokenizer_json(51200).unwrap();
        let added = json["added_tokens"].as_array().unwrap();
        assert_eq!((added.len(), &added[38]["id"], &added[38]["content"]), (39, &50294.into(), &"\t\t".into()));
    }

    #[test]
    fn merges_join_tokens_that_came_before() {
        for rows in [298, 299, 600, 51200] {
            let (tokens, merges) = parts(rows);
            assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), tokens.len(), "no token twice");
            assert!(tokens.iter().any(|t| t == "###") && tokens.iter().any(|t| t == "Ġ###"));
            let mut known: HashSet<String> = tokens[..BYTES].iter().cloned().collect();
            assert_eq!(merges.len(), merges_in(rows));
            for (merge, token) in merges.iter().zip(&tokens[BYTES..]) {
                let (left, right) = merge.split_once(' ').unwrap();
                assert!(known.contains(left) && known.contains(right), "{merge}");
                assert_eq!(format!("{left}{right}"), *token);
                known.insert(token.clone());
            }
        }
        assert!(tokenizer_json(297).unwrap_err().to_string().contains("298"));
    }
}
