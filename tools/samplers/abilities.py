"""A sheet of what the demo model makes of a picture that is given, each with the command that made it.

Needs Pillow, and the program: `cargo build --release`.

    python3 tools/samplers/abilities.py models/demo/abilities.png
"""

import argparse
import shlex
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

LEMON = '"a lemon on a blue background"'
APPLE = '"a red apple on a blue background"'
# In order: later ones take the pictures of earlier ones. `right.png` is white in its right half and black in its left.
COMMANDS = [
    f"generate {APPLE} -o apple.png",
    f"generate {LEMON} --init apple.png -o init.png",
    f"generate {LEMON} --init apple.png --mask right.png --strength 1 -o mask.png",
    'generate "red apples on a blue background" --init apple.png --outpaint 0,128,0,0 -o outpaint.png',
    f"generate {APPLE} --hires 1.25 -o hires.png",
    "reconstruct apple.png -o again.png",
    f"generate {APPLE} --preview soon.png -o same.png",
    "generate --image apple.png -s 1 -o variation.png",
    "annotate canny apple.png -o edges.png",
]
SHOWN = ["apple", "init", "mask", "outpaint", "hires", "again", "soon", "variation", "edges"]
COLUMNS, CELL, GAP, LINE = 2, 470, 8, 13


def wrapped(command, pen, width):
    """The command in lines of at most so many pixels."""
    lines = [""]
    for word in shlex.split(command, posix=False):
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font_size=11) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def sheet(program, folder):
    mask = Image.new("L", (128, 128))
    mask.paste(255, (64, 0, 128, 128))
    mask.save(folder / "right.png")
    cells = []
    for command, name in zip(COMMANDS, SHOWN):
        subprocess.run([program, *shlex.split(command)], cwd=folder, check=True, capture_output=True)
        picture = Image.open(folder / f"{name}.png").convert("RGB")
        # A pixel of a preview as a square.
        cells.append((command, picture.resize((120, 120), Image.NEAREST) if picture.width < 64 else picture))
    rows = [cells[i:i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(picture.height for _, picture in row) + GAP for row in rows]
    out = Image.new("RGB", (COLUMNS * CELL, sum(heights) + GAP), "white")
    pen = ImageDraw.Draw(out)
    for i, row in enumerate(rows):
        for k, (command, picture) in enumerate(row):
            x, y = k * CELL + GAP, sum(heights[:i]) + GAP
            out.paste(picture, (x, y))
            for n, line in enumerate(wrapped(f"cascade-rt {command}", pen, CELL - picture.width - 3 * GAP)):
                pen.text((x + picture.width + GAP, y + n * LINE), line, fill="black", font_size=11)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--program", default=Path(__file__).resolve().parents[2] / "target" / "release" / "cascade-rt", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = sheet(args.program.resolve(), Path(folder))
    whole.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
