//! Random numbers of a tensor, each from its own place alone: any range, in any order, on any number of threads.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::parallel;

/// The golden ratio's fraction in 64 bits: SplitMix64's increment (Steele, Lea and Flood 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Rows differ in scale by up to this much, so that a tensor has longer tails than its rows.
const ROW_SPREAD: f32 = 0.25;

/// SplitMix64's finaliser.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A key that depends on every bit of a seed and a text.
pub fn key(seed: u64, text: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(text).finalize();
    digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte))
}

/// About normal with variance 1: the sum of four uniform numbers of 16 bits each, which ends at ±3.46.
fn normal(bits: u64) -> f32 {
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    // Each part has the variance (2^32 − 1) / 12; the sum of four has σ = 65536 / √3.
    const SCALE: f32 = 2.642_875e-5;
    (sum as i32 - 2 * 0xffff) as f32 * SCALE
}

/// How a tensor's numbers are spread.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// From `key`.
    pub key: u64,
    /// Length of a row.
    pub width: usize,
    /// Mean.
    pub center: f32,
    /// Standard deviation, about.
    pub spread: f32,
    /// Rows that are multiplied by a number.
    pub row_factors: BTreeMap<usize, f32>,
    /// Columns that are multiplied by a number.
    pub column_factors: BTreeMap<usize, f32>,
    /// Threads to draw on.
    pub threads: usize,
}

impl Drawing {
    /// Appends the numbers `start .. start + count` in row-major order to `out`.
    pub fn draw(&self, start: usize, count: usize, out: &mut Vec<f32>) {
        let from = out.len();
        out.resize(from + count, 0.0);
        parallel::fill(&mut out[from..], self.threads, |offset, part| self.fill(start + offset, part));
    }

    fn fill(&self, mut at: usize, mut out: &mut [f32]) {
        while !out.is_empty() {
            let (row, column) = (at / self.width, at % self.width);
            let (part, rest) = out.split_at_mut(out.len().min(self.width - column));
            self.fill_row(row, column, part);
            at += part.len();
            out = rest;
        }
    }

    fn fill_row(&self, row: usize, first: usize, out: &mut [f32]) {
        let key = mix(self.key ^ mix(row as u64 + 1));
        let factor = self.row_factors.get(&row).copied().unwrap_or(1.0);
        let spread = self.spread * factor * (1.0 + ROW_SPREAD * (key >> 40) as f32 / (1u32 << 23) as f32 - ROW_SPREAD);
        let center = self.center * factor;
        for (i, value) in out.iter_mut().enumerate() {
            let bits = mix(key.wrapping_add(((first + i + 1) as u64).wrapping_mul(GOLDEN)));
            *value = center + spread * normal(bits);
        }
        for (&column, factor) in self.column_factors.range(first..first + out.len()) {
            out[column - first] *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(threads: usize) -> Drawing {
        Drawing {
            key: key(1, "a"),
            width: 700,
            center: 0.0,
            spread: 0.02,
            row_factors: BTreeMap::from([(3, 10.0)]),
            column_factors: BTreeMap::from([(0, 0.5), (699, 4.0)]),
            threads,
        }
    }

    fn draw(d: &Drawing, start: usize, count: usize) -> Vec<f32> {
        let mut out = Vec::new();
        d.draw(start, count, &mut out);
        out
    }

    #[test]
    fn any_range_on_any_threads_is_the_same() {
        let whole = draw(&drawing(1), 0, 700 * 300);
        assert_eq!(draw(&drawing(3), 0, 700 * 300), whole);
        for (start, count) in [(0, 1), (699, 2), (1400, 700), (123, 70_000)] {
            assert_eq!(draw(&drawing(2), start, count), whole[start..start + count]);
        }
        assert_ne!(draw(&Drawing { key: key(2, "a"), ..drawing(1) }, 0, 700), whole[..700]);
        assert_ne!(draw(&Drawing { key: key(1, "b"), ..drawing(1) }, 0, 700), whole[..700]);
    }

    #[test]
    fn spread_is_as_asked() {
        let d = drawing(2);
        let sigma = |values: &mut dyn Iterator<Item = f32>| {
            let (mut n, mut sum, mut squares) = (0f64, 0f64, 0f64);
            for v in values {
                n += 1.0;
                sum += f64::from(v);
                squares += f64::from(v).powi(2);
            }
            let sigma = (squares / n).sqrt();
            assert!((sum / n).abs() < 4.0 * sigma / n.sqrt(), "mean {}", sum / n);
            sigma
        };
        let values = draw(&d, 0, 700 * 1000);
        let rows = || values.chunks(700).enumerate();
        let usual = sigma(&mut rows().filter(|r| r.0 != 3).flat_map(|r| r.1[1..699].to_vec()));
        assert!((usual / 0.02 - 1.0).abs() < 0.03, "{usual}");
        let row = sigma(&mut values[3 * 700 + 1..4 * 700 - 1].iter().copied());
        assert!((7.0..13.0).contains(&(row / usual)), "{row}");
        let column = |c: usize| sigma(&mut rows().filter(|r| r.0 != 3).map(|r| r.1[c]));
        assert!((0.4..0.6).contains(&(column(0) / usual)) && (3.5..4.5).contains(&(column(699) / usual)));
    }
}
