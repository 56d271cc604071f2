"""The interface of a detector: its config, graphs, targets, initial values and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from symnet.machine import mx

    Arrays = Mapping[str, mx.nd.NDArray]

Shape = tuple[int, ...]

#: an image side that suits every network, because all strides divide it
SIDE = 256


def parameter_shapes(test: mx.sym.Symbol) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shapes of a test graph's parameters and of its auxiliary states, by name."""
    inputs = {"data": (1, 3, SIDE, SIDE), "im_info": (1, 3)}
    args, _, auxs = test.infer_shape(**inputs)
    named = {n: shape for n, shape in zip(test.list_arguments(), args) if n not in inputs}
    return named, dict(zip(test.list_auxiliary_states(), auxs))


@dataclass(frozen=True)
class ImageTargetsInput:
    """The input of `DetectorDef.assign_targets` for one image.

    gt_boxes (G, 5): xyxy in network pixels and class, which is -2 for ignore regions. image_size:
    (h, w) without padding. padded_size: (H, W) of the network input.
    """

    gt_boxes: np.ndarray
    image_size: tuple[float, float]
    padded_size: tuple[int, int]


@dataclass(frozen=True)
class DetectorDef:
    """A detector of the registry. The rest of the toolkit works the same for all detectors.

    name: the name in the registry, as in `--network`.
    config: a frozen dataclass with a default for every field. The toolkit reads num_classes and
        ignore_overlap: if that is above 0, gt_boxes have rows for ignore regions (docs/targets.md).
    train_symbol(config, images): the training graph for this many images per device. Its data
        inputs are `data`, `im_info`, `gt_boxes`; its labels are those of assign_targets.
    test_symbol(config): the test graph, for any number of images. Its outputs are det_boxes,
        det_scores, det_classes.
    assign_targets(config, image, rng): the label arrays of one image, by input name.
    label_names: the names of those arrays.
    init(config, name, shape, rng, scratch): the initial values of a parameter that was not loaded.
        scratch is True if nothing was loaded at all.
    metrics(outputs, labels): a pair (sum, count) of NDArrays (1,) per metric, without waiting.
    counts(outputs, labels): the number of samples, an NDArray (1,), of each loss that the graph
        divides by a number it computes itself, by output name, without waiting. See
        symnet.parts.losses.with_share.
    counts_labels: True if `counts` reads the labels only, so that it needs no forward pass.
    losses: the metrics that are losses; a non-finite value stops the run.
    stride: image sides are padded to a multiple of this.
    of_body(config, name): True for the parameters that --pretrained is expected to supply.
    quick: settings (`section.field`) of the quick preset.
    presets: settings of other presets, by name.
    defaults: settings that differ from the toolkit's defaults.
    scratch: settings for training without pretrained parameters, unless the user sets them.
    before: values of config fields, by name, for runs older than these fields: what those runs were
        trained with, which may differ from the defaults.
    frozen(config, name): True for the parameters that are never trained, whatever train.fixed says.
    data_names: the graph's inputs that are not labels; masks and active_classes require data.masks.
    """

    name: str
    config: type
    train_symbol: Callable[[Any, int], mx.sym.Symbol]
    test_symbol: Callable[[Any], mx.sym.Symbol]
    assign_targets: Callable[[Any, ImageTargetsInput, np.random.Generator], dict[str, np.ndarray]]
    label_names: tuple[str, ...]
    init: Callable[[Any, str, tuple[int, ...], np.random.Generator, bool], np.ndarray]
    metrics: Callable[[Arrays, Arrays], dict[str, tuple[mx.nd.NDArray, mx.nd.NDArray]]]
    counts: Callable[[Arrays, Arrays], dict[str, mx.nd.NDArray]]
    losses: tuple[str, ...]
    stride: int
    of_body: Callable[[Any, str], bool]
    quick: Mapping[str, Any]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scratch: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)
    counts_labels: bool = False
    frozen: Callable[[Any, str], bool] = lambda config, name: False
    data_names: tuple[str, ...] = ("data", "im_info", "gt_boxes")
