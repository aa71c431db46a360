"""Stage A: a small Paella autoencoder, learned on 64-pixel crops. usage: train_stage_a.py PROCESSOR_MINUTES [resume]"""

import sys

import torch
import torch.nn.functional as F

from common import DEVICE, Average, Clock, exists, load, path, save
from nets import SIDE, stage_a

BATCH, CROP, RATE = 16, 64, 2e-3


def edges(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def quantize(net, z):
    """The nearest codes, found by hand since the library's quantizer is not needed for anything else."""
    codes = net.vquantizer.embedding.weight
    nearest = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]), codes).argmin(1)
    return codes[nearest].view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)


def main():
    minutes = float(sys.argv[1])
    torch.manual_seed(0)
    data = torch.load(path("data.pt"), mmap=True)
    pictures = data["pictures"][data["rows"][:, 2] == 0]
    net = stage_a().to(DEVICE)
    opt = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3, betas=(0.9, 0.95), fused=True)
    average, step, before = Average(net, 0.998), 0, 0.0
    if "resume" in sys.argv and exists("stage_a.pt"):
        state = load("stage_a.pt")
        net.load_state_dict(state["net"]), opt.load_state_dict(state["opt"]), average.restore(state["average"])
        step, before = state["step"], state["seconds"]
    net, clock = net.to(memory_format=torch.channels_last), Clock(before)

    def checkpoint():
        save(dict(net=net.state_dict(), opt=opt.state_dict(), average=average.state(), step=step, seconds=clock.seconds()), "stage_a.pt")

    while (done := clock.seconds() / 60 / minutes) < 1:
        for g in opt.param_groups:
            g["lr"] = RATE * min(1, (step + 1) / 50) * min(1, (1 - done) / 0.5 + 0.02)
        x0, y0 = (4 * torch.randint(0, (SIDE - CROP) // 4 + 1, (2,))).tolist()
        x = pictures[torch.randint(len(pictures), (BATCH,)), :, y0 : y0 + CROP, x0 : x0 + CROP].to(DEVICE).float() / 255
        with torch.autocast(DEVICE, torch.bfloat16):
            z = net.encode(x.to(memory_format=torch.channels_last)).latents.float()
        codes = quantize(net, z)
        code_loss = F.mse_loss(codes, z.detach()) + 0.05 * F.mse_loss(z, codes.detach())
        part = BATCH // 4  # decoded from codes; the others as the pipeline does, with Stage B's errors imitated
        mixed = torch.cat([(z + (codes - z).detach())[:part], (z + 0.05 * torch.randn_like(z))[part:]])
        with torch.autocast(DEVICE, torch.bfloat16):
            y = net.decode(mixed.to(memory_format=torch.channels_last)).sample.float()
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x))) + 0.1 * code_loss
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        average.update()
        step += 1
        if step % 100 == 0:
            psnr = -10 * F.mse_loss(y[part:], x[part:]).log10().item()
            print(f"step {step} minutes {clock.seconds() / 60:.1f} loss {loss.item():.4f} psnr {psnr:.1f}", flush=True)
        if step % 500 == 0:
            checkpoint()
    checkpoint()


main()
