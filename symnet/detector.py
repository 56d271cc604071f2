"""What a detector supplies to the toolkit: its config, graphs, targets, initial values, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from symnet.machine import mx

    Arrays = Mapping[str, mx.nd.NDArray]

Shape = tuple[int, ...]

#: the side of an image that suits every network, as all strides divide it
SIDE = 256


def parameter_shapes(test: mx.sym.Symbol) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The shapes of a test graph's parameters and of its auxiliary states, by name."""
    inputs = {"data": (1, 3, SIDE, SIDE), "im_info": (1, 3)}
    args, _, auxs = test.infer_shape(**inputs)
    named = {n: shape for n, shape in zip(test.list_arguments(), args) if n not in inputs}
    return named, dict(zip(test.list_auxiliary_states(), auxs))


@dataclass(frozen=True)
class ImageTargetsInput:
    """One image as `DetectorDef.assign_targets` gets it.

    gt_boxes (G, 5) xyxy and class in network pixels, class -2 for ignore regions; image_size (h, w)
    without padding; padded_size (H, W) as the network sees it.
    """

    gt_boxes: np.ndarray
    image_size: tuple[float, float]
    padded_size: tuple[int, int]


@dataclass(frozen=True)
class DetectorDef:
    """A detector of the registry; everything else in the toolkit is the same for all of them.

    name: the registry's name, as in `--network`.
    config: a frozen dataclass with a default for every field. The toolkit reads num_classes, and
        ignore_overlap: above 0, gt_boxes have rows for ignore regions (docs/targets.md).
    train_symbol(config, images): the training graph for that many images a device; its data inputs
        are `data`, `im_info`, `gt_boxes`, its labels those that assign_targets returns.
    test_symbol(config): the test graph, for any number of images; outputs det_boxes, det_scores,
        det_classes.
    assign_targets(config, image, rng): label arrays of one image, by the graph's input names.
    label_names: the names of those arrays.
    init(config, name, shape, rng, scratch): first values of a parameter that was not loaded;
        scratch says that nothing at all was loaded.
    metrics(outputs, labels): for each metric a pair (sum, count) of NDArrays (1,), not waited for.
    counts(outputs, labels): for each loss that the graph divides by a number of samples of its own,
        by its output's name: that number, an NDArray (1,), not waited for. See
        symnet.parts.losses.with_share.
    losses: the metrics that are losses: a value that is not finite stops the run.
    stride: image sides are padded to a multiple of it.
    of_body(config, name): True for the parameters that --pretrained is expected to supply.
    quick: settings (`section.field`) of the quick preset.
    presets: settings of other presets, by name.
    defaults: settings that differ from the toolkit's own defaults.
    scratch: settings for a training without pretrained parameters, unless the user gives others.
    before: values of fields of the config, by name, for runs that are older than these fields: not
        the defaults, but what those runs were trained with.
    frozen(config, name): True for the parameters that are not trained, whatever train.fixed says.
    data_names: the graph's inputs that are not labels; masks and active_classes come with
        data.masks.
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
    frozen: Callable[[Any, str], bool] = lambda config, name: False
    data_names: tuple[str, ...] = ("data", "im_info", "gt_boxes")
