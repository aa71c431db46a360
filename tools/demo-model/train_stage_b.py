"""Stage B: Stage C latents and the text -> Stage A latents; the image encoder learns with it at first.

usage: train_stage_b.py PROCESSOR_MINUTES ENCODER_MINUTES [resume]

After ENCODER_MINUTES of these the encoder is frozen and the latents of every picture are stored: Stage C learns them.
"""

import os
import sys

import torch

from common import DEVICE, Average, Clock, add_noise, exists, lines_to_train, load, noise_weight, path, save, stratified
from embed_captions import CaptionPool
from faster import speed_up
from nets import Encoder, Preview, stage_a, stage_b
from train_encoder import preview_loss, small_pictures

BATCH, RATE, ENCODER_RATE = int(os.environ.get("DEMO_BATCH", "16")), float(os.environ.get("DEMO_RATE", "1.6e-3")), 5e-4
TOLD_RATE = 2 * RATE
BLUR = 0.8  # Stage B sees latents with up to this much noise, seldom so much, so that it forgives Stage C's errors


@torch.no_grad()
def stage_a_latents(pictures):
    """The latents of every picture; the finished Stage A with its scale is written on the way."""
    net = stage_a().to(DEVICE)
    net.load_state_dict(load("stage_a.pt")["average"]["weights"])
    net.eval()
    z = torch.cat([net.encode(p.to(DEVICE).float() / 255).latents.cpu() for p in pictures.split(64)])
    net.register_to_config(scale_factor=z.std().item())  # the pipeline multiplies by it before decoding
    net.save_pretrained(path("vqgan"))
    save((z / z.std()).half(), "latents_a.pt")


@torch.no_grad()
def stage_c_latents(encoder, small):
    encoder.eval()
    z = torch.cat([encoder(s.to(DEVICE).float() / 255).cpu() for s in small.split(128)])
    print("Stage C latents: mean", round(z.mean().item(), 3), "std", round(z.std().item(), 3), flush=True)
    save(z, "latents_c.pt")
    return z


def main():
    minutes, together = float(sys.argv[1]), float(sys.argv[2])
    torch.manual_seed(0)
    data = torch.load(path("data.pt"), mmap=True)
    rows = data["rows"]
    if not exists("latents_a.pt"):
        stage_a_latents(data["pictures"])
    small, latents = small_pictures(), torch.load(path("latents_a.pt"))
    train = lines_to_train(rows)
    captions = CaptionPool()
    net, pair = stage_b().to(DEVICE), torch.nn.ModuleList([Encoder(), Preview()]).to(DEVICE).to(memory_format=torch.channels_last)
    print("Stage B parameters", sum(p.numel() for p in net.parameters()))
    pair.load_state_dict(load("encoder.pt")["both"])
    encoder, preview = pair
    told = [n for n, _ in net.named_parameters() if "attention" in n or "kv_mapper" in n or "clip" in n]  # the text's way in
    groups = [dict(params=[p for n, p in net.named_parameters() if n not in told], top=RATE),
              dict(params=[p for n, p in net.named_parameters() if n in told], top=TOLD_RATE),
              dict(params=pair.parameters(), top=ENCODER_RATE)]
    opt, average = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True), Average(net, 0.9985)
    step, before, frozen = 0, 0.0, None
    if "resume" in sys.argv and exists("stage_b.pt"):
        state = load("stage_b.pt")
        net.load_state_dict(state["net"]), pair.load_state_dict(state["pair"]), average.restore(state["average"])
        opt.load_state_dict(state["opt"]) if state["opt"] else None
        step, before = state["step"], state["seconds"]
        for g, want in zip(opt.param_groups, groups):
            g["top"] = want["top"]
    if exists("latents_c.pt"):
        frozen = torch.load(path("latents_c.pt"))
    net, clock = speed_up(net), Clock(before)

    def checkpoint():
        save(dict(net=net.state_dict(), pair=pair.state_dict(), opt=opt.state_dict(), average=average.state(), step=step, seconds=clock.seconds()), "stage_b.pt")

    first, log, sums = step, [], torch.zeros(2, 4)
    while (done := clock.seconds() / 60 / minutes) < 1:
        for g in opt.param_groups:
            g["lr"] = g["top"] * min(1, (step - first + 1) / 100) * min(1, (1 - done) / 0.5 + 0.01)
        if frozen is None and clock.seconds() / 60 >= together:
            frozen = stage_c_latents(encoder, small)
        pick = train[torch.randint(len(train), (BATCH,))]
        x = latents[pick].to(DEVICE).float()
        _, pooled = captions.draw(rows[pick], drop=0.05)
        shown = 0
        with torch.autocast(DEVICE, torch.bfloat16):
            if frozen is None:
                picture = small[pick].to(DEVICE).float() / 255
                z = encoder(picture.to(memory_format=torch.channels_last)).float()
                shown, _ = preview_loss(preview, z + 0.15 * torch.randn_like(z), picture)
            else:
                z = frozen[pick].to(DEVICE)
            z = z + BLUR * torch.rand(BATCH, 1, 1, 1, device=DEVICE) ** 2 * torch.randn_like(z)
            noise, r = torch.randn_like(x), stratified(BATCH, DEVICE) ** 0.6  # more of the hard, high noise
            noisy = add_noise(x, noise, r).to(memory_format=torch.channels_last)
            guess = net(noisy, r, clip_text_pooled=pooled, effnet=z, return_dict=False)[0]
        each = (guess.float() - noise).square().mean((1, 2, 3))
        weight = noise_weight(r)
        loss = (weight * each).sum() / weight.sum()
        opt.zero_grad()
        (loss + shown).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        average.update()
        step += 1
        log.append(loss.item())
        sums[0].index_add_(0, (r * 4).long().cpu(), each.detach().cpu()), sums[1].index_add_(0, (r * 4).long().cpu(), torch.ones(BATCH))
        if step in (5, 20) or step % 100 == 0:
            print(f"step {step} minutes {clock.seconds() / 60:.1f} loss {sum(log) / len(log):.4f} quarters of r", [round(b, 4) for b in (sums[0] / sums[1]).tolist()], flush=True)
            log, sums = [], torch.zeros(2, 4)
        if step % 400 == 0:
            checkpoint()
    checkpoint()


main()
