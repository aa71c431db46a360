"""Whole pictures in diffusers and cascade-rt alternately, with the same weights, prompts, seeds, sizes, dtype and threads."""

import array
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from environment import HERE, cargo, machine, python, say, threads, warn_if_busy

TOLERANCE = {"f32": 1e-3, "bf16": 0.1}  # relative L2 between the two programs' results
PROMPTS = ["a red fox in the snow, 35mm photograph"]


def check_size(width: int, height: int) -> None:
    """Exits if diffusers would make another size or crash, because both programs must do the same work."""
    latent = [math.ceil(side / 42.67) for side in (width, height)]
    given = [4 * int(side * 10.67) for side in latent]
    if given != [width, height] or min(latent) < 2 or any(side // 4 % 2 for side in given):
        sys.exit(f"diffusers cannot make pictures of {width}x{height}; multiples of 128 always work")


class Diffusers:
    """A process that runs diffusers and keeps the model loaded until `close`."""

    def __init__(self, program: str, options, dtype: str, compiled: bool):
        self.started = time.perf_counter()
        command = [program, str(HERE / "torch_pipeline.py"), "--model", str(options.model), "--dtype", dtype,
                   "--device", options.device, "--threads", str(options.threads), "--timesteps", options.timesteps]
        command += ["--prior", str(options.prior)] if options.prior else []
        command += ["--compile", "--mode", options.mode] if compiled else []
        self.command, self.errors = command, tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, env=threads(options.threads))
        ready = self.answer()
        self.load = ready["import"] + ready["load"]
        self.cold = True

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            sys.exit(f"{shlex.join(self.command)}\nended unexpectedly:\n{self.errors.read().decode()[-4000:]}")
        return json.loads(line)

    def make(self, job: dict, dump: Path) -> dict:
        """Makes a picture. The first one's record also has `process`, the time since the process started."""
        self.process.stdin.write(json.dumps(job | {"dump": str(dump)}) + "\n")
        self.process.stdin.flush()
        answer = self.answer()
        seconds = answer["seconds"] | {"load": self.load}
        if self.cold:
            seconds["process"] = time.perf_counter() - self.started
        record = {"seconds": seconds, "warm": not self.cold, "cpu": answer["cpu"], "peak_bytes": answer["peak_bytes"]}
        self.cold = False
        return record

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def ours(binary: str, options, dtype: str, job: dict, dump: Path) -> dict:
    """Makes a picture with cascade-rt in a new process."""
    steps, guidance = [",".join(map(str, job[key])) for key in ("steps", "guidance")]
    model = ["-m", str(options.model), *(["--prior", str(options.prior)] if options.prior else [])]
    how = [*model, "--steps", steps, "--guidance", guidance, "--dtype", dtype, "--device", options.device]
    size = f"{job['width']}x{job['height']}"
    command = [binary, "generate", job["prompt"], *how, "-W", str(job["width"]), "-H", str(job["height"]), "-s",
               str(job["seed"]), "--noise", "torch" if dtype == "f32" else "torch-bf16", "--json", "--force",
               "-o", str(dump.with_suffix(".png")), "--dump", str(dump)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=threads(options.threads))
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} failed with exit code {process.returncode}")
    seconds = json.loads(output)["seconds"]
    seconds = seconds | {"load": seconds["load"] + seconds["plan"], "process": whole}
    if options.device != "cpu":
        # A new process uploads the weights first, while diffusers has them on the GPU already. For a fair comparison
        # the stages are measured with resident weights.
        command = [binary, "bench", *how, "--sizes", size, "--runs", "1", "--warmup", "1", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=threads(options.threads))
        measured = json.loads(done.stdout)["results"][0]["seconds"]
        seconds |= {stage: measured[stage]["median"] for stage in report.STAGES}
    seconds["picture"] = sum(seconds[stage] for stage in report.STAGES)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "warm": True, "cpu": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * unit}


def tensors(file: Path) -> dict[str, array.array]:
    """The f32 tensors of a safetensors file."""
    found = {}
    with open(file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        start = stream.tell()
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] == "F32":
                begin, end = about["data_offsets"]
                stream.seek(start + begin)
                found[name] = array.array("f", stream.read(end - begin))
    return found


def relative_l2(got: Path, want: Path) -> dict[str, float]:
    ours, theirs = tensors(got), tensors(want)
    errors = {}
    for name in ("stage_c", "stage_b", "image"):
        a, b = ours[name], theirs[name]
        if len(a) != len(b):
            sys.exit(f"{name} has {len(a)} values in cascade-rt and {len(b)} in diffusers")
        error = math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b)) / math.fsum(y * y for y in b))
        errors[name] = error if math.isfinite(error) else math.inf
    return errors


def run(options) -> int:
    """Runs both programs alternately. Returns 1 if their results differ."""
    begin, program = time.monotonic(), python(options.python)
    binary = options.binary or cargo("build", "--release", "--bin", "cascade-rt")
    variants = [] if options.no_eager else [False]
    variants += [True] if options.compile else []
    if not variants:
        sys.exit("--no-eager without --compile leaves nothing to compare cascade-rt with")
    warn_if_busy()
    jobs = [{"prompt": prompt, "seed": seed, "steps": options.steps, "guidance": options.guidance}
            for prompt in options.prompts or PROMPTS for seed in options.seeds]
    records, agree = [], True

    def keep(name: str, dtype: str, job: dict, record: dict) -> None:
        about = {"program": name, "model": options.model.name, "device": options.device, "threads": options.threads,
                 "dtype": dtype, **machine(), **job}
        records.append(about | record)
        if options.out:
            with open(options.out, "a") as file:
                file.write(json.dumps(records[-1]) + "\n")

    cells = [(round_, dtype, size, compiled) for round_ in range(options.rounds) for dtype in options.dtypes
             for size in options.sizes for compiled in variants]
    with tempfile.TemporaryDirectory() as folder:
        for round_, dtype, (width, height), compiled in cells:
            if time.monotonic() - begin > 60 * options.minutes:
                say("the time is up; reporting the measurements taken so far")
                break
            name = "diffusers compiled" if compiled else "diffusers"
            say(f"round {round_ + 1} of {options.rounds}: {name}, {dtype}, {width}x{height}")
            tolerance = TOLERANCE[dtype] if options.tolerance is None else options.tolerance
            theirs, ours_ = Path(folder) / "theirs", Path(folder) / "ours"
            process = Diffusers(program, options, dtype, compiled)
            sized = [job | {"width": width, "height": height} for job in jobs]
            # The first picture of a process is cold, so it is recorded separately.
            keep(name, dtype, sized[0], process.make(sized[0], theirs))
            for i, job in enumerate(sized):
                turns = [(name, lambda: process.make(job, theirs)),
                         ("cascade-rt", lambda: ours(binary, options, dtype, job, ours_))]
                # The order alternates, so that a drift of the machine's speed affects both.
                done = {who: make() for who, make in (turns if (round_ + i) % 2 == 0 else turns[::-1])}
                errors = relative_l2(ours_, theirs)
                agree &= max(errors.values()) <= tolerance
                for who, record in done.items():
                    keep(who, dtype, job, record | ({"relative_l2": errors, "beside": name} if who == "cascade-rt" else {}))
                if max(errors.values()) > tolerance:
                    say(f"the results differ by more than {tolerance:g}: {errors}; the programs did not do the same work")
            process.close()
    report.pictures(records)
    return 0 if agree else 1
