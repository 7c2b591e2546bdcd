"""Checks that two builds of nettriage compute bit-identical numbers; timings are ignored.

    python checks/same_numbers.py record PROGRAM OUT [--data DIR] [--networks DIR]
    python checks/same_numbers.py compare BEFORE AFTER

`record` runs studies/digits.toml, .ci/recompute.toml, a scan of a trained ResNet-20 and a prescription made from that scan with one
build and keeps their output. Use `--scan FILE` to prescribe from the scan of the first build, so that measured milliseconds do not
affect the plan. `compare` compares two such folders: JSON field by field, weights byte by byte.
"""

import argparse
import hashlib
import json
import math
import pathlib
import shutil
import subprocess
import sys

# Fields that hold timings, or describe the process that ran. Everything else must be equal.
TIMINGS = {"clock", "milliseconds", "took", "machine", "seconds", "finished", "started", "sha256", "digest", "checksum", "bytes", "weights"}

# Fields and values that were renamed: the old name and the new name.
RENAMED = {}
VALUES = {}
# Fields that only the second build writes, and those that differ between versions of the files.
ADDED = {"budget"}
VERSIONS = {"version"}

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"


def record(program, out, data, networks, scan):
    out.mkdir(parents=True, exist_ok=True)

    def call(*arguments):
        print("nettriage", *arguments, flush=True)
        subprocess.run([program, *map(str, arguments)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    for name, study in (("digits", "studies/digits.toml"), ("recompute", ".ci/recompute.toml")):
        shutil.rmtree(out / name, ignore_errors=True)
        call("run", study, "--out", out / name)
    network = networks / "cifar10_resnet" / "resnet20-12fca82f.th"
    subject = [network, "--arch", "cifar-resnet20", "--data", "cifar10", "--data-dir", data / "cifar10", "--mean", MEAN, "--std", STD]
    subject += ["--images", 300, "--judged", 200, "--substitutes", "conv1x1,conv3x3,drop"]
    call("scan", *subject, "--ranges", "stages", "--json", out / "scan.json", "--output", out / "scan.html")
    call("prescribe", *subject, "--scan", scan or out / "scan.json", "--max-macs", "75%", "--train-images", 1280, "--attempts", 2,
         "--output", out / "small.onnx")


def pruned(value, renamed):
    """The value without timings; with `renamed`, fields and values get their new names."""
    if isinstance(value, dict):
        new = {RENAMED.get(key, key) if renamed else key: item for key, item in value.items() if key not in TIMINGS}
        return {key: pruned(item, renamed) for key, item in new.items() if key not in TIMINGS}
    if isinstance(value, list):
        return [pruned(item, renamed) for item in value]
    if isinstance(value, str) and renamed:
        return VALUES.get(value, value)
    return value


def differences(before, after, path=""):
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key in VERSIONS or (key in ADDED and key not in before):
                continue
            if key not in before or key not in after:
                yield f"{path}.{key}: only {'after' if key in after else 'before'}"
            else:
                yield from differences(before[key], after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{path}: {len(before)} items, {len(after)} items"
        for index, pair in enumerate(zip(before, after)):
            yield from differences(*pair, f"{path}[{index}]")
    elif before != after and not (isinstance(before, float) and isinstance(after, float) and math.isnan(before) and math.isnan(after)):
        yield f"{path}: {str(before)[:80]}, {str(after)[:80]}"


def compared(folder):
    """The files to compare, by their path below the folder."""
    wanted = ["*/trials/*.json", "*/parents/*.json", "*/weights/*.safetensors", "scan.json", "small.json", "small.onnx"]
    return {str(path.relative_to(folder)): path for pattern in wanted for path in folder.glob(pattern)}


def compare(before, after):
    old, new = compared(before), compared(after)
    bad = [f"{name}: only {'after' if name in new else 'before'}" for name in sorted(old.keys() ^ new.keys())]
    for name in sorted(old.keys() & new.keys()):
        if name.endswith(".json"):
            trees = [json.loads(path.read_text()) for path in (old[name], new[name])]
            bad += [f"{name}{line}" for line in differences(pruned(trees[0], True), pruned(trees[1], False))]
        else:
            hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (old[name], new[name])]
            if hashes[0] != hashes[1]:
                bad.append(f"{name}: different bytes")
    for line in bad[:40]:
        print(line)
    print(f"{len(old)} files before, {len(new)} after, {len(bad)} differences")
    return not bad and bool(old)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("program", type=pathlib.Path)
    one.add_argument("out", type=pathlib.Path)
    one.add_argument("--data", type=pathlib.Path, default=ROOT / "target/ci/data")
    one.add_argument("--networks", type=pathlib.Path, default=ROOT / "../shared/networks")
    one.add_argument("--scan", type=pathlib.Path, help="the scan of the first build")
    two = commands.add_parser("compare")
    two.add_argument("before", type=pathlib.Path)
    two.add_argument("after", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "record":
        record(args.program.resolve(), args.out.resolve(), args.data.resolve(), args.networks.resolve(),
               args.scan.resolve() if args.scan else None)
    elif not compare(args.before, args.after):
        sys.exit(1)


main()
