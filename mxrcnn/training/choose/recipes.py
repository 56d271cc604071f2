"""The numbers behind the choices, all in one place. Experiments may change them; nothing else does.

Sides are those of network images, in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What suits a kind of annotation and machine.

    why: why this network. lr: the learning rate for a step of `IMAGES` images. sides: the least
    short side, the largest for most objects, the largest for small ones.
    """

    network: str
    preset: str
    why: str
    lr: float
    sides: tuple[int, int, int]


#: images a step of one device
IMAGES = 4
CPU_SIDES, GPU_SIDES = (192, 480, 800), (480, 800, 1216)
CPU = {
    "boxes": Recipe("fcos_regnetx_400mf", "quick", "small enough for a CPU", 0.02, CPU_SIDES),
    "masks": Recipe(
        "mask_rcnn_r50_fpn", "quick", "all objects have masks; for a CPU", 0.02, CPU_SIDES
    ),
    "anchors": Recipe(
        "faster_rcnn_r50_fpn", "quick", "--anchors needs anchors; for a CPU", 0.02, CPU_SIDES
    ),
}
GPU = {
    "boxes": Recipe("faster_rcnn_r50_fpn", "classic", "the usual one for GPUs", 0.005, GPU_SIDES),
    "masks": Recipe(
        "mask_rcnn_r50_fpn", "classic", "all objects have masks; for GPUs", 0.005, GPU_SIDES
    ),
}
GPU["anchors"] = GPU["boxes"]

#: settings of every recipe, and why
SETTINGS: dict[str, tuple[Any, str]] = {
    "data.augment": (("strong",), "training sees each image many times"),
    "train.schedule": ("cosine", "the learning rate falls to 0, however long the run"),
    "train.ema": (0.998, "averaged weights detect better than the last ones"),
}

#: updates of a training: at least this many, however few the images...
UPDATES = 2000
#: ...but each image is seen at most this often, unless that is less than LEAST_UPDATES...
MOST_VIEWS, LEAST_UPDATES = 300, 300
#: ...and at least this often
LEAST_VIEWS = 12
#: a stated time may be used for this many times the usual updates, and not be too short for this
#: share of them
MOST_UPDATES, ENOUGH_UPDATES = 10, 0.25
#: the share of all updates in which the learning rate rises, and the most updates for that
WARMUP, MOST_WARMUP = 0.05, 300

#: small objects should keep this many pixels: those of which SMALL percent are smaller
LEAST_PIXELS, SMALL = 12, 10
#: the smallest side that is tried when the time is short, and what sides are multiples of
LEAST_SIDE, SIDE_STEP = 128, 32
#: minutes in which the usual updates should end if no time is stated, which limits the size
MINUTES = 30

#: the share of the images to validate on if none are given, and how many there must be
VAL_SHARE, VAL_FROM = 0.15, 20
#: validations take at most this share of the time of training, and there are at most so many
VAL_TIME, VALIDATIONS = 0.1, 25

#: steps are measured with this many images, if there are more
SAMPLE = 2000
#: the share of the free memory that training may take
MEMORY = 0.6
#: the share of a stated time to fill, and the seconds besides training: pictures, curves, the end
FILL, BESIDES = 0.96, 6.0
#: a training that will take this many times the expected time says so
SLOWER = 1.1


def usual_updates(images: int, per_step: int) -> int:
    """The updates that a training on so many images usually needs, with `per_step` images each."""
    seen = per_step / max(1, images)
    most = max(LEAST_UPDATES, MOST_VIEWS / seen)
    return round(max(min(UPDATES, most), LEAST_VIEWS / seen))
