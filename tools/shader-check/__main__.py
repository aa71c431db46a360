"""Shaders by the tools of others: compilers, drivers and validators beside the ones that this project runs on.

    python3 tools/shader-check                 every check in full; about half an hour on two cores
    python3 tools/shader-check --short         what .ci/run does; a few minutes
    python3 tools/shader-check radv spirv      only these
    python3 tools/shader-check radv --update   writes shaders/COMPILED.md anew
    python3 tools/shader-check self-test       this tool's own tests

    radv         AMD's compiler: registers, waves, spills, FMA share and waits of every pipeline, against shaders/COMPILED.md
    spirv        Khronos' validator on the SPIR-V of every pipeline
    tint         Chromium's compiler: every module, and every pipeline with every kind of operand
    swiftshader  Google's software driver: kernels against their definitions, and a picture
    validation   Khronos' validation layers: calls, hazards between dispatches, races within them

Everything that they need is unpacked below target/shader-check. What cannot be had is said and counted as left out, which is no
failure unless `--require` says so.
"""

import argparse
import importlib
import sys
import time
import unittest

sys.dont_write_bytecode = True

import packages  # noqa: E402

CHECKS = {"radv": "radv", "spirv": "spirv_val", "tint": "tint", "swiftshader": "swiftshader", "validation": "validation"}


def main():
    parser = argparse.ArgumentParser(prog="shader-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--short", action="store_true", help="the cases that find most in a few minutes")
    parser.add_argument("--update", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--require", action="store_true", help="what cannot be had is a failure")
    options = parser.parse_args()
    if options.checks == ["self-test"]:
        tests = unittest.defaultTestLoader.discover(str(packages.ROOT / "tools/shader-check"), pattern="test_*.py")
        sys.exit(not unittest.TextTestRunner(verbosity=0).run(tests).wasSuccessful())
    unknown = [name for name in options.checks if name not in CHECKS]
    if unknown:
        parser.error(f"there is no check {unknown[0]}; there are {', '.join(CHECKS)}")
    packages.WORK.mkdir(parents=True, exist_ok=True)
    failed = left_out = 0
    for name in options.checks or CHECKS:
        began = time.monotonic()
        try:
            faults, said = importlib.import_module(CHECKS[name]).check(options)
        except packages.LeftOut as why:
            faults, said = [], f"LEFT OUT: {why}"
        failed += bool(faults)
        left_out += "LEFT OUT" in said
        for fault in faults:
            print(f"{name}: {fault}")
        print(f"{name:12} {len(faults)} faults, {time.monotonic() - began:.0f} s: {said}", flush=True)
    if left_out:
        print(f"{left_out} checks were LEFT OUT, in whole or in part; see above")
    sys.exit(bool(failed or options.require and left_out))


main()
