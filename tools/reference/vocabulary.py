"""The real CLIP vocabulary (49,408 tokens), rebuilt from the list of merges in open_clip_torch."""

import gzip
import importlib.util
import json
from pathlib import Path

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2


def read_merges() -> list[str]:
    package = importlib.util.find_spec("open_clip").submodule_search_locations[0]  # importing it would need its dependencies
    lines = gzip.open(Path(package) / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    return lines[1 : 1 + MERGES]  # line 0 is a version header


def byte_symbols() -> list[str]:
    """The symbol of each byte: printable bytes are represented by themselves, others by code points from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def build_vocabulary(merges: list[str]) -> dict[str, int]:
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges] + [BOS, EOS]
    assert len(tokens) == len(set(tokens)) == 49408
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder: Path) -> None:
    """Writes vocab.json, merges.txt and the two small configuration files, as in the published tokenizer folders."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = read_merges()
    vocabulary = json.dumps(build_vocabulary(merges), ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json",
               {**special, "do_lower_case": True, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


def write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
