//! On AMX's tiles: a block's integers are added up in the tile registers, blocks in f32, offsets in bfloat16 on the tiles again.
//!
//! While the tile unit multiplies a block of a group of rows, the next one is unpacked, and the sums of the one before are added up.
//!
//! # Safety
//! As for [`int8_unpacking`](super); the function that all is inlined into must be compiled for AVX512-BF16 as well.

use std::arch::x86_64::*;

use super::super::bf16::interleaved;
use super::super::bf16_tiles;
use super::super::tile_products::{clear, store, Bf16, Finish, Int8, Numbers, Place, Sums, SUMS, TILE_BYTES, VECTORS};
use super::super::tiles::{configure, multiply_integers, release, TILE};
use super::{ahead, Gathered, Product, RowBlock, Weights, BLOCK, MOST_VECTORS, RUNS, STEP, STEPS, TOKENS};

const _: () = assert!(MOST_VECTORS == SUMS && STEP == 4 * TILE);

/// Rows of a group at most.
const ROWS: usize = 2 * TILE;
/// Blocks whose runs fill a tile of bfloat16.
const BLOCKS_OF_RUNS: usize = bf16_tiles::STEP / RUNS;

/// Whether this processor has what the module needs, and the system lets this process use it.
pub(crate) fn available() -> bool {
    bf16_tiles::available()
        && multiply_integers()
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
}

/// Steps of depth that runs are multiplied in.
fn run_steps(blocks: usize) -> usize {
    blocks.div_ceil(BLOCKS_OF_RUNS)
}

/// Bytes of a vector of tokens, if the address space has as many.
pub(crate) fn vector_bytes(blocks: usize) -> Option<usize> {
    let tiles = blocks.checked_mul(STEPS)?.checked_add(run_steps(blocks))?;
    tiles.checked_mul(TILE_BYTES)?.checked_add(blocks.checked_mul(TOKENS * size_of::<f32>())?)
}

/// A vector of tokens: its tiles of integers, its blocks' scales, and its tiles of runs' sums. More may follow.
#[derive(Clone, Copy)]
struct Tokens {
    first: *mut u8,
    blocks: usize,
}

impl Tokens {
    fn stride(&self) -> usize {
        (self.blocks * STEPS + run_steps(self.blocks)) * TILE_BYTES + self.blocks * TOKENS * size_of::<f32>()
    }

    /// The same, from a vector on.
    fn from(self, vector: usize) -> Tokens {
        Tokens { first: self.first.wrapping_add(vector * self.stride()), ..self }
    }

    fn numbers(&self, block: usize) -> *mut u8 {
        self.first.wrapping_add(block * STEPS * TILE_BYTES)
    }

    fn sums(&self) -> *mut u8 {
        self.numbers(self.blocks)
    }

    fn scales(&self, block: usize) -> *mut f32 {
        self.sums().wrapping_add(run_steps(self.blocks) * TILE_BYTES).cast::<f32>().wrapping_add(block * TOKENS)
    }
}

/// Writes a vector from tokens in rows, `stride` floats apart: `tokens` of them, at most [`TOKENS`], the others zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16,avx512vl")]
pub(crate) unsafe fn pack(src: *const f32, stride: usize, tokens: usize, blocks: usize, out: *mut u8) {
    let out = Tokens { first: out, blocks };
    for block in 0..blocks {
        let gathered = Gathered::new(src.add(block * BLOCK), stride, tokens);
        for step in 0..STEPS {
            for (i, row) in gathered.step(step).into_iter().enumerate() {
                _mm512_storeu_si512(out.numbers(block).add(step * TILE_BYTES + i * STEP).cast(), row);
            }
        }
        _mm512_storeu_ps(out.scales(block), _mm512_loadu_ps(gathered.scales.as_ptr()));
        for (i, two) in gathered.sums.as_chunks::<2>().0.iter().enumerate() {
            let pair = interleaved(_mm512_loadu_ps(two[0].as_ptr()), _mm512_loadu_ps(two[1].as_ptr()));
            _mm512_storeu_si512(out.sums().add((block * RUNS / 2 + i) * 64).cast(), pair);
        }
    }
    for row in blocks * RUNS / 2..run_steps(blocks) * TILE {
        _mm512_storeu_si512(out.sums().add(row * 64).cast(), _mm512_setzero_si512());
    }
}

/// A row's block in tiles of a left operand.
struct TileRow {
    numbers: *mut i8,
    scale: *mut f32,
    offsets: *mut u16,
}

impl RowBlock for TileRow {
    #[inline(always)]
    unsafe fn set(&self, step: usize, numbers: __m512i) {
        _mm512_store_si512(self.numbers.add(step * 2 * TILE_BYTES).cast(), numbers);
    }

    #[inline(always)]
    unsafe fn set_scale(&self, scale: f32) {
        *self.scale = scale;
    }

    #[inline(always)]
    unsafe fn set_offsets(&self, offsets: __m256) {
        let rounded = std::mem::transmute::<__m128bh, __m128i>(_mm256_cvtneps_pbh(offsets));
        _mm_store_si128(self.offsets.cast(), rounded);
    }
}

/// What a product is computed in.
#[repr(C, align(64))]
struct Scratch {
    /// Two blocks of a group, as a left operand.
    numbers: [[i8; ROWS * BLOCK]; 2],
    /// The scales of four.
    scales: [[f32; ROWS]; 4],
    /// The sums of one.
    sums: [Sums; SUMS],
    /// All blocks' so far.
    totals: [Sums; SUMS],
    /// What the offsets of two groups make.
    corrections: [[Sums; SUMS]; 2],
}

/// Bytes of memory that a product of so many blocks a row needs, if the address space has as many.
pub(crate) fn memory_bytes(blocks: usize) -> Option<usize> {
    run_steps(blocks).checked_mul(2 * TILE_BYTES)?.checked_add(size_of::<Scratch>())
}

/// A product with `V` vectors of tokens, while it is computed.
struct Multiplication<'a, W, const V: usize> {
    product: &'a Product,
    tokens: Tokens,
    weights: &'a W,
    scratch: &'a mut Scratch,
}

/// A group's block.
#[derive(Clone, Copy)]
struct Unit {
    group: usize,
    block: usize,
    /// How many came before.
    index: usize,
}

impl<W: Weights, const V: usize> Multiplication<'_, W, V> {
    /// Tiles of rows in a group: as many as the tile registers have room for the sums of.
    const ROW_TILES: usize = if V <= VECTORS { 2 } else { 1 };
    /// Rows of a group.
    const GROUP: usize = Self::ROW_TILES * TILE;
    /// Rows of a part of a unit, of which there are [`STEPS`].
    const PART: usize = Self::GROUP / STEPS;

    fn next(&self, unit: Unit) -> Unit {
        let (group, block) = match unit.block + 1 {
            end if end == self.product.blocks => (unit.group + 1, 0),
            block => (unit.group, block),
        };
        Unit { group, block, index: unit.index + 1 }
    }

    /// Rows from a group's first one on.
    fn rows_from(&self, group: usize) -> usize {
        self.product.rows.saturating_sub(group * Self::GROUP)
    }

    /// The offsets of a group's runs, a left operand.
    fn offsets(&self) -> *mut u8 {
        self.product.memory.wrapping_add(size_of::<Scratch>())
    }

    #[inline(always)]
    unsafe fn unpack(&mut self, unit: Unit, part: usize) {
        let first = part * Self::PART;
        let rows = self.rows_from(unit.group);
        let runs = unit.block / BLOCKS_OF_RUNS * 2 * TILE_BYTES + unit.block % BLOCKS_OF_RUNS * RUNS * 2;
        // All of one tile.
        let at = first / TILE * TILE_BYTES + first % TILE * STEP;
        let numbers = self.scratch.numbers[unit.index % 2].as_mut_ptr().wrapping_add(at);
        let offsets = self.offsets().wrapping_add(at + runs);
        let scales = self.scratch.scales[unit.index % 4].as_mut_ptr().wrapping_add(first);
        for i in 0..Self::PART {
            if first + i < rows {
                let out = TileRow {
                    numbers: numbers.wrapping_add(i * STEP),
                    scale: scales.wrapping_add(i),
                    offsets: offsets.wrapping_add(i * STEP).cast(),
                };
                let row = unit.group * Self::GROUP + first + i;
                self.weights.unpack(row, unit.block, &out);
                let (row, block) = ahead(row, unit.block, Self::GROUP, self.product.blocks);
                self.weights.fetch(row, block);
            }
        }
    }

    /// Adds a part of a unit's sums to the totals.
    #[inline(always)]
    unsafe fn add_up(&mut self, unit: Unit, part: usize) {
        let scales = &self.scratch.scales[unit.index % 4];
        let sums = &self.scratch.sums;
        for vector in 0..V {
            let of_tokens = _mm512_loadu_ps(self.tokens.from(vector).scales(unit.block));
            for row_tile in 0..Self::ROW_TILES {
                let tile = row_tile * VECTORS + vector;
                let totals = &mut self.scratch.totals[tile];
                for i in 0..TILE / STEPS {
                    let row = part * (TILE / STEPS) + i;
                    let scale = _mm512_mul_ps(_mm512_set1_ps(scales[row_tile * TILE + row]), of_tokens);
                    let so_far = if unit.block == 0 { _mm512_setzero_ps() } else { totals.row(row) };
                    totals.set_row(row, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[tile].integers(row)), scale, so_far));
                }
            }
        }
    }

    /// Adds what offsets make, and finishes the tiles of a group that have rows.
    #[inline(always)]
    unsafe fn finish(&mut self, group: usize, finish: &impl Finish) {
        let rows = self.rows_from(group);
        for row_tile in 0..Self::ROW_TILES {
            let first = row_tile * TILE;
            for vector in 0..if first < rows { V } else { 0 } {
                let tile = row_tile * VECTORS + vector;
                let (totals, corrections) =
                    (&mut self.scratch.totals[tile], &self.scratch.corrections[group % 2][tile]);
                if W::OFFSETS {
                    for row in 0..TILE {
                        totals.set_row(row, _mm512_add_ps(totals.row(row), corrections.row(row)));
                    }
                }
                finish.tile(group * Self::GROUP + first, (rows - first).min(TILE), vector, totals);
            }
        }
    }

    /// Adds products to the sums in the tile registers.
    #[inline(always)]
    unsafe fn add_products<N: Numbers>(place: Place, steps: usize) {
        if V <= VECTORS {
            N::add_products(V, place, steps);
        } else {
            N::add_products_of_16_rows(V, place, steps);
        }
    }

    #[inline(always)]
    unsafe fn run(&mut self, finish: &impl Finish) {
        let p = self.product;
        let (run_steps, stride) = (run_steps(p.blocks), self.tokens.stride());
        let units = p.rows.div_ceil(Self::GROUP) * p.blocks;
        if W::OFFSETS {
            // The last step may have fewer runs than a tile has room for.
            self.offsets().wrapping_add((run_steps - 1) * 2 * TILE_BYTES).write_bytes(0, 2 * TILE_BYTES);
        }
        let mut unit = Unit { group: 0, block: 0, index: 0 };
        (0..STEPS).for_each(|part| self.unpack(unit, part));
        let mut before: Option<Unit> = None;
        while unit.index < units {
            let next = self.next(unit);
            if W::OFFSETS && next.block == 0 {
                clear();
                Self::add_products::<Bf16>(
                    Place { left: self.offsets(), right: self.tokens.sums(), stride },
                    run_steps,
                );
                store(V, &mut self.scratch.corrections[unit.group % 2]);
            }
            clear();
            let left = self.scratch.numbers[unit.index % 2].as_ptr().cast();
            let place = Place { left, right: self.tokens.numbers(unit.block), stride };
            for part in 0..STEPS {
                Self::add_products::<Int8>(place.further(part), 1);
                self.unpack(next, part);
                if let Some(before) = before {
                    self.add_up(before, part);
                }
            }
            store(V, &mut self.scratch.sums);
            if let Some(before) = before.filter(|b| b.group < unit.group) {
                self.finish(before.group, finish);
            }
            before = Some(unit);
            unit = next;
        }
        if let Some(before) = before {
            (0..STEPS).for_each(|part| self.add_up(before, part));
            self.finish(before.group, finish);
        }
    }
}

/// Multiplies, and hands every tile of results to `finish`.
#[inline(always)]
pub(crate) unsafe fn multiply<W: Weights>(product: &Product, weights: &W, finish: &impl Finish) {
    debug_assert!(product.blocks > 0 && (1..=MOST_VECTORS).contains(&product.vectors));
    let scratch = &mut *product.memory.cast::<Scratch>();
    let tokens = Tokens { first: product.tokens, blocks: product.blocks };
    configure();
    match product.vectors {
        1 => Multiplication::<W, 1> { product, tokens, weights, scratch }.run(finish),
        2 => Multiplication::<W, 2> { product, tokens, weights, scratch }.run(finish),
        3 => Multiplication::<W, 3> { product, tokens, weights, scratch }.run(finish),
        4 => Multiplication::<W, 4> { product, tokens, weights, scratch }.run(finish),
        5 => Multiplication::<W, 5> { product, tokens, weights, scratch }.run(finish),
        _ => Multiplication::<W, 6> { product, tokens, weights, scratch }.run(finish),
    }
    release();
}
