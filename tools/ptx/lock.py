"""kernels/ptx.lzma holds the PTX of all kernels, kernels/ptx.lock says what sources each was made of.

The archive is one text: of each file, in the order of their names, a line `// file NAME` and then what it holds; compressed as
`xz --format=lzma` would. A line of the lock has a PTX file's name, the fingerprint of its sources and that of its text.
"""

import lzma
import re

from toolchain import KERNELS

ARCHIVE = KERNELS / "ptx.lzma"
LOCK = KERNELS / "ptx.lock"
HEADER = """# Made by `python3 tools/ptx`: of each PTX in ptx.lzma its name, the fingerprint of its sources without comments and
# white space, and that of its text.
"""
FILE = "// file "
# A dictionary that holds all of the text finds what a kernel has in common with any other.
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 16 << 20}]

# What separates tokens, literals, and single characters.
GAP = r"//[^\n]*|/\*.*?\*/|\\\n|\s+"
TOKEN = re.compile(rf"""({GAP})|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(.)""", re.S)


def fnv(text):
    """FNV-1a of a text, as 16 hexadecimal digits."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def normalised(text):
    """C++ without comments and without white space that separates no tokens; build/fingerprint.rs says how."""
    out, last, between, directive = [], "", False, False

    def is_word(c):
        return c.isascii() and (c.isalnum() or c == "_")

    for gap, literal, single in TOKEN.findall(text):
        if gap:
            between = True
            if directive and gap.isspace() and "\n" in gap:
                directive = False
                out.append("\n")
                last = "\n"
            continue
        token = literal or single
        if token == "#" and not directive:
            directive = True
            out.append("\n")
        elif between and last and last != "\n" and (directive or is_word(last) == is_word(token[0])):
            out.append(" ")
        between = False
        out.append(token)
        last = token[-1]
    return "".join(out)


def sources(file):
    """The file and all that it includes, each once, in the order of the first mention."""
    seen = []

    def visit(path):
        if path in seen:
            return
        seen.append(path)
        for name in re.findall(r'^#include "([^"]+)"$', path.read_text(), re.M):
            if not name.startswith("host/"):
                visit(KERNELS / name)

    visit(file)
    return seen


def fingerprint(file):
    """Of a kernel's sources; build/fingerprint.rs computes the same."""
    return fnv("".join(normalised(path.read_text()) for path in sources(file)))


def read():
    """Fingerprint of the sources and text of each PTX, by its name. What is damaged or does not agree is left out, as after a merge."""
    try:
        archive = lzma.decompress(ARCHIVE.read_bytes(), lzma.FORMAT_ALONE).decode()
        lines = LOCK.read_text().splitlines()
    except (OSError, ValueError, lzma.LZMAError):
        return {}
    texts = dict(part.split("\n", 1) for part in archive.removeprefix(FILE).split(f"\n{FILE}"))
    locked = [line.split(" ") for line in lines if re.fullmatch(r"\S+ [0-9a-f]{16} [0-9a-f]{16}", line)]
    return {name: (of, texts[name]) for name, of, text in locked if name in texts and fnv(texts[name]) == text}


def write(files):
    """Writes both, from what `read` returns, each only if what it says changes."""
    lock = HEADER + "".join(f"{name} {of} {fnv(text)}\n" for name, (of, text) in sorted(files.items()))
    if not LOCK.exists() or LOCK.read_text() != lock:
        LOCK.write_text(lock)
    # Compressed by another version of the library, the same text may have other bytes.
    if read() != files:
        archive = "\n".join(f"{FILE}{name}\n{text}" for name, (_, text) in sorted(files.items()))
        ARCHIVE.write_bytes(lzma.compress(archive.encode(), lzma.FORMAT_ALONE, filters=FILTERS))
