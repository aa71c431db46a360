"""tests/mutations.lock: verdicts that need not be found again, each under a hash of everything that it depends on.

A verdict depends on

* the mutated kernel and all that it includes, and so for kernels that run with it in a test,
* how it is compiled, and the emulator that runs it,
* what the tests give it, how they launch it and what they expect: the test program itself makes one number of this (its
  "digest"), so that a change elsewhere in a network, a plan or the registry that makes no difference here changes nothing,
* the code between the two: the tests, and the backend of its language,
* the mutation, what must happen, and how that is recognised.

Comments and indentation do not count. The compiler is not part of the hash but stands at the head of the file: with another one
verdicts are very likely, not certainly, the same. Then more of them run again, and the file stays as it is.
"""

import hashlib
import json
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LOCK = ROOT / "tests" / "mutations.lock"
HEAD = """\
# Verdicts of tools/mutate that need not be found again: the hash of all that one depends on, then which it is.
# Made by tools/mutate. Where branches meet, keep the lines of both.
"""
TESTS = ["tests/kernels.rs", "tests/kernels/*.rs", "tests/common/mod.rs", "src/backend/operand.rs"]
# What is between a test and a kernel, by the language of the kernel.
CODE = {
    "cuda": [*TESTS, "kernels/host/*", "src/backend/cuda.rs", "src/backend/cuda/*.rs", "src/registry/grid.rs"],
    "wgsl": [*TESTS, "shaders/common.wgsl", "shaders/*.shared.wgsl", "src/backend/wgpu.rs", "src/backend/wgpu/*.rs"],
}
LITERALS_AND_COMMENTS = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'|//[^\n]*|/\*.*?\*/', re.S)


def bare(text):
    """Source text, C++, WGSL or Rust, without comments and indentation."""
    text = LITERALS_AND_COMMENTS.sub(lambda found: " " if found[0][0] == "/" else found[0], text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def sources(kernel, file, text):
    """A CUDA kernel and all that it includes, by name, without comments; `text` for one of these files."""
    todo, found = [f"{kernel}.cu"], {}
    while todo:
        name = todo.pop()
        path = ROOT / "kernels" / name
        if name not in found and path.exists():
            found[name] = bare(text if path == ROOT / file else path.read_text())
            todo += re.findall(r'^#include "([^"]+)"', found[name], re.M)
    return found


def code(lang, memory={}):
    """The code between tests and kernels of a language, without comments."""
    if lang not in memory:
        memory[lang] = {}
        for pattern in CODE[lang]:
            files = sorted(path for path in ROOT.glob(pattern) if not path.stem.endswith("tests"))
            if not files:
                raise SystemExit(f"tools/mutate/verdicts.py: {pattern} is nowhere; the list must follow the tree")
            memory[lang] |= {str(path.relative_to(ROOT)): bare(path.read_text()) for path in files}
        if lang == "wgsl":
            packages = re.findall(r'name = "(wgpu[\w-]*|naga)"\nversion = "([^"]+)"', (ROOT / "Cargo.lock").read_text())
            memory[lang]["packages"] = packages
    return memory[lang]


def key(mutation, text, digests, flags, kinds):
    """The hash of all that a verdict depends on. `text` is that of the mutated file, `digests` are the test program's."""
    lang = "wgsl" if mutation["file"].endswith(".wgsl") else "cuda"
    digest, others = digests[lang, mutation["kernel"]]
    kernel = bare(text)
    if lang == "cuda":
        kernel = [flags, *(sources(name, mutation["file"], text) for name in [mutation["kernel"], *others])]
    what = [mutation["kernel"], mutation["fails"], kinds]
    everything = json.dumps([kernel, digest, code(lang), what], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def compilers(driver):
    """What compiles kernels here, the C++ compiler and the driver of the shaders, as lines of the lock file."""
    version = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout
    return f"# Compiler: {version.splitlines()[0]}\n# Driver: {driver}\n"


def read(driver):
    """The hashes of known verdicts, and whether they were found with the compiler and the driver of this machine."""
    text = LOCK.read_text() if LOCK.exists() else compilers(driver)
    return {line.split(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}, compilers(driver) in text


def write(mutations, driver, anew):
    """Writes the verdicts of these mutations, unless those in the file are of another compiler; `anew` even then."""
    if not anew and not read(driver)[1]:
        return
    lines = [f"{m['key']} {m['fails']:8} {m['kernel']}: {m['what']}\n" for m in mutations]
    text = HEAD + compilers(driver) + "".join(lines)
    if not LOCK.exists() or LOCK.read_text() != text:
        LOCK.write_text(text)
        print(f"{LOCK.relative_to(ROOT)} is new: commit it")
