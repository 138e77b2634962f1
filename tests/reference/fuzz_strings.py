"""Strings that are hard on a byte-level BPE tokenizer.

`varied()` holds 400 different strings for any vocabulary; `whitespace_runs()` holds more
for vocabularies with added tokens for runs of spaces and tabs.
"""
import random
import string
import unicodedata

from answer import HEAD, tail
from questions import questions_about
from scenes import make_scene

COUNT = 400
FIRST_SEED = 9_100_400_000

PROMPT_PIECES = [
    HEAD, "</Img> ", "###Human: ", "###", " ###", "### ", "######", "# # #", " ###Assistant:", "###Assistant: ",
    "<Img>", "</Img>", "<ImageHere>", "<Img><ImageHere></Img>", "[INST] ", " [/INST]", "<s>[INST] <Img>", "</s>",
    "[vqa]", "[caption]", "[grounding]", "[refer]", "[detection]", "[identify]",
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to "
    "you. Please answer my questions.###Human: <Img>",
    "{<0><0><100><100>}", "<p>a red circle</p>{<12><30><45><63>}<delim>{<1><2><3><4>}", "{<", "><", ">}", "<delim>",
]
CONTRACTIONS = [
    "it's he'll they've I'm we're she'd don't", "IT'S HE'LL THEY'VE I'M WE'RE SHE'D DON'T", "it’s don’t ‘quoted’",
    "'s't're've'm'll'd", " 's 't 're", "'S'T'RE", "rock'n'roll 'tis o'clock's", "x'sy 'stop 'llama", "don''t 's's",
]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.", "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia.",
    "Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń.", "Árvíztűrő tükörfúrógép", "Pijamalı hasta yağız şoföre çabucak güvendi. İıIi",
    "Tiếng Việt có sáu thanh điệu: ngang, huyền, sắc.", "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.", "דג סקרן שט בים מאוכזב ולפתע מצא חברה", "بِسْمِ اللَّهِ نص حكيم له سر قاطع ٠١٢٣٤٥",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा १२३", "যে কোনো মানুষ ১২৩", "யாமறிந்த மொழிகளிலே", "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓",
    "ນ້ຳພາສາລາວ", "ကမ္ဘာ့ မြန်မာ", "កម្ពុជា", "ქართული ენა", "Հայերեն լեզու", "ሰላም ለዓለም", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "ᚠᛇᚻ᛫ᛒᛦᚦ", "いろはにほへと ちりぬるを", "イロハニホヘト ﾁﾘﾇﾙｦ", "我能吞下玻璃而不伤身体。", "我能吞下玻璃而不傷身體。",
    "다람쥐 헌 쳇바퀴에 타고파", "각", "བོད་སྐད་", "ᠮᠣᠩᠭᠣᠯ", "𐌰𐌱𐌲 𐍈", "𝒜𝓁𝓅𝒽𝒶 𝟘𝟙𝟚 𝕏", "Ⅷ ⅻ ½ ¾ ² ³ ₁₂ ① ⑳ ㊿ 一二三",
    "€100 £5 ¥7 ₹9 ₿1 ©®™ §¶†‡•…‰′″", "«guillemets» „quotes“ —dash–dash― ‹›", "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ≤ ∞ ∑∫√≈≠", "←↑→↓⇒⇔ ■□▲○●◆★☆",
    "Ǆǅǆ ﬁﬂﬀ ß ẞ ſ ŉ", "ａｂｃ１２３！？", "\ufeffBOM first", "soft\u00adhyphen zero\u200bwidth no\u00a0break \u202eright\u202c",
    "ideographic\u3000space \u2003em \u2009thin \u202fnarrow \u205fmath \u1680ogham", "line\u2028sep para\u2029sep nel\u0085end",
    "mixed日本語and кириллица123και١٢٣text", "naïve café résumé Ünïcödé",
]
EMOJI = [
    "😀", "😀😃😄😁", "👍🏽 👍🏿 👍", "👨‍👩‍👧‍👦", "👩🏾‍💻 codes", "🏳️‍🌈🏴‍☠️", "🇩🇪🇯🇵🇺🇸🇧", "❤️ ❤ ♥️", "1️⃣2️⃣#️⃣*️⃣", "🧑‍🚀🚀🌑", "🤷‍♂️🤷🏻‍♀️",
    "a😀b 😀 c😀", "🫠🫨🪿", "👁️‍🗨️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "\u200d\u200d", "\ufe0f", "👨‍", "‍👦", "😀" * 20, "🔴🔵🟢🟡🟣🟠 ▲■●★",
]
COMBINING = [
    "e\u0301 é", "a\u0308\u0301\u0323", "Z\u0351\u036b\u0343\u032a\u0302a\u0300\u0316l\u034d\u0321g\u0488o\u0489", "\u0301", " \u0301",
    "\u0301\u0301\u0301", "n\u0303o", "i\u0307I\u0307", "\u0915\u094d\u0937\u093f", "\u1100\u1161\u11a8", "q\u0307\u0323 q\u0323\u0307",
    "o\u20dd 5\u20e3", "क़ क़", "\u3099か\u3099", "#\u0301## ###\u0301",
]
SPECIAL = "<|endoftext|>"
SPECIALS = [
    SPECIAL, SPECIAL * 2, SPECIAL * 5, f"a{SPECIAL}b", f"a {SPECIAL} b", f" {SPECIAL}", f"{SPECIAL} ", f"\n{SPECIAL}\n",
    f"###{SPECIAL}###", f"{SPECIAL}###Human: <Img>", f"don{SPECIAL}'t", f"12{SPECIAL}34", f"  {SPECIAL}  ", f"é{SPECIAL}é",
    f"😀{SPECIAL}👩‍💻", "<|endoftext|", "|endoftext|>", "<|endoftext |>", "<|ENDOFTEXT|>", "<<|endoftext|>>", "<|end<|endoftext|>oftext|>",
    "<|im_start|>user<|im_end|>", "<s></s><unk><pad>", "<|endoftext|>\u0301",
]
NEWLINES = [
    "a\r\nb\r\n", "\r\n\r\n", "\r\r\n\n", "a\nb\rc\r\nd\n\re", "\n\n\n\n", "\n \n  \n", " \r\n ", "\t\r\n\t", "x\n\n\ny", "end \n",
    "\r", "a \n b", "para one.\r\n\r\nPara two.\n", "\n###\n", "if x:\n    y = 1\n\n    return y\n", "\tif x:\r\n\t\ty = 1\r\n", "a\x0bb\x0cc\n",
]
LONG_WORDS = [
    "a" * 1000, "ab" * 300, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "é" * 200, "水" * 150,
    "1234567890" * 30, "the" * 150, "_" * 300, "https://example.org/" + "path/" * 30 + "?q=" + "x" * 60, "A" * 77 + "b" * 77,
    "supercalifragilisticexpialidocious" * 4, "0x" + "deadbeef" * 20, "circle" * 40, "#" * 257,
]


def varied():
    """The same 400 different strings on every call."""
    rng = random.Random(17)
    out = ["", *PROMPT_PIECES, *CONTRACTIONS, *SENTENCES, *EMOJI, *COMBINING, *SPECIALS, *NEWLINES, *LONG_WORDS]
    out += _prompts(rng) + _punctuation(rng) + _digits(rng) + _controls(rng) + _spaces(rng)
    out += ["".join(chr(rng.randrange(256)) for _ in range(rng.randint(1, 80))) for _ in range(35)]
    out = list(dict.fromkeys(out))
    while len(out) < COUNT:
        text = _mixture(rng)
        if text not in out:
            out.append(text)
    assert len(out) == COUNT, len(out)
    return out


def whitespace_runs():
    """Runs of 1 to 66 spaces and 1 to 22 tabs: alone, between words, at either end, and mixed."""
    rng = random.Random(18)
    out = []
    for char, longest in ((" ", 66), ("\t", 22)):
        for n in range(1, longest + 1):
            run = char * n
            out += [run, f"a{run}b"] if n % 4 else [run, f"{run}x", f"x{run}", f"###{run}###", f"\n{run}y"]
    for _ in range(60):
        parts = [rng.choice(" \t\n") * rng.randint(1, 40) + rng.choice(["", "", "x", "###", "é", "12", SPECIAL])
                 for _ in range(rng.randint(2, 6))]
        out.append("".join(parts))
    return list(dict.fromkeys(out))


def _prompts(rng):
    """Questions of every task, as they stand in a prompt, and their answers."""
    out = []
    for i in range(3):
        for q in questions_about(make_scene(FIRST_SEED + i, 3)[1], rng):
            out += [rng.choice([q.text, tail(q.text)]), rng.choice([q.expected, " " + q.expected])]
    return out


def _punctuation(rng):
    return ["".join(rng.choices(string.punctuation, k=rng.randint(2, 40))) for _ in range(15)] + [
        " ".join("".join(rng.choices(string.punctuation, k=rng.randint(1, 4))) for _ in range(8)) for _ in range(5)] + [
        rng.choice(string.punctuation) * rng.randint(3, 50) for _ in range(8)]


def _digits(rng):
    return ["".join(rng.choices(string.digits, k=k)) for k in (1, 2, 3, 5, 9, 17, 40)] + [
        "3.14159", "-1,234,567.89", "1e-10", "2024-02-29T23:59:60Z", "0b1010 0xFF 0o17", "½ 1/2", "a1b2c3", "12abc 34 d5", " 7", "  42"]


def _controls(rng):
    chars = [chr(c) for c in (*range(32), *range(127, 160))]
    return ["".join(rng.choices(chars, k=rng.randint(1, 20))) for _ in range(10)] + [
        f"a{c}b {c} {c}{c}" for c in "\x00\x01\x07\x08\x1b\x1f\x7f\x80\x9f"]


def _spaces(rng):
    return [" " * n for n in (1, 2, 3, 4, 7, 31, 32, 100)] + ["\t" * n for n in (1, 2, 9, 10)] + [
        f"a{' ' * n}b" for n in (2, 3, 31, 33)] + [f"{' ' * n}lead" for n in (1, 2, 5)] + [
        f"trail{' ' * n}" for n in (1, 2, 5)] + [
        "".join(rng.choice(" \t\n\r\u00a0\u3000ab") for _ in range(rng.randint(10, 60))) for _ in range(10)]


def _mixture(rng):
    """Pieces of everything, some of them random assigned code points."""
    pieces = []
    for _ in range(rng.randint(2, 8)):
        source = rng.choice((PROMPT_PIECES, CONTRACTIONS, SENTENCES, EMOJI, COMBINING, SPECIALS, NEWLINES, None, None))
        if source is None:
            pieces.append("".join(_code_point(rng) for _ in range(rng.randint(1, 8))))
        else:
            piece = rng.choice(source)
            start = rng.randrange(len(piece))
            pieces.append(piece[start:start + rng.randint(1, 15)])
    return rng.choice(("", " ")).join(pieces)


def _code_point(rng):
    while True:
        char = chr(rng.choice((rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x20000))))
        # assigned since Unicode 3.2, so that every library in use agrees on its class
        if unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Cs", "Co"):
            return char
