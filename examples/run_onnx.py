"""Run an exported model with numpy, Pillow and onnxruntime alone: neither torch nor stacked_ram.

python main.py export results/mine
python examples/run_onnx.py results/mine/export/model.onnx photo.jpg another.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepared(path: str, card: dict) -> np.ndarray:
    """Read a photo as the card says: pixels 1 x C x H x W, uint8."""
    image = ImageOps.exif_transpose(Image.open(path))
    image = image.convert("RGB" if card["input"]["shape"][1] == 3 else "L")
    size, short_side = card["prepare"]["photo_size"], card["prepare"]["short_side"]
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    elif short_side is not None and min(image.size) > short_side:
        scale = short_side / min(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


model, *photos = sys.argv[1:]
card = json.loads(Path(model).with_name("model.json").read_text())
session = onnxruntime.InferenceSession(model)
for photo in photos:
    beliefs_1TN, locations_1TS2, *glimpses = session.run(None, {"pixels": prepared(photo, card)})
    probabilities = beliefs_1TN[0, -1]
    best = int(probabilities.argmax())
    steps = int(glimpses[0][0]) if glimpses else len(locations_1TS2[0])
    looked_at = " ".join(f"({x:+.2f}, {y:+.2f})" for x, y in locations_1TS2[0, :steps, -1])
    print(f"{photo}: {card['classes'][best]} {probabilities[best]:.1%}, looked at {looked_at}")
