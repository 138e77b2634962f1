//! Picture files become the pixels that PIL makes of them, bit for bit, and damaged ones become errors.

mod common;

use std::collections::BTreeSet;

use common::{golden, list, read_json, text};
use crc32fast::hash;
use serde_json::Value as Json;
use tinygptv::image::{preprocess, resize_bicubic};
use tinygptv::{Error, Image};

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Whether this build reads all formats.
const WHOLE: bool = cfg!(all(
    feature = "bmp",
    feature = "gif",
    feature = "jpeg",
    feature = "png",
    feature = "pnm",
    feature = "tiff",
    feature = "webp"
));

fn pictures() -> Vec<Json> {
    list(&read_json(&golden("pictures/index.json")), "pictures").to_vec()
}

fn bytes(picture: &Json) -> Vec<u8> {
    let path = golden("pictures").join(text(picture, "file"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Why this build cannot read the file, where it was built without the format's feature.
fn left_out(file: &str) -> Option<&'static str> {
    let (is_built, feature) = match file.rsplit('.').next() {
        Some("bmp") => (cfg!(feature = "bmp"), "bmp"),
        Some("gif") => (cfg!(feature = "gif"), "gif"),
        Some("jpg") => (cfg!(feature = "jpeg"), "jpeg"),
        Some("png") => (cfg!(feature = "png"), "png"),
        Some("pbm" | "pgm" | "ppm" | "pfm") => (cfg!(feature = "pnm"), "pnm"),
        Some("tif") if file.contains("jpeg") && cfg!(feature = "tiff") => (cfg!(feature = "jpeg"), "jpeg"),
        Some("tif") => (cfg!(feature = "tiff"), "tiff"),
        Some("webp") => (cfg!(feature = "webp"), "webp"),
        _ => panic!("{file}: which format?"),
    };
    (!is_built).then_some(feature)
}

fn number(json: &Json) -> u32 {
    json.as_u64().and_then(|n| n.try_into().ok()).unwrap_or_else(|| panic!("no number: {json}"))
}

/// What differs first, or nothing.
fn difference(picture: &Json, image: &Image) -> Option<String> {
    let (width, height) = (image.width(), image.height());
    let wanted = (number(&picture["width"]), number(&picture["height"]));
    if (width, height) != wanted {
        return Some(format!("{width}×{height} instead of {wanted:?}"));
    }
    for sample in list(picture, "samples") {
        let [x, y, r, g, b] = std::array::from_fn(|i| number(&sample[i]));
        let ours = &image.rgb()[(y * width + x) as usize * 3..][..3];
        if ours != [r, g, b].map(|v| v as u8) {
            return Some(format!("pixel ({x}, {y}) is {ours:?} instead of {:?}", [r, g, b]));
        }
    }
    if hash(image.rgb()) != number(&picture["rgb"]) {
        return Some("some pixel, but none of the samples".into());
    }
    let resized = picture["resized"].as_object().expect("checksums by size");
    assert!(resized.len() >= 2);
    for (size, sum) in resized {
        let size = size.parse().expect("a size");
        let small =
            resize_bicubic(image.rgb(), width as usize, height as usize, size, size).expect("a resized picture");
        if hash(&small) != number(sum) {
            return Some(format!("resized to {size}"));
        }
    }
    let size: usize = resized.keys().map(|s| s.parse().expect("a size")).min().expect("a size");
    let values = preprocess(image, size, MEAN, STD).expect("pixels");
    let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (hash(&values) != number(&picture["pixels"])).then(|| format!("normalised at {size}"))
}

#[test]
fn pixels_are_pil_s_to_the_bit() {
    let mut different = Vec::new();
    let (mut equal, mut refused, mut without) = (0, 0, 0);
    for picture in pictures() {
        let file = text(&picture, "file");
        if let Some(feature) = left_out(file) {
            without += 1;
            match Image::decode(&bytes(&picture)) {
                Err(Error::BadImage(text)) if text.contains(&format!("with feature {feature}")) => {}
                other => different.push(format!("{file}: {other:?}")),
            }
            continue;
        }
        match (Image::decode(&bytes(&picture)), picture["refused"].as_bool()) {
            (Ok(image), None) => match difference(&picture, &image) {
                None => equal += 1,
                Some(what) => different.push(format!("{file}: {what}")),
            },
            (Err(Error::BadImage(_)), Some(true)) => refused += 1,
            (Ok(_), Some(_)) => different.push(format!("{file}: PIL refuses it")),
            (Err(e), _) => different.push(format!("{file}: {e}")),
        }
    }
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), equal + different.len(), different.join("\n"));
    println!("{equal} pictures equal, {refused} refused by both, {without} of formats left out of this build");
    assert!(equal + without >= 180, "only {equal} and {without} pictures were there");
    assert_eq!((without == 0, refused > 0), (WHOLE, cfg!(feature = "jpeg")));
}

#[test]
fn every_golden_picture_is_listed() {
    let listed: BTreeSet<String> = pictures().iter().map(|p| text(p, "file").to_owned()).collect();
    let there: BTreeSet<String> = std::fs::read_dir(golden("pictures"))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name != "index.json")
        .collect();
    assert_eq!(listed, there);
}

/// Files cut short or with changed bytes give a picture or an error that says something, never a panic.
#[test]
fn damaged_pictures_are_refused_or_read() {
    let mut random = common::random::Random::new(1);
    let (mut read, mut refused) = (0, 0);
    let mut check = |what: &str, data: &[u8]| match Image::decode(data) {
        Ok(image) => {
            assert_eq!(image.rgb().len(), image.width() as usize * image.height() as usize * 3, "{what}");
            read += 1;
        }
        Err(Error::BadImage(text) | Error::ImageTooLarge(text)) => {
            assert!(text.len() > 20, "{what}: {text}");
            refused += 1;
        }
        Err(e) => panic!("{what}: {e:?}"),
    };
    for picture in pictures() {
        let file = text(&picture, "file");
        let whole = bytes(&picture);
        for _ in 0..6 {
            let cut = random.below(whole.len());
            check(&format!("{file}, {cut} bytes"), &whole[..cut]);
            // Not in the beginning, where the sides stand: a picture of another size takes its time.
            let mut changed = whole.clone();
            let at = whole.len() / 3 + random.below(whole.len() - whole.len() / 3);
            changed[at] ^= 1 << random.below(8);
            check(&format!("{file}, byte {at} changed"), &changed);
        }
    }
    assert!((read > 100 || !WHOLE) && refused > 1000, "{read} read, {refused} refused");
}
