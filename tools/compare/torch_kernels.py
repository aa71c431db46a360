"""Times the operations that dominate Stable Cascade, in PyTorch on the CPU, as diffusers runs them.

Prints one line of JSON per operation and dtype: name, dtype, shape, median_ms, min_ms, gflops, gbps. kernels.py compares
it with other programs that print lines with the same names.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_stable_cascade import GlobalResponseNorm, SDCascadeLayerNorm

STAGE_C, STAGE_B = [2, 24, 24, 2048], [1, 128, 128, 320]  # [n, h, w, c] of a 1024x1024 image, Stage C guided


def linear(m, k, n, dtype):
    x, w, b = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype) / k**0.5, torch.randn(n, dtype=dtype)
    return lambda: F.linear(x, w, b), 2 * m * k * n, m * k + n * k + n + m * n


def attention(tokens, context, heads, dim, dtype):
    q = torch.randn(1, heads, tokens, dim, dtype=dtype)
    k, v = (torch.randn(1, heads, tokens + context, dim, dtype=dtype) for _ in range(2))
    flops = 4 * heads * tokens * (tokens + context) * dim
    return lambda: F.scaled_dot_product_attention(q, k, v), flops, 2 * q.numel() + 2 * k.numel()


def nchw(shape, dtype):
    n, h, w, c = shape
    return torch.randn(n, c, h, w, dtype=dtype)


def depthwise_norm(shape, dtype):
    """The beginning of a residual block: NCHW convolution, permute, layer norm, permute back."""
    c, x = shape[-1], nchw(shape, dtype)
    conv = torch.nn.Conv2d(c, c, 3, padding=1, groups=c).to(dtype)
    norm = SDCascadeLayerNorm(c, elementwise_affine=False, eps=1e-6)
    return lambda: norm(conv(x)), (18 + 8) * x.numel(), 2 * x.numel()


def layer_norm(shape, dtype):
    x, norm = nchw(shape, dtype), SDCascadeLayerNorm(shape[-1], elementwise_affine=False, eps=1e-6)
    return lambda: norm(x), 8 * x.numel(), 2 * x.numel()


def grn(shape, dtype):
    x, norm = torch.randn(shape, dtype=dtype), GlobalResponseNorm(shape[-1]).to(dtype)
    torch.nn.init.normal_(norm.gamma)
    return lambda: norm(x), 6 * x.numel(), 2 * x.numel()


def wider(shape):
    return shape[:3] + [4 * shape[3]]


# name -> (shape as printed, function that returns (call, FLOPs, values read or written))
OPERATIONS = {
    "linear_576x2048x2048": ([576, 2048, 2048], lambda d: linear(576, 2048, 2048, d)),
    "linear_1024x1280x5120": ([1024, 1280, 5120], lambda d: linear(1024, 1280, 5120, d)),
    "linear_1024x5120x1280": ([1024, 5120, 1280], lambda d: linear(1024, 5120, 1280, d)),
    "attention_576+85x32x64": ([576, 85, 32, 64], lambda d: attention(576, 85, 32, 64, d)),
    "attention_1024+4x20x64": ([1024, 4, 20, 64], lambda d: attention(1024, 4, 20, 64, d)),
    "depthwise_norm_2x24x24x2048": (STAGE_C, lambda d: depthwise_norm(STAGE_C, d)),
    "depthwise_norm_1x128x128x320": (STAGE_B, lambda d: depthwise_norm(STAGE_B, d)),
    "layer_norm_2x24x24x2048": (STAGE_C, lambda d: layer_norm(STAGE_C, d)),
    "layer_norm_1x128x128x320": (STAGE_B, lambda d: layer_norm(STAGE_B, d)),
    "grn_2x24x24x8192": (wider(STAGE_C), lambda d: grn(wider(STAGE_C), d)),
    "grn_1x128x128x1280": (wider(STAGE_B), lambda d: grn(wider(STAGE_B), d)),
}


def milliseconds(call, seconds: float) -> list[float]:
    for _ in range(3):
        call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["f32", "bf16"], nargs="+", default=["f32", "bf16"])
    parser.add_argument("--only", default="", help="only operations whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.0, help="time per operation")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for dtype in options.dtype:
        for name, (shape, make) in OPERATIONS.items():
            if options.only not in name:
                continue
            tensor_dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
            call, flops, values = make(tensor_dtype)
            times = milliseconds(call, options.seconds)
            median, fastest = statistics.median(times), min(times)
            print(json.dumps({
                "name": name, "dtype": dtype, "shape": shape,
                "median_ms": round(median, 4), "min_ms": round(fastest, 4),
                "gflops": round(flops / median / 1e6, 1),
                "gbps": round(values * tensor_dtype.itemsize / median / 1e6, 2),
            }), flush=True)


if __name__ == "__main__":
    main()
