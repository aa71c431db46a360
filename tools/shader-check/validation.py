"""Khronos' validation layers while the shaders run on Mesa's software driver: wrong calls and SPIR-V, hazards between
dispatches and copies, races of workgroup memory. Two faults are planted to see that they are found."""

import json
import re
import tempfile
from pathlib import Path

import swiftshader
from packages import DEBS, LIBRARIES, ROOT, WORK, debian, driver, mesa, spirv
from vulkan import shares

LAYER = "VK_LAYER_KHRONOS_validation"
SETTINGS = {
    "validate_core": "true",
    "validate_sync": "true",
    "syncval_shader_accesses_heuristic": "true",
    "gpuav_enable": "true",
    "gpuav_shared_memory_data_race": "true",
    "debug_action": "VK_DBG_LAYER_ACTION_LOG_MSG",
    "log_filename": "stdout",
    "report_flags": "error",
}
# Faults of naga and wgpu, not of shaders: OpConstantNull and the like, which every driver takes.
KNOWN = ["VUID-StandaloneSpirv-None-10684"]
# A kernel without one of its barriers, and one that reads past the end of its operand. wgpu asks drivers to make such a read
# harmless, so that the layers take it for intended; the result shows it.
PLANTED = {
    "linear.rows": ("workgroupBarrier();", "", "SharedMemoryDataRace"),
    "scale": ("p.factor * x[i]", "p.factor * x[i + 4096u]", "allowed"),
}


def layers(version):
    """The environment in which the layers of Chromium's files watch Mesa's software driver."""
    folder = WORK / "layers"
    folder.mkdir(exist_ok=True)
    extensions = [("VK_EXT_debug_utils", 1), ("VK_EXT_validation_features", 2), ("VK_EXT_layer_settings", 2)]
    layer = {
        "name": LAYER,
        "type": "GLOBAL",
        "library_path": str(DEBS / "usr/lib/chromium/libVkLayer_khronos_validation.so"),
        "api_version": "1.4.300",
        "implementation_version": "1",
        "description": version,
        "instance_extensions": [{"name": name, "spec_version": str(of)} for name, of in extensions],
    }
    (folder / "layer.json").write_text(json.dumps({"file_format_version": "1.2.0", "layer": layer}))
    settings = folder / "vk_layer_settings.txt"
    settings.write_text("".join(f"khronos_validation.{name} = {value}\n" for name, value in SETTINGS.items()))
    env = driver("lavapipe", LIBRARIES / "libvulkan_lvp.so")
    return {**env, "VK_LAYER_PATH": str(folder), "VK_INSTANCE_LAYERS": LAYER, "VK_LAYER_SETTINGS_PATH": str(settings)}


def reports(done):
    """What the layers said, each message once."""
    found = re.findall(r"Validation Error: \[ ([^\]]+) \][^\n]*\n([^\n]*)", done.stdout)
    return sorted({f"{name}: {text.strip()}"[:400] for name, text in found if not any(known in name for known in KNOWN)})


def planted(env):
    """Whether planted faults are found."""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for kernel, (text, instead, _) in PLANTED.items():
            source = (ROOT / f"shaders/{kernel}.wgsl").read_text()
            if text not in source:
                return [f"validation.py plants a fault into shaders/{kernel}.wgsl, which has no `{text}`"]
            (Path(folder) / f"{kernel}.wgsl").write_text(source.replace(text, instead, 1))
        names = ",".join(f"={kernel}" for kernel in PLANTED)
        done = swiftshader.kernels(env | {"CASCADE_SHADER_DIR": folder, "CASCADE_KERNELS": names}, quick=True)
        said = [*reports(done), *swiftshader.wrong(done)]
        for kernel, (text, instead, sign) in PLANTED.items():
            if not any(sign in line for line in said):
                faults.append(f"shaders/{kernel}.wgsl with `{instead}` for `{text}` is not noticed: {said}")
    return faults


def check(options):
    version = debian("chromium-common")
    mesa()
    env = layers(version)
    faults = planted(env)
    # In short: shaders whose invocations share memory; the others have no races, and their calls are the same.
    some = {"CASCADE_KERNELS": ",".join(f"={name}" for name in sharing())} if options.short else {}
    done = swiftshader.kernels(env | some, quick=options.short)
    faults += reports(done) + swiftshader.wrong(done)
    return faults, f"{swiftshader.ran(done)} kernel cases, {len(PLANTED)} planted faults, layers of chromium-common {version}"


def sharing():
    """Names of the kernels whose invocations share memory."""
    return sorted({file.stem.split(",")[0] for file in spirv() if shares(file.read_bytes())})
