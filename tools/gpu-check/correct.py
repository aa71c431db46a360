"""Steps that check results."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import layers
from dumps import relative_l2, tensors
from machine import Machine, NotMeasured, rounding

EXACTLY = ["--exact", "--nocapture", "--test-threads", "1"]
LEAST_OF_OP = 5  # seconds with which the kernels of another op are begun
FOUND = 99  # exit code of compute-sanitizer if it reports an error
KERNELS = ["every_kernel_matches_its_reference", *EXACTLY]


def environment(machine: Machine) -> dict:
    """Describes the machine: GPU, driver, system, program."""
    fields = ["name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw",
              "power.limit", "temperature.gpu", "memory.total", "compute_cap"]
    gpu = machine.run(["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], 30)
    values = gpu["stdout"].strip().splitlines()
    version = machine.run([machine.program("cascade-rt"), "--version"], 10)
    kernels = machine.run(["uname", "-srm"], 10)
    torch = machine.run([machine.python, "-c", "import torch; print(torch.__version__, torch.version.cuda)"], 60)
    about = json.loads((machine.package / "package.json").read_text())
    return {"status": "ok" if version["rc"] == 0 else "failed",
            "gpu": dict(zip(fields, (value.strip() for value in values[0].split(",")))) if values else {},
            "program": version["stdout"].strip(), "commit": about["commit"], "changed": about["changed"],
            "system": kernels["stdout"].strip(), "c_library": os.confstr("CS_GNU_LIBC_VERSION"),
            "cores": os.cpu_count(), "torch": torch["stdout"].strip(), "devices": machine.devices}


# ---------------------------------------------------------------- kernels

def parse_kernels(text: str) -> dict:
    """Parses the output of the kernel tests: kernels with their cases, failures, and kernels that were skipped."""
    rows = [{"op": op, "kernel": kernel, "cases": int(cases), "failed": int(failed)} for op, kernel, cases, failed in
            re.findall(r"(?:^|\.\.\. )(\S+) +(\S+) +(\d+) cases, (\d+) failed\b", text, re.M)]
    different = [line.strip() for line in text.splitlines() if re.search(r"allowed \S+e-\d+$", line.strip())]
    skipped = re.findall(r"SKIPPED (\S+ \S+): this machine lacks (.+)", text)
    return {"rows": rows, "different": different, "skipped": [f"{name} ({why})" for name, why in skipped]}


def ops(machine: Machine) -> list:
    listed = machine.json([machine.program("cascade-rt"), "kernels", "--json"], 60) or []
    every = sorted({entry["op"] for entry in listed})
    return ["add", "layer_norm"] if machine.quick else every


def kernels(machine: Machine, lang: str, seconds: float, wrap=(), **more) -> dict:
    """Tests the kernels of each op in a new process, so that a kernel that crashes the device does not affect others. Goes on
    where an earlier run of this step stopped."""
    earlier = machine.earlier if machine.earlier.get("not_reached") else {}
    all_rows, crashed, different, skipped = (earlier.get(key, []) for key in ("rows", "crashed", "different", "skipped"))
    outputs, todo = {}, earlier.get("not_reached") or ops(machine)
    while todo and machine.left() > LEAST_OF_OP:
        op = todo.pop(0)
        # The test selects kernels by substring, so some may run for two ops; duplicate rows are dropped below.
        done = machine.run([*wrap, machine.program("test-kernels"), *KERNELS], seconds,
                           CASCADE_KERNELS=op, CASCADE_LANG=lang, **more)
        text = done["stdout"] + done["stderr"]
        outputs[op] = text
        parsed = parse_kernels(text)
        for row in parsed["rows"]:
            if row not in all_rows:
                all_rows.append(row)
        different += [line for line in parsed["different"] if line not in different]
        skipped += [line for line in parsed["skipped"] if line not in skipped]
        explained = parsed["different"] or "no kernel was tested" in text or wrap and done["rc"] == FOUND
        if done["rc"] and not explained:
            last = [line for line in text.splitlines() if "panicked" in line or "error" in line.lower()]
            crashed.append({"op": op, "timed_out": done["timed_out"], "why": "; ".join(last[-2:])[:300]})
        if not parsed["rows"] and re.search(r"^[1-9]\d* kernel cases$", text, re.M):
            crashed.append({"op": op, "timed_out": False, "why": "kernels ran, but this tool cannot read what the test printed"})
        if done["rc"] == 0 or explained:
            machine.commands.pop()  # the table already contains the result
    bad = crashed or any(row["failed"] for row in all_rows)
    return {"status": "failed" if bad else "partial" if todo else "ok" if all_rows else "not measured",
            **({} if all_rows or todo else {"reason": "no kernel ran"}),
            "rows": all_rows, "cases": sum(row["cases"] for row in all_rows),
            "failed": sum(row["failed"] for row in all_rows), "different": different, "crashed": crashed,
            "skipped": skipped, "not_reached": todo, "outputs": outputs}


def kernels_cuda(machine: Machine) -> dict:
    machine.device("cuda")
    return without_outputs(kernels(machine, "cuda", 60))


def scaled_linear(machine: Machine) -> dict:
    """Runs Hopper's linear layers whose input GRN scales a hundred times, and compares them with the kernel for older GPUs."""
    machine.device("cuda")
    done = machine.run([machine.program("test-kernels"), "repeats::scaled_layers_give_the_same_bits_every_time", *EXACTLY], 90)
    rows = [{"kernel": kernel, "runs": int(runs), "other_bits": int(others), "error": float(error)} for kernel, runs, others, error
            in re.findall(r"(\S+) (\d+) runs, (\d+) with other bits, ([\d.e+-]+) from", done["stdout"])]
    if not rows and done["rc"] == 0:
        raise NotMeasured("this is no Hopper GPU")
    return {"rows": rows}


def kernels_vulkan(machine: Machine) -> dict:
    device = machine.device("wgpu")
    return without_outputs(kernels(machine, "wgsl", 60)) | {"device": device["description"]}


def validation_vulkan(machine: Machine) -> dict:
    """Runs the shaders under Khronos' validation layers, after two faulty ones that they must notice."""
    machine.device("wgpu")
    about, library = json.loads((machine.package / "package.json").read_text()), machine.work / "lib" / layers.FILE
    if not library.exists():
        raise NotMeasured("the package has no validation layers")
    watched = layers.environment(machine.work / "layers", library, about["layers"]) | {"CASCADE_QUICK": "1"}
    with machine.scratch() as folder:
        faulty = layers.plant(machine.root / "shaders", Path(folder))
        done = machine.run([machine.program("test-kernels"), *KERNELS], 90, CASCADE_LANG="wgsl", **watched, **faulty)
        machine.commands.pop()  # it is meant to fail
        text = done["stdout"] + done["stderr"]
        missed = layers.missed([*layers.reports(text), *parse_kernels(text)["different"]])
    result = kernels(machine, "wgsl", 90, **watched)
    reports = sorted({line for text in result.pop("outputs").values() for line in layers.reports(text)})
    failed = missed or reports or result["status"] == "failed"
    return result | {"status": "failed" if failed else result["status"], "missed": missed, "reports": reports,
                     "layers": about["layers"]}


def without_outputs(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "outputs"}


# ---------------------------------------------------------------- sanitizers

def parse_sanitizer(text: str) -> tuple:
    """The number of errors that compute-sanitizer reports, or `None` if it printed no summary; and their kinds."""
    totals = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    kinds: dict = {}
    pattern = r"========= (?:Error: |Warning: )?((?:Invalid|Race|Potential|Uninitialized|Barrier|Program hit)[^\n]*)"
    for line in re.findall(pattern, text):
        # Addresses differ between errors of the same kind.
        kind = re.sub(r"0x[0-9a-f]+", "0x…", line).strip()[:160]
        kinds[kind] = kinds.get(kind, 0) + 1
    return (sum(map(int, totals)) if totals else None), kinds


def sanitizer(machine: Machine, tool: str) -> dict:
    machine.device("cuda")
    program = shutil.which("compute-sanitizer", path=machine.environment["PATH"])
    if not program:
        raise NotMeasured("compute-sanitizer is not installed")
    result = kernels(machine, "cuda", 60, [program, "--tool", tool, "--error-exitcode", str(FOUND)])
    outputs, findings, silent = result.pop("outputs"), {}, []
    for op, text in outputs.items():
        total, kinds = parse_sanitizer(text)
        if total is None:
            silent.append(op)
        elif total:
            findings[op] = {"total": total, "kinds": kinds}
    if outputs and len(silent) == len(outputs):
        refusal = [line for text in outputs.values() for line in text.splitlines() if line.startswith("=========")]
        raise NotMeasured(f"{tool} did not run: {' '.join(refusal[:2])[:200] or 'no summary'}")
    return result | {"status": "failed" if findings or result["status"] == "failed" else "ok",
                     "findings": findings, "without_summary": silent, "ops": len(outputs)}


def memcheck(machine: Machine) -> dict:
    return sanitizer(machine, "memcheck")


def racecheck(machine: Machine) -> dict:
    return sanitizer(machine, "racecheck")


# ---------------------------------------------------------------- networks and pictures

def tests(machine: Machine, name: str, seconds: float, *words: str) -> dict:
    """Runs a test program, which fails if it does not use every available device."""
    here = [kind for kind in ("cuda", "wgpu") if machine.has(kind)]
    done = machine.run([machine.program(name), "--nocapture", *words], seconds, CASCADE_REQUIRE=",".join(here))
    text = done["stdout"] + done["stderr"]
    passed, failed = (sum(map(int, counts)) for counts in
                      (re.findall(r"(\d+) passed", text), re.findall(r"(\d+) failed", text)))
    return {"passed": passed, "failed": failed, "devices": here + ["cpu"], "text": text}


def parse_fidelity(text: str) -> list:
    pattern = r"(\S+) in bf16 on (.+): ([\d.e+-]+), diffusers ([\d.e+-]+)$"
    return [{"network": name, "device": device, "error": float(ours), "diffusers": float(theirs)}
            for name, device, ours, theirs in re.findall(pattern, text, re.M)]


def networks(machine: Machine) -> dict:
    result = tests(machine, "test-networks", 60)
    return {"fidelity": parse_fidelity(result.pop("text"))} | result


def parse_pipelines(text: str) -> dict:
    """The largest relative L2 error of each tensor on each device."""
    worst: dict = {}
    for device, tensor, error in re.findall(r"(\w+(?::\d+)?) +(\w+) +([\d.]+e-?\d+)$", text, re.M):
        worst.setdefault(device, {})
        worst[device][tensor] = max(worst[device].get(tensor, 0.0), float(error))
    return worst


def pipelines(machine: Machine) -> dict:
    skip = ["--skip", "every_device_repeats_itself_and_stands_the_check"] if machine.quick else []
    result = tests(machine, "test-image", 150, *skip)
    return {"worst": parse_pipelines(result.pop("text"))} | result


def backend_vulkan(machine: Machine) -> dict:
    machine.device("wgpu")
    result = tests(machine, "test-wgpu", 60, "--skip", "a_driver_that_crashes")  # it compiles a driver, and there is no rustc
    result.pop("text")
    return result


# Largest relative L2 error of a picture in f32; and of one in bf16, by that of the CPU in bf16.
EXACT, ROUNDED = 1e-3, 1.5


def against_cpu(machine: Machine, model, words: list) -> dict:
    """Makes one picture on the GPU, in f32 and in bf16, with and without kernels for Hopper, and compares it with the CPU's in f32.
    What bf16 may change is what it changes on the CPU, whose kernels round the same operands."""
    kind = "wgpu" if machine.quick and not machine.has("cuda") else "cuda"
    device = machine.device(kind)["name"]
    half = rounding(device)
    variants = {"cpu": ("cpu", "f32", []), "cpu bf16": ("cpu", "bf16", []), "gpu": (device, "f32", []),
                "gpu bf16": (device, half, []), "gpu bf16, without sm_90a": (device, half, ["--without", "sm_90a"])}
    with machine.scratch() as scratch:
        for name, (where, dtype, more) in variants.items():
            machine.run([machine.program("cascade-rt"), "generate", "a red apple on a blue background", "-m", model, "--device",
                         where, "--dtype", dtype, *more, *words, "-o", f"{scratch}/out.png", "--force", "--dump",
                         f"{scratch}/{name}"], 120)
        if any(command["rc"] for command in machine.commands):
            return {"status": "failed"}
        dumps = {name: tensors(f"{scratch}/{name}") for name in variants}
    rows, good = [], True
    for tensor in ("stage_c", "stage_b", "image"):
        errors = {name: relative_l2(dump[tensor], dumps["cpu"][tensor]) for name, dump in dumps.items() if name != "cpu"}
        own = errors["cpu bf16"]
        rounded = [error for name, error in errors.items() if name.startswith("gpu bf16")]
        # A CPU that does not round says nothing about rounding.
        good &= errors["gpu"] <= EXACT and (own < 1e-4 or all(error <= ROUNDED * own for error in rounded))
        rows.append({"tensor": tensor, **errors})
    return {"status": "ok" if good else "failed", "rows": rows, "device": device}


def picture_demo(machine: Machine) -> dict:
    return against_cpu(machine, machine.root / "models/demo", ["--steps", "4,2"] if machine.quick else [])


def picture_large(machine: Machine) -> dict:
    """With the published architecture and random weights, small enough for a CPU."""
    if machine.quick:
        return against_cpu(machine, machine.model("tiny"), ["-W", 64, "-H", 64, "--steps", "2,1"])
    return against_cpu(machine, machine.model("large"), ["-W", 256, "-H", 256, "--steps", "2,1"])


def demo(machine: Machine) -> dict:
    """Makes the same picture with the demo model on every device."""
    pictures = []
    for device in machine.devices:
        name = device["name"]
        file = machine.out / f"demo-{name.replace(':', '')}.png"
        start = time.monotonic()
        done = machine.json([machine.program("cascade-rt"), "generate", "a red apple on a blue background",
                             "-m", machine.root / "models/demo", "--device", name, "-o", file, "--force", "--json"], 60)
        pictures.append({"device": name, "file": file.name, "seconds": round(time.monotonic() - start, 2),
                         "stages": (done or {}).get("seconds")})
    return {"pictures": pictures}


def dependent_launch(machine: Machine) -> dict:
    """Checks that programmatic dependent launch does not change a byte of a picture."""
    device, bytes_of = machine.hardware("cuda")["name"], {}
    with machine.scratch() as scratch:
        for words in [], ["--without", "dependent_launch"]:
            for dtype in "f32", "bf16":
                file = Path(scratch) / f"{dtype}.png"
                done = machine.json([machine.program("cascade-rt"), "generate", "a red apple on a blue background", "-m",
                                     machine.root / "models/demo", "--device", device, "--dtype", dtype, *words,
                                     "-o", file, "--force", "--json"], 30)
                bytes_of.setdefault(dtype, []).append(file.read_bytes() if done else None)
    different = [dtype for dtype, (dependent, serial) in bytes_of.items() if dependent != serial or dependent is None]
    return {"device": device, "different": different, "status": "failed" if different else "ok"}
