"""Writes tests/fixtures/tokenizers.json: what `transformers` makes of many texts, from tokenizer folders with every combination of files.

{"vocab", "merges", "positions", "texts", "folders": [{"name", "files", "pad", "ids"}]}. In "files", the strings "@vocab", "@merges" and
"@pairs" stand for the vocabulary and the merges. "ids" are those before the padding; of all folders but the first, only those that
differ from the first folder's. Run it as `python tokenizer_folders.py FIXTURES`, or through make_fixtures.py.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

from tokenizer_cases import STRINGS
from vocabulary import BOS, EOS, byte_symbols

MERGES = 400
POSITIONS = 24
TEXTS = 1000


def added(content: str, **flags) -> dict:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **usual, **flags}


def old(content: str) -> dict:
    """A special token in the form that tokenizer_config.json had in transformers 4."""
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def folders(bos: int, eos: int) -> dict[str, dict]:
    """Contents of the files of each folder, by its name."""
    two = {"vocab.json": "@vocab", "merges.txt": "@merges"}
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    both = [{"id": bos, **added(BOS)}, {"id": eos, **added(EOS)}]
    own = [{"id": 2000, **added("<fox>", lstrip=True, special=False)}, {"id": 2001, **added("Snow Owl", normalized=True, special=False)}]
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": both, "normalizer": None, "pre_tokenizer": None,
             "post_processor": None, "decoder": None,
             "model": {"type": "BPE", "dropout": None, "unk_token": EOS, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
                       "fuse_unk": False, "byte_fallback": False, "vocab": "@vocab", "merges": "@pairs"}}
    lines = {**whole, "model": {**whole["model"], "merges": "@lines"}}
    padding = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    decoder = {str(bos): added(BOS), str(eos): added(EOS), "3000": added("red", single_word=True, special=False),
               "2999": added("<cat>", rstrip=True)}
    return {
        "two files": two,
        "config": {**two, "tokenizer_config.json": {**roles, "model_max_length": 77, "do_lower_case": True}},
        "config of transformers 4": {**two, "tokenizer_config.json": {role: old(token) for role, token in roles.items()}},
        "config with roles of other tokens": {**two, "tokenizer_config.json": {"pad_token": "!", "bos_token": "a</w>"}},
        "map": {**two, "special_tokens_map.json": {**roles, "pad_token": "!"}},
        "map before config": {**two, "tokenizer_config.json": {**roles, "pad_token": "\""},
                              "special_tokens_map.json": {**roles, "pad_token": "!"}},
        "map of objects": {**two, "special_tokens_map.json": {
            "bos_token": added(BOS, lstrip=True), "eos_token": added(EOS, rstrip=True, normalized=True), "pad_token": "!"}},
        "added": {**two, "added_tokens.json": {BOS: bos, EOS: eos, "<Dog>": 5000, "Blue": 4000}},
        "added, named by the config": {**two, "tokenizer_config.json": roles, "added_tokens.json": {BOS: bos, EOS: eos, "Blue": 1}},
        "added, named by the map": {**two, "special_tokens_map.json": {**roles, "additional_special_tokens": ["<a>", "<B>"]},
                                    "added_tokens.json": {"<B>": 7, "<c>": 6}},
        "decoder": {**two, "tokenizer_config.json": {**roles, "added_tokens_decoder": decoder},
                    "special_tokens_map.json": {**roles, "pad_token": "!"}, "added_tokens.json": {"<Dog>": 5000}},
        "more special tokens": {**two, "tokenizer_config.json": {**roles, "additional_special_tokens": ["<a>", "Red Fox"],
                                                                 "image_token": "<image>", "mask_token": "<mask>"}},
        "special tokens are split": {**two, "tokenizer_config.json": {**roles, "split_special_tokens": True}},
        "whole": {"tokenizer.json": whole},
        "whole with lines": {"tokenizer.json": lines},
        "whole without added tokens": {"tokenizer.json": {**whole, "added_tokens": []}},
        "whole with more tokens": {"tokenizer.json": {**whole, "added_tokens": both + own}},
        "whole with config and map": {"tokenizer.json": {**whole, "added_tokens": both + own}, "tokenizer_config.json": roles,
                                      "special_tokens_map.json": {**roles, "pad_token": "!"}, "added_tokens.json": {"<Dog>": 5000}},
        "whole with decoder": {"tokenizer.json": {**whole, "added_tokens": both + own},
                               "tokenizer_config.json": {**roles, "added_tokens_decoder": decoder}},
        "whole with another pipeline": {"tokenizer.json": {
            **whole, "normalizer": {"type": "Lowercase"}, "padding": padding, "truncation": truncation,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}},
        "whole before two files": {"tokenizer.json": whole, "vocab.json": {"a": 0, BOS: 1, EOS: 2}, "merges.txt": "#version: 0.2\n"},
        "whole beside a config": {"tokenizer.json": whole, "tokenizer_config.json": {"pad_token": "!", "tokenizer_class": "CLIPTokenizer"}},
    }


def texts() -> list[str]:
    """Those that are hard to tokenise, and random ones of pieces that the folders treat differently."""
    rng = random.Random(2024)
    pieces = [BOS, EOS, BOS.upper(), "<|EndOfText|>", "<fox>", "<FOX>", "Snow Owl", "snow owl", "<cat>", "red", "Red", "Blue", "blue", "<Dog>",
              "<dog>", "<a>", "<B>", "<b>", "<c>", "Red Fox", "<image>", "<mask>", "a", "a</w>", "!", "!!", "\"", "the", "in an", "don't",
              "'s", "33", "\u00e9", "e\u0301", "\u65e5\u672c", "\U0001f600", "\u00a0", "\t", "\n", "_", "I\u0307", "\u00df", "#", "and"]
    all = list(STRINGS)
    while len(all) < TEXTS:
        separators = rng.choice([["", " "], [" "], ["  ", " ", "\n"], [""]])
        text = "".join(rng.choice(pieces) + rng.choice(separators) for _ in range(rng.randint(1, 7)))
        if rng.random() < 0.3:
            text += "".join(chr(rng.choice([rng.randint(32, 126), rng.randint(160, 0x2FFF), rng.randint(0x1F300, 0x1F6FF)])) for _ in range(4))
        if text not in all:
            all.append(text)
    return all


def write(fixtures: Path) -> None:
    merges = (fixtures / "tiny" / "tokenizer" / "merges.txt").read_text(encoding="utf-8").split("\n")[1 : 1 + MERGES]
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges] + [BOS, EOS]
    vocab = {token: i for i, token in enumerate(tokens)}
    stands_for = {"@vocab": vocab, "@merges": "#version: 0.2\n" + "\n".join(merges) + "\n", "@lines": merges,
                  "@pairs": [m.split(" ") for m in merges]}

    def full(value):
        if isinstance(value, dict):
            return {key: full(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [full(inner) for inner in value]
        return stands_for.get(value, value) if isinstance(value, str) else value

    all, first = texts(), None
    rows = []
    for name, files in folders(vocab[BOS], vocab[EOS]).items():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                content = full(content)
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                (Path(folder) / file).write_text(text, encoding="utf-8")
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            out = [tokenizer(text, padding="max_length", max_length=POSITIONS, truncation=True) for text in all]
        ids = [row.input_ids[: sum(row.attention_mask)] for row in out]
        assert all_padded(out, tokenizer.pad_token_id)
        first = first or ids
        differing = {str(i): got for i, got in enumerate(ids) if first is ids or got != first[i]}
        rows.append({"name": name, "files": files, "pad": tokenizer.pad_token_id, "ids": differing})
        print(f"{name}: pad {tokenizer.pad_token_id}, {len(differing)} texts")
    head = {"vocab": vocab, "merges": merges, "positions": POSITIONS, "texts": all}
    dump = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    parts = [f"{dump(key)}:{dump(value)}" for key, value in head.items()]
    parts.append('"folders":[\n' + ",\n".join(map(dump, rows)) + "\n]")
    (fixtures / "tokenizers.json").write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


def all_padded(out, pad: int) -> bool:
    return all(set(row.input_ids[sum(row.attention_mask) :]) <= {pad} for row in out)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
