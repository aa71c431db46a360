"""Writes tests/fixtures/control: ControlNets and edges.

No file of a published ControlNet is needed: the networks are written down here from their description, at small widths, and
their weights are random. A file NAME.safetensors has the tensors of a ControlNet and nothing else, in bf16 without loss;
NAME_case.safetensors has `hint` and `addition_K`, what it adds before residual block K.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableCascadeUNet
from safetensors.torch import save_file
from torch import nn

from encoder_cases import effnet, randomise
from network_cases import SMALL_PRIOR, prior_inputs
from sampling import seeded
from tiny_model import R, fill
from vocabulary import write_json

RELEASED = [0, 4, 8, 12, 51, 55, 59, 63]  # of the 64 residual blocks of the large Stage C


class Norm(nn.LayerNorm):
    """Layer norm over the channels of [n, c, h, w]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        conv = lambda: nn.Conv2d(c, c, 3, padding=1)
        self.blocks = nn.Sequential(Norm(c), nn.GELU(), conv(), Norm(c), nn.GELU(), conv())

    def forward(self, x):
        return x + self.blocks(x)


class ControlNet(nn.Module):
    def __init__(self, backbone, features, width, projections):
        super().__init__()
        self.backbone = backbone
        projection = lambda: nn.Sequential(nn.Conv2d(features, features, 1, bias=False), nn.LeakyReLU(0.2),
                                           nn.Conv2d(features, width, 1, bias=False))
        self.projections = nn.ModuleList(projection() for _ in range(projections))

    def forward(self, hint):
        features = self.backbone(hint)
        return [projection(features) for projection in self.projections]


def simple(c):
    return nn.Sequential(nn.Conv2d(c, 4 * c, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(4 * c, c, 3, padding=1))


def large(c, hidden, width, features):
    return nn.Sequential(nn.Conv2d(c, hidden, 1), nn.LeakyReLU(0.2), nn.Conv2d(hidden, width, 1),
                         *[Residual(width) for _ in range(8)], nn.Conv2d(width, features, 1))


def cases():
    yield "canny", ControlNet(effnet(1), 20, 8, 8), (1, 93, 64)
    yield "inpainting", ControlNet(effnet(4), 20, 8, 8), (4, 64, 96)
    yield "picture", ControlNet(effnet(3), 20, 8, 8), (3, 64, 64)
    yield "super_resolution", ControlNet(large(16, 24, 12, 20), 20, 8, 8), (16, 5, 4)
    yield "identity", ControlNet(simple(6), 6, 8, 64), (6, 4, 7)
    yield "demo", ControlNet(effnet(1), 20, 192, 6), (1, 96, 96)


@torch.no_grad()
def write(fixtures: Path) -> None:
    folder = fixtures / "control"
    folder.mkdir(exist_ok=True)
    for seed, (name, network, shape) in enumerate(cases(), start=300):
        randomise(network, seed)
        bf16 = lambda v: v.to(torch.bfloat16) if v.is_floating_point() else v
        save_file({k: bf16(v).contiguous() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
        hint = torch.randn(1, *shape, generator=seeded(1000 + seed))
        additions = network(hint)
        assert all(a.isfinite().all() and a.std() > 0.05 for a in additions), name
        if name != "demo":
            save_file({"hint": hint} | {f"addition_{k}": a.contiguous() for k, a in enumerate(additions)},
                      folder / f"{name}_case.safetensors")
        if name == "inpainting":
            write_controlled(folder, additions)
    write_edges(folder)


def write_controlled(folder: Path, additions) -> None:
    """A Stage C with the 64 residual blocks of the large one, to which a ControlNet's additions are added at 0.7."""
    config = SMALL_PRIOR | dict(block_out_channels=[8, 8], num_attention_heads=[2, 2], down_num_layers_per_block=[8, 24],
                                up_num_layers_per_block=[24, 8], block_types_per_layer=[[R], [R]], switch_level=[False])
    unet = fill(StableCascadeUNet(**config), 350).to(torch.bfloat16).float()
    blocks = [b for level in [*unet.down_blocks, *unet.up_blocks] for b in level]
    assert len(blocks) == 64
    for k, addition in zip(RELEASED, additions):
        def add(module, inputs, addition=addition):
            x = inputs[0]
            return (x + 0.7 * F.interpolate(addition, x.shape[-2:], mode="bilinear", align_corners=True), *inputs[1:])
        blocks[k].register_forward_pre_hook(add)
    inputs = {k: torch.randn(s, generator=seeded(1350 + i)) for i, (k, s) in enumerate(prior_inputs(config, 3, 5).items())}
    inputs["timestep_ratio"] = torch.tensor([0.8, 0.3])
    tensors = {"model." + k: v.to(torch.bfloat16) for k, v in unet.state_dict().items()}
    tensors |= {"input." + k: v for k, v in inputs.items()} | {"output": unet(**inputs).sample}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "controlled_prior.safetensors")
    write_json(folder / "controlled_prior.json", {"_class_name": "StableCascadeUNet", **config})


def write_edges(folder: Path) -> None:
    """Pictures, and what cv2.Canny makes of them."""
    rng, tensors = np.random.default_rng(7), {}
    for i, (height, width, low, high, blur) in enumerate([
            (48, 64, 100, 200, 3), (33, 57, 50, 150, 5), (1, 9, 10, 20, 0), (17, 1, 10, 20, 0), (40, 40, 200, 100, 3),
            (64, 48, 0, 0, 7), (31, 31, 300, 900, 0), (96, 80, 20, 60, 9)]):
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        if blur:
            picture = cv2.GaussianBlur(picture, (blur, blur), 0)
            picture = np.clip((picture.astype(np.int32) - 128) * 3 + 128, 0, 255).astype(np.uint8)
            cv2.circle(picture, (width // 2, height // 2), min(height, width) // 3, (250, 40, 90), -1)
            cv2.line(picture, (0, 3), (width, height // 2), (10, 200, 30), 2)
        edges = cv2.Canny(picture, low, high)
        tensors |= {f"picture_{i}": torch.from_numpy(picture), f"edges_{i}": torch.from_numpy(edges),
                    f"thresholds_{i}": torch.tensor([low, high], dtype=torch.int32)}
    # What the canny ControlNet is told of the last picture.
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    small = (F.interpolate(x, (224, 224), mode="bilinear", align_corners=False) * 255).to(torch.uint8)
    found = torch.from_numpy(cv2.Canny(small[0].permute(1, 2, 0).contiguous().numpy(), 100, 200))[None, None] / 255
    tensors["hint"] = F.interpolate(found, picture.shape[:2], mode="bilinear", align_corners=False)[0, 0].contiguous()
    save_file(tensors, folder / "edges.safetensors")


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2] / "tests" / "fixtures")
