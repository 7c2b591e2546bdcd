"""Data sets: images as bytes with labels, from arrays, tensors, data loaders, folders or by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _nettriage
from ._nettriage import NettriageError

#: How far from a byte a value may be, as a share of one step of 1/255, before it is refused.
_TOLERANCE = 0.02


class Dataset:
    """Training and test images with labels.

    nettriage keeps images as bytes, 0 to 255, and normalises them itself by the network's mean and standard deviation, so that every
    trial can crop and mirror them by its own seed. Images as floats are accepted if they are such bytes: scaled to 0..1, as
    ``torchvision.transforms.ToTensor`` does, or normalised after that by ``mean`` and ``std``.

    Parameters
    ----------
    train, test : (images, labels), torch Dataset, DataLoader, or str
        Images are arrays or tensors (N, C, H, W), or (N, H, W, C) of bytes with 1 or 3 channels. A data set yields (image, label), a
        loader batches of them; random transforms of a training set must be off. A name such as ``"cifar10"`` in place of ``train``
        opens a known set, ``test`` is then left out.
    classes : sequence of str, optional
        Names of the classes; taken from the data set's ``classes``, or numbers, if not given.
    mean, std : sequence of float, optional
        Normalisation that the images as floats have; taken from a ``Normalize`` in the data set's transforms if not given.
    name : str
        A name for reports.
    labelled : bool
        Whether labels may be used; without them a network's agreement with the original stands in for accuracy.

    Raises
    ------
    NettriageError
        Images that are no bytes, labels that are no classes, arrays of other lengths.
    """

    def __init__(
        self,
        train: Any,
        test: Any = None,
        *,
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "data",
        labelled: bool = True,
    ) -> None:
        if isinstance(train, str) and test is None:
            self._inner = _nettriage.Dataset.open(train, _known(train))
            return
        if test is None:
            raise NettriageError("test images are missing: Dataset(train=…, test=…)")
        (images, labels), (others, answers) = (
            _arrays(source, part, mean, std) for part, source in (("train", train), ("test", test))
        )
        if images.shape[1:] != others.shape[1:]:
            raise NettriageError(
                f"images of train are {images.shape[1:]} and of test {others.shape[1:]} (H, W, C): resize them to one size"
            )
        if classes is None:
            classes = getattr(_dataset_of(train), "classes", None)
        largest = int(max(labels.max(initial=0), answers.max(initial=0)))
        names = [str(name) for name in classes] if classes is not None else [str(k) for k in range(largest + 1)]
        height, width, channels = images.shape[1:]
        self._inner = _nettriage.Dataset.from_arrays(
            name, (channels, height, width), names, images.tobytes(), labels.tolist(), others.tobytes(), answers.tolist(), labelled
        )

    @classmethod
    def _of(cls, inner: _nettriage.Dataset) -> Dataset:
        dataset = cls.__new__(cls)
        dataset._inner = inner
        return dataset

    @classmethod
    def open(cls, name: str, directory: str | os.PathLike[str] | None = None) -> Dataset:
        """Open a known set.

        Parameters
        ----------
        name : str
            ``digits`` (embedded), ``mnist``, ``fashion-mnist``, ``cifar10`` or ``cifar100``.
        directory : path, optional
            Where its files are; ``$NETTRIAGE_DATA/<name>`` if not given.
        """
        return cls._of(_nettriage.Dataset.open(name, directory or _known(name)))

    @classmethod
    def folder(
        cls,
        path: str | os.PathLike[str],
        size: int | tuple[int, int],
        *,
        resize: int | None = None,
        skip_bad: bool = False,
    ) -> Dataset:
        """Open a folder or archive of images, ``train/<class>/…`` and ``val/<class>/…``.

        Parameters
        ----------
        path : path
            The folder or tar file.
        size : int or (int, int)
            Rows and columns of an image.
        resize : int, optional
            Length of the shorter side before the centre is cropped, such as 256 for a size of 224.
        skip_bad : bool
            Whether images that cannot be decoded are skipped and counted; otherwise they are an error.
        """
        height, width = (size, size) if isinstance(size, int) else size
        return cls._of(_nettriage.Dataset.folder(Path(path), height, width, resize, skip_bad))

    @property
    def name(self) -> str:
        """Its name."""
        return self._inner.name

    @property
    def classes(self) -> list[str]:
        """Names of the classes; a label is an index into them."""
        return self._inner.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self._inner.shape

    @property
    def notes(self) -> list[str]:
        """What was noticed while reading, such as images that were skipped."""
        return self._inner.notes

    def arrays(self, part: str = "test") -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images and labels of a part.

        Parameters
        ----------
        part : {"train", "test"}
            Which part.

        Returns
        -------
        images : array of uint8, (N, C, H, W)
        labels : array of int64, (N,)
        """
        if part not in ("train", "test"):
            raise NettriageError(f'part={part!r}: use "train" or "test"')
        channels, height, width = self.shape
        count = self._inner.counts[part == "test"]
        pixels, labels = self._inner.images(part == "test", 0, count)
        images = np.frombuffer(pixels, np.uint8).reshape(count, height, width, channels)
        return images.transpose(0, 3, 1, 2).copy(), np.asarray(labels, np.int64)

    def __repr__(self) -> str:
        train, test = self._inner.counts
        shape = "x".join(map(str, self.shape))
        return f"Dataset({self.name!r}: {train:,} training and {test:,} test images of {shape}, {len(self.classes)} classes)"


def _known(name: str) -> Path | None:
    root = os.environ.get("NETTRIAGE_DATA")
    return Path(root, name) if root and Path(root, name).exists() else None


def _dataset_of(source: Any) -> Any:
    """The data set behind a loader and behind subsets."""
    source = getattr(source, "dataset", source)
    while hasattr(source, "dataset") and hasattr(source, "indices"):
        source = source.dataset
    return source


def _normalisation(source: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation of a ``Normalize`` in the transforms of a data set."""
    transform = getattr(_dataset_of(source), "transform", None)
    for step in getattr(transform, "transforms", [transform]):
        if type(step).__name__ == "Normalize":
            return list(step.mean), list(step.std)
    return None


def _arrays(
    source: Any, part: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Images as bytes (N, H, W, C), and labels."""
    if mean is None and (found := _normalisation(source)):
        mean, std = found
    if isinstance(source, (tuple, list)) and len(source) == 2:
        batches: Iterable[tuple[Any, Any]] = [(source[0], source[1])]
    elif hasattr(source, "batch_size") and hasattr(source, "dataset"):
        batches = source
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        batches = ((_batch(image), np.asarray([int(label)])) for image, label in (source[k] for k in range(len(source))))
    else:
        raise NettriageError(
            f"{part}: {type(source).__name__} is none of (images, labels), a torch Dataset, a DataLoader, or the name of a known set"
        )
    images, labels = [], []
    for pixels, answers in batches:
        images.append(_bytes(_numpy(pixels), part, mean, std))
        labels.append(_labels(_numpy(answers), part))
    if not images:
        raise NettriageError(f"{part}: no images")
    pixels, answers = np.concatenate(images), np.concatenate(labels)
    if len(pixels) != len(answers):
        raise NettriageError(f"{part}: {len(pixels)} images and {len(answers)} labels")
    return pixels, answers


def _numpy(values: Any) -> npt.NDArray[Any]:
    """An array of a tensor, an array or an image."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _batch(image: Any) -> npt.NDArray[Any]:
    """One image as a batch; images of Pillow have their channels last."""
    array = _numpy(image)
    return array[None] if array.ndim == 3 else array[None, None] if not hasattr(image, "getbands") else array[None, :, :, None]


def _labels(labels: npt.NDArray[Any], part: str) -> npt.NDArray[np.uint16]:
    labels = labels.reshape(-1) if labels.ndim <= 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise NettriageError(f"{part}: labels are {labels.dtype} of shape {labels.shape}; give one whole number per image, its class")
    if labels.size and (labels.min() < 0 or labels.max() > 65534):
        raise NettriageError(f"{part}: labels from {labels.min()} to {labels.max()}; give 0 to the number of classes less one")
    return labels.astype(np.uint16)


def _bytes(
    images: npt.NDArray[Any], part: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> npt.NDArray[np.uint8]:
    """Images as bytes (N, H, W, C), exactly; refused if they are no bytes."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise NettriageError(f"{part}: images of shape {images.shape}; give (N, C, H, W)")
    channels_last = images.dtype == np.uint8 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images if channels_last else images.transpose(0, 2, 3, 1))
    values = images.astype(np.float64)
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        values = values * np.asarray(std, np.float64).reshape(shape) + np.asarray(mean, np.float64).reshape(shape)
    values *= 255.0
    rounded = np.rint(values)
    worst = float(np.abs(values - rounded).max(initial=0.0))
    if not (worst < _TOLERANCE and rounded.min(initial=0) >= 0 and rounded.max(initial=0) <= 255):
        raise NettriageError(
            f"{part}: images as floats must be bytes scaled to 0..1, as ToTensor makes them (values reach from {images.min():.3g} to "
            f"{images.max():.3g}); give uint8 images, or mean= and std= of their normalisation, and leave random transforms out"
        )
    return np.ascontiguousarray(rounded.astype(np.uint8).transpose(0, 2, 3, 1))
