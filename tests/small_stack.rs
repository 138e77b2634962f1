//! What the library needs of the calling thread's stack (docs/abi.md): tests/c/small_stack.c with as much as is promised.
#![cfg(target_os = "linux")]

mod common;

#[path = "common/c_program.rs"]
mod c_program;

use std::ffi::OsString;

use c_program::Workshop;
use common::{decoder_file, demo, golden, tiny, vision_file};

/// What docs/abi.md tells hosts to give their threads.
const ENOUGH_KIB: usize = 256;
/// Layers that a decoder file may have.
const MOST_LAYERS: usize = 512;
/// Bytes that a token of a decoder file may have.
const LONGEST_TOKEN: usize = 4096;

#[test]
fn no_call_needs_more_stack_than_is_promised() {
    let workshop = Workshop::new();
    let files = ["f16", "f16"];
    let mut arguments: Vec<OsString> = vec![
        decoder_file(files[0]).into(),
        vision_file(files[1]).into(),
        demo("shapes-2.png").into(),
        "What color is the star?".into(),
        "red".into(),
        ENOUGH_KIB.to_string().into(),
        workshop.path("scratch").into(),
    ];
    let deep = workshop.path("deep.gguf");
    tiny::phi2_of(&tiny::byte_level(), MOST_LAYERS).write(&deep);
    let long = workshop.path("long.gguf");
    let mut vocabulary = tiny::byte_level();
    vocabulary.tokens.push("a".repeat(LONGEST_TOKEN));
    vocabulary.types.push(tiny::NORMAL);
    tiny::phi2(&vocabulary).write(&long);
    arguments.extend([golden("pictures").into(), deep.into(), long.into()]);
    // Each is split by other expressions; the last by none.
    for pre in
        ["llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder", "gpt-4o", "falcon", "tekken", "chatglm-bpe", "default"]
    {
        let path = workshop.path(&format!("{pre}.gguf"));
        let mut vocabulary = tiny::codegen_like();
        vocabulary.pre = pre;
        tiny::phi2(&vocabulary).write(&path);
        arguments.push(path.into());
    }
    // Unwatched: a sanitizer's own frames would count.
    let outcome = workshop.unwatched_program("small_stack").run(arguments);
    println!("{}", outcome.stdout);
    outcome.succeeds();
}
