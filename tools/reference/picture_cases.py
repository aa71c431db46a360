"""Writes tests/fixtures/pictures.safetensors: 50 odd picture files, and what Pillow makes of each.

`NAME.file`: the file. `NAME.rgb` [h, w, 3]: turned as EXIF says, converted to RGB. `NAME.bicubic` [20, 20, 3]: resized so that
the short side is 20, cropped in the middle, as CLIP's processor does it. `NAME.bilinear` [h, w, 3]: resized to another size.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from safetensors.torch import save_file

SIDE = 20


def noise(rng, h, w, c):
    """Noise upon waves, so that both edges and plain parts occur."""
    y, x = np.mgrid[0:h, 0:w]
    waves = [np.sin(x / rng.uniform(1, 6) + y / rng.uniform(1, 6) + k) for k in range(c)]
    return np.clip(np.stack(waves, 2) * 90 + 128 + rng.normal(0, 25, (h, w, c)), 0, 255).astype(np.uint8)


def saved(picture, format, **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def sixteen_bits(rng, h, w, colour_type):
    """A PNG with 16 bits a channel, which Pillow writes only for greys."""
    import struct, zlib
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    values = rng.integers(0, 65536, (h, w, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def files():
    rng = np.random.default_rng(7)
    rgb = lambda h, w: Image.fromarray(noise(rng, h, w, 3))
    rgba = lambda h, w: Image.fromarray(noise(rng, h, w, 4), "RGBA")
    grey = lambda h, w: Image.fromarray(noise(rng, h, w, 1)[:, :, 0])
    for h, w in [(1, 1), (1, 33), (40, 1), (20, 20), (19, 21), (7, 5), (64, 3), (31, 47), (50, 20), (23, 23)]:
        yield f"png_rgb_{h}x{w}", saved(rgb(h, w), "PNG")
    for h, w in [(12, 17), (30, 30)]:
        yield f"png_rgba_{h}x{w}", saved(rgba(h, w), "PNG")
        yield f"png_grey_{h}x{w}", saved(grey(h, w), "PNG")
        yield f"png_grey_alpha_{h}x{w}", saved(rgba(h, w).convert("LA"), "PNG")
        yield f"png_bits_{h}x{w}", saved(grey(h, w).convert("1"), "PNG")
        for colours in (2, 4, 16, 200):
            yield f"png_palette_{colours}_{h}x{w}", saved(rgb(h, w).quantize(colours), "PNG")
    yield "png_palette_transparent", saved(rgb(21, 14).quantize(9), "PNG", transparency=3)
    yield "png_grey_transparent", saved(grey(13, 29), "PNG", transparency=77)
    yield "png_rgb_transparent", saved(rgb(13, 22), "PNG", transparency=(1, 2, 3))
    yield "png_icc", saved(rgb(18, 27), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for colour_type, name in [(2, "rgb"), (6, "rgba"), (4, "grey_alpha")]:
        yield f"png_16_bits_{name}", sixteen_bits(rng, 15, 19, colour_type)
    for orientation in range(1, 9):
        yield f"png_orientation_{orientation}", saved(rgb(16, 27), "PNG", exif=exif(orientation))
    yield "webp_lossless", saved(rgb(25, 36), "WEBP", lossless=True)
    yield "webp_lossless_alpha", saved(rgba(22, 22), "WEBP", lossless=True, exact=True)
    yield "webp_orientation", saved(rgb(16, 27), "WEBP", lossless=True, exif=exif(6))
    smooth = lambda h, w: Image.fromarray(noise(rng, 6, 6, 3)).resize((w, h), Image.BICUBIC)
    yield "webp_lossy", saved(smooth(32, 41), "WEBP", quality=80)
    yield "jpeg_444", saved(smooth(33, 40), "JPEG", quality=92, subsampling=0)
    yield "jpeg_420", saved(smooth(33, 40), "JPEG", quality=92)
    yield "jpeg_grey", saved(smooth(24, 24).convert("L"), "JPEG", quality=90)
    yield "jpeg_progressive", saved(smooth(30, 22), "JPEG", quality=90, subsampling=0, progressive=True)
    yield "jpeg_orientation", saved(smooth(17, 30), "JPEG", quality=95, subsampling=0, exif=exif(8))


def clip_size(picture):
    """Short side SIDE, the other one rounded down; then the middle."""
    w, h = picture.size
    short, long = min(w, h), max(w, h)
    other = int(SIDE * long / short)
    w, h = (SIDE, other) if w <= h else (other, SIDE)
    left, top = (w - SIDE) // 2, (h - SIDE) // 2
    return picture.resize((w, h), Image.BICUBIC).crop((left, top, left + SIDE, top + SIDE))


def write(fixtures: Path) -> None:
    tensors = {}
    as_tensor = lambda picture: torch.from_numpy(np.asarray(picture).copy())
    for name, file in files():
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
        tensors[f"{name}.file"] = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        tensors[f"{name}.rgb"] = as_tensor(picture)
        tensors[f"{name}.bicubic"] = as_tensor(clip_size(picture))
        tensors[f"{name}.bilinear"] = as_tensor(picture.resize((17, 9), Image.BILINEAR))
    count = len(tensors) // 4
    assert count >= 50, count
    save_file(tensors, fixtures / "pictures.safetensors")
