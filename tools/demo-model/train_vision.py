"""The vision tower: pictures -> what the text tower makes of their captions, and the way from there into Stage C.

usage: train_vision.py MINUTES_TOWER MINUTES_MAPPER [resume]

First the tower learns to answer a picture with the pooled text of its captions. Then Stage C, which is frozen, shows the
picture's own latents to `clip_img_mapper` and to the tower's projection, with no words in the prompt. Stage C's other
weights stay as they are, and an absent image prompt is zeros, so text alone makes the same pictures as before.
"""

import sys

import torch
import torch.nn.functional as F

from common import COLOUR_NAMES, DEVICE, Clock, add_noise, exists, lines_to_train, load, noise_weight, path, save, stratified
from embed_captions import EACH
from faster import speed_up
from nets import TEXT, VISION_SIDE, stage_c, vision_tower

BATCH, RATE, MAPPER_RATE = 64, 2e-3, 1e-3
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def seen_pictures():
    """What the tower sees, as bytes, made once."""
    if exists("seen.pt"):
        return torch.load(path("seen.pt"))
    small = lambda p: F.interpolate(p.float(), size=(VISION_SIDE, VISION_SIDE), mode="bicubic", antialias=True, align_corners=False)
    pictures = torch.load(path("data.pt"), mmap=True)["pictures"]
    made = torch.cat([small(p).round().clamp(0, 255).byte() for p in pictures.split(256)])
    save(made, "seen.pt")
    return made


def normalise(x):
    return (x - torch.tensor(MEAN, device=x.device).view(3, 1, 1)) / torch.tensor(STD, device=x.device).view(3, 1, 1)


def disturb(x):
    """Pictures from 0 to 1 as others might hand them in: moved, paler or darker, blurred, noisy."""
    right, down = torch.randint(7, (2,)).tolist()
    x = F.pad(x, (3, 3, 3, 3), mode="replicate")[..., down : down + VISION_SIDE, right : right + VISION_SIDE]
    if torch.rand(()) < 0.5:
        half = F.interpolate(x, size=(VISION_SIDE // 2, VISION_SIDE // 2), mode="area")
        x = F.interpolate(half, size=x.shape[-2:], mode="bilinear")
    x = x * (1 + 0.06 * torch.randn(len(x), 1, 1, 1)) + 0.03 * torch.randn(len(x), 3, 1, 1)
    return (x + 0.03 * torch.rand(()) * torch.randn_like(x)).clamp(0, 1)


def starting_mapper(net, wanted):
    """The weight with which a pooled text makes the tokens that it makes as text, in spite of the other bias."""
    text, image = net.clip_txt_pooled_mapper, net.clip_img_mapper
    one = torch.linalg.lstsq(wanted, torch.ones(len(wanted), 1)).solution[:, 0]  # wanted @ one is nearly 1
    return text.weight.data + torch.outer(text.bias.data - image.bias.data, one)


def main():
    minutes_tower, minutes_mapper = float(sys.argv[1]), float(sys.argv[2])
    torch.manual_seed(0)
    rows = torch.load(path("data.pt"), mmap=True)["rows"]
    seen, train = seen_pictures(), lines_to_train(rows)
    captions = torch.load(path("captions.pt"))
    pooled, empty = captions["pooled"], len(captions["pooled"]) - 1
    wanted = pooled[:empty].view(-1, EACH, TEXT).mean(1)  # of every pair
    pair = lambda pick: rows[pick, 0] * len(COLOUR_NAMES) + rows[pick, 1]
    scale = wanted.var(0).mean()

    tower = vision_tower().to(DEVICE)
    print("vision tower parameters", sum(p.numel() for p in tower.parameters()))
    net = stage_c(image=TEXT)
    trained = load("stage_c.pt")["average"]["weights"]
    net.load_state_dict({k: v for k, v in trained.items() if k != "clip_img_mapper.weight"}, strict=False)
    net.clip_img_mapper.weight.data = starting_mapper(net, wanted)
    net = net.to(DEVICE).eval().requires_grad_(False)
    net.clip_img_mapper.weight.requires_grad_(True)
    tower_opt = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.02, betas=(0.9, 0.98))
    bridge = [net.clip_img_mapper.weight, *tower.visual_projection.parameters()]
    bridge_opt = torch.optim.AdamW(bridge, lr=MAPPER_RATE, weight_decay=0, betas=(0.9, 0.98))
    step, seconds = [0, 0], [0.0, 0.0]
    if "resume" in sys.argv and exists("vision.pt"):
        state = load("vision.pt")
        tower.load_state_dict(state["tower"]), tower_opt.load_state_dict(state["tower_opt"])
        net.clip_img_mapper.weight.data.copy_(state["mapper"]), bridge_opt.load_state_dict(state["bridge_opt"])
        step, seconds = state["step"], state["seconds"]

    def checkpoint():
        save(dict(tower=tower.state_dict(), tower_opt=tower_opt.state_dict(), mapper=net.clip_img_mapper.weight.data,
                  bridge_opt=bridge_opt.state_dict(), step=step, seconds=seconds), "vision.pt")

    def embeddings(pick):
        x = normalise(disturb(seen[pick].float() / 255).to(DEVICE))
        return tower(x).image_embeds.float()

    held_out = torch.nonzero(rows[:, 2] == 1)[:, 0]

    @torch.no_grad()
    def recognised():
        """The share of pictures of pairs that were never trained on whose embedding is nearest to their own caption's."""
        x = normalise(seen[held_out].float() / 255).to(DEVICE)
        got = torch.cat([tower(x).image_embeds for x in x.split(128)])
        return (torch.cdist(got, wanted).argmin(1) == pair(held_out)).float().mean().item()

    clock = Clock(seconds[0])
    while (done := clock.seconds() / 60 / minutes_tower) < 1:
        for g in tower_opt.param_groups:
            g["lr"] = RATE * min(1, (step[0] + 1) / 100) * min(1, (1 - done) / 0.6 + 0.02)
        pick = train[torch.randint(len(train), (BATCH,))]
        error = F.mse_loss(embeddings(pick), wanted[pair(pick)].to(DEVICE)) / scale
        tower_opt.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        tower_opt.step()
        step[0] += 1
        if step[0] % 100 == 0:
            print(f"step {step[0]} minutes {clock.seconds() / 60:.1f} error {error.item():.3f} of the variance", flush=True)
        if step[0] % 300 == 0:
            seconds[0] = clock.seconds()
            checkpoint()
            print(f"recognised {recognised():.3f}", flush=True)
    seconds[0] = clock.seconds()
    checkpoint()
    print(f"recognised {recognised():.3f}", flush=True)

    net, latents, log = speed_up(net), torch.load(path("latents_c.pt")), []
    told = [captions["hidden"][empty].float().expand(BATCH, -1, -1).to(DEVICE), pooled[empty].expand(BATCH, 1, -1).to(DEVICE)]
    clock = Clock(seconds[1])
    while (done := clock.seconds() / 60 / minutes_mapper) < 1:
        for g in bridge_opt.param_groups:
            g["lr"] = MAPPER_RATE * min(1, (step[1] + 1) / 50) * min(1, (1 - done) / 0.6 + 0.02)
        pick = train[torch.randint(len(train), (BATCH,))]
        x = latents[pick].to(DEVICE)
        noise, r = torch.randn_like(x), stratified(BATCH, DEVICE) ** 0.8
        with torch.autocast(DEVICE, torch.bfloat16):
            guess = net(add_noise(x, noise, r), r, clip_text=told[0], clip_text_pooled=told[1],
                        clip_img=embeddings(pick).unsqueeze(1), return_dict=False)[0]
        each, weight = (guess.float() - noise).square().mean((1, 2, 3)), noise_weight(r)
        loss = (weight * each).sum() / weight.sum()
        bridge_opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bridge, 1.0)
        bridge_opt.step()
        step[1] += 1
        log.append(loss.item())
        if step[1] in (1, 20) or step[1] % 50 == 0:
            print(f"step {step[1]} minutes {clock.seconds() / 60:.1f} loss {sum(log) / len(log):.4f}", flush=True)
            log = []
        if step[1] % 100 == 0:
            seconds[1] = clock.seconds()
            checkpoint()
    seconds[1] = clock.seconds()
    checkpoint()


main()
