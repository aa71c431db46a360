"""Times diffusers on a GPU, eager or compiled, and prints JSON: seconds per stage of every run, weights resident.

    torch_gpu.py --model DIR --runs 5 --warmup 2 [--compile] [--dump FILE]
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from torch_pipeline import DTYPES, load


class Clock:
    """Seconds spent in calls, the device's work included."""

    def __init__(self, wait):
        self.seconds, self.wait = 0.0, wait

    def watch(self, module, method):
        original = getattr(module, method)

        def timed(*args, **kwargs):
            self.wait()
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self.wait()
            self.seconds += time.perf_counter() - start
            return result

        setattr(module, method, timed)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pixels", type=int, default=1024, help="side of the picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=2, default=[20, 10])
    parser.add_argument("--guidance", type=float, nargs=2, default=[4.0, 0.0])
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--timesteps", choices=["exact", "rounded"], default="rounded",
                        help="`rounded` is diffusers as published; `exact` undoes that, for comparing results")
    parser.add_argument("--compile", action="store_true", help="torch.compile of both networks and Stage A")
    parser.add_argument("--mode", default="reduce-overhead", help="of torch.compile; this one records CUDA graphs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--dump", type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = options.dtype == "bf16"
    on_gpu = options.device.startswith("cuda")
    wait = torch.cuda.synchronize if on_gpu else lambda: None

    start = time.perf_counter()
    prior, decoder = (pipeline.to(options.device) for pipeline in load(options))
    wait()
    loaded = time.perf_counter() - start
    if options.compile:
        for module in (prior.prior, decoder.decoder, decoder.vqgan.up_blocks, decoder.vqgan.out_block):
            module.compile(mode=options.mode)
    text, stage_a = Clock(wait), Clock(wait)
    text.watch(prior.text_encoder, "forward")
    stage_a.watch(decoder.vqgan, "decode")
    last = {}

    def keep(pipeline, step, t, values):
        last.update(values)
        return values

    def one() -> dict:
        text.seconds = stage_a.seconds = 0.0
        wait()
        begin = time.perf_counter()
        stage_c = prior(prompt=options.prompt, width=options.pixels, height=options.pixels,
                        num_inference_steps=options.steps[0], guidance_scale=options.guidance[0],
                        generator=torch.Generator("cpu").manual_seed(options.seed)).image_embeddings
        wait()
        middle, text_of_prior = time.perf_counter(), text.seconds
        image = decoder(image_embeddings=stage_c, prompt=options.prompt, num_inference_steps=options.steps[1],
                        guidance_scale=options.guidance[1], output_type="pt", callback_on_step_end=keep,
                        generator=torch.Generator("cpu").manual_seed(options.seed)).images
        wait()
        end, text_of_decoder = time.perf_counter(), text.seconds - text_of_prior
        if options.dump:
            tensors = {"stage_c": stage_c, "stage_b": last["latents"], "image": image}
            save_file({k: v.float().cpu().contiguous() for k, v in tensors.items()}, options.dump)
        return {"text": text.seconds, "stage_c": middle - begin - text_of_prior,
                "stage_b": end - middle - text_of_decoder - stage_a.seconds, "stage_a": stage_a.seconds}

    start = time.perf_counter()
    for _ in range(options.warmup):
        one()
    warm = time.perf_counter() - start
    runs = [one() for _ in range(options.runs)]
    import diffusers
    print(json.dumps({
        "runs": runs, "load": loaded, "warmup": warm, "compiled": options.mode if options.compile else None,
        "torch": torch.__version__, "diffusers": diffusers.__version__,
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }))


if __name__ == "__main__":
    main()
