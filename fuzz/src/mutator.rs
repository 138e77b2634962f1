//! Small changes of an input. libFuzzer has better ones, but these need no instrumented build and are the same on every run.

/// Xorshift (Marsaglia 2003) with 64 bits of state.
pub struct Mutator(u64);

/// Numbers at the edges of types.
const INTERESTING: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
    0x2000_0000_0000_0001,
];

impl Mutator {
    /// The same seed makes the same changes.
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n.max(1)
    }

    /// One to four changes; `other` is another input to take parts from.
    pub fn mutate(&mut self, input: &[u8], other: &[u8], max_len: usize) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, other);
        }
        bytes.truncate(max_len);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let n = 1 + self.below(16);
        let end = (at + n).min(bytes.len());
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let value = self.next() as u8;
                bytes.splice(at..at, std::iter::repeat_n(value, n));
            }
            4 => {
                let copy = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let size = 1 << self.below(4);
                let value = INTERESTING[self.below(INTERESTING.len())].to_le_bytes();
                for (byte, new) in bytes[at..].iter_mut().zip(&value[..size]) {
                    *byte = *new;
                }
            }
            6 => {
                let from = self.below(other.len() + 1);
                let part = &other[from..(from + n).min(other.len())];
                bytes.splice(at..end, part.iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
}
