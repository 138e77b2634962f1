//! Boxes in an answer.

use tinygptv::grounding::GroundingParser;

use crate::bytes::{pieces, Bytes};

/// Finds the boxes of the input's text; they lie in the picture and do not depend on how the text comes.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let [width, height] = [bytes.u16(), bytes.u16()].map(u32::from);
    let n = usize::from(bytes.byte() % 16);
    let cuts = bytes.take(n);
    let text = String::from_utf8_lossy(bytes.rest()).into_owned();
    let parse = |pieces: &[&str]| {
        let mut parser = GroundingParser::new(width, height);
        pieces.iter().flat_map(|p| parser.push(p)).collect::<Vec<_>>()
    };
    let boxes = parse(&[&text]);
    assert_eq!(parse(&pieces(&text, cuts)), boxes, "the pieces count");
    for b in &boxes {
        assert!(0.0 <= b.x0 && b.x0 <= b.x1 && b.x1 <= width as f32, "{b:?} in {width} x {height}");
        assert!(0.0 <= b.y0 && b.y0 <= b.y1 && b.y1 <= height as f32, "{b:?} in {width} x {height}");
        assert!(is_taken_from(&b.label, &text), "{b:?}");
    }
}

/// Whether the label is the text with parts left out: tags inside a phrase are.
fn is_taken_from(label: &str, text: &str) -> bool {
    let mut rest = text.chars();
    label.chars().all(|c| rest.any(|r| r == c))
}
