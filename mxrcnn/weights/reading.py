"""Parameters that others trained, as a network here takes them, and what became of each entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mxrcnn.config import Config
from mxrcnn.training.checkpoint import RunFolder, load_arrays, split_params
from mxrcnn.weights.formats import WeightsError, read_params
from mxrcnn.weights.source import Source
from mxrcnn.weights.sources import foreign_source

__all__ = ["LoadReport", "Origin", "WeightsError", "fit_params", "match_params", "read_params"]

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

    def lines(self) -> list[str]:
        """Sentences for people; nothing is left out."""
        out = [f"{self.path}: {len(self.used)} parameters used"]
        told = [
            (self.converted, "converted"),
            (self.missing, "not in the file, start anew"),
            (self.surplus, "in the file but not in the network, left out"),
            (self.misshapen, "of another shape, left out; these layers start anew"),
        ]
        return out + [f"  {what}: {', '.join(names)}" for names, what in told if names]


def guess_bgr(path: Path) -> bool:
    """Whether a file's first layer expects blue first.

    The VGG16 .npz files come from Caffe and expect BGR; .params of the original MXNet example were
    converted to RGB, which is also what this toolkit saves.
    """
    return Path(path).suffix == ".npz"


def to_rgb(path: Path, arrays: dict[str, np.ndarray], bgr: bool | None = None) -> list[str]:
    """Turn the first layer of VGG16 to RGB, if it expects BGR; what to tell about it.

    bgr: whether it does; None: as guess_bgr says.
    """
    first = arrays.get(FIRST_LAYER, np.zeros(0))
    if first.ndim != 4 or not (guess_bgr(path) if bgr is None else bgr):
        return []
    arrays[FIRST_LAYER] = first[:, ::-1]
    return [f"{FIRST_LAYER} (channels BGR -> RGB)"]


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

    def params(self) -> dict[str, np.ndarray]:
        """The parameters, by names here if they are known; of a run, its best or last ones."""
        if self.source is not None:
            return dict(self.source.params)
        if self.config is None:
            return dict(self.arrays)
        run = RunFolder(self.path)
        folder = run.folder("best" if run.best() else "last")
        args, auxs = split_params(load_arrays(folder / "model.params"))
        return {name: value.asnumpy() for name, value in {**args, **auxs}.items()}


#: of a run that another starts from: how its images become inputs
_INPUT = (
    *("mean", "std", "resize", "size_rounding", "short_side", "long_side", "square", "mini_mask"),
)
#: what the new run's classes decide
_OWN = ("num_classes", "unused_classes")


def pretrained_settings(
    origin: Origin, network: str | None
) -> tuple[str | None, dict[str, Any], list[str]]:
    """(network, settings, what to tell) of a training that starts from these parameters.

    network: as asked, or None for the origin's own. The settings (`section.field`) are those
    without which the parameters would mean nothing: how images become inputs, and, if the network
    is the origin's, its form.
    """
    if origin.source is not None:
        networks = origin.source.networks
        network = network or next(iter(networks))
        settings = {k: v for k, v in networks.get(network, {}).items() if k != "num_classes"}
        told = [f"{origin.path}: {origin.source.title}; its settings: {_words(settings)}"]
        return network, settings, told
    if origin.config is None:
        return network, {}, []
    config = origin.config
    network = network or config.network
    settings = {f"data.{name}": getattr(config.data, name) for name in _INPUT}
    if network == config.network:
        model = {k: v for k, v in vars(config.model).items() if k not in _OWN}
        settings.update({f"model.{name}": value for name, value in model.items()})
    return network, settings, [f"{origin.path}: a run of {config.network}, whose settings hold"]


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def match_params(
    path: Path, shapes: dict[str, tuple[int, ...]], bgr: bool | None = None
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """The arrays of a file or run that fit a network's parameters (name -> shape), and a report.

    bgr: whether the file's first layer expects blue first; None: as guess_bgr says.
    """
    origin = Origin.open(path)
    report = LoadReport(Path(path))
    params = origin.params()
    if origin.source is not None:
        report.converted.append(f"names of {origin.source.title}")
    report.converted += to_rgb(path, params, bgr)
    used = fit_params(params, shapes, report)
    if not used:
        raise WeightsError("\n".join([f"{path}: nothing in it fits the network", *report.lines()]))
    return used, report
