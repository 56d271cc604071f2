"""Loads pretrained parameters into a network, and reports what happened to each entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mxrcnn.config import Config
from mxrcnn.runs.checkpoint import RunFolder, load_arrays, split_params
from mxrcnn.weights.formats import WeightsError, read_params
from mxrcnn.weights.source import Source
from mxrcnn.weights.sources import foreign_source
from mxrcnn.weights.zoo import locate

__all__ = ["LoadReport", "Origin", "WeightsError", "fit_params", "match_params", "read_params"]

#: VGG16's first layer
FIRST_LAYER = "conv1_1_weight"


@dataclass
class LoadReport:
    """What happened to the entries of a parameter file."""

    path: Path
    used: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The whole report as text, one line per kind."""
        out = [f"{self.path}: {len(self.used)} parameters used"]
        kinds = [
            (self.converted, "converted"),
            (self.assumed, "assumed"),
            (self.missing, "not in the file, newly initialised"),
            (self.surplus, "in the file but not in the network, left out"),
            (self.misshapen, "wrong shape, left out; these layers are newly initialised"),
        ]
        return out + [f"  {what}: {', '.join(names)}" for names, what in kinds if names]


def to_rgb(
    arrays: dict[str, np.ndarray], report: LoadReport, order: str = "auto", known: bool = False
) -> None:
    """Convert the first layer from BGR to RGB, if it expects BGR; the report says so.

    order: the channel order that the layer expects: rgb, bgr or auto. auto means BGR for VGG16's
    .npz, which comes from Caffe, and RGB for everything else: other projects' files (known), the
    original MXNet example's .params and this toolkit's own. The report lists what was assumed.

    Raises WeightsError if order is bgr and not exactly one layer has three input channels.
    """
    found = [name for name, value in arrays.items() if value.ndim == 4 and value.shape[1] == 3]
    found = [FIRST_LAYER] if FIRST_LAYER in found else found
    if order == "bgr" and len(found) != 1:
        raise WeightsError(
            f"{report.path}: --channel-order bgr: exactly one layer should have three input "
            f"channels; found {', '.join(found) or 'none'}"
        )
    from_caffe = report.path.suffix == ".npz" and found == [FIRST_LAYER]
    assumed = order == "auto" and not known and bool(found)
    if order == "bgr" or (assumed and from_caffe):
        arrays[found[0]] = arrays[found[0]][:, ::-1]
        statistics = [
            name for name in arrays if name.startswith("bn_data_")
        ]  # normalises the image
        arrays.update({name: arrays[name][::-1] for name in statistics})
        report.converted.append(f"{', '.join([*found, *statistics])} (channels BGR -> RGB)")
    if assumed:
        expected, other = ("BGR, like Caffe's", "rgb") if from_caffe else ("RGB", "bgr")
        report.assumed.append(f"{found[0]} expects {expected} (if not, --channel-order {other})")


def fit_params(
    params: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], report: LoadReport
) -> dict[str, np.ndarray]:
    """The params that have a network's names and shapes; fills the report."""
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
    """Where --pretrained parameters come from: a run, another project's file, or any other file.

    config (a run's) or source (another project's) hold the settings that the parameters need.
    """

    path: Path
    config: Config | None = None
    source: Source | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Origin:
        """Open a run folder, a file or known weights by name; raises what read_params raises."""
        path = locate(path)
        if path.is_dir() and (path / "config.json").is_file():
            return cls(path, config=RunFolder(path).config())
        arrays = read_params(path)
        return cls(path, source=foreign_source(path, arrays), arrays=arrays)

    def checkpoint(self) -> tuple[str, Path]:
        """A run's best checkpoint, or its last if it was never validated: which one, its folder."""
        run = RunFolder(self.path)
        which = "best" if run.best() else "last"
        return which, run.folder(which)

    def params(self) -> dict[str, np.ndarray]:
        """The parameters by name: a source's translated, a run's from its best checkpoint."""
        if self.source is not None:
            return dict(self.source.params)
        if self.config is None:
            return dict(self.arrays)
        args, auxs = split_params(load_arrays(self.checkpoint()[1] / "model.params"))
        return {name: value.asnumpy() for name, value in {**args, **auxs}.items()}


def _reading(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Source, list[str]]:
    """Choose how to read 90 classes: whichever way fits more of the network's shapes.

    Returns the source, and what was assumed.
    """
    if source.by_category is None:
        return source, []

    def fitting(read: Source) -> int:
        return sum(value.shape == shapes.get(name) for name, value in read.params.items())

    if fitting(source) > fitting(source.by_category):
        return source, ["its 90 classes are those of this data set, in the same order"]
    if fitting(source) < fitting(source.by_category):
        return source.by_category, ["its 90 classes are COCO's ids, 10 of which are unused"]
    return source, []  # neither fits: the layers with classes are newly initialised


def match_params(
    path: Path, shapes: Mapping[str, tuple[int, ...]], channel_order: str = "auto"
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """The arrays of a file or run that fit a network's parameters (name -> shape), and a report.

    path: may also name known weights (see `zoo.locate`), which are downloaded if needed.
    channel_order: the order that the file's first layer expects: rgb, bgr or auto (see `to_rgb`).
    Raises WeightsError if nothing fits or a channel order is given for a run, and what read_params
    raises.
    """
    origin = Origin.open(path)
    path = origin.path
    report = LoadReport(path)
    if origin.config is not None and channel_order != "auto":
        raise WeightsError(f"{path}: runs always expect RGB; --channel-order is only for files")
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
