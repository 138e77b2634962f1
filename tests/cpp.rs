//! include/tinygptv.hpp as C++17 programs see it, compiled and watched like the C programs of tests/c_abi.rs.
#![cfg(unix)]

#[path = "common/c_header.rs"]
mod c_header;
#[path = "common/c_program.rs"]
mod c_program;

use std::ffi::OsString;
use std::path::Path;

use c_header::Header;
use c_program::{root, watcher, Language, Outcome, Program, Workshop};

const CPP17: Language = Language::Cpp("c++17");

fn demo(name: &str) -> OsString {
    root().join("assets/demo").join(name).into()
}

/// The demo model, a picture and texts.
fn arguments(picture: &str, texts: &[&str]) -> Vec<OsString> {
    let files = [demo("tinygptv-demo-f16.gguf"), demo("tinygptv-demo-vision-f16.gguf"), demo(picture)];
    files.into_iter().chain(texts.iter().map(OsString::from)).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == word)
}

/// Every function is wrapped, and the test of the wrapper uses it; every field of a struct that is not handed on whole has
/// its place in an options struct or a result.
#[test]
fn wrapper_misses_nothing() {
    let header = Header::read();
    let wrapper = read("include/tinygptv.hpp");
    for function in &header.functions {
        assert!(has_word(&wrapper, &function.name), "{} is not wrapped in include/tinygptv.hpp", function.name);
    }
    for structure in &header.structs {
        let name = &structure.name;
        if wrapper.contains(&format!("= {name};")) || wrapper.contains(&format!(" : {name} ")) {
            continue;
        }
        for field in structure.fields.iter().map(|f| f.name.as_str()) {
            let known = ["struct_size", "reserved"].contains(&field) || has_word(&wrapper, field);
            assert!(known, "{name}.{field} is not in include/tinygptv.hpp");
        }
    }
}

#[test]
fn wrapper() {
    let workshop = Workshop::new();
    let mut arguments = arguments("shapes-2.png", &["What color is the star?", "red"]);
    arguments.push(workshop.path("scratch").into());
    workshop.build(&root().join("tests/c/wrapper.cpp"), CPP17, watcher()).run(arguments).succeeds();
}

#[test]
fn wrapper_without_exceptions() {
    let workshop = Workshop::new();
    let source = root().join("tests/c/wrapper_results.cpp");
    let program = workshop.build_with(&source, CPP17, watcher(), &["-fno-exceptions", "-fno-rtti"]);
    program.run(arguments("shapes-2.png", &["What color is the star?", "red"])).succeeds();
}

// ---- Examples

fn example(workshop: &Workshop, name: &str) -> Program {
    workshop.build(&root().join(format!("examples/{name}.cpp")), CPP17, watcher())
}

/// `--help` is an answer, no arguments are a mistake, and a file that is not there is told of in one line.
fn explains_itself(program: &Program, name: &str, arguments: usize) {
    let help = program.run(["--help"]);
    help.succeeds();
    assert!(help.stdout.starts_with(&format!("usage: {name} ")), "{}", help.report());
    let usage = program.run([""; 0]);
    usage.exits_with(2);
    assert!(usage.stderr.starts_with(&format!("usage: {name} ")), "{}", usage.report());
    let missing: Outcome = program.run(vec!["no/such/file"; arguments]);
    missing.exits_with(1);
    assert!(missing.stderr.starts_with(&format!("{name}: ")) && missing.stderr.lines().count() == 1);
    assert!(missing.stderr.contains("no/such/file") && missing.stdout.is_empty(), "{}", missing.report());
}

#[test]
fn example_ask() {
    let workshop = Workshop::new();
    let ask = example(&workshop, "ask");
    explains_itself(&ask, "ask", 4);
    let one = ask.run(arguments("shapes-2.png", &["What color is the star?"]));
    one.succeeds();
    assert_eq!(one.stdout, "red\n");
    let two = ask.run(arguments("shapes-1.png", &["How many shapes are there?", "How many shapes are there?"]));
    two.succeeds();
    assert_eq!(two.stdout, "> How many shapes are there?\nfour\n".repeat(2));
}

#[test]
fn example_chat() {
    let workshop = Workshop::new();
    let chat = example(&workshop, "chat");
    explains_itself(&chat, "chat", 3);
    let second = demo("shapes-2.png");
    let script = format!(
        "How many shapes are there?\n/image no/such/picture.png\n/reset\n/image {}\n\nWhat color is the star?\n/quit\nAnd?\n",
        second.to_string_lossy()
    );
    let outcome = chat.run_with_input(arguments("shapes-1.png", &[]), &script);
    outcome.exits_with(0);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].contains("phi2"), "{}", outcome.report());
    assert_eq!(lines[1..], ["> four", "> > > > > red", "> "], "{}", outcome.report());
    assert!(outcome.stderr.contains("chat: ") && outcome.stderr.contains("no/such/picture.png"));
}

#[test]
fn example_ground() {
    let workshop = Workshop::new();
    let ground = example(&workshop, "ground");
    explains_itself(&ground, "ground", 5);
    let run = |out: &Path| {
        let mut arguments = arguments("shapes-1.png", &["[refer] give me the location of the yellow square"]);
        arguments.push(out.into());
        ground.run(arguments)
    };
    let drawn = workshop.path("drawn.png");
    let outcome = run(&drawn);
    outcome.succeeds();
    assert_eq!(outcome.stdout, "{<8><3><28><24>}\nbox 1: x 29 to 102, y 11 to 88 px\n", "{}", outcome.report());
    assert!(drawn.exists());
    let nowhere = run(Path::new("no/such/folder/out.png"));
    nowhere.exits_with(1);
    assert!(nowhere.stderr.starts_with("ground: cannot write"), "{}", nowhere.report());
}

#[test]
fn example_choose() {
    let workshop = Workshop::new();
    let choose = example(&workshop, "choose");
    explains_itself(&choose, "choose", 6);
    let question = "What is to the left of the red star?";
    let outcome = choose.run(arguments("shapes-2.png", &[question, "purple circle", "green square", "blue triangle"]));
    outcome.succeeds();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("loss ") && lines[0].ends_with("purple circle"), "{}", outcome.report());
    assert_eq!(lines[3], "chosen      purple circle", "{}", outcome.report());
    assert!(lines[4].starts_with("JSON        {\"answer\": \""), "{}", outcome.report());
    assert_eq!(lines.len(), 11, "{}", outcome.report());
}

/// The program of docs/install.md, as it stands there.
#[test]
fn program_of_the_guide() {
    let guide = read("docs/install.md");
    let source = guide.split("```cpp\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a program");
    let workshop = Workshop::new();
    let path = workshop.write("guide.cpp", source.as_bytes());
    let outcome = workshop.build(&path, CPP17, watcher()).run([""; 0]);
    outcome.succeeds();
    assert!(outcome.stdout.starts_with("There is a small yellow square, a large green circle"), "{}", outcome.report());
}
