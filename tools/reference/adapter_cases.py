"""Writes tests/fixtures/adapters: LoRA files of the tiny model in every dialect, and what the model makes with each.

The expected tensors are computed by diffusers with the changes added to the weights beforehand. The folder `peft` is written by
PEFT itself, with DoRA and patterns for rank and alpha. Run after make_fixtures.py:

    pip install --no-deps peft==0.21.2 accelerate psutil
    python tools/reference/adapter_cases.py
"""

import copy
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from sampling import Request, by_loop
from tiny_model import load

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
REQUEST = Request(["a red fox in the snow"], 64, 64, seed=21, steps=(2, 1), negative="fog")
ALPHA = 1.5

ATTENTION = ["down_blocks.0.2", "down_blocks.1.2", "down_blocks.1.5", "up_blocks.0.2", "up_blocks.0.5", "up_blocks.1.2"]
PRIOR = [f"{block}.attention.{part}" for block in ATTENTION for part in ("to_q", "to_k", "to_v", "to_out.0")] + [
    "down_blocks.0.0.channelwise.0", "down_blocks.0.0.channelwise.4", "up_blocks.1.0.channelwise.0",
    "down_blocks.0.1.mapper", "down_blocks.1.1.mapper_sca", "down_blocks.0.2.kv_mapper.1", "embedding.1", "clf.1",
    "clip_txt_mapper", "clip_txt_pooled_mapper", "clip_img_mapper", "up_upscalers.0.1.blocks.1",
    "down_downscalers.1.1.blocks.0"]
DEPTHWISE = "down_blocks.1.0.depthwise"
TEXT = [f"text_model.encoder.layers.{layer}.{part}" for layer in (0, 2)
        for part in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")] + ["text_projection"]


def weight_of(models, network, module):
    return models[network].get_submodule(module).weight


def factors(models):
    """Down and up factors of every changed module, by network and module."""
    generator = torch.Generator().manual_seed(5)
    result = {}
    for network, modules in (("prior", PRIOR + [DEPTHWISE]), ("text_encoder", TEXT)):
        for i, module in enumerate(modules):
            weight = weight_of(models, network, module)
            rank = 2 + i % 2
            up = [1, rank, 1, 1] if module == DEPTHWISE else [weight.shape[0], rank] + [1] * (weight.dim() - 2)
            down = [rank] + list(weight.shape if module == DEPTHWISE else weight.shape[1:])
            if module == DEPTHWISE:
                down = [rank, weight.shape[0], *weight.shape[2:]]
            draw = lambda shape: torch.randn(shape, generator=generator) * 0.4
            result[network, module] = draw(down), draw(up)
    return result


def product(down, up, shape):
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def merged(models, changes):
    """The models with `changes` added: a tensor for each network and module."""
    models = {**models, "prior": copy.deepcopy(models["prior"]), "text_encoder": copy.deepcopy(models["text_encoder"])}
    with torch.no_grad():
        for (network, module), change in changes.items():
            weight_of(models, network, module).add_(change)
    return models


def original(module):
    """The original repository's name of a module."""
    for new, old in (("attention.to_q", "attention.attn.in_proj.0"), ("attention.to_k", "attention.attn.in_proj.1"),
                     ("attention.to_v", "attention.attn.in_proj.2"), ("attention.to_out.0", "attention.attn.out_proj")):
        module = module.replace(new, old)
    return module


def split_names(module):
    """ComfyUI's name of a module, with projections of attention split."""
    return module.replace("attention.to_out.0", "attention.attn.out_proj").replace("attention.to_", "attention.attn.to_")


def write(name, tensors):
    save_file({k: v.contiguous() for k, v in tensors.items()}, FIXTURES / "adapters" / f"{name}.safetensors")


def dialects(changes):
    """The same changes in every dialect that has all of them."""
    def tensors(name_of, down, up, alpha, fold=1.0):
        out = {}
        for key, (a, b) in changes.items():
            name = name_of(*key)
            out[f"{name}.{down}"], out[f"{name}.{up}"] = a, b * (ALPHA / a.shape[0] if fold != 1.0 else 1.0)
            if alpha:
                out[f"{name}.alpha"] = torch.tensor(ALPHA)
        return out

    flat = lambda prefix, text, spell: lambda network, module: (
        (text if network == "text_encoder" else prefix) + spell(module).replace(".", "_"))
    dotted = lambda prefix, text, spell: lambda network, module: (
        (text if network == "text_encoder" else prefix) + spell(module))
    kohya = ("lora_down.weight", "lora_up.weight", True)
    peft = ("lora_A.weight", "lora_B.weight")
    return {
        "onetrainer": tensors(flat("lora_prior_unet_", "lora_prior_te_", split_names), *kohya),
        "kohya": tensors(flat("lora_unet_", "lora_te_", original), *kohya),
        "original": tensors(dotted("", "", original), *peft, True),
        "comfyui": tensors(dotted("diffusion_model.", "text_encoder.", split_names), *kohya),
        "omi": tensors(dotted("unet.", "clip_g.", original), *kohya),
        "diffusers": tensors(dotted("prior.", "text_encoder.", lambda module: module), *peft, False, fold=0.0),
    }


def decomposed(models, of_outputs):
    """DoRA of two modules as OneTrainer stores it, and what it adds to them."""
    generator = torch.Generator().manual_seed(6)
    tensors, changes = {}, {}
    for module in ("down_blocks.0.2.attention.to_q", "embedding.1", "down_blocks.0.0.channelwise.4"):
        weight = weight_of(models, "prior", module).detach()
        down = torch.randn([2, *weight.shape[1:]], generator=generator) * 0.4
        up = torch.randn([weight.shape[0], 2] + [1] * (weight.dim() - 2), generator=generator) * 0.4
        moved = weight + ALPHA / 2 * product(down, up, weight.shape)
        axes = [d for d in range(weight.dim()) if d != (0 if of_outputs else 1)]
        norm = torch.linalg.vector_norm(moved, dim=axes, keepdim=True)
        magnitude = norm * (1 + 0.2 * torch.randn(norm.shape, generator=generator))
        changes["prior", module] = magnitude * moved / norm - weight
        name = "lora_prior_unet_" + split_names(module).replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up,
                    f"{name}.alpha": torch.tensor(ALPHA), f"{name}.dora_scale": magnitude}
    return tensors, changes


def stability(models):
    """The original repository's file: numbered attention layers of Stage C, and deltas of tokens."""
    generator = torch.Generator().manual_seed(7)
    tensors, changes = {}, {}
    for i, block in enumerate(ATTENTION):
        out = weight_of(models, "prior", f"{block}.attention.to_out.0")
        width = out.shape[0]
        for k, rows in ((2 * i, width), (2 * i + 1, 3 * width)):
            down = torch.randn([2, width], generator=generator) * 0.4
            up = torch.randn([rows, 2], generator=generator) * 0.4
            tensors[f"weights.{k}.lora_down"], tensors[f"weights.{k}.lora_up"] = down, up
            change = up @ down / 2
            names = ["to_out.0"] if rows == width else ["to_q", "to_k", "to_v"]
            for name, part in zip(names, change.chunk(len(names))):
                changes["prior", f"{block}.attention.{name}"] = part
    indices = models["tokenizer"]("a red fox").input_ids[2:4]
    deltas = torch.randn([2, models["text_encoder"].config.hidden_size], generator=generator) * 0.5
    tensors |= {"embeddings.indices": torch.tensor(indices), "embeddings.embeddings": deltas}
    embedding = torch.zeros_like(weight_of(models, "text_encoder", "text_model.embeddings.token_embedding"))
    embedding[indices] = deltas
    changes["text_encoder", "text_model.embeddings.token_embedding"] = embedding
    return tensors, changes


def by_peft(models):
    """A folder that PEFT writes, and the model that it merges."""
    torch.manual_seed(8)
    config = LoraConfig(r=2, lora_alpha=3, use_dora=True, init_lora_weights=False,
                        target_modules=["to_q", "to_v", "channelwise.0", "embedding.1"],
                        rank_pattern={"to_v": 3}, alpha_pattern={r"up_blocks\.\d+\.\d+\.attention\.to_[qk]": 7, r"channelwise\.[0-3]": 5, "to_q": 2})
    prior = copy.deepcopy(models["prior"])
    model = get_peft_model(prior, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.mul_(1.1)
    folder = FIXTURES / "adapters" / "peft"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    kept = {key: config[key] for key in ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora", "rank_pattern",
                                         "alpha_pattern", "target_modules")}
    kept["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(kept, indent=2) + "\n")
    return {**models, "prior": model.merge_and_unload()}


NEW = {"<old film>": 2, "<snowy>": 3, "[fernando]": 1, "<zero>": 1}
INVERTED = Request(["a red <old film> fox <snowy> in the snow"], 64, 64, seed=21, steps=(2, 1), negative="<snowy> fog")
RETOKENED = Request(["a [Fernando] in the <zero> snow"], 64, 64, seed=21, steps=(2, 1), negative="fog")
PATTERN = "^fo+x?</w>|^sn"


def with_tokens(models, rows):
    """The models with new tokens: `rows` has the vectors of each. One of several vectors is several tokens, as in diffusers."""
    models = {**models, "tokenizer": copy.deepcopy(models["tokenizer"]), "text_encoder": copy.deepcopy(models["text_encoder"])}
    names = [f"{name}_{i}" if i else name for name, vectors in rows.items() for i in range(len(vectors))]
    assert models["tokenizer"].add_tokens(names) == len(names)
    models["text_encoder"].resize_token_embeddings(len(models["tokenizer"]), mean_resizing=False)
    with torch.no_grad():
        table = models["text_encoder"].get_input_embeddings().weight
        table[-len(names):] = torch.cat(list(rows.values()))
    return models


def spelled(request, rows):
    """The request with all tokens of names that stand for several."""
    def text(prompt):
        for name, vectors in rows.items():
            prompt = prompt.replace(name, " ".join([name] + [f"{name}_{i}" for i in range(1, len(vectors))]))
        return prompt
    return replace(request, prompts=[text(prompt) for prompt in request.prompts], negative=text(request.negative))


def inversion(models, expect):
    """Textual inversion as OneTrainer bundles it with a LoRA, as a file of its own, and the original repository's new tokens."""
    generator = torch.Generator().manual_seed(9)
    width = models["text_encoder"].config.hidden_size
    draw = lambda n: torch.randn([n, width], generator=generator)
    rows = {name: draw(NEW[name]) for name in ("<old film>", "<snowy>")}
    module = "down_blocks.0.2.attention.to_q"
    weight = weight_of(models, "prior", module)
    down, up = torch.randn([2, weight.shape[1]], generator=generator), torch.randn([weight.shape[0], 2], generator=generator)
    name = "lora_prior_unet_" + split_names(module).replace(".", "_")
    write("bundle", {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, "bundle_emb.<old film>.clip_g": rows["<old film>"]})
    write("snowy", {"clip_g": rows["<snowy>"]})
    write("learned_embeds", {"<old film>": rows["<old film>"]})
    inverted = with_tokens(merged(models, {("prior", module): up @ down}), rows)
    expect("inverted", inverted, spelled(INVERTED, rows))

    table = weight_of(models, "text_encoder", "text_model.embeddings.token_embedding").detach()
    matching = [i for token, i in models["tokenizer"].get_vocab().items() if re.search(PATTERN, token)]
    deltas, known = draw(3), models["tokenizer"]("snow").input_ids[1]
    base = {"[fernando]": table[sorted(matching)].mean(dim=0, keepdim=True), "<zero>": torch.zeros(1, width)}
    start = len(models["tokenizer"])
    write("retoken", {"embeddings.indices": torch.tensor([known, start, start + 1]), "embeddings.embeddings": deltas})
    retokened = with_tokens(models, {"[fernando]": base["[fernando]"] + deltas[1], "<zero>": base["<zero>"] + deltas[2]})
    with torch.no_grad():
        retokened["text_encoder"].get_input_embeddings().weight[known] += deltas[0]
    expect("retokened", retokened, RETOKENED)
    print(f"{PATTERN} matches {len(matching)} tokens")


def main():
    shutil.rmtree(FIXTURES / "adapters", ignore_errors=True)
    (FIXTURES / "adapters").mkdir()
    models = load(FIXTURES, "f32")
    expected = {}

    def expect(name, models, request=REQUEST):
        result = by_loop(models, request)
        expected.update({f"{name}.{key}": result[key].contiguous() for key in ("stage_c", "image")})

    changes = factors(models)
    for name, tensors in dialects(changes).items():
        write(name, tensors)
    sums = {key: ALPHA / down.shape[0] * product(down, up, weight_of(models, *key).shape)
            for key, (down, up) in changes.items()}
    expect("base", models)
    expect("all", merged(models, sums))
    expect("half", merged(models, {key: change / 2 for key, change in sums.items()}))
    for name, of_outputs in (("dora_inputs", False), ("dora_outputs", True)):
        tensors, change = decomposed(models, of_outputs)
        write(name, tensors)
        expect(name, merged(models, change))
    tensors, change = stability(models)
    write("stability", tensors)
    expect("stability", merged(models, change))
    both = {key: sums.get(key, 0) + change.get(key, 0) for key in sums.keys() | change.keys()}
    expect("all_and_stability", merged(models, both))
    expect("peft", by_peft(models))
    inversion(models, expect)
    save_file(expected, FIXTURES / "adapters" / "expected.safetensors")
    base = expected["base.stage_c"]
    for name, tensor in expected.items():
        if name.endswith("stage_c"):
            print(f"{name:28} {((tensor - base).norm() / base.norm()).item():.3f} from the base")


if __name__ == "__main__":
    main()
