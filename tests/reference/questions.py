"""Questions about a scene, with the answers that are right.

Five tasks: "caption", "vqa" (short answer), "vsr" (is a statement true or
false), "refer" (the box of a named shape) and "identify" (the shape in a box).
As in scenes.py, the draws from the random generator must stay as they are.
"""
import re
from dataclasses import dataclass
from typing import Optional

from scenes import COLORS, SHAPES

NUMBER_WORDS = ["zero", "one", "two", "three", "four"]
DIRECTIONS = ["left", "right", "above", "below"]
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
VQA_PREFIX = "[vqa] Based on the image, respond to this question with a short answer: "
VSR_PREFIX = "[vqa] Based on the image, is this statement true or false? "

# Questions of each task that are asked about one scene, after its caption.
EVALUATION = (("vqa", 4), ("vsr", 2), ("refer", 2), ("identify", 1))


@dataclass
class Question:
    task: str
    text: str
    expected: str
    box: Optional[tuple] = None        # of the object asked for, "refer" only

    @property
    def kind(self):
        """The task, or for "vqa" what is asked."""
        if self.task != "vqa":
            return self.task
        for pattern, kind in ((r"How many (shapes|objects)", "count"), ("How many", "count_kind"),
                              ("Is there", "exists"), ("small or large", "size"),
                              ("color", "color"), ("shape", "shape")):
            if re.search(pattern, self.text):
                return kind
        return "where"


def questions_about(objects, rng, per=EVALUATION):
    """A caption, then several questions of each task; vsr and some vqa need two objects or more."""
    out = [Question("caption", *ask_caption(objects))]
    for task, count in per:
        for _ in range(count):
            asked = ASK[task](rng, objects)
            if asked:
                out.append(Question(task, *asked))
    return out


# Each returns (question, answer), with the box in third place for refer; None where
# the objects allow no such question.

def ask_caption(objects):
    parts = [f"a {o['size']} {name(o)}" for o in objects]
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return "Describe this image.", f"There is {text}."


def ask_vqa(rng, objects):
    kinds = ["color", "shape", "count", "exists", "where", "size", "count_kind"]
    for _ in range(8):
        kind = rng.choices(kinds, [20, 20, 12, 20, 14, 8, 6])[0]
        asked = ASK_VQA[kind](rng, objects)
        if asked:
            prefix = VQA_PREFIX if rng.random() < 0.35 else ("[vqa] " if rng.random() < 0.4 else "")
            return prefix + asked[0], asked[1]
    return None


def ask_color(rng, objects):
    only = [o for o in objects if sum(p["shape"] == o["shape"] for p in objects) == 1]
    if not only:
        return None
    o = rng.choice(only)
    return rng.choice(["What color is the {}?", "What is the color of the {}?"]).format(o["shape"]), o["color"]


def ask_shape(rng, objects):
    only = [o for o in objects if sum(p["color"] == o["color"] for p in objects) == 1]
    if not only:
        return None
    o = rng.choice(only)
    return rng.choice(["What shape is {}?", "Which shape is {}?"]).format(o["color"]), o["shape"]


def ask_count(rng, objects):
    question = rng.choice(["How many shapes are there?", "How many objects are in the image?"])
    return question, NUMBER_WORDS[len(objects)]


def ask_count_kind(rng, objects):
    if rng.random() < 0.6:
        s = rng.choice(SHAPES if rng.random() < 0.4 else [o["shape"] for o in objects])
        return f"How many {s}s are there?", NUMBER_WORDS[sum(o["shape"] == s for o in objects)]
    c = rng.choice(COLORS if rng.random() < 0.4 else [o["color"] for o in objects])
    return f"How many {c} shapes are there?", NUMBER_WORDS[sum(o["color"] == c for o in objects)]


def ask_exists(rng, objects):
    if rng.random() < 0.5:
        what, answer = name(rng.choice(objects)), "yes"
    else:
        present = {(o["color"], o["shape"]) for o in objects}
        absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in present]
        if rng.random() < 0.6:                     # more often something that shares colour or kind
            near = [(c, s) for c, s in absent
                    if any(o["color"] == c for o in objects) or any(o["shape"] == s for o in objects)]
            absent = near or absent
        what, answer = " ".join(rng.choice(absent)), "no"
    return f"Is there {'an' if what[0] == 'o' else 'a'} {what}?", answer


def ask_size(rng, objects):
    o = rng.choice(objects)
    return f"Is the {name(o)} small or large?", o["size"]


def ask_where(rng, objects):
    """What lies in a direction of an object, where exactly one object clearly does."""
    found = []
    for p in objects:
        for d in DIRECTIONS:
            sides = [(o, _relation(o, p, d, 0.06)) for o in objects if o is not p]
            there = [o for o, side in sides if side > 0]
            if len(there) == 1 and all(side != 0 for _, side in sides):
                found.append((p, d, there[0]))
    if not found:
        return None
    p, d, o = rng.choice(found)
    phrase = {"left": "to the left of", "right": "to the right of"}.get(d, d)
    return f"What is {phrase} the {name(p)}?", name(o)


def ask_vsr(rng, objects):
    if len(objects) < 2:
        return None
    for _ in range(8):
        o, p = rng.sample(objects, 2)
        d = rng.choice(DIRECTIONS)
        side = _relation(o, p, d, 0.07)
        if side == 0:
            continue
        truth = rng.random() < 0.5
        if (side > 0) != truth:
            d = OPPOSITE[d]
        phrase = d
        if d in ("left", "right"):
            phrase = f"{d} of" if rng.random() < 0.6 else f"to the {d} of"
        prefix = VSR_PREFIX if rng.random() < 0.65 else "Is this statement true or false? "
        return f"{prefix}The {name(o)} is {phrase} the {name(p)}.", "true" if truth else "false"
    return None


def ask_refer(rng, objects):
    o = rng.choice(objects)
    what = name(o)
    if rng.random() < 0.2 and sum(p["shape"] == o["shape"] for p in objects) == 1:
        what = o["shape"]
    question = rng.choice(["[refer] give me the location of the {}", "[refer] where is the {}?",
                           "[refer] tell me the location of the {}"]).format(what)
    return question, box_text(o["box"]), o["box"]


def ask_identify(rng, objects):
    o = rng.choice(objects)
    question = rng.choice(["[identify] what is this {}", "[identify] what is this {}?", "[identify] {} this is"])
    return question.replace("{}", box_text(o["box"])), name(o)


ASK = {"vqa": ask_vqa, "vsr": ask_vsr, "refer": ask_refer, "identify": ask_identify}
ASK_VQA = {"color": ask_color, "shape": ask_shape, "count": ask_count, "exists": ask_exists,
           "where": ask_where, "size": ask_size, "count_kind": ask_count_kind}


def name(o):
    return f"{o['color']} {o['shape']}"


def box_text(box):
    return "{" + "".join(f"<{min(100, max(0, round(100 * float(c))))}>" for c in box) + "}"


def _center(o):
    x0, y0, x1, y1 = o["box"]
    return (x0 + x1) / 2, (y0 + y1) / 2


def _relation(o, p, direction, margin):
    """+1 if o clearly lies `direction` of p, -1 if it clearly does not, 0 if that is unclear."""
    (ox, oy), (px, py) = _center(o), _center(p)
    d = {"left": px - ox, "right": ox - px, "above": py - oy, "below": oy - py}[direction]
    return 1 if d > margin else -1 if d < -margin else 0
