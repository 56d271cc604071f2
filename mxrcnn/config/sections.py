"""The configuration's dataclasses: data and training, the same for all networks, and the whole.

The `#:` comments document the fields; `mxrcnn train --list-settings` prints them.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from symnet.config.ranges import FROM_0, FROM_1, Range, check_ranges

#: most pixels that an image file may have: Pillow's own limit against decompression bombs
MAX_IMAGE_PIXELS = 1024**3 // 4 // 3
#: the least side of a tile, in pixels of the image and of the network, and the most overlap
LEAST_TILE, MOST_OVERLAP = 64, 0.9


class ConfigError(ValueError):
    """A setting is unknown, invalid, or contradicts another; the message names it and its value."""


def _check(owner: str, section: Any, ranges: Mapping[str, Range]) -> None:
    """ConfigError for the first field out of range."""
    try:
        check_ranges(section, owner, ranges)
    except ValueError as error:
        raise ConfigError(str(error)) from None


DATA_RANGES = {
    **dict.fromkeys(("short_side", "long_side", "mini_mask", "max_image_pixels"), FROM_0),
    "trained_scale": FROM_0,
    "pad_multiple": FROM_1,
    **dict.fromkeys(("val_share", "repeat_thresh"), Range(0, 1, below=True)),
    "split_seed": FROM_0,
    **dict.fromkeys(("tile", "empty_tiles"), FROM_0),
    "overlap": Range(0, MOST_OVERLAP),
    "mean": Range(0, 255, count=3),
    "std": Range(0, above=True, count=3),
}


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they become network inputs, in the order in which that happens.

    Raises ConfigError for values out of range.
    """

    dataset: str = "synthetic"  #: kind of data set, as in --dataset
    root: str = "data/synthetic"  #: folder of the data set, as in --data-root
    #: folder of the images that a coco, csv or cvat file names; empty: the usual places near it
    images: str = ""
    imageset: str = "2007_train"  #: images to train on; + joins several sets
    val_imageset: str = ""  #: images to validate on; empty: no validation, but see val_share
    #: share of the images of imageset to validate on instead of training, as in --val; 0: none
    val_share: float = 0.0
    split_seed: int = 0  #: seed of the split of which val_share is a side
    val_dataset: str = ""  #: kind of another data set that has val_imageset, as in --val PATH
    val_root: str = ""  #: its folder
    val_images: str = ""  #: its images, as in images
    #: auto (those in the data), voc (the 20), or the names, without background
    class_names: tuple[str, ...] = ("auto",)
    keep_empty: bool = True  #: also train on images without objects
    #: repeat images with classes that a smaller share of the images has, see `Repeats`; 0: none
    repeat_thresh: float = 0.0
    use_difficult: bool = False  #: also train on difficult objects
    skip_bad: bool = False  #: leave out unreadable files instead of stopping
    #: refuse files whose header claims more pixels than this; 0: no limit
    max_image_pixels: int = MAX_IMAGE_PIXELS
    #: while training, decode a JPEG at 1/2, 1/4 or 1/8 of its size where that is enough pixels
    reduced_jpeg: bool = False
    exif_orientation: bool = False  #: rotate images by their EXIF tag; boxes are in rotated pixels
    #: cut larger images into tiles of this many pixels a side, see docs/train.md; 0: do not
    tile: int = 0
    overlap: float = 0.2  #: least share of a tile that neighbours have in common, 0 to 0.9
    #: tiles without objects that an epoch shows, per tile with objects; keep_empty=false: none
    empty_tiles: float = 0.25
    flip: bool = True  #: also use each image mirrored, which doubles an epoch; see augment
    #: none, basic (what flip says), strong, or a list of transforms; see docs/augment.md
    augment: tuple[str, ...] = ("basic",)
    short_side: int = 600  #: resize images to this short side, in pixels; 0: no limit
    long_side: int = 1000  #: but to at most this long side; 0: no limit
    #: antialias: Pillow's filter on stored pixels; linear: torchvision's, on normalised pixels
    resize: Literal["antialias", "linear"] = "antialias"
    #: round resized sides to the nearest pixel, or down as torchvision does
    size_rounding: Literal["round", "floor"] = "round"
    #: pixels after resizing per pixel of the files, the median of the images trained on, or of
    #: their tiles; recorded by training for mxrcnn predict --tile; 0: unknown
    trained_scale: float = 0.0
    #: subtracted from red, green and blue, which range from 0 to 255
    mean: tuple[float, ...] = (123.68, 116.779, 103.939)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  #: divides them after mean is subtracted
    square: bool = False  #: pad with zeros to long_side x long_side, at the bottom and right
    pad_multiple: int = 32  #: pad sides to multiples of this, which keeps distinct shapes few
    masks: bool = False  #: load instance masks
    mini_mask: int = 0  #: side of masks that are cropped to their boxes; 0: masks of network size

    def __post_init__(self) -> None:
        _check("data", self, DATA_RANGES)
        if max(self.mean) <= 1 and max(self.std) < 1:
            raise ConfigError(
                f"data.mean={self.mean!r} with data.std={self.std!r}: pixels range from 0 to 255 "
                "here; multiply both by 255"
            )
        if self.square and not self.long_side:
            raise ConfigError("data.square=True: needs data.long_side above 0")
        if self.val_share and self.val_imageset:
            raise ConfigError(
                f"data.val_share={self.val_share:g} with data.val_imageset={self.val_imageset!r}: "
                "validate on a share of the training images or on others, not on both"
            )
        if self.val_dataset and not (self.val_root and self.val_imageset):
            raise ConfigError(
                f"data.val_dataset={self.val_dataset!r}: needs data.val_root and data.val_imageset"
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise ConfigError(f"data.class_names={self.class_names!r}: a name occurs twice")
        sides = [side for side in (self.tile, self.short_side, self.long_side) if side]
        if self.tile and min(sides) < LEAST_TILE:
            raise ConfigError(
                f"data.tile={self.tile}, short_side={self.short_side}, long_side={self.long_side}: "
                f"tiles have at least {LEAST_TILE} pixels a side, also when resized"
            )

    @property
    def least_padded_side(self) -> int:
        """The least side of padded images: long_side if they are square, else 0."""
        return self.long_side if self.square else 0


TRAIN_RANGES = {
    **dict.fromkeys(("batch_size", "accumulate", "log_interval", "keep", "workers"), FROM_1),
    **dict.fromkeys(("epochs", "lr", "clip_gradient", "clip_norm", "warmup_steps"), FROM_0),
    "lr_decay_epoch": Range(0, optional=True),
    **dict.fromkeys(("seed", "checkpoint_steps", "val_every", "patience"), FROM_0),
    **dict.fromkeys(("momentum", "weight_decay", "ema"), Range(0, 1, below=True)),
    "betas": Range(0, 1, below=True, count=2),
    "lr_decay": Range(0, 1, above=True),
    "lr_final": Range(0, 1),
    "poly_power": Range(0, above=True),
    "warmup_factor": Range(0, 1),
}


@dataclass(frozen=True)
class TrainConfig:
    """Training. Raises ConfigError for values out of range."""

    batch_size: int = 1  #: images a pass of each worker, over all its devices
    accumulate: int = 1  #: passes a step: an update is that of batch_size x accumulate images
    epochs: int = 10  #: passes over the data
    lr: float = 0.001  #: learning rate for a step of each worker
    #: how lr falls: in steps (lr_decay_epoch), or in a curve to lr_final at the last epoch's end
    schedule: Literal["step", "cosine", "poly"] = "step"
    lr_decay_epoch: tuple[int, ...] = (7,)  #: epochs after which lr is multiplied by lr_decay
    lr_decay: float = 0.1  #: see lr_decay_epoch
    lr_final: float = 0.0  #: where cosine and poly end, as a fraction of lr
    poly_power: float = 0.9  #: the exponent of poly
    optimizer: Literal["sgd", "adamw"] = "sgd"  #: SGD with momentum, or AdamW
    momentum: float = 0.9  #: momentum of SGD
    betas: tuple[float, ...] = (0.9, 0.999)  #: AdamW's decay rates of its means
    #: sgd: L2 penalty, this times a weight is added to its gradient; adamw: a step shrinks a weight
    #: by lr times this
    weight_decay: float = 5e-4
    #: NAME:WEIGHT,... of classes whose samples weigh more or less than 1 in the class loss
    class_weights: tuple[str, ...] = ()
    decay_norms: bool = True  #: whether scales of norms decay too; biases never do
    clip_norm: float = 0.0  #: limit of the norm of the whole gradient; 0: do not clip
    #: clip each gradient element to [-this, this], after clip_norm; 0: do not clip
    clip_gradient: float = 5.0
    #: decay of a moving average of the weights, which is what is validated and saved; 0: none
    ema: float = 0.0
    warmup_steps: int = 0  #: steps in which lr rises linearly from warmup_factor * lr
    warmup_factor: float = 0.1  #: see warmup_steps
    fixed: tuple[str, ...] = ()  #: prefixes of the names of parameters that are not trained
    pretrained: str = ""  #: run or parameter file to start from, as in --pretrained
    #: channel order that the pretrained file's first layer expects; auto: see `to_rgb`
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"
    seed: int = 0  #: seed of initial values, image order, sampling and dropout
    checkpoint_steps: int = 0  #: steps between extra checkpoints; 0: only at the ends of epochs
    keep: int = 2  #: number of checkpoints to keep, besides the best
    val_every: int = 1  #: epochs between validations, if there is a val_imageset; 0: never
    patience: int = 0  #: end after this many validations without a better one; 0: never
    #: metric of validations, which chooses the best checkpoint; auto: the data set's
    val_metric: Literal["auto", "voc07", "voc12", "coco"] = "auto"
    log_interval: int = 20  #: steps between rows of log.jsonl
    tensorboard: bool = False  #: also write TensorBoard event files
    #: draw train_batches.png at the start, and some images after each validation: val_pictures/
    pictures: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"  #: of convolutions; parameters stay float32
    #: how workers train together, as in --kvstore
    kvstore: Literal["local", "dist_sync", "dist_device_sync", "dist_async"] = "local"
    workers: int = 1  #: processes that train together; set by mxrcnn launch
    #: how lr grows with the number of workers and, unless it is given, with the batch; see
    #: `rate_factor`
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"

    def __post_init__(self) -> None:
        _check("train", self, TRAIN_RANGES)
        if "" in self.fixed:
            raise ConfigError(f"train.fixed={self.fixed!r}: an empty prefix fixes everything")


#: the parts of a config that hold settings
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
    """The (dotted name, type) of each setting, in the order of declaration.

    part: a config, or a section of it, whose prefix is `where`. A field that holds a dataclass is a
    group of settings: `model.form.NAME`.
    """
    hints = _hints(type(part))
    for one in dataclasses.fields(part):
        value = getattr(part, one.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{where}{one.name}.")
        elif not isinstance(part, Config):  # Config.network is no setting
            yield f"{where}{one.name}", hints[one.name]
