//! Products of few tokens, whose left operand is unpacked while it is multiplied.
//!
//! With few tokens, weights take longer to unpack than to multiply, and packed for their whole depth they would go through the
//! second-level cache. Here a stretch of the depth at a time is unpacked to memory that stays in the first-level cache, while the
//! tile unit multiplies the stretch before; the sums stay in the tile registers from the first stretch to the last.
//!
//! # Safety
//! As for [`bf16_tiles`](super::bf16_tiles).

use super::bf16_tiles::{LeftRow, ROWS, STEP};
use super::tile_products::{clear, store, Bf16, Finish, Numbers, Place, Sums, SUMS, TILE_BYTES, VECTORS};
use super::tiles::{configure, release, TILE};

/// Columns of a row that are unpacked at a time.
pub(crate) const STRETCH: usize = 8 * STEP;
/// Vectors of tokens at most: the sums of 16 rows in six tiles.
pub(crate) const MOST_VECTORS: usize = SUMS;
/// Numbers of memory that a product needs: two stretches of a group of rows.
pub(crate) const MEMORY: usize = 2 * HALF;

const HALF: usize = ROWS * STRETCH;
/// Steps in a stretch.
const STEPS: usize = STRETCH / STEP;
/// Stretches ahead that weights are fetched.
pub(crate) const AHEAD: usize = 2;

/// A left operand as it is kept.
pub(crate) trait Weights {
    /// Writes a row's columns of a stretch: of the last one, those that there are, in whole steps.
    unsafe fn unpack(&self, row: usize, stretch: usize, out: LeftRow);
    /// Says that these will be unpacked soon.
    unsafe fn fetch(&self, row: usize, stretch: usize);
}

/// What is multiplied.
pub(crate) struct Product {
    /// Rows of the weights.
    pub rows: usize,
    /// Steps of depth, at least 1.
    pub steps: usize,
    /// Vectors of tokens, 1 to [`MOST_VECTORS`].
    pub vectors: usize,
    /// Their tiles.
    pub right: *const u16,
    /// [`MEMORY`] numbers.
    pub memory: *mut u16,
}

impl Product {
    /// Rows whose sums fit into the tile registers.
    fn group(&self) -> usize {
        match self.vectors {
            0..=VECTORS => ROWS,
            _ => TILE,
        }
    }

    fn stretches(&self) -> usize {
        self.steps.div_ceil(STEPS)
    }

    /// The stretches of all groups, one group's after the other's.
    fn units(&self) -> usize {
        self.rows.div_ceil(self.group()) * self.stretches()
    }

    /// Where a unit's are unpacked.
    fn memory_of(&self, unit: usize) -> *mut u16 {
        self.memory.wrapping_add(unit % 2 * HALF)
    }

    /// Part `part` of [`STEPS`] of a unit's rows: the first of the group, the part's own, and the stretch.
    fn part(&self, unit: usize, part: usize) -> (usize, std::ops::Range<usize>, usize) {
        let (first, own) = (unit / self.stretches() * self.group(), self.group() / STEPS);
        let start = first + part * own;
        (first, start..(start + own).min(self.rows), unit % self.stretches())
    }

    #[inline(always)]
    unsafe fn unpack(&self, weights: &impl Weights, unit: usize, part: usize) {
        if unit < self.units() {
            let (first, rows, stretch) = self.part(unit, part);
            for row in rows {
                weights.unpack(row, stretch, LeftRow::new(self.memory_of(unit), STEPS, row - first));
            }
        }
        if unit + AHEAD < self.units() {
            let (_, rows, stretch) = self.part(unit + AHEAD, part);
            for row in rows {
                weights.fetch(row, stretch);
            }
        }
    }
}

/// Multiplies, and hands every tile of sums to `finish`.
#[inline(always)]
pub(crate) unsafe fn multiply(p: &Product, weights: &impl Weights, finish: &impl Finish) {
    debug_assert!(p.steps > 0 && (1..=MOST_VECTORS).contains(&p.vectors));
    configure();
    let mut sums = [const { Sums::ZERO }; SUMS];
    let stretches = p.stretches();
    (0..STEPS).for_each(|part| p.unpack(weights, 0, part));
    for unit in 0..p.units() {
        let stretch = unit % stretches;
        if stretch == 0 {
            clear();
        }
        let done = stretch * STEPS;
        let right = p.right.cast::<u8>().wrapping_add(done * TILE_BYTES);
        let place = Place { left: p.memory_of(unit).cast_const().cast(), right, stride: p.steps * TILE_BYTES };
        for step in 0..STEPS {
            if done + step < p.steps {
                if p.vectors <= VECTORS {
                    Bf16::add_products(p.vectors, place.further(step), 1);
                } else {
                    Bf16::add_products_of_16_rows(p.vectors, place.further(step), 1);
                }
            }
            p.unpack(weights, unit + 1, step);
        }
        if stretch + 1 == stretches {
            store(p.vectors, &mut sums);
            finish_group(p, unit / stretches * p.group(), &sums, finish);
        }
    }
    release();
}

/// Finishes the tiles of a group that have rows and tokens.
#[inline(always)]
unsafe fn finish_group(p: &Product, first: usize, sums: &[Sums; SUMS], finish: &impl Finish) {
    for (tile, sums) in sums.iter().enumerate() {
        let (row, vector) = match p.vectors {
            0..=VECTORS => (first + tile / VECTORS * TILE, tile % VECTORS),
            _ => (first, tile),
        };
        if row < p.rows && vector < p.vectors {
            finish.tile(row, (p.rows - row).min(TILE), vector, sums);
        }
    }
}
