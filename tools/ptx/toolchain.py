"""The pinned CUDA tools, packages of PyPI that are installed under target/nvcc, and a cache of what they said."""

import hashlib
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "kernels"
TOOLS = ROOT / "target" / "nvcc"
WORK = ROOT / "target" / "ptx"

# nvcc asks for its parts without versions, so all four are named.
COMPILER = ["nvidia-cuda-nvcc==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-cuda-runtime==13.0.96"]
PACKAGES = {
    "new": COMPILER,
    "old": ["nvidia-cuda-nvcc-cu12==12.4.131"],
    "newest": ["nvidia-cuda-nvcc==13.3.73", "nvidia-cuda-nvdisasm==13.3.73"],
}

NVCC = TOOLS / "new" / "nvidia" / "cu13" / "bin" / "nvcc"
NVDISASM = TOOLS / "newest" / "nvidia" / "cu13" / "bin" / "nvdisasm"
# By the release of CUDA whose driver compiles PTX in the same way. They differ in how they treat wgmma.
ASSEMBLERS = {
    "12.4": TOOLS / "old" / "nvidia" / "cuda_nvcc" / "bin" / "ptxas",
    "13.0": TOOLS / "new" / "nvidia" / "cu13" / "bin" / "ptxas",
    "13.3": TOOLS / "newest" / "nvidia" / "cu13" / "bin" / "ptxas",
}


def install():
    for folder, packages in PACKAGES.items():
        done = TOOLS / folder / " ".join(packages)
        if not done.exists():
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--no-deps"]
            quiet = ["--upgrade", "--root-user-action=ignore"]
            subprocess.run([*pip, *quiet, "--target", TOOLS / folder, *packages], check=True)
            done.touch()
    WORK.mkdir(parents=True, exist_ok=True)


def digest(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


# Other scripts or other tools may find something else.
VERSION = digest(PACKAGES, *(path.read_text() for path in sorted(HERE.glob("*.py"))))


def cached(key, make, fresh=False):
    """What `make()` returned when it was last called with this key, which names all that it depends on; it must survive JSON."""
    path = WORK / f"{digest(key)}.json"
    if not fresh and path.exists():
        return json.loads(path.read_text())
    value = make()
    path.write_text(json.dumps(value))
    return value


def run(*command, **options):
    """Standard output and error of a command that has to succeed."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout
