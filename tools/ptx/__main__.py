"""Makes kernels/ptx.lzma, the cubins in kernels/sm_*.lzma and ptx.lock from kernels/*.cu, with pinned compilers from PyPI; no GPU, no
CUDA installation.

    python3 tools/ptx            make what is out of date, and the table of what the kernels take
    python3 tools/ptx --all      make everything
    python3 tools/ptx --check    make everything, change nothing, and compare it with what is there

What a compiler or an assembler said of the same sources before is kept in target/ptx; `--fresh` asks again.

nvcc states the PTX version of its own release, which asks for a driver as new. The kernels need none of it: the stated version
is lowered as far as the instructions allow, and an assembler of that age proves it.

A kernel that spills registers, whose MMAs an assembler makes wait for each other, whose PTX or SASS touches registers of MMAs
in flight (in_flight.py), or of which fewer blocks run at once than its KERNEL(name, blocks) asks for, is an error.
kernels/REGISTERS.md shows registers and occupancy, so that a change of them is seen.
"""

import argparse
import concurrent.futures
import inspect
import os
import pathlib
import re
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True

import cubins  # noqa: E402
import hopper  # noqa: E402
import lock  # noqa: E402
import occupancy  # noqa: E402
import toolchain  # noqa: E402
from toolchain import ASSEMBLERS, KERNELS, NVCC, VERSION, cached, run  # noqa: E402

TABLE = KERNELS / "REGISTERS.md"
# By the end of a kernel's name, what is made of it: what its PTX ends in; the architecture that it is compiled for; the
# PTX version; where it is assembled. From compute capability 9.0 on, a launch may begin before the one before it ends.
TARGETS = {
    "": [("", "80", "7.0", ["80"]), (".sm90", "90", "7.8", ["90", "120"])],
    ".sm90a": [("", "90a", "8.0", ["90a"])],
}


def targets(file):
    return next(v for end, v in sorted(TARGETS.items(), reverse=True) if file.stem.endswith(end))


def compile(file, target, folder):
    """The PTX of a kernel."""
    _, arch, version, _ = target
    out = folder / "out.ptx"
    run(NVCC, "-ptx", f"-arch=compute_{arch}", "-std=c++17", "-O3", "-o", out, file.name, cwd=KERNELS)
    text = out.read_text()
    text = text[text.index(".version") :]
    text = re.sub(r"^\.version .*$", f".version {version}", text, flags=re.M)
    # A hint about loads of which parts go unused, which older assemblers do not know.
    return re.sub(r'^\s*\.pragma "used_bytes_mask .*\n', "", text, flags=re.M)


def assemble(file, target, text, folder):
    """Lines of the table for a PTX, and what is wrong with it."""
    machines = target[3]
    ptx = folder / "in.ptx"
    ptx.write_text(text)
    cubins = {release: folder / f"{release}.cubin" for release in ASSEMBLERS}
    lines, wrong = [], []

    def heard(release, machine):
        said = run(ASSEMBLERS[release], "-v", f"-arch=sm_{machine}", "-o", cubins[release], ptx)
        faults = [*occupancy.slower(said), *occupancy.spilled(machine, said)]
        wrong.extend(f"{file.name}: CUDA {release}: {fault}" for fault in faults)
        return said

    heard("12.4", machines[0])
    for machine in machines:
        more, faults = occupancy.table(file, text, machine, heard("13.0", machine))
        lines += more
        wrong += faults
    if "wgmma" in text:
        heard("13.3", machines[0])
        wrong += hopper.faults(file.name, text, cubins)
    return lines, wrong


def main():
    parser = argparse.ArgumentParser(prog="ptx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ["--all", "--check", "--fresh"]:
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    toolchain.install()
    known = lock.read()
    todo = [(file, target) for file in sorted(KERNELS.glob("*.cu")) for target in targets(file)]

    def make(one):
        """What is made of a kernel for a target, as lock.read gives it, lines of the table, and faults."""
        file, target = one
        name = f"{file.stem}{target[0]}.ptx"
        sources = lock.fingerprint(file)
        of, data = known.get(name, ("", b""))
        text = data.decode()
        remake = options.all or options.check
        with tempfile.TemporaryDirectory(dir=toolchain.WORK) as folder:
            folder = pathlib.Path(folder)
            if remake or of != sources:
                key = [inspect.getsource(compile), toolchain.COMPILER, name, target, sources]
                text = cached(key, lambda: compile(file, target, folder), options.fresh)
            shared = occupancy.number(file, "SHARED")
            lines, faults = cached([VERSION, name, target, text, shared], lambda: assemble(file, target, text, folder), options.fresh)
            more, wrong = cubins.of(file.stem, target[1], text, known, remake, options.fresh, folder)
        return {name: (sources, text.encode()), **more}, lines, faults + wrong

    def self_test():
        tests = unittest.defaultTestLoader.discover(str(toolchain.HERE), pattern="test_*.py")
        if not unittest.TextTestRunner().run(tests).wasSuccessful():
            return ["tools/ptx fails its own tests"]
        with tempfile.TemporaryDirectory(dir=toolchain.WORK) as folder:
            return hopper.self_test(pathlib.Path(folder))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(make, todo))
    files = {name: made_of for some, _, _ in made for name, made_of in some.items()}
    table = occupancy.HEADER + "".join(f"{line}\n" for _, lines, _ in made for line in lines)
    wrong = [fault for _, _, faults in made for fault in faults]
    if options.check:
        planted = (toolchain.HERE / "planted.cu").read_text()
        wrong += cached([VERSION, planted, lock.fingerprint(KERNELS / "wgmma.cuh")], self_test, options.fresh)
        stale = [name for name in sorted({*files, *known}) if files.get(name) != known.get(name)]
        wrong += [f"kernels/{lock.place(name)[0].name}: {name} is not what its sources give; run `python3 tools/ptx`" for name in stale]
        if not TABLE.exists() or TABLE.read_text() != table:
            wrong.append(f"kernels/{TABLE.name} is not what the kernels take; run `python3 tools/ptx`")
    elif not wrong:
        lock.write(files)
        TABLE.write_text(table)
    print("\n".join([*wrong, f"{len(todo)} PTX files, {len(files) - len(todo)} cubins, {len(wrong)} faults"]))
    sys.exit(bool(wrong))


main()
