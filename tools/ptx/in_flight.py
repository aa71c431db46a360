"""Follows the registers of wgmma groups in flight through PTX and SASS.

wgmma.mma_async runs on its own. Until a wgmma.wait_group has waited for its group, nothing else may touch its accumulators
or write the registers that hold its fragments of A (PTX ISA, "wgmma.wait_group"). Compilers do not keep to this by themselves:
registers that C++ copies from one another can become one in PTX, and assemblers before CUDA 13.3 undo copies that PTX makes
(triton-lang/triton#9433). Where it is violated, results are wrong now and then, and nothing says so.

`faults` walks all paths through a program, with the set of registers that are in flight at each instruction.
"""

import re
from dataclasses import dataclass, field

NONE = frozenset()
MOST = 8  # groups told apart; a wait leaves fewer, and in a loop without a wait there would be ever more


@dataclass
class Instruction:
    """One instruction, as far as registers in flight are concerned."""

    where: str  # a line of PTX, or an address
    text: str
    reads: frozenset = NONE
    writes: frozenset = NONE
    kind: str = ""  # mma, commit, wait, end, opaque (what it runs cannot be followed), or empty for any other
    a: frozenset = NONE  # an MMA's fragments of A
    accumulators: frozenset = NONE
    commits: bool = False  # an MMA that ends its group
    left: int = 0  # groups that a wait leaves in flight
    target: str = ""  # of a branch
    falls_through: bool = True


@dataclass
class Program:
    """The instructions of a kernel, and where its labels are among them."""

    name: str
    code: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)

    def mmas(self):
        return sum(one.kind == "mma" for one in self.code)


def faults(program):
    """Instructions that touch registers in flight, in words."""
    found = {}
    # A state is the open group and the groups in flight, oldest first; a group is its fragments of A and its accumulators.
    todo, seen = [(0, (NONE, NONE), ())], set()
    joins = set(program.labels.values())
    while todo:
        at, group, groups = todo.pop()
        while at < len(program.code):
            one = program.code[at]
            if at in joins or one.kind or one.target:
                if (at, group, groups) in seen:
                    break
                seen.add((at, group, groups))
            fragments = group[0].union(*(g[0] for g in groups))
            accumulators = group[1].union(*(g[1] for g in groups))
            touched = {}
            if one.kind == "mma":
                # MMAs that add to the same accumulators are in order by themselves.
                touched["reads accumulators as A"] = one.a & accumulators
                touched["writes fragments of A"] = one.accumulators & fragments
            else:
                touched["touches accumulators"] = (one.reads | one.writes) & accumulators
                touched["writes fragments of A"] = one.writes & fragments
            for what, registers in touched.items():
                if registers:
                    names = ", ".join(name if isinstance(name, str) else f"R{name}" for name in sorted(registers)[:4])
                    found.setdefault((at, what), f"{one.where}: `{one.text}` {what} in flight: {names}")
            if one.kind == "opaque" and (fragments or accumulators):
                found.setdefault((at, ""), f"{one.where}: `{one.text}` cannot be followed while MMAs are in flight")
            if one.kind == "mma":
                group = (group[0] | one.a, group[1] | one.accumulators)
            if one.kind == "commit" or one.commits:
                groups, group = (*groups, group), (NONE, NONE)
                if len(groups) > MOST:
                    groups = ((groups[0][0] | groups[1][0], groups[0][1] | groups[1][1]), *groups[2:])
            if one.kind == "wait":
                groups = groups[max(0, len(groups) - one.left) :]
            if one.target:
                if one.target not in program.labels:
                    found.setdefault((at, ""), f"{one.where}: `{one.text}` goes nowhere")
                else:
                    todo.append((program.labels[one.target], group, groups))
            if one.kind == "end" and (groups or group != (NONE, NONE)):
                found.setdefault((at, ""), f"{one.where}: `{one.text}` ends the kernel with MMAs in flight")
            if not one.falls_through:
                break
            at += 1
    return [f"{program.name}: {text}" for _, text in sorted(found.items())]


PTX_REGISTER = re.compile(r"%(?:r|f|rd|rs|h|fd|b|p)\d+")
MMA = re.compile(r"wgmma\.mma_async\S* *\{(?P<acc>[^}]*)\}, *(?:\{(?P<a>[^}]*)\}|%\w+)")


def ptx(text):
    """The kernels of a PTX file."""
    for part in text.split(".visible .entry ")[1:]:
        program = Program(part.split("(", 1)[0])
        body = re.sub(r"//.*", "", part[part.index("\n{") + 2 : part.rindex("\n}")])
        for statement in re.split(r";", body):
            # Labels, and the braces of inline assembly with names of its own.
            while label := re.match(r"[\s{}]*(\$L\w+):", statement):
                program.labels[label[1]] = len(program.code)
                statement = statement[label.end() :]
            statement = " ".join(re.sub(r"^[\s{}]+", "", statement).split())
            if statement and statement[0] != ".":
                program.code.append(ptx_instruction(statement, len(program.code)))
        yield program


def ptx_instruction(text, number):
    one = Instruction(f"instruction {number}", text[:100])
    # Any access counts: at this level it is not said which operands an instruction writes.
    one.reads = one.writes = frozenset(PTX_REGISTER.findall(text))
    op = re.sub(r"^@!?%p\d+ ", "", text)
    if op.startswith("wgmma.mma_async"):
        found = MMA.search(text)
        one.kind = "mma"
        one.accumulators = frozenset(PTX_REGISTER.findall(found["acc"]))
        one.a = frozenset(PTX_REGISTER.findall(found["a"] or ""))
    elif op.startswith("wgmma.commit_group"):
        one.kind = "commit"
    elif op.startswith("wgmma.wait_group"):
        one.kind, one.left = "wait", int(text.split()[-1])
    elif op.startswith(("call", "brx")):
        one.kind = "opaque"
    elif op.startswith("bra"):
        one.target = op.split()[-1]
        one.falls_through = text != op
    elif op.startswith(("ret", "exit")):
        one.falls_through = text != op
        one.kind = "end"
    return one


SASS_REGISTER = re.compile(r"(?<![A-Z\d_.])R(\d+)\b")
HGMMA = re.compile(r"HGMMA\.64x(?P<n>\d+)x16\S* R(?P<d>\d+), (?:R(?P<a>\d+)|gdesc\[\w+\])")
# Instructions whose first register is no result.
STORES = ("ST", "RED", "LDGSTS", "UTMA", "SYNCS", "BAR", "R2UR", "ISETP", "FSETP", "HSETP", "DSETP", "PLOP3", "R2P", "CCTL", "UBLKCP", "FCHK")


def sass(text):
    """The kernels of what `nvdisasm -c` prints."""
    program = None
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            if program:
                yield program
            program = Program(section[1])
        elif label := re.match(r"^(\.L\S*):", line):
            program.labels[label[1]] = len(program.code)
        elif found := re.match(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            program.code.append(sass_instruction(found[2], f"0x{found[1]}"))
    if program:
        yield program


def sass_instruction(text, where):
    one = Instruction(where, text)
    predicate = re.match(r"^@!?U?P[T\d]+ ", text)
    op = text[predicate.end() :] if predicate else text
    name, _, operands = op.partition(" ")
    operands = [part.strip() for part in operands.split(",")]
    named = [[int(n) for n in SASS_REGISTER.findall(part)] for part in operands]
    if name.startswith("HGMMA"):
        found = HGMMA.match(op)
        one.kind = "mma"
        one.accumulators = registers(int(found["d"]), int(found["n"]) // 2)
        one.a = registers(int(found["a"]), 4) if found["a"] else NONE
        one.commits = "gsb0" in op
        return one
    if name.startswith("WARPGROUP.DEPBAR"):
        one.kind, one.left = "wait", int(operands[-1], 16)
        return one
    if name.startswith(("CALL", "BRX", "JMX", "RET")):
        one.kind = "opaque"
        one.falls_through = not name.startswith("RET") or predicate is not None
    elif name.startswith("BRA"):
        one.target = re.search(r"`\((.*?)\)", op)[1]
        # `BRA.U UP0, …` and `BRA P0, …` have their condition among the operands.
        one.falls_through = predicate is not None or len(operands) > 1
    elif name.startswith("EXIT"):
        one.falls_through = predicate is not None
        one.kind = "end"
    width = 4 if re.search(r"\.128\b|M88\.4|MT88\.4", name) else 2 if wide(name) else 1
    if name.startswith(STORES):
        data = [n for part, found in zip(operands, named) for n in found if "[" not in part]
        one.reads = frozenset().union(*(registers(n, width) for n in data), *address(operands))
    else:
        # The first register outside of an address is the result; a predicate may stand before it.
        result = next((found[0] for part, found in zip(operands, named) if found and "[" not in part), None)
        first = re.match(r"^(?:P[T\d], )*R\d+", ", ".join(operands)) is not None
        # Of what a wide multiplication reads, the addend is wide, its last operand.
        wides = operands[-1:] if "WIDE" in name else operands if wide(name) else []
        sources = [registers(n, 2 if part in wides else 1) for part, found in zip(operands, named) for n in found if "[" not in part]
        if first:
            one.writes = registers(result, width)
            sources = sources[1:]
        one.reads = frozenset().union(*sources, *address(operands))
    return one


def wide(name):
    return re.search(r"\.64\b|M88\.2|MT88\.2|WIDE|\.F64", name) is not None or name == "CS2R" or re.match(r"D[A-Z]{3}", name) is not None


def registers(first, count):
    return frozenset(range(first, first + count))


def address(operands):
    """Registers of addresses, pairs where they say so."""
    for part in operands:
        for number, pair in re.findall(r"(?<![A-Z\d_.])R(\d+)(\.64)?", part if "[" in part else ""):
            yield registers(int(number), 2 if pair else 1)
