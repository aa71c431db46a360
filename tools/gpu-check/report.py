"""Writes the results of the steps as a Markdown report. Steps without a measurement are listed with the reason."""

# Gates in seconds for a picture of 1024x1024 with the large model, in bf16 and 20 + 10 steps.
GATES = [("G1", 0.60), ("G2", 0.45), ("G3", 0.38)]

# Peak rates from the vendors' data sheets: dense bf16 with f32 accumulators in FLOP/s, memory in B/s.
PEAKS = {
    "H200": (989e12, 4.8e12), "H100 NVL": (835e12, 3.9e12), "H100 PCIe": (756e12, 2.0e12), "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12), "L40S": (362e12, 0.864e12), "L4": (121e12, 0.3e12), "RTX 4090": (165e12, 1.008e12),
    "RTX 3090": (71e12, 0.936e12), "RTX A6000": (155e12, 0.768e12), "B200": (2250e12, 8.0e12),
}

STAGES = [("text", "text"), ("stage_c", "Stage C"), ("stage_b", "Stage B"), ("stage_a", "Stage A")]


def not_reached(results: dict) -> list:
    """Steps that there was no time for, and what was left of those that were begun."""
    left = []
    for name, result in results.items():
        if result["status"] in ("not reached", "timed out"):
            left.append(name)
        elif result.get("not_reached"):
            left.append(f"{name} ({', '.join(result['not_reached'])})")
    return left


def peaks(results: dict):
    name = results.get("environment", {}).get("gpu", {}).get("name", "")
    return next((peak for card, peak in PEAKS.items() if card in name), None)


def missing(results: dict, step: str) -> str:
    """The reason why a step has no numbers; empty if it has."""
    result = results.get(step)
    if result is None:
        return "not measured: this step was not selected"
    if result["status"] in ("not measured", "not reached"):
        return f"{result['status']}: {result.get('reason', '')}"
    if "reason" in result:
        return f"{result['status']}: {result['reason'].strip().splitlines()[-1]}"
    return ""


def table(head: list, rows: list) -> list:
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    return [line(head), "|" + "---|" * len(head), *map(line, rows), ""]


def rate(value: float, unit: str) -> str:
    return f"{value / 1e12:.1f} T{unit}" if value >= 1e12 else f"{value / 1e9:.1f} G{unit}"


def share(flops: float, moved: float, peak) -> str:
    """The share of the peak rate, of compute or memory, whichever is larger."""
    if not peak or not (flops or moved):
        return "-"
    return "{:.0f} % of {}".format(*max((100 * flops / peak[0], "bf16"), (100 * moved / peak[1], "memory")))


def environment(results: dict) -> list:
    about = results.get("environment")
    if not about:
        return ["The environment was not recorded.", ""]
    gpu = about.get("gpu", {})
    rows = [("date", about["when"]), ("program", f"{about['program']}, commit {about['commit']}"
                                      + (" with uncommitted changes" if about["changed"] else "")),
            ("GPU", gpu.get("name", "no answer from nvidia-smi")), ("driver", gpu.get("driver_version", "-")),
            ("SM clock, current and maximum", f"{gpu.get('clocks.sm', '-')} / {gpu.get('clocks.max.sm', '-')}"),
            ("power, current and limit", f"{gpu.get('power.draw', '-')} / {gpu.get('power.limit', '-')}"),
            ("system", f"{about['system']}, {about['c_library']}, {about['cores']} cores"),
            ("PyTorch", about["torch"] or "none")]
    rows += [(device["name"], f"{device['description']}; {device['capabilities']}") for device in about["devices"]]
    return table(["", ""], rows)


def correctness(results: dict) -> list:
    rows = []
    for step, name in [("kernels-cuda", "kernels, CUDA"), ("kernels-vulkan", "kernels, WGSL through Vulkan"),
                       ("validation-vulkan", "the same under Khronos' validation layers")]:
        result, why = results.get(step, {}), missing(results, step)
        notes = why or "; ".join([*result["different"][:5], *(f"{c['op']} crashed: {c['why']}" for c in result["crashed"]),
                                 *result.get("missed", []), *result.get("reports", [])[:5]])
        if not why and result["not_reached"]:
            notes += f"; not reached within the time limit: {', '.join(result['not_reached'])}"
        kernels = len(result.get("rows", [])) or "-"
        rows.append((name, kernels, result.get("cases", "-"), result.get("failed", "-"), result.get("status", "-"), notes))
    for step, name in [("networks", "networks against PyTorch"), ("pipelines", "pictures against diffusers"),
                       ("backend-vulkan", "memory limits, lost devices, shaders")]:
        result, why = results.get(step, {}), missing(results, step)
        notes = why or f"on {', '.join(result['devices'])}"
        if not why and result["status"] != "ok":
            notes += ": " + " ".join(result["commands"][-1].get("tail", [])[-8:])[:400]
        rows.append((name, "-", result.get("passed", "-"), result.get("failed", "-"), result.get("status", "-"), notes))
    text = table(["check", "kernels", "cases or tests", "failed", "verdict", "notes"], rows)
    text += hopper(results) + pictures(results)
    worst = results.get("pipelines", {}).get("worst", {})
    if worst:
        names = sorted({tensor for errors in worst.values() for tensor in errors})
        text += ["Pictures and intermediate results in f32, largest relative L2 error against diffusers:", ""]
        text += table(["device", *names], [[d, *(f"{e.get(n, 0):.1e}" for n in names)] for d, e in sorted(worst.items())])
    if skipped := [line for step in ("kernels-cuda", "kernels-vulkan") for line in results.get(step, {}).get("skipped", [])]:
        text += [f"Kernels that this machine cannot run: {', '.join(skipped)}.", ""]
    return text


def hopper(results: dict) -> list:
    """How kernels for Hopper and others were covered, and whether scaled linear layers repeat their bits."""
    rows = results.get("kernels-cuda", {}).get("rows", [])
    newer = [row for row in rows if row["kernel"].endswith(".sm90a")]
    text = [f"CUDA kernels tested: {len(newer)} for Hopper (`sm_90a`), {len(rows) - len(newer)} for any GPU.", ""] if rows else []
    if why := missing(results, "scaled-linear"):
        return [*text, f"Linear layers with GRN's scale, the same bits every time: {why}.", ""]
    text += ["Linear layers with GRN's scale, against the kernel for GPUs without `sm_90a`:", ""]
    return text + table(["kernel", "runs", "with other bits", "error"], [
        (row["kernel"], row["runs"], row["other_bits"], f"{row['error']:.1e}") for row in results["scaled-linear"]["rows"]])


def pictures(results: dict) -> list:
    """Whole pictures against the CPU's."""
    rows = []
    for step, name in [("picture-demo", "demo model"), ("picture-large", "large, random weights")]:
        result = results.get(step, {})
        if (why := missing(results, step)) or "rows" not in result:
            rows.append((name, "-", "-", "-", "-", "-", why or result["status"]))
            continue
        rows += [(name, row["tensor"], *(f"{row[key]:.1e}" for key in ("gpu", "cpu bf16", "gpu bf16", "gpu bf16, without sm_90a")),
                  result["status"]) for row in result["rows"]]
    return ["One picture on the GPU, relative L2 error against the CPU's in f32:", "",
            *table(["model", "tensor", "f32", "bf16 on the CPU", "bf16", "bf16, without sm_90a", "verdict"], rows)]


def start_up(results: dict) -> list:
    if why := missing(results, "start-up"):
        return [f"Start of the process to a picture of the demo model: {why}.", ""]
    runs = results["start-up"]["runs"]
    return ["From the start of the process to a picture of the demo model, 1 + 1 steps, with an empty driver cache: "
            + ", ".join(f"{name} {run['seconds']:.2f} s" for name, run in runs.items()) + ".", ""]


def sanitizers(results: dict) -> list:
    rows = []
    for tool in ("memcheck", "racecheck"):
        result, why = results.get(f"sanitizer-{tool}", {}), missing(results, f"sanitizer-{tool}")
        if why:
            rows.append((tool, "-", "-", why))
            continue
        found = [f"{op}: {', '.join(f['kinds']) or f['total']}" for op, f in result["findings"].items()]
        notes = [*found, *(f"no verdict on {op}" for op in result["without_summary"])]
        notes += [f"not reached within the time limit: {', '.join(result['not_reached'])}"] if result["not_reached"] else []
        total = sum(finding["total"] for finding in result["findings"].values())
        rows.append((tool, f"{result['ops'] - len(result['without_summary'])} ops, {result['cases']} cases", total,
                     "; ".join(notes)))
    return table(["compute-sanitizer", "checked", "findings", "notes"], rows)


def verdict(error: float, theirs: float) -> str:
    if error == 0:
        return "pass: this device does not round to bf16"
    return "pass" if error <= 1.25 * theirs else "FAIL"


def fidelity(results: dict) -> list:
    rows = []
    for row in results.get("networks", {}).get("fidelity", []):
        rows.append((f"{row['network']}, one evaluation", row["device"], row["error"], row["diffusers"]))
    whole = results.get("fidelity", {})
    for row in whole.get("rows", []):
        rows.append((f"{whole['model']}, {whole['pixels']} px, {row['tensor']}", whole["device"], row["error"], row["diffusers"]))
    rows = [(name, device, f"{e:.2e}", f"{d:.2e}", f"{e / d:.2f}", verdict(e, d))
            for name, device, e, d in rows]
    if why := missing(results, "networks"):
        rows.append(("tiny networks", "-", "-", "-", "-", why))
    if why := missing(results, "fidelity"):
        rows.append(("a whole picture", "-", "-", "-", "-", why))
    return ["Relative L2 error of bf16 against f32. It may be at most 1.25 times that of diffusers.", "",
            *table(["result", "device", "cascade-rt", "diffusers", "ratio", "verdict"], rows)]


def milliseconds(result: dict, key: str) -> str:
    return f"{1e3 * result['stages_median'][key]:.1f}" if key in result.get("stages_median", {}) else "-"


def end_to_end(results: dict) -> list:
    names = {"synthetic-lite": "lite, CUDA", "synthetic-lite-vulkan": "lite, Vulkan", "synthetic-large": "large, CUDA",
             "synthetic-large-sm80": "large, CUDA, without kernels for Hopper",
             "synthetic-large-serial": "large, CUDA, without dependent launch",
             "beside-large": "large, CUDA, the same files as diffusers", "diffusers-eager": "large, diffusers eager",
             "diffusers-compiled": "large, diffusers compiled"}
    ours = results.get("beside-large", {})
    rows = []
    for step, name in names.items():
        result, why = results.get(step, {}), missing(results, step)
        if why or "picture" not in result:
            rows.append((name, *["-"] * 6, why or result["status"]))
            continue
        ratio = f"{result['picture'] / ours['picture']:.2f}" if step.startswith("diffusers") and "picture" in ours else "-"
        note = f"{result['model']}, {result['pixels']} px, {result['device']}, {len(result['stages']['text'])} runs"
        note += f", mode {result['other']['compiled']}" if result.get("other", {}).get("compiled") else ""
        note += f"; after: {result['after'] or '-'}"
        rows.append((name, *(milliseconds(result, key) for key, _ in STAGES), f"{1e3 * result['picture']:.1f}", ratio, note))
    text = ["Medians in ms, bf16, resident weights, without encoding the PNG. `ratio` is the time divided by that of cascade-rt.", ""]
    text += table(["measurement", *(name for _, name in STAGES), "picture", "ratio", "notes"], rows)
    large = ours if "picture" in ours else results.get("synthetic-large", {})
    gates = []
    for gate, limit in GATES:
        if "picture" not in large or large["quick"] or large["pixels"] != 1024:
            why = missing(results, "synthetic-large") or "not measured: a quick run, or another size"
            gates.append((gate, f"{limit:.2f} s", "-", why if "picture" not in large else "not measured: a quick run"))
        else:
            verdict = "pass" if large["picture"] <= limit else "FAIL"
            gates.append((gate, f"{limit:.2f} s", f"{large['picture']:.3f} s", verdict))
    return text + table(["gate", "at most", "picture", "verdict"], gates) + start_up(results)


def kernels(results: dict) -> list:
    peak, text = peaks(results), []
    profile = results.get("profile-large", {})
    if why := missing(results, "profile-large"):
        text += [f"Profile: {why}", ""]
    elif "profile" not in profile:
        text += ["Profile: failed", ""]
    else:
        rows = sorted(profile["profile"]["rows"], key=lambda row: -row["seconds"])[:30]
        most = profile["profile"].get("ceilings", {})
        text += [f"One picture of {profile['model']} at {profile['pixels']} px, by kernel. Highest measured rates: "
                 f"{rate(most.get('flops_per_second', 0), 'FLOP/s')}, {rate(most.get('bytes_per_second', 0), 'B/s')}.", ""]
        text += table(["kernel", "ms", "share", "calls", "FLOP/s", "B/s", "of the card's peak"], [
            (row["name"], f"{1e3 * row['seconds']:.2f}", f"{100 * row['share']:.1f} %", row["calls"],
             rate(row["flops"] / max(row["seconds"], 1e-9), "FLOP/s"), rate(row["bytes"] / max(row["seconds"], 1e-9), "B/s"),
             share(row["flops"] / max(row["seconds"], 1e-9), row["bytes"] / max(row["seconds"], 1e-9), peak)) for row in rows])
    for step, name in [("bench-cuda", "CUDA"), ("bench-vulkan", "Vulkan")]:
        result = results.get(step, {})
        if why := missing(results, step):
            text += [f"Single kernels, {name}: {why}", ""]
            continue
        text += [f"Single kernels on {result['device']}, medians ({result['status']}).", ""]
        text += table(["kernel and shape", "ms", "FLOP/s", "B/s", "of the card's peak"], [
            (bench["name"], f"{1e3 * bench['seconds']:.4f}", rate(bench["flops"], "FLOP/s") if "flops" in bench else "-",
             rate(bench["bytes"], "B/s") if "bytes" in bench else "-",
             share(bench.get("flops", 0), bench.get("bytes", 0), peak)) for bench in result["benches"]])
    return text


def steps(results: dict) -> list:
    rows = []
    for name, result in results.items():
        bad = [f"`{c['command'][:100]}` failed with {c['rc']}" for c in result.get("commands", []) if c["rc"]]
        note = missing({name: result}, name) or "; ".join(bad[:3])
        rows.append((name, result["status"], f"{result.get('seconds', 0):.0f} s", result.get("when", "-"), note))
    return table(["step", "verdict", "time", "when", "notes"], rows)


def markdown(results: dict) -> str:
    quick = any(result.get("quick") for result in results.values())
    lines = ["# cascade-rt on a GPU", ""]
    lines += ["This was a quick run with tiny models. It tests the tool; its times mean nothing.", ""] if quick else []
    if left := not_reached(results):
        lines += [f"**Not reached in the time given**: {', '.join(left)}.", ""]
    for title, part in [("Machine", environment), ("Correctness", correctness), ("Sanitizers", sanitizers),
                        ("Fidelity of bf16", fidelity), ("Prompt to picture", end_to_end), ("Kernels", kernels),
                        ("Steps", steps)]:
        lines += [f"## {title}", ""]
        try:
            lines += part(results)
        except (KeyError, TypeError, ValueError, IndexError) as error:  # an incomplete report is better than none
            lines += [f"This section cannot be written: {error!r}. The numbers are in results.json.", ""]
    return "\n".join(lines)
