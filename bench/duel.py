#!/usr/bin/env python3
"""Compares two builds of the `step` example, which run at the same time on one core each.

    cargo build --release -p nettriage-engine --example step && cp target/release/examples/step /tmp/before
    ...
    python bench/duel.py /tmp/before target/release/examples/step [--rounds 8] [--only vgg16_quarter] [--steps 25]

Other load on the machine affects both builds, so a few rounds resolve half a per cent, where consecutive runs resolve five. In a round
both builds run twice, with the cores swapped. The result of a round is the geometric mean of the two ratios: seconds of the second
build divided by seconds of the first. To measure the uncertainty, compare two copies of one build.
"""
import argparse, json, os, statistics, subprocess


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("before"); a.add_argument("after")
    a.add_argument("--rounds", type=int, default=8)
    a.add_argument("--only", default="vgg16_quarter"); a.add_argument("--steps", type=int, default=25)
    a = a.parse_args()
    if a.rounds < 1:
        raise SystemExit("--rounds must be 1 or more")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two cores are needed, one per build")
    ratios = {}
    for _ in range(a.rounds):
        pairs = [side_by_side(a, cores), side_by_side(a, cores[::-1])]
        for kind in pairs[0]:
            ratios.setdefault(kind, []).append(statistics.geometric_mean(pair[kind] for pair in pairs))
    for kind, values in ratios.items():
        print(f"{kind}: median {statistics.median(values):.4f}, {min(values):.4f} to {max(values):.4f}, n = {len(values)}")


def side_by_side(a, cores):
    """{workload and kind: seconds of the second build divided by seconds of the first}."""
    command = ["--threads", "1", "--steps", str(a.steps), "--only", a.only]
    for build in (a.before, a.after):
        if not os.access(build, os.X_OK) or os.path.isdir(build):
            raise SystemExit(f"{build}: not a program; build the `step` example first")
    runs = [subprocess.Popen([build, *command], stdout=subprocess.PIPE, text=True,
                             preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}))
            for build, core in zip((a.before, a.after), cores)]
    seconds = [parse(run.communicate()[0]) for run in runs]
    if not seconds[0] or seconds[0].keys() != seconds[1].keys() or any(run.returncode for run in runs):
        raise SystemExit(f"{a.before} and {a.after} do not both print the steps of {a.only}: are they builds of the `step` example?")
    return {kind: seconds[1][kind] / seconds[0][kind] for kind in seconds[0]}


def parse(output):
    """{workload and kind: seconds} from the output of the example; empty for the output of another program."""
    try:
        lines = [json.loads(line) for line in output.splitlines()]
        return {f"{line['workload']} {line['kind']}": line["seconds"] for line in lines}
    except (ValueError, TypeError, KeyError):
        return {}


if __name__ == "__main__":
    main()
