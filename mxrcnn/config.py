"""The whole configuration of a run: frozen dataclasses, overrides `key=value`, JSON both ways."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from symnet import get_detector
from symnet.detector import DetectorDef
from symnet.layers import UNSAFE_CELLS, unsafe_layers
from symnet.machine.cores import has_bf16

#: pixels of an image file, at most; Pillow's own limit against decompression bombs
MAX_IMAGE_PIXELS = 1024**3 // 4 // 3


class ConfigError(ValueError):
    """A configuration that cannot be; the message names the key and the value."""


def check_precision(name: str) -> None:
    """ConfigError for a precision that this processor is not made for."""
    if name == "bf16" and not has_bf16():
        raise ConfigError(
            "precision bf16: this processor has no bfloat16 instructions (avx512_bf16, amx_bf16) "
            "and would be slower with it; use fp32, the default"
        )


def check_shapes(symbol: Any, precision: str, **shapes: tuple[int, ...]) -> None:
    """ConfigError if a precision would corrupt memory with these shapes of a graph's inputs."""
    layers = unsafe_layers(symbol, precision, **shapes)
    if layers:
        raise ConfigError(
            f"precision {precision} with images of {shapes['data'][2:]}: MXNet's oneDNN corrupts "
            f"memory in 1x1 convolutions on maps of {UNSAFE_CELLS[0]} to {UNSAFE_CELLS[-1]} cells "
            f"({layers[0]}); use larger or smaller images, or fp32"
        )


def _check(owner: str, section: Any, least: Mapping[str, float]) -> None:
    """ConfigError for a field below its least value; for a tuple, each of its values counts."""
    for name, bound in least.items():
        value = getattr(section, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(bound <= v < float("inf") for v in values):
            raise ConfigError(f"{owner}.{name}={value!r}: must be at least {bound}, and finite")


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they become network inputs.

    mean and std are of the channels red, green, blue, 0-255; short_side and long_side in pixels
    (0: no limit); pad_multiple: padded sides are multiples of it, so that shapes are few.
    class_names: "auto" (found in the data), "voc" (the 20), or names. flip: each image is also used
    mirrored, so an epoch has twice the images. max_image_pixels: files of more pixels are refused,
    whatever they say to be (0: no limit).

    resize: "antialias" (Pillow's bilinear filter on stored pixels) or "linear" (torchvision's:
    normalised pixels, bilinear, no antialiasing). size_rounding: resized sides to the nearest pixel
    ("round") or down ("floor", as torchvision). square: resized as ever, then padded with zeros
    below and to the right to long_side x long_side. masks: load instance masks; mini_mask: as
    squares of that side in their boxes (0: at network size).
    """

    dataset: str = "synthetic"
    root: str = "data/synthetic"
    imageset: str = "2007_train"
    val_imageset: str = ""
    class_names: tuple[str, ...] = ("auto",)
    short_side: int = 600
    long_side: int = 1000
    mean: tuple[float, ...] = (123.68, 116.779, 103.939)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    flip: bool = True
    pad_multiple: int = 32
    exif_orientation: bool = False
    keep_empty: bool = True
    use_difficult: bool = False
    skip_bad: bool = False
    max_image_pixels: int = MAX_IMAGE_PIXELS
    resize: Literal["antialias", "linear"] = "antialias"
    size_rounding: Literal["round", "floor"] = "round"
    square: bool = False
    masks: bool = False
    mini_mask: int = 0

    def __post_init__(self) -> None:
        least = {"short_side": 0, "long_side": 0, "pad_multiple": 1, "mini_mask": 0}
        _check("data", self, {**least, "max_image_pixels": 0})
        if self.square and not self.long_side:
            raise ConfigError("data.square=True: needs a long_side, and it is 0")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if len(value) != 3 or not all(abs(v) < float("inf") for v in value):
                raise ConfigError(f"data.{name}={value!r}: three numbers are needed: r, g, b")
        if min(self.std) <= 0:
            raise ConfigError(f"data.std={self.std!r}: must be above 0")

    @property
    def least_padded_side(self) -> int:
        """What the sides of padded images are at least: long_side where they are square."""
        return self.long_side if self.square else 0


@dataclass(frozen=True)
class TrainConfig:
    """How it trains. batch_size: images a step, of each worker on all its devices; lr is for that
    batch; fixed are prefixes of parameters that do not move. channel_order: what the first layer
    of a file of pretrained expects; auto is as `to_rgb` in mxrcnn/weights/reading.py says.

    lr_decay_epoch: epochs after which lr is multiplied by lr_decay. warmup_steps: lr rises linearly
    from warmup_factor * lr. checkpoint_steps: also save every so many steps (0: at epochs' ends).
    val_every: epochs between validations, if there is a val_imageset (0: never). val_metric: what
    they score and what decides which checkpoint is the best; auto follows the data set, see
    mxrcnn/evaluation/core.py. keep: how many checkpoints to keep, besides the best. precision: of
    convolutions, fp32 or bf16; parameters are float32 either way. kvstore: how workers train
    together, and workers: how many; lr_scaling: whether lr grows with them, see `make_schedule`.
    """

    batch_size: int = 1
    epochs: int = 10
    lr: float = 0.001
    lr_decay_epoch: tuple[int, ...] = (7,)
    lr_decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_gradient: float = 5.0
    warmup_steps: int = 0
    warmup_factor: float = 0.1
    fixed: tuple[str, ...] = ()
    pretrained: str = ""
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"
    seed: int = 0
    checkpoint_steps: int = 0
    keep: int = 2
    val_every: int = 1
    val_metric: Literal["auto", "voc07", "voc12", "coco"] = "auto"
    log_interval: int = 20
    tensorboard: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    kvstore: Literal["local", "dist_sync", "dist_device_sync", "dist_async"] = "local"
    workers: int = 1
    lr_scaling: Literal["linear", "none"] = "linear"

    def __post_init__(self) -> None:
        _check("train", self, _LEAST)


#: the least values of TrainConfig's numbers
_LEAST = {
    **dict.fromkeys(("batch_size", "log_interval", "keep", "workers"), 1),
    **dict.fromkeys(("epochs", "lr", "lr_decay_epoch", "lr_decay", "momentum", "weight_decay"), 0),
    **dict.fromkeys(("clip_gradient", "warmup_steps", "warmup_factor", "seed"), 0),
    **dict.fromkeys(("checkpoint_steps", "val_every"), 0),
}


@dataclass(frozen=True)
class Config:
    """A run's configuration; `model` is the detector's own config class."""

    network: str
    model: Any
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def make_config(network: str = "faster_rcnn_vgg16") -> Config:
    """The defaults of a network."""
    detector = _detector(network)
    return override(Config(network=network, model=detector.config()), detector.defaults)


def _detector(network: str) -> DetectorDef:
    try:
        return get_detector(network)
    except KeyError as error:
        raise ConfigError(error.args[0]) from None


def _closest(key: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """The value as the annotated type, or ConfigError that names the key."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else () if value == "" else (value,)
        return tuple(_coerce(key, item, args[0]) for item in items)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{key}={value!r}: there are {', '.join(map(str, args))}")
    if wanted is bool and isinstance(value, bool):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is float and number:
        return float(value)
    if wanted is int and number and value % 1 == 0:
        return int(value)
    if wanted is str and not isinstance(value, (list, tuple, dict, bool)):
        return str(value)
    raise ConfigError(f"{key}={value!r}: expected {getattr(wanted, '__name__', wanted)}")


def _replace(section: Any, values: Mapping[str, Any]) -> Any:
    """A section with other values; a detector's own complaint becomes a ConfigError."""
    try:
        return dataclasses.replace(section, **values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _build(default: Any, values: Mapping[str, Any], where: str) -> Any:
    """A section like `default` with other values."""
    hints = typing.get_type_hints(type(default))
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where[:-1]}={values!r}: expected fields and their values")
    for key in values:
        if key not in hints:
            raise ConfigError(f"unknown setting {where}{key}{_closest(key, hints)}")
    coerced = {key: _coerce(where + key, value, hints[key]) for key, value in values.items()}
    return _replace(default, coerced)


def _parse(text: str) -> Any:
    """A value from the command line: a Python literal, a,b,c as a tuple, or the text itself."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(_parse(part) for part in text.split(",")) if "," in text else text
    # 2007_2012 is the name of an image set, not Python's 20072012
    return text if isinstance(value, (int, float)) and "_" in text else value


def full_name(config: Config, key: str) -> str:
    """`section.field` for a key that may be a field's bare name.

    Raises ConfigError for keys that no section has, or several have.
    """
    sections = ("model", "data", "train")
    section, _, name = key.rpartition(".")
    if section and section not in sections:
        raise ConfigError(f"unknown section in {key}{_closest(section, sections)}")
    fields = {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in sections}
    homes = [s for s in ([section] if section else sections) if name in fields[s]]
    if len(homes) != 1:
        known = [f"{s}.{n}" for s in sections for n in fields[s]]
        known += [n for s in sections for n in fields[s]]
        raise ConfigError(f"unknown or ambiguous setting {key}{_closest(key, known)}")
    return f"{homes[0]}.{name}"


def override(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with some fields replaced; keys are `section.field`, or a field of one section.

    Values are of the field's type (lists become tuples). Raises ConfigError for unknown or
    ambiguous keys and wrong types.
    """
    values: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = full_name(config, key).partition(".")
        hints = typing.get_type_hints(type(getattr(config, section)))
        values.setdefault(section, {})[name] = _coerce(key, value, hints[name])
    # all at once: a section checks its fields against each other
    parts = {name: _replace(getattr(config, name), new) for name, new in values.items()}
    return dataclasses.replace(config, **parts)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`key=value` words as a dictionary for `override`."""
    out = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: expected key=value")
        out[key.strip()] = _parse(value)
    return out


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries and lists."""
    return dataclasses.asdict(config)


#: how runs behaved before these fields existed: a run goes on as it was begun
_BEFORE_FIELDS = {"train": {"val_metric": "voc07"}}


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of to_dict; unknown fields raise.

    Fields that are not there get their defaults, except where an older run behaved otherwise: such
    a run has validated by voc07, whatever its data set, and keeps doing so. For the model's fields
    see `DetectorDef.before`.
    """
    if "network" not in values:
        raise ConfigError("no network is named")
    config = make_config(values["network"])
    for key in values:
        if key not in ("network", "model", "data", "train"):
            raise ConfigError(f"unknown setting {key}")
    sections = {
        name: _build(getattr(config, name), _as_written(values, name), f"{name}.")
        for name in ("model", "data", "train")
    }
    return dataclasses.replace(config, **sections)


def _as_written(values: Mapping[str, Any], section: str) -> Any:
    """A section of a stored config, with what fields that are younger than it stood for."""
    stored = values.get(section, {})
    if section not in values or not isinstance(stored, Mapping):
        return stored
    before = _BEFORE_FIELDS.get(section, {})
    if section == "model":
        before = get_detector(values["network"]).before
    return {**before, **stored}


def dump_json(config: Config) -> str:
    """The config as JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load_json(path: Path) -> Config:
    """The config of a JSON file; ConfigError names the file and the key."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
