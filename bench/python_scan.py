#!/usr/bin/env python3
"""The cost of Python around a scan: `nt.scan` beside `nettriage scan`, the same network and images, alternately.

    cargo build --release
    python bench/python_scan.py MODEL --data cifar10 [--data-dir DIR] [--rounds 7] [--program target/release/nettriage]

Runs in an environment with the wheel. Both sides run in processes of their own and scan with one thread. Compared are the processor
seconds of the whole processes, of both, and the wall-clock seconds of the call alone: `nt.scan`, with its progress bar, against the time that
the command line's record of the same scan gives. Prints the medians, the ranges and the ratios, round by round paired.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
import json, sys, time
import nettriage as nt
model, name, folder, images, out = sys.argv[1:]
network, data = nt.Network.load(model), nt.Dataset.open(name, folder or None)
begin = time.perf_counter()
scan = nt.scan(network, data, images=int(images), threads=1)
seconds = time.perf_counter() - begin
scan.save(out + ".html")
json.dump({"seconds": seconds, "took": scan.data["took"]["seconds"]}, open(out, "w"))
"""


def run(command):
    """Processor seconds of a command."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{errors.decode()}")
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--images", default="2000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--program", default="target/release/nettriage")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        out, record = Path(name, "ours.json"), Path(name, "theirs.json")
        command = [args.program, "scan", args.model, "--data", args.data, "--images", args.images, "--threads", "1"]
        command += ["--data-dir", args.data_dir] if args.data_dir else []
        for number in range(args.rounds):
            sides = {
                "ours": lambda: run([sys.executable, "-c", OURS, args.model, args.data, args.data_dir, args.images, out]),
                "theirs": lambda: run([*command, "--json", record, "-o", Path(name, "theirs.html")]),
            }
            order = list(sides) if number % 2 else list(sides)[::-1]
            cpu = {side: sides[side]() for side in order}
            ours, theirs = json.loads(out.read_text()), json.loads(record.read_text())
            rows.append(
                {
                    "processor seconds": (cpu["ours"], cpu["theirs"]),
                    "call against its own record": (ours["seconds"], ours["took"]),
                    "call against the command's record": (ours["seconds"], theirs["took"]["seconds"]),
                }
            )
            print(f"round {number + 1}:", {key: [round(x, 3) for x in pair] for key, pair in rows[-1].items()}, flush=True)
    for key in rows[0]:
        ours, theirs = zip(*(row[key] for row in rows))
        ratios = sorted(a / b for a, b in zip(ours, theirs))
        print(
            f"{key}: nt.scan {statistics.median(ours):.3f}, other {statistics.median(theirs):.3f}, ratio {statistics.median(ratios):.4f} "
            f"({ratios[0]:.4f} to {ratios[-1]:.4f}), n = {len(rows)}"
        )


if __name__ == "__main__":
    main()
