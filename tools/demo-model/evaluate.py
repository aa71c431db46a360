"""Measure an exported model and draw its contact sheets. usage: evaluate.py MODEL_FOLDER [SHEETS_FOLDER]

Object: the real picture nearest by 32x32 pixels, among every object, background and place, shows the prompted object.
Background: the named colour nearest to the median of the picture's border is the prompted one.
Tower, the stricter judge: among the captions of every object on every background, also of pairs that were never trained on, the
one that the vision tower finds nearest to the picture is the prompted one.
Seeds: two pictures of one prompt differ by more than 0.05 rms (of 0 to 1).
The prompts and their seeds are drawn once, here, before any picture is made.
"""

import json
import os
import random
import sys

import torch
import torch.nn.functional as F
from PIL import Image

from common import COLOUR_NAMES, COLOURS, held_out, load, path, prompt, read_objects
from embed_captions import EACH
from nets import TEXT, VISION_SIDE, vision_tower
from sample import Demo
from sheet import contact
from train_vision import normalise

SETS = [("object and colour trained together", 100), ("object and colour never together", 100), ("no colour named, white meant", 50)]


def draw_prompts(things):
    rng, found = random.Random(2026), []
    pairs = [(o, c) for o in range(len(things)) for c in range(1, len(COLOUR_NAMES))]
    hidden = [p for p in pairs if held_out(things[p[0]]["names"][0], COLOUR_NAMES[p[1]])]
    open_ = [p for p in pairs if p not in hidden]
    for (name, count), pool in zip(SETS, (open_, hidden, [(o, 0) for o in range(len(things))])):
        for o, c in rng.sample(pool, count):
            found.append(dict(set=name, object=o, colour=c, text=prompt(things[o], COLOUR_NAMES[c] if pool[0][1] or c else None)))
    return found


def thumbs(x):
    return F.interpolate(x, size=(32, 32), mode="area").flatten(1)


def backgrounds(x):
    edge = x.shape[-1] // 32
    border = torch.cat([part.flatten(2) for part in (x[..., :edge, :], x[..., -edge:, :], x[..., :edge], x[..., -edge:])], 2)
    return torch.cdist(border.median(2).values, torch.tensor([COLOURS[c] for c in COLOUR_NAMES]) / 255).argmin(1)


@torch.no_grad()
def named(pictures):
    """The object and the background that the vision tower sees."""
    tower, captions = vision_tower(), torch.load(path("captions.pt"))["pooled"]
    tower.load_state_dict(load("vision.pt")["tower"])
    of_pairs = captions[:-1].view(-1, EACH, TEXT).mean(1)
    small = F.interpolate(pictures, size=(VISION_SIDE, VISION_SIDE), mode="bicubic", antialias=True, align_corners=False)
    pair = torch.cdist(tower.eval()(normalise(small.clamp(0, 1))).image_embeds, of_pairs).argmin(1)
    return torch.stack([pair // len(COLOUR_NAMES), pair % len(COLOUR_NAMES)], 1)


def images(pictures):
    return [Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()) for picture in pictures]


def main():
    folder = sys.argv[1]
    data, things, demo = torch.load(path("data.pt"), mmap=True), read_objects(), Demo(folder)
    bank = torch.cat([thumbs(p.float() / 255) for p in data["pictures"].split(256)])
    asked = draw_prompts(things)
    texts = [a["text"] for a in asked]
    pictures, again = (demo.pictures(demo.latents(texts, seed=s), texts, seed=s + 1) for s in (11, 21))
    near = data["rows"][torch.cdist(thumbs(pictures), bank).argmin(1)]
    back, seen = backgrounds(pictures), named(pictures)
    apart = (pictures - again).square().mean((1, 2, 3)).sqrt()
    results = {}
    for name, count in SETS:
        mine = [i for i, a in enumerate(asked) if a["set"] == name]
        right = [near[i, 0].item() == asked[i]["object"] for i in mine]
        ground = [back[i].item() == asked[i]["colour"] for i in mine]
        results[name] = dict(prompts=count, object=sum(right) / count, background=sum(ground) / count,
                             both=sum(a and b for a, b in zip(right, ground)) / count,
                             tower=sum(seen[i].tolist() == [asked[i]["object"], asked[i]["colour"]] for i in mine) / count,
                             seeds_differ=(apart[mine] > 0.05).float().mean().item())
        print(name, {k: round(v, 3) for k, v in results[name].items()}, flush=True)
    results["all"] = dict(prompts=len(asked), background=sum(back[i].item() == a["colour"] for i, a in enumerate(asked)) / len(asked),
                          seeds_differ=(apart > 0.05).float().mean().item())
    print("all", results["all"])
    failed = [i for i, a in enumerate(asked) if near[i, 0].item() != a["object"] or back[i].item() != a["colour"]]
    results["failed"] = [dict(prompt=texts[i], nearest=things[near[i, 0]]["names"][0], background=COLOUR_NAMES[back[i]]) for i in failed]
    if len(sys.argv) > 2:
        first = list(range(16)) + list(range(100, 116)) + list(range(200, 208))  # the first of each set, not picked
        contact(images(pictures[first]), [texts[i] for i in first]).save(os.path.join(sys.argv[2], "contact-sheet.jpg"), quality=90)
        if failed:
            contact(images(pictures[failed[:16]]), [f"{texts[i]}" for i in failed[:16]]).save(os.path.join(sys.argv[2], "failures.jpg"), quality=90)
        with open(os.path.join(sys.argv[2], "evaluation.json"), "w") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
