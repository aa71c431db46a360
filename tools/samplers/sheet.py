"""A sheet of what the demo model makes with every sampler at 4, 8 and 20 steps, from the same noise.

Stage B has half as many steps and the same sampler. Needs Pillow, and the program: `cargo build --release`.

    python3 tools/samplers/sheet.py models/demo/samplers.png
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

SAMPLERS = ["ddpm", "gdf", "ddim", "euler", "euler-ancestral", "dpmpp-2m", "dpmpp-2m-sde", "lcm"]
STEPS = [4, 8, 20]
PROMPTS = ["french fries on a green background", "a red apple on a blue background"]
SIDE, LABEL, GAP, LINE = 128, 96, 4, 14


def picture(program, folder, sampler, steps, prompt):
    path = Path(folder) / "one.png"
    flags = ["--sampler", f"{sampler},{sampler}", "--steps", f"{steps},{steps // 2}", "--device", "cpu"]
    subprocess.run([program, "generate", prompt, "-m", "demo", "-s", "3", "-o", path, "--force", "-q", *flags], check=True,
                   stdout=subprocess.DEVNULL)
    return Image.open(path).convert("RGB")


def sheet(program, folder):
    columns = [(prompt, steps) for prompt in PROMPTS for steps in STEPS]
    size = LABEL + len(columns) * (SIDE + GAP), 2 * LINE + len(SAMPLERS) * (SIDE + GAP)
    out = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(out)
    for i, (prompt, steps) in enumerate(columns):
        x = LABEL + i * (SIDE + GAP)
        if steps == STEPS[0]:
            pen.text((x, 1), prompt, fill="black", font_size=11)
        pen.text((x, LINE + 1), f"{steps} steps", fill="black", font_size=11)
    for row, sampler in enumerate(SAMPLERS):
        y = 2 * LINE + row * (SIDE + GAP)
        pen.text((4, y + SIDE // 2), sampler, fill="black", font_size=11)
        for i, (prompt, steps) in enumerate(columns):
            out.paste(picture(program, folder, sampler, steps, prompt), (LABEL + i * (SIDE + GAP), y))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--program", default=Path(__file__).resolve().parents[2] / "target" / "release" / "cascade-rt")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = sheet(args.program, folder)
    # A palette, because noise of few steps makes a large file without one.
    whole.quantize(128, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
