//! Text ⇄ token ids.
//!
//! Vocabularies with GPT-2's byte-level BPE and its split pattern (Phi-2's is one) run on the `tokenizers` crate, built from
//! the tokens and merges in the GGUF. Every other kind is left to llama.cpp.

use std::collections::HashMap;
use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::utils::SysRegex;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior, TokenizerImpl,
};

use crate::decoder::DecoderModel;
use crate::error::{Error, Result};
use crate::gguf::Gguf;

/// llama.cpp's `tokenizer.ggml.token_type` numbers.
const TYPE_CONTROL: i32 = 3;
const TYPE_USER_DEFINED: i32 = 4;
const TYPE_UNUSED: i32 = 5;

/// A model's tokenizer; immutable and usable from any thread.
pub struct Tokenizer {
    kind: Kind,
}

enum Kind {
    Gpt2(Box<Gpt2>),
    Llama(Arc<DecoderModel>),
}

impl Tokenizer {
    /// Picks the implementation that the decoder file's metadata ask for.
    pub fn new(gguf: &Gguf, decoder: Arc<DecoderModel>) -> Result<Tokenizer> {
        let kind = match Gpt2::from_gguf(gguf)? {
            Some(gpt2) => Kind::Gpt2(Box::new(gpt2)),
            None => Kind::Llama(decoder),
        };
        Ok(Tokenizer { kind })
    }

    /// Token ids of a text, without BOS or EOS. Special tokens written in the text are recognised, as the reference does.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        match &self.kind {
            Kind::Gpt2(t) => t.encode(text),
            Kind::Llama(d) => d.tokenize(text),
        }
    }

    /// The bytes that a token stands for, which need not be whole characters. Control and unused tokens have none.
    pub fn token_bytes(&self, token: i32) -> Vec<u8> {
        match &self.kind {
            Kind::Gpt2(t) => usize::try_from(token).ok().and_then(|i| t.pieces.get(i)).cloned().unwrap_or_default(),
            Kind::Llama(d) => d.token_bytes(token),
        }
    }

    /// Whether llama.cpp's tokenizer serves this vocabulary.
    pub fn is_fallback(&self) -> bool {
        matches!(self.kind, Kind::Llama(_))
    }
}

/// How GPT-2 splits a text before its merges: contractions, words, numbers and the rest, each with the space in front of it.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What the crate's ByteLevel does. That one keeps the compiled expression and its tables until the process ends, so that they
/// would be lost with every unloading of the library.
struct Words {
    regex: SysRegex,
    char_of_byte: [char; 256],
}

impl Words {
    fn new(bytes_of: &HashMap<char, u8>) -> tokenizers::Result<Words> {
        let mut char_of_byte = ['\0'; 256];
        bytes_of.iter().for_each(|(&c, &byte)| char_of_byte[usize::from(byte)] = c);
        Ok(Words { regex: SysRegex::new(WORDS)?, char_of_byte })
    }
}

impl PreTokenizer for Words {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        text.split(|_, part| part.split(&self.regex, SplitDelimiterBehavior::Isolated))?;
        text.normalize(|word| {
            // Each byte becomes a character; those after a character's first one are insertions.
            let bytes = |c: char| c.to_string().into_bytes().into_iter().enumerate();
            let chars = word
                .get()
                .chars()
                .flat_map(bytes)
                .map(|(i, byte)| (self.char_of_byte[usize::from(byte)], isize::from(i > 0)));
            let chars: Vec<_> = chars.collect();
            word.transform(chars, 0);
            Ok(())
        })
    }
}

struct Gpt2 {
    tokenizer: TokenizerImpl<BPE, NormalizerWrapper, Words, PostProcessorWrapper, DecoderWrapper>,
    pieces: Vec<Vec<u8>>,
}

impl Gpt2 {
    /// `None` when the vocabulary is of another kind.
    fn from_gguf(gguf: &Gguf) -> Result<Option<Gpt2>> {
        let is_gpt2 = gguf.str("tokenizer.ggml.model")? == "gpt2"
            && gguf.str("tokenizer.ggml.pre").is_ok_and(|pre| ["phi-2", "gpt-2"].contains(&pre));
        if !is_gpt2 || !gguf.has("tokenizer.ggml.merges") || !gguf.has("tokenizer.ggml.token_type") {
            return Ok(None);
        }
        let tokens = gguf.str_array("tokenizer.ggml.tokens")?;
        let types = gguf.i32_array("tokenizer.ggml.token_type")?;
        let merges = gguf.str_array("tokenizer.ggml.merges")?;
        Gpt2::new(tokens, &types, merges).map(Some).map_err(|problem| Error::unsupported(gguf.path(), problem))
    }

    fn new(tokens: &[String], types: &[i32], merges: &[String]) -> std::result::Result<Gpt2, String> {
        let bytes_of = byte_of_char();
        let mut vocab = ahash::AHashMap::new();
        let mut added = Vec::new();
        let mut pieces = Vec::with_capacity(tokens.len());
        for (id, (token, &ty)) in tokens.iter().zip(types).enumerate() {
            if ty != TYPE_UNUSED {
                vocab.insert(token.clone(), id as u32);
            }
            pieces.push(match ty {
                TYPE_CONTROL | TYPE_UNUSED => Vec::new(),
                TYPE_USER_DEFINED => token.clone().into_bytes(),
                _ => decode_byte_level(token, &bytes_of),
            });
            if ty == TYPE_CONTROL || ty == TYPE_USER_DEFINED {
                added.push(AddedToken::from(token.clone(), ty == TYPE_CONTROL).normalized(false));
            }
        }
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            // Neither half contains a space (the vocabulary writes it as Ġ); the first character is never the separator.
            let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
            let (a, b) = match at {
                Some(i) => (&merge[..i], &merge[i + 1..]),
                None => return Err(format!("its merge {merge:?} is not two tokens")),
            };
            for part in [a, b] {
                if !vocab.contains_key(part) {
                    return Err(format!("its merge {merge:?} joins {part:?}, which is no token"));
                }
            }
            if !vocab.contains_key(&format!("{a}{b}")) {
                return Err(format!("its merge {merge:?} gives no token"));
            }
            pairs.push((a.to_owned(), b.to_owned()));
        }
        // Without them the tokenizer would drop the bytes silently.
        if let Some((c, byte)) = bytes_of.iter().find(|(c, _)| !vocab.contains_key(&c.to_string())) {
            return Err(format!("its vocabulary has no token {c:?} for the byte {byte}"));
        }
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, pairs)
            // By default there is room for 10 000 words, a megabyte, from the start.
            .cache_capacity(256)
            .build()
            .map_err(|e| format!("its vocabulary makes no byte-level BPE: {e}"))?;
        let mut tokenizer = TokenizerImpl::new(bpe);
        tokenizer.with_pre_tokenizer(Some(
            Words::new(&bytes_of).map_err(|e| format!("its words cannot be told apart: {e}"))?,
        ));
        let (special, plain): (Vec<_>, Vec<_>) = added.into_iter().partition(|t| t.special);
        tokenizer.add_special_tokens(&special);
        tokenizer.add_tokens(&plain);
        Ok(Gpt2 { tokenizer, pieces })
    }

    fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| Error::Internal(format!("a text could not be tokenised: {e}")))?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }
}

/// GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the others follow from U+0100 on
/// (Radford et al. 2019, byte-level BPE).
fn byte_of_char() -> HashMap<char, u8> {
    let mut map = HashMap::new();
    let mut next = 0x100u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        map.extend(char::from_u32(code).map(|c| (c, byte)));
    }
    map
}

fn decode_byte_level(token: &str, bytes_of: &HashMap<char, u8>) -> Vec<u8> {
    let decoded: Option<Vec<u8>> = token.chars().map(|c| bytes_of.get(&c).copied()).collect();
    // A token with a character outside the alphabet was not made by the byte-level alphabet: it stands for itself.
    decoded.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Gpt2 {
        // All bytes, then "##", "###", "Ġa", a user-defined run of three spaces, a control token, a padding row.
        let bytes_of = byte_of_char();
        let mut alphabet: Vec<(u8, char)> = bytes_of.into_iter().map(|(c, b)| (b, c)).collect();
        alphabet.sort_unstable();
        let mut tokens: Vec<String> = alphabet.into_iter().map(|(_, c)| c.to_string()).collect();
        let mut types = vec![1; 256];
        for (token, ty) in [("##", 1), ("###", 1), ("Ġa", 1), ("   ", 4), ("<|endoftext|>", 3), ("[PAD261]", 5)] {
            tokens.push(token.into());
            types.push(ty);
        }
        let merges = ["# #", "## #", "Ġ a"].map(String::from);
        Gpt2::new(&tokens, &types, &merges).unwrap()
    }

    #[test]
    fn merges_added_and_control_tokens() {
        let t = small();
        assert_eq!(t.encode("###").unwrap(), [257]);
        assert_eq!(t.encode("x a").unwrap(), [i32::from(b'x'), 258]);
        assert_eq!(t.encode("x   <|endoftext|>a").unwrap(), [i32::from(b'x'), 259, 260, i32::from(b'a')]);
        assert_eq!(t.encode("[PAD261]").unwrap()[0], i32::from(b'['));
        assert_eq!(t.encode("").unwrap(), [] as [i32; 0]);
    }

    #[test]
    fn bytes_come_back() {
        let t = small();
        let text = "Grüße, ⭐ 日本語 ###\t\n a   b";
        let bytes: Vec<u8> = t.encode(text).unwrap().iter().flat_map(|&id| t.pieces[id as usize].clone()).collect();
        assert_eq!(bytes, text.as_bytes());
        assert!(t.pieces[260].is_empty() && t.pieces[261].is_empty());
    }

    #[test]
    fn refuses_merges_that_name_no_tokens() {
        let tokens = ["a".to_owned(), "b".to_owned(), "ab".to_owned()];
        for bad in ["a c", "b a", "ab"] {
            assert!(Gpt2::new(&tokens, &[1, 1, 1], &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
