"""Breaks kernels on purpose and sees that the kernel tests notice: tests/mutations.toml says how and what must happen.

    python3 tools/mutate               mutations without a verdict in tests/mutations.lock, and a random tenth of the others
    python3 tools/mutate --all         every mutation
    python3 tools/mutate WORD...       every one whose file, kernel or `what` contains one of the words
    python3 tools/mutate --texts       only whether the texts to be replaced are there; nothing is built
    python3 tools/mutate --seed N      the same random tenth as a run that printed this seed

It fails where a broken kernel passes, fails in another way than the list says, or where the text to be replaced is not
there exactly once. What is as the list says goes to tests/mutations.lock, to be committed with the change. Shaders go to the
tests in CASCADE_SHADER_DIR, CUDA kernels in CASCADE_HOST_KERNELS: of those, the one file is compiled and linked with what
cargo built. Python 3.11.
"""

import argparse
import concurrent.futures
import importlib.machinery
import importlib.util
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

sys.dont_write_bytecode = True
import verdicts

ROOT = verdicts.ROOT
LIST = ROOT / "tests" / "mutations.toml"
LIMIT = 120  # seconds of processor time, for a kernel that never ends
PATIENCE = 900  # seconds, for one that waits
AGAIN = 10  # one of so many mutations whose verdict is known runs anyway
# What the tests say.
KINDS = {
    "order": r"the result depends on the order of the threads",
    "writes": r"writes outside of its result",
    "banks": r"a conflict of banks in ldmatrix",
    "barrier": r"a barrier that not all threads reach",
    "waits": r"a thread that has not waited for the previous launch|a second wait for the previous launch",
    "copies": r"(copies|MMAs) that nobody waits for",
    "arrivals": r"more arrivals at a barrier than it counts|a barrier that too few arrive at",
    "bytes": r"a barrier that expects other bytes than are copied",
    "changes": r"(a tile that changes|(fragments of A|accumulators) that change) while",
    "proxy": r"a copy to where others have read, without a fence",
    "swizzle": r"an operand that is not (read as it is swizzled|aligned)",
    "beyond": r"an operand beyond shared memory",
    "cluster": r"a barrier (that has not been made|of a block that has ended|that (copies|other blocks) cannot see yet)|a place in a block that",
    "values": r"allowed \de-\d",
    "passes": r"test result: ok",
}


def load(name):
    """Another tool, whose file has no suffix that Python knows."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def broken(mutation):
    """The file's text with the edit, or why there is none."""
    text = (ROOT / mutation["file"]).read_text()
    found = text.count(mutation["from"])
    if found != 1:
        return None, f"the text to be replaced is there {found} times; the list must follow the kernel"
    return text.replace(mutation["from"], mutation["to"]), None


class Runner:
    """Runs mutations with the test program and the kernels that cargo built."""

    def __init__(self):
        self.host_kernels = load("host-kernels")
        self.program, self.out = self.host_kernels.built()
        self.folder = tempfile.TemporaryDirectory()
        self.parsed = None

    def parse_headers(self):
        """Compiles what every kernel includes first, which is half of the time that one takes."""
        command = (self.out / "compiler").read_text().split("\n")[:-1]
        header = pathlib.Path("kernels") / "host" / "device.h"
        self.parsed = pathlib.Path(self.folder.name) / "device.h.gch"
        done = subprocess.run([*command, "-x", "c++-header", header, "-o", self.parsed], cwd=ROOT, capture_output=True)
        if done.returncode != 0:
            self.parsed = None  # another compiler calls such files otherwise; kernels compile without

    def run(self, mutation):
        """What happened: a kind, or a sentence."""
        text, missing = broken(mutation)
        if missing:
            return missing
        file = pathlib.Path(mutation["file"])
        with tempfile.TemporaryDirectory(dir=self.folder.name) as folder:
            root = pathlib.Path(folder)
            environment = {
                "CASCADE_KERNELS": "=" + mutation["kernel"],
                # Where a value is enough the first is; what the emulator reports may come in a later case.
                "CASCADE_FAIL_FAST": str(int(mutation["fails"] == "values")),
                "MESA_SHADER_CACHE_DISABLE": "true",
                "CUDA_VISIBLE_DEVICES": "",
            }
            if file.suffix == ".wgsl":
                (root / file.name).write_text(text)
                environment |= {"CASCADE_LANG": "wgsl", "CASCADE_SHADER_DIR": folder}
            else:
                shutil.copytree(ROOT / "kernels", root / "kernels", ignore=shutil.ignore_patterns("ptx", "ptx.lzma"))
                (root / file).write_text(text)
                if self.parsed and "host" not in file.parts:  # what was parsed includes the headers of kernels/host unbroken
                    (root / "kernels" / "host" / "device.h.gch").symlink_to(self.parsed)
                library = root / "kernels.so"
                wrong = self.host_kernels.library(self.out, library, root, [mutation["kernel"]])
                if wrong:
                    return f"it does not compile: {wrong[:600]}"
                environment |= {"CASCADE_LANG": "cuda", "CASCADE_HOST_KERNELS": str(library)}
            command = ["prlimit", f"--cpu={LIMIT}", self.program, "every_kernel_matches_its_reference", "--exact", "--nocapture"]
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE
                )
            except subprocess.TimeoutExpired:
                return "endless"
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return "endless"
        said = done.stdout + done.stderr
        kinds = [kind for kind, pattern in KINDS.items() if re.search(pattern, said)]
        return kinds[0] if kinds else f"neither passed nor failed as tests do ({done.returncode}): {said[-400:]}"

    def digests(self, kernels):
        """For each of these kernels, by language and name: what the cases of its tests give it and expect of it, as one
        number, and the kernels that run with it. Then the driver of the shaders."""
        environment = {
            "CASCADE_LANG": "cuda,wgsl",
            "CASCADE_KERNELS": ",".join(f"={kernel}" for kernel in kernels),
            "CASCADE_DIGESTS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [self.program, "every_kernel_matches_its_reference", "--exact", "--nocapture"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout + done.stderr)
        line = r"^\S+ +(\S+) +.*, digest (\w+) with \[(.*)\] on (Cuda|Wgsl) (.*)$"
        found = re.findall(line, done.stdout, re.M)
        digests = {(lang.lower(), name): (digest, re.findall(r'"([^"]+)"', more)) for name, digest, more, lang, _ in found}
        return digests, next((device for *_, lang, device in found if lang == "Wgsl"), "none")


def chosen(mutations, driver, options):
    """Those that run, and how many verdicts are kept."""
    if options.all or options.words:
        return mutations, 0
    known = verdicts.read(driver)
    if known is None:
        print("the verdicts in tests/mutations.lock are of another compiler or driver: all mutations run", flush=True)
        return mutations, 0
    unknown = [m for m in mutations if m["key"] not in known]
    kept = [m for m in mutations if m["key"] in known]
    again = random.Random(options.seed).sample(kept, -(-len(kept) // AGAIN))
    print(f"{len(unknown)} without a verdict, {len(again)} of {len(kept)} with one again (--seed {options.seed})", flush=True)
    return [m for m in mutations if m in unknown or m in again], len(kept) - len(again)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    about = lambda m: f"{m['file']} {m['kernel']} {m['what']}"
    every = tomllib.loads(LIST.read_text())["mutation"]
    mutations = [m for m in every if not options.words or any(w in about(m) for w in options.words)]
    start, wrong, kept, driver = time.monotonic(), 0, 0, None
    if options.texts:
        happened = [broken(m)[1] or m["fails"] for m in mutations]
    else:
        runner = Runner()
        digests, driver = runner.digests({m["kernel"] for m in every})
        flags = (runner.out / "compiler").read_text()
        for mutation in every:
            text, missing = broken(mutation)
            mutation["key"] = missing or verdicts.key(mutation, text, digests, flags, KINDS)
        mutations, kept = chosen(mutations, driver, options)
        if any(m["file"].endswith((".cu", ".cuh")) for m in mutations):
            runner.parse_headers()
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        happened = pool.map(runner.run, mutations)
    found = set()
    for mutation, what in zip(mutations, happened):
        good = what == mutation["fails"]
        wrong += not good
        if good and not options.texts:
            found.add(mutation["key"])
        verdict = what if good else f"WRONG, not {mutation['fails']} but: {what}"
        if not (options.texts and good):
            print(f"{mutation['kernel']:24} {mutation['what']:56} {verdict}", flush=True)
    seconds = time.monotonic() - start
    print(f"ran {len(mutations)}, kept {kept} of {len(every)}; {wrong} not as the list says, {seconds:.0f} s")
    if not options.texts:
        verdicts.write(every, found, driver, options.all and not options.words)
    sys.exit(bool(wrong) or not every)


main()
