"""The vocabulary and the text tower: captions -> object and background. usage: train_text.py STEPS

The tower is trained first and then frozen, so that Stage B and Stage C see the same embeddings from their first step.
"""

import json
import os
import random
import sys

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTokenizer, CLIPTokenizerFast

from common import COLOUR_NAMES, DEVICE, caption, path, read_objects, save
from nets import TEXT, TOKENS, text_encoder

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
EXTRA = """a an the of on in with and or for at by to is under over near behind picture photo image icon drawing painting
3d big small large little cute nice beautiful shiny old new background plain simple style light dark bright two three one
face animal fruit food car flower tree toy gold golden silver""".split()
BATCH, RATE = 256, 2e-3


def build_tokenizer(things, folder):
    rng = random.Random(1)
    corpus = [caption(t, c, rng) for t in things for c in COLOUR_NAMES for _ in range(3)] + EXTRA * 20
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    learner.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, show_progress=False, end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    merges = [m if isinstance(m, list) else m.split(" ") for m in json.loads(learner.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys(letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges])
    tokens = [*tokens, "<|startoftext|>", "<|endoftext|>"]  # the end is the highest id, as in CLIP
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump({t: i for i, t in enumerate(tokens)}, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(" ".join(m) + "\n" for m in merges))
    special = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>")
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump(dict(tokenizer_class="CLIPTokenizer", model_max_length=TOKENS, **special), f, indent=2)
    with open(os.path.join(folder, "special_tokens_map.json"), "w") as f:
        json.dump(special, f, indent=2)
    fast = CLIPTokenizerFast.from_pretrained(folder)
    fast.backend_tokenizer.save(os.path.join(folder, "tokenizer.json"))
    made = CLIPTokenizer.from_pretrained(folder)
    longest = max(len(made(t).input_ids) for t in corpus)
    print(len(tokens), "tokens, longest caption", longest)
    for text in ("a red apple on a blue background", "", "zyzzyva 42!"):
        print(text, "->", made.convert_ids_to_tokens(made(text).input_ids))
    return made


def disturb(text, rng):
    """Put in a word that means nothing, so that words outside the captions do little harm."""
    words = text.split()
    words.insert(rng.randint(0, len(words)), "".join(rng.choices("abcdefghijklmnoprstuvwyz", k=rng.randint(2, 6))))
    return " ".join(words)


def main():
    steps = int(sys.argv[1])
    torch.manual_seed(0)
    things, rng = read_objects(), random.Random(3)
    tokenizer = build_tokenizer(things, path("tokenizer"))
    text = text_encoder(tokenizer).to(DEVICE)
    heads = nn.ModuleList([nn.Linear(TEXT, len(things)), nn.Linear(TEXT, len(COLOUR_NAMES))]).to(DEVICE)
    opt = torch.optim.AdamW([*text.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    for step in range(1, steps + 1):
        for g in opt.param_groups:
            g["lr"] = RATE * min(1, step / 100) * (1 - step / steps)
        objects, colours = torch.randint(len(things), (BATCH,)), torch.randint(len(COLOUR_NAMES), (BATCH,))
        colours[: BATCH // 6] = 0
        texts = [caption(things[o], COLOUR_NAMES[c], rng) for o, c in zip(objects.tolist(), colours.tolist())]
        texts = [disturb(t, rng) if rng.random() < 0.15 else t for t in texts]
        made = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(DEVICE)
        found = text(made.input_ids, attention_mask=made.attention_mask).text_embeds
        guesses, wanted = [h(found) for h in heads], [objects.to(DEVICE), colours.to(DEVICE)]
        loss = sum(F.cross_entropy(g, w, label_smoothing=0.05) for g, w in zip(guesses, wanted)) + 1e-3 * found.square().mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        opt.step()
        if step % 100 == 0:
            right = [(g.argmax(1) == w).float().mean().item() for g, w in zip(guesses, wanted)]
            print(f"step {step} loss {loss.item():.3f} object {right[0]:.3f} background {right[1]:.3f} size {found.std().item():.2f}", flush=True)
    text.eval().save_pretrained(path("text_encoder"))
    save(dict(heads=heads.state_dict()), "text_heads.pt")


main()
