"""What AMD's driver makes of every pipeline, for a GPU that need not be here: shaders/COMPILED.md, which may not get worse
unnoticed. No time is measured, and no claim about one follows from it."""

import json
import re
import sys

from packages import LIBRARIES, ROOT, WORK, driver, environment, mesa, run, spirv

TABLE = ROOT / "shaders" / "COMPILED.md"
FAMILY = "navi31"
HEAD = """\
# The shaders as an AMD GPU's compiler leaves them

Made by `python3 tools/shader-check radv --update`: every pipeline, compiled by Mesa {version} (RADV) for {family} (RDNA3), which
need not be here. A pipeline is a kernel, an entry point, and how those operands are stored whose kind the shader asks for.

*VGPRs*: registers of a lane. *Waves*: how many run at once on a SIMD, at most 32 of 32 lanes or 16 of 64. *Spills*: registers kept in memory. *LDS*: bytes of
workgroup memory. *Code*: instructions. *FMA*: of the instructions of the loop that has most of them (loops inside of it not counted), the share that
multiply and add. *Loads* and *waits*: loads from memory, and waits for them, in the smallest loop around that one which loads at all. They
are counted in the code as it stands, not as often as it runs.

| pipeline | VGPRs | waves | spills | LDS | code | FMA | loads | waits |
|---|---|---|---|---|---|---|---|---|
"""
COLUMNS = ["vgprs", "waves", "spills", "lds", "code", "fma", "loads", "waits"]
# A pipeline is worse if a number is higher than so many times that of the table and so much more (with a minus: lower).
# Registers and the order of instructions change a little with what stands beside them.
MARGINS = {"vgprs": (1.05, 2), "waves": (-0.95, 0), "spills": (1, 0), "lds": (1, 0), "code": (1.1, 8), "fma": (-1, 2), "loads": (1, 0), "waits": (1, 0)}
FMA = re.compile(r"\bv_(?:dual_|pk_)?(?:fma|fmac|mad|mac|wmma)\w*")
# FMAs of a lane in one instruction that multiplies matrices of 16x16x16, among 32 lanes.
MATRIX = 128
LOAD = re.compile(r"^(?:buffer|global|flat)_load")


def loops(lines):
    """First and last line of every loop: from a label to the last branch back to it."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    found = {}
    for i, line in enumerate(lines):
        branch = re.match(r"s_c?branch\w* (\w+)", line)
        if branch and labels.get(branch[1], i + 1) <= i:
            found[labels[branch[1]]] = i
    return [(first, last) for first, last in found.items()]


def counts(assembly):
    """FMA share of the hottest loop in percent, loads and waits of the loop around it; of all the code where no loop has any."""
    lines = [line.split(";")[0].strip() for line in assembly.splitlines()]
    whole = (0, len(lines) - 1)
    found = loops(lines)
    within = lambda a, b: a != b and b[0] <= a[0] and a[1] <= b[1]

    def instructions(loop, own=False):
        """Of a loop, or only those that are in no loop inside of it."""
        inner = [other for other in found if own and within(other, loop)]
        at = [i for i in range(loop[0], loop[1] + 1) if not any(first <= i <= last for first, last in inner)]
        return [lines[i] for i in at if lines[i] and not lines[i].endswith(":")]

    work = lambda loop: sum(MATRIX if "wmma" in line else len(FMA.findall(line)) for line in instructions(loop, own=True))
    hot = max(found, key=work, default=whole)
    hot = hot if work(hot) else whole
    own = instructions(hot, own=True)
    loads = lambda loop: sum(bool(LOAD.match(line)) for line in instructions(loop))
    around = [loop for loop in [*found, whole] if loop == hot or within(hot, loop)]
    around = min((loop for loop in around if loads(loop)), key=lambda loop: loop[1] - loop[0], default=hot)
    waits = sum(line.startswith("s_waitcnt") and "vmcnt" in line for line in instructions(around))
    share = 100 * sum(len(FMA.findall(line)) for line in own) / max(1, len(own))
    return {"fma": round(share), "loads": loads(around), "waits": waits}


def row(compiled):
    said = compiled["statistics"]
    spills = said["Spilled SGPRs"] + said["Spilled VGPRs"]
    return {
        "vgprs": said["VGPRs"],
        "waves": said["Subgroups per SIMD"],
        "spills": spills,
        "lds": said["LDS size"],
        "code": said["Instructions"],
        **counts(compiled["code"]["Assembly"]),
    }


def measured():
    """Rows by pipeline, and Mesa's version."""
    version = mesa()
    env = environment(**driver("radv", LIBRARIES / "libvulkan_radeon.so"), RADV_FORCE_FAMILY=FAMILY, RADV_DEBUG="nocache")
    out = WORK / "radv.out.json"
    run(sys.executable, ROOT / "tools/shader-check/vulkan.py", out, *spirv(), env=env)
    compiled = json.loads(out.read_text())
    folder = WORK / "radv"
    folder.mkdir(exist_ok=True)
    for name, one in compiled.items():
        (folder / f"{name}.s").write_text(one["code"]["Assembly"])
    return {name: row(one) for name, one in compiled.items()}, version


def table(rows, version):
    lines = [f"| `{name}` | " + " | ".join(f"{row[c]} %" if c == "fma" else str(row[c]) for c in COLUMNS) + " |\n" for name, row in sorted(rows.items())]
    return HEAD.format(version=version, family=FAMILY) + "".join(lines)


def read(text):
    """Rows by pipeline, and Mesa's version, of a table."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.M)
    numbers = lambda cells: [int(cell.removesuffix(" %")) for cell in cells.split(" | ")]
    return {name: dict(zip(COLUMNS, numbers(cells))) for name, cells in rows}, re.search(r"by Mesa ([\w.]+)", text)[1]


def beyond(column, now, was):
    """Whether a number is worse than it was by more than the margin."""
    times, more = MARGINS[column]
    return now > was * times + more if times > 0 else now < was * -times - more


def compare(rows, known):
    """What is worse than the table says, and how many rows are better."""
    faults = [f"{name} is not in shaders/COMPILED.md" for name in rows if name not in known]
    faults += [f"shaders/COMPILED.md has {name}, which there is no more" for name in known if name not in rows]
    better = 0
    for name in sorted(rows.keys() & known.keys()):
        worse = [f"{c} {known[name][c]} → {rows[name][c]}" for c in COLUMNS if beyond(c, rows[name][c], known[name][c])]
        faults += [f"{name}: {', '.join(worse)}"] if worse else []
        better += not worse and any(beyond(c, known[name][c], rows[name][c]) for c in COLUMNS)
    return faults, better


def check(options):
    rows, version = measured()
    text = table(rows, version)
    if options.update:
        TABLE.write_text(text)
        return [], f"{len(rows)} pipelines in shaders/COMPILED.md"
    known, of = read(TABLE.read_text())
    if of != version:
        return [], f"LEFT OUT: shaders/COMPILED.md is of Mesa {of}, and here is {version}; nothing was compared"
    faults, better = compare(rows, known)
    faults += ["after an intended change, `python3 tools/shader-check radv --update` writes the table anew"] if faults else []
    return faults, f"{len(rows)} pipelines, {better} of them better than shaders/COMPILED.md says; code in target/shader-check/radv"
