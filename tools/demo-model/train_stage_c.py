"""Stage C: the text -> Stage C latents. usage: train_stage_c.py PROCESSOR_MINUTES [resume]"""

import os
import sys

import torch

from common import DEVICE, Average, Clock, add_noise, exists, lines_to_train, load, noise_weight, path, save, stratified
from embed_captions import CaptionPool
from faster import speed_up
from nets import IMAGE, stage_c

BATCH, RATE = int(os.environ.get("DEMO_BATCH", "64")), float(os.environ.get("DEMO_RATE", "1.2e-3"))


def main():
    minutes = float(sys.argv[1])
    torch.manual_seed(0)
    rows = torch.load(path("data.pt"), mmap=True)["rows"]
    latents, captions = torch.load(path("latents_c.pt")), CaptionPool()
    train = lines_to_train(rows)
    net = stage_c().to(DEVICE)
    print("Stage C parameters", sum(p.numel() for p in net.parameters()))
    opt, average = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True), Average(net, 0.9985)
    step, before = 0, 0.0
    if "resume" in sys.argv and exists("stage_c.pt"):
        state = load("stage_c.pt")
        net.load_state_dict(state["net"]), average.restore(state["average"])
        opt.load_state_dict(state["opt"]) if state["opt"] else None
        step, before = state["step"], state["seconds"]
    net, clock = speed_up(net), Clock(before)

    def checkpoint():
        save(dict(net=net.state_dict(), opt=opt.state_dict(), average=average.state(), step=step, seconds=clock.seconds()), "stage_c.pt")

    zeros = torch.zeros(BATCH, 1, IMAGE, device=DEVICE)
    first, log, sums = step, [], torch.zeros(2, 4)
    while (done := clock.seconds() / 60 / minutes) < 1:
        for g in opt.param_groups:
            g["lr"] = RATE * min(1, (step - first + 1) / 150) * min(1, (1 - done) / 0.5 + 0.01)
        pick = train[torch.randint(len(train), (BATCH,))]
        x = latents[pick].to(DEVICE)
        hidden, pooled = captions.draw(rows[pick], drop=0.1)
        noise, r = torch.randn_like(x), stratified(BATCH, DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            guess = net(add_noise(x, noise, r), r, clip_text_pooled=pooled, clip_text=hidden, clip_img=zeros, return_dict=False)[0]
        each = (guess.float() - noise).square().mean((1, 2, 3))
        weight = noise_weight(r)
        loss = (weight * each).sum() / weight.sum()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        average.update()
        step += 1
        log.append(loss.item())
        sums[0].index_add_(0, (r * 4).long().cpu(), each.detach().cpu()), sums[1].index_add_(0, (r * 4).long().cpu(), torch.ones(BATCH))
        if step in (5, 20) or step % 200 == 0:
            print(f"step {step} minutes {clock.seconds() / 60:.1f} loss {sum(log) / len(log):.4f} quarters of r", [round(b, 4) for b in (sums[0] / sums[1]).tolist()], flush=True)
            log, sums = [], torch.zeros(2, 4)
        if step % 400 == 0:
            checkpoint()
    checkpoint()


main()
