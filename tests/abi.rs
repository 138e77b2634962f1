//! The ABI keeps its promises: everything that abi/tinygptv-<version>.abi records is still as it was. docs/abi.md tells what
//! may change.
//!
//! `make abi` (TGV_UPDATE_ABI=1) records what has been added; it records nothing that breaks a program.
#![cfg(all(unix, target_pointer_width = "64"))]

#[path = "common/c_header.rs"]
mod c_header;
#[path = "common/c_program.rs"]
mod c_program;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use c_header::Header;
use c_program::{root, Language, Watch, Workshop};

/// Set by `make abi` to write the file after comparing.
const UPDATE: &str = "TGV_UPDATE_ABI";

/// Where a field lies, in bytes, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    offset: usize,
    size: usize,
    ty: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layout {
    size: usize,
    fields: BTreeMap<String, Place>,
}

/// All that a program built against a header relies on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Abi {
    /// Functions, types of callbacks, handles and constants: what each is, by "<kind> <name>".
    names: BTreeMap<String, String>,
    structs: BTreeMap<String, Layout>,
}

impl Abi {
    /// The header's, with the layouts of this machine's compiler.
    fn current() -> Abi {
        let header = Header::read();
        let mut abi = Abi::default();
        // The version of the library changes with every release.
        for constant in header.constants.iter().filter(|c| !c.name.starts_with("TGV_VERSION_")) {
            abi.names.insert(format!("constant {}", constant.name), constant.value.to_string());
        }
        for alias in &header.aliases {
            abi.names.insert(format!("type {}", alias.name), alias.ty.clone());
        }
        for handle in &header.opaque {
            abi.names.insert(format!("handle {handle}"), "opaque".into());
        }
        for function in &header.functions {
            abi.names.insert(format!("function {}", function.name), function.ty.clone());
        }
        let mut program = String::from("#include <stdio.h>\n#include \"tinygptv.h\"\nint main(void)\n{\n");
        for s in &header.structs {
            writeln!(program, "printf(\"%zu\\n\", sizeof({}));", s.name).expect("a text");
            for field in &s.fields {
                let (name, field) = (&s.name, &field.name);
                let numbers = format!("offsetof({name}, {field}), sizeof((({name} *)0)->{field})");
                writeln!(program, "printf(\"%zu\\n%zu\\n\", {numbers});").expect("a text");
            }
        }
        program += "return 0;\n}\n";
        let workshop = Workshop::new();
        let source = workshop.write("layouts.c", program.as_bytes());
        let outcome = workshop.build(&source, Language::C("c99"), Watch::Nobody).run([""; 0]);
        outcome.succeeds();
        let mut numbers = outcome.stdout.lines().map(|line| line.parse::<usize>().expect("a number"));
        let mut next = || numbers.next().expect("a number for each question");
        for s in header.structs {
            let size = next();
            let place = |f: c_header::Field| (f.name, Place { offset: next(), size: next(), ty: f.ty });
            let fields = s.fields.into_iter().map(place).collect();
            abi.structs.insert(s.name, Layout { size, fields });
        }
        abi
    }

    fn write(&self) -> String {
        let mut out = String::new();
        for (name, what) in &self.names {
            writeln!(out, "{name}: {what}").expect("a text");
        }
        for (name, layout) in &self.structs {
            writeln!(out, "struct {name}: {}", layout.size).expect("a text");
            let mut fields: Vec<_> = layout.fields.iter().collect();
            fields.sort_by_key(|(_, place)| place.offset);
            for (field, place) in fields {
                writeln!(out, "field {name}.{field}: {} {} {}", place.offset, place.size, place.ty).expect("a text");
            }
        }
        out
    }

    fn parse(text: &str) -> Abi {
        let mut abi = Abi::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, what) = line.split_once(": ").unwrap_or_else(|| panic!("no line of an ABI: {line}"));
            let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("no number: {line}"));
            if let Some(name) = name.strip_prefix("struct ") {
                abi.structs.entry(name.into()).or_default().size = number(what);
            } else if let Some((name, field)) = name.strip_prefix("field ").and_then(|f| f.split_once('.')) {
                let mut words = what.splitn(3, ' ');
                let mut word = || words.next().unwrap_or_else(|| panic!("a field lacks something: {line}"));
                let place = Place { offset: number(word()), size: number(word()), ty: word().into() };
                abi.structs.entry(name.into()).or_default().fields.insert(field.into(), place);
            } else {
                abi.names.insert(name.into(), what.into());
            }
        }
        abi
    }

    /// What in `new` breaks programs that were built against this one.
    fn broken_by(&self, new: &Abi) -> Vec<String> {
        let mut broken = Vec::new();
        for (name, what) in &self.names {
            match new.names.get(name) {
                None => broken.push(format!("{name} is gone")),
                Some(now) if now != what => broken.push(format!("{name} was {what} and is {now}")),
                Some(_) => {}
            }
        }
        for (name, layout) in &self.structs {
            match new.structs.get(name) {
                None => broken.push(format!("struct {name} is gone")),
                Some(now) => broken.extend(layout.broken_by(now).into_iter().map(|what| format!("{name}{what}"))),
            }
        }
        broken
    }
}

impl Layout {
    /// Structs grow at their end, which their first field tells the library, and where a field was reserved.
    fn broken_by(&self, new: &Layout) -> Vec<String> {
        let mut broken = Vec::new();
        if new.size < self.size || (new.size > self.size && !self.fields.contains_key("struct_size")) {
            broken.push(format!(" had {} bytes and has {}", self.size, new.size));
        }
        let is_reserved = |field: &str| field.starts_with("reserved");
        for (field, place) in self.fields.iter().filter(|(field, _)| !is_reserved(field)) {
            match new.fields.get(field) {
                None => broken.push(format!(".{field} is gone")),
                Some(now) if now != place => broken.push(format!(".{field} was {place:?} and is {now:?}")),
                Some(_) => {}
            }
        }
        let room: Vec<&Place> =
            self.fields.iter().filter(|(field, _)| is_reserved(field)).map(|(_, place)| place).collect();
        for (field, place) in new.fields.iter().filter(|(field, _)| !self.fields.contains_key(*field)) {
            let end = place.offset + place.size;
            // Padding is no room: initialisers need not have cleared it.
            let fits =
                place.offset >= self.size || room.iter().any(|r| r.offset <= place.offset && end <= r.offset + r.size);
            if !fits {
                broken.push(format!(".{field} lies where programs may have left anything"));
            }
        }
        broken
    }
}

fn path() -> PathBuf {
    let version = &Abi::current().names["constant TGV_ABI_VERSION"];
    root().join(format!("abi/tinygptv-{version}.abi"))
}

#[test]
fn the_abi_keeps_its_promises() {
    let (path, current) = (path(), Abi::current());
    let update = std::env::var_os(UPDATE).is_some();
    let recorded = match fs::read_to_string(&path) {
        Ok(text) => Abi::parse(&text),
        // The first of its version.
        Err(_) if update => Abi::default(),
        Err(e) => panic!("{}: {e}; if a new ABI version is meant, run `make abi`", path.display()),
    };
    let broken = recorded.broken_by(&current);
    assert!(
        broken.is_empty(),
        "programs built against ABI {} would break:\n  {}\nUndo it, or see docs/abi.md on a new ABI version",
        path.display(),
        broken.join("\n  ")
    );
    if update {
        let head = "# What programs built against tinygptv.h rely on, on 64-bit systems. Written by `make abi`.\n\
                    # struct: bytes; field: offset, bytes, type.\n";
        fs::write(&path, format!("{head}{}", current.write())).expect("abi/ is writable");
    }
}

#[test]
fn the_record_can_be_read_back() {
    let abi = Abi::current();
    assert_eq!(Abi::parse(&abi.write()), abi);
    let functions = abi.names.keys().filter(|name| name.starts_with("function ")).count();
    assert!(functions > 40 && abi.structs.len() > 7, "{functions} functions, {} structs", abi.structs.len());
}

/// What the guard says of a change, made in the text of an ABI.
fn said(from: &str, to: &str) -> Vec<String> {
    const ABI: &str = "constant TGV_X: 1\n\
        function tgv_f: tgv_status (const char *, size_t)\n\
        handle tgv_h: opaque\n\
        type tgv_c: void (*)(int32_t)\n\
        struct tgv_s: 24\n\
        field tgv_s.struct_size: 0 8 size_t\n\
        field tgv_s.a: 8 4 int32_t\n\
        field tgv_s.reserved: 12 4 int32_t\n\
        field tgv_s.b: 16 4 int32_t\n\
        struct tgv_fixed: 4\n\
        field tgv_fixed.a: 0 4 int32_t\n";
    assert!(ABI.contains(from), "{from}");
    Abi::parse(ABI).broken_by(&Abi::parse(&ABI.replacen(from, to, 1)))
}

#[test]
fn the_guard_notices_what_breaks_programs() {
    for (from, to, fragment) in [
        ("constant TGV_X: 1\n", "", "constant TGV_X is gone"),
        ("TGV_X: 1", "TGV_X: 2", "was 1 and is 2"),
        ("function tgv_f", "function tgv_g", "function tgv_f is gone"),
        ("const char *, size_t", "const char *", "function tgv_f was"),
        ("(*)(int32_t)", "(*)(int64_t)", "type tgv_c was"),
        ("handle tgv_h: opaque\n", "", "handle tgv_h is gone"),
        ("struct tgv_s: 24", "struct tgv_s: 16", "tgv_s had 24 bytes and has 16"),
        ("struct tgv_fixed: 4", "struct tgv_fixed: 8", "tgv_fixed had 4 bytes"),
        ("field tgv_s.a: 8 4 int32_t\n", "", "tgv_s.a is gone"),
        ("tgv_s.a: 8 4 int32_t", "tgv_s.a: 8 4 float", "tgv_s.a was"),
        ("tgv_s.b: 16", "tgv_s.b: 20", "tgv_s.b was"),
        // Into the padding at the end, and beyond what was reserved.
        ("struct tgv_fixed", "field tgv_s.c: 20 4 int32_t\nstruct tgv_fixed", "tgv_s.c lies"),
        ("field tgv_s.reserved: 12 4 int32_t", "field tgv_s.c: 12 8 int64_t", "tgv_s.c lies"),
    ] {
        let said = said(from, to);
        assert!(said.iter().any(|s| s.contains(fragment)), "{from:?} -> {to:?}: {said:?}");
    }
}

#[test]
fn the_guard_lets_additions_pass() {
    for (from, to) in [
        ("constant TGV_X: 1", "constant TGV_X: 1\nconstant TGV_Y: 1"),
        ("handle tgv_h", "function tgv_g: void (void)\nhandle tgv_i: opaque\nhandle tgv_h"),
        ("struct tgv_s: 24", "struct tgv_new: 8\nfield tgv_new.a: 0 8 double\nstruct tgv_s: 24"),
        ("struct tgv_s: 24", "struct tgv_s: 32\nfield tgv_s.c: 24 8 double"),
        ("tgv_s.reserved: 12", "tgv_s.c: 12"),
    ] {
        assert_eq!(said(from, to), [""; 0], "{from:?} -> {to:?}");
    }
}
