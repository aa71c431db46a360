"""Writes tests/fixtures/pictures.safetensors: 70 odd picture files, and what Pillow makes of each.

`NAME.file`: the file. `NAME.rgb` [h, w, 3]: turned as EXIF says, converted to RGB. `NAME.bicubic` [20, 20, 3]: resized so that
the short side is 20, cropped in the middle, as CLIP's processor does it. `NAME.bilinear` [h, w, 3]: resized to another size.
"""

import io
import struct
import zlib
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


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(h, w, depth, colour_type, rows, interlace=0):
    """A PNG of kinds that Pillow does not write: rows of bytes without filters."""
    header = struct.pack(">IIBBBBB", w, h, depth, colour_type, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def sixteen_bits(rng, h, w, colour_type):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    return png(h, w, 16, colour_type, [row.tobytes() for row in rng.integers(0, 65536, (h, w, channels)).astype(">u2")])


def packed(rng, h, w, bits):
    """Greys of less than 8 bits."""
    values = rng.integers(0, 2**bits, (h, w)).astype(np.uint8)
    as_bits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - bits:].reshape(h, w * bits)
    return png(h, w, bits, 0, [row.tobytes() for row in np.packbits(as_bits, axis=1)])


def interlaced(rng, h, w, colour_type, channels):
    values = noise(rng, h, w, channels)
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row.tobytes() for top, left, down, right in passes for row in values[top::down, left::right]]
    return png(h, w, 8, colour_type, [row for row in rows if row], interlace=1)


def gamma(file):
    """The same file, which says that its values are linear; Pillow takes no notice."""
    return file[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + file[33:]


def srgb():
    """A colour profile, without the date on which it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


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
    yield "png_icc", saved(rgb(18, 27), "PNG", icc_profile=srgb())
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
    for h, w in [(11, 14), (24, 9)]:
        yield f"png_16_bits_grey_{h}x{w}", sixteen_bits(rng, h, w, 0)
    for bits in (1, 2, 4):
        yield f"png_grey_{bits}_bits", packed(rng, 13, 19, bits)
    for colour_type, channels in [(0, 1), (2, 3), (6, 4)]:
        yield f"png_interlaced_{channels}", interlaced(rng, 13, 21, colour_type, channels)
    yield "png_palette_transparency_16", saved(rgb(17, 17).quantize(16), "PNG", transparency=bytes(range(0, 256, 16)))
    yield "png_gamma", gamma(saved(rgb(12, 15), "PNG"))
    yield "png_animated", saved(rgb(14, 15), "PNG", save_all=True, append_images=[rgb(14, 15)])
    yield "webp_animated_lossy", saved(smooth(30, 20), "WEBP", save_all=True, append_images=[smooth(30, 20)], quality=90)
    yield "webp_alpha_lossy", saved(smooth(26, 31).convert("RGBA"), "WEBP", quality=85)
    yield "jpeg_cmyk", saved(smooth(28, 33).convert("CMYK"), "JPEG", quality=92)
    yield "jpeg_422", saved(smooth(29, 35), "JPEG", quality=92, subsampling=1)
    yield "jpeg_restart", saved(smooth(40, 40), "JPEG", quality=92, subsampling=0, restart_marker_rows=1)
    yield "jpeg_icc", saved(smooth(20, 31), "JPEG", quality=92, subsampling=0, icc_profile=srgb())
    yield "jpeg_grey_orientation", saved(smooth(18, 25).convert("L"), "JPEG", quality=92, exif=exif(5))
    yield "jpeg_one_pixel", saved(smooth(1, 1), "JPEG", quality=92)
    yield "jpeg_progressive_420", saved(smooth(31, 23), "JPEG", quality=88, progressive=True)


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
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
        if picture.mode.startswith("I;16"):
            # Pillow would clip these to 255, while it takes the upper 8 of the 16 bits of colours.
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        picture = picture.convert("RGB")
        tensors[f"{name}.file"] = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        tensors[f"{name}.rgb"] = as_tensor(picture)
        tensors[f"{name}.bicubic"] = as_tensor(clip_size(picture))
        tensors[f"{name}.bilinear"] = as_tensor(picture.resize((17, 9), Image.BILINEAR))
    count = len(tensors) // 4
    assert count >= 50, count
    save_file(tensors, fixtures / "pictures.safetensors")
