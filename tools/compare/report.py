"""Prints tables of measurements in Markdown."""

import json
import statistics
import sys
from pathlib import Path

from environment import spread

STAGES = ["text", "stage_c", "stage_b", "stage_a"]
OURS = "cascade-rt"
MIB = 2**20


def read(files: list[Path]) -> list[dict]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]


def cells(records: list[dict]) -> dict[tuple, dict[str, list]]:
    """Groups records by model, device, size and dtype, and within that by program, with cascade-rt last."""
    found = {}
    for record in sorted(records, key=lambda r: (r["program"] == OURS, r["program"])):
        key = (record["model"], record["device"], record["width"], record["height"], record["dtype"])
        found.setdefault(key, {}).setdefault(record["program"], []).append(record)
    return found


def seconds(records: list[dict], name: str, warm: bool = True) -> list[float]:
    """The times of warm pictures. With `warm=False`, also those of cold ones: `load` and `process` are times of a whole
    process, which are recorded with its first picture."""
    return [r["seconds"][name] for r in records if name in r["seconds"] and (r["warm"] or not warm)]


def ratios(theirs: list[dict], ours: list[dict], name: str, warm: bool) -> list[float]:
    """Their time divided by ours for each pair of pictures; if the numbers of pictures differ, the ratio of medians."""
    a, b = seconds(theirs, name, warm), seconds(ours, name, warm)
    return [x / y for x, y in zip(a, b)] if len(a) == len(b) else [statistics.median(a) / statistics.median(b)]


def shown(values: list[float], digits: int = 2) -> str:
    if not values:
        return "-"
    median, least, most = spread(values)
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def pictures(records: list[dict]) -> None:
    for (model, device, width, height, dtype), programs in cells(records).items():
        first = next(iter(programs.values()))[0]
        steps = " + ".join(map(str, first["steps"]))
        print(f"\n**{model}, {width}×{height}, {dtype}**, {steps} steps, guidance {first['guidance'][0]:g} and "
              f"{first['guidance'][1]:g}, on {device} ({first['machine']}, {first['threads']} threads), "
              f"{first['date']}; seconds, median (minimum to maximum)\n")
        row("", *programs)
        row("---", *["---"] * len(programs))
        for name in ("picture", *STAGES):
            row(name, *(shown(seconds(records, name)) for records in programs.values()))
        row("process start to first picture", *(shown(seconds(records, "process", False)) for records in programs.values()))
        row("of which loading", *(shown(seconds(records, "load", False)) for records in programs.values()))
        row("CPU time of a picture", *(shown([r["cpu"] for r in records if r["warm"]]) for records in programs.values()))
        row("peak memory, MiB", *(f"{max(r['peak_bytes'] for r in records) / MIB:.0f}" for records in programs.values()))
        row("pictures", *(str(sum(r["warm"] for r in records)) for records in programs.values()))
        mine = programs.get(OURS, [])
        for name, theirs in programs.items():
            beside = [r for r in mine if r.get("beside") == name]
            if not beside or name == OURS:
                continue
            memory = max(r["peak_bytes"] for r in theirs) / max(r["peak_bytes"] for r in beside)
            start = statistics.median(seconds(theirs, "process", False)) / statistics.median(seconds(beside, "process", False))
            worst = {key: max(r["relative_l2"][key] for r in beside) for key in beside[0]["relative_l2"]}
            errors = ", ".join(f"{key} {error:.1e}" for key, error in worst.items())
            print(f"\nCompared with {name} (above 1, {OURS} is better): picture {shown(ratios(theirs, beside, 'picture', True))}, "
                  f"start to first picture {start:.1f}, memory {memory:.1f}. Largest relative L2 errors: {errors}.")


def kernels(records: list[dict]) -> None:
    """One row per operation and dtype. The ratio after each program is how many times as fast cascade-rt is."""
    names = [name for name in dict.fromkeys(r["program"] for r in records) if name != OURS]
    row("kernel", "", f"{OURS}, ms", *(column for name in names for column in (f"{name}, ms", "ratio")))
    row(*["---"] * (3 + 2 * len(names)))
    taken = {}
    for r in records:
        taken.setdefault((r["name"], r["dtype"]), {}).setdefault(r["program"], []).append(r["median_ms"])
    for (name, dtype), programs in taken.items():
        mine, columns = programs.get(OURS, []), []
        for other in names:
            theirs = programs.get(other, [])
            columns += [shown(theirs, 3), shown([t / m for t, m in zip(theirs, mine)])]
        row(name, dtype, shown(mine, 3), *columns)


def run(options) -> int:
    records = read(options.results)
    if not records:
        sys.exit("these files contain no results")
    pictures([r for r in records if "seconds" in r])
    single = [r for r in records if "median_ms" in r]
    if single:
        print()
        kernels(single)
    return 0
