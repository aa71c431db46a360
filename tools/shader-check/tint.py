"""Tint, Chromium's compiler of WGSL, on every module: it reads the language more strictly than naga in places."""

import json

from packages import ROOT, WORK, environment, node_modules, program, run, spirv, swiftshader

# naga's own, which no other compiler knows.
OWN = "enable wgpu_cooperative_matrix;"


def check(options):
    modules = node_modules()
    driver = swiftshader()  # Dawn refuses Debian's lavapipe
    folder = WORK / "wgsl"
    folder.mkdir(exist_ok=True)
    files, own = [], []
    for kernel in sorted({file.stem.split(",")[0] for file in spirv()}):
        text = run(program(), "kernels", "--source", kernel)
        if OWN in text:
            own.append(kernel)
            continue
        # Browsers want to be asked for subgroups, and naga refuses to be.
        text = text if "subgroup" not in text else f"enable subgroups;\n{text}"
        files.append(folder / f"{kernel}.wgsl")
        files[-1].write_text(text)
    # A planted fault, which naga would find as well.
    planted = folder / "planted.wgsl"
    planted.write_text(files[0].read_text() + "fn planted() -> f32 { return 1u; }\n")
    kinds = ["3"] if options.short else ["0", "1", "2", "3", "4"]
    said = run("node", ROOT / "tools/shader-check/tint.mjs", ",".join(kinds), *files, planted, cwd=modules, env=environment(**driver))
    results = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    *results, last = results or [{"wrong": []}]
    if not last["wrong"]:
        return [f"a function that returns another type than it says is not noticed: {said[-2000:]}"], "Tint"
    faults = [f"{result['file'].rsplit('/', 1)[1]}: {wrong}" for result in results for wrong in result["wrong"]]
    if len(results) != len(files):
        faults.append(f"{len(files)} modules were given to Tint, and it answered on {len(results)}")
    pipelines = sum(result["pipelines"] for result in results)
    return faults, f"{len(results)} modules, {pipelines} pipelines; {', '.join(own)} is in wgpu's own language"
