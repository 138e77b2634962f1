#!/usr/bin/env python3
"""Writes tests/golden/resize/cases.json: what PIL's bicubic resize makes of generated pictures.

Always horizontally first, then vertically, as two calls: Pillow did so in one call until, at some version before 13.0, it began
to choose the order by the sizes, which moves values by a level or so.  The model was trained with the older ones.

The pictures are not stored: here and in src/image.rs they come from the same generator, and of a result only its CRC-32 is kept
(and all bytes of the smallest ones, to see what differs).  Needs numpy and Pillow; run from anywhere.
"""

import json
import pathlib
import zlib

import numpy as np
import PIL
from PIL import Image

# width, height -> width, height
SIZES = [
    (1, 1, 1, 1), (1, 1, 5, 3), (1, 7, 3, 3), (7, 1, 2, 4), (2, 2, 3, 3), (3, 2, 2, 3), (4, 4, 4, 4), (5, 5, 4, 4),
    (8, 6, 8, 3), (8, 6, 3, 6), (13, 17, 13, 17), (17, 13, 31, 29), (64, 48, 28, 28), (33, 100, 14, 70),
    (100, 33, 112, 112), (97, 101, 224, 224), (224, 224, 112, 112), (225, 223, 224, 224), (223, 225, 224, 224),
    (640, 480, 224, 224), (481, 641, 448, 448), (1024, 3, 112, 112), (3, 1024, 112, 112), (20000, 1, 112, 112),
    (1, 20000, 112, 112), (20000, 1, 20000, 2), (447, 449, 448, 448), (1000, 1000, 1, 1), (1999, 7, 5, 5), (2, 900, 448, 2),
]


def picture(width, height, kind, seed):
    """[height, width, 3] bytes: noise, or blocks of black and white that make the filter overshoot."""
    n = width * height * 3
    state = np.empty(n, np.uint64)
    x = seed
    for i in range(n):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        state[i] = x
    noise = (state >> np.uint64(56)).astype(np.uint8)
    if kind == "blocks":
        noise = np.where(noise >= 128, 255, 0).astype(np.uint8)
    return noise.reshape(height, width, 3)


def main():
    cases = []
    for i, (w, h, ow, oh) in enumerate(SIZES):
        for kind in ("noise", "blocks"):
            image = Image.fromarray(picture(w, h, kind, i))
            out = image.resize((ow, h), Image.BICUBIC).resize((ow, oh), Image.BICUBIC).tobytes()
            case = {"from": [w, h], "to": [ow, oh], "kind": kind, "seed": i, "crc32": zlib.crc32(out)}
            if len(out) <= 48:
                case["bytes"] = list(out)
            cases.append(case)
    folder = pathlib.Path(__file__).resolve().parent.parent / "golden" / "resize"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(c) for c in cases)
    (folder / "cases.json").write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
