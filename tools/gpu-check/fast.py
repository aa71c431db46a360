"""Steps that measure speed: whole pictures, single kernels, and diffusers for comparison."""

import re
import time
import statistics

from dumps import relative_l2, tensors
from machine import Machine, NotMeasured, rounding

STAGES = ["text", "stage_c", "stage_b", "stage_a"]
PROMPT = "a red apple on a blue background"


class Size:
    """What is measured. With --quick, this is the tests' tiny model, whose pictures are noise, with few steps and runs."""

    def __init__(self, machine: Machine, preset: str):
        self.preset = "tiny" if machine.quick else preset
        self.pixels = 128 if machine.quick else 1024
        self.steps = (2, 1) if machine.quick else (20, 10)
        self.runs, self.warmup = (2, 1) if machine.quick else (5, 2)

    def flags(self, device: str) -> list:
        return ["--steps", "{},{}".format(*self.steps), "--dtype", rounding(device)]

    def words(self) -> dict:
        return {"model": self.preset, "pixels": self.pixels, "steps": self.steps, "runs": self.runs}


def gpu(machine: Machine) -> str:
    """The CUDA device; with --quick, another GPU if there is no CUDA device."""
    return machine.hardware("wgpu" if machine.quick and not machine.has("cuda") else "cuda")["name"]


def clock(machine: Machine) -> str:
    """The GPU's clock, power and temperature, read immediately after a measurement."""
    asked = "--query-gpu=clocks.sm,power.draw,temperature.gpu"
    answer = machine.run(["nvidia-smi", asked, "--format=csv,noheader"], 10)["stdout"].strip()
    machine.commands.pop()  # a failure of nvidia-smi does not make the step fail
    return answer


def pictures(machine: Machine, size: Size, device: str, model=None, words=()) -> dict:
    """Measures the seconds per stage of whole pictures with resident weights: those of `model`, or random ones that are
    generated in memory. `words` are additional arguments of `bench`."""
    program = machine.program("cascade-rt")
    if machine.offers("bench"):
        model = machine.model("tiny") if machine.quick else model
        source = ["-m", model] if model else ["--synthetic", size.preset]
        done = machine.json([program, "bench", "--json", *source, "--device", device, *size.flags(device), "--sizes",
                             size.pixels, "--runs", size.runs, "--warmup", size.warmup, *words], 400)
        if done is None:
            return {"status": "failed"}
        cell = done["results"][0]
        stages = {name: cell["seconds"][name]["runs"] for name in STAGES}
        more = {name: cell["seconds"][name]["median"] for name in ("load", "plan", "encode")}
        more |= {key: cell[key] for key in ("activation_bytes", "weight_bytes", "peak_host_bytes")}
    else:
        folder, stages, more = model or machine.model(size.preset), {name: [] for name in STAGES}, {}
        with machine.scratch() as scratch:
            for _ in range(size.runs):
                done = machine.json([program, "generate", PROMPT, "-m", folder, "--device", device, *size.flags(device),
                                     "-W", size.pixels, "-H", size.pixels, "-o", f"{scratch}/out.png",
                                     "--force", "--json"], 300)
                if done is None:
                    return {"status": "failed"}
                for name in STAGES:
                    stages[name].append(done["seconds"][name])
                more = {name: done["seconds"][name] for name in ("load", "plan", "encode")}
    return {"stages": stages, "stages_median": {k: statistics.median(v) for k, v in stages.items()},
            "picture": statistics.median(map(sum, zip(*stages.values()))), "other": more,
            "device": device, "after": clock(machine), **size.words()}


def start_up(machine: Machine) -> dict:
    """Times the demo model from the start of the process to a picture, where the driver has cached nothing: with the cubins of the
    program, and with kernels that the driver compiles."""
    device, runs = gpu(machine), {}
    for name, words in [("cubins", {}), ("PTX", {"CUDA_FORCE_PTX_JIT": "1"})]:
        with machine.scratch() as scratch:
            start = time.monotonic()
            done = machine.json([machine.program("cascade-rt"), "generate", PROMPT, "-m", machine.root / "models/demo",
                                 "--device", device, "--dtype", "bf16", "--steps", "1,1", "-o", f"{scratch}/out.png", "--json"],
                                60, CUDA_CACHE_PATH=scratch, CUDA_CACHE_DISABLE="1", **words)
            runs[name] = {"seconds": round(time.monotonic() - start, 2), "stages": (done or {}).get("seconds")}
    return {"device": device, "runs": runs}


def synthetic_lite(machine: Machine) -> dict:
    return pictures(machine, Size(machine, "lite"), gpu(machine))


def synthetic_large(machine: Machine) -> dict:
    return pictures(machine, Size(machine, "large"), gpu(machine))


def synthetic_large_without(machine: Machine, ability: str) -> dict:
    if not machine.offers("bench"):
        raise NotMeasured("this version of the program has no `bench` command")
    return pictures(machine, Size(machine, "large"), gpu(machine), words=["--without", ability])


def synthetic_large_sm80(machine: Machine) -> dict:
    """The same picture without the kernels for Hopper, to measure how much these gain."""
    return synthetic_large_without(machine, "sm_90a")


def synthetic_large_serial(machine: Machine) -> dict:
    """The same picture without programmatic dependent launch, to measure how much that gains."""
    return synthetic_large_without(machine, "dependent_launch")


def synthetic_lite_vulkan(machine: Machine) -> dict:
    return pictures(machine, Size(machine, "lite"), machine.hardware("wgpu")["name"])


# ---------------------------------------------------------------- kernels

def profile_large(machine: Machine) -> dict:
    """Profiles one picture by kernel."""
    device = gpu(machine)
    if not machine.offers("profile"):
        raise NotMeasured("this version of the program has no `profile` command")
    size = Size(machine, "large")
    source = ["-m", machine.model("tiny")] if machine.quick else ["--synthetic", size.preset]
    done = machine.json([machine.program("cascade-rt"), "profile", "--json", *source, "--by", "kernel", "--device",
                         device, *size.flags(device), "-W", size.pixels, "-H", size.pixels], 90)
    return {"status": "failed"} if done is None else {"profile": done, **size.words()}


UNITS = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "us": 1e-6, "ms": 1e-3, "s": 1.0}
SCALES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def parse_criterion(text: str) -> list:
    """Parses criterion's output: name, median seconds, and operations and bytes per second of each benchmark."""
    benches, name = [], ""
    for line in text.splitlines():
        took = re.search(r"time: +\[\S+ \S+ (\S+) (\S+) \S+ \S+\]", line)
        rate = re.search(r"\[\S+ \S+ (\S+) ([KMGT]?i?)(elem|B)/s \S+ \S+\]", line)
        if took:
            own = line[:took.start()].strip()
            benches.append({"name": own or name, "seconds": float(took.group(1)) * UNITS[took.group(2)]})
        elif rate and benches:
            kind = {"elem": "flops", "B": "bytes"}[rate.group(3)]
            benches[-1][kind] = float(rate.group(1)) * SCALES[rate.group(2)]
        elif "/" in line and not line.startswith((" ", "Benchmarking")):
            name = line.strip()  # criterion prints a long name on a separate line
    return benches


def benches(machine: Machine, kind: str) -> dict:
    """Times every kernel at the shapes of a picture of 1024x1024."""
    device = machine.hardware(kind)["name"]
    words = ["--bench", "--quick", "--noplot"] + (["layer_norm"] if machine.quick else [])
    model = {"CASCADE_BENCH_MODEL": "mid"} if machine.quick else {}
    with machine.scratch() as scratch:
        done = machine.run([machine.program("bench-kernels"), *words], 300, CASCADE_BENCH_DEVICES=device,
                           CRITERION_HOME=scratch, **model)
    return {"device": device, "benches": parse_criterion(done["stdout"]), "after": clock(machine)}


def bench_cuda(machine: Machine) -> dict:
    return benches(machine, "cuda")


def bench_vulkan(machine: Machine) -> dict:
    return benches(machine, "wgpu")


# ---------------------------------------------------------------- diffusers

def with_wheels(machine: Machine) -> dict:
    """Installs the package's wheels, and returns environment variables with which Python finds them."""
    site, packed = machine.work / "site", sorted((machine.package / "wheels").glob("*.whl"))
    if packed and not (site / "complete").exists():
        done = machine.run([machine.python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                            "--no-cache-dir", "--upgrade", "--target", site, *packed], 120)
        if done["rc"]:
            raise NotMeasured(f"the wheels cannot be installed: {done['stderr'].strip()[-200:]}")
        (site / "complete").touch()
    paths = {"PYTHONPATH": str(site)} if packed else {}
    probe = machine.run([machine.python, "-c", "import torch, diffusers, transformers"], 120, **paths)
    if probe["rc"]:
        raise NotMeasured(f"{machine.python} lacks PyTorch or diffusers: {probe['stderr'].strip().splitlines()[-1]}")
    return paths


def diffusers(machine: Machine, seconds: float, *words) -> dict:
    size, paths = Size(machine, "large"), with_wheels(machine)
    device = "cuda" if machine.has("cuda") else "cpu"
    if device == "cpu" and not machine.quick:
        raise NotMeasured("there is no CUDA driver, or it finds no device")
    done = machine.json([machine.python, machine.package / "compare/torch_gpu.py", "--model",
                         machine.model(size.preset), "--device", device, "--pixels", size.pixels, "--steps",
                         *size.steps, "--runs", size.runs, "--warmup", size.warmup, "--prompt", PROMPT, *words],
                        seconds, **paths)
    if done is None:
        return {"status": "failed"}
    stages = {name: [run[name] for run in done["runs"]] for name in STAGES}
    return {"stages": stages, "stages_median": {k: statistics.median(v) for k, v in stages.items()},
            "picture": statistics.median(map(sum, zip(*stages.values()))),
            "other": {k: v for k, v in done.items() if k != "runs"}, "device": device, "after": clock(machine),
            **size.words()}


def diffusers_eager(machine: Machine) -> dict:
    return diffusers(machine, 240)


def diffusers_compiled(machine: Machine) -> dict:
    """With CUDA graphs, or without them if PyTorch cannot capture these networks."""
    result = diffusers(machine, 420, "--compile")
    if result.get("status") == "failed" and machine.left() > 90:
        again = diffusers(machine, 420, "--compile", "--mode", "default")
        result = again | {"status": again.get("status", "ok")}
    return result


def beside_large(machine: Machine) -> dict:
    """cascade-rt with the same weight files as diffusers, which is measured minutes later."""
    size = Size(machine, "large")
    return pictures(machine, size, gpu(machine), machine.model(size.preset))


# ---------------------------------------------------------------- fidelity

def fidelity(machine: Machine) -> dict:
    """Compares cascade-rt in bf16 and diffusers in bf16 with cascade-rt in f32, from the same noise.

    Uses the smaller preset, because the large one takes long in f32 and relative rounding errors do not depend on the width."""
    size, paths = Size(machine, "lite"), with_wheels(machine)
    device, folder = gpu(machine), machine.model(size.preset)
    with machine.scratch() as scratch:
        for dtype in ("f32", "bf16"):
            machine.run([machine.program("cascade-rt"), "generate", PROMPT, "-m", folder, "--device", device,
                         "--steps", "{},{}".format(*size.steps), "-W", size.pixels, "-H", size.pixels, "--dtype", dtype,
                         "--noise", "torch-bf16", "-o", f"{scratch}/{dtype}.png", "--dump", f"{scratch}/{dtype}"], 120)
        machine.run([machine.python, machine.package / "compare/torch_gpu.py", "--model", folder, "--device",
                     "cuda" if machine.has("cuda") else "cpu", "--pixels", size.pixels, "--steps", *size.steps, "--runs", 1,
                     "--warmup", 0, "--prompt", PROMPT, "--timesteps", "exact", "--dump", f"{scratch}/diffusers"],
                    120, **paths)
        if any(command["rc"] for command in machine.commands):
            return {"status": "failed"}
        exact, ours, theirs = (tensors(f"{scratch}/{name}") for name in ("f32", "bf16", "diffusers"))
    rows = [{"tensor": name, "error": relative_l2(ours[name], exact[name]),
             "diffusers": relative_l2(theirs[name], exact[name])} for name in ("stage_c", "stage_b", "image")]
    good = all(row["error"] <= 1.25 * row["diffusers"] for row in rows)
    return {"status": "ok" if good else "failed", "rows": rows, "device": device, **size.words()}
