"""What PIL makes of a picture file: the pixels the model was trained on."""
import io
import zlib

from PIL import Image

# The encoder's sizes that are compared: the demo's, and smaller ones.
SIZES = (56, 84, 224)


def resized(image, size):
    """As in make_resize_goldens.py: horizontally, then vertically."""
    return image.resize((size, image.height), Image.BICUBIC).resize((size, size), Image.BICUBIC)


def by_pil(path, sizes=SIZES):
    """{"width", "height", "rgb": CRC-32 of the pixels, "resized": {size: CRC-32}}, or {"error": text}."""
    try:
        # From memory: files that PIL maps it misreads when they are TIFF files with an orientation that swaps the sides.
        with Image.open(io.BytesIO(path.read_bytes())) as file:
            image = file.convert("RGB")
    except Exception as e:  # PIL raises many kinds
        return {"error": f"{type(e).__name__}: {e}"}
    return {
        "width": image.width,
        "height": image.height,
        "rgb": zlib.crc32(image.tobytes()),
        "resized": {str(s): zlib.crc32(resized(image, s).tobytes()) for s in sizes},
    }
