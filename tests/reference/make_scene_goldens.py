"""Twelve fresh scenes, three of each number of objects, with the reference's answers.

Writes tests/golden/scenes/NN.png and questions.jsonl: the lines of eval_scenes.py
with "answer", the reference's, besides.  Only scenes whose PNG is small are taken.
"""
import io
from collections import Counter
from itertools import count
from pathlib import Path

from eval_scenes import reference_answers, scene_with_questions, write_lines
from scenes import make_scene

OUT = Path(__file__).resolve().parents[1] / "golden" / "scenes"
FIRST_SEED = 9_100_200_000
EACH = 3
LARGEST_PNG = 40_000


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def small_scenes():
    """Seeds of the first scenes that are small, EACH for one to four objects."""
    taken = Counter()
    for seed in count(FIRST_SEED):
        image, objects = make_scene(seed)
        if taken[len(objects)] < EACH and len(png(image)) <= LARGEST_PNG:
            taken[len(objects)] += 1
            yield seed
        if taken.total() == 4 * EACH:
            return


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    images, records = {}, []
    for i, seed in enumerate(small_scenes()):
        name = f"{i:02}.png"
        images[name], asked = scene_with_questions(seed, name)
        (OUT / name).write_bytes(png(images[name]))
        records += asked
    answers = reference_answers(images, records)
    write_lines(OUT / "questions.jsonl", [{**r, "answer": a} for r, a in zip(records, answers)])


if __name__ == "__main__":
    main()
