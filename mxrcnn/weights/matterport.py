"""matterport's Mask R-CNN .h5: recognised and checked by names and shapes; no network runs it.

The layout is Keras', `layer/layer/kernel` with kernels (h, w, in, out).
"""

from __future__ import annotations

import re

import numpy as np

from mxrcnn.weights.source import Arrays

#: where its network differs from the ones here, so that its parameters would mean something else
REASONS = (
    "strides of the stages are in the first 1x1 convolution, not in the 3x3 one",
    "the stem pools with padding after the last pixel only",
    "the RPN has 512 channels, and ratios of width to height",
)
_STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _entry(layer: str) -> str:
    """The group of a layer: the RPN is a model of its own."""
    return f"rpn_model/{layer}" if layer.startswith("rpn_") else f"{layer}/{layer}"


def _conv(layer: str, *kernel: int) -> dict[str, tuple[int, ...]]:
    outputs = kernel[2] if layer == "mrcnn_mask_deconv" else kernel[-1]
    return {f"{_entry(layer)}/kernel": kernel, f"{_entry(layer)}/bias": (outputs,)}


def _norm(layer: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{_entry(layer)}/{leaf}": (channels,) for leaf in _STATISTICS}


def _body(depth: int) -> dict[str, tuple[int, ...]]:
    out = {**_conv("conv1", 7, 7, 3, 64), **_norm("bn_conv1", 64)}
    channels = 64
    for stage, blocks in enumerate(_BLOCKS[depth], start=2):
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
    """Names and shapes of the whole file, for ResNet-50 or 101 and classes with background."""
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


def explain(arrays: Arrays) -> str | None:
    """What to say of a file of matterport's; None for any other.

    How far its names and shapes are those of its layout, and why it is not converted.
    """
    logits = next((v for n, v in arrays.items() if n.endswith("mrcnn_class_logits/kernel")), None)
    if logits is None or np.ndim(logits) != 2:
        return None
    depth = 101 if any(re.match(r"res4w_branch2a/", name) for name in arrays) else 50
    expected = layout(depth, logits.shape[1])
    right = sum(name in arrays and arrays[name].shape == shape for name, shape in expected.items())
    return (
        f"matterport's Mask R-CNN with ResNet-{depth}, {logits.shape[1] - 1} classes: {right} of "
        f"{len(expected)} entries have its names and shapes. It cannot be converted, as no network "
        f"here computes the same: {'; '.join(REASONS)}. With torchvision's weights, "
        "tools/train.py --preset matterport trains with its settings"
    )
