"""From a torch module to a network, by way of ONNX; of a module that cannot be read, the part that is the reason."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _nettriage
from ._nettriage import NettriageError

if TYPE_CHECKING:
    import torch

#: Most parts of a module that are exported one by one in search of the one that cannot be read.
_ATTEMPTS = 60

#: What a user can do about a part that cannot be read.
_REMEDY = "replace this part by layers that nettriage reads, or export the network before or after it alone"


def read(module: torch.nn.Module, example: torch.Tensor) -> tuple[_nettriage.Network, torch.Tensor]:
    """The network of a module, by the first exporter whose file is read, and the module's outputs on the example."""
    import torch

    try:
        import onnx  # noqa: F401: the exporters import it
    except ImportError as error:
        raise NettriageError("a torch module is read by way of ONNX, which needs the package onnx: pip install onnx") from error
    training = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        with torch.no_grad():
            inputs: dict[str, Any] = {}
            wanted = _run(module, example, inputs)
            if not isinstance(wanted, torch.Tensor):
                raise NettriageError(
                    f"{type(module).__name__} returns {type(wanted).__name__}; wrap it in a module whose forward returns one tensor"
                )
            inner, problems = _attempt(module, example)
            if inner is not None:
                return inner, wanted
            part = _named_part(module, " ".join(problems)) or _part_alone(module, inputs, problems)
    finally:
        for name, submodule in module.named_modules():
            submodule.training = training[name]
    reasons = "; by the other exporter: ".join(dict.fromkeys(problems))
    if part is None:
        raise NettriageError(f"{type(module).__name__} cannot be read: {reasons}")
    kind = type(module.get_submodule(part)).__name__
    raise NettriageError(f"{type(module).__name__} cannot be read because of its part {part}, a {kind}: {reasons}; {_REMEDY}")


def _run(module: torch.nn.Module, example: torch.Tensor, inputs: dict[str, Any]) -> Any:
    """The module's outputs; `inputs` gets the arguments that each part was called with."""

    def keep(name: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs.setdefault(name, arguments)

        return hook

    handles = [part.register_forward_pre_hook(keep(name)) for name, part in module.named_modules() if name]
    try:
        return module(example)
    finally:
        for handle in handles:
            handle.remove()


def _attempt(module: torch.nn.Module, example: torch.Tensor) -> tuple[_nettriage.Network | None, list[str]]:
    """The network, or why each exporter's file is none."""
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for exporter in (_by_tracing, _by_dynamo):
            path = Path(folder, f"{exporter.__name__}.onnx")
            try:
                exporter(module, example, path)
                return _nettriage.Network.load(path), []
            except ImportError as error:
                problems.append(f"{error.name or error} is not installed")
            except Exception as error:  # noqa: BLE001: exporters raise exceptions of every kind
                problems.append(_first_line(error).replace(str(path), path.name))
    return None, problems


def _by_tracing(module: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example[:1],),
            str(path),
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )


def _by_dynamo(module: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    import torch

    torch.onnx.export(module, (example[:1],), str(path), dynamo=True, external_data=False, optimize=True, verbose=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _named_part(module: torch.nn.Module, text: str) -> str | None:
    """The longest name of a part of the module that occurs in a message."""
    paths = sorted((name for name, _ in module.named_modules() if re.search("[a-zA-Z]", name)), key=len, reverse=True)
    for name in paths:
        if re.search(rf"(?<![\w.]){re.escape(name).replace(chr(92) + '.', '[./_]')}(?![\w])", text):
            return str(name)
    return None


def _part_alone(module: torch.nn.Module, inputs: dict[str, Any], problems: list[str]) -> str | None:
    """The smallest part that fails alone as the whole module does, on the input that it had there."""
    import torch

    wanted = {_without_places(problem) for problem in problems}
    left = _ATTEMPTS

    def fails(name: str) -> bool:
        nonlocal left
        arguments = inputs[name]
        if left == 0 or len(arguments) != 1 or not isinstance(arguments[0], torch.Tensor) or arguments[0].ndim != 4:
            return False
        left -= 1
        inner, found = _attempt(module.get_submodule(name), arguments[0])
        return inner is None and bool(wanted & {_without_places(problem) for problem in found})

    def parts(name: str) -> list[str]:
        """The parts of a part that were called; those of a list in place of the list."""
        own = [f"{name}.{child}" if name else child for child, _ in module.get_submodule(name).named_children()]
        return [part for child in own for part in ([child] if child in inputs else parts(child))]

    name = ""
    while failing := next((part for part in parts(name) if fails(part)), None):
        name = failing
    return name or None


def _without_places(problem: str) -> str:
    """A message without what differs between a part and the whole: names, shapes, numbers."""
    return re.sub(r"[/\w.:]*/[/\w.:]*|\d+", "", problem)
