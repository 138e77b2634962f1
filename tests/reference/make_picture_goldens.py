#!/usr/bin/env python3
"""Writes tests/golden/pictures: small picture files of every kind that PIL reads, and what PIL and the reference make of them.

index.json has for each file its size, a few pixels, and the CRC-32 of the RGB pixels, of the pixels resized to several sizes, and of
the encoder's input at the first of these (float32, as it lies in memory).  Kinds that the library refuses are left out:
docs/images.md lists them.
"""
import json
import pathlib
import zlib

import numpy as np
import PIL
from PIL import Image, features

import answer
from picture_files import KINDS
from pictures import SIZES, by_pil

REFUSED_BY_US = {"bmp-32-zero-masks", "tiff-ycbcr8", "tiff-lab8", "tiff-fax3"}
ODD_SIZES = [(33, 21), (17, 30), (8, 8), (23, 9), (16, 16), (7, 41), (31, 15), (40, 11)]
# Beyond one of each kind: the smallest, the longest, and the encoder's own sizes.
EXTRA = [(name, *size) for size in [(1, 1), (1, 19), (19, 1)]
         for name in ("jpeg-420", "png-rgb8-interlaced", "gif-interlaced", "webp-lossy", "bmp-24", "tiff-rgb8-predictor")] + [
    ("jpeg-422", 611, 3), ("jpeg-progressive-420", 2, 333), ("png-palette4", 500, 2), ("webp-lossless", 3, 299),
    ("jpeg-420", 225, 223), ("webp-lossy", 224, 224), ("jpeg-progressive-444", 223, 226), ("png-palette2", 448, 448),
    ("gif-saved", 447, 449), ("jpeg-gray", 449, 447),
]
# The largest file that is taken; the draws that give the contents are repeated until one is small enough.
MAX_BYTES = 12_000


def make(name, width, height):
    extension, fn = KINDS[name]
    for attempt in range(1000):
        data = fn(np.random.default_rng([zlib.crc32(name.encode()), width, height, attempt]), width, height)
        if len(data) <= MAX_BYTES:
            return f"{name}-{width}x{height}.{extension}", data
    raise SystemExit(f"{name}, {width}x{height}: no small file")


def describe(path):
    golden = {"file": path.name} | by_pil(path)
    if "error" in golden:
        return {"file": path.name, "refused": True}
    with Image.open(path) as file:
        image = file.convert("RGB")
    assert image.size == (golden["width"], golden["height"])
    golden["pixels"] = zlib.crc32(answer.preprocess(image, SIZES[0]).numpy().astype("<f4").tobytes())
    w, h = image.size
    spots = dict.fromkeys([(0, 0), (w // 2, h // 2), (w - 1, 0), (0, h - 1), (w - 1, h - 1), (w // 3, h * 2 // 3)])
    golden["samples"] = [[*spot, *image.getpixel(spot)] for spot in spots]
    return golden


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent / "golden" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    names = [n for n in KINDS if n not in REFUSED_BY_US]
    wanted = [(n, *ODD_SIZES[i % len(ODD_SIZES)]) for i, n in enumerate(names)] + EXTRA
    goldens = []
    for name, width, height in wanted:
        file, data = make(name, width, height)
        (folder / file).write_bytes(data)
        goldens.append(describe(folder / file))
    versions = {"pillow": PIL.__version__} | {f: features.version(f) for f in ("libjpeg_turbo", "webp", "libtiff")}
    lines = ",\n".join("  " + json.dumps(g) for g in goldens)
    (folder / "index.json").write_text(f'{{"made_with": {json.dumps(versions)},\n "pictures": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
