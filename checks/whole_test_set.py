#!/usr/bin/env python3
"""Runs an exported network on all test images of CIFAR-10 in onnxruntime and compares with the logits of nettriage: the same class for
every image, and logits within 1e-4 of the largest.

    pip install numpy onnx onnxruntime
    nettriage evaluate MODEL.onnx --data cifar10 --data-dir FOLDER --logits LOGITS.npy
    python checks/whole_test_set.py MODEL.onnx FOLDER LOGITS.npy
"""
import pathlib
import sys
import tomllib

import numpy as np
import onnx

from reference_outputs import onnx_session

model, folder, logits = map(pathlib.Path, sys.argv[1:4])
onnx.checker.check_model(str(model), full_check=True)
info = tomllib.loads(pathlib.Path(f"{model}.toml").read_text())
records = np.fromfile(folder / "test_batch.bin", np.uint8).reshape(-1, 3073)
labels, images = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32)
mean, std = (np.array(info[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
session, image = onnx_session(str(model))
parts = [(images[start:start + 100].astype(np.float32) / 255 - mean) / std for start in range(0, len(images), 100)]
theirs = np.concatenate([session.run(None, {image.name: part})[0].reshape(len(part), -1) for part in parts])
ours = np.load(logits)
assert theirs.shape == ours.shape == (10_000, 10), (theirs.shape, ours.shape)
worst = np.abs(theirs - ours).max() / np.abs(theirs).max()
differ = int((theirs.argmax(1) != ours.argmax(1)).sum())
assert worst <= 1e-4 and differ == 0, f"{model}: largest relative difference {worst}, {differ} classes differ"
print(f"10000 images, the same class for each ({(theirs.argmax(1) == labels).mean():.2%} right), logits within {worst:.1e}")
