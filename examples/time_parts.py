"""Fills the list that `nettriage scan --parts DIR` wrote with milliseconds, measured by onnxruntime on this machine.

    python time_parts.py DIR/parts.csv [BATCH]

Needs onnxruntime and NumPy. Run it on the device where the network will run; `nettriage prescribe --latency-table DIR/parts.csv` then
adds the times up. For another runtime replace `session` and the call of `run`.
"""

import csv
import pathlib
import statistics
import sys
import time

import numpy
import onnxruntime


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(path, batch, passes=31):
    """The median time of a pass, after some that warm up."""
    model = session(path)
    value = model.get_inputs()[0]
    inputs = {value.name: numpy.zeros([batch] + [int(extent) for extent in value.shape[1:]], numpy.float32)}
    times = []
    for _ in range(5 + passes):
        start = time.perf_counter()
        model.run(None, inputs)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[5:])


def main():
    path = pathlib.Path(sys.argv[1])
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["milliseconds"] = f"{milliseconds(path.parent / row['model'], batch):.6f}"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


main()
