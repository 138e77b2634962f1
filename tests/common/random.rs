//! Numbers and texts that look random and are the same on every run and machine.

/// A linear congruential generator (Knuth's MMIX constants); its high bits are used.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// 0 … n − 1.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.next()) * n as u64) >> 31) as usize
    }

    /// −1 … 1.
    pub fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }

    pub fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn char_of(&mut self, ranges: &[(u32, u32)]) -> char {
        let (first, last) = ranges[self.below(ranges.len())];
        char::from_u32(first + self.below((last - first + 1) as usize) as u32).unwrap_or(' ')
    }

    fn chars(&mut self, ranges: &[(u32, u32)], most: usize) -> String {
        (0..=self.below(most)).map(|_| self.char_of(ranges)).collect()
    }

    /// One to twelve pieces of every kind that a byte-level BPE and its split pattern treat differently.
    pub fn text(&mut self) -> String {
        (0..=self.below(12)).map(|_| self.piece()).collect()
    }

    fn piece(&mut self) -> String {
        const PROMPT: [&str; 14] = [
            "###",
            " ###",
            "###Human: <Img>",
            "</Img> ",
            " ###Assistant:",
            "<|endoftext|>",
            "<|endoftext|",
            "[vqa] ",
            "[refer]",
            "{<12><0><99><100>}",
            "<delim>",
            "<p>a red circle</p>",
            "# #",
            "<s>",
        ];
        const CONTRACTIONS: [&str; 12] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "’s", "''", " 's"];
        const EMOJI: [&str; 8] = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "🏴‍☠️"];
        const SPACES: [&str; 12] = [
            "\u{a0}", "\u{3000}", "\u{2003}", "\u{85}", "\u{1680}", "\u{2028}", "\u{202f}", "\u{200b}", "\u{feff}",
            "\u{b}", "\u{c}", "\u{180e}",
        ];
        match self.below(18) {
            0 => self.chars(&[(0x21, 0x7e)], 12),
            1 | 2 => {
                self.chars(&[(b'a'.into(), b'z'.into()), (b'a'.into(), b'z'.into()), (b'A'.into(), b'Z'.into())], 9)
            }
            3 => " ".to_owned() + &self.chars(&[(b'a'.into(), b'z'.into())], 9),
            4 => self.chars(&[(b'0'.into(), b'9'.into())], 8),
            5 => self.chars(&[(0xa1, 0xff)], 6),
            // Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Thai; all assigned for long.
            6 => self.chars(
                &[
                    (0x100, 0x17f),
                    (0x3b1, 0x3c9),
                    (0x410, 0x44f),
                    (0x5d0, 0x5ea),
                    (0x621, 0x63a),
                    (0x905, 0x939),
                    (0xe01, 0xe30),
                ],
                6,
            ),
            7 => self.chars(&[(0x4e00, 0x9fa5), (0x3041, 0x3094), (0x30a1, 0x30fa), (0xac00, 0xd7a3)], 6),
            8 => self.pick(&EMOJI).to_owned(),
            9 => self.chars(&[(0x1f600, 0x1f64f), (0x2190, 0x21ff), (0x2200, 0x22ff), (0x20000, 0x2a6d6)], 4),
            10 => " ".repeat(1 + self.below(40)),
            11 => "\t".repeat(1 + self.below(12)),
            12 => self.pick(&["\n", "\r\n", "\n\n", "\r", " \n", "\n "]).repeat(1 + self.below(3)),
            // Other numbers and combining marks.
            13 => self.chars(&[(0x2150, 0x215e), (0x2460, 0x2473), (0x660, 0x669), (0xb2, 0xb3), (0x300, 0x36f)], 4),
            14 => self.pick(&PROMPT).to_owned(),
            15 => self.pick(&CONTRACTIONS).to_owned(),
            16 => self.pick(&SPACES).repeat(1 + self.below(3)),
            _ => self.chars(&[(0, 0x1f), (0x7f, 0x9f)], 3),
        }
    }
}
