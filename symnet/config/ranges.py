"""Allowed values of the numbers in detector configs: one table for all networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """The finite numbers from `least` to `greatest`.

    above, below: exclude the end itself. count: the length of a tuple field; 0: any, but at least
    one. optional: the tuple may also be empty.
    """

    least: float
    greatest: float = math.inf
    above: bool = False
    below: bool = False
    count: int = 0
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """True if a field may have this value, a number or a tuple of numbers."""
        if not isinstance(value, (tuple, list)):
            return self._has(value)
        right = len(value) == self.count if self.count else len(value) > 0
        return (self.optional and not value) or (
            right and all(self._has(number) for number in value)
        )

    def _has(self, number: float) -> bool:
        if not self.least <= number <= self.greatest or number == math.inf:  # also refuses NaN
            return False
        at_least, at_greatest = number == self.least, number == self.greatest
        return not ((self.above and at_least) or (self.below and at_greatest))

    def __str__(self) -> str:
        """The range in words, to follow "must be"."""
        text = f"{'above' if self.above else 'at least'} {self.least:g}"
        if self.greatest < math.inf:
            text += f" and {'below' if self.below else 'at most'} {self.greatest:g}"
        else:
            text += ", and finite"
        return f"{_WORDS[self.count]} numbers, each {text}" if self.count else text


_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}

POSITIVE = Range(0, above=True)
FROM_0 = Range(0)
FROM_1 = Range(1)
#: -1 means "all"
COUNT_OR_ALL = Range(-1)
#: a fraction, an overlap, or a score threshold
SHARE = Range(0, 1)
STDS = Range(0, above=True, count=4)

#: of every field that is a number or a tuple of numbers, whatever the config
RANGES = {
    "num_classes": Range(2),  # the background and one class
    "unused_classes": FROM_0,
    "sampling_seed": FROM_0,
    "ignore_overlap": Range(0, 1, below=True),
    # the body
    "width": POSITIVE,
    "units": Range(1, count=4, optional=True),
    "trainable_layers": Range(0, 5),  # or the body's number of stages
    "fpn_channels": FROM_1,
    # anchors and points
    "anchor_sizes": Range(0, above=True, count=5),  # one for each level of the pyramid
    **dict.fromkeys(("anchor_scales", "anchor_ratios"), POSITIVE),
    "size_range": Range(0, above=True, count=2),
    "center_sampling_radius": FROM_0,
    # the region proposal network
    "rpn_channels": FROM_0,
    "rpn_fg_iou_thresh": SHARE,
    "rpn_bg_iou_thresh": SHARE,
    "rpn_batch_size_per_image": FROM_1,
    "rpn_positive_fraction": SHARE,
    "rpn_bbox_stds": STDS,
    "rpn_smooth_l1_beta": POSITIVE,
    # proposals
    "rpn_nms_thresh": SHARE,
    "rpn_score_thresh": SHARE,
    "rpn_min_size": FROM_0,
    **dict.fromkeys(("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test"), COUNT_OR_ALL),
    **dict.fromkeys(("rpn_post_nms_top_n_train", "rpn_post_nms_top_n_test"), FROM_1),
    # RoIs and the box head
    "box_fg_iou_thresh": SHARE,
    "box_batch_size_per_image": FROM_1,
    "box_positive_fraction": SHARE,
    "box_roi_size": FROM_1,
    "box_sampling_ratio": FROM_0,
    "box_canonical_size": POSITIVE,
    "box_canonical_level": FROM_0,
    "box_level_offset": FROM_0,
    "box_head_convs": FROM_0,
    "box_head_dim": FROM_1,
    "box_dropout": Range(0, 1, below=True),
    "box_bbox_stds": STDS,
    "box_smooth_l1_beta": POSITIVE,
    "bbox_log_clip": FROM_0,
    # masks
    "mask_channels": FROM_1,
    "mask_layers": FROM_0,
    "mask_roi_size": FROM_1,
    "mask_sampling_ratio": FROM_0,
    "mini_mask": FROM_0,
    # the head of FCOS and its losses
    "head_layers": FROM_0,
    "prior": Range(0, 1, above=True, below=True),
    "focal_alpha": SHARE,
    "focal_gamma": FROM_0,
    "box_loss_weight": FROM_0,
    # detections
    "score_thresh": SHARE,
    "nms_thresh": SHARE,
    "box_min_size": FROM_0,
    "pre_nms_top_n": COUNT_OR_ALL,
    "detections_per_img": FROM_1,
}


def refuse(config: Any, name: str, reason: str, where: str = "model") -> None:
    """Raise ValueError that names a config field, its value, and what is wrong with it."""
    raise ValueError(f"{where}.{name}={getattr(config, name)!r}: {reason}")


def check_ranges(config: Any, where: str = "model", ranges: Mapping[str, Range] = RANGES) -> None:
    """Raise ValueError that names the first field outside its range, its value, and the range."""
    for name, allowed in ranges.items():
        if hasattr(config, name) and not allowed.allows(getattr(config, name)):
            refuse(config, name, f"must be {allowed}", where)


def check_order(config: Any, lower: str, upper: str) -> None:
    """Raise ValueError if the field `lower` is above the field `upper`."""
    bound = getattr(config, upper)
    if getattr(config, lower) > bound:
        refuse(config, lower, f"must not be above model.{upper}={bound!r}")
