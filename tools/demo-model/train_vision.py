"""The vision tower: pictures -> what the text tower makes of their captions; and Stage C that takes them as prompts.

usage: train_vision.py MINUTES_TOWER MINUTES_STAGE_C [resume]

First the tower learns to answer a picture with the pooled text of its captions. Then Stage C goes on with pictures, words,
both or neither as a prompt. It cannot stay as text alone left it: among 24 tokens of text, which say "nothing" where there
are no words, four tokens of a picture go unheard.
"""

import sys

import torch
import torch.nn.functional as F

from common import COLOUR_NAMES, DEVICE, Average, Clock, add_noise, exists, lines_to_train, load, noise_weight, path, save, stratified
from embed_captions import EACH, CaptionPool
from faster import speed_up
from nets import TEXT, VISION_SIDE, stage_c, vision_tower

BATCH, RATE, STAGE_C_RATE = 64, 2e-3, 4e-4
WORDS, PICTURE, BOTH, NEITHER = range(4)
KINDS = torch.tensor([0.33, 0.5, 0.07, 0.1])  # how often each
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
    minutes_tower, minutes_stage_c = float(sys.argv[1]), float(sys.argv[2])
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
    net = net.to(DEVICE)
    words, empty_hidden, empty_pooled = CaptionPool(), captions["hidden"][empty].float(), pooled[empty]
    tower_opt = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.02, betas=(0.9, 0.98))
    net_opt, average = torch.optim.AdamW(net.parameters(), lr=STAGE_C_RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True), Average(net, 0.9985)
    step, seconds = [0, 0], [0.0, 0.0]
    if "resume" in sys.argv and exists("vision.pt"):
        state = load("vision.pt")
        tower.load_state_dict(state["tower"])
        tower_opt.load_state_dict(state["tower_opt"]) if state["tower_opt"] else None
        step, seconds = state["step"], state["seconds"]
        if state["net"]:
            net.load_state_dict(state["net"]), average.restore(state["average"])
            net_opt.load_state_dict(state["net_opt"]) if state["net_opt"] else None

    def checkpoint():
        begun = step[1] > 0
        save(dict(tower=tower.state_dict(), tower_opt=tower_opt.state_dict(), step=step, seconds=seconds, net=net.state_dict() if begun else None,
                  net_opt=net_opt.state_dict() if begun else None, average=average.state() if begun else None), "vision.pt")

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

    # Stage C goes on from where text left it, with a kind of prompt for every picture: words, the picture, both or neither.
    net, latents, log = speed_up(net), torch.load(path("latents_c.pt")), torch.zeros(2, 4)
    tower.eval().requires_grad_(False)
    clock = Clock(seconds[1])
    while (done := clock.seconds() / 60 / minutes_stage_c) < 1:
        for g in net_opt.param_groups:
            g["lr"] = STAGE_C_RATE * min(1, (step[1] + 1) / 150) * min(1, (1 - done) / 0.6 + 0.01)
        pick = train[torch.randint(len(train), (BATCH,))]
        x = latents[pick].to(DEVICE)
        hidden, pooled_text = words.draw(rows[pick], drop=0)
        kind = torch.multinomial(KINDS, BATCH, replacement=True)
        silent, blind = (kind == PICTURE) | (kind == NEITHER), (kind == WORDS) | (kind == NEITHER)
        hidden[silent], pooled_text[silent] = empty_hidden.to(hidden), empty_pooled.to(pooled_text)
        shown = torch.zeros(BATCH, 1, TEXT, device=DEVICE)
        with torch.no_grad():
            shown[~blind, 0] = embeddings(pick[~blind])
        noise, r = torch.randn_like(x), stratified(BATCH, DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            guess = net(add_noise(x, noise, r), r, clip_text=hidden, clip_text_pooled=pooled_text, clip_img=shown, return_dict=False)[0]
        each, weight = (guess.float() - noise).square().mean((1, 2, 3)), noise_weight(r)
        loss = (weight * each).sum() / weight.sum()
        net_opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        net_opt.step()
        average.update()
        step[1] += 1
        log[0].index_add_(0, kind, (weight * each).detach().cpu()), log[1].index_add_(0, kind, weight.cpu())
        if step[1] in (5, 20) or step[1] % 200 == 0:
            print(f"step {step[1]} minutes {clock.seconds() / 60:.1f} loss by words, picture, both, neither",
                  [round(b, 4) for b in (log[0] / log[1]).tolist()], flush=True)
            log = torch.zeros(2, 4)
        if step[1] % 400 == 0:
            seconds[1] = clock.seconds()
            checkpoint()
    seconds[1] = clock.seconds()
    checkpoint()


if __name__ == "__main__":
    main()
