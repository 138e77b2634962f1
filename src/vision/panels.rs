//! Memory for activations, and the token-panel layout that the kernels work on.
//!
//! A matrix of `rows` features by `tokens` is cut into panels of [`PanelShape::panel`] tokens. Panels lie one behind the
//! other; in a panel the features do, and in a feature its tokens. The last panel is as wide as its tokens need, rounded up to
//! whole vectors; the lanes beyond the last token hold finite numbers that nobody reads.

use std::alloc::{alloc_zeroed, dealloc, Layout};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::kernels::Kernel;
use crate::error::{Error, Result};

/// f32 values on a cache line's boundary, zero at first.
pub(super) struct Buffer {
    data: NonNull<f32>,
    len: usize,
}

// SAFETY: a Buffer owns its memory like a Vec does.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    const ALIGN: usize = 64;

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_mul(4)?.max(Self::ALIGN), Self::ALIGN).ok()
    }

    /// # Errors
    /// [`Error::OutOfMemory`] when the system has no such block.
    pub(super) fn zeroed(len: usize) -> Result<Buffer> {
        // SAFETY: the layout is never of size zero.
        let data = Self::layout(len).and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }.cast()));
        match data {
            Some(data) => Ok(Buffer { data, len }),
            None => Err(Error::OutOfMemory(format!(
                "no memory for {:.1} MiB of the vision encoder's working buffers; free some memory or use a smaller model",
                len as f64 * 4.0 / (1 << 20) as f64
            ).into())),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `zeroed` with this very layout.
            unsafe { dealloc(self.data.as_ptr().cast(), layout) };
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised values that only change through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

/// How a kernel wants tokens grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PanelShape {
    /// Tokens in a vector.
    pub lanes: usize,
    /// Tokens in a full panel, a multiple of `lanes`.
    pub panel: usize,
}

impl PanelShape {
    pub(super) fn of(kernel: &dyn Kernel) -> Self {
        PanelShape { lanes: kernel.lanes(), panel: kernel.panel() }
    }

    /// Floats that `rows` features of `tokens` tokens take, if the address space has as many.
    pub(super) fn floats(self, rows: usize, tokens: usize) -> Option<usize> {
        tokens.checked_next_multiple_of(self.lanes)?.checked_mul(rows)
    }

    /// Panels that hold `tokens`.
    pub(super) fn panels(self, tokens: usize) -> usize {
        tokens.div_ceil(self.panel)
    }

    /// The panel that has a token, and the token's lane there.
    pub(super) fn place(self, token: usize) -> (usize, usize) {
        (token / self.panel, token % self.panel)
    }

    /// Tokens that panel `p` of `tokens` has room for: a multiple of `lanes`.
    pub(super) fn width(self, tokens: usize, p: usize) -> usize {
        (tokens - p * self.panel).min(self.panel).next_multiple_of(self.lanes)
    }
}

/// A matrix of features by tokens in panels, over borrowed memory.
pub(super) struct Panels<'a> {
    data: &'a mut [f32],
    pub rows: usize,
    pub tokens: usize,
    pub shape: PanelShape,
}

impl<'a> Panels<'a> {
    /// The first part of `memory` as a matrix; the values stay as they are.
    ///
    /// # Panics
    /// If `memory` is too short: its owner sized it for this matrix.
    pub(super) fn over(memory: &'a mut [f32], rows: usize, tokens: usize, shape: PanelShape) -> Panels<'a> {
        let floats = shape.floats(rows, tokens).expect("sizes were checked when loading");
        Panels { data: &mut memory[..floats], rows, tokens, shape }
    }

    pub(super) fn panels(&self) -> usize {
        self.shape.panels(self.tokens)
    }

    pub(super) fn width(&self, p: usize) -> usize {
        self.shape.width(self.tokens, p)
    }

    /// Where feature `row` of panel `p` starts.
    pub(super) fn offset(&self, p: usize, row: usize) -> usize {
        debug_assert!(row <= self.rows && p < self.panels());
        p * self.shape.panel * self.rows + row * self.width(p)
    }

    /// For tasks that write disjoint parts at the same time.
    pub(super) fn writer(&mut self) -> Writer {
        Writer::of(self.data)
    }

    pub(super) fn copy_from(&mut self, values: &[f32]) {
        self.data.copy_from_slice(values);
    }

    /// Sets every value from its feature and token; lanes beyond the last token become 0.
    pub(super) fn fill(&mut self, value: impl Fn(usize, usize) -> f32) {
        for p in 0..self.panels() {
            let (first, width) = (p * self.shape.panel, self.width(p));
            let at = self.offset(p, 0);
            for (row, lanes) in self.data[at..].chunks_exact_mut(width).take(self.rows).enumerate() {
                for (lane, v) in lanes.iter_mut().enumerate() {
                    *v = if first + lane < self.tokens { value(row, first + lane) } else { 0.0 };
                }
            }
        }
    }

    /// The matrix as `[tokens, rows]`, row-major.
    pub(super) fn to_rows(&self) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        let len = self.rows * self.tokens;
        out.try_reserve_exact(len)
            .map_err(|_| Error::OutOfMemory(format!("no memory for {len} floats of output").into()))?;
        for token in 0..self.tokens {
            let (p, lane) = self.shape.place(token);
            let (at, width) = (self.offset(p, 0) + lane, self.width(p));
            out.extend((0..self.rows).map(|row| self.data[at + row * width]));
        }
        Ok(out)
    }
}

/// A pointer into a matrix that several tasks write to, each its own part.
#[derive(Clone, Copy)]
pub(super) struct Writer(*mut f32);

// SAFETY: only an address; whoever writes through it answers for not overlapping with others.
unsafe impl Send for Writer {}
// SAFETY: as above.
unsafe impl Sync for Writer {}

impl Writer {
    pub(super) fn of(data: &mut [f32]) -> Self {
        Writer(data.as_mut_ptr())
    }

    /// The address `offset` floats on.
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }

    /// For tasks that read only what they themselves write.
    pub(super) fn reader(self) -> Reader {
        Reader(self.0)
    }
}

/// [`Writer`]'s counterpart for reading.
#[derive(Clone, Copy)]
pub(super) struct Reader(*const f32);

// SAFETY: only an address; whoever reads through it answers for nobody writing there meanwhile.
unsafe impl Send for Reader {}
// SAFETY: as above.
unsafe impl Sync for Reader {}

impl Reader {
    pub(super) fn of(panels: &Panels) -> Self {
        Self::of_slice(panels.data)
    }

    pub(super) fn of_slice(data: &[f32]) -> Self {
        Reader(data.as_ptr())
    }

    /// The address `offset` floats on.
    pub(super) fn at(self, offset: usize) -> *const f32 {
        self.0.wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_over_odd_token_counts() {
        let shape = PanelShape { lanes: 4, panel: 12 };
        for tokens in [1, 3, 4, 5, 11, 12, 13, 25, 48] {
            for rows in [1, 2, 7] {
                let mut memory = Buffer::zeroed(shape.floats(rows, tokens).unwrap()).unwrap();
                memory.fill(9.0);
                let mut m = Panels::over(&mut memory, rows, tokens, shape);
                m.fill(|row, token| (token * 100 + row) as f32);
                let expected: Vec<f32> =
                    (0..tokens).flat_map(|t| (0..rows).map(move |r| (t * 100 + r) as f32)).collect();
                assert_eq!(m.to_rows().unwrap(), expected);
                assert!(memory.iter().all(|&v| v != 9.0), "padding was left as it was");
            }
        }
    }

    #[test]
    fn memory_is_aligned_and_refused_when_absurd() {
        let b = Buffer::zeroed(3).unwrap();
        assert_eq!(b.as_ptr() as usize % 64, 0);
        assert_eq!(&b[..], [0.0; 3]);
        assert!(matches!(Buffer::zeroed(usize::MAX / 8), Err(Error::OutOfMemory(_))));
        assert!(matches!(Buffer::zeroed(usize::MAX), Err(Error::OutOfMemory(_))));
    }
}
