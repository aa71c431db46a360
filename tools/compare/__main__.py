"""Compares cascade-rt with diffusers, PyTorch and candle: the same work on the same machine, run alternately.

    python3 tools/compare pictures --model DIR [--compile] [--sizes 512,1024] [--prompts A --prompts B] [--seeds 0,1]
    python3 tools/compare kernels [--only attention]
    python3 tools/compare report RESULTS...
    python3 tools/compare plot RESULTS... --out DIR

The first run creates a Python environment with pinned versions in target/compare and builds the Rust programs.
"""

import argparse
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True

import kernels  # noqa: E402
import pictures  # noqa: E402
import plots  # noqa: E402
import report  # noqa: E402


def sizes(text: str) -> list[tuple[int, int]]:
    pairs = [tuple(map(int, (part.split("x") * 2)[:2])) for part in text.split(",")]
    for width, height in pairs:
        pictures.check_size(width, height)
    return pairs


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def words(*known: str):
    def parse(text: str) -> list[str]:
        parts = text.split(",")
        if not set(parts) <= set(known):
            raise argparse.ArgumentTypeError(f"expected a list of {', '.join(known)}, found {text}")
        return parts
    return parse


def self_test(_) -> int:
    tests = unittest.defaultTestLoader.loadTestsFromName("test_compare")
    return 0 if unittest.TextTestRunner().run(tests).wasSuccessful() else 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("pictures", help="whole pictures, against diffusers")
    command.add_argument("--model", type=Path, required=True, help="diffusers folder with decoder/ and vqgan/")
    command.add_argument("--prior", type=Path, help="folder with prior/, if it is not in --model or its sibling")
    command.add_argument("--compile", action="store_true", help="also measure diffusers with torch.compile")
    command.add_argument("--no-eager", action="store_true", help="do not measure diffusers without torch.compile")
    command.add_argument("--mode", default="default", help="mode of torch.compile")
    command.add_argument("--prompts", action="append", help="a prompt; may be given several times")
    command.add_argument("--seeds", type=numbers, default=[0])
    command.add_argument("--sizes", type=sizes, default=[(512, 512)], help="e.g. 512,768x512")
    command.add_argument("--dtypes", type=words("f32", "bf16"), default=["f32", "bf16"])
    command.add_argument("--steps", type=numbers, default=[20, 10], help="sampling steps of Stage C and Stage B")
    command.add_argument("--guidance", type=lambda text: [float(part) for part in text.split(",")],
                         default=[4.0, 0.0], help="guidance of Stage C and Stage B")
    command.add_argument("--timesteps", choices=["exact", "rounded"], default="exact",
                         help="in bf16: give diffusers f32 timesteps, or let it round them (results then differ)")
    command.add_argument("--device", default="cpu", help="device of both programs, cpu or cuda")
    command.add_argument("--tolerance", type=float,
                         help=f"largest relative L2 error between the results; default {pictures.TOLERANCE}")
    command.add_argument("--minutes", type=float, default=float("inf"), help="start no picture after this time")
    command.set_defaults(action=pictures.run)

    command = commands.add_parser("kernels", help="single operations, against PyTorch and candle")
    command.add_argument("--only", default="", help="only operations whose name contains this")
    command.add_argument("--seconds", type=float, default=1.0, help="time for each operation")
    command.add_argument("--without", type=words("candle", "torch"), default=[], help="programs to leave out")
    command.set_defaults(action=kernels.run)

    for command in commands.choices.values():
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--binary", help="an existing cascade-rt (or its bench), instead of building it")
        command.add_argument("--python", help="a Python that has the packages, instead of creating an environment")
        command.add_argument("--out", type=Path, help="append every measurement to this file as a line of JSON")

    command = commands.add_parser("report", help="print tables of results")
    command.add_argument("results", type=Path, nargs="+")
    command.set_defaults(action=report.run)

    command = commands.add_parser("plot", help="plot results as SVG")
    command.add_argument("results", type=Path, nargs="+",
                         help="files written by `pictures --out` or `cascade-rt bench --json`")
    command.add_argument("--out", type=Path, required=True, help="folder for the plots")
    command.set_defaults(action=plots.run)

    commands.add_parser("self-test", help="test this tool").set_defaults(action=self_test)
    options = parser.parse_args()
    sys.exit(options.action(options))


if __name__ == "__main__":
    main()
