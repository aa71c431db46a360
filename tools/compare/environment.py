"""Prepares measurements: a Python with pinned packages, and programs built from this checkout."""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = ROOT / "target/compare"
LOWEST = (3, 11)  # the oldest Python that the pinned packages support


def python(given: str | None) -> str:
    """The Python that runs PyTorch. Its environment is created once, and again when the pinned versions change."""
    if given:
        return given
    if sys.version_info < LOWEST:
        sys.exit(f"the pinned packages need Python {'.'.join(map(str, LOWEST))}, this is {platform.python_version()}; "
                 "run this tool with a newer one, or use --python to name one that has the packages")
    requirements = HERE / "requirements.txt"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = TARGET / f"python-{key}"
    program = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        say(f"creating {folder.relative_to(ROOT)}; this downloads several GB, once")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([program, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        (folder / "complete").touch()
    return str(program)


def cargo(*words: str, folder: Path = ROOT) -> str:
    """Builds, and returns the path of the resulting program."""
    command = ["cargo", *words, "--message-format", "json"]
    environment = os.environ | ({} if folder == ROOT else {"CARGO_TARGET_DIR": str(TARGET / folder.name)})
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line["executable"] for line in lines if line.get("executable")][-1]


def machine() -> dict:
    """The machine and the date, with which every measurement is labelled."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {"machine": name, "cores": os.cpu_count(), "date": date.today().isoformat()}


def warn_if_busy() -> None:
    busy = os.getloadavg()[0]
    if busy > 0.5:
        say(f"warning: the load average is {busy:.1f}; other work on this machine distorts the times")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def threads(count: int) -> dict:
    """The environment variables that make a program use this number of threads."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {name: str(count) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS")}
