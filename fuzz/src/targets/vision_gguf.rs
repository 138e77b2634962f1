//! Vision files: validating, loading beside a sound decoder, templates, encoding an image.

use tinygptv::vision::Control;
use tinygptv::{Error, Image, Model, PixelFormat, Session, SessionOptions};

use crate::model;

/// Weights are zeros behind the input: nothing but the header is fuzzed.
const WEIGHTS: u64 = 1 << 23;
/// Larger images are not encoded, only planned: they take long, and nothing else happens.
const MAX_SIDE: usize = 128;

/// Loads the input as the vision file of the tiny decoder and, if it loads, encodes an image and asks about it.
pub fn run(input: &[u8]) {
    let file = model::file_with_hole(input, WEIGHTS);
    let decoder = &model::tiny().decoder;
    let model = match Model::load(decoder, Some(file.path()), &model::options()) {
        Ok(model) => model,
        Err(Error::Internal(text)) => panic!("a vision file shows a defect: {text}"),
        Err(_) => return,
    };
    let _ = model.description();
    if model.info().image_size > MAX_SIDE {
        return;
    }
    let image = Image::from_pixels(&[90; 5 * 3 * 3], 5, 3, 0, PixelFormat::Rgb).expect("a picture");
    match model.encode(&image, Control::default()) {
        Ok(e) => assert_eq!((e.rows(), e.width()), (model.info().image_tokens, model.info().embedding_width)),
        Err(Error::Internal(text)) => panic!("encoding shows a defect: {text}"),
        Err(_) => return,
    }
    for name in model.templates().names() {
        let template = model.templates().get(Some(name)).expect("a template of this name");
        template.render(Some(&template.system), 2, "{image}?");
    }
    let options = SessionOptions { max_new_tokens: 2, ..SessionOptions::default() };
    let Ok(mut session) = Session::new(model, &options) else { return };
    if session.add_image(&image, None).is_ok() {
        if let Err(Error::Internal(text)) = session.ask("a", &mut |_| true) {
            panic!("an answer shows a defect: {text}");
        }
    }
}
