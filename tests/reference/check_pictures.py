#!/usr/bin/env python3
"""Compares the library's pixels with PIL's over random picture files; prints what differs and a table by kind.

    check_pictures.py PROGRAM [--count 2000] [--seed 1] [--keep DIR] [--kinds PREFIX]

PROGRAM is examples/picture_checksums.rs, built.  Both sides decode and resize; a CRC-32 a picture and size tells.  That both
refuse a file counts as agreement and is shown apart.  --keep stores the files that differ.  Needs numpy, Pillow and
libturbojpeg (picture_files.py).
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from pictures import SIZES, by_pil
from picture_files import KINDS


def random_size(rng):
    """Mostly small and odd, sometimes extreme, sometimes near the encoder's sizes."""
    which = int(rng.integers(10))
    if which == 0:
        return int(rng.integers(1, 4)), int(rng.integers(1, 4))
    if which == 1:
        long, short = int(rng.integers(100, 700)), int(rng.integers(1, 5))
        return (long, short) if rng.integers(2) else (short, long)
    if which == 2:
        return int(rng.integers(200, 260)), int(rng.integers(200, 260))
    return int(rng.integers(1, 120)), int(rng.integers(1, 120))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--kinds", default="", help="only kinds that begin so")
    args = parser.parse_args()

    names = [n for n in KINDS if n.startswith(args.kinds)]
    table = {n: collections.Counter() for n in names}
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for i in range(args.count):
            rng = np.random.default_rng([args.seed, i])
            name = names[i % len(names)]
            extension, make = KINDS[name]
            path = pathlib.Path(folder) / f"{i:05}-{name}.{extension}"
            path.write_bytes(make(rng, *random_size(rng)))
            pictures.append((name, path))
        lines = subprocess.run([args.program, *map(str, SIZES)], input="".join(f"{p}\n" for _, p in pictures), text=True,
                               stdout=subprocess.PIPE, check=True).stdout.splitlines()
        assert len(lines) == len(pictures)
        for (name, path), line in zip(pictures, lines):
            ours, theirs = json.loads(line), by_pil(path)
            if "error" in ours and "error" in theirs:
                outcome = "both refuse"
            elif "error" in ours:
                outcome = "we refuse"
            elif "error" in theirs:
                outcome = "PIL refuses"
            else:
                outcome = "equal" if ours == theirs else "DIFFERENT"
            table[name][outcome] += 1
            if outcome not in ("equal", "both refuse"):
                if table[name][outcome] == 1:
                    print(f"{path.name}: {outcome}\n  ours {ours}\n  PIL  {theirs}")
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / path.name).write_bytes(path.read_bytes())
    outcomes = ["equal", "both refuse", "PIL refuses", "we refuse", "DIFFERENT"]
    print(f"\n{'kind':40}" + "".join(f"{o:>13}" for o in outcomes))
    for name, counts in table.items():
        print(f"{name:40}" + "".join(f"{counts[o] or '':>13}" for o in outcomes))
    total = sum(table.values(), collections.Counter())
    print(f"{'all':40}" + "".join(f"{total[o]:>13}" for o in outcomes))
    sys.exit(total["DIFFERENT"] > 0)


if __name__ == "__main__":
    main()
