"""The steps in order. Results are written after every step, so that an interrupted run loses nothing."""

import json
import time
import traceback
from pathlib import Path

import correct
import fast
import report
from machine import Machine, NotMeasured, alone

# Name, group, time limit in seconds, function. On a data centre GPU, the steps of a group take less than ten minutes.
STEPS = [
    ("environment", "", 60, correct.environment),
    ("kernels-cuda", "correct", 240, correct.kernels_cuda),
    ("kernels-vulkan", "correct", 180, correct.kernels_vulkan),
    ("networks", "correct", 60, correct.networks),
    ("pipelines", "correct", 150, correct.pipelines),
    ("backend-vulkan", "correct", 60, correct.backend_vulkan),
    ("demo", "correct", 60, correct.demo),
    ("dependent-launch", "correct", 60, correct.dependent_launch),
    ("sanitizer-memcheck", "sanitize", 240, correct.memcheck),
    ("sanitizer-racecheck", "sanitize", 240, correct.racecheck),
    ("synthetic-lite", "fast", 120, fast.synthetic_lite),
    ("synthetic-large", "fast", 150, fast.synthetic_large),
    ("synthetic-large-sm80", "fast", 150, fast.synthetic_large_sm80),
    ("synthetic-large-serial", "fast", 150, fast.synthetic_large_serial),
    ("profile-large", "fast", 90, fast.profile_large),
    ("bench-cuda", "fast", 240, fast.bench_cuda),
    ("bench-vulkan", "vulkan", 300, fast.bench_vulkan),
    ("synthetic-lite-vulkan", "vulkan", 180, fast.synthetic_lite_vulkan),
    ("beside-large", "beside", 300, fast.beside_large),
    ("diffusers-eager", "beside", 240, fast.diffusers_eager),
    ("fidelity", "beside", 240, fast.fidelity),
    ("diffusers-compiled", "beside", 420, fast.diffusers_compiled),
]


def listing() -> str:
    groups: dict = {}
    for name, group, _, _ in STEPS:
        groups.setdefault(group or "always", []).append(name)
    return "steps:\n" + "\n".join(f"  {group:9} {', '.join(names)}" for group, names in groups.items())


def chosen(words: str) -> list:
    wanted = set(words.split(","))
    known = {"all"} | {name for name, *_ in STEPS} | {group for _, group, *_ in STEPS}
    if unknown := wanted - known:
        raise SystemExit(f"there is no step or group {', '.join(sorted(unknown))}\n{listing()}")
    return [step for step in STEPS if step[1] == "" or wanted & {"all", step[0], step[1]}]


def one(machine: Machine, limit: float, action) -> dict:
    """Runs a step. If it raises an exception, that becomes its result."""
    machine.commands, machine.step_end = [], time.monotonic() + limit
    start, result = time.monotonic(), {}
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
    return {"status": status, "seconds": round(time.monotonic() - start, 1),
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "quick": machine.quick,
            **result, "commands": machine.commands}


def run(package: Path, options) -> int:
    todo = chosen(options.steps)
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    machine = Machine(package, options)
    with alone(machine.work):
        for name, _, limit, action in todo:
            known = results.get(name, {})
            done = known.get("status") in ("ok", "failed") and known["quick"] == options.quick
            if done and name != "environment" and not options.again:
                print(f"{name}: {known['status']} in an earlier run; --again repeats it", flush=True)
                continue
            if machine.deadline - time.monotonic() < 10:
                results.setdefault(name, {"status": "not measured", "reason": "the time limit of the run was reached"})
                continue
            print(f"{name} ...", end=" ", flush=True)
            results[name] = one(machine, limit, action)
            print(results[name]["status"], f"{results[name]['seconds']:.0f} s", results[name].get("reason", ""), flush=True)
            file.write_text(json.dumps(results, indent=1))
            (options.out / "report.md").write_text(report.markdown(results))
    print(f"{file}\n{options.out / 'report.md'}")
    return 1 if any(result["status"] in ("failed", "timed out") for result in results.values()) else 0
