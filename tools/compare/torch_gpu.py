"""Times diffusers on a GPU, eager or compiled, with resident weights, and prints JSON: seconds per stage of every run.

    torch_gpu.py --model DIR --prompt TEXT --runs 5 --warmup 2 [--compile] [--dump FILE]
"""

import json
import time
from pathlib import Path

import diffusers
import torch

from torch_pipeline import Cascade, arguments


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pixels", type=int, default=1024, help="width and height of the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=2, default=[20, 10])
    parser.add_argument("--guidance", type=float, nargs=2, default=[4.0, 0.0])
    parser.add_argument("--timesteps", choices=["exact", "rounded"], default="rounded",
                        help="`rounded` is diffusers as published; `exact` keeps timesteps in f32, to compare results")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--dump", type=Path)
    parser.set_defaults(mode="reduce-overhead")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")

    start = time.perf_counter()
    cascade = Cascade(options)
    loaded = time.perf_counter() - start

    def one() -> dict:
        return cascade.picture(options.prompt, options.seed, options.pixels, options.pixels, options.steps,
                               options.guidance, options.dump)

    start = time.perf_counter()
    for _ in range(options.warmup):
        one()
    warm = time.perf_counter() - start
    runs = [one() for _ in range(options.runs)]
    print(json.dumps({
        "runs": runs, "load": loaded, "warmup": warm, "compiled": options.mode if options.compile else None,
        "torch": torch.__version__, "diffusers": diffusers.__version__,
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }))


if __name__ == "__main__":
    main()
