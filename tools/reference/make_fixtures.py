"""Writes tests/fixtures with diffusers. Usage: python tools/reference/make_fixtures.py [FOLDER]"""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)  # makes the order of summation deterministic

import diffusers.utils.logging
import transformers.utils.logging

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

import control_cases
import encoder_cases
import network_cases
import picture_cases
import pipeline_cases
import tiny_model
import tokenizer_cases
import tokenizer_folders


def main() -> None:
    default = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
    fixtures = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    tiny_model.save(tiny_model.build(), fixtures)
    tokenizer_cases.write(fixtures)
    tokenizer_folders.write(fixtures)
    pipeline_cases.write(fixtures)
    network_cases.write(fixtures)
    picture_cases.write(fixtures)
    encoder_cases.write(fixtures)
    control_cases.write(fixtures)
    total = 0
    for path in sorted(p for p in fixtures.rglob("*") if p.is_file()):
        total += path.stat().st_size
        print(f"{path.stat().st_size:>9,}  {path.relative_to(fixtures)}")
    print(f"{total:>9,}  total")


if __name__ == "__main__":
    main()
