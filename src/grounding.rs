//! Boxes in an answer's text → structs in pixels of the caller's picture. Pure.
//!
//! A grounded answer writes a box as `{<x0><y0><x1><y1>}`, integers 0–100 of the picture's width and height, and a phrase with
//! its boxes as `<p>phrase</p>{…}<delim>{…}` (docs/model.md, section 8). Models make mistakes, so the parser takes what it can
//! read: white space anywhere, braces left out, corners swapped, numbers past 100 cut to 100, tags never closed.

/// One box of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundedBox {
    /// The phrase that the box belongs to; empty when the answer names none.
    pub label: String,
    /// Left edge in pixels.
    pub x0: f32,
    /// Upper edge in pixels.
    pub y0: f32,
    /// Right edge in pixels, not left of `x0`.
    pub x1: f32,
    /// Lower edge in pixels, not above `y0`.
    pub y1: f32,
}

/// Finds boxes in a text that comes in pieces. A box is found as soon as its last `>` has come.
#[derive(Clone, Debug)]
pub struct GroundingParser {
    width: f32,
    height: f32,
    /// Text not yet understood: it may be the beginning of a tag.
    rest: String,
    label: Label,
    /// Numbers of a box so far.
    corners: Vec<f32>,
}

#[derive(Clone, Debug)]
enum Label {
    None,
    /// Inside `<p>`.
    Open(String),
    /// After `</p>`, as long as boxes follow.
    Closed(String),
}

/// Answers of a language model are short; a phrase that long is a runaway.
const MAX_LABEL_BYTES: usize = 1000;
/// The longest tag: `<delim>`. A number may be as long.
const MAX_TAG_BYTES: usize = 8;
/// Coordinates are percent.
const SCALE: f32 = 100.0;

enum Tag {
    Phrase,
    PhraseEnd,
    Delimiter,
    Number(f32),
}

/// What the text starts with.
enum Start {
    Tag(Tag, usize),
    /// No tag, whatever follows.
    Text,
    /// May become a tag.
    Open,
}

impl GroundingParser {
    /// For an answer about a picture of these sides in pixels.
    pub fn new(width: u32, height: u32) -> GroundingParser {
        GroundingParser {
            width: width as f32,
            height: height as f32,
            rest: String::new(),
            label: Label::None,
            corners: Vec::new(),
        }
    }

    /// Takes the next piece of the answer and returns the boxes that it completes.
    pub fn push(&mut self, text: &str) -> Vec<GroundedBox> {
        self.rest.push_str(text);
        let text = std::mem::take(&mut self.rest);
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if c != '<' {
                self.character(c);
                at += c.len_utf8();
                continue;
            }
            match start(&text[at..]) {
                Start::Tag(tag, length) => {
                    found.extend(self.tag(tag));
                    at += length;
                }
                Start::Text => {
                    self.character(c);
                    at += 1;
                }
                Start::Open => break,
            }
        }
        self.rest = text[at..].to_owned();
        found
    }

    fn character(&mut self, c: char) {
        match &mut self.label {
            Label::Open(label) => {
                if label.len() < MAX_LABEL_BYTES {
                    label.push(c);
                }
            }
            // Braces and white space may stand between a phrase, its boxes and their numbers; anything else ends them.
            _ if c.is_whitespace() || c == '{' || c == '}' => {
                if c != ' ' {
                    self.corners.clear();
                }
            }
            _ => {
                self.corners.clear();
                self.label = Label::None;
            }
        }
    }

    fn tag(&mut self, tag: Tag) -> Option<GroundedBox> {
        match tag {
            Tag::Phrase => {
                self.corners.clear();
                self.label = Label::Open(String::new());
            }
            Tag::PhraseEnd => {
                self.corners.clear();
                self.close_label();
            }
            Tag::Delimiter => self.corners.clear(),
            Tag::Number(n) => {
                // A phrase that was never closed ends where its box starts.
                self.close_label();
                self.corners.push(n);
                if self.corners.len() == 4 {
                    return Some(self.finish_box());
                }
            }
        }
        None
    }

    fn close_label(&mut self) {
        if let Label::Open(label) = &mut self.label {
            self.label = Label::Closed(label.trim_matches(|c: char| c.is_whitespace() || c == '{').to_owned());
        }
    }

    fn finish_box(&mut self) -> GroundedBox {
        let at = |i: usize, side: f32| self.corners[i].min(SCALE) * side / SCALE;
        let (xa, ya, xb, yb) = (at(0, self.width), at(1, self.height), at(2, self.width), at(3, self.height));
        self.corners.clear();
        let label = match &self.label {
            Label::Closed(label) => label.clone(),
            _ => String::new(),
        };
        GroundedBox { label, x0: xa.min(xb), y0: ya.min(yb), x1: xa.max(xb), y1: ya.max(yb) }
    }
}

/// What a text that starts with `<` starts with.
fn start(text: &str) -> Start {
    let Some(end) = text.bytes().take(MAX_TAG_BYTES).position(|b| b == b'>') else {
        let begun = text.len() < MAX_TAG_BYTES && text[1..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'/');
        return if begun { Start::Open } else { Start::Text };
    };
    let tag = match &text[1..end] {
        "p" => Tag::Phrase,
        "/p" => Tag::PhraseEnd,
        "delim" => Tag::Delimiter,
        number if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => match number.parse() {
            Ok(n) => Tag::Number(n),
            Err(_) => return Start::Text,
        },
        _ => return Start::Text,
    };
    Start::Tag(tag, end + 1)
}

/// All boxes of a whole answer.
pub fn parse(answer: &str, width: u32, height: u32) -> Vec<GroundedBox> {
    GroundingParser::new(width, height).push(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(label: &str, corners: [f32; 4]) -> GroundedBox {
        let [x0, y0, x1, y1] = corners;
        GroundedBox { label: label.into(), x0, y0, x1, y1 }
    }

    #[test]
    fn bare_boxes_are_scaled_to_the_picture() {
        assert_eq!(parse("{<10><20><50><100>}", 200, 50), [boxed("", [20.0, 10.0, 100.0, 50.0])]);
    }

    #[test]
    fn phrases_own_the_boxes_that_follow() {
        let text =
            "a <p>red circle</p> {<1><2><3><4>}<delim>{<5><6><7><8>} and <p>the sky</p>{<0><0><100><9>} {<1><1><2><2>}";
        assert_eq!(
            parse(text, 100, 100),
            [
                boxed("red circle", [1.0, 2.0, 3.0, 4.0]),
                boxed("red circle", [5.0, 6.0, 7.0, 8.0]),
                boxed("the sky", [0.0, 0.0, 100.0, 9.0]),
                boxed("the sky", [1.0, 1.0, 2.0, 2.0]),
            ]
        );
        assert_eq!(parse("<p>a</p> then {<1><1><2><2>}", 100, 100)[0].label, "");
    }

    #[test]
    fn mistakes_are_read_as_far_as_they_make_sense() {
        let one = |text: &str| {
            let all = parse(text, 100, 100);
            assert_eq!(all.len(), 1, "{text}: {all:?}");
            all[0].clone()
        };
        assert_eq!(one("<50><60><10><20>"), boxed("", [10.0, 20.0, 50.0, 60.0]));
        assert_eq!(one("{ <1> <2> <3> <4> }"), boxed("", [1.0, 2.0, 3.0, 4.0]));
        assert_eq!(one("{<1><2><300><999999>}"), boxed("", [1.0, 2.0, 100.0, 100.0]));
        assert_eq!(one("<p>dog {<1><2><3><4>}").label, "dog");
        assert_eq!(one("<<1><2><3><4>"), boxed("", [1.0, 2.0, 3.0, 4.0]));
        for none in
            ["", "{<1><2><3>}", "{<1><2><3>} {<4>", "<1><2>x<3><4>", "<-1><2><3><4>", "<1.5><2><3><4>", "< 1><2><3><4>"]
        {
            assert_eq!(parse(none, 100, 100), [], "{none}");
        }
        assert_eq!(parse("{<1><2><3>} {<4><5><6><7>}", 100, 100), [boxed("", [4.0, 5.0, 6.0, 7.0])]);
    }

    #[test]
    fn pieces_make_no_difference() {
        let text = "<p>röter ⭐</p>{<1><2><3><4>}<delim><5><6><7><8> <x <p>b</p>{<9><9><99><99>}";
        let whole = parse(text, 640, 480);
        assert_eq!(whole.len(), 3);
        let cuts: Vec<usize> = (1..text.len()).filter(|&i| text.is_char_boundary(i)).collect();
        for &cut in &cuts {
            let mut parser = GroundingParser::new(640, 480);
            let mut found = parser.push(&text[..cut]);
            found.extend(parser.push(&text[cut..]));
            assert_eq!(found, whole, "cut at {cut}");
        }
        let mut parser = GroundingParser::new(640, 480);
        let found: Vec<_> = text.chars().flat_map(|c| parser.push(&c.to_string())).collect();
        assert_eq!(found, whole);
    }

    #[test]
    fn runaway_text_costs_bounded_memory() {
        let mut parser = GroundingParser::new(1, 1);
        parser.push("<p>");
        for _ in 0..10_000 {
            parser.push("aaaaaaaaaa<");
        }
        assert!(matches!(&parser.label, Label::Open(l) if l.len() <= MAX_LABEL_BYTES));
        assert!(parser.rest.len() < MAX_TAG_BYTES);
    }
}
