//! Model files that are hostile in one place: the classes of bugs that advisories about GGUF readers name, for both files of
//! a pair. Each is a sound file with a few bytes changed, under the name of its class.

use std::path::{Path, PathBuf};

/// A file that must be refused.
pub struct Hostile {
    pub path: PathBuf,
    /// A part of the message.
    pub says: String,
}

const COUNT_OF_TENSORS: usize = 8;
const COUNT_OF_KEYS: usize = 16;
const FIRST_KEY: usize = 24;
const F32: u32 = 0;
const F64: u32 = 28;

/// A sound file, to spoil copies of.
struct Sound {
    kind: &'static str,
    bytes: Vec<u8>,
    /// Matrices without which the model does not work.
    matrices: [&'static str; 4],
    /// A list of texts.
    texts: &'static str,
    /// A number that sizes are made from.
    size: &'static str,
}

/// A copy that is being spoilt.
struct Copy<'a> {
    sound: &'a Sound,
    bytes: Vec<u8>,
}

impl Copy<'_> {
    fn put_u32(&mut self, at: usize, n: u32) {
        self.bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, n: u64) {
        self.bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
    }

    /// Where the length of a name of the header stands.
    fn name(&self, name: &str) -> usize {
        let entry = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
        self.bytes.windows(entry.len()).position(|w| w == entry).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Behind the name.
    fn behind(&self, name: &str) -> usize {
        self.name(name) + 8 + name.len()
    }

    fn matrix(&self) -> usize {
        self.name(self.sound.matrices[0])
    }

    /// Gives matrices other dimensions, in the file's order, which stand behind the name and their number.
    fn dimensions(&mut self, matrices: &[&str], dimensions: [u64; 2]) {
        for matrix in matrices {
            let at = self.behind(matrix) + 4;
            self.put_u64(at, dimensions[0]);
            self.put_u64(at + 8, dimensions[1]);
        }
    }

    /// Gives the first matrix a type, which stands behind the dimensions, and dimensions.
    fn typed(&mut self, ty: u32, dimensions: [u64; 2]) {
        let matrix = self.sound.matrices[0];
        self.put_u32(self.behind(matrix) + 4 + 16, ty);
        self.dimensions(&[matrix], dimensions);
    }

    fn first(&mut self, dimensions: [u64; 2]) {
        self.dimensions(&self.sound.matrices[..1], dimensions);
    }

    /// Where the length of the first text of the list stands: behind the key, two types and the count.
    fn first_text(&self) -> usize {
        self.behind(self.sound.texts) + 4 + 4 + 8
    }

    /// Makes the first text of the list longer by so many bytes, a multiple of the alignment.
    fn lengthen(&mut self, by: usize) {
        let at = self.first_text();
        let length = u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"));
        self.put_u64(at, length + by as u64);
        self.bytes.splice(at + 8..at + 8, std::iter::repeat_n(b'x', by));
    }
}

type Spoil = fn(&mut Copy);

/// Class and variant, what is changed, what the message says.
const CLASSES: [(&str, Spoil, &str); 22] = [
    ("ne-overflow-product", |c| c.first([1 << 40, 1 << 40]), "too many elements"),
    ("ne-overflow-wraps-to-zero", |c| c.first([1 << 32, 1 << 32]), "too many elements"),
    ("ne-overflow-wraps-to-a-row", |c| c.first([32, (1 << 59) + 1]), "too many elements"),
    ("ne-overflow-negative", |c| c.first([32, u64::MAX]), "too many elements"),
    ("n_kv-overflow-largest", |c| c.put_u64(COUNT_OF_KEYS, u64::MAX), "claims"),
    // Times the bytes that a reader may take for each, a little more than 64 bits hold.
    ("n_kv-overflow-wraps", |c| c.put_u64(COUNT_OF_KEYS, u64::MAX / 48 + 2), "claims"),
    ("n_tensors-overflow-largest", |c| c.put_u64(COUNT_OF_TENSORS, u64::MAX), "claims"),
    ("n_tensors-overflow-wraps", |c| c.put_u64(COUNT_OF_TENSORS, u64::MAX / 368 + 2), "claims"),
    ("string-length-plus-one-key", |c| c.put_u64(FIRST_KEY, u64::MAX), "bytes long"),
    ("string-length-plus-one-value", |c| c.put_u64(c.first_text(), u64::MAX), "truncated"),
    ("string-length-plus-one-tensor-name", |c| c.put_u64(c.matrix(), u64::MAX), "bytes long"),
    // Four times 2^62 bytes: together nothing.
    ("context-size-overflow-sum-of-tensors", |c| c.dimensions(&c.sound.matrices, [32, 1 << 56]), "past the end"),
    // The size fits 63 bits, but not after it is rounded up to the alignment.
    ("context-size-overflow-bypass-by-padding", |c| c.typed(F32, [1, (1 << 61) - 1]), "past the end"),
    ("context-size-overflow-largest-number", |c| c.put_u32(c.behind(c.sound.size) + 4, u32::MAX), "4294967295"),
    ("nbytes-overflow-wraps-to-zero", |c| c.typed(F64, [32, 1 << 56]), "too large"),
    ("nbytes-overflow-wraps-to-a-row", |c| c.typed(F64, [32, (1 << 56) + 1]), "too large"),
    ("token-length-cast-negative", |c| c.put_u64(c.first_text(), 1 << 31), "truncated"),
    ("token-length-cast-wraps-to-one", |c| c.put_u64(c.first_text(), (1 << 32) + 1), "truncated"),
    ("empty-key", |c| c.put_u64(FIRST_KEY, 0), "0 bytes long"),
    ("empty-key-of-a-tensor", |c| c.put_u64(c.matrix(), 0), "0 bytes long"),
    (
        "null-tensor-of-another-name",
        |c| {
            let at = c.matrix() + 8;
            c.bytes[at] = b'?';
        },
        "has no tensor",
    ),
    ("null-tensor-of-no-elements", |c| c.first([32, 0]), "dimension of 0"),
];

/// Writes a spoilt copy.
fn write(folder: &Path, sound: &Sound, class: &str, spoil: Spoil, says: &str) -> Hostile {
    let mut copy = Copy { sound, bytes: sound.bytes.clone() };
    spoil(&mut copy);
    let path = folder.join(format!("{}-{class}.gguf", sound.kind));
    std::fs::write(&path, copy.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Hostile { path, says: says.to_owned() }
}

fn write_all(folder: &Path, sound: &Sound) -> Vec<Hostile> {
    CLASSES.iter().map(|(class, spoil, says)| write(folder, sound, class, *spoil, says)).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Hostile copies of a decoder file of one layer or more with 16-bit weights.
pub fn decoders(folder: &Path, decoder: &Path) -> Vec<Hostile> {
    let sound = Sound {
        kind: "decoder",
        bytes: read(decoder),
        matrices: ["token_embd.weight", "output.weight", "blk.0.attn_output.weight", "blk.0.ffn_up.weight"],
        texts: "tokenizer.ggml.tokens",
        size: "phi2.context_length",
    };
    let mut all = write_all(folder, &sound);
    all.push(write(folder, &sound, "token-length-cast-a-long-token", |c| c.lengthen(8192), "8193 bytes long"));
    all
}

/// Hostile copies of a vision file of one block or more with 16-bit weights.
pub fn visions(folder: &Path, vision: &Path) -> Vec<Hostile> {
    let sound = Sound {
        kind: "vision",
        bytes: read(vision),
        matrices: [
            "v.blk.0.attn_qkv.weight",
            "v.blk.0.attn_out.weight",
            "v.blk.0.ffn_up.weight",
            "v.blk.0.ffn_down.weight",
        ],
        texts: "tinygptv.prompt.names",
        size: "clip.vision.image_size",
    };
    write_all(folder, &sound)
}
