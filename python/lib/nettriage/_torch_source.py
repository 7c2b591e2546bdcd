"""The source of a PyTorch module that computes a graph."""

from __future__ import annotations

import keyword
import linecache
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._nettriage import NettriageError

if TYPE_CHECKING:
    import torch

Layer = dict[str, Any]
Shapes = dict[str, list[int]]

#: Classes that the source needs where the graph has such layers.
_PARTS = {
    "ChannelAffine": '''
class ChannelAffine(nn.Module):
    """y = x * weight + bias, per channel."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    def forward(self, x):
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)
''',
    "Part": '''
class Part(nn.Module):
    """Holds the layers of a part of the network by their names."""

    def __getitem__(self, name):
        return getattr(self, name)
''',
}


def source(graph: dict[str, Any], weights: Shapes, name: str = "Network") -> str:
    """Source of a class of that name. `weights` has the shape of every weight."""
    writer = _Writer(graph, weights)
    return writer.write(name)


def module(text: str, weights: dict[str, npt.NDArray[np.float32]], name: str = "Network") -> torch.nn.Module:
    """The module of a source, with its weights, in evaluation mode."""
    import torch

    # Where tracebacks and torch.compile look for the lines.
    file = f"<nettriage {hash(text) & 0xFFFFFFFF:08x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"__name__": "nettriage.generated"}
    exec(compile(text, file, "exec"), space)  # noqa: S102: the text is made here, from a graph whose names are checked
    network: torch.nn.Module = space[name]()
    missing, unexpected = network.load_state_dict(
        {key: torch.from_numpy(value.copy()) for key, value in weights.items()}, strict=False
    )
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise NettriageError(f"weights that do not fit the module: missing {missing}, unexpected {unexpected}")
    return network.eval()


class _Writer:
    def __init__(self, graph: dict[str, Any], weights: Shapes) -> None:
        self.graph, self.weights = graph, weights
        self.parts: set[str] = set()
        #: Constructor of every layer that has one, by the layer's name.
        self.constructors: dict[str, str] = {}
        self.variables = {"input": "x"}
        #: Variables of two axes, (N, C): outputs of fully connected layers, and what follows them.
        self.flat: set[str] = set()

    def write(self, name: str) -> str:
        lines = []
        for layer in self.graph["layers"]:
            inputs = [self.variables[key] for key in layer["inputs"]]
            flat = self.is_flat(layer, inputs)
            if not flat:
                inputs = [f"{x}[:, :, None, None]" if x in self.flat else x for x in inputs]
            expression = self.expression(layer, inputs, flat)
            variable = f"t{len(self.variables)}"
            self.flat |= {variable} if flat else set()
            self.variables[layer["name"]] = variable
            lines.append(f"        {variable} = {expression}")
        lines.append(f"        return {self.variables[self.graph['output']]}")
        constructors = self.containers()
        head = ['"""A network, written by nettriage."""\n\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n']
        head += [_PARTS[part] for part in sorted(self.parts)]
        shape = self.graph["input"]
        comment = f"input (N, {shape['channels']}, {shape['height']}, {shape['width']})"
        body = "\n".join([*constructors, "", "    def forward(self, x):", *lines])
        return "\n".join(head) + f'\n\nclass {name}(nn.Module):\n    """{_text(self.graph["name"])}: {comment}."""\n\n' + body + "\n"

    def is_flat(self, layer: Layer, inputs: list[str]) -> bool:
        """Whether the output has two axes: after a fully connected layer, until a layer needs rows and columns."""
        if layer["kind"] in ("linear", "flatten"):
            return True
        keeps = ("activation", "dropout", "batch-norm", "affine", "add", "mul", "concat", "slice", "softmax", "identity")
        return layer["kind"] in keeps and all(x in self.flat for x in inputs)

    def containers(self) -> list[str]:
        """The lines of `__init__`."""
        lines = ["    def __init__(self):", "        super().__init__()"]
        made: set[str] = set()
        for name, constructor in self.constructors.items():
            steps = name.split(".")
            for end in range(1, len(steps)):
                path = ".".join(steps[:end])
                if path not in made:
                    made.add(path)
                    self.parts.add("Part")
                    lines.append(self.attach(path, "Part()"))
            lines.append(self.attach(name, constructor))
        return lines

    def attach(self, name: str, constructor: str) -> str:
        *path, last = name.split(".")
        owner = self.reference(".".join(path)) if path else "self"
        if _is_name(last):
            return f"        {owner}.{last} = {constructor}"
        return f"        {owner}.add_module({last!r}, {constructor})"

    def reference(self, name: str) -> str:
        text = "self"
        for depth, step in enumerate(name.split(".")):
            text += f".{step}" if _is_name(step) else f"[{step!r}]" if depth else f".get_submodule({step!r})"
        return text

    def own(self, layer: Layer, constructor: str) -> str:
        """A layer with a module of its own; the text that refers to it."""
        name = layer["name"]
        if any(step == "" for step in name.split(".")) or name in ("forward", "training"):
            raise NettriageError(f"layer {name!r}: a module of PyTorch cannot have this name; rename the layer")
        self.constructors[name] = constructor
        return self.reference(name)

    def shape(self, layer: Layer, weight: str = "weight") -> list[int]:
        return self.weights[f"{layer['name']}.{weight}"]

    def expression(self, layer: Layer, inputs: list[str], flat: bool) -> str:
        """What the layer computes, as an expression of PyTorch."""
        kind = layer["kind"]
        write: Callable[[Layer, list[str]], str] | None = getattr(self, "_" + kind.replace("-", "_"), None)
        if write is None:
            raise NettriageError(f"layer {layer['name']!r}: {kind} has no form in PyTorch here; save the network as ONNX instead")
        if kind == "batch-norm":
            return self._batch_norm(layer, inputs, flat)
        return write(layer, inputs)

    def _conv(self, layer: Layer, inputs: list[str]) -> str:
        weight, x = self.shape(layer), inputs[0]
        padding, x = _padding(layer["padding"], x)
        options = f"stride={tuple(layer['stride'])}, padding={padding}, dilation={tuple(layer['dilation'])}, groups={layer['groups']}"
        channels = weight[1] * layer["groups"]
        made = f"nn.Conv2d({channels}, {weight[0]}, {tuple(layer['kernel'])}, {options}, bias={layer['bias']})"
        return f"{self.own(layer, made)}({x})"

    def _conv_transpose(self, layer: Layer, inputs: list[str]) -> str:
        weight, conv, pad = self.shape(layer), layer["conv"], layer["conv"]["padding"]
        even = pad["top"] == pad["bottom"] and pad["left"] == pad["right"]
        padding = (pad["top"], pad["left"]) if even else (0, 0)
        options = f"stride={tuple(conv['stride'])}, padding={padding}, output_padding={tuple(layer['output_padding'])}"
        options += f", groups={conv['groups']}, bias={conv['bias']}, dilation={tuple(conv['dilation'])}"
        channels = weight[1] * conv["groups"]
        made = f"nn.ConvTranspose2d({weight[0]}, {channels}, {tuple(conv['kernel'])}, {options})"
        call = f"{self.own(layer, made)}({inputs[0]})"
        rows, columns = (f"{pad[a]}:{-pad[b] or None}" for a, b in (("top", "bottom"), ("left", "right")))
        return call if even else f"{call}[:, :, {rows}, {columns}]"

    def _linear(self, layer: Layer, inputs: list[str]) -> str:
        weight = self.shape(layer)
        made = self.own(layer, f"nn.Linear({weight[1]}, {weight[0]}, bias={layer['bias']})")
        return f"{made}({inputs[0] if inputs[0] in self.flat else inputs[0] + '.flatten(1)'})"

    def _batch_norm(self, layer: Layer, inputs: list[str], flat: bool = False) -> str:
        made = f"nn.BatchNorm{1 if flat else 2}d({self.shape(layer)[0]}, eps={_number(layer['eps'])}, momentum={_number(layer['momentum'])})"
        return f"{self.own(layer, made)}({inputs[0]})"

    def _affine(self, layer: Layer, inputs: list[str]) -> str:
        self.parts.add("ChannelAffine")
        return f"{self.own(layer, f'ChannelAffine({self.shape(layer)[0]})')}({inputs[0]})"

    def _activation(self, layer: Layer, inputs: list[str]) -> str:
        x, function = inputs[0], layer["function"]
        number = {key: _number(value) for key, value in layer.items() if isinstance(value, float)}
        simple = {
            "relu": "F.relu({x})",
            "leaky-relu": "F.leaky_relu({x}, {slope})",
            "clip": "torch.clamp({x}, {min}, {max})",
            "sigmoid": "torch.sigmoid({x})",
            "hard-sigmoid": "torch.clamp({alpha} * {x} + {beta}, 0.0, 1.0)",
            "hard-swish": "F.hardswish({x})",
            "silu": "F.silu({x})",
            "mish": "F.mish({x})",
            "tanh": "torch.tanh({x})",
            "elu": "F.elu({x}, {alpha})",
        }
        if function == "prelu":
            return f"{self.own(layer, f'nn.PReLU({self.shape(layer)[0]})')}({x})"
        if function == "gelu":
            return f'F.gelu({x}, approximate="tanh")' if layer["tanh"] else f"F.gelu({x})"
        if function not in simple:
            raise NettriageError(f"layer {layer['name']!r}: {function} has no form in PyTorch here; save the network as ONNX instead")
        return simple[function].format(x=x, **number)

    def _max_pool(self, layer: Layer, inputs: list[str]) -> str:
        padding, x = _padding(layer["padding"], inputs[0], "-torch.inf", tuple(size // 2 for size in layer["kernel"]))
        return f"F.max_pool2d({x}, {tuple(layer['kernel'])}, {tuple(layer['stride'])}, {padding})"

    def _avg_pool(self, layer: Layer, inputs: list[str]) -> str:
        window, x = layer["window"], inputs[0]
        kernel, stride = tuple(window["kernel"]), tuple(window["stride"])
        limit = tuple(size // 2 for size in kernel)
        counted = layer["count_padding"]
        if counted or _is_even(window["padding"], limit):
            padding, x = _padding(window["padding"], x, "0.0", limit)
            counts = "" if counted else ", count_include_pad=False"
            return f"F.avg_pool2d({x}, {kernel}, {stride}, {padding}{counts})"
        # The mean of what is inside: the mean of the padded input over that of a padded plane of ones.
        padding, padded = _padding(window["padding"], x, "0.0", (0, 0))
        _, ones = _padding(window["padding"], f"torch.ones_like({x}[:1, :1])", "0.0", (0, 0))
        mean = f"F.avg_pool2d({{}}, {kernel}, {stride}, {padding})"
        return f"{mean.format(padded)} / {mean.format(ones)}"

    def _adaptive_avg_pool(self, layer: Layer, inputs: list[str]) -> str:
        return f"F.adaptive_avg_pool2d({inputs[0]}, {(layer['height'], layer['width'])})"

    def _add(self, layer: Layer, inputs: list[str]) -> str:
        return " + ".join(inputs)

    def _mul(self, layer: Layer, inputs: list[str]) -> str:
        return " * ".join(inputs)

    def _concat(self, layer: Layer, inputs: list[str]) -> str:
        return f"torch.cat([{', '.join(inputs)}], 1)"

    def _flatten(self, layer: Layer, inputs: list[str]) -> str:
        return f"{inputs[0]}.flatten(1)"

    def _reshape(self, layer: Layer, inputs: list[str]) -> str:
        shape = layer["shape"]
        return f"{inputs[0]}.reshape(-1, {shape['channels']}, {shape['height']}, {shape['width']})"

    def _channel_shuffle(self, layer: Layer, inputs: list[str]) -> str:
        return f"F.channel_shuffle({inputs[0]}, {layer['groups']})"

    def _slice(self, layer: Layer, inputs: list[str]) -> str:
        return f"{inputs[0]}[:, {layer['start']}:{layer['end']}]"

    def _pad(self, layer: Layer, inputs: list[str]) -> str:
        sides, channels = layer["padding"], layer["channels"]
        widths = (sides["left"], sides["right"], sides["top"], sides["bottom"], *channels)
        return f"F.pad({inputs[0]}, {widths}, value={_number(layer['value'])})"

    def _upsample(self, layer: Layer, inputs: list[str]) -> str:
        return f"F.interpolate({inputs[0]}, scale_factor={tuple(float(factor) for factor in layer['factor'])})"

    def _local_response_norm(self, layer: Layer, inputs: list[str]) -> str:
        alpha, beta, bias = (_number(layer[key]) for key in ("alpha", "beta", "bias"))
        return f"F.local_response_norm({inputs[0]}, {layer['size']}, alpha={alpha}, beta={beta}, k={bias})"

    def _dropout(self, layer: Layer, inputs: list[str]) -> str:
        return f"F.dropout({inputs[0]}, {_number(layer['p'])}, self.training)"

    def _softmax(self, layer: Layer, inputs: list[str]) -> str:
        return f"F.{'log_' if layer['log'] else ''}softmax({inputs[0]}, 1)"

    def _identity(self, layer: Layer, inputs: list[str]) -> str:
        return inputs[0]


def _is_name(step: str) -> bool:
    return step.isidentifier() and not keyword.iskeyword(step)


def _text(name: str) -> str:
    """A name within a docstring."""
    return "".join(character if character.isalnum() or character in " ._-/" else "_" for character in name)


def _number(value: float) -> str:
    """The shortest decimal that is the same 32-bit number."""
    return str(float(str(np.float32(value))))


def _is_even(sides: dict[str, int], limit: tuple[int, int]) -> bool:
    even = sides["top"] == sides["bottom"] and sides["left"] == sides["right"]
    return even and sides["top"] <= limit[0] and sides["left"] <= limit[1]


def _padding(
    sides: dict[str, int], x: str, value: str = "0.0", limit: tuple[int, int] = (1 << 30, 1 << 30)
) -> tuple[tuple[int, int], str]:
    """The padding that the operation takes itself, and its input, padded beforehand where the sides differ."""
    if _is_even(sides, limit):
        return (sides["top"], sides["left"]), x
    widths = (sides["left"], sides["right"], sides["top"], sides["bottom"])
    return (0, 0), f"F.pad({x}, {widths}, value={value})"
