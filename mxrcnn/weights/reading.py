"""Parameters that others trained, as a network here takes them, and what became of each entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config
from mxrcnn.config.sections import fields_of
from mxrcnn.training.checkpoint import RunFolder, load_arrays, split_params
from mxrcnn.weights.formats import WeightsError, read_params
from mxrcnn.weights.source import Source
from mxrcnn.weights.sources import foreign_source

__all__ = ["LoadReport", "Origin", "WeightsError", "fit_params", "match_params", "read_params"]

#: VGG16's, the one layer that sees colours
FIRST_LAYER = "conv1_1_weight"


@dataclass
class LoadReport:
    """What became of the entries of a parameter file."""

    path: Path
    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Sentences for people; nothing is left out."""
        out = [f"{self.path}: {len(self.used)} parameters used"]
        told = [
            (self.converted, "converted"),
            (self.assumed, "assumed"),
            (self.missing, "not in the file, start anew"),
            (self.surplus, "in the file but not in the network, left out"),
            (self.misshapen, "of another shape, left out; these layers start anew"),
        ]
        return out + [f"  {what}: {', '.join(names)}" for names, what in told if names]


def to_rgb(
    arrays: dict[str, np.ndarray], report: LoadReport, order: str = "auto", known: bool = False
) -> None:
    """Turn the layers that see colours to RGB, if they expect BGR; the report says what was done.

    order: what they expect, rgb or bgr; auto: RGB, which other projects' own files (known), the
    original MXNet example's .params and this toolkit's have, but of VGG16's .npz, which come from
    Caffe, BGR. An assumption is told. WeightsError if bgr is asked for and no layer sees colours.
    """
    found = [name for name, value in arrays.items() if value.ndim == 4 and value.shape[1] == 3]
    found = [FIRST_LAYER] if FIRST_LAYER in found else found
    if order == "bgr" and len(found) != 1:
        raise WeightsError(
            f"{report.path}: --channel-order bgr: one layer should take the three channels of an "
            f"image, and these do: {', '.join(found) or 'none'}"
        )
    from_caffe = report.path.suffix == ".npz" and found == [FIRST_LAYER]
    assumed = order == "auto" and not known and bool(found)
    if order == "bgr" or (assumed and from_caffe):
        arrays[found[0]] = arrays[found[0]][:, ::-1]
        statistics = [name for name in arrays if name.startswith("bn_data_")]  # of the image
        arrays.update({name: arrays[name][::-1] for name in statistics})
        report.converted.append(f"{', '.join([*found, *statistics])} (channels BGR -> RGB)")
    if assumed:
        has, other = ("BGR, as Caffe's do", "rgb") if from_caffe else ("RGB", "bgr")
        report.assumed.append(f"{found[0]} expects {has} (else --channel-order {other})")


def fit_params(
    params: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], report: LoadReport
) -> dict[str, np.ndarray]:
    """Those of params (by names here) that a network has, by its shapes; the report is filled."""
    used = {}
    for name, shape in shapes.items():
        if name not in params:
            report.missing.append(name)
        elif params[name].shape != tuple(shape):
            report.misshapen.append(f"{name} {params[name].shape}, the network has {tuple(shape)}")
        else:
            used[name] = np.ascontiguousarray(params[name])
            report.used.append(name)
    report.surplus = sorted(set(params) - set(shapes))
    return used


@dataclass(frozen=True)
class Origin:
    """Where --pretrained parameters come from: a run, a file of another project, or just a file.

    Of the first two, config or source tell what the parameters need.
    """

    path: Path
    config: Config | None = None
    source: Source | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Origin:
        """A run folder or a file; errors as read_params."""
        path = Path(path)
        if path.is_dir() and (path / "config.json").is_file():
            return cls(path, config=RunFolder(path).config())
        arrays = read_params(path)
        return cls(path, source=foreign_source(path, arrays), arrays=arrays)

    def checkpoint(self) -> tuple[str, Path]:
        """Of a run: "best" or, if it has never been validated, "last", and its folder."""
        run = RunFolder(self.path)
        which = "best" if run.best() else "last"
        return which, run.folder(which)

    def params(self) -> dict[str, np.ndarray]:
        """The parameters, by names here if they are known; of a run, its best or last ones."""
        if self.source is not None:
            return dict(self.source.params)
        if self.config is None:
            return dict(self.arrays)
        args, auxs = split_params(load_arrays(self.checkpoint()[1] / "model.params"))
        return {name: value.asnumpy() for name, value in {**args, **auxs}.items()}


#: of a run that another starts from: how its images become inputs
_INPUT = (
    *("mean", "std", "resize", "size_rounding", "short_side", "long_side", "square", "mini_mask"),
)


def pretrained_settings(
    origin: Origin, network: str | None
) -> tuple[str | None, dict[str, Any], list[str]]:
    """(network, settings, what to tell) of a training that starts from these parameters.

    network: as asked, or None for the origin's own. The settings (`section.field`) are those
    without which the parameters would mean nothing: how images become inputs, and, if the network
    is the origin's, its form and its number of classes (see `with_classes`).
    """
    if origin.source is not None:
        source = origin.source.by_category or origin.source
        network = network or next(iter(source.networks))
        settings = dict(source.networks.get(network, {}))
        told = [f"{origin.path}: {source.title}; its settings: {_words(settings)}", *source.told]
        if source.num_classes and network in source.networks:
            settings["model.num_classes"] = source.num_classes
        return network, settings, told
    if origin.config is None:
        return network, {}, []
    config = origin.config
    network = network or config.network
    settings = {f"data.{name}": getattr(config.data, name) for name in _INPUT}
    if network == config.network:
        settings.update(
            {n: attrgetter(n)(config) for n, _ in fields_of(config) if n[:5] == "model"}
        )
    which, folder = origin.checkpoint()
    told = f"{origin.path}: a run of {config.network}, whose settings hold; its {which} checkpoint"
    return network, settings, [f"{told}, {folder.name}"]


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _reading(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Source, list[str]]:
    """The source, its classes taken as they fit a network's shapes better; what was assumed."""
    if source.by_category is None:
        return source, []

    def fitting(read: Source) -> int:
        return sum(value.shape == shapes.get(name) for name, value in read.params.items())

    if fitting(source) > fitting(source.by_category):
        return source, ["its 90 classes are those of this data set, in their order"]
    if fitting(source) < fitting(source.by_category):
        return source.by_category, ["its 90 classes are COCO's ids, 10 of which are no category"]
    return source, []  # the layers with classes start anew


def match_params(
    path: Path, shapes: Mapping[str, tuple[int, ...]], channel_order: str = "auto"
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """The arrays of a file or run that fit a network's parameters (name -> shape), and a report.

    channel_order: rgb or bgr, what the file's first layer expects; auto: as `to_rgb` says. Raises
    WeightsError if nothing fits, or a run is said to expect BGR; else as read_params.
    """
    origin = Origin.open(path)
    report = LoadReport(Path(path))
    if origin.config is not None and channel_order != "auto":
        raise WeightsError(f"{path}: a run expects RGB: --channel-order is for files")
    if origin.source is not None:
        source, report.assumed = _reading(origin.source, shapes)
        origin = replace(origin, source=source)
        report.converted.append(f"names of {source.title}")
    params = origin.params()
    to_rgb(
        params, report, channel_order, known=origin.source is not None or origin.config is not None
    )
    used = fit_params(params, shapes, report)
    if not used:
        raise WeightsError("\n".join([f"{path}: nothing in it fits the network", *report.lines()]))
    return used, report
