"""What kernels/*.lzma hold, and kernels/ptx.lock, which says what each file in them was made of.

kernels/ptx.lzma holds the PTX of all kernels, kernels/sm_*.lzma the cubins of one architecture. An archive holds files in the
order of their names, each as a line `NAME BYTES` and so many bytes; it is compressed as `xz --format=lzma` would. A line of
the lock has a file's name, the fingerprint of what it was made of and its own. PTX is made of a kernel's sources, a cubin of PTX.
"""

import lzma
import re

from toolchain import KERNELS

LOCK = KERNELS / "ptx.lock"
HEADER = """# Made by `python3 tools/ptx`: of each PTX in ptx.lzma its name, the fingerprint of its sources without comments and
# white space, and that of its text; of each cubin in sm_*.lzma its name, the fingerprint of its PTX, and its own.
"""
# A dictionary that holds all of an archive finds what a kernel has in common with any other.
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 16 << 20}]

# What separates tokens, literals, and single characters.
GAP = r"//[^\n]*|/\*.*?\*/|\\\n|\s+"
TOKEN = re.compile(rf"""({GAP})|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(.)""", re.S)


def fnv(data):
    """FNV-1a of a text or of bytes, as 16 hexadecimal digits."""
    value = 0xCBF29CE484222325
    for byte in data.encode() if isinstance(data, str) else data:
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


def place(name):
    """The archive that holds a file of the lock, and its name there: `sm_80/add.cubin` is `add.cubin` in kernels/sm_80.lzma."""
    folder, _, own = name.rpartition("/")
    return KERNELS / f"{folder or 'ptx'}.lzma", own


def unpack(archive):
    """The files of an archive by their names; none of what is damaged or not there."""
    files, at = {}, 0
    try:
        data = lzma.decompress(archive.read_bytes(), lzma.FORMAT_ALONE)
        while at < len(data):
            end = data.index(b"\n", at)
            name, length = data[at:end].decode().rsplit(" ", 1)
            at = end + 1 + int(length)
            files[name] = data[end + 1 : at]
    except (OSError, ValueError, lzma.LZMAError):
        return {}
    return files


def pack(files):
    """An archive of these files."""
    data = b"".join(b"%s %d\n%s" % (name.encode(), len(file), file) for name, file in sorted(files.items()))
    return lzma.compress(data, lzma.FORMAT_ALONE, filters=FILTERS)


def read():
    """What each file of the lock was made of, and its bytes, by its name. What is damaged or does not agree is left out, as
    after a merge."""
    lines = LOCK.read_text().splitlines() if LOCK.exists() else []
    locked = [line.split(" ") for line in lines if re.fullmatch(r"\S+ [0-9a-f]{16} [0-9a-f]{16}", line)]
    archives = {archive: unpack(archive) for archive, _ in {place(name) for name, _, _ in locked}}
    found = {}
    for name, of, own in locked:
        archive, inside = place(name)
        data = archives[archive].get(inside)
        if data is not None and fnv(data) == own:
            found[name] = (of, data)
    return found


def write(files):
    """Writes the lock and the archives, from what `read` returns, each only if what it holds changes."""
    lock = HEADER + "".join(f"{name} {of} {fnv(data)}\n" for name, (of, data) in sorted(files.items()))
    if not LOCK.exists() or LOCK.read_text() != lock:
        LOCK.write_text(lock)
    archives = {}
    for name, (_, data) in files.items():
        archive, inside = place(name)
        archives.setdefault(archive, {})[inside] = data
    for archive in KERNELS.glob("*.lzma"):
        if archive not in archives:
            archive.unlink()
    for archive, held in archives.items():
        # Compressed by another version of the library, the same files may have other bytes.
        if unpack(archive) != held:
            archive.write_bytes(pack(held))
