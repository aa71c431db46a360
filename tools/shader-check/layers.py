"""Khronos' validation layers: how they are switched on, what they report, and two faults planted to see that they watch."""

import json
import re

LAYER = "VK_LAYER_KHRONOS_validation"
FILE = "libVkLayer_khronos_validation.so"
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


def environment(folder, library, version):
    """Environment variables with which every Vulkan program loads the layers from `library`; descriptions go into `folder`."""
    folder.mkdir(exist_ok=True)
    extensions = [("VK_EXT_debug_utils", 1), ("VK_EXT_validation_features", 2), ("VK_EXT_layer_settings", 2)]
    layer = {
        "name": LAYER,
        "type": "GLOBAL",
        "library_path": str(library),
        "api_version": "1.4.300",
        "implementation_version": "1",
        "description": version,
        "instance_extensions": [{"name": name, "spec_version": str(of)} for name, of in extensions],
    }
    (folder / "layer.json").write_text(json.dumps({"file_format_version": "1.2.0", "layer": layer}))
    settings = folder / "vk_layer_settings.txt"
    settings.write_text("".join(f"khronos_validation.{name} = {value}\n" for name, value in SETTINGS.items()))
    return {"VK_LAYER_PATH": str(folder), "VK_INSTANCE_LAYERS": LAYER, "VK_LAYER_SETTINGS_PATH": str(settings)}


def reports(text):
    """What the layers said in a program's output, each message once."""
    found = re.findall(r"Validation Error: \[ ([^\]]+) \][^\n]*\n([^\n]*)", text)
    return sorted({f"{name}: {text.strip()}"[:400] for name, text in found if not any(known in name for known in KNOWN)})


def plant(shaders, folder):
    """Writes the shaders with their faults; the environment in which tests run just them."""
    for kernel, (text, instead, _) in PLANTED.items():
        source = (shaders / f"{kernel}.wgsl").read_text()
        if text not in source:
            raise ValueError(f"layers.py plants a fault into {kernel}.wgsl, which has no `{text}`")
        (folder / f"{kernel}.wgsl").write_text(source.replace(text, instead, 1))
    return {"CASCADE_SHADER_DIR": str(folder), "CASCADE_KERNELS": ",".join(f"={kernel}" for kernel in PLANTED)}


def missed(said):
    """Planted faults of which there is no sign in these lines."""
    return [
        f"{kernel}.wgsl with `{instead}` for `{text}` is not noticed: {said}"
        for kernel, (text, instead, sign) in PLANTED.items()
        if not any(sign in line for line in said)
    ]
