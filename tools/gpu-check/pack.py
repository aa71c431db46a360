"""Builds the package target/gpu-check: stripped programs, the files that tests read, and this tool itself."""

import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import layers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / "target" / "gpu-check"

TESTS = ["kernels", "image", "networks", "wgpu"]
FILES = ["tests/fixtures", "models/demo", "shaders"]
NEWEST_GLIBC = (2, 35)
# The Vulkan loader, and the libraries that NVIDIA's driver needs without a display, for machines that have only the driver.
LOADERS = ["libvulkan1", "libglvnd0", "libegl1", "libglx0", "libgl1", "libopengl0", "libgles2"]
# Dependencies of diffusers that transformers, safetensors and pillow do not install.
WHEELS = ["importlib_metadata", "zipp"]


def executables() -> dict:
    """Builds all programs; returns a path for each name. They do not embed the demo model, because each would contain a copy."""
    command = ["cargo", "test", "--release", "--no-run", "--no-default-features", "--features=cli", "--message-format=json",
               "--bin", "cascade-rt", "--bench", "kernels"]
    for name in TESTS:
        command += ["--test", name]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for line in output.splitlines():
        message = json.loads(line)
        if not message.get("executable"):
            continue
        kind, name = message["target"]["kind"][0], message["target"]["name"]
        if kind == "bench":
            found["bench-" + name] = Path(message["executable"])
        elif kind == "test":
            found["test-" + name] = Path(message["executable"])
        elif not message["profile"]["test"]:
            found[name] = Path(message["executable"])
    # Cargo also builds the program for integration tests, but does not always report it.
    found.setdefault("cascade-rt", ROOT / "target" / "release" / "cascade-rt")
    missing = {"cascade-rt", "bench-kernels", *("test-" + name for name in TESTS)} - set(found)
    if missing:
        sys.exit(f"cargo did not build {', '.join(sorted(missing))}")
    return found


def too_new(symbols: str, newest=NEWEST_GLIBC) -> list:
    """The symbols in the output of `objdump -T` that need a newer glibc than `newest`."""
    wrong = []
    for line in symbols.splitlines():
        version = re.search(r"GLIBC_(\d+)\.(\d+)", line)
        if version and tuple(map(int, version.groups())) > newest:
            wrong.append(f"{version.group(0)} {line.split()[-1]}")
    return wrong


def stripped(found: dict, folder: Path) -> None:
    folder.mkdir()
    for name, source in sorted(found.items()):
        subprocess.run(["strip", "-o", folder / name, source], check=True)
        symbols = subprocess.run(["objdump", "-T", folder / name], check=True, stdout=subprocess.PIPE, text=True).stdout
        if wrong := too_new(symbols):
            sys.exit(f"{name} needs a newer C library than glibc {'.'.join(map(str, NEWEST_GLIBC))}: {', '.join(wrong)}")


def loaders(folder: Path) -> None:
    """Copies the Vulkan loader from packages of this machine's distribution."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            subprocess.run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *LOADERS], cwd=scratch,
                           check=True, stdout=subprocess.DEVNULL)
            for package in Path(scratch).glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, Path(scratch) / "files"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return print(f"warning: the package has no Vulkan loader: {error}", file=sys.stderr)
        for library in (Path(scratch) / "files").rglob("lib*.so.*"):
            # Programs load a library by its soname, `libvulkan.so.1`, not by the file name `libvulkan.so.1.3.239`.
            if library.is_file() and re.search(r"\.so\.\d+$", library.name):
                shutil.copy(library.resolve(), folder / library.name)


def validation(folder: Path) -> str:
    """Copies Khronos' validation layers from Chromium's files, which need no newer C library; the version of the package."""
    import packages  # of tools/shader-check, which the package does not contain
    try:
        version = packages.debian("chromium-common")
    except packages.LeftOut as error:
        print(f"warning: the package has no validation layers: {error}", file=sys.stderr)
        return ""
    shutil.copy(packages.DEBS / "usr/lib/chromium" / layers.FILE, folder)
    return version


def wheels(folder: Path) -> None:
    folder.mkdir()
    pinned = (ROOT / "tools/compare/requirements.txt").read_text().split()
    wanted = [line for line in pinned if line.startswith("diffusers==")] + WHEELS
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, *wanted]
    if subprocess.run(command, check=False).returncode:
        print("warning: the package has no diffusers; copy its wheel to target/gpu-check/wheels", file=sys.stderr)


def archive(file: Path, entries: dict) -> None:
    """Writes a .tar.xz with the filter for x86 code, and a dictionary large enough that programs share their common code."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20}]
    with lzma.open(file, "wb", format=lzma.FORMAT_XZ, filters=filters) as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, path in entries.items():
            tar.add(path, name)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def build(options) -> None:
    found, version = executables(), ""
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        programs, libraries = Path(scratch) / "bin", Path(scratch) / "lib"
        stripped(found, programs)
        entries = {"bin": programs}
        if not options.no_downloads:
            loaders(libraries)
            version = validation(libraries)
            entries["lib"] = libraries
            wheels(TARGET / "wheels")
        archive(TARGET / "programs.tar.xz", entries)
    if not options.beside_checkout:
        archive(TARGET / "files.tar.xz", {name: ROOT / name for name in FILES})
    for file in [*sorted(HERE.glob("*.py")), HERE / "README.md", ROOT / "tools/shader-check/layers.py"]:
        shutil.copy(file, TARGET)
    shutil.copytree(ROOT / "tools/compare", TARGET / "compare", ignore=shutil.ignore_patterns("__pycache__", "target"))

    def git(*words) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    about = {"commit": git("rev-parse", "--short=12", "HEAD"), "changed": bool(git("status", "--porcelain")),
             "beside_checkout": options.beside_checkout, "layers": version}
    (TARGET / "package.json").write_text(json.dumps(about))
    for file in sorted(TARGET.iterdir()):
        print(f"{(size(file) if file.is_dir() else file.stat().st_size) / 2**20:7.2f} MiB  {file.name}")
    total = size(TARGET) / 2**20
    print(f"{total:7.2f} MiB  in total, {TARGET.relative_to(ROOT)}")
    if options.beside_checkout:
        names = git("ls-files").splitlines()
        checkout = sum((ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()) / 2**20
        total += checkout
        print(f"{total:7.2f} MiB  including the checkout, {checkout:.2f} MiB")
    if total > options.limit_mib:
        sys.exit(f"the size exceeds the limit of {options.limit_mib:g} MiB (--limit-mib)")
