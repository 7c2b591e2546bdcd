"""Data sets from arrays, tensors, torch data sets and loaders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import nettriage as nt

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (20, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(20) % 4


def same(data: nt.Dataset) -> bool:
    images, labels = data.arrays("train")
    return np.array_equal(images, PIXELS) and np.array_equal(labels, LABELS)


class Normalize:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


class Labelled(Dataset):
    """As torchvision's: images as floats, normalised by a transform."""

    classes = ["a", "b", "c", "d"]

    def __init__(self, transform: Normalize | None = None) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(PIXELS[index]).float() / 255
        return self.transform(image) if self.transform else image, int(LABELS[index])


def test_every_form_holds_the_same_bytes() -> None:
    floats = torch.from_numpy(PIXELS).float() / 255
    test = (PIXELS[:4], LABELS[:4])
    for train in [
        (PIXELS, LABELS),
        (np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1)), LABELS),
        (floats, torch.from_numpy(LABELS)),
        TensorDataset(floats, torch.from_numpy(LABELS)),
        DataLoader(TensorDataset(floats, torch.from_numpy(LABELS)), batch_size=7),
        Labelled(),
        Labelled(Normalize()),
        DataLoader(Labelled(Normalize()), batch_size=6),
        DataLoader(Subset(Labelled(Normalize()), range(20)), batch_size=6),
    ]:
        assert same(nt.Dataset(train, test)), type(train)
    assert nt.Dataset(Labelled(Normalize()), test).classes == ["a", "b", "c", "d"]
    normalised = (floats - 0.5) / 0.25
    assert same(nt.Dataset((normalised, LABELS), (normalised[:3], LABELS[:3]), mean=[0.5] * 3, std=[0.25] * 3))


def test_what_is_no_image_is_refused() -> None:
    test = (PIXELS[:4], LABELS[:4])
    floats = torch.from_numpy(PIXELS).float() / 255
    for train, words in [
        ((floats * 2 - 1, LABELS), "uint8 images, or mean= and std="),
        ((floats + 0.001, LABELS), "as ToTensor makes them"),
        ((PIXELS, LABELS[:5]), "20 images and 5 labels"),
        ((PIXELS, LABELS.astype(float)), "labels are float64"),
        ((PIXELS, LABELS - 1), "labels from -1"),
        ((PIXELS[0], LABELS), "3 images and 20 labels"),
        ((PIXELS[:, :, :, 0][:, 0], LABELS), r"\(N, C, H, W\)"),
        (7, "is none of"),
    ]:
        with pytest.raises(nt.NettriageError, match=words):
            nt.Dataset(train, test)
    with pytest.raises(nt.NettriageError, match="resize them to one size"):
        nt.Dataset((PIXELS, LABELS), (PIXELS[:, :, :4], LABELS))
    with pytest.raises(nt.NettriageError, match="test images are missing"):
        nt.Dataset((PIXELS, LABELS))
    with pytest.raises(nt.NettriageError, match="nosuch"):
        nt.Dataset("nosuch")
