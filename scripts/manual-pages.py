#!/usr/bin/env python3
"""Makes manual pages of the C header: manual-pages.py HEADER FOLDER.

tinygptv(3) holds everything; a page of each function's name leads to it.
"""

import re
import sys
from pathlib import Path

COMMENT = re.compile(r"/\*\*\n(.*?)\*/\n", re.DOTALL)
FIELD = re.compile(r"/\*\*\n(.*?)\*/\s*([^;/]*;)", re.DOTALL)


def escape(text):
    """Text as roff takes it: no escapes, no control lines, hyphens that can be searched for."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def comment_lines(raw):
    return [re.sub(r"^\s*\* ?", "", line).rstrip() for line in raw.strip("\n").split("\n") if line.strip() != ""]


def paragraphs(raw):
    """A doc comment as roff: paragraphs, parameters as a list, bullets as they are."""
    out, text = [], []

    def flush():
        if text:
            out.append(escape(" ".join(text)))
            text.clear()

    for line in comment_lines(raw):
        parameter = re.match(r"@param (\w+)\s+(.*)", line)
        if not line:
            flush()
            out.append(".PP")
        elif parameter:
            flush()
            out.append(".TP\n.I " + escape(parameter.group(1)))
            text.append(parameter.group(2))
        elif line.startswith("- "):
            flush()
            out.append(".IP \\(bu 2")
            text.append(line[2:])
        else:
            text.append(line.strip())
    flush()
    return "\n".join(out)


def code(text):
    return ".nf\n" + escape(text.rstrip()) + "\n.fi"


class Page:
    """What the header declares, each with its comment."""

    def __init__(self, header):
        self.functions, self.structs, self.types, self.constants = [], [], [], []
        self.version = re.search(r'#define TGV_VERSION "(.*)"', header).group(1)
        self.introduction = re.match(r"/\*(.*?)\*/", header, re.DOTALL).group(1)
        for match in COMMENT.finditer(header):
            comment, rest = match.group(1), header[match.end() :]
            if match.start() > 0 and header[match.start() - 1] == " ":
                continue  # of a field, told with its struct
            define = re.match(r"#define (\w+) (\S+)\n", rest)
            struct = re.match(r"typedef struct (\w+) \{\n(.*?)\n\} \w+;", rest, re.DOTALL)
            declaration = rest[: rest.index(";") + 1]
            if define:
                self.constants.append((define.group(1), define.group(2), comment))
            elif struct:
                self.structs.append((struct.group(1), FIELD.findall(struct.group(2)), comment))
            elif declaration.startswith("typedef"):
                self.types.append((declaration, comment))
            else:
                name = re.search(r"(\w+)\(", declaration).group(1)
                self.functions.append((name, declaration, comment))

    def roff(self):
        names = ", ".join(escape(name) for name, _, _ in self.functions)
        out = [
            f'.TH TINYGPTV 3 "" "tinygptv {self.version}" "Library Functions Manual"',
            ".nh",
            ".SH NAME",
            f"tinygptv, {names} \\- questions about pictures, answered on the user's own device",
            ".SH SYNOPSIS",
            ".B #include <tinygptv.h>",
            ".PP",
            code("cc program.c $(pkg-config --cflags --libs tinygptv)"),
            ".SH DESCRIPTION",
            paragraphs("\n".join(line for line in self.introduction.split("\n") if "Generated from" not in line)),
            ".SH FUNCTIONS",
        ]
        for name, declaration, comment in self.functions:
            out += [f".SS {escape(name)}", code(declaration), ".PP", paragraphs(comment)]
        out.append(".SH TYPES")
        for declaration, comment in self.types:
            out += [".PP", code(declaration), ".PP", paragraphs(comment)]
        out.append(".SH STRUCTURES")
        for name, fields, comment in self.structs:
            out += [f".SS {escape(name)}", paragraphs(comment)]
            for text, field in fields:
                out += [".TP", ".B " + escape(" ".join(field.split())), paragraphs(text)]
        out.append(".SH CONSTANTS")
        for name, value, comment in self.constants:
            out += [".TP", f".BR {escape(name)} \" = {escape(value)}\"", paragraphs(comment)]
        out += [".SH SEE ALSO", ".BR pkg\\-config (1)"]
        return "\n".join(out) + "\n"


def main():
    header, folder = Path(sys.argv[1]), Path(sys.argv[2])
    page = Page(header.read_text(encoding="utf-8"))
    if not page.functions or not page.structs or not page.constants:
        sys.exit(f"manual-pages: {header} is not understood")
    (folder / "tinygptv.3").write_text(page.roff(), encoding="utf-8")
    for name, _, _ in page.functions:
        (folder / f"{name}.3").write_text(".so man3/tinygptv.3\n", encoding="utf-8")


if __name__ == "__main__":
    main()
