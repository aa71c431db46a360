"""The machine under test: unpacked programs, devices, and commands with a time limit."""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

TAIL = 30  # lines of a command's output that a result keeps

# Where containers have the host's driver mounted. The Vulkan loader does not search this path.
MOUNTED_DRIVERS = ["/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json"]
CUDA_TOOLS = ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/local/cuda/compute-sanitizer"]


class NotMeasured(Exception):
    """Raised by a step that cannot run on this machine, with the reason."""


def rounding(device: str) -> str:
    """The 16-bit format that kernels of a device round to: WGSL has no bf16."""
    return "f16" if device.startswith("wgpu") else "bf16"


class Machine:
    def __init__(self, package: Path, options, clock=time.monotonic):
        self.clock = clock
        self.package, self.quick, self.python = package, options.quick, options.python
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = (options.work or Path(tempfile.gettempdir()) / "cascade-gpu-check").resolve()
        self.deadline = clock() + 60 * options.minutes
        self.step_end = self.deadline
        self.commands: list = []
        self.earlier: dict = {}  # what an earlier run of the step gave
        self.root = self.unpack()
        self.environment = self.make_environment()
        self.devices = self.find_devices()

    # ------------------------------------------------------------ set-up

    def unpack(self) -> Path:
        """Unpacks the package into the work folder unless it is already there; returns the folder with fixtures and models."""
        about = (self.package / "package.json").read_text()
        stamp = f"{about} {(self.package / 'programs.tar.xz').stat().st_mtime_ns}"
        done = self.work / "unpacked"
        self.work.mkdir(parents=True, exist_ok=True)
        for name in ("programs", "files"):
            file = self.package / f"{name}.tar.xz"
            if file.exists() and not (done.exists() and done.read_text() == stamp):
                with tarfile.open(file) as tar:
                    tar.extractall(self.work, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        done.write_text(stamp)
        if not json.loads(about)["beside_checkout"]:
            return self.work
        for folder in self.package.resolve().parents:
            if (folder / "tests/fixtures").is_dir():
                return folder
        sys.exit("this package was built with --beside-checkout, but it is not inside a checkout; move it to target/ of one")

    def make_environment(self) -> dict:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CASCADE_")}
        environment |= {"CASCADE_ROOT": str(self.root), "CASCADE_PROGRAM": str(self.program("cascade-rt")),
                        "PYTHONUNBUFFERED": "1", "RUST_BACKTRACE": "0"}
        paths = [path for path in CUDA_TOOLS if Path(path).is_dir()]
        environment["PATH"] = os.pathsep.join([environment.get("PATH", ""), *paths])
        try:
            ctypes.CDLL("libvulkan.so.1")
        except OSError:
            folders = [environment.get("LD_LIBRARY_PATH"), str(self.work / "lib")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in folders if path)
        drivers = [file for file in MOUNTED_DRIVERS if Path(file).exists()]
        if drivers and "VK_DRIVER_FILES" not in environment:
            environment["VK_DRIVER_FILES"] = os.pathsep.join(drivers)
        return environment

    def find_devices(self) -> list:
        listed = self.run([self.program("cascade-rt"), "devices", "--json"], 120)
        return json.loads(listed["stdout"]) if listed["rc"] == 0 else []

    # ------------------------------------------------------------ programs and devices

    def program(self, name: str) -> Path:
        return self.work / "bin" / name

    def device(self, kind: str) -> dict:
        """The first device `cuda:N` or `wgpu:N`, preferring hardware to software adapters."""
        fitting = [device for device in self.devices if device["name"].startswith(kind + ":")]
        if not fitting:
            raise NotMeasured({"cuda": "there is no CUDA driver, or it finds no device",
                               "wgpu": "Vulkan finds no adapter"}[kind])
        return min(fitting, key=is_software)

    def hardware(self, kind: str) -> dict:
        """The same, except that software adapters are rejected, because measuring them would take hours."""
        device = self.device(kind)
        if is_software(device) and not self.quick:
            raise NotMeasured(f"{device['description']} is a software adapter")
        return device

    def has(self, kind: str) -> bool:
        return any(device["name"].startswith(kind + ":") for device in self.devices)

    def scratch(self) -> "tempfile.TemporaryDirectory":
        return tempfile.TemporaryDirectory(dir=self.work)

    # ------------------------------------------------------------ commands

    def left(self) -> float:
        """Seconds until the time limit of the step or of the whole run."""
        return min(self.step_end, self.deadline) - self.clock()

    def run(self, argv: list, seconds: float, **environment) -> dict:
        """Runs a command until it ends or exceeds its time limit. A failure is returned, not raised."""
        argv = [str(word) for word in argv]
        limit = max(1.0, min(seconds, self.left()))
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            start, timed_out = time.monotonic(), False
            try:
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, cwd=self.work,
                                           env=self.environment | environment, start_new_session=True)
                try:
                    rc = process.wait(limit)
                except subprocess.TimeoutExpired:
                    rc, timed_out = 124, True
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # it leads its own process group
                    process.wait()
            except OSError as error:
                rc = 127
                errors.write(str(error).encode())
            wall = time.monotonic() - start
            texts = []
            for file in (out, errors):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        shown = [word.replace(str(self.work), "WORK") for word in argv]
        result = {"command": " ".join(shown), "rc": rc, "seconds": round(wall, 2), "timed_out": timed_out}
        tail = [line[:300] for text in texts[::-1] for line in text.splitlines()[-TAIL:]]
        self.commands.append(result | ({"tail": tail} if rc else {"tail": tail[-6:]}))
        return result | {"stdout": texts[0], "stderr": texts[1]}

    def json(self, argv: list, seconds: float, **environment):
        """The last line that a command prints, parsed as JSON; `None` if it fails."""
        result = self.run(argv, seconds, **environment)
        lines = result["stdout"].strip().splitlines()
        if result["rc"] or not lines:
            return None
        try:
            return json.loads(lines[-1])
        except json.JSONDecodeError:
            return None

    def offers(self, *words: str) -> bool:
        """Whether this version of the program has a command."""
        done = subprocess.run([self.program("cascade-rt"), *words, "--help"], env=self.environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    def model(self, preset: str) -> Path:
        """The folder of a synthetic model, which is created on first use, or of the tests' tiny model."""
        if preset == "tiny":
            return self.root / "tests/fixtures/tiny"
        folder = self.work / f"model-{preset}"
        if not (folder / "complete").exists():
            if folder.exists():
                raise NotMeasured(f"{folder} is incomplete; remove it and run again")
            made = self.run([self.program("cascade-rt"), "synth-model", preset, folder], 300)
            if made["rc"]:
                raise NotMeasured(f"synth-model {preset} failed: {made['stderr'].strip()[-200:]}")
            (folder / "complete").touch()
        return folder


def is_software(device: dict) -> bool:
    return device["reason"].startswith("never chosen")


@contextlib.contextmanager
def alone(folder: Path):
    """Prevents two runs at the same time, which would distort each other's measurements."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another run is using {folder}; wait for it, or choose another folder with --work")
        yield
