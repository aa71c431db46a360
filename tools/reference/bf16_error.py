"""Measures the error of diffusers when it computes in bf16, as a reference for the bf16 error of cascade-rt.

Weights and activations are bf16, but the timestep features are computed in f32: diffusers would round the timestep,
which causes a larger error than everything else. The f32 result uses the same bf16-rounded weights and inputs.
"""

import copy
from pathlib import Path

import torch
from diffusers import StableCascadeUNet
from safetensors.torch import save_file

from sampling import encode, sample, seeded

RATIOS = [1.0, 0.75, 0.35, 0.05]
PROMPTS = ["a red fox in the snow, 35mm photograph", "two cats", "", "a lighthouse"]


class Bf16Unet:
    """A bf16 StableCascadeUNet with f32 inputs and outputs, and f32 timestep features."""

    dtype = torch.float32

    def __init__(self, unet: StableCascadeUNet):
        self.unet = copy.deepcopy(unet).to(torch.bfloat16)
        features = unet.get_timestep_ratio_embedding
        self.unet.get_timestep_ratio_embedding = lambda ratio: features(ratio.float()).to(torch.bfloat16)

    def __call__(self, timestep_ratio, return_dict=False, **inputs):
        inputs = {k: v.to(torch.bfloat16) for k, v in inputs.items()}
        return (self.unet(timestep_ratio=timestep_ratio, return_dict=False, **inputs)[0].float(),)


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(f"{((a - b).norm() / b.norm()).item():.4g}")


@torch.no_grad()
def write(fixtures: Path, models: dict) -> dict:
    """Writes network/tiny_{prior,decoder}.safetensors (inputs, f32 and bf16 outputs) and returns the errors."""
    (fixtures / "network").mkdir(exist_ok=True)
    generator = seeded(99)
    text = encode(models, PROMPTS)
    ratio = torch.tensor(RATIOS)
    pooled = text["text_pooled"].unsqueeze(1)
    stage_c = torch.randn(4, 16, 5, 7, generator=generator)
    image = 0.5 * torch.randn(4, 1, models["prior"].config.clip_image_in_channels, generator=generator)
    inputs = {
        "prior": dict(sample=stage_c, clip_text_pooled=pooled, clip_text=text["text_states"], clip_img=image),
        "decoder": dict(sample=torch.randn(4, 4, 18, 26, generator=generator), clip_text_pooled=pooled,
                        effnet=torch.randn(4, 16, 5, 7, generator=generator)),
    }
    errors = {}
    for name, given in inputs.items():
        given = {k: v.to(torch.bfloat16).float() for k, v in given.items()}
        exact = models[name](timestep_ratio=ratio, return_dict=False, **given)[0]
        rounded = Bf16Unet(models[name])(timestep_ratio=ratio, **given)[0]
        stored = {"input." + k: v for k, v in given.items()} | {
            "input.timestep_ratio": ratio, "output": exact, "output_bf16": rounded}
        save_file({k: v.contiguous() for k, v in stored.items()}, fixtures / "network" / f"tiny_{name}.safetensors")
        loop_inputs = {k: v for k, v in given.items() if k != "sample"}
        loops = [sample(net, given["sample"].shape, 8, 0.0, seeded(5), "torch-bf16", **loop_inputs)
                 for net in (Bf16Unet(models[name]), models[name])]
        errors[name] = {
            "forward": relative_l2(rounded, exact),
            "forward_by_timestep_ratio": {str(r): relative_l2(rounded[i], exact[i]) for i, r in enumerate(RATIOS)},
            "loop_of_8_steps": relative_l2(*loops),
            "file": f"../network/tiny_{name}.safetensors",
        }
    return errors
