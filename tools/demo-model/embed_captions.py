"""The frozen text tower's embeddings of many captions of every pair, for the two stages. usage: embed_captions.py"""

import random

import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from common import COLOUR_NAMES, DEVICE, caption, path, read_objects, save

EACH = 12  # captions of one object on one background


@torch.no_grad()
def embed(tokenizer, text, prompts):
    """As the pipelines do it: the last layer's states before the final norm, and the projected end state."""
    made = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(text.device)
    out = text(made.input_ids, attention_mask=made.attention_mask, output_hidden_states=True)
    return out.hidden_states[-1], out.text_embeds


def main():
    rng = random.Random(4)
    tokenizer = CLIPTokenizer.from_pretrained(path("tokenizer"))
    text = CLIPTextModelWithProjection.from_pretrained(path("text_encoder")).to(DEVICE).eval()
    prompts = [caption(t, c, rng) for t in read_objects() for c in COLOUR_NAMES for _ in range(EACH)] + [""]
    parts = [embed(tokenizer, text, prompts[i : i + 128]) for i in range(0, len(prompts), 128)]
    hidden, pooled = (torch.cat(p).cpu() for p in zip(*parts))
    save(dict(hidden=hidden.bfloat16(), pooled=pooled), "captions.pt")
    print(len(prompts), "captions, e.g.", rng.sample(prompts, 12))


class CaptionPool:
    """Draws a caption's embeddings for lines of (object, background, ...); some are the empty caption's."""

    def __init__(self):
        made = torch.load(path("captions.pt"))
        self.hidden, self.pooled = made["hidden"], made["pooled"]

    def draw(self, rows, drop):
        index = (rows[:, 0] * len(COLOUR_NAMES) + rows[:, 1]) * EACH + torch.randint(EACH, (len(rows),))
        index[torch.rand(len(rows)) < drop] = len(self.pooled) - 1
        return self.hidden[index].to(DEVICE).float(), self.pooled[index].to(DEVICE).unsqueeze(1)


if __name__ == "__main__":
    main()
