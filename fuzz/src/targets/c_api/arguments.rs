//! Arguments of C calls: good ones, NULL, and garbage that the documentation does not rule out.

use std::ffi::{c_char, CString};
use std::ptr;

use crate::header::*;

/// What texts may be, besides parts of the input: questions, prompts, templates, grammars, answers.
const TEXTS: [&str; 20] = [
    "What color is the star?",
    "[vqa] what is it",
    "",
    " ",
    "### Human: <|endoftext|>",
    "{images}{question}",
    "<Img>{image}</Img>",
    "{question}{images}{question}",
    "vqa",
    "chat",
    "root ::= [a-z]+ | \"a\" root",
    "root ::= root \"a\"",
    "root ::= \"a\"{1,3} b\nb ::= [^\\x00]*",
    "root ::= ((((\"a\"?)*)+)*)",
    "<p>a circle</p> {<1><2><30><40>}<delim>{<0><0><100><100>}",
    "Zürich 🔴 日本語",
    "{\"type\": \"object\"}",
    "a",
    "\n",
    "root",
];

/// Where an instruction's texts and data come from.
pub struct Source<'a> {
    /// The whole input.
    pub input: &'a [u8],
}

impl Source<'_> {
    /// Bytes that a number chooses: `n / 256` is where they start, `n % 256` how many there are.
    pub fn data(&self, n: u16) -> &[u8] {
        let [length, start] = n.to_le_bytes();
        let start = usize::from(start).min(self.input.len());
        &self.input[start..(start + usize::from(length)).min(self.input.len())]
    }

    /// A text: of the list for numbers below 128, otherwise bytes of the input, which need not be UTF-8.
    pub fn text(&self, n: u8, more: u8) -> CString {
        let bytes = match n {
            0..=127 => TEXTS[usize::from(n) % TEXTS.len()].as_bytes(),
            _ => self.data(u16::from_le_bytes([more, n - 128])),
        };
        CString::new(bytes.iter().copied().filter(|&b| b != 0).collect::<Vec<u8>>()).expect("no NUL")
    }

    /// Up to seven texts.
    pub fn texts(&self, n: u8, more: u8) -> Vec<CString> {
        (0..n % 8).map(|i| self.text(n.wrapping_add(i).wrapping_mul(31), more.wrapping_add(i * 7))).collect()
    }
}

/// Pointers to texts; `with_null` makes one of them NULL.
pub fn pointers(texts: &[CString], with_null: bool) -> Vec<*const c_char> {
    let mut pointers: Vec<*const c_char> = texts.iter().map(|t| t.as_ptr()).collect();
    if let (true, Some(last)) = (with_null, pointers.last_mut()) {
        *last = ptr::null();
    }
    pointers
}

/// Numbers from reasonable to absurd.
pub fn number(n: u8) -> i32 {
    match n {
        0..=96 => n.into(),
        97..=128 => 1 << (n - 97),
        129..=160 => -(1 << ((n - 129).min(30))),
        161 => i32::MAX,
        162 => i32::MIN,
        _ => i32::from(n) - 256,
    }
}

/// Floats from reasonable to absurd.
pub fn float(n: u8) -> f32 {
    const SPECIAL: [f32; 10] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45, 1e30, -1.0];
    match n {
        0 => 0.0,
        1..=200 => f32::from(n) / 100.0,
        _ => SPECIAL[usize::from(n - 201) % SPECIAL.len()],
    }
}

/// More than any struct may claim to be.
const MOST: usize = 4096 + 8;

/// A struct in memory that is as long as its size field may claim.
#[repr(C, align(8))]
pub struct Roomy {
    bytes: [u8; MOST],
}

impl Roomy {
    /// Holds the struct; `how` may give it a wrong size, or something in fields that are not known yet.
    pub fn new<T: Copy>(value: T, how: u8) -> Box<Roomy> {
        let own = size_of::<T>();
        assert!(own < MOST);
        let mut room = Box::new(Roomy { bytes: [0; MOST] });
        let size = match how % 16 {
            0..=8 => own,
            9 => own + 8,
            10 => {
                room.bytes[own + 4] = 1;
                own + 8
            }
            11 => 0,
            12 => own - 8,
            13 => usize::MAX,
            14 => 4096,
            _ => usize::from(how),
        };
        // SAFETY: the room is longer and aligned for every struct of the header; its first field is its size.
        unsafe {
            ptr::write(room.bytes.as_mut_ptr().cast(), value);
            ptr::write(room.bytes.as_mut_ptr().cast(), size);
        }
        room
    }

    /// What C gets.
    pub fn pointer<T>(&mut self) -> *mut T {
        self.bytes.as_mut_ptr().cast()
    }

    /// A copy of all bytes, to see what a call changed.
    pub fn snapshot(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }
}

/// Sampling parameters.
pub fn sampling(n: [u8; 4]) -> tgv_sampling_params {
    tgv_sampling_params {
        mode: if n[0] < 200 { i32::from(n[0] % 2) } else { number(n[0]) },
        temperature: float(n[1]),
        top_k: number(n[1].rotate_left(3)),
        top_p: float(n[2]),
        min_p: float(n[2].rotate_left(2)),
        repeat_penalty: float(n[3]),
        seed: n[3].into(),
        reserved: u32::from(n[3] == 255),
        ..Default::default()
    }
}

/// Model parameters; never so many threads that a run takes long.
pub fn model_params(n: [u8; 4]) -> tgv_model_params {
    tgv_model_params {
        threads: if n[0] < 250 { i32::from(n[0] % 3) } else { -i32::from(n[0]) },
        gpu_layers: number(n[1]),
        embedding_cache_mb: number(n[2]),
        profile: if n[0] < 128 { i32::from(n[0] % 2) } else { number(n[0]) },
        precision: i32::from(n[1] % 2),
        processor_mask: if n[3] < 200 { 0 } else { u64::from(n[3] - 199) },
        memory_limit: if n[3] % 8 == 7 { u64::from(n[3]) << 16 } else { 0 },
        files: match n[2] {
            0..77 => 0,
            77 => 2,
            _ => 1,
        },
        ..Default::default()
    }
}
