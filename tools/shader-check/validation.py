"""Khronos' validation layers while the shaders run on Mesa's software driver: wrong calls and SPIR-V, hazards between
dispatches and copies, races of workgroup memory."""

import tempfile
from pathlib import Path

import layers
import swiftshader
from packages import DEBS, LIBRARIES, ROOT, WORK, debian, driver, mesa, spirv
from vulkan import shares

def planted(env):
    """Whether planted faults are found."""
    with tempfile.TemporaryDirectory() as folder:
        done = swiftshader.kernels(env | layers.plant(ROOT / "shaders", Path(folder)), quick=True)
        return layers.missed([*layers.reports(done.stdout), *swiftshader.wrong(done)])


def check(options):
    version = debian("chromium-common")
    mesa()
    env = driver("lavapipe", LIBRARIES / "libvulkan_lvp.so")
    env |= layers.environment(WORK / "layers", DEBS / "usr/lib/chromium" / layers.FILE, version)
    faults = planted(env)
    # In short: shaders whose invocations share memory; the others have no races, and their calls are the same.
    some = {"CASCADE_KERNELS": ",".join(f"={name}" for name in sharing())} if options.short else {}
    done = swiftshader.kernels(env | some, quick=options.short)
    faults += layers.reports(done.stdout) + swiftshader.wrong(done)
    return faults, f"{swiftshader.ran(done)} kernel cases, {len(layers.PLANTED)} planted faults, layers of chromium-common {version}"


def sharing():
    """Names of the kernels whose invocations share memory."""
    return sorted({file.stem.split(",")[0] for file in spirv() if shares(file.read_bytes())})
