"""Intermediate results that the program and diffusers write as safetensors, and how far they are apart."""

import array
import json
import math


def tensors(file) -> dict:
    """The f32 tensors of a safetensors file."""
    with open(file, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        start, found = stream.tell(), {}
        for name, about in header.items():
            if name != "__metadata__" and about["dtype"] == "F32":
                begin, end = about["data_offsets"]
                stream.seek(start + begin)
                found[name] = array.array("f", stream.read(end - begin))
    return found


def relative_l2(got, want) -> float:
    difference = math.fsum((a - b) ** 2 for a, b in zip(got, want))
    return math.sqrt(difference / math.fsum(b * b for b in want)) if len(got) == len(want) else math.inf
