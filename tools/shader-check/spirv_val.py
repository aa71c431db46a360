"""Khronos' validator on naga's SPIR-V of every pipeline."""

import concurrent.futures
import os
import re
import subprocess

from packages import DEBS, WORK, debian, environment, spirv

# Enabled by SPIR-V of cooperative matrices, which validators before 2023.5 do not know.
NEWER = b"SPV_KHR_cooperative_matrix"


def check(options):
    version = debian("spirv-tools")
    validator = DEBS / "usr/bin/spirv-val"
    old = tuple(map(int, re.match(r"(\d+)\.(\d+)", version).groups())) < (2023, 5)

    def faults(file):
        if old and NEWER in file.read_bytes():
            return None
        done = subprocess.run([validator, "--target-env", "vulkan1.3", file], capture_output=True, text=True, env=environment())
        return [] if done.returncode == 0 else [f"{file.stem}: {(done.stdout + done.stderr).strip()}"]

    # A planted fault: the end of the last function is missing.
    whole = next(file for file in spirv() if NEWER not in file.read_bytes())
    planted = WORK / "planted.spv"
    planted.write_bytes(whole.read_bytes()[:-4])
    if not faults(planted):
        return ["a module without its end is not noticed"], f"spirv-val {version}"
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(faults, spirv()))
    wrong = [fault for result in results if result for fault in result]
    left = results.count(None)
    said = f"{len(results) - left} pipelines, spirv-val {version}"
    return wrong, said + (f"; LEFT OUT: {left} with cooperative matrices, which need 2023.5" if left else "")
