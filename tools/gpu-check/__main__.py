"""Checks cascade-rt on a machine with a GPU that has neither Rust nor network access.

    python3 tools/gpu-check build                  on a machine with Rust: packs programs and files into target/gpu-check
    python3 target/gpu-check run [OUT]             on the machine with the GPU: runs all steps, writes results.json and
                                                   report.md to OUT
    python3 tools/gpu-check report A.json B.json   merges several results into one report
    python3 tools/gpu-check self-test              tests this tool

Requires only Python 3.9 or later. The steps that run diffusers also need PyTorch. Their other dependencies are in the
package as wheels: `build` downloads diffusers into target/gpu-check/wheels, others can be added to that folder, and
`run` installs all of them into a temporary folder. See README.md.
"""

import argparse
import json
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "shader-check")]  # in the package, all files lie in one folder
sys.dont_write_bytecode = True

import pack  # noqa: E402
import report  # noqa: E402
import steps  # noqa: E402


def build(options) -> None:
    pack.build(options)


def run(options) -> None:
    package = HERE if (HERE / "package.json").exists() else pack.TARGET
    if not (package / "package.json").exists():
        sys.exit(f"{package} contains no package; run `python3 tools/gpu-check build` first")
    sys.exit(steps.run(package, options))


def write_report(options) -> None:
    merged = steps.merged(options.results)
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

    command = commands.add_parser("build", help="build the package")
    command.add_argument("--beside-checkout", action="store_true",
                         help="omit tests/fixtures and models/demo, for a machine that also gets the checkout")
    command.add_argument("--limit-mib", type=float, default=64, help="fail if the package is larger (default 64)")
    command.add_argument("--no-downloads", action="store_true", help="omit diffusers and the Vulkan loader")
    command.set_defaults(action=build)

    command = commands.add_parser("run", help="run steps and write a report", epilog=steps.listing(),
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("out", nargs="?", type=Path, default=Path("gpu-check-report"), metavar="OUT")
    command.add_argument("--steps", default="all", help="comma-separated names of steps or groups (default all)")
    command.add_argument("--after", action="append", type=Path, default=[], metavar="RESULTS.json",
                         help="go on where the run that wrote this stopped (a results.json in OUT is gone on with anyway)")
    command.add_argument("--again", action="store_true", help="repeat steps that have results")
    command.add_argument("--minutes", type=float, default=9, help="time limit for the whole run, unpacking included (default 9)")
    command.add_argument("--work", type=Path, help="folder for unpacked programs and models, which is kept (default: "
                         "cascade-gpu-check in the system's folder for temporary files)")
    command.add_argument("--quick", action="store_true", help="use tiny models and few runs, to test this tool itself")
    command.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    command.set_defaults(action=run)

    command = commands.add_parser("report", help="merge several results.json into one report")
    command.add_argument("results", nargs="+", type=Path)
    command.add_argument("-o", "--output", type=Path,
                         help="Markdown file; the merged JSON is written to the same folder")
    command.set_defaults(action=write_report)

    commands.add_parser("self-test", help="test this tool").set_defaults(action=self_test)
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
