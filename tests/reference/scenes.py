"""Synthetic scenes of coloured shapes: the pictures the demo model was trained on.

A *scene* is a picture with one to four shapes.  Every shape has a colour, a
kind and a size; no two shapes of a scene share both colour and kind, so
"the red circle" always means one thing.  Positions are fractions of the
picture's width and height, so they do not change when it is resized.

An object is a plain dict:
    {"color": str, "shape": str, "size": "small"|"large",
     "box": (x0, y0, x1, y1)}            # fractions, 0..1
and a scene's objects are ordered left to right by their centres.

A scene follows from its seed alone.  The draws from the random generator must
therefore stay as they are, in number and order: the committed goldens and the
demo model's training pictures depend on them.  Seeds below 1_000_000_000 were
training, 9_000_000_000 and up belongs to the demo model's own evaluation, and
9_100_000_000 and up is used here.
"""
import colorsys
import math
import random

import numpy as np
from PIL import Image, ImageDraw

COLORS = ["red", "green", "blue", "yellow", "purple", "orange"]
SHAPES = ["circle", "square", "triangle", "star"]
SIZES = ["small", "large"]

# Ranges of hue (degrees), saturation and value that pass for a colour.
HSV_RANGES = {
    "red": ((-9, 7), (0.75, 1.0), (0.65, 1.0)),
    "green": ((95, 148), (0.60, 1.0), (0.45, 0.95)),
    "blue": ((208, 243), (0.65, 1.0), (0.55, 1.0)),
    "yellow": ((50, 61), (0.70, 1.0), (0.85, 1.0)),
    "purple": ((270, 302), (0.50, 1.0), (0.45, 0.90)),
    "orange": ((24, 39), (0.80, 1.0), (0.88, 1.0)),
}
# The colour somebody would pick by name.
NAMED_RGB = {
    "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255),
    "yellow": (255, 255, 0), "purple": (128, 0, 128), "orange": (255, 165, 0),
}
NOISE_SIDE = 640
NOISE = np.random.default_rng(7).standard_normal((NOISE_SIDE, NOISE_SIDE, 3)).astype(np.float32)


def make_scene(seed, count=None):
    """-> (PIL image at its own size, list of objects); `count` fixes the number of objects."""
    rng = random.Random(seed)
    width, height, placed = sample_scene(rng, count)
    image = draw_scene(rng, width, height, placed)
    return image, [{k: o[k] for k in ("color", "shape", "size", "box")} for o in placed]


# ------------------------------------------------------------------ placing

def sample_scene(rng, count=None):
    """-> (width, height, objects that also hold their geometry in pixels)."""
    base = math.exp(rng.uniform(math.log(96), math.log(400)))
    aspect = 1.0 if rng.random() < 0.5 else math.exp(rng.uniform(-0.40, 0.40))
    w = int(min(400, max(96, base * math.sqrt(aspect))))
    h = int(min(400, max(96, base / math.sqrt(aspect))))
    if count is None:
        count = rng.choices([1, 2, 3, 4], [0.14, 0.26, 0.30, 0.30])[0]
    pairs = [(c, s) for c in COLORS for s in SHAPES]
    while True:
        placed = []
        for color, shape in rng.sample(pairs, count):
            if not _place(rng, w, h, color, shape, placed):
                break
        if len(placed) == count:
            placed.sort(key=lambda o: o["box"][0] + o["box"][2])
            return w, h, placed


def _place(rng, w, h, color, shape, placed):
    """Append one object that keeps clear of those `placed`; False if 40 tries find no room."""
    unit = math.sqrt(w * h)
    size = rng.choice(SIZES)
    d = unit * (rng.uniform(0.15, 0.21) if size == "small" else rng.uniform(0.31, 0.40))
    points = _outline(shape, d, rng.uniform(-12, 12))
    if points is None:
        left = top = -d / 2
        right = bottom = d / 2
    else:
        left, right = min(p[0] for p in points), max(p[0] for p in points)
        top, bottom = min(p[1] for p in points), max(p[1] for p in points)
    for _ in range(40):
        cx, cy = rng.uniform(2 - left, w - 2 - right), rng.uniform(2 - top, h - 2 - bottom)
        middle = (cx + (left + right) / 2) / w
        if all(_clear(cx, cy, d, middle, q) for q in placed):
            placed.append({
                "color": color, "shape": shape, "size": size, "d": d, "cx": cx, "cy": cy, "points": points,
                "box": ((cx + left) / w, (cy + top) / h, (cx + right) / w, (cy + bottom) / h)})
            return True
    return False


def _clear(cx, cy, d, middle, other):
    """Far enough from another object, and not right above or below it."""
    far = 0.56 * (d + other["d"])
    apart = (cx - other["cx"]) ** 2 + (cy - other["cy"]) ** 2 >= far * far
    return apart and abs(middle - (other["box"][0] + other["box"][2]) / 2) >= 0.035


def _outline(shape, d, angle):
    """Corners of a shape of nominal extent d around (0, 0); None for a circle."""
    if shape == "circle":
        return None
    if shape == "square":
        polar = [(0.9 * d / math.sqrt(2), 45 + 90 * i) for i in range(4)]
    elif shape == "triangle":
        polar = [(0.58 * d, -90 + 120 * i) for i in range(3)]
    else:  # star
        polar = [(0.56 * d if i % 2 == 0 else 0.235 * d, -90 + 36 * i) for i in range(10)]
    turned = [(r, math.radians(a + angle)) for r, a in polar]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in turned]


# ------------------------------------------------------------------ drawing

def draw_scene(rng, w, h, placed):
    image = _paint_background(rng, w, h)
    pure = rng.random() < 0.2
    oversample = 1 if rng.random() < 0.1 else 4    # sometimes without antialiasing
    order = list(placed)
    rng.shuffle(order)
    for o in order:
        rgb = _pick_color(rng, o["color"], pure)
        mask, corner = _mask(o, w, h, oversample)
        image.paste(rgb, corner, mask)
    if rng.random() < 0.15:                        # light sensor-like noise over everything
        a = np.asarray(image).astype(np.float32) + _noise(rng, h, w) * rng.uniform(1, 6)
        image = Image.fromarray(np.clip(a, 0, 255).astype(np.uint8))
    return image


def _mask(o, w, h, oversample):
    """-> (coverage of the object as an "L" image, its top-left corner in the picture)."""
    left, top = o["box"][0] * w, o["box"][1] * h
    right, bottom = o["box"][2] * w, o["box"][3] * h
    x0, y0 = int(math.floor(left)), int(math.floor(top))
    mw, mh = int(math.ceil(right)) - x0 + 1, int(math.ceil(bottom)) - y0 + 1
    mask = Image.new("L", (mw * oversample, mh * oversample), 0)
    draw = ImageDraw.Draw(mask)
    if o["points"] is None:
        draw.ellipse([(left - x0) * oversample, (top - y0) * oversample,
                      (right - x0) * oversample - 1, (bottom - y0) * oversample - 1], fill=255)
    else:
        draw.polygon([((o["cx"] + x - x0) * oversample, (o["cy"] + y - y0) * oversample)
                      for x, y in o["points"]], fill=255)
    return (mask.reduce(oversample) if oversample > 1 else mask), (x0, y0)


def _paint_background(rng, w, h):
    k = rng.random()
    a = np.array(_pick_background(rng), np.float32)
    if k < 0.40:                                   # plain
        return Image.new("RGB", (w, h), tuple(int(c) for c in a))
    if k < 0.70:                                   # gradient between near tints
        b = np.clip(a + np.array([rng.uniform(-28, 28) for _ in range(3)], np.float32), 0, 255)
        t = rng.uniform(0, 2 * math.pi)
        xs = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :] * math.cos(t)
        ys = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None] * math.sin(t)
        f = np.clip(xs + ys + 0.5, 0, 1)[..., None]
        pixels = a * (1 - f) + b * f
    else:                                          # soft noise
        pixels = a + _noise(rng, h, w) * rng.uniform(2, 10)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _pick_background(rng):
    """A light, dark or middle tint with little saturation."""
    k = rng.random()
    if k < 0.12:
        return (255, 255, 255)
    if k < 0.18:
        return (0, 0, 0)
    if k < 0.62:
        v, s = rng.uniform(0.78, 1.0), rng.uniform(0.0, 0.16)
    elif k < 0.90:
        v, s = rng.uniform(0.04, 0.28), rng.uniform(0.0, 0.35)
    else:
        v, s = rng.uniform(0.40, 0.65), rng.uniform(0.0, 0.08)
    return _rgb(rng.uniform(0, 360), s, v)


def _pick_color(rng, name, pure):
    if pure:
        return NAMED_RGB[name]
    h, s, v = HSV_RANGES[name]
    return _rgb(rng.uniform(*h), rng.uniform(*s), rng.uniform(*v))


def _rgb(h, s, v):
    return tuple(int(c * 255 + 0.5) for c in colorsys.hsv_to_rgb((h % 360) / 360.0, s, v))


def _noise(rng, h, w):
    """A random crop of one fixed tile of unit noise."""
    y, x = rng.randrange(NOISE_SIDE - h + 1), rng.randrange(NOISE_SIDE - w + 1)
    return NOISE[y:y + h, x:x + w]
