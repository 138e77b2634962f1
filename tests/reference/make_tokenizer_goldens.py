"""Token ids of the strings of fuzz_strings.py, by the Python binding of `tokenizers`.

Writes tests/golden/tokenizer/demo.json (the demo checkpoint's tokenizer) and
tests/golden/tokenizer/codegen-like/ids.json (the one make_codegen_like_tokenizer.py
made, with runs of spaces and tabs besides): arrays of {"text", "ids"}, one a line.
The text of a special token counts as that token.
"""
import json
from pathlib import Path

from tokenizers import Tokenizer

import checkpoint
import fuzz_strings

OUT = Path(__file__).resolve().parents[1] / "golden" / "tokenizer"


def write(path, tokenizer, texts):
    lines = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            raise SystemExit(f"{path.name}: does not decode to itself: {text!r}")
        lines.append(json.dumps({"text": text, "ids": ids}))
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main():
    texts = fuzz_strings.varied()
    write(OUT / "demo.json", checkpoint.load_tokenizer(), texts)
    codegen_like = OUT / "codegen-like"
    write(codegen_like / "ids.json", Tokenizer.from_file(str(codegen_like / "tokenizer.json")),
          texts + fuzz_strings.whitespace_runs())


if __name__ == "__main__":
    main()
