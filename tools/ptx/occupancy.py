"""Registers, shared memory and blocks at once of every kernel: the lines of kernels/REGISTERS.md."""

import re

from lock import sources

# What one SM holds: threads, blocks, bytes of shared memory. Registers are 65536, given to warps by 256; a block takes 1 KiB of
# shared memory for the system. CUDA C++ Programming Guide, "Compute Capabilities".
SMS = {
    "80": (2048, 32, 164 << 10),
    "90": (2048, 32, 228 << 10),
    "90a": (2048, 32, 228 << 10),
    "120": (1536, 24, 100 << 10),
}
REGISTERS = 65536
HEADER = """# Registers, shared memory and occupancy of the CUDA kernels

Made by `python3 tools/ptx`, as the assembler of CUDA 13.0 says; no GPU was asked. Nothing spills. *Budget*: registers a thread
with which as many blocks as the kernel asks for run at once. *Shared*: bytes a block, dynamic shared memory included. *Blocks*: how
many run at once on one SM, and how many the kernel asks for. *Warps*: the share of the warps that an SM can hold.

| kernel | machine | registers | budget | shared | blocks | asked | warps |
|---|---|---|---|---|---|---|---|
"""


def number(file, name):
    """The number that a kernel's file, or one that it includes, calls `constexpr u32 <name>`; else 0."""
    found = re.search(rf"^constexpr u32 {name} = (\d+);", "".join(path.read_text() for path in sources(file)), re.M)
    return int(found[1]) if found else 0


def entries(said):
    """What `ptxas -v` said of each entry: its name and the rest."""
    for part in said.split("Compiling entry function '")[1:]:
        yield part.split("'", 1)


def spilled(machine, said):
    """What an assembler could not keep in registers."""
    for name, rest in entries(said):
        stack, stores = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", rest).groups()
        if stack != "0" or stores != "0":
            yield f"{name} on sm_{machine}: {stack} bytes of stack, {stores} bytes spilled"


def slower(said):
    """What an assembler says that it does not do as it was asked to: MMAs one after the other, for one."""
    return [line for line in said.splitlines() if "Performance Loss" in line or "setmaxnreg" in line]


def table(file, text, machine, said):
    """Lines of the table for each entry of a PTX, and what is wrong with them, by what `ptxas -v` said."""
    lines, wrong = [], []
    for name, rest in entries(said):
        registers = int(re.search(r"Used (\d+) registers", rest)[1])
        static = re.search(r"(\d+) bytes smem", rest)
        line, enough = occupancy(file, text, name, machine, registers, int(static[1]) if static else 0)
        lines.append(line)
        wrong += [] if enough else [f"fewer blocks run at once than asked for: {line}"]
    return lines, wrong


def occupancy(file, text, name, machine, registers, static):
    """A line of the table, and whether as many blocks run at once as the kernel asks for."""
    entry = text[text.index(f".entry {name}(") :].split("\n}", 1)[0]
    bounds = entry.split("{", 1)[0]
    threads, asked = (int(re.search(rf"\.{word} (\d+)", bounds)[1]) for word in ("maxntid", "minnctapersm"))
    all_threads, all_blocks, all_shared = SMS[machine]
    warps = -(-threads // 32)
    dynamic = re.search(r"^\.extern \.shared .* (\w+)\[\];", text, re.M)
    shared = static + (number(file, "SHARED") if dynamic and dynamic[1] in entry else 0)
    of_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    blocks = min(of_registers, all_threads // threads, all_shared // (shared + 1024), all_blocks)
    budget = min(REGISTERS // (warps * asked) // 256 * 256 // 32, 255)
    share = f"{blocks * warps * 32 * 100 // all_threads} %"
    cells = [f"`{name}`", f"sm_{machine}", registers, budget, shared, blocks, asked, share]
    return f"| {' | '.join(map(str, cells))} |", blocks >= asked
