"""Cubins: what a pinned assembler makes of the PTX for GPUs that are common, so that no driver has to while somebody waits.

A cubin runs on GPUs of its compute capability and of later minor versions, so there is one for each at which instructions
change: those for 8.9 are, instruction for instruction, those for 8.6. Drivers take cubins of assemblers that are no newer than
themselves, or of the same major version of CUDA. So the oldest assembler that knows a GPU makes them, not the best.
"""

import base64
import inspect

import occupancy
from lock import fnv
from toolchain import ASSEMBLERS, PACKAGES, cached, run

# By the architecture that PTX is compiled for: the archive of each cubin, the machine that it is for, and who assembles it.
MADE = {
    "80": [("sm_80", "80", "12.4"), ("sm_86", "86", "12.4")],
    "90": [("sm_90", "90", "12.4"), ("sm_100", "100", "13.0"), ("sm_120", "120", "13.0")],
    "90a": [("sm_90", "90a", "12.4")],
}


def assemble(text, machine, release, folder):
    """A cubin, as base64, and what is wrong with it."""
    ptx, cubin = folder / "cubin.ptx", folder / "cubin"
    ptx.write_text(text)
    said = run(ASSEMBLERS[release], "-v", f"-arch=sm_{machine}", "-o", cubin, ptx)
    wrong = [*occupancy.slower(said), *occupancy.spilled(machine, said)]
    return base64.b64encode(cubin.read_bytes()).decode(), [f"CUDA {release}: {fault}" for fault in wrong]


def of(stem, arch, text, known, remake, fresh, folder):
    """The cubins of a PTX that kernel `stem` has for an architecture, as lock.read gives them, and what is wrong with them. What is `known` serves
    again unless all are to be remade."""
    source, made, faults = fnv(text), {}, []
    for archive, machine, release in MADE[arch]:
        name = f"{archive}/{stem}.cubin"
        if not remake and known.get(name, ("",))[0] == source:
            made[name] = known[name]
            continue
        key = ["cubin", inspect.getsource(assemble), PACKAGES, machine, release, text]
        cubin, wrong = cached(key, lambda: assemble(text, machine, release, folder), fresh)
        made[name] = (source, base64.b64decode(cubin))
        faults += [f"{name}: {fault}" for fault in wrong]
    return made, faults
