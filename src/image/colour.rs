//! PIL's conversions of single pixels (Pillow, `src/libImaging/Convert.c` and `Unpack.c`).

/// CMYK, 255 being full ink, to RGB.
pub(super) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        // ink · light / 255, rounded, without a division.
        let product = i32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// Colours that were multiplied by alpha, divided by it; black where alpha is 0.
pub(super) fn unmultiply([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    [r, g, b].map(|v| match a {
        0 => 0,
        255 => v,
        a => (u32::from(v) * 255 / u32::from(a)).min(255) as u8,
    })
}
