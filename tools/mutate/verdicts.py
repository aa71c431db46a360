"""tests/mutations.lock: verdicts that need not be found again, each under a hash of everything that it depends on.

A verdict depends on

* the mutated kernel and all that it includes, and so for kernels that run with it in a test,
* how it is compiled, and the emulator that runs it,
* what the tests give it, how they launch it and what they expect: the test program itself makes one number of this (its
  "digest"), so that a change elsewhere in a network, a plan or the registry that makes no difference here changes nothing,
* the code between the two: the tests, and the backend of its language,
* the mutation, what must happen, and how that is recognised.

Comments and layout do not count. The compiler is not part of the hash but stands at the head of the file: with another one
every mutation runs, which takes minutes, and the file stays as it is.
"""

import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tools" / "ptx"))
import lock as ptx  # noqa: E402

LOCK = ROOT / "tests" / "mutations.lock"
HEAD = """\
# Verdicts of tools/mutate that need not be found again: the hash of all that one depends on, then which it is.
# Made by tools/mutate. Where branches meet, keep the lines of both.
"""
# What is between a test and a kernel, by the language of the kernel. What a device's memory holds is in the digests.
BOTH = ["tests/kernels.rs", "tests/kernels/*.rs", "src/check/cases.rs", "src/backend/operand.rs", "src/registry/grid.rs"]
CODE = {
    "cuda": [*BOTH, "src/backend/cuda.rs", "src/backend/cuda/*.rs", "src/registry/cuda/source.rs", "kernels/host/*"],
    "wgsl": [*BOTH, "src/backend/wgpu.rs", "src/backend/wgpu/*.rs", "shaders/common.wgsl", "shaders/*.shared.wgsl"],
}
RUST = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'|//[^\n]*|/\*.*?\*/', re.S)


@functools.cache
def bare(text, rust):
    """Source text without comments and layout."""
    if not rust:
        return ptx.normalised(text)
    return " ".join(RUST.sub(lambda found: " " if found[0][0] == "/" else found[0], text).split())


def texts(files, mutation=None, text=None):
    """Files by their place in the project, without comments and layout; `text` instead of that of the mutated one."""
    place = lambda file: str(file.relative_to(ROOT))
    read = lambda file: text if mutation and place(file) == mutation["file"] else file.read_text()
    return {place(file): bare(read(file), file.suffix == ".rs") for file in sorted(files)}


@functools.cache
def code(lang):
    """The code between the tests and the kernels of a language."""
    found = {}
    for pattern in CODE[lang]:
        files = [file for file in ROOT.glob(pattern) if not file.stem.endswith("tests")]
        if not files:
            raise SystemExit(f"tools/mutate/verdicts.py: there is no {pattern}; the list must follow the tree")
        found |= texts(files)
    if lang == "wgsl":
        locked = (ROOT / "Cargo.lock").read_text()
        found["Cargo.lock"] = re.findall(r'name = "(wgpu[\w-]*|naga)"\nversion = "([^"]+)"', locked)
    return found


def key(mutation, text, digests, flags, kinds):
    """The hash of all that a verdict depends on. `text` is that of the mutated file, `digests` are the test program's."""
    lang = "wgsl" if mutation["file"].endswith(".wgsl") else "cuda"
    if (lang, mutation["kernel"]) not in digests:
        return "no device of this machine runs it"
    digest, others = digests[lang, mutation["kernel"]]
    if lang == "wgsl":
        kernel = bare(text, False)
    else:
        files = {file for name in [mutation["kernel"], *others] for file in ptx.sources(ROOT / "kernels" / f"{name}.cu")}
        kernel = [flags, texts(files, mutation, text)]
    what = [mutation["kernel"], mutation["fails"], kinds]
    everything = json.dumps([kernel, digest, code(lang), what], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()[:16]


def compilers(driver):
    """What compiles kernels here, the C++ compiler and the driver of the shaders, as lines of the lock file."""
    version = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout
    return f"# Compiler: {version.splitlines()[0]}\n# Driver: {driver}\n"


def read(driver):
    """The hashes of known verdicts; `None` if they were found with another compiler or driver than those of this machine."""
    text = LOCK.read_text() if LOCK.exists() else compilers(driver)
    known = {line.split(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}
    return known if compilers(driver) in text else None


def write(every, found, driver, anew):
    """Writes which of all mutations have a verdict: those of the hashes `found`, and those that the file has already. It stays as
    it is where it is of another compiler, unless everything is found `anew`."""
    known = read(driver)
    if known is None and not anew:
        return
    known = found if anew else known | found
    lines = [f"{m['key']} {m['fails']:8} {m['kernel']}: {m['what']}\n" for m in every if m["key"] in known]
    text = HEAD + compilers(driver) + "".join(lines)
    if not LOCK.exists() or LOCK.read_text() != text:
        LOCK.write_text(text)
        print(f"{LOCK.relative_to(ROOT)} is new: commit it")
