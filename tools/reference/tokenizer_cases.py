"""Writes tests/fixtures/tokens.json, strings that are difficult to tokenise: [{"text", "ids" (77), "length" (BOS to EOS)}]."""

import json
from pathlib import Path

from transformers import CLIPTokenizer

STRINGS = [
    "",
    " ",
    "an image of a shiba inu, donning a spacesuit and helmet",
    "A PHOTO of İstanbul, STRASSE and ΣΊΣΥΦΟΣ",
    "  spaces\t\ttabs\n\nlines\r\n and\u00a0\u2003\u3000wide ones  ",
    "don't we'll I'm you've they're she'd it's rock'n'roll 'tis",
    "DON'T YOU'LL",
    "it\u2019s a typographic apostrophe",
    "2024-01-31 v1.0 3.14159 1e-6 ²³ ½ Ⅷ ٤٢",
    "東京の夜景、雨。新宿",
    "한국어 프롬프트",
    "красная лиса в снегу",
    "रंगीन मोर",
    "لوحة زيتية",
    "😀 👩‍👩‍👧 🏳️‍🌈 ❤️ astronaut🚀",
    "cafe\u0301 and café, A\u030angstro\u0308m, o\u0302\u0323",
    "ﬁligree ﬂower ＦＵＬＬＷＩＤＴＨ №5",
    "a <|endoftext|> literal",
    "<|startoftext|>double start<|endoftext|>",
    "<|EndOfText|> in other case",
    "!!! ??? ... --- ((emphasis:1.3)) [tag] {a|b}",
    "C++ & C# / 50% @home #tag $5 ^_^ ~ `code` \\path\\to",
    "&amp; &lt;b&gt; html",
    "zero\u200bwidth\u200djoiner\ufeffmark soft\u00adhyphen",
    "control\u0000\u0001\u001f chars\u007f",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "x" * 200,
    " ".join(f"word{n}" for n in range(300)),
    "a " * 75 + "end",
    "a " * 74 + "end",
    "\U0001d4d0\U0001d4fb\U0001d4fd mathematical letters \U00010400\U00010428",
]


def write(fixtures: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(fixtures / "tiny" / "tokenizer")
    rows = []
    for text in STRINGS:
        out = tokenizer(text, padding="max_length", max_length=77, truncation=True)
        row = {"text": text, "length": sum(out.attention_mask), "ids": out.input_ids}
        rows.append(json.dumps(row, separators=(",", ":")))
    shiba = [49406, 550, 2867, 539, 320, 823, 1792, 512, 340, 267, 1067, 762, 320, 7857, 3940, 537, 11122, 49407]
    assert tokenizer(STRINGS[2]).input_ids == shiba
    (fixtures / "tokens.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
