//! TIFF files as PIL reads them. The `tiff` crate reads the directory; strips, tiles and the meaning of samples are here, because
//! that crate knows neither palettes nor most other kinds.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use tiff::decoder::Decoder;
use tiff::tags::Tag;
use tiff::{TiffError, TiffFormatError};
use weezl::decode::Configuration;
use weezl::BitOrder;

use super::colour::{cmyk_to_rgb, unmultiply};
use super::decode::Failure;
use super::{check_size, lzw, reserve, too_costly, truncated, Image};
use crate::error::Error;

type Result<T> = std::result::Result<T, Failure>;

/// Bytes of a strip or tile, unpacked.
const MAX_PART_BYTES: u64 = 1 << 31;
/// Bytes of a strip or tile in the file over twice those of its samples. All of thousands of strips may name the whole file.
const MAX_OVERHEAD: u64 = 1 << 16;

/// Decodes the first picture of a TIFF file, turned as its orientation says (as PIL does with TIFF alone).
pub(super) fn decode(mut source: impl Read + Seek) -> Result<Image> {
    // Before the crate opens the file: it multiplies the height with the samples in 32 bits.
    let [width, height] = sides(&mut source).map_err(Failure::from_io)?;
    check_size(width, height)?;
    source.rewind().map_err(Failure::from_io)?;
    let mut file = Decoder::new(source)?;
    let layout = Layout::read(&mut file)?;
    let meaning = Meaning::of(&layout, &mut file)?;
    let (width, height, channels) = (layout.width as usize, layout.height as usize, layout.samples);
    let mut samples = reserve(width * height * channels)?;
    samples.resize(width * height * channels, 0u8);

    let across = width.div_ceil(layout.part_width);
    let down = height.div_ceil(layout.part_height);
    let planes = if layout.planar { channels } else { 1 };
    if layout.offsets.len() < across * down * planes || layout.counts.len() != layout.offsets.len() {
        return Err(corrupt("strips or tiles are missing"));
    }
    for part in 0..across * down * planes {
        let (plane, row, column) = (part / (across * down), part / across % down, part % across);
        let (top, left) = (row * layout.part_height, column * layout.part_width);
        let rows = layout.part_height.min(height - top);
        let columns = layout.part_width.min(width - left);
        let mut raw = Vec::new();
        file.goto_offset_u64(layout.offsets[part]).map_err(Failure::from_io)?;
        let length = layout.counts[part].min(layout.most_packed_bytes());
        file.inner().take(length).read_to_end(&mut raw).map_err(Failure::from_io)?;
        let values = layout.unpack(raw, rows, meaning.clips())?;
        let in_part = channels / planes;
        for (y, line) in values.chunks(layout.part_width * in_part).enumerate() {
            let out = &mut samples[((top + y) * width + left) * channels..][..columns * channels];
            if in_part == channels {
                out.copy_from_slice(&line[..out.len()]);
            } else {
                out[plane..].iter_mut().step_by(channels).zip(line).for_each(|(o, &v)| *o = v);
            }
        }
    }
    let mut rgb = reserve(width * height * 3)?;
    let pixels = samples.chunks(channels);
    match meaning {
        Meaning::Gray => rgb.extend(pixels.flat_map(|p| [p[0]; 3])),
        Meaning::Inverted => rgb.extend(pixels.flat_map(|p| [255 - p[0]; 3])),
        Meaning::Palette(colours) => rgb.extend(pixels.flat_map(|p| colours[usize::from(p[0])])),
        Meaning::Rgb => rgb.extend(pixels.flat_map(|p| [p[0], p[1], p[2]])),
        Meaning::Premultiplied => rgb.extend(pixels.flat_map(|p| unmultiply([p[0], p[1], p[2], p[3]]))),
        Meaning::Cmyk => rgb.extend(pixels.flat_map(|p| cmyk_to_rgb([p[0], p[1], p[2], p[3]]))),
    }
    turn(Image { width: layout.width, height: layout.height, rgb }, layout.orientation)
}

#[derive(Clone, Copy, PartialEq)]
enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Jpeg,
    Fax4,
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Unsigned,
    Signed,
    Float,
}

/// How samples are stored.
struct Layout {
    width: u32,
    height: u32,
    bits: usize,
    /// Of a pixel, extra ones included.
    samples: usize,
    format: Format,
    photometric: u16,
    extra: Vec<u16>,
    compression: Compression,
    /// Each sample's difference to the one left of it is stored.
    predicted: bool,
    /// Bits of a byte from the lowest to the highest.
    reversed: bool,
    big_endian: bool,
    planar: bool,
    part_width: usize,
    part_height: usize,
    offsets: Vec<u64>,
    counts: Vec<u64>,
    jpeg_tables: Vec<u8>,
    orientation: u16,
}

impl Layout {
    fn read<R: Read + Seek>(file: &mut Decoder<R>) -> Result<Layout> {
        let (width, height) = file.dimensions()?;
        check_size(width, height)?;
        let number = |file: &mut Decoder<R>, tag, default: u16| -> Result<u16> {
            Ok(file.find_tag_unsigned(tag)?.unwrap_or(default))
        };
        let numbers = |file: &mut Decoder<R>, tag, default: &[u16]| -> Result<Vec<u16>> {
            Ok(file.find_tag_unsigned_vec(tag)?.unwrap_or_else(|| default.to_vec()))
        };
        // That these are the same for all samples was checked when the file was opened.
        let bits = numbers(file, Tag::BitsPerSample, &[1])?[0];
        let format = match numbers(file, Tag::SampleFormat, &[1])?[0] {
            1 => Format::Unsigned,
            2 => Format::Signed,
            3 => Format::Float,
            n => return Err(unsupported(&format!("sample format {n}"))),
        };
        let compression = match number(file, Tag::Compression, 1)? {
            1 => Compression::None,
            4 => Compression::Fax4,
            5 => Compression::Lzw,
            7 => Compression::Jpeg,
            8 | 32946 => Compression::Deflate,
            32773 => Compression::PackBits,
            n => return Err(unsupported(&format!("compression {n}"))),
        };
        // The predictor belongs to these two; others ignore the tag.
        let predicted = match number(file, Tag::Predictor, 1)? {
            _ if !matches!(compression, Compression::Lzw | Compression::Deflate) => false,
            1 => false,
            2 if bits >= 8 => true,
            n => return Err(unsupported(&format!("predictor {n} with {bits} bits"))),
        };
        let tile: Option<u32> = file.find_tag_unsigned(Tag::TileWidth)?;
        let (part_width, part_height, offsets, counts) = match tile {
            Some(tile_width) => {
                let tile_height: u32 = file.get_tag_unsigned(Tag::TileLength)?;
                (tile_width, tile_height, Tag::TileOffsets, Tag::TileByteCounts)
            }
            None => {
                let rows: u32 = file.find_tag_unsigned(Tag::RowsPerStrip)?.unwrap_or(height);
                (width, rows.min(height), Tag::StripOffsets, Tag::StripByteCounts)
            }
        };
        if part_width == 0 || part_height == 0 {
            return Err(corrupt("empty strips or tiles"));
        }
        let layout = Layout {
            width,
            height,
            bits: bits.into(),
            samples: number(file, Tag::SamplesPerPixel, 1)?.into(),
            format,
            photometric: number(file, Tag::PhotometricInterpretation, 0)?,
            extra: numbers(file, Tag::ExtraSamples, &[])?,
            compression,
            predicted,
            reversed: number(file, Tag::FillOrder, 1)? == 2,
            big_endian: file.byte_order() == tiff::tags::ByteOrder::BigEndian,
            planar: number(file, Tag::PlanarConfiguration, 1)? == 2,
            part_width: part_width as usize,
            part_height: part_height as usize,
            offsets: file.find_tag_unsigned_vec(offsets)?.unwrap_or_default(),
            counts: file.find_tag_unsigned_vec(counts)?.unwrap_or_default(),
            jpeg_tables: file.find_tag_unsigned_vec(Tag::JPEGTables)?.unwrap_or_default(),
            orientation: number(file, Tag::Orientation, 1)?,
        };
        let part_bits = u64::from(part_width) * u64::from(part_height.min(height)) * u64::from(bits);
        if part_bits.saturating_mul(layout.samples as u64) / 8 > MAX_PART_BYTES {
            return Err(too_costly("a TIFF file with very large strips or tiles").into());
        }
        Ok(layout)
    }

    /// Bytes of the file that are read for a strip or tile.
    fn most_packed_bytes(&self) -> u64 {
        (self.row_bytes() as u64).saturating_mul(self.part_height as u64).saturating_mul(2).saturating_add(MAX_OVERHEAD)
    }

    /// Bytes of an unpacked row of a strip or tile.
    fn row_bytes(&self) -> usize {
        (self.part_width * self.samples_in_part() * self.bits).div_ceil(8)
    }

    /// Samples of a pixel in one strip or tile.
    fn samples_in_part(&self) -> usize {
        if self.planar {
            1
        } else {
            self.samples
        }
    }

    /// The first rows of a strip or tile, `[rows, part_width, samples_in_part]`: palette indices and bits as they are, gray of less than 8
    /// bits stretched to 0 … 255, more bits clipped or cut to the highest 8.
    fn unpack(&self, mut raw: Vec<u8>, rows: usize, clip: bool) -> Result<Vec<u8>> {
        let row_values = self.part_width * self.samples_in_part();
        if self.compression == Compression::Jpeg {
            return self.unpack_jpeg(&raw, rows);
        }
        if self.reversed {
            raw.iter_mut().for_each(|b| *b = b.reverse_bits());
        }
        let row_bytes = self.row_bytes();
        let mut data = self.decompress(raw, rows, row_bytes)?;
        if self.predicted {
            for row in data.chunks_mut(row_bytes) {
                self.undo_differences(row);
            }
        }
        if self.bits == 8 {
            return Ok(data);
        }
        let mut values = reserve(rows * row_values)?;
        for row in data.chunks(row_bytes) {
            match self.bits {
                1 | 2 | 4 => {
                    let per_byte = 8 / self.bits;
                    let mask = (1u8 << self.bits) - 1;
                    // Gray is stretched; a palette's indices stay.
                    let factor = if clip { 255 / mask } else { 1 };
                    values.extend(
                        (0..row_values)
                            .map(|i| (row[i / per_byte] >> (8 - self.bits * (i % per_byte + 1)) & mask) * factor),
                    );
                }
                16 => values.extend(row.as_chunks().0.iter().map(|&v| {
                    let v = if self.big_endian { u16::from_be_bytes(v) } else { u16::from_le_bytes(v) };
                    match (clip, self.format) {
                        (true, Format::Signed) => (v as i16).clamp(0, 255) as u8,
                        (true, _) => v.min(255) as u8,
                        _ => (v >> 8) as u8,
                    }
                })),
                _ => values.extend(row.as_chunks().0.iter().map(|&v| {
                    let v = if self.big_endian { u32::from_be_bytes(v) } else { u32::from_le_bytes(v) };
                    match self.format {
                        Format::Float => f32::from_bits(v) as u8,
                        // PIL has signed integers only.
                        _ => (v as i32).clamp(0, 255) as u8,
                    }
                })),
            }
        }
        Ok(values)
    }

    fn decompress(&self, raw: Vec<u8>, rows: usize, row_bytes: usize) -> Result<Vec<u8>> {
        let len = rows * row_bytes;
        let mut data = match self.compression {
            Compression::None => raw,
            Compression::Lzw => {
                let mut data = reserve(len)?;
                data.resize(len, 0);
                let decoder = Configuration::with_tiff_size_switch(BitOrder::Msb, 8);
                let filled = lzw::decode(decoder.with_yield_on_full_buffer(true).build(), &raw, &mut data)?;
                data.truncate(filled);
                data
            }
            Compression::Deflate => {
                let mut data = reserve(len)?;
                let mut stream = flate2::read::ZlibDecoder::new(&raw[..]).take(len as u64);
                stream.read_to_end(&mut data).map_err(Failure::from_io)?;
                data
            }
            Compression::PackBits => unpack_bits(&raw, len)?,
            Compression::Fax4 => {
                let too_wide = || unsupported("fax compression of so large a strip");
                let width = u16::try_from(self.part_width).map_err(|_| too_wide())?;
                let lines = u16::try_from(rows).map_err(|_| too_wide())?;
                let mut data = reserve(len)?;
                fax::decoder::decode_g4(raw.into_iter(), width, Some(lines), |changes| {
                    let start = data.len();
                    data.resize(start + row_bytes, 0u8);
                    let dots = fax::decoder::pels(changes, width).take(width.into());
                    for (x, _) in dots.enumerate().filter(|(_, dot)| *dot == fax::Color::Black) {
                        data[start + x / 8] |= 0x80 >> (x % 8);
                    }
                })
                .ok_or_else(|| corrupt("bad fax code"))?;
                data
            }
            Compression::Jpeg => return Err(corrupt("JPEG in an unexpected place")),
        };
        if data.len() < len {
            return Err(truncated().into());
        }
        data.truncate(len);
        Ok(data)
    }

    /// Each sample becomes the sum of the differences up to it, modulo its range.
    fn undo_differences(&self, row: &mut [u8]) {
        let (step, bytes) = (self.samples_in_part(), self.bits / 8);
        for i in step..row.len() / bytes {
            let (before, here) = ((i - step) * bytes, i * bytes);
            let mut carry = 0;
            for k in 0..bytes {
                // From the lowest byte to the highest.
                let k = if self.big_endian { bytes - 1 - k } else { k };
                let sum = u16::from(row[before + k]) + u16::from(row[here + k]) + carry;
                row[here + k] = sum as u8;
                carry = sum >> 8;
            }
        }
    }

    #[cfg(not(feature = "jpeg"))]
    fn unpack_jpeg(&self, _raw: &[u8], _rows: usize) -> Result<Vec<u8>> {
        Err(super::bad(super::format::Format::Jpeg.missing()).into())
    }

    /// A strip or tile that is a JPEG stream, whose tables may stand in the directory (TIFF Technical Note 2).
    #[cfg(feature = "jpeg")]
    fn unpack_jpeg(&self, raw: &[u8], rows: usize) -> Result<Vec<u8>> {
        let stream = raw.strip_prefix(b"\xff\xd8").ok_or_else(|| corrupt("no JPEG stream"))?;
        let tables = self.jpeg_tables.strip_prefix(b"\xff\xd8").unwrap_or_default();
        let tables = tables.strip_suffix(b"\xff\xd9").unwrap_or(tables);
        // The colour space follows from the directory: an Adobe marker tells it, 1 for YCbCr, 0 for none.
        let transform = u8::from(self.photometric == 6);
        let adobe = [b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0", &[transform][..]].concat();
        let stream = [&adobe, tables, stream].concat();
        let header = super::jpeg::Header::read(&stream)?;
        // Before it is decoded: each of many small strips could claim to be the largest picture.
        if header.width as usize != self.part_width
            || header.channels != self.samples_in_part()
            || !(rows..=self.part_height).contains(&(header.height as usize))
        {
            return Err(corrupt("a JPEG stream of another size"));
        }
        let mut values = header.decode()?;
        values.truncate(rows * self.part_width * self.samples_in_part());
        Ok(values)
    }
}

/// PackBits: n ≥ 0, then n + 1 bytes as they are; n < 0, then a byte to be repeated 1 − n times; −128 is skipped.
fn unpack_bits(raw: &[u8], len: usize) -> crate::error::Result<Vec<u8>> {
    let mut data = reserve(len)?;
    let mut rest = raw;
    while let (true, [n, tail @ ..]) = (data.len() < len, rest) {
        let n = *n as i8;
        let count = usize::from(n.unsigned_abs()) + 1;
        rest = match tail {
            _ if n == -128 => tail,
            [v, tail @ ..] if n < 0 => {
                data.resize((data.len() + count).min(len), *v);
                tail
            }
            _ if n >= 0 => {
                let bytes = &tail[..count.min(tail.len())];
                data.extend_from_slice(&bytes[..bytes.len().min(len - data.len())]);
                &tail[bytes.len()..]
            }
            _ => tail,
        };
    }
    Ok(data)
}

/// What the samples of a pixel mean.
enum Meaning {
    /// Values of more than 8 bits are clipped at 255.
    Gray,
    /// Gray of up to 8 bits, 0 being white.
    Inverted,
    Palette(Box<[[u8; 3]; 256]>),
    Rgb,
    /// RGB multiplied by the alpha that follows.
    Premultiplied,
    Cmyk,
}

impl Meaning {
    /// The combinations that PIL knows (`TiffImagePlugin.OPEN_INFO`), less those that need a colour profile or special care.
    fn of<R: Read + Seek>(layout: &Layout, file: &mut Decoder<R>) -> Result<Meaning> {
        let Layout { bits, samples, format, photometric, .. } = *layout;
        let extra = &layout.extra[..];
        let colours = samples.saturating_sub(extra.len());
        let unsigned = format == Format::Unsigned;
        let unused = |extra: &[u16]| extra.iter().all(|&e| e == 0) && extra.len() <= 3;
        let meaning = match (photometric, colours, extra) {
            (0, 1, []) if unsigned && matches!(bits, 1 | 2 | 4 | 8) => Some(Meaning::Inverted),
            (0, 1, []) if unsigned && bits == 16 && !layout.big_endian => Some(Meaning::Gray),
            (0 | 1, 1, []) if format == Format::Float && bits == 32 => Some(Meaning::Gray),
            (1, 1, []) if format == Format::Signed && matches!(bits, 8 | 16 | 32) => Some(Meaning::Gray),
            (1, 1, []) if unsigned && matches!(bits, 1 | 2 | 4 | 8 | 16 | 32) => Some(Meaning::Gray),
            (1, 1, [0 | 2]) | (6, 1, []) if unsigned && bits == 8 => Some(Meaning::Gray),
            (3, 1, []) if unsigned && matches!(bits, 1 | 2 | 4 | 8) => Some(palette(bits, file)?),
            (3, 1, [0 | 2]) if unsigned && bits == 8 => Some(palette(bits, file)?),
            (2, 3 | 4, []) | (2, 3, [999]) if unsigned && matches!(bits, 8 | 16) => Some(Meaning::Rgb),
            (2, 3, [1, rest @ ..]) if unsigned && matches!(bits, 8 | 16) && unused(rest) => {
                Some(Meaning::Premultiplied)
            }
            (2, 3, [2, rest @ ..]) if unsigned && matches!(bits, 8 | 16) && unused(rest) => Some(Meaning::Rgb),
            (2, 3, rest) if unsigned && matches!(bits, 8 | 16) && unused(rest) => Some(Meaning::Rgb),
            (5, 4, rest) if unsigned && matches!(bits, 8 | 16) && unused(rest) => Some(Meaning::Cmyk),
            (6, 3, []) if layout.compression == Compression::Jpeg && bits == 8 && !layout.planar => Some(Meaning::Rgb),
            _ => None,
        };
        let sensible = match layout.compression {
            Compression::Jpeg => bits == 8,
            Compression::Fax4 => bits == 1 && samples == 1,
            _ => true,
        };
        meaning.filter(|_| sensible).ok_or_else(|| {
            unsupported(&format!("TIFF, photometric interpretation {photometric}, {samples} samples of {bits} bits"))
        })
    }

    /// Whether gray, stretched or clipped, is what the samples are.
    fn clips(&self) -> bool {
        matches!(self, Meaning::Gray | Meaning::Inverted)
    }
}

/// The colour map: all reds, greens, blues of 16 bits, of which PIL takes the high byte.
fn palette<R: Read + Seek>(bits: usize, file: &mut Decoder<R>) -> Result<Meaning> {
    let map: Vec<u16> = file.find_tag_unsigned_vec(Tag::ColorMap)?.unwrap_or_default();
    let n = 1 << bits;
    if map.len() < 3 * n {
        return Err(corrupt("the colour map is too short"));
    }
    let mut colours = Box::new([[0; 3]; 256]);
    for (i, colour) in colours.iter_mut().take(n).enumerate() {
        *colour = [0, 1, 2].map(|c| (map[c * n + i] >> 8) as u8);
    }
    Ok(Meaning::Palette(colours))
}

/// Applies an orientation (TIFF 6.0, tag 274): what row 0 and column 0 of the file are of the picture.
fn turn(image: Image, orientation: u16) -> Result<Image> {
    if !(2..=8).contains(&orientation) {
        return Ok(image);
    }
    let (w, h) = (image.width as usize, image.height as usize);
    let swapped = orientation >= 5;
    let (out_w, out_h) = if swapped { (h, w) } else { (w, h) };
    let pixels = image.rgb.as_chunks::<3>().0;
    let mut rgb = reserve(image.rgb.len())?;
    for y in 0..out_h {
        for x in 0..out_w {
            let (column, row) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            rgb.extend(pixels[row * w + column]);
        }
    }
    Ok(Image { width: out_w as u32, height: out_h as u32, rgb })
}

/// Largest width and height that the first directory names, 1 where it names none (TIFF 6.0, section 2). A directory that ends
/// early is left to the crate to complain about.
fn sides(source: &mut (impl Read + Seek)) -> io::Result<[u32; 2]> {
    let mut sides = [1, 1];
    let mut scan = || -> io::Result<()> {
        let mut order = [0; 4];
        source.read_exact(&mut order)?;
        let number = |source: &mut _, bytes: usize| number(source, bytes, order[0] == b'I');
        let directory = number(source, 4)?;
        source.seek(SeekFrom::Start(directory.into()))?;
        for _ in 0..number(source, 2)? {
            let (tag, ty, _count) = (number(source, 2)?, number(source, 2)?, number(source, 4)?);
            // A short number has the first of four bytes.
            let size = match ty {
                1 => 1,
                3 => 2,
                _ => 4,
            };
            let value = number(source, size)?;
            number(source, 4 - size)?;
            if let Some(side) = tag.checked_sub(256).and_then(|i| sides.get_mut(i as usize)) {
                *side = value.max(*side);
            }
        }
        Ok(())
    };
    match scan() {
        Err(e) if e.kind() != ErrorKind::UnexpectedEof => Err(e),
        _ => Ok(sides),
    }
}

/// A number of up to four bytes.
fn number(source: &mut impl Read, bytes: usize, little: bool) -> io::Result<u32> {
    let mut all = [0; 4];
    let read = &mut all[..bytes];
    source.read_exact(read)?;
    if !little {
        read.reverse();
    }
    Ok(u32::from_le_bytes(all))
}

fn corrupt(what: &str) -> Failure {
    Failure::corrupt(&format_args!("TIFF: {what}"))
}

fn unsupported(what: &str) -> Failure {
    Failure::unsupported(&what)
}

impl From<TiffError> for Failure {
    fn from(e: TiffError) -> Self {
        match e {
            TiffError::IoError(e) => Failure::from_io(e),
            TiffError::LimitsExceeded | TiffError::IntSizeError => too_costly("the TIFF file's directory").into(),
            TiffError::UnsupportedError(e) => Failure::unsupported(&e),
            TiffError::FormatError(TiffFormatError::InvalidDimensions(w, h)) => {
                check_size(w, h).map_or_else(Failure::from, |()| Error::Internal(format!("TIFF of {w}×{h}")).into())
            }
            e => Failure::corrupt(&e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian TIFF file: 16 bytes of data at offset 8, then the directory with these numbers as entries.
    fn file(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = [&b"II*\0\x18\0\0\0"[..], &[7; 16]].concat();
        bytes.extend((entries.len() as u16).to_le_bytes());
        for &(tag, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend([4, 0, 1, 0, 0, 0]);
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 4]);
        bytes
    }

    /// 4 × 4 gray pixels in one strip, with other values for some tags.
    fn gray(other: &[(u16, u32)]) -> Vec<u8> {
        let mut entries =
            vec![(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, 16)];
        for &(tag, value) in other {
            match entries.iter_mut().find(|e| e.0 == tag) {
                Some(entry) => entry.1 = value,
                None => entries.push((tag, value)),
            }
        }
        entries.sort();
        file(&entries)
    }

    #[test]
    fn the_plain_file_is_read() {
        assert_eq!(Image::decode(&gray(&[])).unwrap().rgb(), [7; 48]);
        // A colour profile that is none.
        assert_eq!(Image::decode(&gray(&[(34675, 8)])).unwrap().rgb(), [7; 48]);
        // White is zero; a byte's bits the other way round.
        assert_eq!(Image::decode(&gray(&[(262, 0), (266, 2)])).unwrap().rgb(), [255 - 0xe0; 48]);
    }

    #[test]
    fn bad_directories_are_refused() {
        let too_large = [vec![(256, 70_000)], vec![(256, 60_000), (257, 60_000), (278, 60_000)]];
        for other in too_large {
            assert!(matches!(Image::decode(&gray(&other)), Err(Error::ImageTooLarge(_))), "{other:?}");
        }
        for other in [
            vec![(256, 0)],
            vec![(258, 3)],
            vec![(258, 64)],
            vec![(259, 6)],
            vec![(259, 3)],
            vec![(259, 5)],
            vec![(259, 7)],
            vec![(259, 8)],
            vec![(262, 3)],
            vec![(262, 8)],
            vec![(262, 99)],
            vec![(273, 4_000_000_000)],
            vec![(277, 0)],
            vec![(277, 3)],
            vec![(278, 0)],
            vec![(279, 15)],
            vec![(339, 9)],
            vec![(284, 2), (277, 2)],
        ] {
            assert!(matches!(Image::decode(&gray(&other)), Err(Error::BadImage(_))), "{other:?}");
        }
    }

    #[test]
    fn a_tile_of_absurd_size_is_refused() {
        let tiled = [(256, 4), (257, 4), (258, 8), (259, 1), (262, 1), (277, 1)];
        let tile = |w, h| file(&[&tiled[..], &[(322, w), (323, h), (324, 8), (325, 16)]].concat());
        assert_eq!(Image::decode(&tile(4, 4)).unwrap().rgb(), [7; 48]);
        assert!(matches!(Image::decode(&tile(u32::MAX, 16)), Err(Error::ImageTooLarge(_))));
        assert!(matches!(Image::decode(&tile(16, u32::MAX)), Err(Error::BadImage(_))));
    }

    #[test]
    fn pack_bits() {
        let packed = [0xfe, 0xaa, 0x02, 0x80, 0x00, 0x2a, 0x80, 0xfd, 0xaa, 0x03, 0x80, 0x00, 0x2a, 0x22, 0xf7, 0xaa];
        let plain = [
            0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0xaa, 0xaa, 0xaa, 0xaa, 0x80, 0x00, 0x2a, 0x22, 0xaa, 0xaa, 0xaa, 0xaa,
            0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa,
        ];
        for n in 0..=plain.len() {
            assert_eq!(unpack_bits(&packed, n).unwrap(), plain[..n]);
        }
        assert_eq!(unpack_bits(&packed[..1], 9).unwrap(), [0u8; 0]);
        assert_eq!(unpack_bits(&[5, 1, 2], 9).unwrap(), [1, 2]);
    }
}
