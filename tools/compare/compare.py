"""PyTorch and diffusers beside cascade-rt on this machine's CPU: same work, taken in turns.

    compare.py kernels  --rust "cargo bench --bench kernels -- --json"
    compare.py pipeline --model DIR --binary target/release/cascade-rt --width 512 --height 512 --dtype bf16
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from math import ceil
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOLERANCE = {"f32": 1e-3, "bf16": 0.1}  # relative L2 between the two programs' results


def run(command: list[str], threads: int) -> dict:
    """Runs to the end; gives stdout, wall seconds and the peak resident memory of that process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{shlex.join(command)}\nended with {process.returncode}:\n{errors.read().decode()[-4000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"output": output, "wall": seconds, "cpu": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * unit}


def in_turns(rounds: int, programs: dict) -> dict[str, list]:
    """Each program once per round; the order turns round, so that drift of the machine hits both."""
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"warning: load average is {busy:.1f}; other work on this machine spoils the times", file=sys.stderr)
    results = {name: [] for name in programs}
    for i in range(rounds):
        for name in (list(programs) if i % 2 == 0 else list(programs)[::-1]):
            print(f"round {i + 1} of {rounds}: {name}", file=sys.stderr)
            results[name].append(programs[name]())
    return results


def spread(values: list[float]) -> dict:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ---------------------------------------------------------------- kernels

def json_lines(text: str) -> list[dict]:
    lines = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and {"name", "dtype", "median_ms"} <= set(value):
            lines.append(value)
    return lines


def kernels(options) -> None:
    torch_command = [sys.executable, str(HERE / "torch_kernels.py"), "--threads", str(options.threads),
                     "--only", options.only, "--seconds", str(options.seconds)]

    def program(command):
        def measure():
            lines = json_lines(run(command, options.threads)["output"])
            if not lines:
                sys.exit(f"{shlex.join(command)} printed no JSON line with name, dtype and median_ms")
            return {(line["name"], line["dtype"]): line for line in lines}
        return measure

    taken = in_turns(options.rounds, {"torch": program(torch_command), "rust": program(shlex.split(options.rust))})
    rows = []
    for name, dtype in taken["torch"][0]:
        key = (name, dtype)
        torch_ms = [r[key]["median_ms"] for r in taken["torch"]]
        rust_ms = [r[key]["median_ms"] for r in taken["rust"] if key in r]
        row = {"name": name, "dtype": dtype, "torch_ms": spread(torch_ms),
               "torch_gflops": taken["torch"][0][key]["gflops"]}
        if len(rust_ms) == len(torch_ms):
            row |= {"rust_ms": spread(rust_ms), "speedup": spread([t / r for t, r in zip(torch_ms, rust_ms)])}
        rows.append(row)
    if options.json:
        return print(json.dumps(rows))
    print("speedup = torch ms / rust ms: above 1, cascade-rt is faster\n")
    print(f"{'name':32}{'dtype':6}{'torch ms':>10}{'rust ms':>10}{'speedup':>9}   over rounds")
    for row in rows:
        print(f"{row['name']:32}{row['dtype']:6}{row['torch_ms']['median']:10.3f}", end="")
        if "speedup" in row:
            s = row["speedup"]
            print(f"{row['rust_ms']['median']:10.3f}{s['median']:9.2f}   {s['min']:.2f} to {s['max']:.2f}")
        else:
            print(f"{'-':>10}{'-':>9}")
    known = {(row["name"], row["dtype"]) for row in rows}
    extra = sorted(set(taken["rust"][0]) - known)
    if extra:
        print("only in the Rust bench: " + ", ".join(" ".join(key) for key in extra))


# ---------------------------------------------------------------- pipeline

def check_size(width: int, height: int) -> None:
    """diffusers gives other sizes than asked for, or crashes; both programs must do the same work."""
    latent = [ceil(side / 42.67) for side in (width, height)]
    given = [4 * int(side * 10.67) for side in latent]
    if given != [width, height] or min(latent) < 2 or any(side // 4 % 2 for side in given):
        sys.exit(f"diffusers cannot make {width}x{height}; multiples of 128 always work")


def printed_json(text: str) -> dict:
    """All of the output if that is JSON, else its last line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return json.loads(text.strip().splitlines()[-1])


def stage_seconds(value: dict) -> dict[str, float]:
    """The seconds per stage in what `generate --json` prints, whether flat or below one key."""
    for candidate in (value, *(v for v in value.values() if isinstance(v, dict))):
        found = {}
        for stage in ("load", "text", "stage_c", "stage_b", "stage_a"):
            for suffix, scale in (("", 1), ("_s", 1), ("_seconds", 1), ("_ms", 1e-3)):
                if isinstance(candidate.get(stage + suffix), (int, float)):
                    found[stage] = candidate[stage + suffix] * scale
        if found:
            return found
    return {}


def relative_l2(folder: Path) -> dict[str, float]:
    import numpy as np
    from safetensors.numpy import load_file

    ours, theirs = load_file(folder / "rust.safetensors"), load_file(folder / "torch.safetensors")
    errors = {}
    for name in ("stage_c", "stage_b", "image"):
        a, b = ours[name].astype(np.float64), theirs[name].astype(np.float64)
        if a.shape != b.shape:
            sys.exit(f"{name} differs in shape: cascade-rt {a.shape}, diffusers {b.shape}")
        error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        errors[name] = error if np.isfinite(error) else float("inf")
    return errors


def pipeline(options) -> None:
    check_size(options.width, options.height)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        steps, guidance = [[str(v) for v in pair] for pair in (options.steps, options.guidance)]
        prior = ["--prior", str(options.prior)] if options.prior else []
        torch_command = [
            sys.executable, str(HERE / "torch_pipeline.py"), "--model", str(options.model), *prior,
            "--prompt", options.prompt, "--width", str(options.width), "--height", str(options.height),
            "--seed", str(options.seed), "--steps", *steps, "--guidance", *guidance, "--dtype", options.dtype,
            "--timesteps", options.timesteps, "--threads", str(options.threads),
            "--dump", str(folder / "torch.safetensors")]
        rust_command = [
            *shlex.split(options.binary), "generate", options.prompt, "-m", str(options.model), *prior,
            "-W", str(options.width), "-H", str(options.height), "-s", str(options.seed),
            "--steps", ",".join(steps), "--guidance", ",".join(guidance), "--dtype", options.dtype,
            "--noise", "torch" if options.dtype == "f32" else "torch-bf16", "--device", options.device,
            "-o", str(folder / "out.png"), "--dump", str(folder / "rust.safetensors"), "--json", "--force"]
        programs = {"diffusers": lambda: run(torch_command, options.threads),
                    "cascade-rt": lambda: run(rust_command, options.threads)}
        taken = in_turns(options.rounds, programs)
        errors = relative_l2(folder)

    report = {"request": {k: v for k, v in vars(options).items() if isinstance(v, (int, float, str, list))}}
    for name, runs in taken.items():
        stages = [stage_seconds(printed_json(r["output"])) for r in runs]
        report[name] = {
            "wall_s": spread([r["wall"] for r in runs]), "cpu_s": spread([r["cpu"] for r in runs]),
            "peak_mib": spread([r["peak_bytes"] / 2**20 for r in runs]),
            "stages_s": {k: spread([s[k] for s in stages]) for k in stages[0] if all(k in s for s in stages)}}
    pairs = list(zip(taken["diffusers"], taken["cascade-rt"]))
    report["wall_speedup"] = spread([a["wall"] / b["wall"] for a, b in pairs])
    report["memory_ratio"] = spread([b["peak_bytes"] / a["peak_bytes"] for a, b in pairs])
    report["relative_l2"] = errors
    tolerance = TOLERANCE[options.dtype] if options.tolerance is None else options.tolerance
    report["agree"] = all(error <= tolerance for error in errors.values())
    print(json.dumps(report, indent=1)) if options.json else print_report(report, tolerance)
    sys.exit(0 if report["agree"] else 1)


def print_report(report: dict, tolerance: float) -> None:
    rows = [("wall s, whole process", "wall_s"), ("cpu s", "cpu_s"), ("peak memory MiB", "peak_mib")]
    print(f"{'':24}{'diffusers':>30}{'cascade-rt':>30}   median (min to max)")
    for label, key in rows:
        print_row(label, report["diffusers"][key], report["cascade-rt"][key])
    for stage in ("load", "text", "stage_c", "stage_b", "stage_a"):
        sides = [report[name]["stages_s"].get(stage) for name in ("diffusers", "cascade-rt")]
        if any(sides):
            print_row(f"{stage} s", *sides)
    speed, memory = report["wall_speedup"], report["memory_ratio"]
    print(f"\ncascade-rt is {speed['median']:.2f} times as fast ({speed['min']:.2f} to {speed['max']:.2f} over rounds)"
          f" and takes {memory['median']:.2f} of the memory")
    errors = ", ".join(f"{k} {v:.2e}" for k, v in report["relative_l2"].items())
    print(f"relative L2 of the results: {errors}: "
          + (f"within {tolerance:g}" if report["agree"] else f"ABOVE {tolerance:g}, the two did not do the same work"))


def print_row(label: str, *sides) -> None:
    cells = ["-" if s is None else f"{s['median']:.3f} ({s['min']:.2f} to {s['max']:.2f})" for s in sides]
    print(f"{label:24}" + "".join(f"{c:>30}" for c in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("kernels", help="single operations")
    command.add_argument("--rust", default="cargo bench --bench kernels -- --json", help="command printing JSON lines")
    command.add_argument("--only", default="", help="PyTorch operations whose name contains this")
    command.add_argument("--seconds", type=float, default=1.0, help="time per PyTorch operation")
    command.set_defaults(action=kernels)

    command = commands.add_parser("pipeline", help="prompt to picture")
    command.add_argument("--model", type=Path, required=True, help="diffusers folder with decoder/ and vqgan/")
    command.add_argument("--prior", type=Path, help="where prior/ is, if not in --model or its sibling")
    command.add_argument("--binary", default="target/release/cascade-rt", help="cascade-rt")
    command.add_argument("--prompt", default="a red fox in the snow, 35mm photograph")
    command.add_argument("--width", type=int, default=512)
    command.add_argument("--height", type=int, default=512)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, nargs=2, default=[20, 10], metavar=("C", "B"))
    command.add_argument("--guidance", type=float, nargs=2, default=[4.0, 0.0], metavar=("C", "B"))
    command.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    command.add_argument("--timesteps", choices=["exact", "rounded"], default="exact",
                         help="in bf16: f32 timesteps for diffusers, or its own rounded ones (results differ)")
    command.add_argument("--device", default="cpu", help="of cascade-rt")
    command.add_argument("--tolerance", type=float, help=f"relative L2 allowed; default {TOLERANCE}")
    command.set_defaults(action=pipeline)

    for command in commands.choices.values():
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.action(options)


if __name__ == "__main__":
    main()
