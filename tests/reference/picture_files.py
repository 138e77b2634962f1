"""Picture files of many kinds, written here where PIL cannot write them: the makings of test pictures.

Some JPEG kinds need libjpeg-turbo's shared library of version 3 or later, which TGV_TURBOJPEG names if the system has another.

KINDS maps a name to (file extension, function).  The function takes a random generator, a width and a height and returns the
bytes of a file; what is left open in the kind (quality, palette size, filter …) it draws from the generator.
"""
import ctypes
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw

KINDS = {}


def kind(name, extension, *args, **options):
    """Registers fn(rng, width, height, *args, **options) under a name."""
    def register(fn):
        assert name not in KINDS
        KINDS[name] = (extension, lambda rng, w, h: fn(rng, w, h, *args, **options))
        return fn
    return register


# ------------------------------------------------------------------ contents

def photo(rng, width, height, channels=3):
    """[height, width, channels] bytes: slopes, a few shapes with hard edges, some noise."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.empty((height, width, channels))
    for c in range(channels):
        a, b, phase = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0, 6)
        out[..., c] = 128 + 90 * np.sin(phase + 4 * (a * x / width + b * y / height))
    for _ in range(int(rng.integers(1, 5))):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.1, 0.4) * max(width, height)
        out[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.integers(0, 256, channels)
    noise = rng.choice([0, 0, 3, 20])
    return np.clip(out + rng.normal(0, 1, out.shape) * noise, 0, 255).astype(np.uint8)


def drawing(rng, width, height):
    """A PIL picture with few colours."""
    image = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        x = sorted(int(v) for v in rng.integers(-5, width + 5, 2))
        y = sorted(int(v) for v in rng.integers(-5, height + 5, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (draw.ellipse if rng.integers(2) else draw.rectangle)([x[0], y[0], x[1], y[1]], fill=colour)
    return image


def rgb_image(rng, width, height):
    return drawing(rng, width, height) if rng.integers(3) == 0 else Image.fromarray(photo(rng, width, height))


def indices(rng, width, height, colours):
    """[height, width] palette indices and a [colours, 3] palette."""
    values = photo(rng, width, height, 1)[..., 0].astype(int) * colours // 256
    return values.astype(np.uint8), rng.integers(0, 256, (colours, 3)).astype(np.uint8)


def saved(image, fmt, **options):
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def packed(values, bits):
    """Rows of values to bytes, most significant bits first, each row padded to a byte."""
    height, width = values.shape
    rows = np.zeros((height, (width * bits + 7) // 8 * 8), np.uint8)
    for b in range(bits):
        rows[:, b:width * bits:bits] = values >> (bits - 1 - b) & 1
    return np.packbits(rows, axis=1)


# ---------------------------------------------------------------------- JPEG

def jpeg_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@kind("jpeg-444", "jpg", subsampling=0)
@kind("jpeg-422", "jpg", subsampling=1)
@kind("jpeg-420", "jpg", subsampling=2)
@kind("jpeg-progressive-444", "jpg", subsampling=0, progressive=True)
@kind("jpeg-progressive-420", "jpg", subsampling=2, progressive=True)
@kind("jpeg-restart", "jpg", subsampling=2, restart_marker_blocks=3)
@kind("jpeg-restart-progressive", "jpg", subsampling=1, restart_marker_rows=1, progressive=True)
@kind("jpeg-rgb", "jpg", keep_rgb=True)
@kind("jpeg-optimised", "jpg", subsampling=2, optimize=True)
def jpeg(rng, width, height, **options):
    return saved(rgb_image(rng, width, height), "JPEG", quality=int(rng.integers(5, 101)), **options)


@kind("jpeg-exif-rotated", "jpg")
def jpeg_rotated(rng, width, height):
    return saved(rgb_image(rng, width, height), "JPEG", quality=80, exif=jpeg_exif(int(rng.integers(2, 9))))


@kind("jpeg-gray", "jpg")
@kind("jpeg-gray-progressive", "jpg", progressive=True)
def jpeg_gray(rng, width, height, **options):
    return saved(rgb_image(rng, width, height).convert("L"), "JPEG", quality=int(rng.integers(5, 101)), **options)


@kind("jpeg-cmyk", "jpg")
@kind("jpeg-cmyk-progressive", "jpg", progressive=True)
def jpeg_cmyk(rng, width, height, **options):
    image = Image.fromarray(photo(rng, width, height, 4), "CMYK")
    return saved(image, "JPEG", quality=int(rng.integers(20, 101)), **options)


@kind("jpeg-unfinished-progressive", "jpg")
def jpeg_unfinished(rng, width, height):
    """Only the first scans, then the end marker: decoders smooth such a picture."""
    data = saved(rgb_image(rng, width, height), "JPEG", quality=70, progressive=True, subsampling=int(rng.integers(3)))
    scans = [i for i in range(len(data) - 1) if data[i:i + 2] == b"\xff\xda"]
    # A scan's Huffman tables stand before it.
    cut = scans[int(rng.integers(1, len(scans)))]
    while data.rfind(b"\xff\xc4", 0, cut) > data.rfind(b"\xff\xda", 0, cut):
        cut = data.rfind(b"\xff\xc4", 0, cut)
    return data[:cut] + b"\xff\xd9"


@kind("jpeg-without-jfif", "jpg")
def jpeg_bare(rng, width, height):
    """Without JFIF header, so that the colour space follows from the components' numbers."""
    data = saved(rgb_image(rng, width, height), "JPEG", quality=60, subsampling=int(rng.integers(3)))
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big"):]


class TurboJpeg:
    """libjpeg-turbo's own C interface, version 3, for what PIL does not write."""
    RGB, CMYK = 0, 11
    QUALITY, SUBSAMP, PRECISION, COLORSPACE, PROGRESSIVE, ARITHMETIC, LOSSLESS, PSV, POINT, RESTART_ROWS = \
        3, 4, 7, 8, 12, 14, 15, 16, 17, 19
    SAMPLING = {"444": 0, "422": 1, "420": 2, "gray": 3, "440": 4, "411": 5, "441": 6}
    YCCK = 4

    def __init__(self):
        path = os.environ.get("TGV_TURBOJPEG", "libturbojpeg.so.0")
        self.lib = ctypes.CDLL(path)
        self.lib.tj3Init.restype = ctypes.c_void_p
        self.lib.tj3GetErrorStr.restype = ctypes.c_char_p
        self.lib.tj3Compress8.argtypes = [ctypes.c_void_p, ctypes.c_char_p] + [ctypes.c_int] * 4 + [ctypes.c_void_p] * 2
        self.lib.tj3Compress12.argtypes = self.lib.tj3Compress8.argtypes

    def compress(self, pixels, parameters, twelve_bits=False):
        handle = ctypes.c_void_p(self.lib.tj3Init(0))
        for key, value in parameters.items():
            assert self.lib.tj3Set(handle, key, value) == 0, self.lib.tj3GetErrorStr(handle)
        height, width, channels = pixels.shape
        out, size = ctypes.c_void_p(), ctypes.c_size_t()
        compress = self.lib.tj3Compress12 if twelve_bits else self.lib.tj3Compress8
        code = compress(handle, np.ascontiguousarray(pixels).tobytes(), width, 0, height,
                        {3: self.RGB, 4: self.CMYK}[channels], ctypes.byref(out), ctypes.byref(size))
        assert code == 0, self.lib.tj3GetErrorStr(handle)
        data = ctypes.string_at(out, size.value)
        self.lib.tj3Free(out)
        self.lib.tj3Destroy(handle)
        return data


_turbo = None


def turbo(pixels, parameters, twelve_bits=False):
    global _turbo
    _turbo = _turbo or TurboJpeg()
    return _turbo.compress(pixels, parameters, twelve_bits)


@kind("jpeg-411", "jpg", "411")
@kind("jpeg-440", "jpg", "440")
@kind("jpeg-441", "jpg", "441")
@kind("jpeg-411-progressive", "jpg", "411", progressive=1)
@kind("jpeg-arithmetic", "jpg", "420", arithmetic=1)
@kind("jpeg-arithmetic-progressive", "jpg", "422", arithmetic=1, progressive=1)
def jpeg_turbo(rng, width, height, sampling, progressive=0, arithmetic=0):
    t = TurboJpeg
    return turbo(photo(rng, width, height), {
        t.SUBSAMP: t.SAMPLING[sampling], t.QUALITY: int(rng.integers(20, 101)), t.PROGRESSIVE: progressive,
        t.ARITHMETIC: arithmetic, t.RESTART_ROWS: int(rng.integers(2))})


@kind("jpeg-lossless", "jpg")
def jpeg_lossless(rng, width, height):
    t = TurboJpeg
    return turbo(photo(rng, width, height), {
        t.LOSSLESS: 1, t.PSV: int(rng.integers(1, 8)), t.POINT: int(rng.integers(0, 3))})


@kind("jpeg-12-bit", "jpg")
def jpeg_12_bit(rng, width, height):
    """Refused by PIL."""
    t = TurboJpeg
    pixels = photo(rng, width, height).astype(np.uint16) * 16
    return turbo(pixels, {t.PRECISION: 12, t.SUBSAMP: t.SAMPLING["420"], t.QUALITY: 80}, twelve_bits=True)


@kind("jpeg-ycck", "jpg", "444")
@kind("jpeg-ycck-420", "jpg", "420")
def jpeg_ycck(rng, width, height, sampling):
    t = TurboJpeg
    return turbo(photo(rng, width, height, 4), {
        t.SUBSAMP: t.SAMPLING[sampling], t.QUALITY: int(rng.integers(20, 101)), t.COLORSPACE: t.YCCK})


# ----------------------------------------------------------------------- PNG

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png_file(rng, samples, bits, colour, interlaced, chunks=()):
    """PNG of [height, width, channels] samples; each row has a random filter."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def filtered(part):
        rows = part.reshape(part.shape[0], -1)
        if bits == 16:
            rows = np.stack([rows >> 8, rows & 255], -1).reshape(rows.shape[0], -1).astype(np.uint8)
        else:
            rows = packed(rows, bits)
        step = max(1, part.shape[2] * bits // 8)
        out = bytearray()
        above = np.zeros(rows.shape[1], int)
        for row in rows.astype(int):
            left = np.concatenate([np.zeros(step, int), row])[:len(row)]
            corner = np.concatenate([np.zeros(step, int), above])[:len(row)]
            pa, pb, pc = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
            paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, above, corner))
            f = int(rng.integers(5))
            out.append(f)
            out += ((row - [0, left, above, (left + above) // 2, paeth][f]) & 255).astype(np.uint8).tobytes()
            above = row
        return bytes(out)

    height, width, _ = samples.shape
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        data = b"".join(filtered(p) for p in parts if p.size)
    else:
        data = filtered(samples)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(n, d) for n, d in chunks)
            + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def png(rng, width, height, colour, bits, interlaced, transparent):
    samples = photo(rng, width, height, CHANNELS[colour]).astype(int)
    samples = samples * 257 + rng.integers(-128, 128, samples.shape) if bits == 16 else samples >> (8 - bits)
    samples = np.clip(samples, 0, 2**bits - 1)
    if bits == 16 and colour == 0 and rng.integers(2):
        samples //= 200  # within the range that survives the clipping
    chunks = []
    if transparent:
        chunks.append((b"tRNS", b"".join(struct.pack(">H", int(v)) for v in samples[height // 2, width // 2])))
    if rng.integers(2):
        chunks.insert(0, (b"gAMA", struct.pack(">I", 45455)))
    return png_file(rng, samples, bits, colour, interlaced, chunks)


for _colour, _name in [(0, "gray"), (2, "rgb"), (4, "gray-alpha"), (6, "rgba")]:
    for _bits in [1, 2, 4, 8, 16] if _colour == 0 else [8, 16]:
        for _interlaced in (False, True):
            kind(f"png-{_name}{_bits}" + "-interlaced" * _interlaced, "png", _colour, _bits, _interlaced, False)(png)
        if _colour in (0, 2):
            kind(f"png-{_name}{_bits}-trns", "png", _colour, _bits, False, True)(png)


@kind("png-palette1", "png", 1)
@kind("png-palette2", "png", 2)
@kind("png-palette4", "png", 4)
@kind("png-palette8", "png", 8)
@kind("png-palette4-interlaced", "png", 4, True)
@kind("png-palette8-interlaced", "png", 8, True)
@kind("png-palette8-alpha", "png", 8, False, True)
@kind("png-palette2-alpha", "png", 2, False, True)
def png_palette(rng, width, height, bits, interlaced=False, alpha=False):
    values, palette = indices(rng, width, height, int(rng.integers(2, 2**bits + 1)))
    chunks = [(b"PLTE", palette.tobytes())]
    if alpha:
        chunks.append((b"tRNS", rng.integers(0, 256, int(rng.integers(1, len(palette) + 1))).astype(np.uint8).tobytes()))
    return png_file(rng, values[..., None], bits, 3, interlaced, chunks)


@kind("png-exif-rotated", "png")
def png_rotated(rng, width, height):
    return saved(rgb_image(rng, width, height), "PNG", exif=jpeg_exif(6))


@kind("png-animated", "png")
def png_animated(rng, width, height):
    frames = [rgb_image(rng, width, height) for _ in range(3)]
    return saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=bool(rng.integers(2)))


# ----------------------------------------------------------------------- BMP

def bmp_file(width, height, bits, data, palette=b"", compression=0, top_down=False, masks=b"", os2=False, colours=0):
    if os2:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        size = 40 if len(masks) <= 12 else 108
        header = struct.pack("<IiiHHIIiiII", size, width, -height if top_down else height, 1, bits, compression,
                             len(data), 2835, 2835, colours, 0) + masks
        header += b"\0" * (14 + size - len(header) - 14 if size > 40 else 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def bmp_rows(rows, top_down=False):
    """[height, bytes] to padded rows, bottom row first."""
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    return (rows if top_down else rows[::-1]).tobytes()


@kind("bmp-palette1", "bmp", 1)
@kind("bmp-palette4", "bmp", 4)
@kind("bmp-palette8", "bmp", 8)
@kind("bmp-palette8-os2", "bmp", 8, True)
@kind("bmp-palette4-os2", "bmp", 4, True)
def bmp_palette(rng, width, height, bits, os2=False):
    values, palette = indices(rng, width, height, 2**bits if os2 else int(rng.integers(2, 2**bits + 1)))
    # PIL takes a ramp of gray for pixels of 8 bits, whatever there are.
    if bits != 4 and rng.integers(3) == 0:
        palette[:] = (np.arange(len(palette)) * (255 if len(palette) == 2 else 1))[:, None]
    if not os2:
        palette = np.pad(palette, ((0, 0), (0, 1)))
    top_down = not os2 and bool(rng.integers(2))
    return bmp_file(width, height, bits, bmp_rows(packed(values, bits), top_down), palette[:, [2, 1, 0, 3][:palette.shape[1]]].tobytes(),
                    top_down=top_down, os2=os2, colours=0 if len(palette) == 2**bits else len(palette))


@kind("bmp-16", "bmp", None)
@kind("bmp-16-555", "bmp", (0x7c00, 0x3e0, 0x1f))
@kind("bmp-16-565", "bmp", (0xf800, 0x7e0, 0x1f))
def bmp_16(rng, width, height, masks):
    values = rng.integers(0, 2**16, (height, width)) if rng.integers(2) else \
        np.minimum(photo(rng, width, height, 1)[..., 0].astype(int) * 257 + 9, 65535)
    rows = np.stack([values & 255, values >> 8], -1).astype(np.uint8).reshape(height, -1)
    return bmp_file(width, height, 16, bmp_rows(rows), compression=3 if masks else 0,
                    masks=struct.pack("<3I", *masks) if masks else b"")


@kind("bmp-24", "bmp")
def bmp_24(rng, width, height):
    top_down = bool(rng.integers(2))
    return bmp_file(width, height, 24, bmp_rows(photo(rng, width, height).reshape(height, -1), top_down), top_down=top_down)


@kind("bmp-32", "bmp", None)
@kind("bmp-32-rgbx", "bmp", (0xff000000, 0xff0000, 0xff00))
@kind("bmp-32-bgra", "bmp", (0xff0000, 0xff00, 0xff, 0xff000000))
@kind("bmp-32-rgba", "bmp", (0xff, 0xff00, 0xff0000, 0xff000000))
@kind("bmp-32-zero-masks", "bmp", (0, 0, 0, 0))
def bmp_32(rng, width, height, masks):
    rows = photo(rng, width, height, 4).reshape(height, -1)
    return bmp_file(width, height, 32, bmp_rows(rows), compression=3 if masks else 0,
                    masks=struct.pack(f"<{len(masks)}I", *masks) if masks else b"")


@kind("bmp-rle8", "bmp", 8)
@kind("bmp-rle4", "bmp", 4)
def bmp_rle(rng, width, height, bits):
    values, palette = indices(rng, width, height, 2**bits)
    out = bytearray()
    for row in values[::-1]:
        x = 0
        while x < width:
            n = min(int(rng.integers(1, 20)), width - x)
            part = [int(v) for v in row[x:x + n]]
            repeat = 1 if bits == 8 else 2
            run = next((i for i in range(n) if part[i] != part[i % repeat]), n)
            if n >= 3 and run < 3 and rng.integers(4):
                data = part if bits == 8 else [a << 4 | b for a, b in zip(part[::2], part[1::2] + [0])]
                out += bytes([0, n] + data + [0] * (len(data) % 2))
                x += n
            else:
                out += bytes([run, part[0] if bits == 8 else part[0] << 4 | part[min(1, run - 1)]])
                x += run
        out += b"\0\0"
    out += b"\0\1"
    return bmp_file(width, height, bits, bytes(out), np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes(), compression=bits == 8 or 2)


# ---------------------------------------------------------------------- TIFF

def tiff_file(data_parts, tags, big_endian=False):
    """TIFF of strips or tiles; tags: {number: (type, values)} without the offsets and byte counts of the parts."""
    e = ">" if big_endian else "<"
    codes = {1: "B", 3: "H", 4: "I"}
    tiled = 322 in tags
    tags = dict(tags)
    tags[324 if tiled else 273] = (4, [0] * len(data_parts))
    tags[325 if tiled else 279] = (4, [len(p) for p in data_parts])
    head = 8 + 2 + 12 * len(tags) + 4
    extra_size = sum((lambda n: n if n > 4 else 0)(struct.calcsize(e + codes[t] * len(v))) for t, v in tags.values())
    at = head + extra_size
    offsets = []
    for p in data_parts:
        offsets.append(at)
        at += len(p)
    tags[324 if tiled else 273] = (4, offsets)
    entries, extra = b"", b""
    for number in sorted(tags):
        t, values = tags[number]
        raw = struct.pack(e + codes[t] * len(values), *values)
        if len(raw) > 4:
            field = struct.pack(e + "I", head + len(extra))
            extra += raw
        else:
            field = raw.ljust(4, b"\0")
        entries += struct.pack(e + "HHI", number, t, len(values)) + field
    start = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(e + "I", 8)
    return start + struct.pack(e + "H", len(tags)) + entries + b"\0\0\0\0" + extra + b"".join(data_parts)


def tiff(rng, width, height, photometric, bits, channels, extra=(), sample_format=1, planar=False, tiled=False,
         compressed=False, predictor=1, orientation=None, reversed_bits=False):
    """TIFF in strips of several rows or in tiles, in either byte order."""
    big_endian = bool(rng.integers(2))
    samples = photo(rng, width, height, channels).astype(int)
    tags = {}
    if photometric == 3:
        samples = samples >> (8 - bits)
        palette = rng.integers(0, 65536, 3 * 2**bits)
        tags[320] = (3, [int(v) for v in palette])
    elif sample_format == 3:
        samples = samples * 1.3 - 20.25
    elif bits > 8:
        samples = samples * rng.choice([1, 200]) - (20 if sample_format == 2 else 0)
    else:
        samples = samples >> (8 - bits)
    if extra and extra[0] == 1:
        samples[..., :-1] = samples[..., :-1] * samples[..., -1:] // (2**bits - 1)
    e = ">" if big_endian else "<"

    def raw(part):
        rows = part.reshape(part.shape[0], -1)
        if predictor == 2:
            step = part.shape[2]
            rows = np.concatenate([rows[:, :step], rows[:, step:] - rows[:, :-step]], 1) & (2**bits - 1)
        if sample_format == 3:
            return rows.astype(e + "f4").tobytes()
        if bits > 8:
            kind_ = "iu"[sample_format == 1]
            return (rows & (2**bits - 1)).astype(e + f"u{bits // 8}").tobytes() if kind_ == "u" or predictor == 2 \
                else rows.astype(e + f"i{bits // 8}").tobytes()
        data = packed(rows, bits)
        if reversed_bits:
            data = np.packbits(np.unpackbits(data, axis=1).reshape(data.shape[0], -1, 8)[..., ::-1], axis=-1)
        return data.tobytes()

    planes = [samples[..., c:c + 1] for c in range(channels)] if planar else [samples]
    parts = []
    if tiled:
        tw, th = 16 * int(rng.integers(1, 4)), 16 * int(rng.integers(1, 4))
        tags[322], tags[323] = (3, [tw]), (3, [th])
        for plane in planes:
            padded = np.pad(plane, ((0, -height % th), (0, -width % tw), (0, 0)))
            parts += [raw(padded[y:y + th, x:x + tw]) for y in range(0, height, th) for x in range(0, width, tw)]
    else:
        rows = int(rng.integers(1, height + 1))
        tags[278] = (4, [rows])
        parts = [raw(plane[y:y + rows]) for plane in planes for y in range(0, height, rows)]
    if compressed:
        parts = [zlib.compress(p) for p in parts]
    tags |= {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [8 if compressed else 1]),
             262: (3, [photometric]), 277: (3, [channels]), 284: (3, [2 if planar else 1])}
    if extra:
        tags[338] = (3, list(extra))
    if sample_format != 1:
        tags[339] = (3, [sample_format] * channels)
    if predictor != 1:
        tags[317] = (3, [predictor])
    if orientation is not None:
        tags[274] = (3, [orientation or int(rng.integers(1, 9))])
    if reversed_bits:
        tags[266] = (3, [2])
    return tiff_file(parts, tags, big_endian)


for _name, _args in {
    "bilevel": (1, 1, 1), "bilevel-white-is-zero": (0, 1, 1), "gray2": (1, 2, 1), "gray4": (1, 4, 1), "gray8": (1, 8, 1),
    "gray4-white-is-zero": (0, 4, 1), "gray8-white-is-zero": (0, 8, 1), "gray16": (1, 16, 1), "gray8-alpha": (1, 8, 2, (2,)),
    "gray8-extra": (1, 8, 2, (0,)), "gray16-signed": (1, 16, 1, (), 2), "gray32-signed": (1, 32, 1, (), 2),
    "gray-float": (1, 32, 1, (), 3), "rgb8": (2, 8, 3), "rgba8": (2, 8, 4, (2,)), "rgbx8": (2, 8, 4, (0,)),
    "rgba8-premultiplied": (2, 8, 4, (1,)), "rgb16": (2, 16, 3), "rgba16": (2, 16, 4, (2,)), "palette1": (3, 1, 1), "palette2": (3, 2, 1),
    "palette4": (3, 4, 1), "palette8": (3, 8, 1), "palette8-alpha": (3, 8, 2, (2,)), "cmyk8": (5, 8, 4),
    "cmyk16": (5, 16, 4), "ycbcr8": (6, 8, 3), "lab8": (8, 8, 3),
}.items():
    kind(f"tiff-{_name}", "tif", *_args)(tiff)
    if _name in ("rgb8", "gray8", "palette8", "rgb16", "gray16", "cmyk8", "gray4", "rgba8", "bilevel"):
        kind(f"tiff-{_name}-tiled", "tif", *_args, tiled=True)(tiff)
        kind(f"tiff-{_name}-deflate", "tif", *_args, compressed=True)(tiff)
    if _name in ("rgb8", "rgba8", "rgb16", "cmyk8"):
        # PIL misreads planes of 16 bits that are not compressed: it takes their bytes for samples.
        if _name != "rgb16":
            kind(f"tiff-{_name}-planar", "tif", *_args, planar=True)(tiff)
        kind(f"tiff-{_name}-planar-deflate", "tif", *_args, planar=True, compressed=True)(tiff)
    if _name in ("rgb8", "gray8", "rgb16", "gray16"):
        kind(f"tiff-{_name}-predictor", "tif", *_args, compressed=True, predictor=2)(tiff)
    if _name in ("rgb8", "gray8", "palette4"):
        kind(f"tiff-{_name}-oriented", "tif", *_args, orientation=0)(tiff)
    if _name in ("bilevel", "gray8"):
        kind(f"tiff-{_name}-reversed-bits", "tif", *_args, reversed_bits=True)(tiff)


@kind("tiff-rgb-lzw", "tif", "RGB", "tiff_lzw")
@kind("tiff-rgb-packbits", "tif", "RGB", "packbits")
@kind("tiff-rgb-deflate", "tif", "RGB", "tiff_adobe_deflate")
@kind("tiff-palette-lzw", "tif", "P", "tiff_lzw")
@kind("tiff-gray-lzw", "tif", "L", "tiff_lzw")
@kind("tiff-cmyk-lzw", "tif", "CMYK", "tiff_lzw")
@kind("tiff-gray-alpha-lzw", "tif", "LA", "tiff_lzw")
@kind("tiff-rgb-jpeg", "tif", "RGB", "jpeg")
@kind("tiff-gray-jpeg", "tif", "L", "jpeg")
@kind("tiff-fax3", "tif", "1", "group3")
@kind("tiff-fax4", "tif", "1", "group4")
def tiff_saved(rng, width, height, mode, compression):
    return saved(rgb_image(rng, width, height).convert(mode), "TIFF", compression=compression)


# ----------------------------------------------------------------------- PNM

def pnm_comment(rng):
    return rng.choice(["", "# a comment\n", "# one\n# two\n"])


@kind("pbm-plain", "pbm", "P1", 1)
@kind("pgm-plain", "pgm", "P2", 1)
@kind("ppm-plain", "ppm", "P3", 3)
@kind("pgm", "pgm", "P5", 1)
@kind("ppm", "ppm", "P6", 3)
def pnm(rng, width, height, magic, channels, maxval=255):
    samples = (photo(rng, width, height, channels).astype(int) * (maxval + 1)) >> 8
    head = f"{magic}\n{pnm_comment(rng)}{width} {height}\n"
    if magic == "P1":
        glue = rng.choice(["", " "])
        return (head + "\n".join(glue.join(str(v >> 7) for v in row) for row in samples.reshape(height, -1)) + "\n").encode()
    head += f"{maxval}\n"
    if magic in ("P2", "P3"):
        return (head + "\n".join(" ".join(map(str, row)) for row in samples.reshape(height, -1)) + "\n").encode()
    return head.encode() + samples.astype(">u2" if maxval > 255 else "u1").tobytes()


@kind("pgm-plain-odd", "pgm", "P2", 1)
@kind("ppm-plain-odd", "ppm", "P3", 3)
@kind("pgm-odd", "pgm", "P5", 1)
@kind("ppm-odd", "ppm", "P6", 3)
def pnm_odd(rng, width, height, magic, channels):
    maxval = int(rng.choice([1, 2, 3, 7, 15, 31, 100, 127, 200, 254, 256, 300, 1000, 1023, 4095, 65534, 65535]))
    return pnm(rng, width, height, magic, channels, maxval)


@kind("pgm-16", "pgm", "P5", 1, 65535)
@kind("ppm-16", "ppm", "P6", 3, 65535)
def pnm_16(rng, width, height, magic, channels, maxval):
    return pnm(rng, width, height, magic, channels, maxval)


@kind("pbm", "pbm")
def pbm(rng, width, height):
    return f"P4\n{pnm_comment(rng)}{width} {height}\n".encode() + packed(photo(rng, width, height, 1)[..., 0] >> 7, 1).tobytes()


@kind("pfm", "pfm")
def pfm(rng, width, height):
    little = bool(rng.integers(2))
    values = photo(rng, width, height, 1)[..., 0] * 1.3 - 20.25
    return f"Pf\n{width} {height}\n{'-1.0' if little else '2.0'}\n".encode() + values.astype("<f4" if little else ">f4").tobytes()


# ----------------------------------------------------------------------- GIF

def gif_file(canvas, frames, palette=None):
    """GIF of (left, top, indices, local palette or None, transparent index or None, interlaced); codes are not packed tightly."""
    def table(p):
        bits = max(1, (len(p) - 1).bit_length())
        return bits, p.tobytes().ljust(3 << bits, b"\0")

    out = b"GIF89a" + struct.pack("<HH", *canvas)
    if palette is not None:
        bits, data = table(palette)
        out += bytes([0x80 | bits - 1, min(1, len(palette) - 1), 0]) + data
    else:
        out += b"\0\0\0"
    for left, top, values, local, transparent, interlaced in frames:
        if transparent is not None:
            out += bytes([0x21, 0xf9, 4, 1, 10, 0, transparent, 0])
        height, width = values.shape
        flags = interlaced << 6
        data = b""
        if local is not None:
            bits, data = table(local)
            flags |= 0x80 | bits - 1
        out += b"," + struct.pack("<HHHHB", left, top, width, height, flags) + data
        if interlaced:
            values = np.concatenate([values[0::8], values[4::8], values[2::4], values[1::2]])
        code_bits = max(2, int(values.max()).bit_length())
        clear, bits_out, n_bits = 1 << code_bits, 0, 0
        # A clear code often enough that codes never grow.
        for i, v in enumerate(values.ravel()):
            if i % (clear - 2) == 0:
                bits_out |= clear << n_bits
                n_bits += code_bits + 1
            bits_out |= int(v) << n_bits
            n_bits += code_bits + 1
        bits_out |= clear + 1 << n_bits
        stream = bits_out.to_bytes((n_bits + code_bits + 8) // 8, "little")
        blocks = b"".join(bytes([len(stream[i:i + 255])]) + stream[i:i + 255] for i in range(0, len(stream), 255))
        out += bytes([code_bits]) + blocks + b"\0"
    return out + b";"


def gif(rng, width, height, offset=False, transparent=False, local=False, bare=False, interlaced=False, frames=1):
    canvas, parts = (width, height), []
    colours = int(rng.integers(2, 257))
    palette = None if bare else indices(rng, 1, 1, colours)[1]
    for _ in range(frames):
        w, h, left, top = width, height, 0, 0
        if offset:
            w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
            # Now and then beyond the canvas.
            spare = 3 if rng.integers(4) == 0 else 1
            left, top = int(rng.integers(0, width - w + spare)), int(rng.integers(0, height - h + spare))
        values, own = indices(rng, w, h, colours)
        clear = int(rng.integers(0, colours)) if transparent else None
        parts.append((left, top, values, own if local else None, clear, interlaced))
    return gif_file(canvas, parts, palette)


for _name, _options in {
    "plain": {}, "interlaced": {"interlaced": True}, "offset": {"offset": True}, "transparent": {"transparent": True},
    "offset-transparent": {"offset": True, "transparent": True}, "local-palette": {"local": True},
    "without-palette": {"bare": True}, "local-palette-only": {"bare": True, "local": True},
    "offset-local": {"offset": True, "bare": True, "local": True, "transparent": True}, "animated": {"frames": 3, "offset": True},
}.items():
    kind(f"gif-{_name}", "gif", **_options)(gif)


@kind("gif-saved", "gif")
def gif_saved(rng, width, height):
    return saved(rgb_image(rng, width, height).quantize(int(rng.integers(2, 257))), "GIF", interlace=int(rng.integers(2)))


@kind("gif-saved-animated", "gif")
def gif_saved_animated(rng, width, height):
    frames = [rgb_image(rng, width, height) for _ in range(3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


# ---------------------------------------------------------------------- WebP

@kind("webp-lossy", "webp")
@kind("webp-lossless", "webp", lossless=True)
def webp(rng, width, height, **options):
    return saved(rgb_image(rng, width, height), "WEBP", quality=int(rng.integers(1, 101)), method=int(rng.integers(0, 7)), **options)


@kind("webp-lossy-alpha", "webp")
@kind("webp-lossless-alpha", "webp", lossless=True)
@kind("webp-lossless-alpha-exact", "webp", lossless=True, exact=True)
def webp_alpha(rng, width, height, **options):
    pixels = photo(rng, width, height, 4)
    pixels[..., 3] = np.where(pixels[..., 3] < 90, 0, pixels[..., 3])
    return saved(Image.fromarray(pixels), "WEBP", quality=int(rng.integers(1, 101)), method=int(rng.integers(0, 7)), **options)


@kind("webp-animated", "webp")
@kind("webp-animated-lossless", "webp", lossless=True)
@kind("webp-animated-alpha", "webp", 4)
@kind("webp-animated-alpha-lossless", "webp", 4, lossless=True)
def webp_animated(rng, width, height, channels=3, **options):
    frames = [Image.fromarray(photo(rng, width, height, channels)) for _ in range(2)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=int(rng.integers(1, 101)),
                 background=(10, 200, 30, 255), **options)


@kind("webp-animated-offset", "webp", lossless=True)
@kind("webp-animated-offset-lossy", "webp")
def webp_offset(rng, width, height, lossless=False):
    """An animation whose first frame covers a part of the canvas."""
    w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
    left, top = int(rng.integers(0, width - w + 1)) & ~1, int(rng.integers(0, height - h + 1)) & ~1
    pixels = photo(rng, w, h, 4)
    pixels[..., 3] = np.where(pixels[..., 3] < 90, 0, pixels[..., 3])
    frame = saved(Image.fromarray(pixels), "WEBP", lossless=lossless, exact=lossless)[12:]
    if frame[:4] == b"VP8X":
        frame = frame[8 + 10:]
    blend = int(rng.integers(2))

    def u24(v):
        return struct.pack("<I", v)[:3]

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    body = chunk(b"VP8X", bytes([0x12, 0, 0, 0]) + u24(width - 1) + u24(height - 1))
    body += chunk(b"ANIM", struct.pack("<I", 0x80102030) + b"\0\0")
    body += chunk(b"ANMF", u24(left // 2) + u24(top // 2) + u24(w - 1) + u24(h - 1) + u24(100) + bytes([blend << 1]) + frame)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
