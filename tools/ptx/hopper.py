"""Registers of wgmma groups in flight, in the PTX of a kernel and in the SASS that each assembler makes of it."""

import in_flight
from toolchain import ASSEMBLERS, HERE, KERNELS, NVCC, NVDISASM, run

# What has to be found in planted.cu: by kernel, where its registers are overwritten in flight.
PLANTED = {
    "renamed_by_compiler": {"PTX", "SASS of CUDA 12.4", "SASS of CUDA 13.0", "SASS of CUDA 13.3"},
    "renamed_by_assembler": {"SASS of CUDA 12.4", "SASS of CUDA 13.0"},
}


def programs(text, cubins):
    """Where a form of the kernels of a PTX was seen, and its programs: the PTX itself, then what its cubins, by release, hold."""
    yield "PTX", list(in_flight.ptx(text))
    for release, cubin in cubins.items():
        yield f"SASS of CUDA {release}", list(in_flight.sass(run(NVDISASM, "-c", cubin)))


def faults(name, text, cubins):
    """What is wrong with a PTX in any of its forms."""
    wrong = []
    asked = text.count("wgmma.mma_async")
    for where, kernels in programs(text, cubins):
        wrong += [f"{where}, {fault}" for kernel in kernels for fault in in_flight.faults(kernel)]
        # What is not understood would not be followed either.
        seen = sum(kernel.mmas() for kernel in kernels)
        if seen != asked:
            wrong.append(f"{where}, {name}: {seen} MMAs are seen, {asked} are there")
    return wrong


def self_test(folder):
    """What is not found of the faults that are there on purpose, or is found elsewhere."""
    ptx = folder / "planted.ptx"
    run(NVCC, "-ptx", "-arch=compute_90a", "-std=c++17", "-O3", "-I", KERNELS, "-o", ptx, HERE / "planted.cu")
    cubins = {release: folder / f"{release}.cubin" for release in ASSEMBLERS}
    text = ptx.read_text()
    for release, cubin in cubins.items():
        # The oldest assembler does not know the newest version of PTX.
        old = folder / "old.ptx"
        old.write_text(text.replace(text[text.index(".version") :].split("\n")[0], ".version 8.0", 1))
        run(ASSEMBLERS[release], "-arch=sm_90a", "-o", cubin, old)
    found = {name: set() for name in PLANTED}
    for where, kernels in programs(text, cubins):
        for kernel in kernels:
            if in_flight.faults(kernel):
                found[kernel.name].add(where)
    wrong = {name: (found[name], there) for name, there in PLANTED.items() if found[name] != there}
    return [f"tools/ptx/planted.cu: {name} is found in {sorted(seen)}, not in {sorted(there)}" for name, (seen, there) in wrong.items()]
