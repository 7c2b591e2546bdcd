#!/usr/bin/env python3
"""Recomputes trials of a run in PyTorch: an outside check of what their records say.

    pip install torch numpy safetensors
    python bench/recompute.py RUN [--data DIR] [--limit N]

RUN is the folder of a run whose study has `keep = "network"`. Every kept child is rebuilt from the graph in
its safetensors file, run on the test images by PyTorch, and compared with its record: the same images right (but
where the two best logits are within 1e-4 of each other), and the same loss to four digits. Exit code 1 on a difference.
"""
import argparse, base64, gzip, json, pathlib, sys
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

HERE = pathlib.Path(__file__).resolve().parent


def idx(folder, stems):
    """An IDX file, gzipped or not, under any of its usual names."""
    path = next(p for p in sorted(folder.iterdir()) if any(p.name.startswith(s) for s in stems))
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def test_images(name, folder):
    """The test set in the file's order: bytes N x C x H x W, and labels."""
    if name == "digits":
        folder = HERE.parent / "crates/data/data"
        images, labels = idx(folder, ["digits-images"])[-360:], idx(folder, ["digits-labels"])[-360:]
        return (images.astype(np.uint16) * 255 + 8) // 16, labels, True
    folder = pathlib.Path(folder)
    if name in ("mnist", "fashion-mnist"):
        return idx(folder, ["t10k-images"]), idx(folder, ["t10k-labels"]), True
    if name == "cifar10":
        path = next(p for p in sorted(folder.rglob("test_batch.bin")))
        rows = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 3073)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], False
    sys.exit(f"{name}: this script reads digits, mnist, fashion-mnist and cifar10")


def activation(layer, x):
    function = layer["function"]
    return {
        "relu": lambda: F.relu(x),
        "leaky-relu": lambda: F.leaky_relu(x, layer.get("slope", 0.01)),
        "clip": lambda: x.clamp(layer.get("min"), layer.get("max")),
        "sigmoid": lambda: torch.sigmoid(x),
        "silu": lambda: F.silu(x),
        "tanh": lambda: torch.tanh(x),
        "hard-swish": lambda: F.hardswish(x),
        "gelu": lambda: F.gelu(x, approximate="tanh" if layer.get("tanh") else "none"),
    }[function]()


def padded(x, padding, value=0.0):
    return F.pad(x, (padding["left"], padding["right"], padding["top"], padding["bottom"]), value=value)


def run(graph, weights, x):
    """The graph by PyTorch's own operators, in evaluation mode."""
    values = {"input": x}
    for layer in graph["layers"]:
        name, kind = layer["name"], layer["kind"]
        inputs = [values[i] for i in layer["inputs"]]
        x = inputs[0]
        get = lambda parameter: weights.get(f"{name}.{parameter}")
        if kind == "conv":
            y = F.conv2d(padded(x, layer["padding"]), get("weight"), get("bias"), tuple(layer["stride"]), 0,
                         tuple(layer["dilation"]), layer["groups"])
        elif kind == "linear":
            y = F.linear(x.flatten(1), get("weight"), get("bias"))[:, :, None, None]
        elif kind == "batch-norm":
            y = F.batch_norm(x, get("running_mean"), get("running_var"), get("weight"), get("bias"), False, 0.0, layer["eps"])
        elif kind == "activation":
            y = activation(layer, x)
        elif kind == "max-pool":
            y = F.max_pool2d(padded(x, layer["padding"], -torch.inf), tuple(layer["kernel"]), tuple(layer["stride"]))
        elif kind == "avg-pool" and layer["window"]["padding"] == dict(top=0, bottom=0, left=0, right=0):
            y = F.avg_pool2d(x, tuple(layer["window"]["kernel"]), tuple(layer["window"]["stride"]))
        elif kind == "adaptive-avg-pool":
            y = F.adaptive_avg_pool2d(x, (layer["height"], layer["width"]))
        elif kind == "add":
            y = sum(inputs[1:], x)
        elif kind == "concat":
            y = torch.cat(inputs, 1)
        elif kind == "flatten":
            y = x.flatten(1)[:, :, None, None]
        elif kind == "pad":
            before, after = layer["channels"]
            y = F.pad(padded(x, layer["padding"], layer["value"]), (0, 0, 0, 0, before, after), value=layer["value"])
        elif kind in ("dropout", "identity"):
            y = x
        else:
            sys.exit(f"layer {name}: this script knows no {kind}")
        values[name] = y
    return values[graph["output"]].flatten(1)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("run"); a.add_argument("--data"); a.add_argument("--limit", type=int)
    a = a.parse_args()
    folder = pathlib.Path(a.run)
    plan = json.loads((folder / "plan.json").read_text())["payload"]
    data = plan["data"]
    images, labels, grey = test_images(data["name"], a.data)
    images = torch.tensor(images[:data["test"]].astype(np.float32) / 255)
    images = images[:, None] if grey else images
    mean, std = (torch.tensor(data[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images, labels = (images - mean) / std, torch.tensor(labels[:data["test"]].astype(np.int64))
    children = sorted((folder / "weights").glob("child-*.safetensors"))[:a.limit]
    if not children:
        sys.exit(f"{folder}: no child's weights; set keep = 'network' under [children] and run again")
    wrong = 0
    for path in children:
        record = json.loads((folder / "trials" / f"{path.stem[6:]}.json").read_text())["payload"]
        recorded = record["readings"]["test"]
        bits = np.unpackbits(np.frombuffer(base64.b64decode(record["readings"]["test_correct"]), np.uint8))[:len(labels)]
        with safe_open(path, "pt") as file, torch.inference_mode():
            graph = json.loads(file.metadata()["nettriage"])
            graph = graph.get("graph", graph)
            logits = torch.cat([run(graph, {k: file.get_tensor(k) for k in file.keys()}, x) for x in images.split(500)])
        best = logits.topk(2).values
        close = (best[:, 0] - best[:, 1] < 1e-4).numpy()
        flipped = ((logits.argmax(1) == labels).numpy() != bits.astype(bool))
        loss = F.cross_entropy(logits.double(), labels).item()
        same = not (flipped & ~close).any() and abs(loss - recorded["loss"]) <= 5e-5 * max(1, abs(loss))
        wrong += not same
        spec = record["spec"]
        what = " ".join(str(spec[k]) for k in ("role", "block", "substitute", "init", "scheme", "seed") if spec[k] is not None)
        print(f"{'same' if same else 'DIFFERENT'}: {what}: {int(bits.sum())} right, {int(flipped.sum())} flipped, "
              f"loss {recorded['loss']:.6f} here {loss:.6f}")
    print(f"{len(children) - wrong} passed, {wrong} failed")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
