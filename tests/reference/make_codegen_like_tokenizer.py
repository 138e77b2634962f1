"""A small tokenizer with the structure of the one Phi-2 uses (CodeGen's).

Writes tests/golden/tokenizer/codegen-like/tokenizer.json: 256 bytes, 2,000 merges
learnt from text made up here, then <|endoftext|> (special), then runs of 31 to 2
spaces and 9 to 2 tabs as added tokens that are not special.
"""
import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import fuzz_strings
from questions import questions_about
from scenes import make_scene

OUT = Path(__file__).resolve().parents[1] / "golden" / "tokenizer" / "codegen-like"
MERGES = 2000
FIRST_SEED = 9_100_500_000
SYLLABLES = {
    "latin": "the in er an on re al at en ti or st ar is to nd ing ion ou le se co de th ra ro ch sh pl ck ness ly".split(),
    "accents": "é è ü ö ä ß ñ ç å ø ł ž ě ő".split(),
    "cyrillic": "по на ст но то ра ко не ро во ла ен ий ть ого".split(),
    "greek": "κα το σε αι ου ης τη μα λο".split(),
    "kana": "の に は て た い し か なる です ます".split(),
    "han": "的 一 是 不 了 人 我 在 有 图 红 圆".split(),
    "arabic": "ال من في على هذا ها ية".split(),
    "devanagari": "का में है की और से".split(),
    "emoji": "😀 👍 ❤️ 👩‍💻 🔴 🔵".split(),
}
SHARES = {"latin": 60, "accents": 6, "cyrillic": 8, "greek": 4, "kana": 5, "han": 6, "arabic": 4, "devanagari": 4, "emoji": 3}


def corpus():
    """Lines of made-up words of several scripts, numbers, code and the demo's prompts."""
    rng = random.Random(23)
    words = {script: ["".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(400)]
             for script, parts in SYLLABLES.items()}
    for i in range(3000):
        line = []
        for _ in range(rng.randint(4, 14)):
            script = rng.choices(list(SHARES), list(SHARES.values()))[0]
            word = words[script][int(400 * rng.random() ** 3)]        # a few words make up most of a text
            line.append(rng.choice([word, word, word, word.capitalize(), word.upper(), word + "'s", word + ","]))
        yield " ".join(line) + rng.choice([".", "?", "!", "...", ";\n", " -- ", "\r\n"])
        yield f"{' ' * rng.choice([2, 4, 8, 12])}{rng.choice(line)}_{rng.choice(line)} = {rng.randrange(10 ** rng.randint(1, 5))};\n\n"
        yield f"### {1900 + rng.randrange(130)}: [{rng.choice(line)}](<{rng.choice(line)}>) != {{{rng.random():.3f}}} // ====\n"
    for i in range(200):
        for q in questions_about(make_scene(FIRST_SEED + i)[1], rng):
            yield f"{fuzz_strings.HEAD}</Img> {q.text} ###Assistant: {q.expected}###"


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES, min_frequency=2, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    return tokenizer


def main():
    tokenizer = json.loads(train().to_str())
    model = tokenizer["model"]
    assert len(model["merges"]) == MERGES
    # merges as "a b" strings, and <|endoftext|> in the vocabulary too, as in the official file
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model["vocab"]["<|endoftext|>"] = len(model["vocab"])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
