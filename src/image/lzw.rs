//! LZW streams of GIF and TIFF files.

use weezl::decode::Decoder;
use weezl::LzwStatus;

use super::bad;
use crate::error::Result;

/// Decodes until `out` is full or the stream ends; gives the number of bytes written. The decoder must yield on a full buffer.
pub(super) fn decode(mut decoder: Decoder, mut stream: &[u8], out: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        let step = decoder.decode_bytes(stream, &mut out[filled..]);
        stream = &stream[step.consumed_in..];
        filled += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) => break,
            Err(_) => return Err(bad("the picture is corrupt (bad LZW code); copy it again or save it anew")),
        }
    }
    Ok(filled)
}
