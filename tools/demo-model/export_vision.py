"""Add the vision tower to an exported folder, so that pictures can be prompts: `image_encoder/`, and in `prior/` the weight that
leads from it into Stage C. The library's own pipeline is tried with both.

usage: export_vision.py FOLDER
"""

import json
import os
import sys

import torch
from diffusers import StableCascadePriorPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from common import load
from nets import SIDE, TEXT, VISION_SIDE, vision_tower
from sample import GUIDANCE, STEPS_C

MAPPER = "clip_img_mapper.weight"


def write(out):
    state, at = load("vision.pt"), lambda *names: os.path.join(out, *names)
    tower = vision_tower()
    tower.load_state_dict(state["tower"])
    tower.to(torch.bfloat16).save_pretrained(at("image_encoder"))
    side = {"height": VISION_SIDE, "width": VISION_SIDE}
    CLIPImageProcessor(size={"shortest_edge": VISION_SIDE}, crop_size=side).save_pretrained(at("feature_extractor"))
    weights = load_file(at("prior", "diffusion_pytorch_model.safetensors"))
    weights[MAPPER] = state["mapper"].to(torch.bfloat16).contiguous()
    save_file(weights, at("prior", "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})
    edit(at("prior", "config.json"), clip_image_in_channels=TEXT)
    edit(at("model_index.json"), image_encoder=["transformers", "CLIPVisionModelWithProjection"],
         feature_extractor=["transformers", "CLIPImageProcessor"])


def edit(file, **fields):
    with open(file) as f:
        config = json.load(f)
    with open(file, "w") as f:
        json.dump({**config, **fields}, f, indent=2)
        f.write("\n")


def try_pipeline(out):
    prior = StableCascadePriorPipeline.from_pretrained(out, dtype=torch.float32)
    prior.set_progress_bar_config(disable=True)
    made = prior("", images=[Image.new("RGB", (SIDE, SIDE), "red")], height=SIDE, width=SIDE, num_inference_steps=STEPS_C,
                 guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(1))
    print("prior output", tuple(made.image_embeddings.shape))


write(sys.argv[1])
try_pipeline(sys.argv[1])
