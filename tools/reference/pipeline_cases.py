"""Writes tests/fixtures/pipeline: cases.json with requests, and a safetensors file with the results of each."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import bf16_error
from picture_cases import noise
from sampling import Request, by_combined_pipeline, by_loop, by_pipelines, encode, image_prompts
from tiny_model import load
from vocabulary import write_json

FOX = "a red fox in the snow, 35mm photograph"
LONG = " ".join(f"{n} lighthouses under a violet sky," for n in range(1, 30))

CASES = {
    "guided": Request([FOX], 128, 128),
    "unguided_wide": Request([FOX], 192, 64, seed=1, guidance=(1.0, 0.0)),
    "decoder_guided": Request([FOX], 64, 64, seed=2, guidance=(4.0, 1.5)),
    "decoder_guided_two_images": Request([FOX], 64, 64, seed=3, guidance=(4.0, 1.1), count=2),
    "decoder_guided_prior_not": Request([FOX], 72, 64, seed=4, guidance=(0.0, 2.0), negative="fog"),
    "two_images": Request([FOX], 64, 80, seed=5, count=2),
    "two_prompts_two_images": Request([FOX, "two cats"], 64, 64, seed=6, guidance=(3.0, 1.3), count=2, negative="dim"),
    "negative": Request(["a lighthouse"], 64, 64, seed=7, negative="blurry, low quality, text"),
    "truncated_prompt": Request([LONG], 64, 64, seed=8),
    "empty_prompt_one_step": Request([""], 64, 64, seed=9, steps=(1, 1), guidance=(2.0, 0.0)),
    "bf16_noise": Request([FOX], 64, 64, seed=10, noise="torch-bf16"),
    "shared_generator": Request([FOX], 64, 64, seed=11, generators="shared"),
    "many_steps_large_seed": Request([FOX], 64, 64, seed=2**40 + 13, steps=(20, 10)),
    "image_prompt": Request([""], 128, 128, seed=17, images=["wide.png"]),
    "image_prompts_and_text": Request([FOX], 64, 64, seed=18, count=2, images=["wide.png", "tall.png"], negative="fog"),
    "bf16_weights": Request([FOX], 64, 64, seed=16, guidance=(4.0, 1.5), variant="bf16"),
}

FILES = {
    "f32": {"prior": "tiny-prior/prior/diffusion_pytorch_model.safetensors",
            "decoder": "tiny/decoder/diffusion_pytorch_model.safetensors"},
    "bf16": {"prior": "tiny-prior/prior/diffusion_pytorch_model.bf16.safetensors",
             "decoder": "tiny/decoder/diffusion_pytorch_model.bf16.safetensors",
             "original": ["tiny-original/stage_a.safetensors", "tiny-original/stage_b.safetensors",
                          "tiny-original/stage_c.safetensors"]},
}


def check_loop_equals_pipelines(models: dict) -> None:
    """Checks that the loop in sampling.py gives the same bits as the pipelines, for requests that the pipelines support."""
    for request in [Request([FOX], 128, 128), Request([FOX], 168, 128, guidance=(1.0, 0.0)),
                    Request([FOX], 128, 128, guidance=(4.0, 1.5), negative="fog"),
                    Request([FOX, LONG], 128, 128, seed=6, guidance=(3.0, 1.3), count=1, negative="dim"),
                    Request([FOX, "two cats"], 128, 128, seed=2**40 + 6, count=2, negative="dim", steps=(5, 4)),
                    Request([FOX], 128, 128, images=["wide.png", "tall.png"], negative="fog"),
                    Request([FOX], 128, 168, seed=3, generators="shared")]:
        pipelines, loop = by_pipelines(models, request), by_loop(models, request)
        for name in pipelines:
            assert torch.equal(pipelines[name], loop[name]), (request, name)
        if request.generators == "shared":
            assert torch.equal(by_combined_pipeline(models, request), loop["image"])


def write(fixtures: Path) -> None:
    folder = fixtures / "pipeline"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in [("wide", (61, 34)), ("tall", (31, 40))]:
        Image.fromarray(noise(np.random.default_rng(len(name)), *size[::-1], 3)).save(folder / f"{name}.png")
    models = {variant: load(fixtures, variant) for variant in ("f32", "bf16")}
    check_loop_equals_pipelines(models["f32"])
    described = {}
    for name, request in CASES.items():
        chosen = models[request.variant]
        prompt = encode(chosen, request.prompts)
        negative = encode(chosen, [request.negative] * len(request.prompts)) if max(request.guidance) > 1 else {}
        tensors = {**prompt, **{"neg_" + k: v for k, v in negative.items()}, **by_loop(chosen, request)}
        if request.pipeline_size == (request.width, request.height) and request.noise == "torch":
            assert torch.equal(by_pipelines(chosen, request)["image"], tensors["image"])
        if request.images:
            tensors["image_embeds"] = image_prompts(chosen, request)[0]
        for key, tensor in tensors.items():
            assert tensor.dtype == torch.float32 and tensor.isfinite().all(), (name, key)
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, folder / f"{name}.safetensors")
        case = asdict(request)
        case["tensors"] = {k: list(v.shape) for k, v in tensors.items()}
        case["file"] = f"{name}.safetensors"
        described[name] = case
    write_json(folder / "cases.json", {
        "made_with": {"torch": torch.__version__.split("+")[0], "diffusers": "0.42.1", "transformers": "5.23.0"},
        "models": FILES,
        "bf16_error": bf16_error.write(fixtures, models["bf16"]),
        "cases": described,
    })
