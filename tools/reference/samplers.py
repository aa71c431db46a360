"""Samplers and schedules as others define them, on a toy network: writes tests/fixtures/samplers.json.

Euler, Euler ancestral, both DPM-Solver++ samplers and LCM are written as in k-diffusion, in its variables (x divided by the
signal's factor, noise-to-signal ratio sigma); the original repository's sampler in log-SNR. `--check` compares them with the
schedulers of diffusers that define the same thing.

    python tools/reference/samplers.py [--check]
"""

import argparse
import inspect
import json
import math
from pathlib import Path

S = 0.008
FIRST = math.cos(S / (1 + S) * math.pi / 2) ** 2
START = [0.3, -1.2, 0.8, 1.9, -0.4, 0.05]
ROOT = Path(__file__).resolve().parents[2]


def network(x, r):
    """A toy prediction of noise, smooth and not linear."""
    return [0.3 * math.sin(3 * v) + 0.4 * v * math.cos(1.5 * r) for v in x]


def noise(step):
    """What stands for standard normal noise after a step."""
    return [1.4 * math.sin(1.7 * step + 2.3 * i + 0.5) for i in range(len(START))]


def share(t):
    return min(max(math.cos((t + S) / (1 + S) * math.pi / 2) ** 2 / FIRST, 1e-4), 0.9999)


def log_snr(t, shift):
    a = share(t)
    return min(max(math.log(a / (1 - a)) + 2 * math.log(1 / shift), -9.21024), 9.21007)


def time_of(log_snr):
    a = 1 / (1 + math.exp(-log_snr))
    return min(max(math.acos(math.sqrt(a * FIRST)) / (math.pi / 2) * (1 + S) - S, 0), 1)


class Level:
    """A noise level: r is the time that the network is told."""

    def __init__(self, r, a2):
        self.r, self.a, self.b = r, math.sqrt(a2), math.sqrt(1 - a2)
        self.sigma = self.b / self.a

    @classmethod
    def of(cls, t, shift, clamps):
        if shift == 1 and not clamps:
            return cls(t, share(t))
        return cls.of_log_snr(log_snr(t, shift))

    @classmethod
    def of_log_snr(cls, value):
        return cls(time_of(value), 1 / (1 + math.exp(-value)))


def levels(case):
    """Levels of the steps, then the last one of the schedule."""
    shift, clamps, n = case["shift"], case["sampler"] == "gdf", case["steps"]
    last = Level.of(0, shift, clamps)
    if case["times"]:
        return [Level.of(t, shift, clamps) for t in case["times"]] + [last]
    if case["spacing"] == "linear":
        return [Level.of(1 - i / n, shift, clamps) for i in range(n)] + [last]
    high, low = math.sqrt((1 - share(1)) / share(1)), math.sqrt((1 - share(0)) / share(0))
    ramp = [i / max(n - 1, 1) for i in range(n)]
    if case["spacing"] == "karras":
        sigmas = [(high ** (1 / 7) + r * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for r in ramp]
    else:
        sigmas = [math.exp(math.log(high) + r * (math.log(low) - math.log(high))) for r in ramp]
    shifted = [min(max(-2 * math.log(s * shift), -9.21024), 9.21007) for s in sigmas]
    return [Level.of_log_snr(v) for v in shifted] + [last]


def ddpm(levels):
    x = START
    for i, (now, after) in enumerate(zip(levels, levels[1:])):
        eps, z = network(x, now.r), noise(i)
        alpha = now.a**2 / after.a**2
        sigma = math.sqrt((1 - alpha) * after.b**2 / now.b**2) if i + 2 < len(levels) else 0
        x = [math.sqrt(1 / alpha) * (v - (1 - alpha) * e / now.b) + sigma * n for v, e, n in zip(x, eps, z)]
    return x


def gdf(levels):
    x = START
    for i, (now, after) in enumerate(zip(levels, levels[1:])):
        eps = network(x, now.r)
        x0 = [(v - now.b * e) / now.a for v, e in zip(x, eps)]
        sigma = math.sqrt(after.b**2 / now.b**2) * math.sqrt(1 - now.a**2 / after.a**2)
        along = math.sqrt(after.b**2 - sigma**2)
        x = [after.a * c + along * e + sigma * n for c, e, n in zip(x0, eps, noise(i))]
    return x0


def ddim(levels):
    x = START
    for i, (now, after) in enumerate(zip(levels, levels[1:])):
        eps = network(x, now.r)
        x0 = [(v - now.b * e) / now.a for v, e in zip(x, eps)]
        a, b = (after.a, after.b) if i + 2 < len(levels) else (1, 0)
        x = [a * c + b * e for c, e in zip(x0, eps)]
    return x


def k_diffusion(step):
    """Runs `step(x, denoised, sigma, sigma_next, noise, memory)` in k-diffusion's variables, down to sigma 0."""

    def sample(levels):
        sigmas = [level.sigma for level in levels[:-1]] + [0]
        x, memory = [v / levels[0].a for v in START], {}
        for i, now in enumerate(levels[:-1]):
            eps = network([v * now.a for v in x], now.r)
            denoised = [v - sigmas[i] * e for v, e in zip(x, eps)]
            x = step(x, denoised, sigmas[i], sigmas[i + 1], noise(i), memory)
        return x

    return sample


def euler(x, denoised, sigma, after, z, memory):
    d = [(v - c) / sigma for v, c in zip(x, denoised)]
    return [v + e * (after - sigma) for v, e in zip(x, d)]


def euler_ancestral(x, denoised, sigma, after, z, memory):
    up = min(after, math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    down = math.sqrt(after**2 - up**2)
    d = [(v - c) / sigma for v, c in zip(x, denoised)]
    return [v + e * (down - sigma) + n * up for v, e, n in zip(x, d, z)]


def dpmpp_2m(x, denoised, sigma, after, z, memory):
    old, before, memory["old"], memory["sigma"] = memory.get("old"), memory.get("sigma"), denoised, sigma
    if after == 0:
        return denoised
    t, t_next = -math.log(sigma), -math.log(after)
    h = t_next - t
    d = denoised
    if old is not None:
        r = (t + math.log(before)) / h
        d = [(1 + 1 / (2 * r)) * c - 1 / (2 * r) * o for c, o in zip(denoised, old)]
    return [(after / sigma) * v - math.expm1(-h) * c for v, c in zip(x, d)]


def dpmpp_2m_sde(x, denoised, sigma, after, z, memory, eta=1.0):
    old, last, memory["old"] = memory.get("old"), memory.get("h"), denoised
    if after == 0:
        return denoised
    h = math.log(sigma) - math.log(after)
    memory["h"] = h
    eta_h = eta * h
    y = [after / sigma * math.exp(-eta_h) * v - math.expm1(-h - eta_h) * c for v, c in zip(x, denoised)]
    if old is not None:
        r = last / h
        y = [v - 0.5 * math.expm1(-h - eta_h) / r * (c - o) for v, c, o in zip(y, denoised, old)]
    return [v + n * after * math.sqrt(-math.expm1(-2 * eta_h)) for v, n in zip(y, z)]


def lcm(x, denoised, sigma, after, z, memory):
    return [c + after * n for c, n in zip(denoised, z)]


SAMPLERS = {
    "ddpm": ddpm,
    "gdf": gdf,
    "ddim": ddim,
    "euler": k_diffusion(euler),
    "euler-ancestral": k_diffusion(euler_ancestral),
    "dpmpp-2m": k_diffusion(dpmpp_2m),
    "dpmpp-2m-sde": k_diffusion(dpmpp_2m_sde),
    "lcm": k_diffusion(lcm),
}


def cases():
    for sampler in SAMPLERS:
        settings = [("linear", 1, 20, []), ("linear", 2, 7, []), ("karras", 1, 8, []), ("exponential", 0.5, 5, []),
                    ("linear", 1, 3, [0.9, 0.6, 0.2]), ("linear", 1, 1, [])]
        for spacing, shift, steps, times in settings:
            yield {"sampler": sampler, "spacing": spacing, "shift": shift, "steps": steps, "times": times}


def check():
    """The same samplers by diffusers' schedulers, on 1000 training steps with our schedule."""
    import torch
    from diffusers import DDIMScheduler, DDPMWuerstchenScheduler, DPMSolverMultistepScheduler
    import diffusers.schedulers.scheduling_ddpm_wuerstchen as wuerstchen
    import diffusers.schedulers.scheduling_dpmsolver_multistep as multistep

    # Shares at 1000 times that keep clear of the clamps.
    grid = [0.02 + 0.96 * k / 999 for k in range(1000)]
    shares = [share(t) for t in grid]
    betas = [1 - shares[0]] + [1 - b / a for a, b in zip(shares, shares[1:])]
    picks = [999, 799, 599, 399, 199]
    case = {"sampler": "", "spacing": "linear", "shift": 1, "steps": len(picks), "times": [grid[k] for k in picks]}
    drawn = []

    def draw(*args, **kwargs):
        drawn.append(None)
        return torch.tensor(noise(len(drawn) - 1), dtype=torch.float64)

    def run(scheduler):
        drawn.clear()
        scheduler.set_timesteps(**({"timesteps": picks} if takes_times(scheduler) else {"num_inference_steps": 5}))
        assert takes_times(scheduler) or scheduler.timesteps.tolist() == picks
        x = torch.tensor(START, dtype=torch.float64)
        for k in picks:
            eps = torch.tensor(network(x.tolist(), grid[k]), dtype=torch.float64)
            x = scheduler.step(eps, torch.tensor(k), x)[0].double()
        return x.tolist()

    def takes_times(scheduler):
        return "timesteps" in inspect.signature(scheduler.set_timesteps).parameters

    def compare(name, got):
        want = SAMPLERS[name](levels({**case, "sampler": name}))
        error = max(abs(a - b) / (1 + abs(b)) for a, b in zip(got, want))
        print(f"{name:16} {error:.1e}")
        assert error < 1e-4, (name, got, want)

    common = {"trained_betas": betas, "num_train_timesteps": 1000}
    multistep.randn_tensor = draw
    solver = {**common, "solver_order": 2, "lower_order_final": False, "euler_at_final": True,
              "final_sigmas_type": "zero", "solver_type": "midpoint"}
    compare("dpmpp-2m", run(DPMSolverMultistepScheduler(**solver, algorithm_type="dpmsolver++")))
    compare("dpmpp-2m-sde", run(DPMSolverMultistepScheduler(**solver, algorithm_type="sde-dpmsolver++")))
    compare("ddim", run(DDIMScheduler(**common, clip_sample=False, timestep_spacing="trailing")))

    wuerstchen.randn_tensor = draw
    drawn.clear()
    scheduler, x = DDPMWuerstchenScheduler(), torch.tensor(START, dtype=torch.float64)
    scheduler.set_timesteps(8)
    for t in scheduler.timesteps[:-1]:
        eps = torch.tensor(network(x.tolist(), t.item()), dtype=torch.float64)
        x = scheduler.step(eps, t.expand(1), x)[0]
    want = ddpm(levels({**case, "sampler": "ddpm", "steps": 8, "times": []}))
    error = max(abs(a - b) / (1 + abs(b)) for a, b in zip(x.tolist(), want))
    print(f"{'ddpm':16} {error:.1e}")
    assert error < 1e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with diffusers instead of writing the fixture")
    if parser.parse_args().check:
        return check()
    results = [{**case, "result": SAMPLERS[case["sampler"]](levels(case))} for case in cases()]
    path = ROOT / "tests/fixtures/samplers.json"
    path.write_text("[\n" + ",\n".join(json.dumps(result) for result in results) + "\n]\n")
    print(f"{path.relative_to(ROOT)}: {len(results)} runs")


if __name__ == "__main__":
    main()
