//! Pictures of every format.

use tinygptv::{Error, Image};

/// Larger pictures are decoded only: the rest would take most of the time.
const MAX_PIXELS: u64 = 1 << 14;

/// Decodes the input; a picture must have the pixels of its sides and survive being saved.
pub fn run(input: &[u8]) {
    let image = match Image::decode(input) {
        Ok(image) => image,
        Err(Error::Internal(text)) => panic!("a picture shows a defect: {text}"),
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return;
        }
    };
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    assert!(width > 0 && height > 0);
    assert_eq!(image.rgb().len() as u64, width * height * 3);
    if width * height <= MAX_PIXELS {
        let (width, height) = (width as usize, height as usize);
        let resized = tinygptv::image::resize_bicubic(image.rgb(), width, height, 28, 14).expect("a small picture");
        assert_eq!(resized.len(), 28 * 14 * 3);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        image.save_png(file.path()).expect("a PNG file can be written");
        assert!(Image::open(file.path()).expect("our own PNG file") == image, "other pixels after saving");
    }
}
