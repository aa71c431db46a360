"""Write the image encoder as an EfficientNet, which the runtime knows: the same function in other layers.

usage: export_encoder.py FILE.safetensors

The trained encoder begins with the values of 4x4 pixels and ends in a linear layer, where EfficientNet has convolutions with
SiLU. But silu(v) - silu(-v) = v: pairs of channels carry a value through unchanged. Layers that the runtime's structure
demands and this encoder has not got add zero to their input. Convolutions are stored in half precision, as in the checkpoint.
"""

import sys

import torch
from safetensors.torch import save_file
from torch import nn

from common import load
from nets import Encoder, Preview

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
EPS, EPS_THERE = 1e-5, 1e-3  # of batch norms in training, and in EfficientNet
OPEN = 20.0  # sigmoid(20) is 1 in f32


class Writer:
    def __init__(self):
        self.tensors = {}

    def norm(self, name, weight, bias, mean, var):
        self.tensors |= {f"{name}.weight": weight, f"{name}.bias": bias, f"{name}.running_mean": mean, f"{name}.running_var": var}

    def plain_norm(self, name, bias):
        """A norm that only adds."""
        one = torch.ones_like(bias)
        self.norm(name, one, bias, torch.zeros_like(bias), one - EPS_THERE)

    def trained(self, name, conv, norm):
        self.tensors[f"{name}.0.weight"] = conv.weight.data
        scale = norm.weight.data * ((norm.running_var + EPS_THERE) / (norm.running_var + EPS)).sqrt()
        self.norm(f"{name}.1", scale, norm.bias.data, norm.running_mean, norm.running_var)

    def linear(self, name, weight, bias=None):
        """A convolution and a norm that only adds."""
        self.tensors[f"{name}.0.weight"] = weight
        self.plain_norm(f"{name}.1", torch.zeros(len(weight)) if bias is None else bias)

    def gate(self, name, wide):
        """Squeeze-and-excitation that lets everything pass."""
        self.tensors |= {f"{name}.fc1.weight": torch.zeros(1, wide, 1, 1), f"{name}.fc1.bias": torch.zeros(1),
                         f"{name}.fc2.weight": torch.zeros(wide, 1, 1, 1), f"{name}.fc2.bias": torch.full((wide,), OPEN)}

    def residual(self, name, body):
        for at, i in ((0, 0), (1, 3), (3, 6)):
            self.trained(f"{name}.block.{at}", body[i], body[i + 1])
        self.gate(f"{name}.block.2", body[0].out_channels)

    def nothing(self, name, width):
        """An inverted residual that adds zero."""
        self.linear(f"{name}.block.0", torch.zeros(1, width, 1, 1))
        self.linear(f"{name}.block.1", torch.zeros(1, 1, 3, 3))
        self.gate(f"{name}.block.2", 1)
        self.linear(f"{name}.block.3", torch.zeros(width, 1, 1, 1))


def both(weight):
    """Every output with either sign."""
    return torch.cat([weight, -weight])


def unshuffle(channels):
    """The 3x3 convolution of stride 2 that arranges 2x2 pixels as channels: channel c, row i, column j at 4c + 2i + j."""
    weight = torch.zeros(4 * channels, channels, 3, 3)
    for c in range(channels):
        for i in range(2):
            for j in range(2):
                weight[4 * c + 2 * i + j, c, 1 + i, 1 + j] = 1
    return weight


def convert(encoder):
    body, w = encoder.body, Writer()
    # Pixels from -1 to 1 in place of ImageNet's normalised ones, 2x2 of them a channel.
    scale, shift = (2 * STD).repeat_interleave(4), (2 * MEAN - 1).repeat_interleave(4)
    first = unshuffle(3) * scale.view(-1, 1, 1, 1)
    w.linear("backbone.0", both(torch.einsum("oihw,i->oihw", unshuffle(3), 2 * STD)), torch.cat([shift, -shift]))
    assert torch.allclose(first, torch.einsum("oihw,i->oihw", unshuffle(3), 2 * STD))
    w.nothing("backbone.1.0", 24)
    # 4x4 pixels a channel, in the order of PixelUnshuffle(4): channel c, row 2a + i, column 2b + j.
    pair = unshuffle(12)
    order = [4 * (4 * c + 2 * (row % 2) + col % 2) + 2 * (row // 2) + col // 2 for c in range(3) for row in range(4) for col in range(4)]
    pixels = pair[order]
    w.linear("backbone.2.0.block.0", both(torch.cat([pixels, -pixels], 1)))
    eye = torch.eye(48)
    w.linear("backbone.2.0.block.1", torch.cat([eye, -eye], 1)[:, :, None, None])
    w.trained("backbone.2.1.block.0", body[1], body[2])
    w.residual("backbone.2.2", body[4].body)
    for stage, at in ((3, 5), (4, 9), (6, 13)):
        w.trained(f"backbone.{stage}.0.block.0", body[at], body[at + 1])
        w.residual(f"backbone.{stage}.1", body[at + 3].body)
    w.nothing("backbone.5.0", body[9].out_channels)
    last, norm = body[17], body[18]
    w.linear("backbone.7", both(last.weight.data))
    eye = torch.eye(last.out_channels)
    w.tensors["mapper.0.weight"] = torch.cat([eye, -eye], 1)[:, :, None, None]
    w.tensors |= {"mapper.1.running_mean": norm.running_mean, "mapper.1.running_var": norm.running_var}
    return w.tensors


def run(tensors, x):
    """What the runtime computes; x from 0 to 1."""
    t = lambda name: tensors[name].float()

    def conv(x, name, stride=1, silu=True):
        weight = t(f"{name}.0.weight")
        groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] == weight.shape[0] else 1
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        x = nn.functional.batch_norm(x, *(t(f"{name}.1.{n}") for n in ("running_mean", "running_var", "weight", "bias")), eps=EPS_THERE)
        return nn.functional.silu(x) if silu else x

    x = conv((x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1), "backbone.0", 2)
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 1), (6, 2)):
        layer = 0
        while f"backbone.{stage}.{layer}.block.0.0.weight" in tensors:
            name, s = f"backbone.{stage}.{layer}.block", stride if layer == 0 else 1
            if f"{name}.2.fc1.weight" in tensors:
                y = conv(conv(x, f"{name}.0"), f"{name}.1", s)
                gate = nn.functional.conv2d(y.mean((2, 3), keepdim=True), t(f"{name}.2.fc1.weight"), t(f"{name}.2.fc1.bias"))
                gate = nn.functional.conv2d(nn.functional.silu(gate), t(f"{name}.2.fc2.weight"), t(f"{name}.2.fc2.bias")).sigmoid()
                y = conv(y * gate, f"{name}.3", silu=False)
            elif f"{name}.1.0.weight" in tensors:
                y = conv(conv(x, f"{name}.0", s), f"{name}.1", silu=False)
            else:
                y = conv(x, f"{name}.0", s)
            x = x + y if x.shape == y.shape else y
            layer += 1
    x = nn.functional.conv2d(conv(x, "backbone.7"), t("mapper.0.weight"))
    return nn.functional.batch_norm(x, t("mapper.1.running_mean"), t("mapper.1.running_var"), eps=EPS)


@torch.no_grad()
def main():
    pair = nn.ModuleList([Encoder(), Preview()])
    pair.load_state_dict(load("stage_b.pt")["pair"])
    encoder = pair[0].eval()
    tensors = convert(encoder)
    exact = lambda v: torch.equal(v.half().float(), v)  # as the checkpoint has them
    tensors = {k: (v.half() if v.ndim == 4 and exact(v) else v.float()).contiguous() for k, v in tensors.items()}
    x = torch.rand(4, 3, 96, 160)
    got, want = run(tensors, x), encoder(x)
    error = (got - want).norm() / want.norm()
    print(f"{sum(v.numel() * v.element_size() for v in tensors.values()) / 1e6:.2f} MB, relative error {error:.1e}")
    assert error < 1e-5, error
    save_file(tensors, sys.argv[1], metadata={"format": "pt"})


main()
