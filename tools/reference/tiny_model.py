"""A model with the structure of Stable Cascade and very few channels, with random values in every tensor.

The constructors initialise GRN, gammas, timestep mappers and the output layer with zeros or
constants, which would hide bugs, so `fill` overwrites them all. All widths of a network differ, so that mixing two up fails.
"""

import math
from pathlib import Path

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from safetensors.torch import save_file
from transformers import (CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer,
                          CLIPVisionConfig, CLIPVisionModelWithProjection)

from vocabulary import EOS, write_json, write_tokenizer

R, T, A = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
TEXT_WIDTH, POOLED_WIDTH, IMAGE_WIDTH = 12, 22, 10

PRIOR = dict(
    in_channels=16, out_channels=16, patch_size=1, conditioning_dim=28, timestep_ratio_embedding_dim=64,
    block_out_channels=[20, 24], num_attention_heads=[5, 3],
    down_num_layers_per_block=[1, 2], up_num_layers_per_block=[2, 1],
    down_blocks_repeat_mappers=[1, 1], up_blocks_repeat_mappers=[1, 1], block_types_per_layer=[[R, T, A]] * 2,
    clip_text_in_channels=TEXT_WIDTH, clip_text_pooled_in_channels=POOLED_WIDTH, clip_image_in_channels=IMAGE_WIDTH,
    clip_seq=4, effnet_in_channels=None, pixel_mapper_in_channels=None, kernel_size=3, dropout=[0.1, 0.1],
    self_attn=True, timestep_conditioning_type=["sca", "crp"], switch_level=[False],
)
DECODER = dict(
    in_channels=4, out_channels=4, patch_size=2, conditioning_dim=18, timestep_ratio_embedding_dim=64,
    block_out_channels=[8, 12, 20, 24], num_attention_heads=[0, -1, 5, 3],
    down_num_layers_per_block=[1, 1, 2, 1], up_num_layers_per_block=[1, 2, 1, 1],
    down_blocks_repeat_mappers=[1, 1, 1, 1], up_blocks_repeat_mappers=[3, 3, 2, 2],
    block_types_per_layer=[[R, T], [R, T], [R, T, A], [R, T, A]],
    clip_text_in_channels=None, clip_text_pooled_in_channels=POOLED_WIDTH, clip_image_in_channels=None,
    clip_seq=4, effnet_in_channels=16, pixel_mapper_in_channels=3, kernel_size=3, dropout=[0, 0, 0.1, 0.1],
    self_attn=True, timestep_conditioning_type=["sca"], switch_level=None,
)
VQGAN = dict(embed_dim=20, bottleneck_blocks=3, num_vq_embeddings=16, latent_channels=4, scale_factor=0.43)
TEXT = dict(hidden_size=TEXT_WIDTH, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3,
            projection_dim=POOLED_WIDTH, hidden_act="gelu", vocab_size=49408, max_position_embeddings=77,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=1)
VISION = dict(hidden_size=18, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, projection_dim=IMAGE_WIDTH,
              hidden_act="quick_gelu", image_size=28, patch_size=7)


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fills every parameter and running statistic with random values, in the order of names, from one generator."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(module.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        z = torch.randn(tensor.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "running_var":
            value = 1 + 0.3 * z.clamp(-2, 2)
        elif leaf in ("bias", "beta", "gamma", "running_mean"):
            value = 0.1 * z
        elif leaf == "gammas":  # scale, shift and residual scale of both halves of a block of Stage A
            value = 0.3 * z
        elif ".mapper" in name:  # timestep blocks: up to three mappers are added, and their input has norm 5.7
            value = 0.05 * z
        elif tensor.ndim == 1:  # weights of affine norms
            value = 1 + 0.1 * z
        elif "embedding" in name and leaf == "weight" and tensor.ndim == 2:  # token, position and code tables
            value = z
        else:
            value = z / math.sqrt(math.prod(tensor.shape[1:]))
        tensor.copy_(value)
    return module.eval()


@torch.no_grad()
def build() -> dict:
    prior = fill(StableCascadeUNet(**PRIOR), seed=1)
    decoder = fill(StableCascadeUNet(**DECODER), seed=2)
    vqgan = fill(PaellaVQModel(**VQGAN), seed=3)
    # An untrained denoiser removes no noise, and the sampler divides by sqrt(1e-4) in total, so latents end near 100.
    # Stage A is scaled so that most pixels are within [0, 1], because clamped pixels would hide errors.
    vqgan.up_blocks[0][0].weight.mul_(0.02)
    vqgan.out_block[0].weight.mul_(0.1)
    vqgan.out_block[0].bias.add_(0.5)
    text = fill(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), seed=4)
    for layer in text.text_model.encoder.layers:  # makes attention sharper, so that wrong masks and padding show
        layer.self_attn.q_proj.weight.mul_(2)
    text.to(torch.bfloat16).float()  # it is stored only in bf16
    vision = fill(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)), seed=5)
    return dict(prior=prior, decoder=decoder, vqgan=vqgan, text_encoder=text, image_encoder=vision)


def to_original_names(state: dict[str, torch.Tensor], stage_b: bool) -> dict[str, torch.Tensor]:
    """Converts to the names of the original repository, where Q, K and V are stacked and Stage B's pooled mapper is clip_mapper."""
    original = {}
    for name, tensor in state.items():
        if ".attention.to_q." in name:
            stacked = torch.cat([state[name.replace("to_q", x)] for x in ("to_q", "to_k", "to_v")])
            original[name.replace("attention.to_q.", "attention.attn.in_proj_")] = stacked
        elif ".attention.to_k." in name or ".attention.to_v." in name:
            continue
        elif ".attention.to_out.0." in name:
            original[name.replace("attention.to_out.0.", "attention.attn.out_proj.")] = tensor
        elif stage_b and name.startswith("clip_txt_pooled_mapper."):
            original[name.replace("clip_txt_pooled_mapper", "clip_mapper")] = tensor
        else:
            original[name] = tensor
    return original


def bf16(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in state.items()}


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in state.items()}


def save(models: dict, fixtures: Path) -> None:
    """Writes `tiny/` and `tiny-prior/` in the layout of the hub, and the same weights as single files in `tiny-original/`."""
    tiny, prior, original = fixtures / "tiny", fixtures / "tiny-prior", fixtures / "tiny-original"
    for folder, name in [(prior, "prior"), (tiny, "decoder"), (tiny, "vqgan")]:
        model, path = models[name], folder / name
        model.save_pretrained(path)
        if name != "vqgan":
            stored = contiguous(bf16(model.state_dict()))
            save_file(stored, path / "diffusion_pytorch_model.bf16.safetensors", metadata={"format": "pt"})
    models["text_encoder"].to(torch.bfloat16).save_pretrained(tiny / "text_encoder")
    models["text_encoder"].float()
    models["image_encoder"].save_pretrained(prior / "image_encoder")
    side = VISION["image_size"]
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(prior / "feature_extractor")
    write_tokenizer(tiny / "tokenizer")
    scheduler = {"_class_name": "DDPMWuerstchenScheduler", "_diffusers_version": "0.42.1", "s": 0.008, "scaler": 1.0}
    for folder in (tiny, prior):
        (folder / "scheduler").mkdir(parents=True, exist_ok=True)
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    shared = {"scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
              "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
              "tokenizer": ["transformers", "CLIPTokenizerFast"]}
    write_json(tiny / "model_index.json",
               {"_class_name": "StableCascadeDecoderPipeline", "_diffusers_version": "0.42.1",
                "decoder": ["diffusers", "StableCascadeUNet"], "latent_dim_scale": 10.67, **shared,
                "vqgan": [PaellaVQModel.__module__, "PaellaVQModel"]})
    write_json(prior / "model_index.json",
               {"_class_name": "StableCascadePriorPipeline", "_diffusers_version": "0.42.1",
                "prior": ["diffusers", "StableCascadeUNet"], "resolution_multiple": 42.67, **shared,
                "feature_extractor": ["transformers", "CLIPImageProcessor"],
                "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]})

    original.mkdir(parents=True, exist_ok=True)
    stage_a = {k.replace("vquantizer.embedding.", "vquantizer.codebook."): v
               for k, v in models["vqgan"].state_dict().items()}
    stage_b = bf16(to_original_names(models["decoder"].state_dict(), stage_b=True))
    stage_c = bf16(to_original_names(models["prior"].state_dict(), stage_b=False))
    for name, state in [("stage_a", stage_a), ("stage_b", stage_b), ("stage_c", stage_c)]:
        save_file(contiguous(state), original / f"{name}.safetensors")


def load(fixtures: Path, variant: str) -> dict:
    """Loads the model from disk, in f32. `variant`, "f32" or "bf16", selects the files of the U-Nets."""
    tiny, prior = fixtures / "tiny", fixtures / "tiny-prior"
    options = dict(torch_dtype=torch.float32, variant="bf16" if variant == "bf16" else None)
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "tokenizer")
    assert tokenizer.pad_token == EOS and tokenizer.model_max_length == 77
    return dict(
        prior=StableCascadeUNet.from_pretrained(prior / "prior", **options).eval(),
        decoder=StableCascadeUNet.from_pretrained(tiny / "decoder", **options).eval(),
        vqgan=PaellaVQModel.from_pretrained(tiny / "vqgan").eval(),
        text_encoder=CLIPTextModelWithProjection.from_pretrained(tiny / "text_encoder", dtype=torch.float32).eval(),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(prior / "image_encoder").eval(),
        feature_extractor=CLIPImageProcessorPil.from_pretrained(prior / "feature_extractor"),
        tokenizer=tokenizer,
    )
