"""Reading parameters that others trained: MXNet .params and .npz of the VGG16 convolutions."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mxrcnn.training.checkpoint import load_arrays, split_params

FIRST_LAYER = "conv1_1_weight"


class WeightsError(ValueError):
    """A file of parameters that cannot be used; the message names it."""


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
            (self.misshapen, "of another shape, left out"),
        ]
        return out + [f"  {what}: {', '.join(names)}" for names, what in told if names]


def read_params(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, float32, from .params (arg:/aux: keys or none) or .npz (no pickle)."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except Exception as error:  # on damaged files NumPy and zipfile raise nearly anything
            raise WeightsError(f"{path}: not a readable .npz without objects: {error}") from None
    elif path.suffix == ".params":
        args, auxs = split_params(load_arrays(path))
        arrays = {name: value.asnumpy() for name, value in {**args, **auxs}.items()}
    else:
        raise WeightsError(f"{path}: expected .params or .npz")
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)  # of an .npz entry that is no array: None
        if dtype is None or dtype.kind not in "fiu":
            raise WeightsError(f"{path}: {name} holds {dtype or 'no array'}, not numbers")
        with np.errstate(over="ignore"):
            arrays[name] = value.astype(np.float32)
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} has values that are not finite in float32")
    return arrays


def guess_bgr(path: Path) -> bool:
    """Whether a file's first layer expects blue first.

    The VGG16 .npz files come from Caffe and expect BGR; .params of the original MXNet example were
    converted to RGB, which is also what this toolkit saves.
    """
    return Path(path).suffix == ".npz"


def match_params(
    path: Path, shapes: dict[str, tuple[int, ...]], bgr: bool | None = None
) -> tuple[dict[str, np.ndarray], LoadReport]:
    """The arrays of a file that fit a network's parameters (name -> shape), and a full report.

    bgr: whether the file's first layer expects blue first; None: as guess_bgr says.
    """
    arrays = read_params(path)
    report = LoadReport(Path(path))
    first = arrays.get(FIRST_LAYER, np.zeros(0))
    if (guess_bgr(path) if bgr is None else bgr) and first.ndim == 4:
        arrays[FIRST_LAYER] = first[:, ::-1]
        report.converted.append(f"{FIRST_LAYER} (channels BGR -> RGB)")
    used = {}
    for name, shape in shapes.items():
        if name not in arrays:
            report.missing.append(name)
        elif arrays[name].shape != tuple(shape):
            report.misshapen.append(f"{name} {arrays[name].shape}, the network has {tuple(shape)}")
        else:
            used[name] = np.ascontiguousarray(arrays[name])
            report.used.append(name)
    report.surplus = sorted(set(arrays) - set(shapes))
    if not used:
        raise WeightsError("\n".join([f"{path}: nothing in it fits the network", *report.lines()]))
    return used, report
