#!/usr/bin/env python3
"""Measures each kind of reuse of shared work: the same study with and without it, alternately, and compares the records.

    cargo build --release
    python bench/reuse.py --data DIR [--rounds 3] [--workers 2] [--only prefix,hint] [--program target/release/nettriage]

DIR holds the binary batches of CIFAR-10. The study is `studies/reuse.toml`; its parent is trained once and copied. Every round runs the
study with all reuse, and then once without each kind. Prints wall-clock seconds of the trials and processor seconds with medians and
ranges, peak memory, and the ratios of the medians. All records must have the same digests.
"""
import argparse, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SWITCHES = {
    "prefix": ["--no-reuse", "prefix"],
    "evaluation": ["--no-reuse", "evaluation"],
    "hint": ["--no-reuse", "hint"],
    "activations": ["--no-reuse", "activations"],
    "backward": ["--no-reuse", "backward"],
    "solutions": ["--no-reuse", "solutions"],
    "all of the above": ["--no-reuse", "all"],
    "parallel trials": ["--inside"],
    "memory, not disk": ["--cache", "0", "--disk-cache", "8192"],
    "data in memory": ["--data-memory", "0"],
}


def run(command):
    """Processor seconds and peak memory in MiB of a command."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{errors.decode()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def digests(folder):
    return {path.name: json.loads(path.read_text())["digest"] for path in (folder / "trials").glob("*.json")}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--data", required=True); a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--workers", type=int, default=os.cpu_count()); a.add_argument("--only", default="")
    a.add_argument("--study", type=pathlib.Path, default=ROOT / "studies/reuse.toml")
    a.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/nettriage")
    a = a.parse_args()
    switches = {name: flags for name, flags in SWITCHES.items() if not a.only or name in a.only.split(",")}
    found, expected = {}, None
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        common = [a.study, "--data-dir", a.data]
        run([a.program, "train", *common, "--out", scratch / "parent"])
        for n in range(a.rounds):
            for name, flags in [("nothing", []), *switches.items()]:
                folder = scratch / "run"
                shutil.copytree(scratch / "parent", folder)
                workers = ["--workers", str(a.workers)]
                if flags == ["--inside"]:
                    workers, flags = ["--workers", "1", "--threads", str(a.workers)], []
                cpu, memory = run([a.program, "run", *common, "--out", folder, *workers, *flags])
                status = subprocess.run([a.program, "status", folder, "--json"], check=True, capture_output=True)
                seconds = json.loads(status.stdout)["trials_seconds"]
                records = digests(folder)
                expected = expected or records
                assert records == expected, f"{name}: the records differ"
                found.setdefault(name, []).append((seconds, cpu, memory))
                print(f"round {n + 1}: {name}: {seconds:.1f} s, processor {cpu:.1f} s, {memory:.0f} MiB", file=sys.stderr, flush=True)
                shutil.rmtree(folder)
    print(f"{len(expected)} trials, {a.workers} cores, n = {a.rounds}: median (smallest to largest); all records equal\n")
    print("| without | wall s | processor s | peak MiB | wall, ratio | processor, ratio |\n|---|---|---|---|---|---|")
    middle = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in found.items()}
    base = middle["nothing"]
    for name, runs in found.items():
        cells = [f"{statistics.median(c):.1f} ({min(c):.1f} to {max(c):.1f})" for c in zip(*runs)]
        ratios = [middle[name][k] / base[k] for k in (0, 1)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {middle[name][2]:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
