"""Batched pictures with the library's scheduler, for looking and for measuring.

usage: sample.py OUT.png [PROMPT ...]; DEMO_MODEL names an exported folder, otherwise the checkpoints are used
"""

import os
import sys

import torch
from diffusers import DDPMWuerstchenScheduler
from diffusers.models import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from PIL import Image
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from common import DEVICE, load, path
from embed_captions import embed
from nets import GRID_B, GRID_C, stage_b, stage_c

STEPS_C, STEPS_B, GUIDANCE = 20, 10, 3.0


class Demo:
    def __init__(self, folder=None, parts="cb"):
        at = (lambda name: os.path.join(folder, name)) if folder else path
        self.tokenizer = CLIPTokenizer.from_pretrained(at("tokenizer"))
        self.text = CLIPTextModelWithProjection.from_pretrained(at("text_encoder"), dtype=torch.float32).to(DEVICE).eval()
        self.a = PaellaVQModel.from_pretrained(at("vqgan")).float().to(DEVICE).eval()
        if folder:
            self.c, self.b = (StableCascadeUNet.from_pretrained(at(n)).float().to(DEVICE).eval() for n in ("prior", "decoder"))
        else:
            self.c = self.averaged(stage_c(), "stage_c.pt") if "c" in parts else None
            self.b = self.averaged(stage_b(), "stage_b.pt") if "b" in parts else None

    def averaged(self, net, name):
        net.load_state_dict(load(name)["average"]["weights"])
        return net.to(DEVICE).eval()

    @torch.no_grad()
    def latents(self, prompts, seed=0, steps=STEPS_C, guidance=GUIDANCE):
        count, g = len(prompts), torch.Generator().manual_seed(seed)
        (hidden, pooled), (free_hidden, free_pooled) = embed(self.tokenizer, self.text, prompts), embed(self.tokenizer, self.text, [""] * count)
        hidden, pooled = torch.cat([hidden, free_hidden]), torch.cat([pooled, free_pooled]).unsqueeze(1)
        x = torch.randn(count, 16, GRID_C, GRID_C, generator=g).to(DEVICE)
        scheduler = DDPMWuerstchenScheduler()
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps[:-1]:
            r = t.expand(2 * count).to(DEVICE)
            told, free = self.c(torch.cat([x, x]), r, clip_text_pooled=pooled, clip_text=hidden,
                                clip_img=torch.zeros(2 * count, 1, self.c.config.clip_image_in_channels, device=DEVICE), return_dict=False)[0].chunk(2)
            x = scheduler.step(torch.lerp(free, told, guidance), r[:count], x, generator=g).prev_sample
        return x

    @torch.no_grad()
    def pictures(self, latents, prompts, seed=0, steps=STEPS_B, part=32):
        g, done = torch.Generator().manual_seed(seed), []
        for i in range(0, len(latents), part):
            z, pooled = latents[i : i + part].to(DEVICE), embed(self.tokenizer, self.text, prompts[i : i + part])[1].unsqueeze(1)
            x = torch.randn(len(z), 4, GRID_B, GRID_B, generator=g).to(DEVICE)
            scheduler = DDPMWuerstchenScheduler()
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps[:-1]:
                r = t.expand(len(z)).to(DEVICE)
                x = scheduler.step(self.b(x, r, clip_text_pooled=pooled, effnet=z, return_dict=False)[0], r, x, generator=g).prev_sample
            done.append(self.a.decode(self.a.config.scale_factor * x).sample.clamp(0, 1).cpu())
        return torch.cat(done)


def sheet(pictures, columns=8, gap=2):
    count, _, high, wide = pictures.shape
    lines = -(-count // columns)
    out = torch.ones(3, lines * (high + gap) + gap, columns * (wide + gap) + gap)
    for i, picture in enumerate(pictures):
        y, x = gap + i // columns * (high + gap), gap + i % columns * (wide + gap)
        out[:, y : y + high, x : x + wide] = picture
    return Image.fromarray((out.permute(1, 2, 0) * 255).round().byte().numpy())


PROMPTS = """a red apple on a blue background/a green apple/a banana on a purple background/a cat/a dog on a yellow background
a penguin on a red background/a rocket on a black background/a birthday cake/a hamburger on a green background/a robot on an orange background
a lemon on a teal background/a red heart on a pink background/a castle on a teal background/a tiger on a white background
a guitar on a grey background/a sunflower on a blue background/a mushroom/an octopus on a teal background
a police car on a brown background/a cup of coffee/a ghost on a purple background/a frog, pink background/apple/a teddy bear on green"""

if __name__ == "__main__":
    demo = Demo(os.environ.get("DEMO_MODEL"))
    prompts = sys.argv[2:] or PROMPTS.replace("\n", "/").split("/")
    z = demo.latents(prompts)
    print("latent mean", z.mean().item(), "std", z.std().item())
    sheet(demo.pictures(z, prompts)).save(sys.argv[1])
