"""A contact sheet of pictures that cascade-rt made, each with its prompt. usage: sheet.py OUT.jpg PICTURE.png …"""

import json
import sys

from PIL import Image, ImageDraw


def contact(pictures, texts, columns=8):
    """Pictures of one size with their prompts below, in two lines."""
    side, line = pictures[0].width, 26
    out = Image.new("RGB", (columns * (side + 4) + 4, -(-len(texts) // columns) * (side + line + 4) + 4), "white")
    pen = ImageDraw.Draw(out)
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        x, y = 4 + i % columns * (side + 4), 4 + i // columns * (side + line + 4)
        out.paste(picture, (x, y))
        words = text.replace(" on a", "\non a").replace(" background", "")
        pen.text((x, y + side), words, fill="black", font_size=10)
    return out


def prompt(picture):
    """Its prompt, from the request that the picture carries."""
    record = json.loads(picture.text["cascade"])
    return record["request"]["prompts"][record["image"] // record["request"]["count"]]


if __name__ == "__main__":
    pictures = [Image.open(name) for name in sys.argv[2:]]
    contact(pictures, [prompt(picture) for picture in pictures]).save(sys.argv[1], quality=90)
