"""Generates one picture with diffusers and prints JSON: seconds per stage. Used by compare.py, in its own process."""

import argparse
import json
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
    """Undoes the rounding of timesteps to bf16: every time that comes in is put back on the f32 grid."""

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
            # zeros are the absent sca and crp conditions, not a time of the grid's
            times = ratio.float() if (ratio == 0).all() else self.exact(ratio)
            return features(times).to(ratio.dtype)

        unet.get_timestep_ratio_embedding = exact_features


def load(options) -> tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]:
    folder, dtype = options.model, DTYPES[options.dtype]
    prior_folder = options.prior or next(
        (p for p in (folder, folder.with_name(folder.name + "-prior")) if (p / "prior").is_dir()), None)
    if prior_folder is None:
        raise SystemExit(f"no prior/ in {folder} nor in its sibling {folder.name}-prior: give --prior")

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


class Watch:
    """Seconds spent in a module's calls."""

    def __init__(self, module, method="forward"):
        self.seconds, original = 0.0, getattr(module, method)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return result

        setattr(module, method, timed)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prior", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, nargs=2, required=True)
    parser.add_argument("--guidance", type=float, nargs=2, required=True)
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    parser.add_argument("--timesteps", choices=["exact", "rounded"], default="exact")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    imported = time.perf_counter()
    prior, decoder = load(options)
    loaded = time.perf_counter()

    text, stage_a = Watch(prior.text_encoder), Watch(decoder.vqgan, "decode")
    start = time.perf_counter()
    stage_c = prior(prompt=options.prompt, width=options.width, height=options.height,
                    num_inference_steps=options.steps[0], guidance_scale=options.guidance[0],
                    generator=torch.Generator("cpu").manual_seed(options.seed)).image_embeddings
    middle, text_of_prior = time.perf_counter(), text.seconds
    last = {}

    def keep(pipeline, step, t, values):
        last.update(values)
        return values

    image = decoder(image_embeddings=stage_c, prompt=options.prompt, num_inference_steps=options.steps[1],
                    guidance_scale=options.guidance[1], output_type="pt", callback_on_step_end=keep,
                    generator=torch.Generator("cpu").manual_seed(options.seed)).images
    end = time.perf_counter()
    tensors = {"stage_c": stage_c, "stage_b": last["latents"], "image": image}
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, options.dump)
    text_of_decoder = text.seconds - text_of_prior
    print(json.dumps({
        "import": imported - started, "load": loaded - imported, "text": text.seconds,
        "stage_c": middle - start - text_of_prior, "stage_b": end - middle - text_of_decoder - stage_a.seconds,
        "stage_a": stage_a.seconds, "generate": end - start,
    }))


if __name__ == "__main__":
    main()
