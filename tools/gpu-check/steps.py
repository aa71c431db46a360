"""The steps in order. Results are written after every step, so that an interrupted run loses nothing."""

import json
import time
import traceback
from pathlib import Path

import correct
import fast
import report
from machine import Machine, NotMeasured, alone

# Name, group, the seconds with which it is worth beginning, time limit in seconds, function. What decides whether anything else is
# worth knowing comes first: kernels, then pictures, then times, then what takes long.
STEPS = [
    ("environment", "", 5, 60, correct.environment),
    ("kernels-cuda", "correct", 20, 210, correct.kernels_cuda),
    ("scaled-linear", "correct", 10, 45, correct.scaled_linear),
    ("picture-demo", "correct", 10, 60, correct.picture_demo),
    ("picture-large", "correct", 60, 165, correct.picture_large),
    ("start-up", "fast", 10, 60, fast.start_up),
    ("synthetic-large", "fast", 40, 120, fast.synthetic_large),
    ("synthetic-large-sm80", "fast", 40, 120, fast.synthetic_large_sm80),
    ("synthetic-large-serial", "fast", 40, 120, fast.synthetic_large_serial),
    ("profile-large", "fast", 40, 90, fast.profile_large),
    ("bench-cuda", "fast", 60, 240, fast.bench_cuda),
    ("synthetic-lite", "fast", 30, 120, fast.synthetic_lite),
    ("dependent-launch", "more", 20, 60, correct.dependent_launch),
    ("networks", "more", 20, 60, correct.networks),
    ("pipelines", "more", 30, 150, correct.pipelines),
    ("sanitizer-memcheck", "sanitize", 30, 240, correct.memcheck),
    ("sanitizer-racecheck", "sanitize", 30, 240, correct.racecheck),
    ("beside-large", "beside", 60, 300, fast.beside_large),
    ("diffusers-eager", "beside", 60, 240, fast.diffusers_eager),
    ("fidelity", "beside", 60, 240, fast.fidelity),
    ("diffusers-compiled", "beside", 120, 420, fast.diffusers_compiled),
    ("kernels-vulkan", "vulkan", 20, 180, correct.kernels_vulkan),
    ("validation-vulkan", "vulkan", 30, 180, correct.validation_vulkan),
    ("backend-vulkan", "vulkan", 20, 60, correct.backend_vulkan),
    ("demo", "vulkan", 20, 60, correct.demo),
    ("bench-vulkan", "vulkan", 60, 300, fast.bench_vulkan),
    ("synthetic-lite-vulkan", "vulkan", 40, 180, fast.synthetic_lite_vulkan),
]

# Seconds at the end of a run in which nothing is begun or runs on: reports are written, and files copied back.
RESERVE = 10

# A step of these statuses is over; others are begun again, or go on where they stopped.
DONE = ("ok", "failed")


def listing() -> str:
    groups: dict = {}
    for name, group, *_ in STEPS:
        groups.setdefault(group or "always", []).append(name)
    return "steps:\n" + "\n".join(f"  {group:9} {', '.join(names)}" for group, names in groups.items())


def chosen(words: str) -> list:
    wanted = set(words.split(","))
    known = {"all"} | {name for name, *_ in STEPS} | {group for _, group, *_ in STEPS}
    if unknown := wanted - known:
        raise SystemExit(f"there is no step or group {', '.join(sorted(unknown))}\n{listing()}")
    return [step for step in STEPS if step[1] == "" or wanted & {"all", step[0], step[1]}]


def merged(files: list) -> dict:
    """The results of several runs. A measurement is replaced by a later one, but not by a reason why there is none."""
    results: dict = {}
    for file in files:
        for name, result in json.loads(Path(file).read_text()).items():
            if name not in results or result["status"] not in ("not measured", "not reached"):
                results[name] = result
    return results


def one(machine: Machine, limit: float, action) -> dict:
    """Runs a step. If it raises an exception, that becomes its result."""
    start, result = machine.clock(), {}
    machine.commands, machine.step_end = [], start + limit
    try:
        result = action(machine)
        # If a step returns no status, it failed if one of its commands did.
        bad = [command for command in machine.commands if command["rc"]]
        status = result.pop("status", None) or ("failed" if bad else "ok")
        if status == "failed" and bad and all(command["timed_out"] for command in bad):
            status = "timed out"
    except NotMeasured as why:
        status, result = "not measured", {"reason": str(why)}
    except Exception:
        status, result = "failed", {"reason": traceback.format_exc(limit=-3)}
    return {"status": status, "seconds": round(machine.clock() - start, 1),
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "quick": machine.quick,
            **result, "commands": machine.commands}


def run_steps(machine: Machine, todo: list, results: dict, again: bool, save) -> None:
    """Runs the steps for which there is time. What does not fit into it is said, and what is shorter and comes later may still run."""
    for name, group, least, limit, action in todo:
        known = results.get(name, {})
        if known.get("status") in DONE and known["quick"] == machine.quick and group and not again:
            print(f"{name}: {known['status']} in an earlier run; --again repeats it", flush=True)
            continue
        left = machine.deadline - machine.clock() - RESERVE
        if left < least:
            if known.get("status") in (None, "not reached"):
                results[name] = {"status": "not reached", "quick": machine.quick, "reason":
                                 f"{max(left, 0):.0f} s were left, and it takes {least} s at least"}
                save()
            continue
        print(f"{name} ...", end=" ", flush=True)
        machine.earlier = {} if again or known.get("quick") != machine.quick else known
        results[name] = one(machine, min(limit, left), action)
        print(results[name]["status"], f"{results[name]['seconds']:.0f} s", results[name].get("reason", ""), flush=True)
        save()


def run(package: Path, options) -> int:
    todo = chosen(options.steps)
    machine = Machine(package, options)
    file = machine.out / "results.json"
    results = merged([*options.after, *([file] if file.exists() else [])])

    def save() -> None:
        file.write_text(json.dumps(results, indent=1))
        (machine.out / "report.md").write_text(report.markdown(results))

    with alone(machine.work):
        run_steps(machine, todo, results, options.again, save)
    save()
    print(f"{file}\n{machine.out / 'report.md'}")
    if left := report.not_reached(results):
        print(f"not reached: {', '.join(left)}; go on with --after {file}")
    return 1 if any(result["status"] in ("failed", "timed out") for result in results.values()) else 0
