"""Times two ONNX models in pairs, each the mean of two passes on one thread; prints one JSON object.

    python nettriage_latency.py FIRST SECOND BATCH PAIRS    {"version": "1.22.0", "pairs": [[seconds, seconds], ...]}
    python nettriage_latency.py                             {"version": "1.22.0"}
"""

import json
import sys
import time


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def inputs(model, batch):
    value = model.get_inputs()[0]
    shape = [batch] + [int(extent) for extent in value.shape[1:]]
    return {value.name: numpy.zeros(shape, dtype=numpy.float32)}


def main():
    if len(sys.argv) == 1:
        return {}
    paths, batch, count = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
    models = [session(path) for path in paths]
    feeds = [inputs(model, batch) for model in models]
    pairs, begin = [], time.perf_counter()
    # The first pair warms up caches and memory.
    for repetition in range(1 + count):
        pair = [0.0, 0.0]
        # Each network is timed as often after the other, whose data fill the caches, as after itself.
        for index in (0, 1, 1, 0):
            start = time.perf_counter()
            models[index].run(None, feeds[index])
            pair[index] += (time.perf_counter() - start) / 2
        if repetition > 0:
            pairs.append(pair)
        if len(pairs) >= 15 and time.perf_counter() - begin > 10:
            break
    return {"pairs": pairs}


try:
    import numpy
    import onnxruntime
except ImportError as error:
    print(json.dumps({"missing": str(error)}))
    sys.exit()
print(json.dumps({"version": onnxruntime.__version__, **main()}))
