"""SwiftShader, a second driver: subgroups of 4, 256 invocations at most, no f16, NaN where WGSL allows it."""

import pathlib
import re
import struct
import subprocess
import tempfile
import zlib

from packages import LeftOut, built, environment, program, run, swiftshader


def kernels(env, quick):
    """Runs the shaders of tests/kernels.rs on the only driver that `env` leaves; what they print."""
    more = {"CASCADE_QUICK": "1"} if quick else {}
    env = environment(**env, **more, CASCADE_LANG="wgsl")
    command = [built("--test", "kernels"), "every_kernel", "--nocapture"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, cwd=pathlib.Path(__file__).parent.parent.parent)


def wrong(done):
    """Lines of a run that name what differs; all that it said at its end if it failed for another reason."""
    if done.returncode == 0:
        return []
    lines = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if re.search(r"allowed \de|it panicked", line)]
    return lines or [(done.stdout + done.stderr)[-2000:]]


def ran(done):
    return (re.findall(r"^(\d+) kernel cases", done.stdout, re.M) or ["no"])[-1]


def pixels(file):
    """Bytes of a PNG of three channels, its filters undone."""
    data, at, packed = file.read_bytes(), 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    lines, size, rows = zlib.decompress(packed), 3 * width, [bytes(3 * width)]
    for y in range(height):
        filter, line = lines[y * (size + 1)], bytearray(lines[y * (size + 1) + 1 : (y + 1) * (size + 1)])
        for x in range(size):
            a, b, c = line[x - 3] if x >= 3 else 0, rows[-1][x], rows[-1][x - 3] if x >= 3 else 0
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            line[x] = (line[x] + [0, a, b, (a + b) // 2, nearest][filter]) & 255
        rows.append(bytes(line))
    return b"".join(rows[1:])


def picture(env):
    """Faults of a picture that the driver makes, beside the CPU's."""
    with tempfile.TemporaryDirectory() as folder:
        files = {device: pathlib.Path(folder) / f"{device}.png" for device in ["cpu", "wgpu"]}
        for device, file in files.items():
            run(program(), "generate", "a red apple", "-s", "5", "--device", device, "-o", file, env=env)
        a, b = map(pixels, files.values())
    far = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return [f"a picture differs from the CPU's by {max(far)} of 255"] if max(far) > 1 else []


def check(options):
    env = swiftshader()
    devices = run(program(), "devices", env=environment(**env))
    if "SwiftShader" not in devices:
        raise LeftOut(f"SwiftShader does not answer: {devices}")
    done = kernels(env, options.short)
    faults = wrong(done) + ([] if options.short else picture({**environment(**env), "CASCADE_MODEL": "demo"}))
    return faults, f"{ran(done)} kernel cases" + ("" if options.short else ", one picture")
