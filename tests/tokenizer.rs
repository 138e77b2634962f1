//! Our tokenizer gives Hugging Face's ids (tests/golden/tokenizer) and agrees with llama.cpp's, and its bytes put together
//! are the text.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::random::Random;
use common::tiny::{self, Vocabulary};
use common::{golden, ids, read_json, text, TempDir};
use tinygptv::decoder::{DecoderModel, LoadOptions};
use tinygptv::gguf::Gguf;
use tinygptv::tokenizer::Tokenizer;

/// A tokenizer and llama.cpp's for the same file.
struct Both {
    ours: Tokenizer,
    llama: Arc<DecoderModel>,
}

impl Both {
    fn open(path: &Path) -> Both {
        let file = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
        let llama = Arc::new(
            DecoderModel::load(&file, &LoadOptions::default(), &mut |_| true).unwrap_or_else(|e| panic!("{e}")),
        );
        Both { ours: Tokenizer::new(&file, llama.clone()).unwrap_or_else(|e| panic!("{e}")), llama }
    }

    fn tiny(name: &str, vocabulary: &Vocabulary) -> Both {
        let dir = TempDir::new(name);
        let path = dir.join("tiny.gguf");
        tiny::phi2(vocabulary).write(&path);
        Both::open(&path)
    }

    fn demo() -> Both {
        Both::open(&common::decoder_file("q4_k_m"))
    }

    fn codegen_like(test: &str) -> Both {
        Both::tiny(test, &tiny::codegen_like())
    }

    fn llama_ids(&self, text: &str) -> Vec<i32> {
        self.llama.tokenize(text).expect("llama.cpp takes the text")
    }

    fn encode(&self, text: &str) -> Vec<i32> {
        self.ours.encode(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }
}

fn golden_texts(file: &str) -> Vec<(String, Vec<i32>)> {
    let json = read_json(&golden("tokenizer").join(file));
    let cases = json.as_array().expect("a list");
    cases.iter().map(|c| (text(c, "text").to_owned(), ids(&c["ids"]))).collect()
}

fn random_texts() -> Vec<String> {
    let mut random = Random::new(9_100_600_000);
    (0..2000).map(|_| random.text()).collect()
}

fn assert_golden(both: &Both, file: &str, count: usize) {
    let cases = golden_texts(file);
    assert_eq!(cases.len(), count);
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(text, ids)| both.encode(text) != *ids)
        .map(|(text, ids)| format!("{text:?}\n   ours {:?}\n   Hugging Face {ids:?}", both.encode(text)))
        .collect();
    assert!(wrong.is_empty(), "{} of {count} texts differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn assert_llama_agrees(both: &Both, texts: &[String]) {
    let wrong: Vec<String> = texts
        .iter()
        .filter(|text| both.encode(text) != both.llama_ids(text))
        .map(|text| format!("{text:?}\n   ours {:?}\n   llama.cpp {:?}", both.encode(text), both.llama_ids(text)))
        .collect();
    assert!(wrong.is_empty(), "{} of {} texts differ:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

/// Control tokens stand for no bytes; `control` is the text that they are written as.
fn assert_bytes_come_back(both: &Both, texts: &[String], control: &str) {
    for text in texts {
        let ids = both.encode(text);
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| both.ours.token_bytes(id)).collect();
        let wanted = text.replace(control, "");
        assert!(bytes == wanted.as_bytes(), "{text:?} comes back as {:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn demo_ids_are_hugging_face_s() {
    let both = Both::demo();
    assert!(!both.ours.is_fallback());
    assert_golden(&both, "demo.json", 400);
}

#[test]
fn codegen_like_ids_are_hugging_face_s() {
    let both = Both::codegen_like("codegen-golden");
    assert!(!both.ours.is_fallback());
    assert_golden(&both, "codegen-like/ids.json", 699);
}

#[test]
fn llama_cpp_agrees_on_the_golden_texts() {
    let texts: Vec<String> = golden_texts("codegen-like/ids.json").into_iter().map(|c| c.0).collect();
    assert_llama_agrees(&Both::demo(), &texts);
    assert_llama_agrees(&Both::codegen_like("codegen-llama"), &texts);
}

#[test]
fn llama_cpp_agrees_on_random_texts() {
    let texts = random_texts();
    assert_llama_agrees(&Both::demo(), &texts);
    assert_llama_agrees(&Both::codegen_like("codegen-random"), &texts);
}

/// A vocabulary in which every byte merges with these four, so that it shows where the split pattern cuts.
fn split_showing() -> Vocabulary {
    let mut vocabulary = tiny::byte_level();
    let end = vocabulary.tokens.split_off(256).pop().expect("the end token");
    vocabulary.types.truncate(256);
    vocabulary.merges.clear();
    let bytes = vocabulary.tokens.clone();
    for neighbour in ["a", "1", "!", "Ġ"] {
        for byte in &bytes {
            for (left, right) in [(neighbour, byte.as_str()), (byte.as_str(), neighbour)] {
                let token = format!("{left}{right}");
                if !vocabulary.tokens.contains(&token) {
                    vocabulary.merges.push(format!("{left} {right}"));
                    vocabulary.tokens.push(token);
                    vocabulary.types.push(tiny::NORMAL);
                }
            }
        }
    }
    vocabulary.tokens.push(end);
    vocabulary.types.push(tiny::CONTROL);
    (vocabulary.bos, vocabulary.eos) = (vocabulary.len() as u32 - 1, vocabulary.len() as u32 - 1);
    vocabulary
}

/// Letters and digits that Unicode 16.0 added. Hugging Face's tokenizers know them, and we do; llama.cpp's tables are those
/// of Unicode 15, where they are neither. Any other difference, and any of these that goes away, must be looked at.
const NEWER_THAN_LLAMA_CPP: [(u32, u32); 28] = [
    (0x1c89, 0x1c8a),
    (0xa7cb, 0xa7cd),
    (0xa7da, 0xa7dc),
    (0x105c0, 0x105f3),
    (0x10d40, 0x10d49),
    (0x10d4a, 0x10d65),
    (0x10d6f, 0x10d85),
    (0x10ec2, 0x10ec4),
    (0x11380, 0x11389),
    (0x1138b, 0x1138b),
    (0x1138e, 0x1138e),
    (0x11390, 0x113b5),
    (0x113b7, 0x113b7),
    (0x113d1, 0x113d1),
    (0x113d3, 0x113d3),
    (0x116d0, 0x116e3),
    (0x11bc0, 0x11be0),
    (0x11bf0, 0x11bf9),
    (0x13460, 0x143fa),
    (0x16100, 0x1611d),
    (0x16130, 0x16139),
    (0x16d40, 0x16d6c),
    (0x16d70, 0x16d79),
    (0x18cff, 0x18cff),
    (0x1ccf0, 0x1ccf9),
    (0x1e5d0, 0x1e5ed),
    (0x1e5f0, 0x1e5f0),
    (0x1e5f1, 0x1e5fa),
];

#[test]
fn llama_cpp_differs_on_characters_newer_than_its_tables_only() {
    let both = Both::tiny("split-showing", &split_showing());
    let mut runs: Vec<(u32, u32)> = Vec::new();
    // Beyond these planes there are only Han characters and unassigned code points.
    for (code, c) in (0..0x20000).filter_map(|code| Some((code, char::from_u32(code)?))) {
        let text = format!("a{c}1{c}!{c}  {c} {c}{c}  a");
        if both.encode(&text) != both.llama_ids(&text) {
            match runs.last_mut() {
                Some(run) if run.1 + 1 == code => run.1 = code,
                _ => runs.push((code, code)),
            }
        }
    }
    // Digits and letters side by side are one run here.
    let mut known: Vec<(u32, u32)> = Vec::new();
    for (first, last) in NEWER_THAN_LLAMA_CPP {
        match known.last_mut() {
            Some(run) if run.1 + 1 == first => run.1 = last,
            _ => known.push((first, last)),
        }
    }
    let hex = |runs: &[(u32, u32)]| runs.iter().map(|r| format!("{:x}–{:x}", r.0, r.1)).collect::<Vec<_>>().join(" ");
    assert_eq!(hex(&runs), hex(&known));
}

#[test]
fn encoded_bytes_are_the_text_s() {
    let mut texts = random_texts();
    texts.extend(golden_texts("codegen-like/ids.json").into_iter().map(|c| c.0));
    assert_bytes_come_back(&Both::demo(), &texts, "<|endoftext|>");
    assert_bytes_come_back(&Both::codegen_like("codegen-bytes"), &texts, "<|endoftext|>");
}

#[test]
fn llama_cpp_gives_the_same_bytes() {
    for both in [Both::demo(), Both::codegen_like("codegen-pieces")] {
        for id in 0..both.llama.info().n_vocab as i32 {
            assert_eq!(both.ours.token_bytes(id), both.llama.token_bytes(id), "token {id}");
        }
    }
}

#[test]
fn long_texts_are_encoded() {
    let both = Both::codegen_like("codegen-long");
    for unit in ["a", "é", " ", "\n", " a", "###", "1", "🔴", "\t x"] {
        let text = unit.repeat(100_000 / unit.len());
        let bytes: Vec<u8> = both.encode(&text).iter().flat_map(|&id| both.ours.token_bytes(id)).collect();
        assert!(bytes == text.as_bytes(), "{unit:?} repeated");
    }
}

#[test]
fn another_vocabulary_is_left_to_llama_cpp() {
    let dir = TempDir::new("sentence-piece");
    let path = dir.join("tiny.gguf");
    tiny::llama(&tiny::sentence_piece()).write(&path);
    let both = Both::open(&path);
    assert!(both.ours.is_fallback());
    for text in ["the red", "x", "", "Zürich 🔴\n", "  two  spaces", "red</s>"] {
        assert_eq!(both.encode(text), both.llama_ids(text), "{text:?}");
        let bytes: Vec<u8> = both.encode(text).iter().flat_map(|&id| both.ours.token_bytes(id)).collect();
        let back = String::from_utf8(bytes).expect("whole characters");
        // SentencePiece puts a space in front.
        assert_eq!(back.strip_prefix(' ').unwrap_or(""), text.replace("</s>", ""), "{text:?}");
    }
    let known = tiny::sentence_piece();
    let the_red = ["▁the", "▁red"].map(|t| known.tokens.iter().position(|k| k == t).expect("a token") as i32);
    assert_eq!(both.encode("the red"), the_red);
}

#[test]
fn another_split_pattern_is_left_to_llama_cpp() {
    let mut vocabulary = tiny::codegen_like();
    vocabulary.pre = "llama-bpe";
    let both = Both::tiny("llama-bpe", &vocabulary);
    assert!(both.ours.is_fallback());
    // That pattern takes digits in threes, GPT-2's all at once.
    assert_eq!(both.encode("12345678"), both.llama_ids("12345678"));
    assert_ne!(both.encode("12345678"), Both::codegen_like("gpt2-split").encode("12345678"));
}
