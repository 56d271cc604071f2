"""The configuration's dataclasses: data and training, the same for all networks, and the whole.

The `#:` comments document the fields; `tools/train.py --list-settings` prints them.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from symnet.config.ranges import FROM_0, FROM_1, Range

#: pixels of an image file, at most; Pillow's own limit against decompression bombs
MAX_IMAGE_PIXELS = 1024**3 // 4 // 3


class ConfigError(ValueError):
    """A configuration that cannot be; the message names the key and the value."""


def _check(owner: str, section: Any, ranges: Mapping[str, Range]) -> None:
    """ConfigError for the first field outside its range; a tuple of any length may be empty."""
    for name, allowed in ranges.items():
        value = getattr(section, name)
        if (value != () or allowed.count) and not allowed.allows(value):
            raise ConfigError(f"{owner}.{name}={value!r}: must be {allowed}")


DATA_RANGES = {
    **dict.fromkeys(("short_side", "long_side", "mini_mask", "max_image_pixels"), FROM_0),
    "pad_multiple": FROM_1,
    "mean": Range(0, 255, count=3),
    "std": Range(0, above=True, count=3),
}


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they become network inputs; ConfigError for values that cannot
    be."""

    dataset: str = "synthetic"  #: kind of data set, as in --dataset
    root: str = "data/synthetic"  #: its folder, as in --data-root
    imageset: str = "2007_train"  #: images to train on; several are joined by +
    val_imageset: str = ""  #: images to validate on; empty: no validation
    #: auto (found in the data), voc (the 20), or the names, without the background
    class_names: tuple[str, ...] = ("auto",)
    short_side: int = 600  #: images are resized to this short side, in pixels; 0: no limit
    long_side: int = 1000  #: but to no longer long side than this; 0: no limit
    #: subtracted from the channels red, green, blue of pixels from 0 to 255
    mean: tuple[float, ...] = (123.68, 116.779, 103.939)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  #: then they are divided by this
    flip: bool = True  #: each image is also used mirrored: an epoch has twice the images
    pad_multiple: int = 32  #: padded sides are multiples of it, so that shapes are few
    exif_orientation: bool = False  #: turn images upright by their EXIF tag, as their boxes are
    keep_empty: bool = True  #: train on images without objects too
    use_difficult: bool = False  #: train on difficult objects too
    skip_bad: bool = False  #: leave out files that cannot be read, instead of stopping
    #: files of more pixels are refused, whatever they say to be; 0: no limit
    max_image_pixels: int = MAX_IMAGE_PIXELS
    #: antialias: Pillow's filter on stored pixels; linear: torchvision's, on normalised ones
    resize: Literal["antialias", "linear"] = "antialias"
    #: resized sides to the nearest pixel, or down, as torchvision
    size_rounding: Literal["round", "floor"] = "round"
    square: bool = False  #: pad with zeros to long_side x long_side, below and to the right
    masks: bool = False  #: load instance masks
    mini_mask: int = 0  #: masks as squares of that side in their boxes; 0: at network size

    def __post_init__(self) -> None:
        _check("data", self, DATA_RANGES)
        if max(self.mean) <= 1 and max(self.std) < 1:
            raise ConfigError(
                f"data.mean={self.mean!r} with data.std={self.std!r}: pixels go from 0 to 255 "
                "here; multiply both by 255"
            )
        if self.square and not self.long_side:
            raise ConfigError("data.square=True: needs a long_side, and it is 0")
        if len(set(self.class_names)) < len(self.class_names):
            raise ConfigError(f"data.class_names={self.class_names!r}: a name is there twice")

    @property
    def least_padded_side(self) -> int:
        """What the sides of padded images are at least: long_side where they are square."""
        return self.long_side if self.square else 0


TRAIN_RANGES = {
    **dict.fromkeys(("batch_size", "log_interval", "keep", "workers"), FROM_1),
    **dict.fromkeys(("epochs", "lr", "lr_decay_epoch", "clip_gradient", "warmup_steps"), FROM_0),
    **dict.fromkeys(("seed", "checkpoint_steps", "val_every"), FROM_0),
    **dict.fromkeys(("momentum", "weight_decay"), Range(0, 1, below=True)),
    "lr_decay": Range(0, 1, above=True),
    "warmup_factor": Range(0, 1),
}


@dataclass(frozen=True)
class TrainConfig:
    """How it trains: SGD with momentum; ConfigError for values that cannot be."""

    batch_size: int = 1  #: images a step, of each worker on all its devices
    epochs: int = 10  #: passes over the data
    lr: float = 0.001  #: learning rate, for batch_size images a step
    lr_decay_epoch: tuple[int, ...] = (7,)  #: epochs after which lr is multiplied by lr_decay
    lr_decay: float = 0.1  #: see lr_decay_epoch
    momentum: float = 0.9  #: of SGD
    weight_decay: float = 5e-4  #: times a weight is added to its gradient
    clip_gradient: float = 5.0  #: each gradient's numbers are cut to -this..this; 0: they are not
    warmup_steps: int = 0  #: steps in which lr rises linearly from warmup_factor * lr
    warmup_factor: float = 0.1  #: see warmup_steps
    fixed: tuple[str, ...] = ()  #: parameters whose names begin so do not move
    pretrained: str = ""  #: a run or file of parameters to start from, as in --pretrained
    #: channels as the first layer of a file of pretrained expects them; auto: see `to_rgb`
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"
    seed: int = 0  #: of initial values, order, samples and dropout
    checkpoint_steps: int = 0  #: also save every so many steps; 0: at the ends of epochs alone
    keep: int = 2  #: checkpoints to keep, besides the best
    val_every: int = 1  #: epochs between validations, if there is a val_imageset; 0: never
    #: what validations score, and what the best checkpoint is the best by; auto: the data set's
    val_metric: Literal["auto", "voc07", "voc12", "coco"] = "auto"
    log_interval: int = 20  #: steps between two rows of log.jsonl
    tensorboard: bool = False  #: also write TensorBoard's event files
    precision: Literal["fp32", "bf16"] = "fp32"  #: of convolutions; parameters are float32
    #: how workers train together, as in --kvstore
    kvstore: Literal["local", "dist_sync", "dist_device_sync", "dist_async"] = "local"
    workers: int = 1  #: processes that train together; tools/launch.py sets it
    #: whether lr is multiplied by the number of workers, see `make_schedule`
    lr_scaling: Literal["linear", "none"] = "linear"

    def __post_init__(self) -> None:
        _check("train", self, TRAIN_RANGES)
        if "" in self.fixed:
            raise ConfigError(f"train.fixed={self.fixed!r}: an empty name would fix everything")


#: the parts of a config that have settings
SECTIONS = ("model", "data", "train")


@dataclass(frozen=True)
class Config:
    """A run's configuration; `model` is the detector's own config class."""

    network: str
    model: Any
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_hints = functools.lru_cache(maxsize=None)(typing.get_type_hints)


def fields_of(part: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of a config's settings, as declared.

    A field that is a dataclass itself is a group: `model.form.NAME`.
    """
    hints = _hints(type(part))
    for one in dataclasses.fields(part):
        value = getattr(part, one.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{where}{one.name}.")
        elif not isinstance(part, Config):  # whose network is no setting
            yield f"{where}{one.name}", hints[one.name]
