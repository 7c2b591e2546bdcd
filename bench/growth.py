#!/usr/bin/env python3
"""Measures how time and memory of a study grow with its size, and fits the exponents.

    cargo build --release
    python bench/growth.py [--rounds 3] [--only trials,width,size,blocks,workers,images] [--program target/release/nettriage]

One parameter grows at a time: trials (10, 100, 1,000), the network's width, the image size, the number of blocks, workers, and training
images (in memory, and streamed from a file with a memory limit of 0). The parent is trained beforehand and not counted. Prints medians
over the rounds: wall-clock seconds of the trials, processor seconds of the whole run, peak memory; and exponents fitted by least squares
on the logarithms, next to the exponent of the operation count (multiply-accumulates of all networks times images).
"""
import argparse, json, math, os, pathlib, random, shutil, statistics, struct, subprocess, sys, tempfile, zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
from reuse import run

STUDY = """
name = "growth"
[data]
name = "{data}"
{place}
validation = {validation}
[parent]
arch = "vgg"
plan = {plan}
width = {width}
[parent.training]
epochs = 0.5
batch = 32
rate = 0.01
[children]
seeds = {seeds}
images = {images}
batch = 32
rate = 0.01
curve = 1
keep = "nothing"
[triage]
inits = ["random"]
schemes = {schemes}
parent_continued = []
placebo = []
reinit = []
drop = []
"""
DIGITS = dict(data="digits", place="", validation=100, plan="[[8, 8], [16, 16]]", width=1, seeds=1, images=320,
              schemes='["global"]', blocks=None)


def noise_folder(path, side, images):
    """RGB PNG files of noise in two classes, written without a library."""
    generator = random.Random(0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for i in range(images):
        rows = b"".join(b"\0" + generator.randbytes(3 * side) for _ in range(side))
        png = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
               + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))
        file = path / ("test" if i % 5 == 0 else "train") / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png)


def named_blocks(count):
    """The first `count` of four blocks of one convolution each, named as `vgg` names its layers."""
    names = [("features.0", "features.2"), ("features.4", "features.6"), ("features.8", "features.10")]
    return "".join(f'[[triage.block]]\nname = "b{i + 1}"\nfirst = "{a}"\nlast = "{b}"\n' for i, (a, b) in enumerate(names[:count]))


def cases(folder):
    """(parameter, its value, study, relative operation count, flags)."""
    for trials in (10, 100, 1000):
        yield "trials", trials, {**DIGITS, "seeds": trials // 2}, trials, []
    big = {**DIGITS, "data": "folder", "images": 2560, "validation": 64}
    wide = {**big, "place": f'dir = "{folder / "noise64"}"\nsize = 16', "plan": "[[32, 32], [32, 32]]"}
    for width in (1, 2, 4):
        yield "width", width, {**wide, "width": width}, width ** 2, []
    for side in (16, 32, 64):
        square = {**big, "place": f'dir = "{folder / "noise64"}"\nsize = {side}', "plan": "[[16, 16], [32, 32]]"}
        yield "size", side, square, side ** 2, []
    flat = {**wide, "plan": "[[32], [32], [32]]"}
    for blocks in (1, 2, 3):
        yield "blocks", blocks, {**flat, "blocks": blocks}, blocks, []
    for workers in (1, 2, 4):
        yield "workers", workers, {**DIGITS, "seeds": 20, "images": 960}, 1, ["--workers", str(workers)]
    for images in (8000, 32000):
        many = {**big, "place": f'dir = "{folder / f"noise{images}"}"\nsize = 48', "plan": "[[4, 4], [4, 4]]"}
        yield "images", images, many, 1, []
        yield "images, streamed", images, many, 1, ["--data-memory", "0"]


def exponent(points):
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mx, my = statistics.mean(xs), statistics.mean(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys)) / sum((x - mx) ** 2 for x in xs)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=3); a.add_argument("--only", default="")
    a.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/nettriage")
    a = a.parse_args()
    wanted = a.only.split(",") if a.only else None
    found, units = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        noise_folder(scratch / "noise64", 64, 400)
        if not wanted or "images" in wanted:
            for images in (8000, 32000):
                noise_folder(scratch / f"noise{images}", 48, images)
        for name, value, study, unit, flags in cases(scratch):
            if wanted and name.split(",")[0] not in wanted:
                continue
            blocks = study["blocks"]
            text = STUDY.format(**study) + (named_blocks(blocks) if blocks else "")
            (scratch / "study.toml").write_text(text)
            run([a.program, "train", scratch / "study.toml", "--out", scratch / "parent"])
            for _ in range(a.rounds):
                shutil.copytree(scratch / "parent", scratch / "run")
                workers = flags if "--workers" in flags else ["--workers", "2", *flags]
                cpu, memory = run([a.program, "run", scratch / "study.toml", "--out", scratch / "run", *workers])
                status = subprocess.run([a.program, "status", scratch / "run", "--json"], check=True, capture_output=True)
                status = json.loads(status.stdout)
                found.setdefault(name, {}).setdefault(value, []).append((status["trials_seconds"], cpu, memory))
                units[name, value] = unit, status["trials"]
                shutil.rmtree(scratch / "run")
            shutil.rmtree(scratch / "parent")
            print(name, value, found[name][value], file=sys.stderr, flush=True)
    print(f"n = {a.rounds}, medians, {os.cpu_count()} cores\n")
    print("| parameter | value | trials | wall s | processor s | peak MiB | exponent of wall, processor, memory | of operations |\n|---|---|---|---|---|---|---|---|")
    for name, values in found.items():
        middle = {v: [statistics.median(c) for c in zip(*runs)] for v, runs in values.items()}
        fits = [exponent([(v, m[k]) for v, m in middle.items()]) for k in range(3)] if len(middle) > 1 else []
        arithmetic = exponent([(v, units[name, v][0]) for v in middle]) if len(middle) > 1 else 0
        for i, (value, m) in enumerate(middle.items()):
            last = (", ".join(f"{f:.2f}" for f in fits), f"{arithmetic:.2f}") if i == 0 else ("", "")
            print(f"| {name if i == 0 else ''} | {value:,} | {units[name, value][1]:,} | {m[0]:.2f} | {m[1]:.2f} | {m[2]:.0f} | {last[0]} | {last[1]} |")


if __name__ == "__main__":
    main()
