"""Tools that others made, unpacked below target/shader-check. Nothing is installed, and no rights are needed."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target" / "shader-check"
DEBS = WORK / "debian"
LIBRARIES = DEBS / "usr/lib/x86_64-linux-gnu"
WEBGPU = "0.6.2"


class LeftOut(Exception):
    """Why a check cannot be made here."""


def run(*command, **options):
    """What a command prints; an error with all that it said if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", **options)
    if done.returncode != 0:
        raise LeftOut(f"`{' '.join(map(str, command[:3]))} …` failed: {(done.stdout + done.stderr).strip()[-2000:]}")
    return done.stdout


def debian(name, release=None):
    """Unpacks a package of Debian, of its backports if `release` names them and they have it. The package's version."""
    version = DEBS / "versions" / name
    if version.exists():
        return version.read_text()
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise LeftOut(f"{name} is a package of Debian, and there is no apt-get here")
    apt = WORK / "apt"
    for folder in ["lists/partial", "cache/archives/partial", "sources", "debs"]:
        (apt / folder).mkdir(parents=True, exist_ok=True)
    options = [f"Dir::State::Lists={apt}/lists", f"Dir::Cache={apt}/cache", f"Dir::Etc::SourceParts={apt}/sources", "APT::Sandbox::User=root"]
    options = [word for option in options for word in ("-o", option)]
    if not list((apt / "lists").glob("*Packages*")):
        sources(apt / "sources")
        run("apt-get", *options, "update", "-q")
    folder = apt / "debs" / name
    folder.mkdir(exist_ok=True)
    for wanted in [*([f"{name}/{release}"] if release else []), name]:
        try:
            run("apt-get", *options, "download", "-q", wanted, cwd=folder)
            break
        except LeftOut as why:
            failed = why
    else:
        raise failed
    (deb,) = folder.glob("*.deb")
    run("dpkg", "-x", deb, DEBS)
    version.parent.mkdir(exist_ok=True)
    version.write_text(run("dpkg-deb", "-f", deb, "Version").strip())
    deb.unlink()
    return version.read_text()


def sources(folder):
    """This machine's own package sources, and where they are Debian's, the backports from the same place."""
    for file in pathlib.Path("/etc/apt/sources.list.d").glob("*.sources"):
        text = file.read_text()
        (folder / file.name).write_text(text)
        if re.search(r"^Suites: *bookworm\b(?!-)", text, re.M) and "debian-archive" in text:
            first = text.split("\n\n")[0]
            (folder / "backports.sources").write_text(re.sub(r"^Suites:.*$", "Suites: bookworm-backports", first, flags=re.M) + "\n")


def driver(name, library):
    """A description of a Vulkan driver for the loader: the environment that leaves it as the only one."""
    file = WORK / f"{name}.json"
    file.write_text('{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}' % library)
    return {"VK_DRIVER_FILES": str(file), "VK_ICD_FILENAMES": str(file)}


def mesa():
    """Mesa's Vulkan drivers; their version."""
    version = debian("mesa-vulkan-drivers", "bookworm-backports")
    for name in ["libdrm2", "libdrm-amdgpu1"]:
        debian(name, "bookworm-backports")
    return version.split("-")[0]


def swiftshader():
    """Google's software driver, from Chromium's files; the environment that leaves it as the only one."""
    debian("chromium-common")
    return driver("swiftshader", DEBS / "usr/lib/chromium/libvk_swiftshader.so")


def node_modules():
    """Dawn for node, and with it Tint; the folder to run node in."""
    folder = WORK / "npm"
    if not (folder / "node_modules/webgpu").exists():
        if not shutil.which("node") or not shutil.which("npm"):
            raise LeftOut("Tint comes from npm, and there is no node or npm here")
        folder.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--silent", "--no-audit", "--no-fund", f"webgpu@{WEBGPU}", "--prefix", folder)
    return folder


def environment(**more):
    """This process's, with libraries of unpacked packages."""
    paths = [str(LIBRARIES), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths), "XDG_RUNTIME_DIR": str(WORK), **more}


@functools.cache
def spirv():
    """SPIR-V of every pipeline, as files."""
    folder = WORK / "spirv"
    shutil.rmtree(folder, ignore_errors=True)
    run(program(), "kernels", "--spirv", folder)
    return sorted(folder.glob("*.spv"))


@functools.cache
def program():
    """This project's program, as the tests build it; `CASCADE_PROGRAM` is another."""
    return os.environ.get("CASCADE_PROGRAM") or built("--bin", "cascade-rt")


@functools.cache
def built(*target):
    """The file that cargo makes of a target, with the profile and the features of all checks."""
    command = ["cargo", "test" if "--test" in target else "build", "--release", "--features", "cuda-emu", "--message-format=json", *target]
    command += ["--no-run"] if "--test" in target else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    names = [m["executable"] for m in made if m.get("executable") and m["target"]["name"] == target[1]]
    return names[-1]
