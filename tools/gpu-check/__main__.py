"""Checks cascade-rt on a machine with a GPU that has neither Rust nor a network.

    python3 tools/gpu-check build                  where Rust is: packs programs and files into target/gpu-check
    python3 target/gpu-check run [OUT]             where the GPU is: every step, results.json and report.md in OUT
    python3 tools/gpu-check report A.json B.json   one report of several results
    python3 tools/gpu-check self-test              tests of this tool

Python 3 alone is needed, 3.9 or later. The steps that run diffusers also need PyTorch; what else they need travels
as wheels: `build` downloads diffusers into target/gpu-check/wheels, more may be put beside it, and `run` installs
all of them into a temporary folder. README.md says more.
"""

import argparse
import json
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import pack  # noqa: E402
import report  # noqa: E402
import steps  # noqa: E402


def build(options) -> None:
    pack.build(options)


def run(options) -> None:
    package = HERE if (HERE / "package.json").exists() else pack.TARGET
    if not (package / "package.json").exists():
        sys.exit(f"{package} holds no package: run `python3 tools/gpu-check build` first")
    sys.exit(steps.run(package, options))


def write_report(options) -> None:
    merged = {}
    for file in options.results:
        for name, result in json.loads(file.read_text()).items():
            # What was measured once is not lost to a later run in which it could not be.
            if name not in merged or result["status"] != "not measured":
                merged[name] = result
    text = report.markdown(merged)
    if options.output:
        options.output.write_text(text)
        options.output.with_suffix(".json").write_text(json.dumps(merged, indent=1))
    else:
        print(text)


def self_test(_options) -> None:
    suite = unittest.defaultTestLoader.discover(str(HERE), pattern="test_*.py")
    sys.exit(0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("build", help="pack what travels")
    command.add_argument("--beside-checkout", action="store_true",
                         help="leave out tests/fixtures and models/demo: the checkout travels too")
    command.add_argument("--limit-mib", type=float, default=64, help="size above which to fail (default 64)")
    command.add_argument("--no-downloads", action="store_true", help="neither diffusers nor Vulkan's loader")
    command.set_defaults(action=build)

    command = commands.add_parser("run", help="run steps and write a report", epilog=steps.listing(),
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("out", nargs="?", type=Path, default=Path("gpu-check-report"), metavar="OUT")
    command.add_argument("--steps", default="all", help="names of steps or groups, with commas between (default all)")
    command.add_argument("--again", action="store_true", help="run steps anew that OUT has results of")
    command.add_argument("--minutes", type=float, default=60, help="after which no step goes on (default 60)")
    command.add_argument("--work", type=Path, help="folder for unpacked programs and models, kept; else a fixed "
                         "one in the folder for temporary files")
    command.add_argument("--quick", action="store_true", help="tiny models and few runs, to try this tool itself")
    command.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    command.set_defaults(action=run)

    command = commands.add_parser("report", help="one report of several results.json")
    command.add_argument("results", nargs="+", type=Path)
    command.add_argument("-o", "--output", type=Path, help="Markdown file; its JSON is written beside it")
    command.set_defaults(action=write_report)

    commands.add_parser("self-test", help="tests of this tool").set_defaults(action=self_test)
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
