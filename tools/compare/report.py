"""Tables of what was measured, in Markdown."""

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
    """Records by model, device, size and dtype, and therein by program; ours last."""
    found = {}
    for record in sorted(records, key=lambda r: (r["program"] == OURS, r["program"])):
        key = (record["model"], record["device"], record["width"], record["height"], record["dtype"])
        found.setdefault(key, {}).setdefault(record["program"], []).append(record)
    return found


def seconds(records: list[dict], name: str, warm: bool = True) -> list[float]:
    """Of warm pictures; `load` and `process` belong to whole processes, which begin with a cold one."""
    return [r["seconds"][name] for r in records if name in r["seconds"] and (r["warm"] or not warm)]


def ratios(theirs: list[dict], ours: list[dict], name: str, warm: bool) -> list[float]:
    """Theirs by ours, picture by picture as they were taken; if they do not pair up, of medians."""
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
              f"{first['date']}; seconds, median (least to most)\n")
        row("", *programs)
        row("---", *["---"] * len(programs))
        for name in ("picture", *STAGES):
            row(name, *(shown(seconds(records, name)) for records in programs.values()))
        row("process start to first picture", *(shown(seconds(records, "process", False)) for records in programs.values()))
        row("of which until ready", *(shown(seconds(records, "load", False)) for records in programs.values()))
        row("processor time of a picture", *(shown([r["cpu"] for r in records if r["warm"]]) for records in programs.values()))
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
            print(f"\nAgainst {name}, ratios above 1 being ours: picture {shown(ratios(theirs, beside, 'picture', True))}, "
                  f"start to first picture {start:.1f}, memory {memory:.1f}. Relative L2 at most: {errors}.")


def kernels(records: list[dict]) -> None:
    """One line per operation and dtype, and beside each program how many times as fast ours is."""
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
        sys.exit("there are no results in these files")
    pictures([r for r in records if "seconds" in r])
    single = [r for r in records if "median_ms" in r]
    if single:
        print()
        kernels(single)
    return 0
