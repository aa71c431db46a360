"""Single operations in cascade-rt, PyTorch and candle, which run alternately, each in its own process."""

import json
import shlex
import subprocess
import sys

import report
from environment import HERE, cargo, machine, python, say, threads, warn_if_busy


def lines(command: list[str], options) -> list[dict]:
    """Runs a command and returns the JSON lines that it prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=threads(options.threads))
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed with exit code {done.returncode}")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not found and not options.only:
        sys.exit(f"{shlex.join(command)} printed no measurement")
    return found


def run(options) -> int:
    bench = options.binary or cargo("bench", "--bench", "kernels", "--no-run")
    programs = {report.OURS: [bench, "--bench", "--json", *([options.only] if options.only else [])]}
    how = ["--only", options.only, "--seconds", str(options.seconds)]
    if "torch" not in options.without:
        programs["torch"] = [python(options.python), str(HERE / "torch_kernels.py"), "--threads", str(options.threads), *how]
    if "candle" not in options.without:
        programs["candle"] = [cargo("build", "--release", folder=HERE / "candle"), *how]
    warn_if_busy()
    records = []
    for round_ in range(options.rounds):
        for name, command in list(programs.items())[:: 1 if round_ % 2 == 0 else -1]:
            say(f"round {round_ + 1} of {options.rounds}: {name}")
            new = [{"program": name, "threads": options.threads, **machine(), **line} for line in lines(command, options)]
            records += new
            if options.out:
                with open(options.out, "a") as file:
                    file.writelines(json.dumps(record) + "\n" for record in new)
    report.kernels(records)
    return 0
