"""Seconds against the distance from many steps: what fewer steps, other schedules, guidance in an interval, reuse of levels
and presets cost and save. Prints a table for SPEED.md.

Every setting makes the same pictures from the same noise, on one thread, in rounds that take turns. Times are CPU seconds of
the whole program for a picture, which other work on the machine hardly changes, medians over rounds. The distance is the PSNR of pictures from those of 60 + 60 steps. Samplers are without fresh noise, which
would make other pictures with another number of steps. Rescaled and projected guidance are meant to change pictures, so theirs are
compared with 60 + 60 steps of the same guidance.

Needs Pillow and NumPy, and the program: `cargo build --release`. Without --model, the demo model.

    python3 tools/samplers/curve.py --pictures 12
    python3 tools/samplers/curve.py --model DIR --size 512 --pictures 2
"""

import argparse
import datetime
import json
import math
import os
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BASE = ["--sampler", "dpmpp-2m,dpmpp-2m"]
EXPONENTIAL = BASE + ["--scheduler", "exponential,exponential"]
USUAL = ["--steps", "20,10"]
MANY = ["--steps", "60,60"]
# Name, flags, and what guidance of the reference has besides.
SETTINGS = [
    ("ddim, 10 + 5", ["--sampler", "ddim,ddim", "--steps", "10,5"], []),
    ("ddim, 20 + 10", ["--sampler", "ddim,ddim"] + USUAL, []),
    ("dpmpp-2m, 10 + 5", BASE + ["--steps", "10,5"], []),
    ("dpmpp-2m, 20 + 10", BASE + USUAL, []),
    ("dpmpp-2m, 30 + 15", BASE + ["--steps", "30,15"], []),
    ("exponential, 10 + 5", EXPONENTIAL + ["--steps", "10,5"], []),
    ("exponential, 20 + 10", EXPONENTIAL + USUAL, []),
    ("guided from 0 to 0.9", EXPONENTIAL + USUAL + ["--guidance-interval", "0,0.9"], []),
    ("guided from 0.2 to 1", EXPONENTIAL + USUAL + ["--guidance-interval", "0.2,1"], []),
    ("guided from 0.3 to 0.95", EXPONENTIAL + USUAL + ["--guidance-interval", "0.3,0.95"], []),
    ("reuse 2,1", EXPONENTIAL + USUAL + ["--reuse", "2,1"], []),
    ("reuse 1,2", EXPONENTIAL + USUAL + ["--reuse", "1,2"], []),
    ("reuse 2,2", EXPONENTIAL + USUAL + ["--reuse", "2,2"], []),
    ("reuse 3,3", EXPONENTIAL + USUAL + ["--reuse", "3,3"], []),
    ("guidance rescaled by 0.7", EXPONENTIAL + USUAL, ["--guidance-rescale", "0.7"]),
    ("guidance projected, parallel 0", EXPONENTIAL + USUAL, ["--guidance-parallel", "0"]),
    ("--preset fast", ["--preset", "fast"], []),
    ("--preset balanced", ["--preset", "balanced"], []),
    ("--preset best", ["--preset", "best"], []),
]


def make(args, folder, flags):
    """Pictures, and the CPU seconds of the program for one."""
    size = ["-W", str(args.size), "-H", str(args.size)] if args.size else []
    command = [args.program, "generate", "--prompts", folder / "prompts.txt", "-m", args.model, "-o", f"{folder}/", "--force", "--json", "-q",
               "--device", "cpu", "--dtype", args.dtype, *size, *flags]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    pictures = [numpy.asarray(Image.open(path), dtype=float) for path in result["images"]]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return pictures, seconds / len(pictures)


def psnr(pictures, reference):
    """The mean over pictures, in dB."""
    errors = [((a - b) ** 2).mean() for a, b in zip(pictures, reference)]
    return statistics.mean(math.inf if e == 0 else 10 * math.log10(255**2 / e) for e in errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=ROOT / "target" / "release" / "cascade-rt")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--size", type=int)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    prompts = (ROOT / "models/demo/prompts.txt").read_text().splitlines()[:args.pictures]
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
        references = {}
        for _, _, guidance in SETTINGS:
            if tuple(guidance) not in references:
                references[tuple(guidance)] = make(args, folder, BASE + MANY + guidance)
        found = {name: [] for name, _, _ in SETTINGS}
        for done in range(1, args.rounds + 1):
            for name, flags, guidance in SETTINGS:
                found[name].append(make(args, folder, flags + guidance))
            print(table(f"{args.model}, {len(prompts)} pictures, {done} rounds", before, found, references), flush=True)


def table(title, before, found, references):
    """What is known after a round."""
    rows = [f"{title}, {datetime.date.today()}, load {before:.1f} before and {os.getloadavg()[0]:.1f} after", "",
            "| setting | CPU seconds a picture | PSNR, dB |", "|---|---|---|",
            f"| dpmpp-2m, 60 + 60, the reference | {references[()][1]:.3f} | |"]
    for name, _, guidance in SETTINGS:
        times = [seconds for _, seconds in found[name]]
        spread = f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"
        rows.append(f"| {name} | {spread} | {psnr(found[name][0][0], references[tuple(guidance)][0]):.1f} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
