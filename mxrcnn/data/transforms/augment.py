"""Augmentation: the transforms that `data.augment` names, and the random draws of an image.

A list such as `basic,photometric,mosaic:0.5,zoom_out:side_range=1/2`: names of transforms and
presets, a transform's parameters after colons. A bare value is its first parameter, and / separates
the numbers of one parameter. Masks and boxes follow, see `scene`.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data.records import ImageRecord
from mxrcnn.data.transforms.colour import Blur, Jpeg, Photometric
from mxrcnn.data.transforms.mix import CopyPaste, Mosaic
from mxrcnn.data.transforms.place import (
    IouCrop,
    Mirror,
    Rotate90,
    ScaleJitter,
    Transform,
    ZoomOut,
    mirrored,
)
from mxrcnn.data.transforms.render import render
from mxrcnn.data.transforms.sample import Sample, load_sample, resized_size
from mxrcnn.data.transforms.scene import Scene
from symnet.config.ranges import FROM_1, check_ranges

#: the item that stands for `data.flip`: each image occurs twice in an epoch, once mirrored
BASIC = "basic"
#: what names of presets stand for; copy_paste is left out of them if no masks are loaded
PRESETS = {
    "none": (),
    BASIC: (BASIC,),
    "strong": (
        *(BASIC, "photometric", "copy_paste", "mosaic:0.3:scale=0.5/1"),
        *("iou_crop:0.5", "zoom_out:0.3:side_range=1/2"),
    ),
}


@dataclass(frozen=True)
class ShortSides(Transform):
    """Draw each batch's short side from a list, which takes the place of data.short_side.

    Every side makes as many padded shapes as data.short_side alone. torchvision:
    RandomShortestSize.
    """

    sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    RANGES: typing.ClassVar = {"sides": FROM_1}

    def __call__(
        self, scene: Scene, rng: np.random.Generator, partners: Sequence[ImageRecord]
    ) -> Scene:
        return scene  # the plan has made the canvas as large as that


TRANSFORMS: dict[str, type[Transform]] = {
    "mirror": Mirror,
    "short_sides": ShortSides,
    "scale_jitter": ScaleJitter,
    "photometric": Photometric,
    "zoom_out": ZoomOut,
    "iou_crop": IouCrop,
    "rotate90": Rotate90,
    "blur": Blur,
    "jpeg": Jpeg,
    "mosaic": Mosaic,
    "copy_paste": CopyPaste,
}


def _parse(item: str) -> Transform:
    """The transform of an item such as `zoom_out:0.5:side_range=1/2`. Raises ConfigError."""
    name, *words = item.split(":")
    where = f"data.augment={item}"
    if name not in TRANSFORMS:
        raise ConfigError(f"{where}: no transform; there are {', '.join([*PRESETS, *TRANSFORMS])}")
    kind = TRANSFORMS[name]
    hints, names = typing.get_type_hints(kind), [field.name for field in fields(kind)]
    values = {}
    for word in words:
        key, equals, text = word.rpartition("=")
        key = key if equals else names[0]
        if key not in names:
            raise ConfigError(f"{where}: {name} has no {key!r}, but {', '.join(names)}")
        if key in values:
            raise ConfigError(f"{where}: {key} is given twice")
        values[key] = _value(f"{where}: {key}", text, hints[key])
    made = kind(**values)
    try:
        check_ranges(made, name, kind.RANGES)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    for key, range_ in kind.RANGES.items():
        value = getattr(made, key)
        if range_.count == 2 and value[0] > value[1]:
            raise ConfigError(f"{where}: {key} goes from {value[0]} down to {value[1]}")
    return made


def _value(where: str, text: str, hint: typing.Any) -> typing.Any:
    """A number, or the numbers of a tuple, separated by /."""
    several = typing.get_origin(hint) is tuple
    number = typing.get_args(hint)[0] if several else hint
    try:
        return tuple(map(number, text.split("/"))) if several else number(text)
    except ValueError:
        example = "numbers with / in between" if several else "a number"
        raise ConfigError(f"{where}={text!r}: expected {example}") from None


def _spelled(name: str, transform: Transform) -> str:
    """The item that gives this transform, with all of its parameters."""
    words = [name]
    for key, value in asdict(transform).items():
        numbers = value if isinstance(value, tuple) else (value,)
        words.append(f"{key}={'/'.join(map(str, numbers))}")
    return ":".join(words)


def expand(items: Iterable[str], masks: bool) -> tuple[str, ...]:
    """The items with presets replaced by what they hold and all parameters spelled out.

    So a run's config says what was done even after a preset or a default has changed. masks:
    whether masks are loaded. Raises ConfigError for unknown names and values out of range.
    """
    out: list[str] = []
    for item in items:
        for one in PRESETS.get(item, (item,)):
            name = one.partition(":")[0]
            if name == "copy_paste" and not masks:
                if item in PRESETS:
                    continue
                raise ConfigError(f"data.augment={item}: needs masks, which data.masks=True loads")
            spelled = one if one == BASIC else _spelled(name, _parse(one))
            if name in (made.partition(":")[0] for made in out):
                raise ConfigError(f"data.augment={','.join(items)}: {name} occurs twice")
            out.append(spelled)
    return tuple(out)


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for the images of a run.

    both_ways: each image occurs twice in an epoch, once mirrored. sides: the short sides that
    batches choose from, or none. transforms: in the order in which they are applied.
    """

    both_ways: bool
    sides: tuple[int, ...]
    transforms: tuple[Transform, ...]

    @classmethod
    def of(cls, data: DataConfig) -> Augmentation:
        """The augmentation that the settings name. Raises ConfigError as `expand` does."""
        items = expand(data.augment, data.masks)
        made = [_parse(item) for item in items if item != BASIC]
        sides = [one.sides for one in made if isinstance(one, ShortSides)]
        rest = tuple(one for one in made if not isinstance(one, ShortSides))
        return cls(data.flip and BASIC in items, sides[0] if sides else (), rest)

    @property
    def partners(self) -> int:
        """The number of other images that an image may show."""
        return sum(one.partners for one in self.transforms)

    def scene(
        self,
        record: ImageRecord,
        canvas: tuple[int, int],
        flip: bool,
        partners: Sequence[ImageRecord],
        rng: np.random.Generator,
    ) -> Scene:
        """What the image of a record shows. flip: mirror it in the end."""
        scene, rest = Scene.of(record, canvas), list(partners)
        for one in self.transforms:
            mine, rest = rest[: one.partners], rest[one.partners :]
            scene = one(scene, rng, mine)
        return mirrored(scene) if flip else scene


def augmented_sample(
    augmentation: Augmentation,
    data: DataConfig,
    record: ImageRecord,
    flip: bool,
    partners: Sequence[ImageRecord],
    rng: np.random.Generator,
    regions: bool = False,
    rows: int | None = None,
) -> tuple[Sample, Counter[str]]:
    """The network input of a record after the transforms, and how many objects were left out.

    Without transforms and data.reduced_jpeg it is that of `load_sample`, to the bit. rng: the only
    source of randomness. regions, rows: as in `render`. Raises DataError as `load_sample` does.
    """
    if not augmentation.transforms and not data.reduced_jpeg:
        return load_sample(record, data, flip, regions), Counter()
    canvas = resized_size(record.height, record.width, data)[:2]
    scene = augmentation.scene(record, canvas, flip, partners, rng)
    return render(scene, data, regions, rows)
