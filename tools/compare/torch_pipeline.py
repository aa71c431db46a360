"""Runs Stable Cascade in diffusers. `pictures.py` starts this process and sends it one request per line.

A request is a JSON object with prompt, seed, width, height, steps and guidance; with `dump`, tensors are written to that
file. The process prints one line of JSON when it is ready, and one after each picture.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

started = time.perf_counter()

import torch
from diffusers import (DDPMWuerstchenScheduler, StableCascadeDecoderPipeline, StableCascadePriorPipeline,
                       StableCascadeUNet)
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class ExactTimesteps(DDPMWuerstchenScheduler):
    """Undoes the rounding of timesteps to bf16: replaces every timestep by the nearest one of the f32 schedule."""

    def exact(self, t: torch.Tensor) -> torch.Tensor:
        if t.dtype == torch.float32:
            return t
        grid = self.timesteps
        return grid[(grid[None, :] - t.float()[:, None]).abs().argmin(dim=1)]

    def step(self, model_output, timestep, *args, **kwargs):
        return super().step(model_output, self.exact(timestep), *args, **kwargs)

    def feed(self, unet: StableCascadeUNet) -> None:
        features = unet.get_timestep_ratio_embedding

        def exact_features(ratio):
            # Zeros are absent sca and crp conditions, not timesteps.
            times = ratio.float() if (ratio == 0).all() else self.exact(ratio)
            return features(times).to(ratio.dtype)

        unet.get_timestep_ratio_embedding = exact_features


def load(options) -> tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]:
    folder, dtype = options.model, DTYPES[options.dtype]
    prior_folder = options.prior or next(
        (p for p in (folder, folder.with_name(folder.name + "-prior")) if (p / "prior").is_dir()), None)
    if prior_folder is None:
        raise SystemExit(f"no prior/ in {folder} or in its sibling {folder.name}-prior; set its folder with --prior")

    def unet(path: Path) -> StableCascadeUNet:
        wanted, other = ("bf16", None) if options.dtype == "bf16" else (None, "bf16")
        variant = wanted if list(path.glob(weight_pattern(wanted))) else other
        return StableCascadeUNet.from_pretrained(path, torch_dtype=dtype, variant=variant).eval()

    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", dtype=dtype).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    vqgan = PaellaVQModel.from_pretrained(folder / "vqgan", torch_dtype=dtype).eval()
    schedulers = ExactTimesteps(), ExactTimesteps()
    prior = StableCascadePriorPipeline(tokenizer, text, unet(prior_folder / "prior"), schedulers[0])
    decoder = StableCascadeDecoderPipeline(unet(folder / "decoder"), tokenizer, text, schedulers[1], vqgan)
    if options.dtype == "bf16" and options.timesteps == "exact":
        schedulers[0].feed(prior.prior)
        schedulers[1].feed(decoder.decoder)
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    return prior, decoder


def weight_pattern(variant: str | None) -> str:
    return f"diffusion_pytorch_model.{variant}*.safetensors" if variant else "diffusion_pytorch_model.safetensors*"


class Clock:
    """Measures the seconds spent in calls of the watched methods, including the work of the device."""

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


class Cascade:
    """Both pipelines on a device, with every stage timed."""

    def __init__(self, options):
        on_gpu = options.device.startswith("cuda")
        torch.backends.cuda.matmul.allow_tf32 = options.dtype == "bf16"
        self.wait = torch.cuda.synchronize if on_gpu else lambda: None
        self.prior, self.decoder = (pipeline.to(options.device) for pipeline in load(options))
        self.wait()
        if options.compile:
            networks = (self.prior.prior, self.decoder.decoder)
            stage_a = (self.decoder.vqgan.up_blocks, self.decoder.vqgan.out_block)
            for module in (*networks, *stage_a):
                module.compile(mode=options.mode)
        self.text, self.stage_a = Clock(self.wait), Clock(self.wait)
        self.text.watch(self.prior.text_encoder, "forward")
        self.stage_a.watch(self.decoder.vqgan, "decode")
        self.last = {}

    def keep(self, pipeline, step, t, values):
        self.last.update(values)
        return values

    @torch.no_grad()
    def picture(self, prompt, seed, width, height, steps, guidance, dump=None) -> dict[str, float]:
        """Makes a picture and returns the seconds of each stage."""
        self.text.seconds = self.stage_a.seconds = 0.0
        self.wait()
        start = time.perf_counter()
        stage_c = self.prior(prompt=prompt, width=width, height=height, num_inference_steps=steps[0],
                             guidance_scale=guidance[0],
                             generator=torch.Generator("cpu").manual_seed(seed)).image_embeddings
        self.wait()
        middle, text_of_prior = time.perf_counter(), self.text.seconds
        image = self.decoder(image_embeddings=stage_c, prompt=prompt, num_inference_steps=steps[1],
                             guidance_scale=guidance[1], output_type="pt", callback_on_step_end=self.keep,
                             generator=torch.Generator("cpu").manual_seed(seed)).images
        self.wait()
        end, text_of_decoder = time.perf_counter(), self.text.seconds - text_of_prior
        if dump:
            tensors = {"stage_c": stage_c, "stage_b": self.last["latents"], "image": image}
            save_file({k: v.float().cpu().contiguous() for k, v in tensors.items()}, dump)
        return {"text": self.text.seconds, "stage_c": middle - start - text_of_prior,
                "stage_b": end - middle - text_of_decoder - self.stage_a.seconds, "stage_a": self.stage_a.seconds,
                "picture": end - start}


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for both networks and Stage A")
    parser.add_argument("--mode", default="default", help="mode of torch.compile; `reduce-overhead` uses CUDA graphs")
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timesteps", choices=["exact", "rounded"], default="exact")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    imported = time.perf_counter()
    cascade = Cascade(options)
    print(json.dumps({"import": imported - started, "load": time.perf_counter() - imported}), flush=True)
    unit = 1 if sys.platform == "darwin" else 1024
    for line in sys.stdin:
        before = time.process_time()
        seconds = cascade.picture(**json.loads(line))
        print(json.dumps({"seconds": seconds, "cpu": time.process_time() - before,
                          "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}), flush=True)


if __name__ == "__main__":
    main()
