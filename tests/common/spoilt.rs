//! Copies of model files with something wrong.

use std::path::Path;

use tinygptv::gguf::Gguf;

/// Length of a file's header: what is in front of its tensors' data, which follow each other without more than padding.
pub fn header_length(path: &Path) -> usize {
    let file = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    let data: usize = file.tensors().iter().map(|t| t.size_bytes.next_multiple_of(32)).sum();
    file.file_size() as usize - data
}

/// Twenty lengths to cut a file at: inside the fixed fields, around the header's end, inside the data.
pub fn cuts(path: &Path) -> [usize; 20] {
    let header = header_length(path);
    let size = std::fs::metadata(path).expect("a model file").len() as usize;
    let part = |n: usize| header + (size - header) / 8 * n;
    [
        1,
        3,
        4,
        6,
        8,
        15,
        20,
        24,
        100,
        header / 4,
        header / 2,
        header / 4 * 3,
        header - 1,
        header,
        header + 1,
        part(1),
        part(3),
        part(5),
        part(7),
        // The last tensor's data, not only the padding behind it.
        size - 64,
    ]
}

const UINT32: u32 = 4;
const STRING: u32 = 8;

/// Where the value of a key of this type starts.
fn value_of(bytes: &[u8], key: &str, ty: u32) -> usize {
    let entry = [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &ty.to_le_bytes()].concat();
    let at = bytes.windows(entry.len()).position(|w| w == entry).unwrap_or_else(|| panic!("no key {key} of type {ty}"));
    at + entry.len()
}

/// The file with another number in place of a key's.
pub fn with_u32(path: &Path, key: &str, value: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(path).expect("a model file");
    let at = value_of(&bytes, key, UINT32);
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// The file with another text, of the same length, in place of a key's.
pub fn with_text(path: &Path, key: &str, change: impl Fn(&str) -> String) -> Vec<u8> {
    let mut bytes = std::fs::read(path).expect("a model file");
    let at = value_of(&bytes, key, STRING);
    let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    let text = &mut bytes[at + 8..at + 8 + length];
    let changed = change(std::str::from_utf8(text).expect("a text"));
    text.copy_from_slice(changed.as_bytes());
    bytes
}

/// The file with all bytes of a tensor set, which makes every half- and single-precision number of it not a number.
pub fn with_bad_tensor(path: &Path, name: &str) -> Vec<u8> {
    let file = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    let info = file.find_tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let data = file.tensor(name, &info.shape).expect("a tensor");
    let mut bytes = std::fs::read(path).expect("a model file");
    let found = bytes.windows(64).position(|w| w == &data.bytes()[..64]).expect("the tensor's data");
    bytes[found..found + info.size_bytes].fill(0xff);
    bytes
}

/// The same bytes in every run, of no pattern.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
