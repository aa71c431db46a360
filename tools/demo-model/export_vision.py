"""Write the vision tower, and Stage C that takes pictures as prompts, into an exported folder, and try them with the library's
own pipeline.

usage: export_vision.py FOLDER
"""

import json
import os
import sys

import torch
from diffusers import StableCascadePriorPipeline
from PIL import Image
from transformers import CLIPImageProcessor

from common import load
from nets import SIDE, TEXT, VISION_SIDE, stage_c, vision_tower
from sample import GUIDANCE, STEPS_C


def write(out):
    state, at = load("vision.pt"), lambda *names: os.path.join(out, *names)
    tower = vision_tower()
    tower.load_state_dict(state["tower"])
    tower.to(torch.bfloat16).save_pretrained(at("image_encoder"))
    side = {"height": VISION_SIDE, "width": VISION_SIDE}
    CLIPImageProcessor(size={"shortest_edge": VISION_SIDE}, crop_size=side).save_pretrained(at("feature_extractor"))
    net = stage_c(image=TEXT)
    net.load_state_dict(state["average"]["weights"])
    net.to(torch.bfloat16).save_pretrained(at("prior"))
    edit(at("model_index.json"), image_encoder=["transformers", "CLIPVisionModelWithProjection"],
         feature_extractor=["transformers", "CLIPImageProcessor"])
    for name in ("prior", "image_encoder"):  # the machine's own paths do not belong in configs
        edit(at(name, "config.json"), _name_or_path=None)


def edit(file, **fields):
    """Sets fields of a file of JSON, or removes them."""
    with open(file) as f:
        config = {k: v for k, v in {**json.load(f), **fields}.items() if v is not None or k not in fields}
    with open(file, "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


def try_pipeline(out):
    prior = StableCascadePriorPipeline.from_pretrained(out, dtype=torch.float32)
    prior.set_progress_bar_config(disable=True)
    made = prior("", images=[Image.new("RGB", (SIDE, SIDE), "red")], height=SIDE, width=SIDE, num_inference_steps=STEPS_C,
                 guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(1))
    print("prior output", tuple(made.image_embeddings.shape))


write(sys.argv[1])
try_pipeline(sys.argv[1])
