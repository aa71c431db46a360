"""Tests of what this tool reads, writes and draws. They measure nothing."""

import contextlib
import io
import json
import struct
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

import pictures
import plots
import report

JOB = {"model": "mid", "device": "cpu", "machine": "a CPU", "threads": 2, "date": "2026-01-01", "dtype": "f32",
       "width": 512, "height": 512, "steps": [20, 10], "guidance": [4.0, 0.0], "prompt": "a fox", "seed": 0}


def record(program: str, factor: float, **more) -> dict:
    seconds = {"text": factor, "stage_c": 4 * factor, "stage_b": 3 * factor, "stage_a": 2 * factor}
    return {"program": program, **JOB, "seconds": seconds | {"picture": 10 * factor, "load": factor, "process": 12 * factor},
            "warm": True, "cpu": 20 * factor, "peak_bytes": int(factor * 2**30), **more}


RECORDS = [record("diffusers", 9.0, warm=False), record("diffusers", 2.0), record("diffusers", 3.0),
           *(record(report.OURS, 1.0, beside="diffusers", relative_l2={"stage_c": 1e-6, "image": 2e-6}) for _ in range(2))]


def printed(function, *arguments) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function(*arguments)
    return out.getvalue()


def safetensors(file: Path, **values) -> None:
    header, data = {}, b""
    for name, numbers in values.items():
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Compare(unittest.TestCase):
    def test_cold_pictures_do_not_count(self):
        text = printed(report.pictures, RECORDS)
        self.assertIn("| picture | 25.00 (20.00 to 30.00) | 10.00 (10.00 to 10.00) |", text)
        self.assertIn("| process start to first picture | 36.00 (24.00 to 108.00) | 12.00", text)
        self.assertIn("picture 2.50 (2.00 to 3.00), start to first picture 3.0, memory 9.0", text)
        self.assertIn("image 2.0e-06", text)

    def test_kernels_are_listed(self):
        line = {"name": "linear", "dtype": "f32", "median_ms": 2.0}
        text = printed(report.kernels, [{"program": report.OURS, **line}, {"program": "torch", **line, "median_ms": 3.0}])
        self.assertIn("| linear | f32 | 2.000 (2.000 to 2.000) | 3.000 (3.000 to 3.000) | 1.50 (1.50 to 1.50) |", text)

    def test_results_are_compared(self):
        with tempfile.TemporaryDirectory() as folder:
            a, b = Path(folder) / "a", Path(folder) / "b"
            safetensors(a, stage_c=[1.0, 2.0], stage_b=[1.0], image=[3.0, 4.0])
            safetensors(b, stage_c=[1.0, 2.0], stage_b=[float("nan")], image=[3.0, 3.0])
            errors = pictures.relative_l2(b, a)
        self.assertEqual(errors, {"stage_c": 0.0, "stage_b": float("inf"), "image": 0.2})

    def test_plots_are_drawn(self):
        def cell(side: int) -> dict:
            seconds = {name: {"min": side / 100} for name in (*report.STAGES, "picture")}
            return {"width": side, "height": side, "count": 1, "steps": [20, 10], "seconds": seconds}

        bench = {"model": "mid", "device": "a CPU", "runs": 3, "results": [cell(512), cell(1024)]}
        for svg, word in ((plots.latency(RECORDS), "Stage B: 7.50 s"), (plots.area([bench]), "1024×1024")):
            text = "\n".join([*svg.parts, "</svg>"])
            xml.etree.ElementTree.fromstring(text)
            self.assertIn(word, text)

    def test_sizes_that_diffusers_cannot_make(self):
        pictures.check_size(512, 1024)
        for width, height in ((520, 512), (64, 64)):
            with self.assertRaises(SystemExit):
                pictures.check_size(width, height)


if __name__ == "__main__":
    unittest.main()
