#!/usr/bin/env python3
"""Recomputes the trials of a run in PyTorch and compares with their records.

    pip install torch numpy safetensors
    python checks/recompute.py RUN [--data DIR | --arrays DIR] [--limit N]

RUN is the folder of a run whose study has `keep = "network"`, or `keep_sample = N` for a sample of its trials. Every child that is kept is rebuilt from the graph in its safetensors file and run by
PyTorch on the test images. The same images must be classified correctly (unless the two largest logits are within 1e-4), and the loss
must agree to four digits. For a folder of images, --arrays names what `nettriage data show FOLDER --arrays DIR` has written: the
decoders of JPEG differ in the last bit. On the validation images that the run stores, the linear CKA of child and parent must agree at every tensor
(to 1e-3), and so must the largest activations of each filter shown. Exit code 1 on a difference.
"""
import argparse, base64, gzip, json, pathlib, sys
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

HERE = pathlib.Path(__file__).resolve().parent


def idx(folder, stems):
    """Reads an IDX file, gzipped or not, under any of its usual names."""
    path = next(p for p in sorted(folder.iterdir()) if any(p.name.startswith(s) for s in stems))
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def test_images(name, folder):
    """The test set in the file's order: bytes (N, H, W) or (N, C, H, W), labels, and whether it is greyscale."""
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
    sys.exit(f"{name}: this script reads digits, mnist, fashion-mnist and cifar10, and others by --arrays")


def arrays(folder):
    """As test_images, of decoded images that nettriage has written. Images sorted by class are taken round-robin over the classes."""
    folder = pathlib.Path(folder)
    images, labels = np.load(folder / "test-images.npy"), np.load(folder / "test-labels.npy")
    if (np.diff(labels.astype(int)) >= 0).all():
        rounds = np.arange(len(labels)) - np.searchsorted(labels, labels)
        order = np.lexsort((labels, rounds))
        images, labels = images[order], labels[order]
    grey = images.shape[3] == 1
    return images[..., 0] if grey else images.transpose(0, 3, 1, 2), labels, grey


def activation(layer, x):
    function = layer["function"]
    return {
        "relu": lambda: F.relu(x),
        "leaky-relu": lambda: F.leaky_relu(x, layer.get("slope", 0.01)),
        "clip": lambda: x.clamp(layer.get("min"), layer.get("max")),
        "sigmoid": lambda: torch.sigmoid(x),
        "silu": lambda: F.silu(x),
        "mish": lambda: F.mish(x),
        "tanh": lambda: torch.tanh(x),
        "hard-swish": lambda: F.hardswish(x),
        "selu": lambda: F.selu(x),
        "celu": lambda: F.celu(x, layer.get("alpha", 1.0)),
        "softplus": lambda: F.softplus(x),
        "abs": lambda: x.abs(),
        "atan": lambda: x.atan(),
        "erf": lambda: x.erf(),
        "exp": lambda: x.exp(),
        "log": lambda: x.log(),
        "power": lambda: x ** layer["exponent"],
        "gelu": lambda: F.gelu(x, approximate="tanh" if layer.get("tanh") else "none"),
    }[function]()


def padded(x, padding, value=0.0):
    return F.pad(x, (padding["left"], padding["right"], padding["top"], padding["bottom"]), value=value)


AXES = {"channels": 1, "rows": 2, "columns": 3}


def run(graph, weights, x):
    """Every tensor of the graph, computed by PyTorch in evaluation mode."""
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
        elif kind == "mul":
            y = x
            for other in inputs[1:]:
                y = y * other
        elif kind == "affine":
            y = x * get("weight")[:, None, None] + get("bias")[:, None, None]
        elif kind == "concat":
            y = torch.cat(inputs, AXES[layer.get("axis", "channels")])
        elif kind == "mat-mul":
            a, b = (tensor.permute(0, 2, 3, 1) for tensor in inputs)
            y = (a @ (b.mT if layer["transposed"] else b)).permute(0, 3, 1, 2)
        elif kind == "permute":
            moved = x.reshape(len(x), *layer["extents"]).permute(0, *(axis + 1 for axis in layer["order"]))
            y = moved.reshape(len(x), *layer["shape"].values())
        elif kind == "reshape":
            y = x.reshape(len(x), *layer["shape"].values())
        elif kind == "gather":
            y = x.index_select(AXES[layer["axis"]], torch.tensor(layer["indices"]))
        elif kind == "slice":
            y = x[:, layer["start"]:layer["end"]]
        elif kind == "constant":
            y = get("weight").expand(len(x), -1, -1, -1)
        elif kind == "reduce":
            axes = [AXES[axis] for axis in layer["axes"]]
            y = x.mean(axes, keepdim=True) if layer["function"] == "mean" else x.amax(axes, keepdim=True)
        elif kind == "layer-norm":
            rows, shape = x.permute(0, 2, 3, 1), x.shape[1:2]
            norm = F.layer_norm(rows, shape, get("weight"), get("bias"), layer["eps"]) if layer["centred"] else F.rms_norm(rows, shape, get("weight"), layer["eps"])
            y = norm.permute(0, 3, 1, 2)
        elif kind == "group-norm":
            y = F.group_norm(x, layer["groups"], get("weight"), get("bias"), layer["eps"])
        elif kind == "softmax":
            y = F.log_softmax(x, 1) if layer["log"] else F.softmax(x, 1)
        elif kind == "flatten":
            y = x.flatten(1)[:, :, None, None]
        elif kind == "pad":
            before, after = layer["channels"]
            y = F.pad(padded(x, layer["padding"], layer["value"]), (0, 0, 0, 0, before, after), value=layer["value"])
        elif kind in ("dropout", "identity"):
            y = x
        else:
            sys.exit(f"layer {name}: this script does not support {kind}")
        values[name] = y
    return values


def network(path):
    with safe_open(path, "pt") as file:
        graph = json.loads(file.metadata()["nettriage"])
        return graph.get("graph", graph), {key: file.get_tensor(key) for key in file.keys()}


def hsic(k, l):
    """The unbiased HSIC estimator of Song et al. (2012), eq. 5, from Gram matrices (N, N)."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    return (np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def cka(x, y, batch):
    """Minibatch linear CKA of features (N, D) (Nguyen et al., 2021, eq. 2)."""
    grams = [(a @ a.T, b @ b.T) for a, b in ((x[i:i + batch], y[i:i + batch]) for i in range(0, len(x), batch))]
    mean = lambda first, second: np.mean([hsic(gram[first], gram[second]) for gram in grams])
    return mean(0, 1) / np.sqrt(mean(0, 0) * mean(1, 1))


def counterparts(parent, child, block):
    """The child's tensor for each tensor of the parent; the block's output corresponds to the input of the next layer in the child."""
    names = {layer["name"]: layer["name"] for layer in child["layers"]}
    if block:
        output = block["layers"][-1]
        names[output] = child["output"]
        inside, layers = set(block["layers"]), {layer["name"]: layer for layer in child["layers"]}
        for layer in parent["layers"]:
            if layer["name"] not in inside and output in layer["inputs"]:
                names[output] = layers[layer["name"]]["inputs"][layer["inputs"].index(output)]
    return names


def compare_readings(record, block, parent, child, images):
    """Differences in CKA similarity and in the largest activations of filters."""
    wrong = []
    found = record["readings"].get("similarity")
    names = counterparts(parent[0], child[0], block)
    theirs, ours = run(*parent, images), run(*child, images)
    if found:
        features = lambda tensor: tensor[:found["images"]].double().flatten(1).numpy()
        for layer in found["layers"]:
            value = cka(features(theirs[layer["layer"]]), features(ours[names[layer["layer"]]]), found["batch"])
            whens = ["after"] + (["before"] if record["spec"]["scheme"] == "none" else [])
            # CKA of a tensor with almost no variance is dominated by rounding; such values are None.
            wrong += [f"CKA at {layer['layer']}: recorded {layer[w]}, recomputed {value:.5f}" for w in whens if layer[w] is not None and abs(layer[w] - value) > 1e-3]
    filters = record["readings"].get("filters")
    if filters and block:
        values = ours[names[block["layers"][-1]]].numpy()
        for filter, patches in enumerate(filters.get("patches", [])):
            largest = np.sort(values[:, filter].reshape(len(values), -1).max(1))[::-1][:len(patches)]
            if patches and not np.allclose([p["value"] for p in patches], largest, rtol=1e-3, atol=1e-5):
                wrong.append(f"patches of filter {filter}: recorded {patches}, recomputed {largest}")
    return wrong


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("run"); a.add_argument("--data"); a.add_argument("--arrays")
    a.add_argument("--limit", type=int)
    a = a.parse_args()
    folder = pathlib.Path(a.run)
    plan = json.loads((folder / "plan.json").read_text())["payload"]
    data = plan["data"]
    images, labels, grey = arrays(a.arrays) if a.arrays else test_images(data["name"], a.data)
    images = torch.tensor(images[:data["test"]].astype(np.float32) / 255)
    images = images[:, None] if grey else images
    mean, std = (torch.tensor(data[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    images, labels = (images - mean) / std, torch.tensor(labels[:data["test"]].astype(np.int64))
    children = sorted((folder / "weights").glob("child-*.safetensors"))[:a.limit]
    if not children:
        sys.exit(f"{folder}: no weights of children; set keep = 'network', or keep_sample, under [children] and run the study again")
    kept = json.loads((folder / "pictures.json").read_text())["payload"]
    shape = kept["shape"]
    validation = np.frombuffer(base64.b64decode(kept["validation"]), np.uint8).reshape(-1, *shape).transpose(0, 3, 1, 2)
    validation = (torch.tensor(validation.astype(np.float32) / 255) - mean) / std
    if data["validation"] > len(validation):
        print(f"only {len(validation)} of {data['validation']} validation images are stored: CKA and patches are not checked")
    parents = {parent["id"]: network(folder / "weights" / f"parent-{parent['id']}.safetensors") for parent in plan["parents"]}
    blocks = {block["name"]: block for block in plan["blocks"]}
    wrong = readings = 0
    for path in children:
        record = json.loads((folder / "trials" / f"{path.stem[6:]}.json").read_text())["payload"]
        recorded = record["readings"]["test"]
        bits = np.unpackbits(np.frombuffer(base64.b64decode(record["readings"]["test_correct"]), np.uint8))[:len(labels)]
        child = network(path)
        with torch.inference_mode():
            logits = torch.cat([run(*child, x)[child[0]["output"]].flatten(1) for x in images.split(500)])
            problems = []
            if data["validation"] <= len(validation):
                problems = compare_readings(record, blocks.get(record["spec"]["block"]), parents[record["spec"]["parent"]], child, validation)
                readings += len((record["readings"].get("similarity") or {"layers": []})["layers"])
        best = logits.topk(2).values
        close = (best[:, 0] - best[:, 1] < 1e-4).numpy()
        flipped = ((logits.argmax(1) == labels).numpy() != bits.astype(bool))
        loss = F.cross_entropy(logits.double(), labels).item()
        same = not (flipped & ~close).any() and abs(loss - recorded["loss"]) <= 5e-5 * max(1, abs(loss)) and not problems
        wrong += not same
        spec = record["spec"]
        what = " ".join(str(spec[k]) for k in ("role", "block", "substitute", "init", "scheme", "seed") if spec[k] is not None)
        print(f"{'same' if same else 'DIFFERENT'}: {what}: {int(bits.sum())} correct, {int(flipped.sum())} flipped, "
              f"loss {recorded['loss']:.6f}, recomputed {loss:.6f}", *problems[:3], sep="; ")
    print(f"{len(children) - wrong} passed, {wrong} failed; {readings} tensors compared by CKA")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
