"""Checkpoints small enough for the repository: averaged weights in half precision, without the optimisers' state.

usage: pack.py save FOLDER     from DEMO_WORK into FOLDER
       pack.py restore FOLDER  from FOLDER into DEMO_WORK; then run.sh goes on with Stage B and Stage C
"""

import os
import shutil
import sys

import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from common import exists, load, path, save
from nets import text_encoder


def half(weights):
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def full(weights):
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def pack(folder):
    text = CLIPTextModelWithProjection.from_pretrained(path("text_encoder"), dtype=torch.float32)
    a, b, c = (load(f"stage_{n}.pt") for n in "abc")
    parts = dict(
        text=half(text.state_dict()),
        stage_a=half(a["average"]["weights"]),
        encoder=half(b["pair"]),
        stage_b=dict(net=half(b["average"]["weights"]), step=b["step"], seconds=b["seconds"]),
        stage_c=dict(net=half(c["average"]["weights"]), step=c["step"], seconds=c["seconds"]),
    )
    if exists("vision.pt"):
        vision = load("vision.pt")
        parts["vision"] = dict(tower=half(vision["tower"]), step=vision["step"][0], seconds=vision["seconds"][0])
    os.makedirs(folder, exist_ok=True)
    torch.save(parts, os.path.join(folder, "checkpoint.pt"))
    shutil.copytree(path("tokenizer"), os.path.join(folder, "tokenizer"), dirs_exist_ok=True)
    print(f"{os.path.getsize(os.path.join(folder, 'checkpoint.pt')) / 1e6:.1f} MB; steps: B {b['step']}, C {c['step']}")


def restore(folder):
    parts = torch.load(os.path.join(folder, "checkpoint.pt"))
    shutil.copytree(os.path.join(folder, "tokenizer"), path("tokenizer"), dirs_exist_ok=True)
    text = text_encoder(CLIPTokenizer.from_pretrained(path("tokenizer")))
    text.load_state_dict(full(parts["text"]))
    text.save_pretrained(path("text_encoder"))
    save(dict(average=dict(weights=full(parts["stage_a"]))), "stage_a.pt")
    save(dict(both=full(parts["encoder"])), "encoder.pt")
    for name in ("stage_b", "stage_c"):
        part = parts[name]
        net = full(part["net"])
        state = dict(net=net, opt=None, average=dict(weights=net, steps=part["step"]), step=part["step"], seconds=part["seconds"])
        save(state | (dict(pair=full(parts["encoder"])) if name == "stage_b" else {}), name + ".pt")
    if "vision" in parts:
        # The tower alone: Stage C takes pictures after minutes, from where words left it.
        tower, step, seconds = (parts["vision"][k] for k in ("tower", "step", "seconds"))
        save(dict(tower=full(tower), tower_opt=None, net=None, net_opt=None, average=None, step=[step, 0], seconds=[seconds, 0.0]), "vision.pt")
    for done in ("text", "stage_a", "encoder"):
        open(path(done + ".done"), "w").close()


dict(save=pack, restore=restore)[sys.argv[1]](sys.argv[2])
