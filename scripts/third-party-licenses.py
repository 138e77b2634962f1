#!/usr/bin/env python3
"""Writes the licences of everything that is compiled into the library: third-party-licenses.py OUT.

Asks cargo which packages those are on this platform (or CARGO_BUILD_TARGET) and takes the licence files that they bring.
Equal texts are written once. Where a package offers a choice that includes MIT, its MIT text is taken.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IS_LICENCE = re.compile(r"(?i)^(un)?licen[cs]e|^copying|^copyright|^notice")
IS_CHOICE = re.compile(r"(?i) or |/")
WIDTH = 100


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def target():
    host = re.search(r"^host: (.*)$", output("rustc", "-vV"), re.MULTILINE).group(1)
    return os.environ.get("CARGO_BUILD_TARGET", host)


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def packages():
    """The packages that tinygptv links, without itself: no tools of the build, no macros, nothing of tests."""
    cargo = os.environ.get("CARGO", "cargo")
    metadata = json.loads(output(cargo, "metadata", "--format-version", "1", "--locked", "--filter-platform", target()))
    by_id = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(p["id"] for p in metadata["packages"] if p["name"] == "tinygptv")
    found, waiting = set(), [root]
    while waiting:
        node = nodes[waiting.pop()]
        for dep in node["deps"]:
            linked = any(kind["kind"] is None for kind in dep["dep_kinds"])
            if linked and dep["pkg"] not in found and not is_macro(by_id[dep["pkg"]]):
                found.add(dep["pkg"])
                waiting.append(dep["pkg"])
    return sorted((by_id[i] for i in found), key=lambda p: (p["name"], p["version"]))


def licence_files(folder):
    return sorted(p for p in folder.iterdir() if p.is_file() and IS_LICENCE.match(p.name))


def texts_of(package):
    """The licence texts of a package and of the sources of others that it brings (llama.cpp, libjpeg-turbo)."""
    folder = Path(package["manifest_path"]).parent
    own = licence_files(folder)
    mit = [p for p in own if "mit" in p.name.lower()]
    if mit and IS_CHOICE.search(package["license"] or ""):
        own = mit + [p for p in own if p.name.lower().startswith("notice")]
    bundled = [
        licence
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and any((sub / name).exists() for name in ("CMakeLists.txt", "Makefile", "configure"))
        for licence in licence_files(sub)
    ]
    return [(p.relative_to(folder), p.read_text(encoding="utf-8", errors="replace").strip()) for p in own + bundled]


def main():
    numbers, texts, lines = {}, [], []
    found = packages()
    for package in found:
        source = package.get("repository") or package.get("homepage") or ""
        lines.append(f"{package['name']} {package['version']}: {package['license'] or 'see its text'}")
        lines += [f"    {line}" for line in [source, *package["authors"]] if line]
        for path, text in texts_of(package):
            key = " ".join(text.split())
            if key not in numbers:
                texts.append(text)
                numbers[key] = len(texts)
            lines.append(f"    {path}: text {numbers[key]}")
    head = [
        "tinygptv contains the Rust standard library (MIT or Apache-2.0, The Rust Project Developers) and the packages",
        "below. A package without a text of its own stands under the licence that it names, whose words are those of",
        "LICENSE-MIT or LICENSE-APACHE beside this file, with the authors named here as copyright holders.",
        "",
    ]
    body = []
    for number, text in enumerate(texts, 1):
        body += ["", "=" * WIDTH, f"text {number}", "=" * WIDTH, "", text]
    Path(sys.argv[1]).write_text("\n".join(head + lines + body) + "\n", encoding="utf-8")
    missing = [p["name"] for p in found if not p["license"] and not texts_of(p)]
    if missing:
        sys.exit(f"third-party-licenses: no licence is known of {', '.join(missing)}")


if __name__ == "__main__":
    main()
