"""Write the averaged weights as one diffusers folder in bf16 and try it with the library's own pipelines.

usage: export.py FOLDER PICTURE.png
"""

import json
import os
import shutil
import sys

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

from common import path
from nets import SIDE
from sample import GUIDANCE, STEPS_B, STEPS_C, Demo

FOLDERS = ("text_encoder", "prior", "decoder", "vqgan", "tokenizer", "scheduler")
LIMIT = 24_000_000


def write(out):
    demo = Demo()
    for name in FOLDERS:
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
    for name, net in (("text_encoder", demo.text), ("prior", demo.c), ("decoder", demo.b), ("vqgan", demo.a)):
        net.to(torch.bfloat16).to("cpu").save_pretrained(os.path.join(out, name))
        print(name, sum(p.numel() for p in net.parameters()), "parameters")
    shutil.copytree(path("tokenizer"), os.path.join(out, "tokenizer"))
    DDPMWuerstchenScheduler().save_pretrained(os.path.join(out, "scheduler"))
    # Both pipelines load from this one folder: the library takes what a class needs, and leaves keys with an underscore
    # alone. The published models say "wuerstchen", which it has moved since and does not find.
    index = {
        "_class_name": "StableCascadeDecoderPipeline", "_diffusers_version": "0.42.1", "_native_size": SIDE,
        "decoder": ["diffusers", "StableCascadeUNet"], "latent_dim_scale": 10.67, "prior": ["diffusers", "StableCascadeUNet"],
        "scheduler": ["diffusers", "DDPMWuerstchenScheduler"], "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizerFast"], "vqgan": [PaellaVQModel.__module__, "PaellaVQModel"],
    }
    with open(os.path.join(out, "model_index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")
    for name in FOLDERS:  # the machine's own paths do not belong in configs
        for file in os.listdir(os.path.join(out, name)):
            if file.endswith("config.json"):
                with open(os.path.join(out, name, file)) as f:
                    config = json.load(f)
                config.pop("_name_or_path", None)
                with open(os.path.join(out, name, file), "w") as f:
                    json.dump(config, f, indent=2)
                    f.write("\n")
    sizes = {os.path.join(at, f): os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(out) for f in files}
    print(f"{sum(sizes.values()) / 1e6:.2f} MB in {len(sizes)} files")
    assert sum(sizes.values()) <= LIMIT


def try_pipelines(out, picture, text="a red apple on a blue background"):
    prior, decoder = (kind.from_pretrained(out, dtype=torch.float32) for kind in (StableCascadePriorPipeline, StableCascadeDecoderPipeline))
    for pipeline in (prior, decoder):
        pipeline.set_progress_bar_config(disable=True)
    made = prior(text, height=SIDE, width=SIDE, num_inference_steps=STEPS_C, guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(1))
    print("prior output", tuple(made.image_embeddings.shape))
    decoder(made.image_embeddings, prompt=text, num_inference_steps=STEPS_B, guidance_scale=0.0, generator=torch.Generator().manual_seed(2)).images[0].save(picture)


write(sys.argv[1])
try_pipelines(*sys.argv[1:3])
