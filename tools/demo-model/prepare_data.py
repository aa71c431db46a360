"""Place every object on every background and store the pictures. usage: prepare_data.py PICTURES_FOLDER EMOJI_NAMES_JSON"""

import json
import os
import random
import sys

import numpy as np
import torch
from PIL import Image

from common import COLOUR_NAMES, COLOURS, held_out, path, read_objects
from nets import SIDE

# (size, right, down) as parts of the side; each is used as it is and mirrored, so an object has six pictures a colour.
PLACES = [(0.92, 0.0, 0.0), (0.74, -0.09, 0.06), (0.74, 0.09, -0.06)]


def ground(colour, mirrored, rng):
    """A background with a little light from one upper corner; its shade varies a little."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) * 2 - 1
    light = 1 - 0.07 * (y + (-x if mirrored else x)) / 2
    base = np.array(COLOURS[colour]) + np.array([rng.uniform(-4, 4) for _ in range(3)])
    return np.clip(base * light[:, :, None], 0, 255).astype(np.uint8)


def compose(sprite, colour, place, mirrored, rng):
    size, right, down = place
    side = round(SIDE * size)
    layer = sprite.resize((side, side), Image.LANCZOS)
    if mirrored:
        layer = layer.transpose(Image.FLIP_LEFT_RIGHT)
    picture = Image.fromarray(ground(colour, mirrored, rng))
    picture.paste(layer, ((SIDE - side) // 2 + round(right * SIDE), (SIDE - side) // 2 + round(down * SIDE)), layer)
    return np.asarray(picture)


def find(folder, emoji):
    code = "-".join(f"{ord(c):04x}" for c in emoji)
    for stem in (code, code.replace("-fe0f", "")):
        if os.path.exists(file := os.path.join(folder, stem + ".webp")):
            return file
    sys.exit(f"no picture for {emoji} {code}")


def main():
    folder, names = sys.argv[1:3]
    with open(names, encoding="utf-8") as f:
        emoji_of = {info["name"]: emoji for emoji, info in json.load(f).items()}
    rng, things, pictures, rows = random.Random(0), read_objects(), [], []
    for index, thing in enumerate(things):
        sprite = Image.open(find(folder, emoji_of[thing["emoji"]])).convert("RGBA")
        for number, colour in enumerate(COLOUR_NAMES):
            for kind in range(2 * len(PLACES)):
                pictures.append(compose(sprite, colour, PLACES[kind // 2], bool(kind % 2), rng))
                rows.append((index, number, int(held_out(thing["names"][0], colour)), kind))
    data = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    torch.save(dict(pictures=data, rows=torch.tensor(rows)), path("data.pt"))
    print(len(things), "objects,", len(rows), "pictures,", sum(r[2] for r in rows), "held out")


main()
