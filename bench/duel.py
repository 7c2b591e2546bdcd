#!/usr/bin/env python3
"""Two builds of the `step` example beside each other, a core each, cores swapped: the ratio of their steps' seconds.

    cargo build --release -p nettriage-engine --example step && cp target/release/examples/step /tmp/before
    ...
    python bench/duel.py /tmp/before target/release/examples/step [--rounds 8] [--only vgg16_quarter] [--steps 25]

What else the machine does meets both alike, so a few rounds tell half a per cent where runs one after the other tell
five. A round is two runs of both, and counts as the geometric mean of the two ratios, the second build's seconds by
the first's. Two copies of one build tell what the machine leaves uncertain.
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
        raise SystemExit("two cores are needed, one for each build")
    ratios = {}
    for _ in range(a.rounds):
        pairs = [side_by_side(a, cores), side_by_side(a, cores[::-1])]
        for kind in pairs[0]:
            ratios.setdefault(kind, []).append(statistics.geometric_mean(pair[kind] for pair in pairs))
    for kind, of_rounds in ratios.items():
        print(f"{kind}: median {statistics.median(of_rounds):.4f}, {min(of_rounds):.4f} to {max(of_rounds):.4f}, n = {len(of_rounds)}")


def side_by_side(a, cores):
    """{workload and kind: the second build's seconds by the first's}, each on its core."""
    command = ["--threads", "1", "--steps", str(a.steps), "--only", a.only]
    for build in (a.before, a.after):
        if not os.access(build, os.X_OK) or os.path.isdir(build):
            raise SystemExit(f"{build}: no program; build the `step` example first")
    runs = [subprocess.Popen([build, *command], stdout=subprocess.PIPE, text=True,
                             preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}))
            for build, core in zip((a.before, a.after), cores)]
    seconds = [found(run.communicate()[0]) for run in runs]
    if not seconds[0] or seconds[0].keys() != seconds[1].keys() or any(run.returncode for run in runs):
        raise SystemExit(f"{a.before} and {a.after} do not both print the steps of {a.only}: are they builds of the `step` example?")
    return {kind: seconds[1][kind] / seconds[0][kind] for kind in seconds[0]}


def found(output):
    """{workload and kind: seconds} of what the example prints; nothing of what another program prints."""
    try:
        lines = [json.loads(line) for line in output.splitlines()]
        return {f"{line['workload']} {line['kind']}": line["seconds"] for line in lines}
    except (ValueError, TypeError, KeyError):
        return {}


if __name__ == "__main__":
    main()
