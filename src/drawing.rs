//! Grounded boxes drawn onto a picture, for people to look at.

use font8x8::UnicodeFonts;

use crate::error::Result;
use crate::grounding::GroundedBox;
use crate::image::Image;

/// Colours that differ well from each other, taken in turn.
const COLORS: [[u8; 3]; 8] = [
    [230, 25, 75],
    [0, 130, 200],
    [60, 160, 60],
    [245, 130, 48],
    [145, 30, 180],
    [0, 150, 150],
    [170, 110, 40],
    [240, 50, 230],
];
/// Pixels of a glyph's side before scaling.
const GLYPH: i64 = 8;

/// The picture with the outline of every box and, where a box has one, its label.
///
/// # Errors
/// `OutOfMemory` when the copy of the picture cannot be had.
pub fn draw_boxes(image: &Image, boxes: &[GroundedBox]) -> Result<Image> {
    let mut canvas =
        Canvas { width: i64::from(image.width()), height: i64::from(image.height()), rgb: image.rgb_copy()? };
    let side = canvas.width.min(canvas.height);
    let line = (side / 150).max(1);
    let scale = (side / 240).max(1);
    for (i, b) in boxes.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        // The last column and row of a box that reaches the edge are still inside the picture.
        let [x0, y0] = [b.x0, b.y0].map(|v| v.floor() as i64);
        let [x1, y1] = [b.x1, b.y1].map(|v| v.ceil() as i64);
        canvas.fill(x0, y0, x1, y0 + line, color);
        canvas.fill(x0, y1 - line, x1, y1, color);
        canvas.fill(x0, y0, x0 + line, y1, color);
        canvas.fill(x1 - line, y0, x1, y1, color);
        if !b.label.is_empty() {
            let height = GLYPH * scale + 2 * scale;
            // Above the box, or inside where there is no room.
            let top = if y0 >= height { y0 - height } else { y0 };
            canvas.label(x0, top, scale, &b.label, color);
        }
    }
    Image::from_rgb(canvas.rgb, image.width(), image.height())
}

struct Canvas {
    width: i64,
    height: i64,
    rgb: Vec<u8>,
}

impl Canvas {
    /// Fills columns `x0..x1` of rows `y0..y1`, as far as they are inside the picture.
    fn fill(&mut self, x0: i64, y0: i64, x1: i64, y1: i64, color: [u8; 3]) {
        let (x0, x1) = (x0.clamp(0, self.width), x1.clamp(0, self.width));
        for y in y0.clamp(0, self.height)..y1.clamp(0, self.height) {
            for x in x0..x1 {
                let at = ((y * self.width + x) * 3) as usize;
                self.rgb[at..at + 3].copy_from_slice(&color);
            }
        }
    }

    /// White text on a bar of the box's color, cut at the picture's edge.
    fn label(&mut self, x: i64, y: i64, scale: i64, text: &str, color: [u8; 3]) {
        let glyphs: Vec<[u8; 8]> = text.chars().map(glyph).collect();
        let width = (glyphs.len() as i64 * GLYPH + 2) * scale;
        // Moved left where it would leave the picture, as far as possible.
        let x = x.min(self.width - width).max(0);
        self.fill(x, y, x + width, y + (GLYPH + 2) * scale, color);
        for (i, rows) in glyphs.iter().enumerate() {
            let left = x + scale + i as i64 * GLYPH * scale;
            for (row, bits) in rows.iter().enumerate() {
                let top = y + scale + row as i64 * scale;
                for bit in (0..GLYPH).filter(|b| bits >> b & 1 == 1) {
                    let at = left + bit * scale;
                    self.fill(at, top, at + scale, top + scale, [255; 3]);
                }
            }
        }
    }
}

/// The glyph of a character; a filled square for what the font lacks.
fn glyph(c: char) -> [u8; 8] {
    let fonts = [font8x8::BASIC_FONTS.get(c), font8x8::LATIN_FONTS.get(c), font8x8::GREEK_FONTS.get(c)];
    fonts.into_iter().flatten().next().unwrap_or([0x7e; 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: u32, height: u32) -> Image {
        Image::from_rgb(vec![128; (width * height * 3) as usize], width, height).unwrap()
    }

    fn boxed(label: &str, [x0, y0, x1, y1]: [f32; 4]) -> GroundedBox {
        GroundedBox { label: label.into(), x0, y0, x1, y1 }
    }

    fn pixel(image: &Image, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * image.width() + x) * 3) as usize;
        image.rgb()[at..at + 3].try_into().unwrap()
    }

    #[test]
    fn outlines_are_where_the_boxes_are() {
        let drawn = draw_boxes(&gray(100, 80), &[boxed("", [10.0, 20.0, 60.0, 70.0])]).unwrap();
        for (x, y) in [(10, 20), (59, 20), (10, 69), (59, 69), (30, 20), (10, 40)] {
            assert_eq!(pixel(&drawn, x, y), COLORS[0], "{x},{y}");
        }
        for (x, y) in [(9, 20), (60, 20), (30, 40), (10, 70), (30, 19)] {
            assert_eq!(pixel(&drawn, x, y), [128; 3], "{x},{y}");
        }
    }

    #[test]
    fn labels_are_written_and_stay_inside() {
        let drawn = draw_boxes(&gray(100, 80), &[boxed("I", [50.0, 40.0, 90.0, 70.0])]).unwrap();
        assert_eq!(pixel(&drawn, 50, 30), COLORS[0], "the bar starts above the box");
        let white = drawn.rgb().chunks(3).filter(|p| *p == [255; 3]).count();
        assert_eq!(white, glyph('I').iter().map(|r| r.count_ones() as usize).sum::<usize>());
    }

    #[test]
    fn anything_may_be_drawn_anywhere() {
        let boxes = [
            boxed("a label much longer than the picture is wide ⭐ é", [0.0, 0.0, 3.0, 3.0]),
            boxed("x", [-50.0, -50.0, 500.0, 500.0]),
            boxed("", [2.0, 2.0, 2.0, 2.0]),
        ];
        for (w, h) in [(1, 1), (3, 3), (1, 50), (200, 2)] {
            draw_boxes(&gray(w, h), &boxes).unwrap();
        }
    }
}
