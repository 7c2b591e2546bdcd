#!/usr/bin/env python3
"""Times ONNX models in onnxruntime, alternately: one thread, random images.

    pip install numpy onnxruntime
    python bench/latency.py ORIGINAL.onnx SMALLER.onnx ... [--batch 1] [--passes 300] [--rounds 5]

In a round every model runs once in turn, --passes times after a tenth as many for warm-up. Prints each model's milliseconds, the median of a
round's passes (median, lowest and highest round), and the ratio of the first model's milliseconds to its own in the same round.
"""
import argparse, statistics, time

import numpy
import onnxruntime


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+"); a.add_argument("--batch", type=int, default=1)
    a.add_argument("--passes", type=int, default=300); a.add_argument("--rounds", type=int, default=5)
    a = a.parse_args()
    if min(a.batch, a.passes, a.rounds) < 1:
        raise SystemExit("--batch, --passes and --rounds must be 1 or more")
    runs = []
    for path in a.models:
        model = session(path)
        value = model.get_inputs()[0]
        shape = [a.batch] + [int(extent) for extent in value.shape[1:]]
        images = numpy.random.default_rng(0).standard_normal(shape, numpy.float32)
        runs.append(lambda model=model, feed={value.name: images}: model.run(None, feed))
    rounds = []
    for _ in range(a.rounds):
        seconds = [[] for _ in runs]
        for number in range(-(a.passes // 10), a.passes):
            for run, into in zip(runs, seconds):
                start = time.perf_counter()
                run()
                if number >= 0:
                    into.append(time.perf_counter() - start)
        rounds.append([1e3 * statistics.median(times) for times in seconds])
    spread = lambda values: f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    print(f"onnxruntime {onnxruntime.__version__}, one thread, batch {a.batch}, {a.rounds} rounds of {a.passes} passes")
    for place, path in enumerate(a.models):
        own = [times[place] for times in rounds]
        ratios = [times[0] / times[place] for times in rounds]
        print(f"{path}: {spread(own)} ms, {spread(ratios)} times as fast")


if __name__ == "__main__":
    main()
