"""Writes tests/fixtures/network/NAME.{json,safetensors}: single networks with configurations that no published model has.

Weights have the prefix `model.` and are stored in bf16 without loss, inputs have the prefix `input.`, and
results are `output` and `output_*`.
"""

from pathlib import Path

import torch
from diffusers import StableCascadeUNet
from safetensors.torch import save_file

from sampling import seeded
from tiny_model import A, DECODER, PRIOR, R, T, fill, load
from vocabulary import write_json

SMALL_PRIOR = PRIOR | dict(in_channels=4, out_channels=4, conditioning_dim=10, timestep_ratio_embedding_dim=16,
                           block_out_channels=[8, 12], num_attention_heads=[2, 3], down_num_layers_per_block=[1, 1],
                           up_num_layers_per_block=[1, 1], clip_text_in_channels=7, clip_text_pooled_in_channels=5,
                           clip_image_in_channels=6)
SMALL_DECODER = DECODER | dict(conditioning_dim=10, timestep_ratio_embedding_dim=16,
                               block_out_channels=[6, 8, 12], num_attention_heads=[0, 2, 3],
                               down_num_layers_per_block=[1, 1, 2], up_num_layers_per_block=[1, 2, 1],
                               down_blocks_repeat_mappers=[1, 2, 1], up_blocks_repeat_mappers=[2, 1, 3],
                               block_types_per_layer=[[R, T], [R, T, A], [R, T, A]], dropout=[0, 0, 0.1],
                               clip_text_pooled_in_channels=5)


def prior_inputs(config, height, width, *, tokens=7, images=1, batch=2):
    return dict(sample=(batch, config["in_channels"], height, width),
                clip_text_pooled=(batch, 1, config["clip_text_pooled_in_channels"]),
                clip_text=(batch, tokens, config["clip_text_in_channels"]),
                clip_img=(batch, images, config["clip_image_in_channels"]))


def decoder_inputs(config, height, width, *, effnet=(5, 3), pixels=None, batch=2):
    shapes = dict(sample=(batch, config["in_channels"], height, width),
                  clip_text_pooled=(batch, 1, config["clip_text_pooled_in_channels"]),
                  effnet=(batch, 16, *effnet))
    return shapes | (dict(pixels=(batch, 3, *pixels)) if pixels else {})


def cases():
    c = SMALL_PRIOR | dict(switch_level=[True])
    yield "switch_level_true", c, prior_inputs(c, 7, 5, images=2)
    c = SMALL_PRIOR | dict(switch_level=[False], kernel_size=5, clip_seq=3)
    yield "kernel_5_clip_seq_3", c, prior_inputs(c, 6, 9)
    c = SMALL_PRIOR | dict(self_attn=False, timestep_ratio_embedding_dim=33)
    yield "no_self_attention_odd_time_features", c, prior_inputs(c, 5, 6, tokens=77)
    c = SMALL_PRIOR | dict(self_attn=[False, True], dropout=[0.0, 0.1])
    yield "mixed_self_attention_three_images", c, prior_inputs(c, 4, 6, images=3)
    c = SMALL_PRIOR | dict(switch_level=None, down_blocks_repeat_mappers=[2, 1], up_blocks_repeat_mappers=[1, 3],
                           timestep_conditioning_type=["sca"], patch_size=2)
    yield "strided_scalers_repeats_both_ways", c, prior_inputs(c, 14, 10)
    c = SMALL_PRIOR | dict(timestep_conditioning_type=["crp", "sca"])
    yield "given_sca_and_crp", c, prior_inputs(c, 3, 5, batch=1) | dict(sca=(1,), crp=(1,))
    c = SMALL_PRIOR | dict(block_out_channels=[8, 12, 16], num_attention_heads=[-1, 3, 2],
                           switch_level=[True, False], dropout=[0.1] * 3, self_attn=True,
                           block_types_per_layer=[[R, T], [R, A], [T, R, A]],
                           **{k: [1, 1, 1] for k in ("down_num_layers_per_block", "up_num_layers_per_block",
                                                     "down_blocks_repeat_mappers", "up_blocks_repeat_mappers")})
    yield "three_levels_other_block_orders", c, prior_inputs(c, 9, 6)
    yield "given_pixels", SMALL_DECODER, decoder_inputs(SMALL_DECODER, 26, 18, pixels=(9, 7))
    yield "smallest_decoder", SMALL_DECODER, decoder_inputs(SMALL_DECODER, 8, 8, effnet=(1, 1))
    c = SMALL_DECODER | dict(effnet_in_channels=None, pixel_mapper_in_channels=None)
    yield "decoder_without_mappers", c, {k: v for k, v in decoder_inputs(c, 16, 20).items() if k != "effnet"}


@torch.no_grad()
def write(fixtures: Path) -> None:
    folder = fixtures / "network"
    folder.mkdir(exist_ok=True)
    for seed, (name, config, shapes) in enumerate(cases(), start=100):
        unet = fill(StableCascadeUNet(**config), seed).to(torch.bfloat16).float()
        generator = seeded(1000 + seed)
        inputs = {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
        for k in {"sca", "crp"} & set(inputs):
            inputs[k] = inputs[k].abs() % 1
        inputs["timestep_ratio"] = torch.tensor([0.8, 0.3][: shapes["sample"][0]])
        outputs = {"output": unet(**inputs).sample}
        if "pixels" in inputs:
            absent = {k: v for k, v in inputs.items() if k != "pixels"}
            outputs["output_without_pixels"] = unet(**absent).sample
        store(folder / f"{name}.safetensors", unet, inputs, outputs)
        write_json(folder / f"{name}.json", {"_class_name": "StableCascadeUNet", **config})
    write_stage_a(folder, load(fixtures, "f32")["vqgan"])


def write_stage_a(folder: Path, vqgan) -> None:
    """Decodes and encodes with tiny/vqgan at odd sizes, without the scale factor."""
    generator = seeded(77)
    latent = 50 * torch.randn(2, 4, 7, 5, generator=generator)
    image = torch.rand(2, 3, 28, 20, generator=generator)
    save_file({"input.latent": latent, "output_decoded": vqgan.decode(latent).sample.contiguous(),
               "input.image": image, "output_encoded": vqgan.encode(image).latents.contiguous()},
              folder / "tiny_vqgan.safetensors")


def store(path: Path, network, inputs: dict, outputs: dict) -> None:
    tensors = {"model." + k: v.to(torch.bfloat16) for k, v in network.state_dict().items()}
    tensors |= {"input." + k: v for k, v in inputs.items()} | outputs
    for k, v in outputs.items():
        assert v.isfinite().all() and v.std() > 0.05, (path.name, k)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
