"""The machine that is checked: unpacked programs, its devices, commands with a time limit."""

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

# Where a container finds a driver that its host lends it, and where Vulkan's loader does not look.
LENT_DRIVERS = ["/usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json"]
CUDA_TOOLS = ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/local/cuda/compute-sanitizer"]


class NotMeasured(Exception):
    """Why a step could not be run here."""


class Machine:
    def __init__(self, package: Path, options):
        self.package, self.quick, self.python = package, options.quick, options.python
        self.out = options.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.work = (options.work or Path(tempfile.gettempdir()) / "cascade-gpu-check").resolve()
        self.deadline = time.monotonic() + 60 * options.minutes
        self.step_end = self.deadline
        self.commands: list = []
        self.root = self.unpack()
        self.environment = self.make_environment()
        self.devices = self.find_devices()

    # ------------------------------------------------------------ set-up

    def unpack(self) -> Path:
        """Unpacks into the work folder, once for each package; returns the folder with fixtures and models."""
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
        sys.exit("this package was built to lie in a checkout's target folder, and there is none around it")

    def make_environment(self) -> dict:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CASCADE_")}
        environment |= {"CASCADE_ROOT": str(self.root), "CASCADE_PROGRAM": str(self.program("cascade-rt")),
                        "PYTHONUNBUFFERED": "1", "RUST_BACKTRACE": "0"}
        paths = [path for path in CUDA_TOOLS if Path(path).is_dir()]
        environment["PATH"] = os.pathsep.join([environment.get("PATH", ""), *paths])
        try:
            ctypes.CDLL("libvulkan.so.1")
        except OSError:
            carried = [environment.get("LD_LIBRARY_PATH"), str(self.work / "lib")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in carried if path)
        lent = [file for file in LENT_DRIVERS if Path(file).exists()]
        if lent and "VK_DRIVER_FILES" not in environment:
            environment["VK_DRIVER_FILES"] = os.pathsep.join(lent)
        return environment

    def find_devices(self) -> list:
        listed = self.run([self.program("cascade-rt"), "devices", "--json"], 120)
        return json.loads(listed["stdout"]) if listed["rc"] == 0 else []

    # ------------------------------------------------------------ what there is

    def program(self, name: str) -> Path:
        return self.work / "bin" / name

    def device(self, kind: str) -> dict:
        """The first device `cuda:N` or `wgpu:N`; hardware before software."""
        fitting = [device for device in self.devices if device["name"].startswith(kind + ":")]
        if not fitting:
            raise NotMeasured({"cuda": "no CUDA driver, or no device that it finds",
                               "wgpu": "no adapter answers through Vulkan"}[kind])
        return min(fitting, key=is_software)

    def hardware(self, kind: str) -> dict:
        """The same, where software would take hours and show nothing."""
        device = self.device(kind)
        if is_software(device) and not self.quick:
            raise NotMeasured(f"{device['description']} is software")
        return device

    def has(self, kind: str) -> bool:
        return any(device["name"].startswith(kind + ":") for device in self.devices)

    def scratch(self) -> "tempfile.TemporaryDirectory":
        return tempfile.TemporaryDirectory(dir=self.work)

    # ------------------------------------------------------------ commands

    def left(self) -> float:
        """Seconds until the step or the whole run must end."""
        return min(self.step_end, self.deadline) - time.monotonic()

    def run(self, argv: list, seconds: float, **environment) -> dict:
        """Runs to the end or the limit, whichever is first; nothing that it does ends the run."""
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
                        os.killpg(process.pid, signal.SIGKILL)  # the group that it leads
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
        """What a command printed as its last line; `None` if it failed."""
        result = self.run(argv, seconds, **environment)
        lines = result["stdout"].strip().splitlines()
        if result["rc"] or not lines:
            return None
        try:
            return json.loads(lines[-1])
        except json.JSONDecodeError:
            return None

    def offers(self, *words: str) -> bool:
        """Whether the program has this command."""
        done = subprocess.run([self.program("cascade-rt"), *words, "--help"], env=self.environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    def model(self, preset: str) -> Path:
        """The synthetic model's folder, made when first asked for, or the tests' own."""
        if preset == "tiny":
            return self.root / "tests/fixtures/tiny"
        folder = self.work / f"model-{preset}"
        if not (folder / "complete").exists():
            if folder.exists():
                raise NotMeasured(f"{folder} was not finished; remove it")
            made = self.run([self.program("cascade-rt"), "synth-model", preset, folder], 300)
            if made["rc"]:
                raise NotMeasured(f"synth-model {preset} failed: {made['stderr'].strip()[-200:]}")
            (folder / "complete").touch()
        return folder


def is_software(device: dict) -> bool:
    return device["reason"].startswith("never chosen")


@contextlib.contextmanager
def alone(folder: Path):
    """Two runs at once would spoil each other's times."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another run uses {folder}")
        yield
