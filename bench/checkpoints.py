#!/usr/bin/env python3
"""Measures the cost of checkpoints: one training with and without them, alternately.

    cargo build --release
    python bench/checkpoints.py [--data DIR] [--study STUDY] [--rounds 3] [--every 5m,5s] [--workers 2]
        [--program target/release/nettriage]

STUDY is the file of a study whose parent is trained here (`nettriage train`); its trials are not run. The default is VGG16 with batch norm
at quarter width on CIFAR-10, whose binary batches are in DIR, for `--images` images. Every round trains it without checkpoints and then
with one at each interval of `--every`. Prints wall-clock and processor seconds with medians and ranges, their ratios to the training
without checkpoints of the same round, and for each interval the number of checkpoints, their size, and the seconds that one adds. From
the shortest interval, which has the most checkpoints, follows the share of a training's time at the default of five minutes. All records
must have the same digest.

A training that is shorter than the interval writes none, so its ratio shows the noise of the measurement.
"""
import argparse, json, os, pathlib, re, statistics, subprocess, sys, tempfile, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT = 300.0

STUDY = """
name = "checkpoints"
[data]
name = "cifar10"
validation = 1000
augment = { pad = 4, flip = true }
[parent]
arch = "vgg16_bn"
width = 0.25
[parent.training]
images = IMAGES
rate = 0.05
[children]
seeds = 1
images = 128
rate = 0.02
"""


def seconds(interval):
    """The seconds of an interval such as 5m."""
    return float(interval[:-1]) * {"s": 1, "m": 60, "h": 3600}[interval[-1]]


class Watch(threading.Thread):
    """Counts the checkpoints that appear in a folder, by the times of their files, and keeps their largest size."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.seen, self.size, self.ended = folder, set(), 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            # The file is replaced by the next one and removed at the end.
            for path in self.folder.glob("checkpoints/*.bin"):
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
                self.seen.add((path.name, found.st_mtime_ns))
                self.size = max(self.size, found.st_size)


def train(a, study, interval, folder):
    """Wall-clock and processor seconds of one training, its checkpoints, their size, and the parents' digests."""
    command = [a.program, "train", study, "--out", folder, "--checkpoint", interval, "--workers", a.workers]
    command += ["--data-dir", a.data] if a.data else []
    watch = Watch(folder)
    watch.start()
    begin = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    watch.ended.set()
    watch.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{errors.decode()}")
    digests = {path.name: json.loads(path.read_text())["digest"] for path in (folder / "parents").glob("*.json")}
    return wall, usage.ru_utime + usage.ru_stime, len(watch.seen), watch.size, digests


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data"); a.add_argument("--study", type=pathlib.Path); a.add_argument("--images", type=int, default=200_000)
    a.add_argument("--rounds", type=int, default=3); a.add_argument("--every", default="5m,5s")
    a.add_argument("--workers", type=int, default=os.cpu_count())
    a.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/nettriage")
    a = a.parse_args()
    every = a.every.split(",")
    if not all(re.fullmatch(r"[0-9.]+[smh]", interval) for interval in every):
        a.error("--every: intervals such as 5m,5s")
    found, expected = {}, None
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        study = a.study or scratch / "study.toml"
        if not a.study:
            study.write_text(STUDY.replace("IMAGES", str(a.images)))
        for n in range(a.rounds):
            for interval in ["off", *every]:
                *measured, digests = train(a, study, interval, scratch / f"{n}-{interval}")
                expected = expected or digests
                assert digests and digests == expected, f"checkpoints {interval}: the records differ"
                found.setdefault(interval, []).append(measured)
                wall, cpu, count, _ = measured
                print(f"round {n + 1}: {interval}: {wall:.1f} s, processor {cpu:.1f} s, {count} checkpoints", file=sys.stderr, flush=True)
    print(f"{a.workers} workers, n = {a.rounds}: median (smallest to largest); all records equal\n")
    print("| checkpoints | wall s | processor s | wall, ratio | processor, ratio | written | MB each |\n|---|---|---|---|---|---|---|")
    off = found["off"]
    for interval, runs in found.items():
        wall, cpu, counts, sizes = zip(*runs)
        ratios = [[run[k] / base[k] for run, base in zip(runs, off)] for k in (0, 1)]
        cells = [spread(wall), spread(cpu), *(spread(ratio, 3) for ratio in ratios), spread(counts, 0), f"{max(sizes) / 1e6:.2f}"]
        print(f"| {interval} | {' | '.join(cells)} |")
    shortest = min(every, key=seconds)
    for k, what in enumerate(["wall-clock", "processor"]):
        each = [(run[k] - base[k]) / run[2] for run, base in zip(found[shortest], off) if run[2]]
        if each:
            print(f"\n{what} seconds that one checkpoint adds, from {shortest}: {spread(each, 4)}; that is "
                  f"{spread([100 * one / DEFAULT for one in each], 4)}% of a training at one every five minutes")


if __name__ == "__main__":
    main()
