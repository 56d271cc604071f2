"""Settings of training that follow from others, unless the user gives them.

The decay epochs follow the number of epochs, the learning rate the images of a step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from mxrcnn.config import ConfigError, DataConfig, TrainConfig
from mxrcnn.training.schedule import rate_factor

#: the learning rate of AdamW by default, and for how many images a step; with ADAMW, torchvision's
#: recipe of retinanet_resnet50_fpn_v2
ADAMW_RATE = {"lr": 1e-4, "batch_size": 16}
ADAMW = {"lr_scaling": "sqrt", "weight_decay": 0.05, "decay_norms": False}


@dataclass(frozen=True)
class Derived:
    """Settings by full name, why each has its value, and lines for the user."""

    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, reason: str) -> None:
        self.settings[f"train.{name}"] = value
        self.reasons[f"train.{name}"] = reason


def derive(base: TrainConfig, train: TrainConfig, given: Collection[str]) -> Derived:
    """What follows from the user's settings.

    base: the network's and preset's settings. train: the same with the user's, whose full names are
    in `given`; they are never changed. Raises ConfigError if the schedule has no decay epochs and
    they are given.
    """
    made = Derived()
    if "train.lr_decay_epoch" in given and train.schedule != "step":
        if "train.schedule" in given:
            raise ConfigError(
                f"train.lr_decay_epoch={train.lr_decay_epoch!r} with train.schedule="
                f"{train.schedule!r}: only the schedule step has decay epochs"
            )
        made.set("schedule", "step", "decay epochs are given")
        made.notes.append(f"schedule step instead of {train.schedule}: decay epochs are given")
        train = replace(train, schedule="step")
    if train.optimizer == "adamw" != base.optimizer:
        base = replace(base, **ADAMW_RATE)
        for name in ADAMW.keys() - {full.partition(".")[2] for full in given}:
            made.set(name, ADAMW[name], "default of adamw")
            train = replace(train, **{name: ADAMW[name]})
    if "train.lr_decay_epoch" not in given and train.schedule == "step":
        _follow_epochs(base, train, made)
    if "train.lr" not in given:
        _follow_batch(base, train, made)
    return made


def derive_sides(data: DataConfig, given: Collection[str]) -> Derived:
    """The sides that images are resized to when the user gives a tile's side, but not theirs.

    So tiles keep their pixels. Networks for square images keep their size. Raises ConfigError for
    another overlap than the default without tiles.
    """
    if data.overlap != DataConfig().overlap and not data.tile:
        raise ConfigError(f"data.overlap={data.overlap:g}: is for tiles, see --tile N")
    made, sides = Derived(), ("data.short_side", "data.long_side")
    if data.tile and "data.tile" in given and not data.square and not set(sides) & set(given):
        for name in sides:
            made.settings[name], made.reasons[name] = data.tile, "data.tile"
        made.notes.append(
            f"images are resized to at most {data.tile} pixels a side, so that tiles keep their "
            "pixels (--set short_side=N long_side=N makes them smaller)"
        )
    return made


def _follow_epochs(base: TrainConfig, train: TrainConfig, made: Derived) -> None:
    """Scale the decay epochs; those that round to the last epoch or beyond are dropped."""
    if train.epochs == base.epochs or not base.epochs:
        return
    scaled = [int(epoch * train.epochs / base.epochs + 0.5) for epoch in base.lr_decay_epoch]
    epochs = tuple(sorted({epoch for epoch in scaled if 0 < epoch < train.epochs}))
    before = ", ".join(map(str, base.lr_decay_epoch))
    made.set(
        "lr_decay_epoch", epochs, f"{before} of {base.epochs} epochs, scaled to {train.epochs}"
    )
    after = f"after epoch {', '.join(map(str, epochs))}" if epochs else "never"
    made.notes.append(
        f"the learning rate decays {after}: the default, {before} of {base.epochs} epochs, scaled "
        f"to {train.epochs} (--lr-decay-epoch)"
    )


def _follow_batch(base: TrainConfig, train: TrainConfig, made: Derived) -> None:
    """Scale the default learning rate by the images of one worker's step."""
    images = train.batch_size * train.accumulate
    ratio = images / (base.batch_size * base.accumulate)
    factor = rate_factor(train.lr_scaling, ratio)
    why = f"the default for {_images(base.batch_size)} a step"
    if factor != 1:
        why = f"the default, {base.lr:g} for {_images(base.batch_size)} a step, scaled to "
        why += f"{images} ({train.lr_scaling})"
    elif ratio != 1:
        why += f", not scaled to {images} (--lr-scaling none)"
    lr = base.lr * factor
    if lr != train.lr:
        made.set("lr", lr, why)
    made.notes.append(f"learning rate {lr:g}: {why}")


def _images(count: int) -> str:
    return f"{count} image" + "s" * (count != 1)
