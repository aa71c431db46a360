"""See the parts alone: pictures, Stage A, preview and Stage B from true latents, one line each. usage: look.py OUT.png"""

import sys

import torch
import torch.nn.functional as F

from common import COLOUR_NAMES, exists, load, path, prompt, read_objects
from nets import SIDE, Encoder, Preview
from sample import Demo, sheet
from train_encoder import small_pictures

data, things = torch.load(path("data.pt"), mmap=True), read_objects()
pick = torch.randperm(len(data["rows"]), generator=torch.Generator().manual_seed(1))[:12]
true = data["pictures"][pick].float() / 255
lines, psnr = [true], lambda y: round(-10 * F.mse_loss(y, true).log10().item(), 1)
state = load("stage_b.pt")["pair"] if exists("stage_b.pt") else load("encoder.pt")["both"]
pair = torch.nn.ModuleList([Encoder(), Preview()])
pair.load_state_dict(state)
pair.eval()
demo = Demo(parts="b" if exists("stage_b.pt") else "")
with torch.no_grad():
    lines.append(demo.a.decode(demo.a.encode(true).latents).sample.clamp(0, 1))
    z = pair[0](small_pictures()[pick].float() / 255)
    lines.append(F.interpolate(pair[1](z), size=(SIDE, SIDE), mode="bilinear").clamp(0, 1))
if demo.b:
    prompts = [prompt(things[o], COLOUR_NAMES[c]) for o, c, *_ in data["rows"][pick].tolist()]
    lines.append(demo.pictures(z, prompts))
    lines.append(demo.pictures(torch.load(path("latents_c.pt"))[pick] if exists("latents_c.pt") else z, [""] * len(z)))
print("psnr", dict(zip(["true", "stage a", "preview", "stage b", "stage b without text"], map(psnr, lines))))
sheet(torch.cat(lines), columns=12).save(sys.argv[1])
