"""The image encoder before Stage B joins it: an autoencoder through a throw-away decoder.

usage: train_encoder.py PROCESSOR_MINUTES [resume]
"""

import sys

import torch
import torch.nn.functional as F

from common import DEVICE, Clock, exists, load, path, save
from nets import ENCODER_SIDE, Encoder, Preview

BATCH, RATE = 32, 2e-3


def small_pictures():
    """What the encoder sees, as bytes, made once."""
    if exists("small.pt"):
        return torch.load(path("small.pt"))
    small = lambda p: F.interpolate(p.float(), size=(ENCODER_SIDE, ENCODER_SIDE), mode="bilinear", antialias=True, align_corners=False)
    pictures = torch.load(path("data.pt"), mmap=True)["pictures"]
    made = torch.cat([small(p).round().clamp(0, 255).byte() for p in pictures.split(256)])
    save(made, "small.pt")
    return made


def preview_loss(preview, z, x):
    y = preview(z).float()
    target = F.interpolate(x, size=y.shape[-2:], mode="area")
    return F.mse_loss(y, target) + 0.3 * F.l1_loss(y, target), F.mse_loss(y.detach(), target)


def main():
    minutes = float(sys.argv[1])
    torch.manual_seed(0)
    small = small_pictures()[torch.load(path("data.pt"), mmap=True)["rows"][:, 2] == 0]
    encoder, preview = Encoder().to(DEVICE), Preview().to(DEVICE)
    both = torch.nn.ModuleList([encoder, preview]).to(memory_format=torch.channels_last)
    print("encoder parameters", sum(p.numel() for p in encoder.parameters()))
    opt, step, before = torch.optim.AdamW(both.parameters(), lr=RATE, weight_decay=1e-2, betas=(0.9, 0.95), fused=True), 0, 0.0
    if "resume" in sys.argv and exists("encoder.pt"):
        state = load("encoder.pt")
        both.load_state_dict(state["both"]), opt.load_state_dict(state["opt"])
        step, before = state["step"], state["seconds"]
    clock = Clock(before)
    while (done := clock.seconds() / 60 / minutes) < 1:
        for g in opt.param_groups:
            g["lr"] = RATE * min(1, (step + 1) / 50) * min(1, (1 - done) / 0.6 + 0.05)
        x = small[torch.randint(len(small), (BATCH,))].to(DEVICE).float() / 255
        with torch.autocast(DEVICE, torch.bfloat16):
            z = encoder(x.to(memory_format=torch.channels_last)).float()
            loss, error = preview_loss(preview, z + 0.15 * torch.randn_like(z), x)
        opt.zero_grad()
        loss.backward()
        opt.step()
        step += 1
        if step % 50 == 0:
            print(f"step {step} minutes {clock.seconds() / 60:.1f} psnr {-10 * error.log10().item():.1f}", flush=True)
        if step % 300 == 0:
            save(dict(both=both.state_dict(), opt=opt.state_dict(), step=step, seconds=clock.seconds()), "encoder.pt")
    save(dict(both=both.state_dict(), opt=opt.state_dict(), step=step, seconds=clock.seconds()), "encoder.pt")


if __name__ == "__main__":
    main()
