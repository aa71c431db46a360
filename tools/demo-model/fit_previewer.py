"""Fit the demo model's previewer: a linear map from each pixel of a Stage C latent to a patch of the picture.

usage: fit_previewer.py FOLDER

Least squares on the training pictures and the latents that the trained encoder makes of them, in closed form. Latents while
they are sampled are less exact than these, so the fit sees them with some noise, which makes it prefer colours to detail.
"""

import os
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common import load, path
from nets import Encoder, GRID_C, LATENT_C, Preview
from train_encoder import small_pictures

PATCH = 8  # side of the patch in pixels of the preview
NOISE = 0.15  # standard deviation, beside latents of variance 1


@torch.no_grad()
def pairs():
    """Latents [n, 16] of single pixels, and the patches [n, 3·PATCH²] of the pictures there."""
    both = torch.nn.ModuleList([Encoder(), Preview()])
    both.load_state_dict(load("stage_b.pt")["pair"])
    encoder = both[0].eval()
    latents, patches = [], []
    for pictures in small_pictures()[torch.load(path("data.pt"), mmap=True)["rows"][:, 2] == 0].split(256):
        x = pictures.float() / 255
        latents.append(encoder(x).permute(0, 2, 3, 1).reshape(-1, LATENT_C))
        small = F.interpolate(x, size=(GRID_C * PATCH,) * 2, mode="area")
        patches.append(F.pixel_unshuffle(small, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2))
    return torch.cat(latents).double(), torch.cat(patches).double()


def fit(latents, patches):
    """Weight [3·PATCH², 16] and bias."""
    mean, target = latents.mean(0), patches.mean(0)
    z, y = latents - mean, patches - target
    weight = torch.linalg.solve(z.T @ z / len(z) + NOISE**2 * torch.eye(LATENT_C), z.T @ y / len(z)).T
    return weight, target - weight @ mean


def main():
    torch.manual_seed(0)
    latents, patches = pairs()
    weight, bias = fit(latents, patches)
    error = (latents @ weight.T + bias - patches).square().mean()
    print(f"{len(latents)} pixels, PSNR {-10 * error.log10().item():.1f} dB; of the mean colour alone "
          f"{-10 * (patches - patches.mean(0)).square().mean().log10().item():.1f} dB")
    os.makedirs(sys.argv[1], exist_ok=True)
    file = os.path.join(sys.argv[1], "diffusion_pytorch_model.safetensors")
    save_file({"rgb.weight": weight.float()[:, :, None, None].contiguous(), "rgb.bias": bias.float()}, file)


if __name__ == "__main__":
    main()
