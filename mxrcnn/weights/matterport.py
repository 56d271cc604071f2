"""Reads matterport's Mask R-CNN .h5. Written from names and shapes, not tested on a real file.

The layout is Keras': `layer/layer/kernel`, kernels (h, w, in, out). Boxes have y before x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mxrcnn.weights.source import Arrays, Source, fold_norm
from symnet.bodies.resnet import DEPTHS
from symnet.bodies.resnet import PREFIX as BODY
from symnet.config.presets import MATTERPORT_FORM
from symnet.parts.fpn import PREFIX as FPN
from symnet.parts.norms import NORM_EPS, STATISTICS

_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


def _entry(layer: str) -> str:
    """A layer's group in the file; the RPN is a separate model."""
    return f"rpn_model/{layer}" if layer.startswith("rpn_") else f"{layer}/{layer}"


def _conv(layer: str, *kernel: int) -> dict[str, tuple[int, ...]]:
    outputs = kernel[2] if layer == "mrcnn_mask_deconv" else kernel[-1]
    return {f"{_entry(layer)}/kernel": kernel, f"{_entry(layer)}/bias": (outputs,)}


def _norm(layer: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{_entry(layer)}/{leaf}": (channels,) for leaf in _STATISTICS}


def _body(depth: int) -> dict[str, tuple[int, ...]]:
    out = {**_conv("conv1", 7, 7, 3, 64), **_norm("bn_conv1", 64)}
    channels = 64
    for stage, blocks in enumerate(DEPTHS[depth][0], start=2):
        width = 16 * 2**stage
        for block in range(blocks):
            name = f"{stage}{chr(ord('a') + block)}_branch"
            for letter, side, before, after in (
                ("2a", 1, channels, width),
                ("2b", 3, width, width),
                ("2c", 1, width, 4 * width),
            ):
                out.update(_conv(f"res{name}{letter}", side, side, before, after))
                out.update(_norm(f"bn{name}{letter}", after))
            if block == 0:
                out.update(_conv(f"res{name}1", 1, 1, channels, 4 * width))
                out.update(_norm(f"bn{name}1", 4 * width))
            channels = 4 * width
    return out


def layout(depth: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole file, for ResNet-50 or 101; num_classes includes background."""
    out = _body(depth)
    for stage, channels in enumerate((256, 512, 1024, 2048), start=2):
        out.update(_conv(f"fpn_c{stage}p{stage}", 1, 1, channels, 256))
        out.update(_conv(f"fpn_p{stage}", 3, 3, 256, 256))
    out.update(_conv("rpn_conv_shared", 3, 3, 256, 512))
    out.update(_conv("rpn_class_raw", 1, 1, 512, 6))
    out.update(_conv("rpn_bbox_pred", 1, 1, 512, 12))
    for number, kernel in ((1, (7, 7, 256, 1024)), (2, (1, 1, 1024, 1024))):
        out.update(_conv(f"mrcnn_class_conv{number}", *kernel))
        out.update(_norm(f"mrcnn_class_bn{number}", 1024))
    out.update(_conv("mrcnn_class_logits", 1024, num_classes))
    out.update(_conv("mrcnn_bbox_fc", 1024, 4 * num_classes))
    for number in range(1, 5):
        out.update(_conv(f"mrcnn_mask_conv{number}", 3, 3, 256, 256))
        out.update(_norm(f"mrcnn_mask_bn{number}", 256))
    out.update(_conv("mrcnn_mask_deconv", 2, 2, 256, 256))
    return {**out, **_conv("mrcnn_mask", 1, 1, 256, num_classes)}


@dataclass(frozen=True)
class _Layer:
    """A layer in the file, with its normalisation if it has one, and its names here.

    rows: converts the outputs (the kernel's last axis) to those of the layer here.
    """

    theirs: str
    ours: str
    norm: str = ""
    norm_here: str = ""
    rows: Callable[[np.ndarray], np.ndarray] = lambda values: values

    def entries(self) -> list[str]:
        """Names in the file."""
        names = [f"{_entry(self.theirs)}/{leaf}" for leaf in ("kernel", "bias")]
        return names + [f"{_entry(self.norm)}/{leaf}" for leaf in _STATISTICS] * bool(self.norm)


def _xy(values: np.ndarray) -> np.ndarray:
    """Reorder each box's outputs from dy, dx, dh, dw to dx, dy, dw, dh."""
    pairs = values.reshape(*values.shape[:-1], -1, 2)
    return pairs[..., ::-1].reshape(values.shape)


def _logit(values: np.ndarray) -> np.ndarray:
    """Turn each anchor's two softmax outputs, background and object, into one sigmoid output."""
    return values[..., 1::2] - values[..., ::2]


def _layers(depth: int) -> list[_Layer]:
    """All layers with parameters."""
    out = [_Layer("conv1", f"{BODY}conv1", "bn_conv1", f"{BODY}bn1")]
    for stage, blocks in enumerate(DEPTHS[depth][0], start=2):
        for block in range(blocks):
            theirs, ours = f"{stage}{chr(ord('a') + block)}_branch", f"layer{stage - 1}.{block}."
            parts = [(f"2{'abc'[i]}", f"conv{i + 1}", f"bn{i + 1}") for i in range(3)]
            parts += [("1", "downsample.0", "downsample.1")] * (block == 0)
            out += [
                _Layer(
                    f"res{theirs}{part}", BODY + ours + conv, f"bn{theirs}{part}", BODY + ours + bn
                )
                for part, conv, bn in parts
            ]
    for level in range(2, 6):
        out.append(_Layer(f"fpn_c{level}p{level}", f"{FPN}inner_blocks.{level - 2}.0"))
        out.append(_Layer(f"fpn_p{level}", f"{FPN}layer_blocks.{level - 2}.0"))
    box, mask = "roi_heads.box_predictor.", "roi_heads.mask_predictor."
    return [
        *out,
        _Layer("rpn_conv_shared", "rpn.head.conv.0.0"),
        _Layer("rpn_class_raw", "rpn.head.cls_logits", rows=_logit),
        _Layer("rpn_bbox_pred", "rpn.head.bbox_pred", rows=_xy),
        _Layer("mrcnn_class_conv1", "roi_heads.box_head.fc6", "mrcnn_class_bn1"),
        _Layer("mrcnn_class_conv2", "roi_heads.box_head.fc7", "mrcnn_class_bn2"),
        _Layer("mrcnn_class_logits", f"{box}cls_score"),
        _Layer("mrcnn_bbox_fc", f"{box}bbox_pred", rows=_xy),
        *(
            _Layer(f"mrcnn_mask_conv{i + 1}", f"roi_heads.mask_head.{i}.0", f"mrcnn_mask_bn{i + 1}")
            for i in range(4)
        ),
        _Layer("mrcnn_mask_deconv", f"{mask}conv5_mask"),
        _Layer("mrcnn_mask", f"{mask}mask_fcn_logits"),
    ]


#: epsilon of Keras' batch normalisation; the networks here use NORM_EPS
_EPS = 1e-3


def _converted(layer: _Layer, arrays: Arrays) -> dict[str, np.ndarray]:
    """A layer's parameters by their names here.

    The body keeps its normalisations; their mean and variance absorb the convolution's bias and the
    difference of the epsilons. Elsewhere they are folded into the convolution.
    """
    kernel, bias, *norm = (arrays[name].astype(np.float64) for name in layer.entries())
    if norm and not layer.norm_here:
        kernel, bias = fold_norm(kernel, bias, norm, _EPS)
    kernel, bias = layer.rows(kernel), layer.rows(bias)
    weight = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    if ".fc" in layer.ours:  # a convolution over the whole RoI
        weight = weight.reshape(len(weight), -1)
    out = {f"{layer.ours}_weight": weight}
    if layer.norm_here:
        gamma, beta, mean, var = norm
        values = (gamma, beta, mean - bias, var + _EPS - NORM_EPS)
        out.update({f"{layer.norm_here}_{leaf}": v for leaf, v in zip(STATISTICS, values)})
    else:
        out[f"{layer.ours}_bias"] = bias
    return {name: value.astype(np.float32) for name, value in out.items()}


def detector(arrays: Arrays) -> Source | None:
    """A Mask R-CNN with ResNet-50 or 101. Entries with unexpected shapes are left unused."""
    logits = arrays.get("mrcnn_class_logits/mrcnn_class_logits/kernel")
    if logits is None or np.ndim(logits) != 2:
        return None
    depth = 101 if any(name.startswith("res4w_branch2a/") for name in arrays) else 50
    expected = layout(depth, logits.shape[1])
    right = {n for n, shape in expected.items() if n in arrays and arrays[n].shape == shape}
    params, origin = {}, {}
    for layer in _layers(depth):
        if right.issuperset(layer.entries()):
            made = _converted(layer, arrays)
            params.update(made)
            origin.update(dict.fromkeys(made, " ".join(layer.entries())))
    return Source(
        f"matterport's Mask R-CNN with ResNet-{depth}",
        {f"mask_rcnn_r{depth}_fpn": {**MATTERPORT_FORM, "model.body": f"resnet{depth}_keras"}},
        params,
        origin,
        num_classes=logits.shape[1],
        notes=(
            f"{len(right)} of {len(expected)} entries have the expected names and shapes; "
            "docs/weights.md says what was not tested and what differs",
        ),
    )
