"""Accuracy per task of one or more sets of answers, beside the reference's.

    python score_scenes.py DIR [LABEL[:LIMIT]=ANSWERS.jsonl ...]

DIR is what eval_scenes.py --reference wrote.  An answers file has a line
{"answer": "..."} for each line of DIR/questions.jsonl, in that order.  For each
label the table shows the accuracy in percent, the difference to the reference in
points, and how many answers are the reference's to the letter; then the mean
intersection over union of the refer boxes.  Exit status 1 if a task's accuracy
is more than LIMIT points away from the reference's.
"""
import argparse
import json
import sys
from pathlib import Path

from scoring import TASKS, is_right, refer_iou


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_answers(path, count):
    lines = read_lines(path)
    if len(lines) != count:
        sys.exit(f"{path}: {len(lines)} answers for {count} questions")
    if not all("answer" in line for line in lines):
        sys.exit(f'{path}: a line without "answer"')
    return [line["answer"] for line in lines]


def percent(flags):
    return 100 * sum(flags) / len(flags)


def mean_iou(questions, answers):
    values = [refer_iou(a, q["box"]) for q, a in zip(questions, answers) if q["task"] == "refer"]
    return sum(values) / len(values)


def labelled(text):
    """LABEL[:LIMIT]=PATH -> (label, limit or None, path)."""
    label, equals, path = text.partition("=")
    label, colon, limit = label.partition(":")
    if not (label and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL[:LIMIT]=FILE")
    return label, float(limit) if colon else None, Path(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("answers", nargs="*", type=labelled, metavar="LABEL[:LIMIT]=FILE")
    args = parser.parse_args()

    questions = read_lines(args.dir / "questions.jsonl")
    reference = read_answers(args.dir / "reference.jsonl", len(questions))
    columns = [(label, limit, read_answers(path, len(questions))) for label, limit, path in args.answers]

    def right(answers, rows):
        return percent([is_right(questions[i]["task"], answers[i], questions[i]["expected"], questions[i]["box"])
                        for i in rows])

    print(f"{'':10}{'n':>6}{'reference':>11}" + "".join(f"  |{label:>14} {'diff':>6} {'same':>6}" for label, _, _ in columns))
    broken = []
    for task in (*TASKS, "all"):
        rows = [i for i, q in enumerate(questions) if task in ("all", q["task"])]
        if not rows:
            continue
        base = right(reference, rows)
        line = f"{task:10}{len(rows):>6}{base:>10.1f}%"
        for label, limit, answers in columns:
            accuracy = right(answers, rows)
            same = percent([answers[i] == reference[i] for i in rows])
            line += f"  |{accuracy:>13.1f}% {accuracy - base:>+6.1f} {same:>5.1f}%"
            # rounded: 66 - 65 points must not count as more than 1
            if limit is not None and task != "all" and round(abs(accuracy - base), 6) > limit:
                broken.append(f"{label}: {task} is {accuracy - base:+.1f} points off the reference, limit {limit:g}")
        print(line)
    if any(q["task"] == "refer" for q in questions):
        print(f"{'mean IoU':10}{'':>6}{mean_iou(questions, reference):>11.3f}"
              + "".join(f"  |{mean_iou(questions, answers):>14.3f}{'':14}" for _, _, answers in columns))
    for message in broken:
        print(message)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
