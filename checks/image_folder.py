#!/usr/bin/env python3
"""Writes images that `nettriage data show NAME --arrays DIR` has written as a folder of JPEG files, one folder for each class.

    pip install numpy pillow
    python checks/image_folder.py ARRAYS FOLDER [--train N] [--test N] [--size S]

FOLDER gets train/<class>/<index>.jpg and test/<class>/<index>.jpg, images of S x S pixels.
"""
import argparse, pathlib
import numpy as np
from PIL import Image


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("arrays", type=pathlib.Path); a.add_argument("folder", type=pathlib.Path)
    a.add_argument("--train", type=int, default=600); a.add_argument("--test", type=int, default=200)
    a.add_argument("--size", type=int, default=16)
    a = a.parse_args()
    for part, count in (("train", a.train), ("test", a.test)):
        images, labels = (np.load(a.arrays / f"{part}-{what}.npy")[:count] for what in ("images", "labels"))
        for index, (image, label) in enumerate(zip(images, labels)):
            path = a.folder / part / f"class{label}" / f"{index:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.squeeze()).convert("RGB").resize((a.size, a.size), Image.Resampling.BICUBIC).save(path, quality=90)


if __name__ == "__main__":
    main()
