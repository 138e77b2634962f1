//! PIL's bicubic resize, to the bit.

use super::{no_memory, reserve, MAX_SIDE};
use crate::error::{Error, Result};

/// Resizes `[height, width, 3]` to `[out_height, out_width, 3]` as PIL's `Image.resize((out_width, out_height), BICUBIC)` does,
/// to the bit: cubic convolution with a = −0.5, its support scaled when shrinking; horizontally, then vertically, rounded to
/// 8 bits after each; a direction whose size does not change is left alone. (Pillow, `src/libImaging/Resample.c`, up to the
/// versions of the model's time; Pillow 13 goes vertically first for some sizes, which moves values by a level or so.)
///
/// # Errors
/// [`Error::InvalidArgument`] when a side is 0 or over [`MAX_SIDE`], or `rgb` has another length; [`Error::OutOfMemory`].
pub fn resize_bicubic(rgb: &[u8], width: usize, height: usize, out_width: usize, out_height: usize) -> Result<Vec<u8>> {
    let sides = [width, height, out_width, out_height];
    if sides.iter().any(|&s| s == 0 || s > MAX_SIDE as usize) || rgb.len() as u64 != width as u64 * height as u64 * 3 {
        return Err(Error::InvalidArgument(format!(
            "cannot resize {} bytes of {width}×{height} pixels to {out_width}×{out_height}",
            rgb.len()
        )));
    }
    let out_bytes = out_width as u64 * out_height as u64 * 3;
    let mut out = reserve(usize::try_from(out_bytes).map_err(|_| no_memory(out_bytes))?)?;
    let (columns, rows) = (Taps::new(width, out_width)?, Taps::new(height, out_height)?);
    let row_bytes = out_width * 3;

    // Rows are narrowed when the first output row needs them; those that a later one may need again wait in a ring.
    let ring_rows = rows.longest();
    let mut ring = reserve(if columns.identity { 0 } else { ring_rows * row_bytes })?;
    ring.resize(ring.capacity().min(ring_rows * row_bytes), 0);
    let mut sums = reserve::<i32>(row_bytes)?;
    let mut narrowed = 0;
    for y in 0..out_height {
        let (first, weights) = rows.of(y);
        if !columns.identity {
            for r in narrowed.max(first)..first + weights.len() {
                let slot = &mut ring[r % ring_rows * row_bytes..][..row_bytes];
                columns.apply(&rgb[r * width * 3..][..width * 3], slot);
            }
            narrowed = first + weights.len();
        }
        let row = |r: usize| match columns.identity {
            true => &rgb[r * row_bytes..][..row_bytes],
            false => &ring[r % ring_rows * row_bytes..][..row_bytes],
        };
        if rows.identity {
            out.extend_from_slice(row(first));
            continue;
        }
        sums.clear();
        sums.resize(row_bytes, ROUND);
        for (i, &weight) in weights.iter().enumerate() {
            for (sum, &v) in sums.iter_mut().zip(row(first + i)) {
                *sum += v as i32 * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
    Ok(out)
}

/// Bits behind the point of a weight: 32 less the 8 of a value, less 2 for sums beyond it.
const PRECISION: u32 = 32 - 8 - 2;
/// Half of the last bit kept.
const ROUND: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// For each output position of one direction, the input positions that it is made of and their fixed-point weights.
struct Taps {
    /// Of each output position: first input position, and where its weights start and end.
    spans: Vec<(usize, usize, usize)>,
    weights: Vec<i32>,
    /// Nothing to do: the size does not change.
    identity: bool,
}

impl Taps {
    fn new(from: usize, to: usize) -> Result<Taps> {
        if from == to {
            let mut spans = reserve(to)?;
            spans.extend((0..to).map(|i| (i, 0, 1)));
            return Ok(Taps { spans, weights: vec![1 << PRECISION], identity: true });
        }
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let mut spans = reserve(to)?;
        let mut weights = reserve((support.ceil() as usize * 2 + 1).min(from).saturating_mul(to))?;
        let mut exact = Vec::new();
        for i in 0..to {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|x| cubic((x as f64 - centre + 0.5) * (1.0 / stretch))));
            let total: f64 = exact.iter().sum();
            let start = weights.len();
            weights.extend(exact.iter().map(|w| {
                let fixed = (if total != 0.0 { w / total } else { *w }) * (1u32 << PRECISION) as f64;
                (fixed + 0.5f64.copysign(fixed)) as i32
            }));
            spans.push((first, start, weights.len()));
        }
        Ok(Taps { spans, weights, identity: false })
    }

    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, start, end) = self.spans[i];
        (first, &self.weights[start..end])
    }

    /// Most input positions of an output position.
    fn longest(&self) -> usize {
        self.spans.iter().map(|s| s.2 - s.1).max().unwrap_or(0)
    }

    /// One row of RGB pixels.
    fn apply(&self, row: &[u8], out: &mut [u8]) {
        for (&(first, start, end), out) in self.spans.iter().zip(out.as_chunks_mut::<3>().0) {
            let weights = &self.weights[start..end];
            let (pixels, _) = row[first * 3..][..weights.len() * 3].as_chunks::<3>();
            let mut sums = [ROUND; 3];
            for (pixel, &weight) in pixels.iter().zip(weights) {
                for (sum, &v) in sums.iter_mut().zip(pixel) {
                    *sum += v as i32 * weight;
                }
            }
            *out = sums.map(to_byte);
        }
    }
}

/// Keys' cubic convolution kernel with a = −0.5, in the order of operations that PIL has.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// As in `tests/reference/make_resize_goldens.py`.
    fn picture(width: usize, height: usize, kind: &str, seed: u64) -> Vec<u8> {
        let mut x = seed;
        let mut byte = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match (kind, (x >> 56) as u8) {
                ("blocks", v) => [0, 255][(v >= 128) as usize],
                (_, v) => v,
            }
        };
        (0..width * height * 3).map(|_| byte()).collect()
    }

    #[test]
    fn resizes_as_pil_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resize/cases.json");
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 60);
        for case in cases {
            let size = |key: &str, i: usize| case[key][i].as_u64().unwrap() as usize;
            let (w, h) = (size("from", 0), size("from", 1));
            let rgb = picture(w, h, case["kind"].as_str().unwrap(), case["seed"].as_u64().unwrap());
            let out = resize_bicubic(&rgb, w, h, size("to", 0), size("to", 1)).unwrap();
            if let Some(bytes) = case["bytes"].as_array() {
                assert_eq!(out, bytes.iter().map(|b| b.as_u64().unwrap() as u8).collect::<Vec<_>>(), "{case}");
            }
            assert_eq!(u64::from(crc32fast::hash(&out)), case["crc32"].as_u64().unwrap(), "{case}");
        }
    }

    #[test]
    fn refuses_sizes_that_make_no_picture() {
        for (len, w, h, ow, oh) in
            [(0, 0, 0, 1, 1), (12, 2, 2, 0, 1), (11, 2, 2, 1, 1), (12, 2, 2, 70_000, 1), (12, usize::MAX, 2, 1, 1)]
        {
            assert!(matches!(resize_bicubic(&vec![0; len], w, h, ow, oh), Err(Error::InvalidArgument(_))));
        }
    }
}
