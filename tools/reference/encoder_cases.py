"""Writes tests/fixtures/network/effnet_encoder.safetensors: torchvision's EfficientNetV2 as the encoder of pictures.

The network is `EfficientNetEncoder` of StableCascade at small widths, with random weights. `model.*` are its tensors, in bf16
without loss, `input.picture` [n, 3, h, w] is a normalised picture whose sides no stride divides, `output` [n, 16, h/32, w/32].
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

from sampling import seeded
from tiny_model import fill


def effnet(c):
    """EfficientNetV2 with few channels. The first convolution for a hint that is no picture has no padding."""
    settings = [FusedMBConvConfig(1, 3, 1, 4, 4, 2), FusedMBConvConfig(2, 3, 2, 4, 6, 2), FusedMBConvConfig(2, 3, 2, 6, 8, 1),
                MBConvConfig(2, 3, 2, 8, 8, 2), MBConvConfig(2, 3, 1, 8, 12, 1), MBConvConfig(2, 3, 2, 12, 12, 2)]
    backbone = EfficientNet(settings, 0.0, last_channel=20, norm_layer=lambda c: nn.BatchNorm2d(c, eps=1e-3)).features
    if c != 3:
        backbone[0][0] = nn.Conv2d(c, 4, 3, stride=2, bias=False)
    return backbone


def randomise(network, seed):
    """Weights of bf16 numbers that keep activations near 1, and statistics of batch norms that are not 0 and 1."""
    fill(network, seed)
    generator = seeded(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network.eval().to(torch.bfloat16).float()


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = effnet(3)
        self.mapper = nn.Sequential(nn.Conv2d(20, 16, 1, bias=False), nn.BatchNorm2d(16, affine=False))

    def forward(self, x):
        return self.mapper(self.backbone(x))


@torch.no_grad()
def write(fixtures: Path) -> None:
    encoder = randomise(Encoder(), 400)
    picture = torch.randn(2, 3, 67, 96, generator=seeded(1400))
    output = encoder(picture)
    assert output.isfinite().all() and output.std() > 0.05
    bf16 = lambda v: v.to(torch.bfloat16) if v.is_floating_point() else v
    tensors = {"model." + k: bf16(v) for k, v in encoder.state_dict().items()} | {"input.picture": picture, "output": output}
    save_file({k: v.contiguous() for k, v in tensors.items()}, fixtures / "network" / "effnet_encoder.safetensors")
