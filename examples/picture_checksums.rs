//! Checksums of pictures' pixels, for `tests/reference/check_pictures.py`.
//!
//! `cargo run --release --example picture_checksums -- SIZE...`
//!
//! Reads names of picture files from the standard input, one a line, and writes a line of JSON for each: width, height, the CRC-32
//! of the RGB pixels and of the pixels resized to each SIZE × SIZE; or an error.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;

use crc32fast::hash;
use serde_json::{json, Map, Value};
use tinygptv::image::resize_bicubic;
use tinygptv::Image;

fn checksums(path: &Path, sizes: &[usize]) -> tinygptv::Result<Value> {
    let image = Image::open(path)?;
    let mut resized = Map::new();
    for &size in sizes {
        let small = resize_bicubic(image.rgb(), image.width() as usize, image.height() as usize, size, size)?;
        resized.insert(size.to_string(), hash(&small).into());
    }
    Ok(json!({ "width": image.width(), "height": image.height(), "rgb": hash(image.rgb()), "resized": resized }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let sizes = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<Vec<usize>, _>>()?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let result = checksums(Path::new(&line?), &sizes).unwrap_or_else(|e| json!({ "error": e.to_string() }));
        writeln!(out, "{result}")?;
    }
    Ok(())
}
