"""The two pictures and six questions of `make demo`, and what the reference answers.

Writes assets/demo/shapes-{1,2}.png, assets/demo/questions.txt (a line a question:
picture, tab, question) and tests/golden/demo_pictures.json.  Stops if the
reference gets one of them wrong.
"""
import json
from pathlib import Path

import answer
import checkpoint
from questions import VSR_PREFIX, Question, ask_caption, box_text, name
from scenes import make_scene
from scoring import is_right

ROOT = Path(__file__).resolve().parents[2]
SEEDS = {"shapes-1.png": 9_100_300_335, "shapes-2.png": 9_100_300_019}


def main():
    scenes = {picture: make_scene(seed) for picture, seed in SEEDS.items()}
    first, second = ({name(o): o["box"] for o in objects} for _, objects in scenes.values())
    square, circle = first["yellow square"], second["purple circle"]
    asked = [
        ("shapes-1.png", Question("caption", *ask_caption(scenes["shapes-1.png"][1]))),
        ("shapes-1.png", Question("vqa", "How many shapes are there?", "four")),
        ("shapes-1.png", Question("refer", "[refer] give me the location of the yellow square",
                                  box_text(square), square)),
        ("shapes-2.png", Question("vqa", "What color is the star?", "red")),
        ("shapes-2.png", Question("vsr", VSR_PREFIX + "The purple circle is left of the red star.", "true")),
        ("shapes-2.png", Question("identify", f"[identify] what is this {box_text(circle)}", "purple circle")),
    ]
    model, tokenizer = checkpoint.load()
    embeddings = {p: answer.encode(model, [image])[0] for p, (image, _) in scenes.items()}
    golden = []
    for picture, q in asked:
        got, _ = answer.generate(model, tokenizer, embeddings[picture], q.text)
        if not is_right(q.task, got, q.expected, q.box):
            raise SystemExit(f"{picture}: {q.text}: expected {q.expected}, got {got}")
        golden.append({"image": picture, "task": q.task, "kind": q.kind, "question": q.text,
                       "expected": q.expected, "box": q.box, "answer": got})

    demo = ROOT / "assets" / "demo"
    for picture, (image, _) in scenes.items():
        image.save(demo / picture, optimize=True)
    (demo / "questions.txt").write_text("".join(f"{g['image']}\t{g['question']}\n" for g in golden))
    (ROOT / "tests" / "golden" / "demo_pictures.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
