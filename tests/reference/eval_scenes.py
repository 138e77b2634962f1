"""Fresh scenes with questions, to measure the library's accuracy on.

    python eval_scenes.py OUT_DIR [--scenes 200] [--first-seed N] [--reference]

Writes OUT_DIR/NNNNN.png and OUT_DIR/questions.jsonl, a line a question:
    {"image", "task", "kind", "question", "expected", "box"}
Each scene gets 1 caption, 4 vqa, 2 vsr, 2 refer and 1 identify; a scene of one
object has no vsr.  "box" (fractions of width and height) is the object's that a
refer asks for, otherwise null.  With --reference also OUT_DIR/reference.jsonl,
a line {"answer"} for each question, by the PyTorch reference (needs torch).
"""
import argparse
import json
import random
from pathlib import Path

from questions import questions_about
from scenes import make_scene

FIRST_SEED = 9_100_000_000


def scene_with_questions(seed, image_name):
    """-> (image, its questions as records)."""
    image, objects = make_scene(seed)
    # a stream of its own: Random(seed) has already drawn the scene
    asked = questions_about(objects, random.Random(f"questions about {seed}"))
    return image, [{"image": image_name, "task": q.task, "kind": q.kind, "question": q.text,
                    "expected": q.expected, "box": q.box} for q in asked]


def reference_answers(images, records):
    """The reference's answer to each record; images: {name: PIL image}."""
    import answer
    import checkpoint
    model, tokenizer = checkpoint.load()
    rows = {name: i for i, name in enumerate(images)}
    embeddings = answer.encode(model, images.values())
    return answer.generate_batch(model, tokenizer, embeddings[[rows[r["image"]] for r in records]],
                                 [r["question"] for r in records])


def write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--reference", action="store_true")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    images, records = {}, []
    for i in range(args.scenes):
        name = f"{i:05}.png"
        images[name], asked = scene_with_questions(args.first_seed + i, name)
        images[name].save(args.out / name)
        records += asked
    write_lines(args.out / "questions.jsonl", records)
    if args.reference:
        answers = reference_answers(images, records)
        write_lines(args.out / "reference.jsonl", [{"answer": a} for a in answers])


if __name__ == "__main__":
    main()
