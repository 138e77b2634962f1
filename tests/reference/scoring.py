"""Which answer counts as right.

caption   the set of colour and kind named is the right one (sizes and order are left out)
refer     a box whose intersection over union with the object's is above 0.5
others    the exact text
"""
import re

TASKS = ("caption", "vqa", "vsr", "refer", "identify")


def is_right(task, answer, expected, box=None):
    if task == "caption":
        return caption_objects(answer) == caption_objects(expected)
    if task == "refer":
        return refer_iou(answer, box) > 0.5
    return answer == expected


def caption_objects(text):
    return sorted(re.findall(r"(?:small|large) (\w+) (circle|square|triangle|star)\b", text))


def refer_iou(answer, box):
    """Of the box in an answer; 0 if the answer is no box."""
    found = re.fullmatch(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}", answer)
    return iou(tuple(int(g) / 100 for g in found.groups()), box) if found else 0.0


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / (_area(a) + _area(b) - w * h)


def _area(r):
    return (r[2] - r[0]) * (r[3] - r[1])
