//! The classes of bugs that advisories about GGUF readers name: a file of each, as decoder and as vision file, is refused
//! through the C API with a message that names the problem, and the process goes on.
#![cfg(unix)]

mod common;

#[path = "common/c_program.rs"]
mod c_program;
#[path = "common/hostile.rs"]
mod hostile;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

use c_program::Workshop;
use common::{decoder_file, demo, vision_file, TempDir};
use tinygptv::{Error, Model, ModelOptions};
use tinygptv_fuzz::model;

/// TGV_ERROR_BAD_MODEL_FILE and TGV_ERROR_UNSUPPORTED_MODEL; tests/c/header.c pins them.
const BAD_MODEL_FILE: i32 = 7005;
const UNSUPPORTED_MODEL: i32 = 7006;

#[test]
fn every_class_is_refused() {
    let folder = TempDir::new("hostile");
    let pair = model::make("f16", "f16");
    let options = ModelOptions { threads: 1, ..ModelOptions::default() };
    Model::load(&pair.decoder, Some(&pair.vision), &options).expect("the pair is sound before it is spoilt");

    let decoders = hostile::decoders(&folder.join(""), &pair.decoder);
    let visions = hostile::visions(&folder.join(""), &pair.vision);
    let files: BTreeSet<_> = decoders.iter().chain(&visions).map(|h| fs::read(&h.path).expect("a file")).collect();
    assert_eq!(files.len(), 22 + 1 + 22, "two classes make the same file");

    let mut arguments: Vec<OsString> =
        vec![decoder_file("f16").into(), vision_file("f16").into(), demo("shapes-2.png").into()];
    arguments.extend(["What color is the star?", "red"].map(OsString::from));
    let pairs = decoders.iter().map(|h| (h, &h.path, &pair.vision));
    for (hostile, decoder, vision) in pairs.chain(visions.iter().map(|h| (h, &pair.decoder, &h.path))) {
        let status = match Model::load(decoder, Some(vision), &options) {
            Err(Error::BadModelFile { .. }) => BAD_MODEL_FILE,
            Err(Error::UnsupportedModel { .. }) => UNSUPPORTED_MODEL,
            Err(e) => panic!("{}: another kind of error: {e}", hostile.path.display()),
            Ok(_) => panic!("{} is accepted", hostile.path.display()),
        };
        arguments.extend([decoder.into(), vision.into(), status.to_string().into(), (&*hostile.says).into()]);
    }
    Workshop::new().program("bad_models").run(arguments).succeeds();
}
