//! Sums in AMX's tile registers: a group of rows times some vectors of tokens, a step of depth at a time.
//!
//! An operand's tile is 16 rows of 64 bytes: of the left one, a row of the matrix and its next numbers; of the right one, the next
//! 4 bytes of every token of a vector. That is a step: 32 numbers of [`Bf16`], or 64 of [`Int8`]. Left operands are groups of two
//! tiles, of 16 rows each, a step behind the other. The registers hold the sums from [`clear`] to [`store`]: no other code uses
//! them.
//!
//! # Safety
//! As for [`tiles`](super::tiles), between `configure` and `release`; pointers must be valid for what is loaded and stored.

use std::arch::asm;
use std::arch::x86_64::*;

use super::tiles::TILE;

/// Bytes of a tile.
pub(super) const TILE_BYTES: usize = 64 * TILE;
/// Vectors of tokens that are multiplied at a time with a group of rows: six tiles of sums, and two of operands.
pub(super) const VECTORS: usize = 3;
/// Tiles of sums.
pub(super) const SUMS: usize = 2 * VECTORS;

/// Sums of 16 rows by 16 tokens, a row of tokens behind the other.
#[repr(C, align(64))]
pub(crate) struct Sums([f32; TILE * TILE]);

impl Sums {
    pub(super) const ZERO: Sums = Sums([0.0; TILE * TILE]);

    /// The sums of all tokens for one row.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize) -> __m512 {
        _mm512_load_ps(self.0.as_ptr().add(row * TILE))
    }

    /// The same, where they are integers.
    #[inline(always)]
    pub(super) unsafe fn integers(&self, row: usize) -> __m512i {
        _mm512_load_si512(self.0.as_ptr().add(row * TILE).cast())
    }

    #[inline(always)]
    pub(super) unsafe fn set_row(&mut self, row: usize, sums: __m512) {
        _mm512_store_ps(self.0.as_mut_ptr().add(row * TILE), sums);
    }
}

/// What becomes of the sums.
pub(crate) trait Finish {
    /// Takes `rows` rows, at most 16, from `row` on, for one vector of tokens.
    unsafe fn tile(&self, row: usize, rows: usize, vector: usize, sums: &Sums);
}

/// Where a group of rows and some vectors of tokens are, while they are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub left: *const u8,
    pub right: *const u8,
    /// Bytes from a vector to the next in `right`.
    pub stride: usize,
}

impl Place {
    pub(super) fn further(self, steps: usize) -> Place {
        let left = self.left.wrapping_add(steps * 2 * TILE_BYTES);
        Place { left, right: self.right.wrapping_add(steps * TILE_BYTES), ..self }
    }
}

/// Makes all sums zero.
#[inline(always)]
pub(super) unsafe fn clear() {
    asm!(
        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
        options(nostack, nomem),
    );
}

/// Stores the sums of products with so many vectors: after [`Numbers::add_products`], those of the first 16 rows, then, from
/// [`VECTORS`] on, those of the others. What else is in `out` stays.
#[inline(always)]
pub(super) unsafe fn store(vectors: usize, out: &mut [Sums; SUMS]) {
    let has_sums = |tile: usize| if vectors > VECTORS { tile < vectors } else { tile % VECTORS < vectors };
    macro_rules! store {
        ($($tile:literal)*) => {
            $(if has_sums($tile) {
                asm!(
                    concat!("tilestored [{out} + {row}], tmm", $tile),
                    out = in(reg) &raw mut out[$tile],
                    row = in(reg) 64usize,
                    options(nostack),
                );
            })*
        };
    }
    store!(0 1 2 3 4 5);
}

/// What tiles of operands are made of.
pub(super) trait Numbers {
    /// Adds the products of a group of rows with 1 to [`VECTORS`] vectors of tokens.
    unsafe fn add_products(vectors: usize, place: Place, steps: usize);

    /// Adds the products of a group's first 16 rows with 1 to [`SUMS`] vectors of tokens: a tile of sums for each.
    unsafe fn add_products_of_16_rows(vectors: usize, place: Place, steps: usize);
}

/// bfloat16, summed in f32. Numbers below 2^-126 count as zero.
pub(super) struct Bf16;

/// Integers of 8 bits with a sign, summed in 32.
pub(super) struct Int8;

/// A loop over steps of depth with the given instructions, which add to the sums.
macro_rules! steps {
    ($place:expr, $steps:expr, [$($step:expr)*]) => {
        asm!(
            "2:",
            $($step,)*
            "add {left}, 2048",
            "add {a}, 1024",
            "add {b}, 1024",
            "add {c}, 1024",
            "dec {steps}",
            "jnz 2b",
            left = inout(reg) $place.left => _,
            a = inout(reg) $place.right => _,
            b = inout(reg) $place.right.wrapping_add($place.stride) => _,
            c = inout(reg) $place.right.wrapping_add(2 * $place.stride) => _,
            row = in(reg) 64usize,
            steps = inout(reg) $steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

macro_rules! numbers {
    ($numbers:ty, $multiply:literal) => {
        impl Numbers for $numbers {
            #[inline(always)]
            unsafe fn add_products(vectors: usize, place: Place, steps: usize) {
                match vectors {
                    3 => steps!(place, steps,
                        ["tileloadd tmm6, [{left} + {row}]"
                         "tileloadd tmm7, [{a} + {row}]"
                         concat!($multiply, " tmm0, tmm6, tmm7")
                         "tileloadd tmm7, [{b} + {row}]"
                         concat!($multiply, " tmm1, tmm6, tmm7")
                         "tileloadd tmm7, [{c} + {row}]"
                         concat!($multiply, " tmm2, tmm6, tmm7")
                         // Backwards: the last vector's tile is still there.
                         "tileloadd tmm6, [{left} + {row} + 1024]"
                         concat!($multiply, " tmm5, tmm6, tmm7")
                         "tileloadd tmm7, [{b} + {row}]"
                         concat!($multiply, " tmm4, tmm6, tmm7")
                         "tileloadd tmm7, [{a} + {row}]"
                         concat!($multiply, " tmm3, tmm6, tmm7")]),
                    // Tiles of the third vector's sums are free for operands.
                    2 => steps!(place, steps,
                        ["tileloadd tmm6, [{left} + {row}]"
                         "tileloadd tmm7, [{a} + {row}]"
                         concat!($multiply, " tmm0, tmm6, tmm7")
                         "tileloadd tmm5, [{left} + {row} + 1024]"
                         concat!($multiply, " tmm3, tmm5, tmm7")
                         "tileloadd tmm2, [{b} + {row}]"
                         concat!($multiply, " tmm1, tmm6, tmm2")
                         concat!($multiply, " tmm4, tmm5, tmm2")]),
                    _ => steps!(place, steps,
                        ["tileloadd tmm7, [{a} + {row}]"
                         "tileloadd tmm6, [{left} + {row}]"
                         concat!($multiply, " tmm0, tmm6, tmm7")
                         "tileloadd tmm5, [{left} + {row} + 1024]"
                         concat!($multiply, " tmm3, tmm5, tmm7")]),
                }
            }

            #[inline(always)]
            unsafe fn add_products_of_16_rows(vectors: usize, place: Place, steps: usize) {
                // Vectors that there are not are computed from others, and dropped.
                let right = |vector: usize| place.right.wrapping_add(vector.min(vectors - 1) * place.stride);
                asm!(
                    "2:",
                    "tileloadd tmm6, [{left} + {row}]",
                    "tileloadd tmm7, [{a} + {row}]",
                    concat!($multiply, " tmm0, tmm6, tmm7"),
                    "tileloadd tmm7, [{b} + {row}]",
                    concat!($multiply, " tmm1, tmm6, tmm7"),
                    "tileloadd tmm7, [{c} + {row}]",
                    concat!($multiply, " tmm2, tmm6, tmm7"),
                    "tileloadd tmm7, [{d} + {row}]",
                    concat!($multiply, " tmm3, tmm6, tmm7"),
                    "tileloadd tmm7, [{e} + {row}]",
                    concat!($multiply, " tmm4, tmm6, tmm7"),
                    "tileloadd tmm7, [{f} + {row}]",
                    concat!($multiply, " tmm5, tmm6, tmm7"),
                    "add {left}, 2048",
                    "add {a}, 1024",
                    "add {b}, 1024",
                    "add {c}, 1024",
                    "add {d}, 1024",
                    "add {e}, 1024",
                    "add {f}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    left = inout(reg) place.left => _,
                    a = inout(reg) right(0) => _,
                    b = inout(reg) right(1) => _,
                    c = inout(reg) right(2) => _,
                    d = inout(reg) right(3) => _,
                    e = inout(reg) right(4) => _,
                    f = inout(reg) right(5) => _,
                    row = in(reg) 64usize,
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

numbers!(Bf16, "tdpbf16ps");
numbers!(Int8, "tdpbssd");
