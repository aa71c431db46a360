"""Colours, objects, captions, the noise schedule and the small tools that every script shares."""

import hashlib
import os
import random
import time

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = os.environ.get("DEMO_WORK", "work")  # data, checkpoints and logs
DEVICE = "cuda" if torch.cuda.is_available() and not os.environ.get("DEMO_CPU") else "cpu"

COLOURS = {
    "white": (245, 245, 245), "grey": (140, 140, 145), "black": (28, 28, 32), "red": (205, 40, 45),
    "orange": (245, 135, 35), "yellow": (250, 215, 60), "green": (60, 165, 75), "teal": (35, 165, 165),
    "blue": (45, 95, 215), "purple": (130, 70, 190), "pink": (250, 160, 200), "brown": (125, 80, 50),
}
COLOUR_NAMES = list(COLOURS)
UNCOUNTED = {"cherries", "grapes", "corn", "broccoli", "bread", "cheese", "french fries", "fries", "popcorn", "beer", "coffee", "fire"}
FORMS = [
    (60, "{what} on {a} {colour} background"), (12, "{what}, {colour} background"), (8, "{what} on {colour}"),
    (5, "{what} against {a} {colour} background"), (5, "{what} in front of {a} {colour} background"),
    (5, "{a} {colour} background with {what}"), (5, "{colour} background, {what}"),
]
OPENINGS = ["a picture of", "an image of", "a photo of", "a 3d icon of", "a drawing of", "an illustration of"]
ADJECTIVES = ["small", "big", "cute", "nice", "beautiful", "shiny", "little", "large"]


def read_objects():
    """[{"emoji", "names", "colours"}]: the emoji's name, the names in captions, and colours it has by nature."""
    found = []
    with open(os.path.join(HERE, "objects.txt"), encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                emoji, _, rest = line.strip().partition(" = ")
                names, _, colours = rest.partition(" | ")
                found.append(dict(emoji=emoji, names=names.split(", "), colours=colours.split(", ") if colours else []))
    return found


def held_out(name, colour):
    """About one object-colour pair in ten is never trained on. White, which a plain caption means, is never held out."""
    return colour != "white" and hashlib.sha256(f"{name}/{colour}".encode()).digest()[0] < 26


def article(name):
    if name in UNCOUNTED:
        return name
    return ("an " if name[0] in "aeio" or name.startswith("um") else "a ") + name


def caption(thing, colour, rng=random):
    """One of the many captions of an object on a background."""
    name = thing["names"][0] if rng.random() < 0.7 else rng.choice(thing["names"])
    if thing["colours"] and rng.random() < 0.15:
        name = rng.choice(thing["colours"]) + " " + name
    if rng.random() < 0.06:
        name = rng.choice(ADJECTIVES) + " " + name
    first = name.split()[-1] if name in UNCOUNTED else name
    plain = first in UNCOUNTED or name.split()[-1] in UNCOUNTED
    what = name if plain or rng.random() < 0.2 else ("the " + name if rng.random() < 0.05 else article(name))
    if rng.random() < 0.08:
        what = rng.choice(OPENINGS) + " " + what
    if colour == "white" and rng.random() < 0.7:
        return what
    form = rng.choices([f for _, f in FORMS], [w for w, _ in FORMS])[0]
    return form.format(what=what, colour=colour, a=article(colour).split()[0])


def prompt(thing, colour=None):
    """The plain form of a caption, which the evaluation uses."""
    what = article(thing["names"][0])
    return f"{what} on {article(colour)} background" if colour else what


def alpha_bar(r, s=0.008):
    """The signal level of the library's Wuerstchen scheduler at time ratio r."""
    begin = torch.cos(torch.tensor(s / (1 + s) * torch.pi * 0.5)) ** 2
    return (torch.cos((r + s) / (1 + s) * torch.pi * 0.5) ** 2 / begin).clamp(0.0001, 0.9999)


def add_noise(x, noise, r):
    a = alpha_bar(r).view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


def noise_weight(r):
    """Plain noise loss neglects the high-noise end; this makes an error of the picture count alike at every high noise."""
    return (1 / alpha_bar(r)).clamp(max=400)


def stratified(count, device):
    """Uniform times in [0, 1), evenly spread over the batch."""
    return ((torch.arange(count, device=device) + torch.rand(count, device=device)) / count)[torch.randperm(count, device=device)]


def lines_to_train(rows):
    """Pictures whose pair is not held out; white ones three times, since every caption without a colour means white."""
    lines = torch.nonzero(rows[:, 2] == 0)[:, 0]
    white = lines[rows[lines, 1] == 0]
    return torch.cat([lines, white, white])


def path(*parts):
    full = os.path.join(WORK, *parts)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    return full


def save(state, name):
    """Write a checkpoint so that an interruption leaves the old one or the new one."""
    torch.save(state, path(name + ".part"))
    os.replace(path(name + ".part"), path(name))


def load(name):
    return torch.load(path(name), map_location=DEVICE)


def exists(name):
    return os.path.exists(path(name))


class Average:
    """A moving average of weights, quick at first."""

    def __init__(self, module, decay=0.999):
        self.module, self.decay, self.steps = module, decay, 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self):
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        floats = [(self.weights[k], v) for k, v in self.module.state_dict().items() if v.dtype.is_floating_point]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - keep)

    def state(self):
        return dict(weights=self.weights, steps=self.steps)

    def restore(self, state):
        self.steps = state["steps"]
        for k, v in state["weights"].items():
            self.weights[k].copy_(v)


class Clock:
    """Counts processor seconds, so that a paused or starved process is not charged for waiting."""

    def __init__(self, before=0.0):
        self.before, self.start = before, time.process_time() if DEVICE == "cpu" else time.time()

    def seconds(self):
        return self.before + (time.process_time() if DEVICE == "cpu" else time.time()) - self.start
