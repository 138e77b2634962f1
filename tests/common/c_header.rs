//! Reads what include/tinygptv.h declares: enough of C for that header.

use std::fmt;

use crate::c_program::root;

/// A function: its name, and its type without the names of parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub ty: String,
}

/// A field of a struct.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub ty: String,
}

/// A struct with a body.
#[derive(Debug)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

/// A macro that stands for a number.
#[derive(Debug, PartialEq, Eq)]
pub struct Constant {
    pub name: String,
    pub value: i64,
}

/// A typedef of something else than a struct: the types of callbacks, `tgv_status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    pub name: String,
    pub ty: String,
}

/// All that the header declares, in its order.
#[derive(Debug, Default)]
pub struct Header {
    pub functions: Vec<Function>,
    pub structs: Vec<Struct>,
    pub constants: Vec<Constant>,
    pub aliases: Vec<Alias>,
    /// Names of the structs without a body.
    pub opaque: Vec<String>,
}

impl Header {
    /// include/tinygptv.h.
    pub fn read() -> Header {
        let path = root().join("include/tinygptv.h");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let header = Header::parse(&text);
        let fields: usize = header.structs.iter().map(|s| s.fields.len()).sum();
        assert!(
            header.functions.len() > 40 && header.structs.len() > 7 && fields > 60 && header.constants.len() > 35,
            "the header is not understood any more: {header}"
        );
        header
    }

    pub fn parse(text: &str) -> Header {
        let mut header = Header::default();
        let mut declarations = String::new();
        for line in without_comments(text).lines() {
            match line.strip_prefix('#') {
                Some(directive) => header.constants.extend(constant(directive)),
                // The initialisers go on over lines, each with a backslash or a brace at its end.
                None if line.trim_start().starts_with('{') => {}
                None => declarations += &format!("{line} "),
            }
        }
        let declarations = declarations.replace("extern \"C\" {", " ");
        for declaration in split_declarations(&declarations) {
            header.declaration(&declaration);
        }
        header
    }

    fn declaration(&mut self, declaration: &str) {
        if let Some(definition) = declaration.strip_prefix("typedef struct ") {
            match definition.split_once('{') {
                Some((name, rest)) => {
                    let body = rest.split('}').next().expect("the end of a struct");
                    let fields = body.split(';').filter(|f| !f.trim().is_empty()).map(|f| {
                        let (ty, name) = split_name(f);
                        Field { name, ty }
                    });
                    self.structs.push(Struct { name: name.trim().into(), fields: fields.collect() });
                }
                None => self.opaque.push(split_name(definition).1),
            }
        } else if let Some(definition) = declaration.strip_prefix("typedef ") {
            let (name, ty) = match definition.split_once("(*") {
                Some((result, rest)) => {
                    let (name, parameters) = rest.split_once(')').expect("a pointer to a function");
                    (name.trim().to_owned(), format!("{} (*){}", result.trim(), types(parameters)))
                }
                None => {
                    let (ty, name) = split_name(definition);
                    (name, ty)
                }
            };
            self.aliases.push(Alias { name, ty });
        } else if let Some((start, parameters)) = declaration.split_once('(') {
            let (result, name) = split_name(start);
            self.functions.push(Function { name, ty: format!("{result} {}", types(&format!("({parameters}"))) });
        } else {
            panic!("this declaration of the header is not understood: {declaration}");
        }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out += &rest[..start];
        rest = rest[start..].find("*/").map_or("", |end| &rest[start + end + 2..]);
    }
    out += rest;
    out.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// `define NAME 5`; macros with other values are none.
fn constant(directive: &str) -> Option<Constant> {
    let mut words = directive.strip_prefix("define ")?.split_whitespace();
    let name = words.next()?.to_owned();
    let value = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Constant { name, value })
}

/// At the semicolons that are not inside braces.
fn split_declarations(text: &str) -> Vec<String> {
    let mut depth = 0i32;
    let pieces = text.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ';' && depth <= 0
    });
    let plain = |piece: &str| piece.split_whitespace().collect::<Vec<_>>().join(" ");
    // The brace that ends extern "C" stands alone.
    pieces.map(plain).filter(|piece| !piece.is_empty() && piece != "}").collect()
}

/// `const char *name` as its type and its name.
fn split_name(text: &str) -> (String, String) {
    let text = text.trim();
    let start = text.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    (one_way(&text[..start]), text[start..].to_owned())
}

/// `(const char *text, size_t n)` as `(const char *, size_t)`.
fn types(parameters: &str) -> String {
    let inside = parameters.trim().trim_start_matches('(').trim_end_matches(')');
    let types = inside.split(',').map(|p| if p.trim() == "void" { "void".into() } else { split_name(p).0 });
    format!("({})", types.collect::<Vec<_>>().join(", "))
}

/// A type as it is always written: without `struct`, single spaces.
fn one_way(ty: &str) -> String {
    ty.replace("struct ", "").split_whitespace().collect::<Vec<_>>().join(" ")
}
