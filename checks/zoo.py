#!/usr/bin/env python3
"""Exports the networks of torchvision and timm with both of PyTorch's exporters, and checks that nettriage reads, runs,
writes and trains them as onnxruntime and PyTorch do.

    pip install numpy onnx onnxruntime onnxscript timm torch torchvision
    cargo build --release -p nettriage-cli --example check_network
    python checks/zoo.py FOLDER                     # all networks
    python checks/zoo.py FOLDER --only vit,levit    # those whose name contains one of these
    python checks/zoo.py FOLDER --fixed             # twelve, one of every kind of structure
    python checks/zoo.py FOLDER --commit HASH       # twelve fixed networks and a twelfth of the others, chosen by the hash

Weights are random, and so are the statistics and scales of all norms. Each file is compared in four ways:

1. outputs for seeded inputs: onnxruntime's, within 1e-4 of the largest;
2. written as ONNX and read again: the same outputs to the bit, and onnxruntime's of the written file within 1e-4;
3. gradients of a weighted sum of the outputs, in evaluation mode: PyTorch's, within 1e-3 of the largest of each weight. A network has
   up to a million ReLUs, and often one of them is so close to zero that rounding decides on its side. Such an input is replaced by the
   next one, at most `DRAWS` times; a wrong gradient differs for every input;
4. a network that is refused must be refused with the name of a node, for the reason that `REFUSED` gives.

FOLDER keeps the exported files, so that a second run only repeats the checks. The last lines count what passed for each exporter.
A wrong number is an error, and so is whatever differs from `REFUSED` and `NOT_EXPORTED`: a new refusal, another reason, or a file that
passes although it is listed.
"""
import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

# How many inputs a file's gradients may be compared for, until they agree for one.
DRAWS = 4

# The largest relative error of a gradient.
GRADIENT = 1e-3

# Networks that CI always runs, one of every kind of structure.
FIXED = [
    "mobilenet_v3_small", "googlenet", "tf_efficientnet_lite0", "ecaresnet26t", "skresnet18", "convnext_atto", "poolformer_s12",
    "deit_tiny", "swin_t", "lraspp_mobilenet_v3_large", "unet", "edsr",
]

# name: (library, model, image, arguments)
TORCHVISION = {
    "alexnet": (64, {}), "vgg11": (64, {}), "vgg11_bn": (64, {}), "resnet18": (64, {}), "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}), "wide_resnet50_2": (64, {}), "densenet121": (64, {}),
    "googlenet": (64, {"transform_input": True, "aux_logits": False, "init_weights": False}),
    "inception_v3": (96, {"transform_input": True, "aux_logits": False, "init_weights": False}),
    "mobilenet_v2": (64, {}), "mobilenet_v3_small": (64, {}), "mobilenet_v3_large": (64, {}), "shufflenet_v2_x1_0": (64, {}),
    "squeezenet1_1": (64, {}), "mnasnet1_0": (64, {}), "efficientnet_b0": (64, {}), "efficientnet_v2_s": (64, {}),
    "regnet_y_400mf": (64, {}), "regnet_x_400mf": (64, {}), "convnext_tiny": (64, {}), "swin_t": (64, {}), "swin_v2_t": (64, {}),
    "maxvit_t": (224, {}), "vit_b_16": (64, {"image_size": 64}),
    "lraspp_mobilenet_v3_large": (64, {}), "fcn_resnet50": (64, {}), "deeplabv3_resnet50": (64, {}),
}
TIMM = {
    "resnet18d": (64, {}), "seresnet18": (64, {}), "resnet26t": (64, {}), "ecaresnet26t": (64, {}), "skresnet18": (64, {}), "resnest14d": (64, {}),
    "res2net50_26w_4s": (64, {}), "resnetv2_50x1_bit": (64, {}), "resnetv2_50": (64, {}), "tf_efficientnet_lite0": (64, {}), "tf_efficientnet_b0": (64, {}),
    "mixnet_s": (64, {}), "tf_mixnet_s": (64, {}), "mobilenetv3_small_100": (64, {}), "mobilenetv4_conv_small": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}), "ghostnet_100": (64, {}), "ghostnetv2_100": (64, {}), "hardcorenas_a": (64, {}), "fbnetc_100": (64, {}),
    "rexnet_100": (64, {}), "lcnet_050": (64, {}), "tinynet_e": (64, {}), "dla34": (64, {}), "hrnet_w18_small": (64, {}),
    "ese_vovnet19b_dw": (64, {}), "selecsls42b": (64, {}), "dpn48b": (64, {}), "xception41": (96, {}), "inception_v4": (96, {}),
    "nf_resnet26": (64, {}), "nf_regnet_b0": (64, {}), "dm_nfnet_f0": (64, {}), "eca_nfnet_l0": (64, {}), "repvgg_a0": (64, {}),
    "cspresnet50": (64, {}), "cspdarknet53": (64, {}), "darknet53": (64, {}), "gernet_s": (64, {}), "regnetz_b16": (64, {}), "regnety_002": (64, {}),
    "mixer_s32_224": (224, {}), "gmlp_ti16_224": (224, {}), "resmlp_12_224": (224, {}), "convmixer_768_32": (64, {}),
    "poolformer_s12": (64, {}), "poolformerv2_s12": (64, {}), "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "deit_tiny_patch16_224": (64, {"img_size": 64}), "deit_tiny_distilled_patch16_224": (64, {"img_size": 64}),
    "deit3_small_patch16_224": (64, {"img_size": 64}), "cait_xxs24_224": (64, {"img_size": 64}), "levit_128s": (224, {}),
    "convit_tiny": (224, {}), "xcit_nano_12_p16_224": (64, {"img_size": 64}), "pit_ti_224": (224, {}),
    "swin_tiny_patch4_window7_224": (224, {}), "swinv2_cr_tiny_224": (224, {}), "coatnet_nano_rw_224": (224, {}),
    "maxvit_pico_rw_256": (256, {}), "edgenext_xx_small": (64, {}), "mobilevit_xxs": (64, {}), "mobilevitv2_050": (64, {}),
    "efficientformer_l1": (224, {}), "efficientformerv2_s0": (224, {}), "efficientvit_b0": (64, {}), "efficientvit_m0": (224, {}),
    "fastvit_t8": (64, {}), "repvit_m1": (64, {}), "inception_next_atto": (64, {}), "convnext_atto": (64, {}), "convnextv2_atto": (64, {}),
    "focalnet_tiny_srf": (64, {}), "davit_tiny": (224, {}), "twins_pcpvt_small": (224, {}), "pvt_v2_b0": (64, {}), "tnt_s_legacy_patch16_224": (224, {}),
    "visformer_tiny": (224, {}), "volo_d1_224": (224, {}), "beit_base_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}), "crossvit_tiny_240": (240, {}), "nest_tiny": (224, {}), "starnet_s1": (64, {}),
    "mambaout_femto": (64, {}), "tiny_vit_5m_224": (224, {}), "hiera_tiny_224": (224, {}), "swiftformer_xs": (224, {}), "hgnetv2_b0": (64, {}),
    "vit_relpos_small_patch16_224": (64, {"img_size": 64, "depth": 3}), "sequencer2d_s": (224, {}), "visformer_small": (224, {}),
    "gcresnet33ts": (64, {}), "botnet26t_256": (256, {}), "lambda_resnet26t": (256, {}), "halonet26t": (256, {}), "gcvit_xxtiny": (224, {}),
}
SHORT = {
    "deit_tiny": "deit_tiny_patch16_224",
}

# Files that are refused, each with a part of the message. `NAME` stands for the files of both exporters, `NAME.old` for one.
REFUSED = {
    # Convolutions of windows, which are neither images nor feature maps of them.
    "timm_efficientvit_m0": "is not a batch of feature maps",
    "timm_volo_d1_224": "(Col2Im): this operator is not supported",
    "timm_crossvit_tiny_240": "its mode is `cubic`; nearest and linear are supported",
    # Recurrent layers are out of scope.
    "timm_sequencer2d_s": "(LSTM): this operator is not supported",
    # Convolutions in three dimensions are out of scope.
    "timm_lambda_resnet26t": "(Conv): its input of shape [1, 1, 16, 16, 64] is not a batch of feature maps",
}
# Files that PyTorch cannot write or onnxruntime cannot run, each with a part of the message.
NOT_EXPORTED = {
    "alexnet.old": "adaptive_avg_pool2d, output size that are not factor of input size",
    "vgg11.old": "adaptive_avg_pool2d, output size that are not factor of input size",
    "vgg11_bn.old": "adaptive_avg_pool2d, output size that are not factor of input size",
    "vit_b_16.old": "aten::_native_multi_head_attention",
    "timm_volo_d1_224.old": "Occurred when translating col2im",
    "timm_eva02_tiny_patch14_224.old": "argument 'is_causal' must be bool, not Tensor",
    "timm_halonet26t.old": 'onnx::Pad[mode="constant"](%kv',
    "timm_nest_tiny.new": "only 4D query, key, and value are supported",
    "timm_hiera_tiny_224.new": "only 4D query, key, and value are supported",
}
# Networks whose norms get half the weight. Otherwise the attention of a Visformer is saturated: PyTorch's own outputs in f32 then differ from
# those in f64 by up to 9e-3 of the largest (three inputs).
HALVED = ("timm_visformer_tiny", "timm_visformer_small")
# Parameters whose gradients are not compared, since a part of each is folded into another weight.
FOLDED = {
    # The class token is joined to the others, and added to the output of a linear layer: it becomes a part of the bias of that layer.
    "timm_cait_xxs24_224": ("cls_token",),
}


def architectures():
    """Name, and a function that makes the module and the shape of an image."""
    import timm
    import torchvision

    def vision(name, size, arguments):
        segmentation = name.startswith(("lraspp", "fcn", "deeplab"))
        library = torchvision.models.segmentation if segmentation else torchvision.models
        if segmentation:
            arguments = {"weights": None, "weights_backbone": None, **arguments}
        module = getattr(library, name)(**arguments)
        return (OutputOf(module, "out") if segmentation else module), (3, size, size)

    for name, (size, arguments) in TORCHVISION.items():
        yield name, lambda name=name, size=size, arguments=arguments: vision(name, size, arguments)
    for name, (size, arguments) in TIMM.items():
        yield f"timm_{name}", lambda name=name, size=size, arguments=arguments: (timm.create_model(name, pretrained=False, **arguments), (3, size, size))
    for name, make in own().items():
        yield name, make


def own():
    """Networks that neither library has."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    class Double(nn.Sequential):
        def __init__(self, inputs, outputs):
            super().__init__(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                             nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    class UNet(nn.Module):
        """Ronneberger et al., arXiv:1505.04597, with bilinear enlargement."""

        def __init__(self, align=True):
            super().__init__()
            self.align = align
            self.down = nn.ModuleList([Double(3, 8), Double(8, 16), Double(16, 32)])
            self.up = nn.ModuleList([Double(48, 16), Double(24, 8)])
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            skips = []
            for at, part in enumerate(self.down):
                x = part(F.max_pool2d(x, 2) if at else x)
                skips.append(x)
            for at, part in enumerate(self.up):
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align)
                x = part(torch.cat([skips[-2 - at], x], 1))
            return self.head(x)

    class Edsr(nn.Module):
        """Lim et al., arXiv:1707.02921."""

        def __init__(self):
            super().__init__()
            self.head, self.tail = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)
            self.body = nn.ModuleList([nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1)) for _ in range(4)])
            self.up = nn.Sequential(nn.Conv2d(16, 64, 3, 1, 1), nn.PixelShuffle(2))

        def forward(self, x):
            first = x = self.head(x)
            for part in self.body:
                x = x + 0.1 * part(x)
            return self.tail(self.up(x + first))

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(Double(3, 16), nn.MaxPool2d(2), Double(16, 32))
            self.classes, self.boxes = nn.Conv2d(32, 12, 3, 1, 1), nn.Conv2d(32, 8, 3, 1, 1)

        def forward(self, x):
            x = self.body(x)
            return self.boxes(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4), self.classes(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 6)

    class Focus(nn.Module):
        """The stem of YOLOv5: every second pixel, four times, as channels."""

        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(12, 8, 3, 1, 1), nn.Linear(8, 4)

        def forward(self, x):
            x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
            return self.head(F.silu(self.conv(x)).mean((2, 3)))

    class Reflect(nn.Sequential):
        """Reflected and replicated borders, instance norm, as in style transfer."""

        def __init__(self):
            super().__init__(nn.ReflectionPad2d(4), nn.Conv2d(3, 8, 9), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.ReplicationPad2d((1, 2, 0, 1)),
                             nn.Conv2d(8, 8, 3, 2), nn.InstanceNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, 1, 1))

    espcn = lambda: nn.Sequential(nn.Conv2d(1, 16, 5, 1, 2), nn.Tanh(), nn.Conv2d(16, 8, 3, 1, 1), nn.Tanh(), nn.Conv2d(8, 9, 3, 1, 1), nn.PixelShuffle(3))
    return {
        "unet": lambda: (UNet(), (3, 32, 32)), "unet_half_pixel": lambda: (UNet(False), (3, 32, 32)), "edsr": lambda: (Edsr(), (3, 16, 16)),
        "espcn": lambda: (espcn(), (1, 16, 16)), "two_outputs": lambda: (Detector(), (3, 32, 32)), "focus": lambda: (Focus(), (3, 32, 32)),
        "style": lambda: (Reflect(), (3, 32, 32)),
    }


def OutputOf(module, key):
    import torch.nn as nn

    class Output(nn.Module):
        """The tensor of a module that returns a dictionary."""

        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)[key]

    return Output()


def randomised(module, gain):
    """Random statistics of norms; their weights, biases and other vectors are moved away from 0 and 1. The weights of batch norms are
    multiplied by `gain`."""
    import torch

    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            if name.endswith("running_var"):
                buffer.uniform_(0.7, 1.5)
        for _, parameter in module.named_parameters():
            if parameter.dim() <= 1 or parameter.numel() == max(parameter.shape):
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif float(parameter.abs().max()) == 0:
                parameter.normal_(0, 0.05)
            elif parameter.dim() == 2 and torch.equal(parameter, torch.eye(*parameter.shape)):
                # Several of them would be equal, also to their transposes.
                parameter.add_(torch.randn_like(parameter) * 0.05)
        for part in module.modules():
            if gain != 1.0 and isinstance(part, torch.nn.BatchNorm2d):
                part.weight.mul_(gain)
    return module.eval()


def export(module, shape, new, path):
    """Writes the file; returns whether its batch is open."""
    import torch

    x = torch.randn(2, *shape)
    for dynamic in ([False] if new else [True, False]):
        try:
            with torch.no_grad():
                if new:
                    torch.onnx.export(module, (x[:1],), str(path), dynamo=True, verbose=False, input_names=["x"], external_data=False)
                else:
                    axes = {"dynamic_axes": {"x": {0: "batch"}}} if dynamic else {}
                    torch.onnx.export(module, (x if dynamic else x[:1],), str(path), dynamo=False, input_names=["x"], **axes)
            return dynamic
        except Exception as problem:  # the exporters raise exceptions of many types
            failure = problem
    raise failure


def has_open_batch(path):
    import onnx

    return not onnx.load(str(path), load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0].dim_value


def prepare(folder, name, make, new, draw):
    """Exports the network, unless that is done, and stores the inputs number `draw`, expected outputs and expected gradients."""
    import onnxruntime
    import torch

    onnxruntime.set_default_logger_severity(3)
    torch.manual_seed(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    module, shape = make()
    module = randomised(module, 0.5 if name in HALVED else 1.0)
    path = folder / f"{name}.{'new' if new else 'old'}.onnx"
    dynamic = export(module, shape, new, path) if draw == 0 else has_open_batch(path)
    module = with_folded_weights(module, torch.randn(1, *shape))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    values = {key: parameter.detach().numpy().copy() for key, parameter in module.named_parameters()}
    for at in range(len(outputs)):
        for seed in range(1 + 6 * draw, 7 + 6 * draw):
            x = torch.randn(2 if dynamic else 1, *shape, generator=torch.Generator().manual_seed(seed))
            _, _, rough = gradients(module.float(), x, at)
            y, g, exact = gradients(module.double(), x, at)
            largest = max(np.abs(d).max() for d in exact.values())
            # A unit so close to its kink that rounding decides on which side it is would make any comparison meaningless.
            if all(np.abs(rough[key] - exact[key]).max() <= 1e-4 * max(np.abs(exact[key]).max(), 1e-4 * largest) for key in exact):
                break
        module.float()
        y = session.run(None, {session.get_inputs()[0].name: x.numpy()})[at]
        stem = path.with_suffix("") if len(outputs) == 1 else path.with_suffix(f".{at}")
        partial = pathlib.Path(f"{stem}.partial.npz")
        np.savez(partial, x=x.numpy(), y=y, g=g, output=outputs[at] if len(outputs) > 1 else "",
                 **{f"v:{key}": values[key] for key in exact}, **{f"d:{key}": value.astype(np.float32) for key, value in exact.items()})
        partial.rename(f"{stem}.npz")


def with_folded_weights(module, x):
    """The module, with convolutions that standardise their weights replaced by plain ones of the standardised weights: an
    exporter writes these as constants, and gradients are those of what nettriage reads."""
    import copy
    import torch
    import torch.nn.functional as F
    from timm.layers.padding import pad_same

    first = lambda given: given[0] if isinstance(given, (tuple, list)) else given
    folded = copy.deepcopy(module)
    convolve, used = F.conv2d, []
    F.conv2d = lambda x, weight, *rest, **named: used.append(weight) or convolve(x, weight, *rest, **named)
    try:
        for conv in folded.modules():
            if not isinstance(conv, torch.nn.Conv2d) or type(conv) is torch.nn.Conv2d:
                continue
            used.clear()
            with torch.no_grad():
                conv(torch.zeros(1, conv.in_channels, *(extent * 4 for extent in conv.kernel_size)))
            if used[0] is conv.weight:
                continue
            conv.weight.data = used[0].clone()

            def forward(x, conv=conv):
                x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation) if getattr(conv, "same_pad", False) else x
                return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)

            conv.forward = forward
    finally:
        F.conv2d = convolve
    with torch.no_grad():
        wanted, found = first(module(x)), first(folded(x))
    if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())):
        raise ValueError("folding the standardised weights changes the outputs")
    return folded


def gradients(module, x, at):
    """Output `at`, the factors of its elements in the loss, and the gradients of all parameters."""
    import torch

    x = x.to(next(module.parameters()).dtype)
    for part in module.modules():
        # LeViT keeps what it computed from parameters in a call before.
        getattr(part, "attention_bias_cache", {}).clear()
    # With a batch of one image PyTorch 2.15 loses a part of the gradient behind LeViT's stem; finite differences agree with that of two.
    given = module(torch.cat([x, x]) if len(x) == 1 else x)
    given = (given[at] if isinstance(given, (tuple, list)) else given)[:len(x)]
    g = torch.randn(given.shape, generator=torch.Generator().manual_seed(2)) / np.prod(given.shape[1:]) ** 0.5
    module.zero_grad()
    (given * g).sum().backward()
    found = {key: parameter.grad.double().numpy().copy() for key, parameter in module.named_parameters() if parameter.grad is not None}
    return given.detach().numpy(), g.numpy(), found


def gradients_in(work):
    """Weights and their gradients, by `v:` and `d:` before the name."""
    values, gradients = (np.fromfile(work / f"{name}.f32", "<f4") for name in ("values", "gradients"))
    found, at = {}, 0
    for line in (work / "weights.txt").read_text().splitlines():
        name, *extents = line.split(" ")
        extents = [int(extent) for extent in extents]
        end = at + int(np.prod(extents))
        found[f"v:{name}"], found[f"d:{name}"] = values[at:end].reshape(extents), gradients[at:end].reshape(extents)
        at = end
    return found


def relative(found, wanted):
    largest = np.abs(wanted).max()
    return float(np.abs(found.reshape(-1) - wanted.reshape(-1)).max() / max(largest, 1e-30))


def compare_gradients(case, ours, ignored=()):
    """The largest relative error, the weight with it, and the fraction of PyTorch's elements that were compared.

    A weight of ours is found in PyTorch by its values: as they are, transposed, or with a factor per filter, where the exporter folded
    a norm into a convolution (the gradients then differ by the same factor). `ignored` parameters of PyTorch's are not compared.
    """
    keys = [key[2:] for key in case.files if key.startswith("v:") and key[2:] not in ignored]
    by_size = {}
    for name in sorted(key[2:] for key in ours if key.startswith("v:")):
        by_size.setdefault(ours[f"v:{name}"].size, []).append(name)
    scale = max(float(np.abs(case[f"d:{key}"]).max()) for key in keys)
    worst, where, compared, total, used = 0.0, "", 0, 0, set()
    for key in keys:
        value, gradient = case[f"v:{key}"], case[f"d:{key}"]
        total += value.size
        for name in by_size.get(value.size, []):
            if name in used:
                continue
            v, d = ours[f"v:{name}"], ours[f"d:{name}"]
            found = None
            for turn in (False, True):
                if turn and value.ndim != 2:
                    continue
                a, b = v.reshape(-1), (value.T if turn else value).reshape(-1)
                if np.allclose(a, b, rtol=1e-5, atol=1e-7):
                    found = (d.reshape(-1), (gradient.T if turn else gradient).reshape(-1))
            if found is None and value.ndim in (2, 4) and len(v) == len(value) < value.size:
                a, b = v.reshape(len(v), -1), value.reshape(len(v), -1)
                factor = (a * b).sum(1) / np.maximum((b * b).sum(1), 1e-30)
                if np.allclose(a, b * factor[:, None], rtol=1e-4, atol=1e-6 * np.abs(a).max()):
                    found = ((d.reshape(len(v), -1) * factor[:, None]).reshape(-1), gradient.reshape(-1))
            if found:
                used.add(name)
                compared += value.size
                # Gradients that cancel, as those of a bias before a norm do, are compared with the largest of the network.
                floor = max(np.abs(found[1]).max(), 1e-4 * scale)
                error = float(np.abs(found[0] - found[1]).max() / floor)
                # A tensor that several layers read is a weight of each of them, and PyTorch's gradient is the sum of theirs.
                copies = [other for other in by_size[value.size] if other not in used and np.array_equal(ours[f"v:{other}"].reshape(-1), v.reshape(-1))]
                if error > GRADIENT and copies:
                    used.update(copies)
                    error = float(np.abs(found[0] + sum(ours[f"d:{other}"].reshape(-1) for other in copies) - found[1]).max() / floor)
                if error > worst:
                    worst, where = error, f"{key} = {name}"
                break
    return worst, where, compared / max(total, 1)


def known(table, case):
    """The entry of a table for NAME.EXPORTER or NAME.EXPORTER.OUTPUT."""
    name, exporter = case.split(".")[:2]
    return table.get(f"{name}.{exporter}", table.get(name))


def judge(problem, refused, reason):
    """What is said of a file: its state, and whether it is an error. `reason` is the entry of `REFUSED`."""
    if problem is None:
        return ("passes", False) if reason is None else ("passes, but is listed in REFUSED: remove it there", True)
    if not refused:
        return problem, True
    if "node `" not in problem:
        return f"refused without the name of a node: {problem}", True
    if reason is None or reason not in problem:
        return f"refused, which REFUSED does not expect: {problem}", True
    return f"refused as expected: {problem}", False


def check(path, program):
    """The result of one file: None, or what is wrong; whether it was refused; and the measured errors."""
    import onnxruntime
    onnxruntime.set_default_logger_severity(3)
    case = np.load(path)
    model = path.with_suffix(".onnx")
    if not model.exists():
        # One of several outputs: NAME.old.0.npz beside NAME.old.onnx.
        model = path.with_suffix("").with_suffix(".onnx")
    work = path.with_suffix(".work")
    work.mkdir(exist_ok=True)
    x, y, g = case["x"], case["y"], case["g"]
    x.astype("<f4").tofile(work / "x.f32")
    g.astype("<f4").tofile(work / "g.f32")
    output = str(case["output"])
    done = subprocess.run([program, model, work] + ([output] if output else []), capture_output=True, text=True)
    try:
        if done.returncode:
            return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1], done.returncode == 2, {}
        found = np.fromfile(work / "y.f32", "<f4")
        errors = {"outputs": relative(found, y)}
        again = np.fromfile(work / "y2.f32", "<f4")
        if not np.array_equal(found, again):
            return f"written and read again, its outputs differ by {relative(again, found)}", False, errors
        session = onnxruntime.InferenceSession(str(work / "written.onnx"), providers=["CPUExecutionProvider"])
        image = session.get_inputs()[0]
        written = session.run(None, {image.name: x.astype(np.float32)})[0]
        errors["written"] = relative(written, y)
        worst, where, share = compare_gradients(case, gradients_in(work), FOLDED.get(path.name.split(".")[0], ()))
        errors |= {"gradients": worst, "compared": share}
        if not errors["outputs"] <= 1e-4 or not errors["written"] <= 1e-4:
            return f"outputs differ by {errors['outputs']:.1e}, of the written file by {errors['written']:.1e}", False, errors
        if not worst <= GRADIENT:
            return f"the gradient of {where} differs by {worst:.1e}", False, errors
        if share < 0.5:
            return f"only {share:.0%} of the weights could be compared", False, errors
        return None, False, errors
    finally:
        for file in work.iterdir():
            file.unlink()
        work.rmdir()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", type=pathlib.Path)
    a.add_argument("--only", default="", help="parts of names, separated by commas")
    a.add_argument("--commit", help="a hash that chooses a twelfth of the networks, beside twelve fixed ones")
    a.add_argument("--fixed", action="store_true", help="twelve fixed networks")
    a.add_argument("--program", default=ROOT / "target/release/examples/check_network")
    a.add_argument("--export-only", action="store_true")
    a.add_argument("--check-only", action="store_true", help="only files that exist")
    a = a.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    only = [part for part in a.only.split(",") if part]
    counts, failures = {exporter: [0, 0] for exporter in ("old", "new")}, []

    def say(case, text, error):
        print(f"{case:45} {'ERROR: ' if error else ''}{text}", flush=True)
        failures.extend([case] if error else [])

    for name, make in architectures():
        if only and not any(part in name for part in only):
            continue
        if a.fixed and not fixed(name):
            continue
        if a.commit and not fixed(name) and int(hashlib.sha256((a.commit + name).encode()).hexdigest(), 16) % 12:
            continue
        for exporter in counts:
            case = f"{name}.{exporter}"
            files = lambda: sorted(a.folder.glob(f"{case}.npz")) + sorted(a.folder.glob(f"{case}.[0-9].npz"))
            failed = a.folder / f"{case}.failed"
            if not files() and not a.check_only and not failed.exists():
                problem = prepared(a.folder, name, exporter, 0)
                if problem is not None:
                    failed.write_text(problem[-2000:])
            if failed.exists():
                reason = known(NOT_EXPORTED, case)
                text = failed.read_text().strip() or "the exporter ended"
                expected = reason is not None and reason in text
                say(case, f"not exported: {reason if expected else text.splitlines()[-1]}", not expected)
            elif files() and known(NOT_EXPORTED, case):
                say(case, "is exported, but is listed in NOT_EXPORTED: remove it there", True)
            for file in [] if a.export_only else files():
                problem, refused, errors = check(file, a.program)
                draw = 0
                while draw + 1 < DRAWS and not a.check_only and (problem or "").startswith("the gradient of"):
                    draw += 1
                    lost = prepared(a.folder, name, exporter, draw)
                    problem, refused, errors = (lost.splitlines()[-1], False, {}) if lost else check(file, a.program)
                numbers = ", ".join(f"{key} {value:.1e}" if key != "compared" else f"{key} {value:.0%}" for key, value in errors.items())
                text, error = judge(problem, refused, known(REFUSED, file.stem))
                text += f" for input {draw + 1}" if draw else ""
                say(file.stem, f"{text} ({numbers})" if numbers else text, error)
                counts[exporter][0] += problem is None
                counts[exporter][1] += 1
    passed, total = (sum(numbers) for numbers in zip(*counts.values()))
    for exporter, (good, all_files) in counts.items():
        print(f"{exporter} exporter: {good} of {all_files} files pass")
    print(f"{passed} of {total} files pass")
    if failures:
        print(f"errors: {', '.join(failures)}")
    # Among some of the networks, those that are refused may be more than a twentieth.
    least = 1 if a.fixed or a.commit or only else 0.95 * total
    sys.exit(1 if failures or passed < max(least, 1) else 0)


def prepared(folder, name, exporter, draw):
    """Runs `prepare` in a process of its own, because exporters keep memory, and some end the process; returns its error, if any."""
    log = folder / f"{name}.{exporter}.log"
    # The server imports the libraries once; each process is a copy of it.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["onnxruntime", "onnxscript", "timm", "torch.onnx", "torch._dynamo", "torchvision"])
    child = server.Process(target=prepare_one, args=(folder, name, exporter == "new", draw, log))
    child.start()
    child.join()
    text = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    return None if child.exitcode == 0 else text.strip() or f"exit code {child.exitcode}"


def prepare_one(folder, name, new, draw, log):
    """`prepare` of one network, with everything that it prints in a file."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    prepare(folder, name, dict(architectures())[name], new, draw)


def fixed(name):
    return name in FIXED or any(name == f"timm_{SHORT.get(short, short)}" for short in FIXED)


if __name__ == "__main__":
    main()
