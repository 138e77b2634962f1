//! The C API, called in any order with any arguments that its documentation does not rule out.
//!
//! An input is a list of instructions of eight bytes: which function, which handles, which arguments are NULL or garbage,
//! numbers. All-zero arguments are good ones. Texts and data are made-up ones or parts of the input itself.

mod arguments;
mod callbacks;
mod machine;

use machine::Machine;

/// Longest program: some calls take milliseconds.
const MAX_INSTRUCTIONS: usize = 48;

/// Bytes of an instruction.
pub const INSTRUCTION: usize = 8;

/// The calls in the order of their numbers, for making seeds.
pub use machine::CALLS;

/// Runs the input as a program and frees all handles that it leaves.
pub fn run(input: &[u8]) {
    let mut machine = Machine::new(input);
    for instruction in input.as_chunks::<INSTRUCTION>().0.iter().take(MAX_INSTRUCTIONS) {
        machine.call(*instruction);
    }
    machine.finish(input.last().copied().unwrap_or(0));
}
