//! Small files that claim or unpack to gigabytes, and colour profiles that are none: pictures or errors, in little memory.
#![cfg(all(
    target_os = "linux",
    feature = "bmp",
    feature = "gif",
    feature = "jpeg",
    feature = "png",
    feature = "pnm",
    feature = "tiff",
    feature = "webp"
))]

mod common;

use std::io::Write;
use std::process::Command;

use common::golden;
use flate2::write::ZlibEncoder;
use flate2::Compression;
use tinygptv::{Error, Image};

/// A side of the largest square picture that is taken.
const SIDE: u32 = 16_384;
/// Memory that the process may take beside what it has, in bytes; the largest pictures take more.
const ROOM: u64 = 512 << 20;
/// Tells the test's second process what it is.
const CHILD: &str = "TGV_TEST_PICTURE_LIMITS";

fn golden_picture(name: &str) -> Vec<u8> {
    let path = golden("pictures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn zlib(write: impl FnOnce(&mut ZlibEncoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    write(&mut encoder);
    encoder.finish().expect("memory")
}

/// A PNG file of one row of RGB pixels that claims these sides, with a packed colour profile.
fn png(width: u32, height: u32, profile: &[u8]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8; 4], data: &[u8]| {
        let body = [name, data].concat();
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(&body);
        file.extend(crc32fast::hash(&body).to_be_bytes());
    };
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat());
    chunk(b"iCCP", &[b"profile\0\0", profile].concat());
    chunk(b"IDAT", &zlib(|z| z.write_all(&[0, 1, 2, 3]).expect("memory")));
    chunk(b"IEND", b"");
    file
}

/// The golden JPEG file with other sides in its frame header.
fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut file = golden_picture("jpeg-420-225x223.jpg");
    let at = file.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame header") + 5;
    file[at..at + 2].copy_from_slice(&height.to_be_bytes());
    file[at + 2..at + 4].copy_from_slice(&width.to_be_bytes());
    file
}

/// A little-endian TIFF file: the directory with these numbers as entries, then `data`, whose offset is `DATA`.
fn tiff(entries: &[(u16, u32)], data: &[u8]) -> Vec<u8> {
    let mut file = b"II*\0\x08\0\0\0".to_vec();
    file.extend((entries.len() as u16).to_le_bytes());
    let start = 8 + 2 + 12 * entries.len() as u32 + 4;
    for &(tag, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend([4, 0, 1, 0, 0, 0]);
        file.extend(if value == DATA { start } else { value }.to_le_bytes());
    }
    file.extend([0; 4]);
    file.extend(data);
    file
}

const DATA: u32 = u32::MAX;

fn bmp(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    file.extend(width.to_le_bytes());
    file.extend(height.to_le_bytes());
    file.extend(b"\x01\0\x18\0");
    file.extend([0; 24]);
    file
}

fn webp(width: u32, height: u32) -> Vec<u8> {
    let sides = (width - 1) | (height - 1) << 14;
    let data = [&[0x2f], &sides.to_le_bytes()[..], &[0; 11]].concat();
    let chunk = [&b"VP8L"[..], &(data.len() as u32).to_le_bytes(), &data].concat();
    [&b"RIFF"[..], &(chunk.len() as u32 + 4).to_le_bytes(), b"WEBP", &chunk].concat()
}

fn gif(width: u16, height: u16) -> Vec<u8> {
    let [width, height] = [width, height].map(u16::to_le_bytes);
    // A frame of one pixel: codes of 3 bits, clear, 1, end.
    [b"GIF89a", &width[..], &height, b"\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02\x4c\x01\0;"].concat()
}

fn memory_in_use() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("the system tells");
    let pages: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    // SAFETY: no requirements.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}

/// Runs in a process of its own, since the limit is the process's, and since what asks for more memory without looking at the
/// answer ends the process.
#[test]
fn child_decodes_in_little_memory() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let zeros = vec![0; 1 << 20];
    let bomb = zlib(|z| (0..(2 * ROOM) >> 20).for_each(|_| z.write_all(&zeros).expect("memory")));
    drop(zeros);
    let most = memory_in_use() + ROOM;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure lives during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);

    assert_eq!(Image::decode(&png(1, 1, &bomb)).expect("a picture, whatever its profile").rgb(), [1, 2, 3]);

    let side = SIDE as u16;
    let plain = [(256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, DATA), (277, 1), (278, SIDE), (279, 4)];
    for (name, file) in [
        ("PNG", png(SIDE, SIDE, &[])),
        ("JPEG", jpeg(side, side)),
        ("GIF", gif(side, side)),
        ("WebP", webp(SIDE - 1, SIDE - 1)),
        // There is room for the pixels, but not for those and what the decoder takes.
        ("smaller WebP", webp(10_000, 10_000)),
        ("BMP", bmp(SIDE, SIDE)),
        (
            "TIFF",
            tiff(
                &plain.map(|e| {
                    if e.0 == 262 {
                        (262, 2)
                    } else if e.0 == 277 {
                        (277, 3)
                    } else {
                        e
                    }
                }),
                &[0; 4],
            ),
        ),
        ("PNM", format!("P6 {SIDE} {SIDE} 255\n").into_bytes()),
    ] {
        match Image::decode(&file) {
            Err(Error::OutOfMemory(text)) => assert!(text.contains("free some memory"), "{name}: {text}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    // A strip of 4 × 4 that is a JPEG stream of the largest size.
    let strip = [(256, 4), (257, 4), (258, 8), (259, 7), (262, 6), (273, DATA), (277, 3), (278, 4), (279, 1 << 20)];
    match Image::decode(&tiff(&strip, &jpeg(side, side))) {
        Err(Error::BadImage(text)) => assert!(text.contains("another size"), "{text}"),
        other => panic!("JPEG in TIFF: {other:?}"),
    }
    println!("all decoded");
}

/// The height times the samples does not fit into 32 bits, with which the `tiff` crate counts strips.
#[test]
fn tiff_files_of_any_height_are_told_from_the_directory() {
    let planes =
        [(256, 1), (257, 70_000), (258, 8), (259, 1), (262, 2), (273, DATA), (277, 65_535), (278, 1), (284, 2)];
    let file = tiff(&planes, &[]);
    match Image::decode(&file) {
        Err(Error::ImageTooLarge(text)) => assert!(text.contains("1×70000 pixels"), "{text}"),
        other => panic!("{other:?}"),
    }
    for length in 0..file.len() - 1 {
        assert!(Image::decode(&file[..length]).is_err(), "cut at byte {length}");
    }
}

#[test]
fn claims_and_bombs_cost_little_memory() {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_decodes_in_little_memory", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("this program can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("all decoded"),
        "{}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn strips_that_share_their_bytes_are_read_as_far_as_needed() {
    // As many strips as a picture can have, each of one pixel and of all bytes of the file that follow.
    let rows = 65_535u32;
    let list = |value: u32| (0..rows).flat_map(|_| value.to_le_bytes()).collect::<Vec<u8>>();
    let fixed = 8 + 2 + 12 * 9 + 4;
    let (offsets, counts, pixels) = (fixed, fixed + 4 * rows, fixed + 8 * rows);
    let length = 1 << 20;
    let entries = [(256, 1, 1), (257, 1, rows), (258, 1, 8), (259, 1, 1), (262, 1, 1)];
    let rest = [(273, rows, offsets), (277, 1, 1), (278, 1, 1), (279, rows, counts)];
    let mut file = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, count, value) in entries.into_iter().chain(rest) {
        file.extend(u16::to_le_bytes(tag));
        file.extend([4, 0]);
        file.extend(u32::to_le_bytes(count));
        file.extend(u32::to_le_bytes(value));
    }
    file.extend([0; 4]);
    file.extend(list(pixels));
    file.extend(list(length));
    file.extend(vec![9; length as usize]);
    let image = Image::decode(&file).expect("a picture");
    assert_eq!((image.width(), image.height()), (1, rows));
    assert!(image.rgb().iter().all(|&v| v == 9));
}

#[test]
fn colour_profiles_that_are_none_are_passed_over() {
    let plain = Image::decode(&png(1, 1, &zlib(|z| z.write_all(b"no profile").expect("memory")))).expect("a picture");
    assert_eq!(plain.rgb(), [1, 2, 3]);
    assert_eq!(Image::decode(&png(1, 1, b"not packed either")).expect("a picture"), plain);

    let whole = golden_picture("jpeg-420-225x223.jpg");
    let segment = b"\xff\xe2\0\x16ICC_PROFILE\0\x07\x03\xff\xff\xff\xff\xff\xff";
    let with_profile = [&whole[..2], segment, &whole[2..]].concat();
    assert_eq!(Image::decode(&with_profile).expect("a picture"), Image::decode(&whole).expect("a picture"));
}
