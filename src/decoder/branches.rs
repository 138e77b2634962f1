//! Branches: several continuations of what a decoder holds, evaluated side by side in the same passes. They share the
//! beginning in the KV cache, so that it is neither evaluated nor stored twice.

use super::{bindings, Decoder, Entry, Slot, MAX_BRANCHES, MAX_OUTPUTS, MICRO_BATCH, TRUNK};
use crate::error::{Error, Result};

/// What one branch gets next.
#[derive(Clone, Debug)]
pub struct BranchSlot {
    /// The branch, from 0 on.
    pub branch: usize,
    /// What comes next in it.
    pub slot: Slot,
    /// Whether the logits after it are wanted.
    pub wants_logits: bool,
}

/// The branches of a decoder. When they are dropped, it holds what it held before.
pub struct Branches<'a> {
    decoder: &'a mut Decoder,
    /// Positions of each branch, those of the trunk included.
    lengths: Vec<usize>,
}

impl Decoder {
    /// Most branches at a time; 0 for architectures that cannot share a beginning.
    pub fn max_branches(&self) -> usize {
        if self.model.can_branch() {
            MAX_BRANCHES
        } else {
            0
        }
    }

    /// Starts `count` branches after what the decoder holds.
    pub fn branches(&mut self, count: usize) -> Result<Branches<'_>> {
        if count > self.max_branches() {
            return Err(Error::Internal(format!("{count} branches, {} are possible", self.max_branches())));
        }
        let length = self.held.len();
        let mut branches = Branches { decoder: self, lengths: vec![length; count] };
        for branch in 0..count {
            branches.restart(branch);
        }
        Ok(branches)
    }
}

fn sequence(branch: usize) -> i32 {
    TRUNK + 1 + branch as i32
}

impl Branches<'_> {
    /// Makes a branch begin anew after what the decoder holds.
    pub fn restart(&mut self, branch: usize) {
        self.clear(branch);
        let length = self.decoder.held.len();
        self.lengths[branch] = length;
        // SAFETY: the context is alive.
        let copied = unsafe { bindings::tgvi_memory_copy(self.decoder.context.as_ptr(), TRUNK, sequence(branch)) };
        self.decoder.broken |= !copied;
    }

    fn clear(&mut self, branch: usize) {
        // SAFETY: the context is alive.
        let removed = unsafe { bindings::tgvi_memory_remove(self.decoder.context.as_ptr(), sequence(branch), -1) };
        self.decoder.broken |= removed < 0;
    }

    /// Positions that are still free, for all branches together.
    pub fn free(&self) -> usize {
        let shared = self.decoder.held.len();
        let own: usize = self.lengths.iter().map(|l| l - shared).sum();
        self.decoder.capacity.saturating_sub(shared + own)
    }

    /// Evaluates `slots`, each after what its branch holds, in as few passes as possible. `on_logits` gets the index of
    /// each slot that wants logits, and those, in order.
    pub fn evaluate(
        &mut self,
        slots: &[BranchSlot],
        on_logits: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let free = self.free();
        if slots.len() > free {
            let capacity = self.decoder.capacity;
            return Err(Error::ContextFull { capacity, used: capacity - free, needed: slots.len() });
        }
        let mut start = 0;
        while start < slots.len() {
            let pass = &slots[start..start + pass_length(&slots[start..])];
            let mut entries = Vec::with_capacity(pass.len());
            for BranchSlot { branch, slot, wants_logits } in pass {
                let position = self.lengths[*branch];
                self.lengths[*branch] += 1;
                entries.push(Entry { sequence: sequence(*branch), position, slot, wants_logits: *wants_logits });
            }
            self.decoder.submit(entries.into_iter(), None, (0.0, 1.0))?;
            for (i, _) in pass.iter().enumerate().filter(|(_, s)| s.wants_logits) {
                on_logits(start + i, self.decoder.logits_row(i as i32)?)?;
            }
            start += pass.len();
        }
        Ok(())
    }
}

/// How many of the first slots fit into one pass.
fn pass_length(slots: &[BranchSlot]) -> usize {
    let mut outputs = 0;
    for (i, slot) in slots.iter().enumerate() {
        outputs += usize::from(slot.wants_logits);
        if i == MICRO_BATCH || outputs > MAX_OUTPUTS {
            return i;
        }
    }
    slots.len()
}

impl Drop for Branches<'_> {
    fn drop(&mut self) {
        for branch in 0..self.lengths.len() {
            self.clear(branch);
        }
    }
}
