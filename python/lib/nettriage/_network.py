"""Networks: from a torch module or a file, and back."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _export, _nettriage, _toml, _torch_source
from ._nettriage import NettriageError

if TYPE_CHECKING:
    import pandas
    import torch


class Network:
    """A network as plain data: a graph of layers with their weights.

    Made by :meth:`from_torch` or :meth:`load`. Layers have the names of the module's parts, such as ``layer3.1.conv2``.
    """

    def __init__(self, inner: _nettriage.Network) -> None:
        self._inner = inner
        self._layers: list[dict[str, Any]] = json.loads(inner.layers_json())

    @classmethod
    def from_torch(
        cls,
        module: torch.nn.Module,
        example: torch.Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Network:
        """Take a trained module.

        The module is exported to ONNX in evaluation mode, with its batch norms as layers of their own; it is left as it was.

        Parameters
        ----------
        module : torch.nn.Module
            A network of one input and one output.
        example : torch.Tensor
            An input, (N, C, H, W).
        mean, std : sequence of float, optional
            Normalisation per channel that the module was trained with, of pixels scaled to 0..1; if not given, that of the training
            images is used.
        classes : sequence of str, optional
            Names of the classes, in the order of the outputs.

        Returns
        -------
        Network
            The network; its outputs on ``example`` are the module's.

        Raises
        ------
        NettriageError
            A module that cannot be exported or read, by the names of its parts; outputs that differ.
        """
        inner, outputs = _export.read(module, example)
        _compare(inner, module, example, outputs)
        return cls(inner).with_info(mean=mean, std=std, classes=classes)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        arch: str | None = None,
        key: str | None = None,
        output: str | None = None,
        input: tuple[int, int, int] | None = None,
        classes: int | None = None,
    ) -> Network:
        """Read an ONNX, safetensors or PyTorch file; nothing in it is executed.

        Parameters
        ----------
        path : path
            The file.
        arch : str, optional
            A built-in architecture or a file that holds the graph, for files that hold weights only.
        key : str, optional
            Which weights of a checkpoint with several sets.
        output : str, optional
            Which output of an ONNX model with several.
        input : (int, int, int), optional
            (C, H, W) of an image, where the file leaves it open.
        classes : int, optional
            Number of classes, for a built-in architecture.
        """
        return cls(_nettriage.Network.load(Path(path), arch, key, output, None if input is None else list(input), classes))

    def with_info(
        self,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Network:
        """The same network with this normalisation and these class names."""
        if (mean is None) != (std is None):
            raise NettriageError("mean and std go together")
        as_list = [None if values is None else [float(value) for value in values] for values in (mean, std)]
        names = None if classes is None else [str(name) for name in classes]
        return Network(self._inner.with_info(as_list[0], as_list[1], names))

    @property
    def name(self) -> str:
        """The graph's name."""
        return self._inner.name

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an input."""
        shape = self.graph["input"]
        return shape["channels"], shape["height"], shape["width"]

    @property
    def graph(self) -> dict[str, Any]:
        """The graph: its layers in order, with their settings and inputs."""
        return json.loads(self._inner.graph_json())  # type: ignore[no-any-return]

    @property
    def blocks(self) -> dict[str, list[str]]:
        """The default blocks by name, with the names of their layers."""
        found: dict[str, list[str]] = {}
        for layer in self._layers:
            if layer["block"] is not None:
                found.setdefault(layer["block"], []).append(layer["name"])
        return found

    def _layer(self, name: str) -> str:
        """The layer of this name, or that of the module of this name, such as an activation, whose layer has the name of its node."""
        names = [layer["name"] for layer in self._layers]
        of_module = [own for own in names if own.rpartition("/")[0].rpartition("/")[2] == name]
        return of_module[0] if name not in names and len(of_module) == 1 else name

    def _blocks(self, blocks: Mapping[str, tuple[str, str]] | None) -> str:
        """Blocks as sections of a study file."""
        tables = [
            _toml.table("[triage.block]", {"name": name, "first": self._layer(first), "last": self._layer(last)})
            for name, (first, last) in (blocks or {}).items()
        ]
        return "\n".join(tables)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(layer["parameters"] for layer in self._layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return sum(layer["macs"] for layer in self._layers)

    @property
    def mean(self) -> list[float]:
        """Normalisation mean per channel; empty if unknown."""
        return self._inner.mean

    @property
    def std(self) -> list[float]:
        """Normalisation standard deviation per channel; empty if unknown."""
        return self._inner.std

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty if unknown."""
        return self._inner.classes

    @property
    def notes(self) -> list[str]:
        """How the file was read, as far as a user should know."""
        return self._inner.notes

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every weight by its name, in PyTorch's layout."""
        return {
            name: np.frombuffer(data, np.float32).reshape(shape).copy() for name, (shape, data) in self._inner.weights().items()
        }

    def outputs(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Outputs in evaluation mode.

        Parameters
        ----------
        images : array of float32, (N, C, H, W)
            Normalised images.

        Returns
        -------
        array of float32, (N, outputs)
        """
        batch = np.asarray(images, np.float32)
        if batch.ndim != 4 or batch.shape[1:] != self.input_shape:
            raise NettriageError(f"images of shape {batch.shape}; the network takes (N, {', '.join(map(str, self.input_shape))})")
        packed = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).tobytes()
        return np.frombuffer(self._inner.outputs(packed), np.float32).reshape(len(batch), -1).copy()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network as ONNX or safetensors, by the ending of the name, with its normalisation in a file beside it."""
        self._inner.save(Path(path))
        return Path(path)

    def to_source(self, path: str | os.PathLike[str] | None = None, name: str = "Network") -> str:
        """The network as the source of a PyTorch module, without its weights.

        Parameters
        ----------
        path : path, optional
            Where to write it.
        name : str
            The class's name.
        """
        source = _torch_source.source(self.graph, {key: shape for key, (shape, _) in self._inner.weights().items()}, name)
        if path is not None:
            Path(path).write_text(source, encoding="utf-8")
        return source

    def to_torch(self) -> torch.nn.Module:
        """The network as a PyTorch module in evaluation mode, with its weights: to train, compile or export.

        Returns
        -------
        torch.nn.Module
            Its parts have the names of the layers; its source is that of :meth:`to_source`.
        """
        return _torch_source.module(self.to_source(), self.weights())

    def to_frame(self) -> pandas.DataFrame:
        """One row per layer: name, kind, output shape (C, H, W), parameters, multiply-accumulates, block."""
        import pandas

        return pandas.DataFrame(self._layers)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        return (
            f"Network({self.name!r}: {len(self._layers)} layers, input {shape}, {self.parameters:,} parameters, "
            f"{self.macs:,} multiply-accumulates, blocks {', '.join(self.blocks) or 'none'})"
        )

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(layer['name'])}</td><td>{escape(layer['kind'])}</td><td>{'x'.join(map(str, layer['shape']))}</td>"
            f"<td>{layer['parameters']:,}</td><td>{layer['macs']:,}</td><td>{escape(layer['block'] or '')}</td></tr>"
            for layer in self._layers
        )
        head = "".join(f"<th>{title}</th>" for title in ("layer", "kind", "output", "parameters", "MACs", "block"))
        return f"<details><summary>{escape(repr(self))}</summary><table><tr>{head}</tr>{rows}</table></details>"


#: Largest difference between a module's outputs and those of the network that was read, relative to the largest output.
_AGREEMENT = 1e-4


#: A module whose own error of rounding is large, such as one with a norm that divides by a variance near zero, is compared with its
#: outputs in double precision: the network's error may be this many times the module's, since both add in other orders.
_ROUNDING = 10


def _compare(inner: _nettriage.Network, module: torch.nn.Module, example: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a network whose outputs on the example are not the module's."""
    found = Network(inner).outputs(example.detach().cpu().numpy())

    def rows(outputs: torch.Tensor) -> npt.NDArray[np.float64]:
        values = outputs.detach().cpu().double().numpy()
        flat = values.reshape(len(example), -1)
        # A graph that ends in a feature map: the network's rows are (H, W, C).
        return flat if flat.shape == found.shape else values.transpose(0, 2, 3, 1).reshape(len(example), -1)

    def difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
        return float(np.abs(one - other).max()) / max(float(np.abs(other).max()), 1e-12)

    expected = rows(wanted)
    apart = difference(found, expected)
    if apart <= _AGREEMENT:
        return
    exact = _in_double(module, example)
    own = np.inf if exact is None else difference(expected, rows(exact))
    if exact is None or not difference(found, rows(exact)) <= _ROUNDING * own:
        raise NettriageError(f"the network that was read differs from the module by {apart:.2g} of its largest output; please report it")
    warnings.warn(
        f"the module's outputs in single precision differ from those in double precision by {own:.2g} of the largest, and the "
        f"network's from the module's by {apart:.2g}: an input of the module is close to constant, or a norm divides by almost zero",
        stacklevel=3,
    )


def _in_double(module: torch.nn.Module, example: torch.Tensor) -> torch.Tensor | None:
    """The module's outputs in double precision; None if it cannot compute so."""
    import torch

    twin = copy.deepcopy(module).double().eval()
    try:
        with torch.no_grad():
            outputs = twin(example.detach().double())
    except RuntimeError:
        return None
    return outputs if isinstance(outputs, torch.Tensor) else None
