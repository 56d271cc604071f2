"""The config of FCOS, in torchvision's vocabulary.

Fields are in the order in which data flow through the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.config.detector import DetectorConfig
from symnet.config.ranges import FROM_1, check_ranges, refuse
from symnet.geometry.anchors import PyramidPoints


@dataclass(frozen=True)
class FCOSForm:
    """Differences between the FCOS of several projects; the defaults are torchvision's."""

    #: tower that predicts centerness (first paper: classification, second: regression)
    centerness_on: Literal["classification", "regression"] = "regression"
    #: add a class channel for the background, which is never positive and never detected
    background_channel: bool = True
    #: points are cell centres instead of cell corners
    centred: bool = False


@dataclass(frozen=True)
class FCOSConfig(DetectorConfig):
    """torchvision's values."""

    num_classes: int = 91

    #: channels of every level of the pyramid, and of the head
    fpn_channels: int = 256
    #: add levels p6 and p7 to p3, p4, p5
    p6p7: bool = True
    #: convolutions in each of the head's two towers
    head_layers: int = 4
    #: their normalisation
    head_norm: Literal["group", "none"] = "group"
    #: probability of every class at every point before training
    prior: float = 0.01
    #: bounds of the distance from a point to its object's farthest side, in strides
    size_range: tuple[float, ...] = (4.0, 8.0)
    #: largest distance from a point to its object's centre, in strides; 0: anywhere in the object
    center_sampling_radius: float = 1.5
    #: above 0, points in a crowd or difficult object that belong to no object have no class loss;
    #: 0: they are background
    ignore_overlap: float = 0.0
    #: weight of positive points in the focal loss; negative ones have 1 - focal_alpha
    focal_alpha: float = 0.25
    #: exponent of the focal loss: the larger, the less easy points count
    focal_gamma: float = 2.0
    #: 1 - GIoU of the boxes, or the sum of the absolute differences of a point's four distances
    box_loss: Literal["giou", "l1"] = "giou"
    #: multiplies the box loss; with l1, 0.25 gives the mean of the four differences
    box_loss_weight: float = 1.0
    #: drop detections whose score is not above this
    score_thresh: float = 0.2
    #: how many of each level's best candidates go into NMS
    pre_nms_top_n: int = 1000
    #: NMS removes a detection whose IoU with a better one of its class is above this
    nms_thresh: float = 0.6
    #: largest number of detections per image
    detections_per_img: int = 100
    #: settings that only make other weights or bodies fit
    form: FCOSForm = FCOSForm()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, ranges={"pre_nms_top_n": FROM_1})
        low, high = self.size_range
        if high < 2 * low:
            refuse(
                self,
                "size_range",
                "objects between two levels would have no points: the second "
                "number must be at least twice the first",
            )

    def body_strides(self) -> tuple[int, ...]:
        """The strides of c3 to c5."""
        return (8, 16, 32)

    @property
    def points(self) -> PyramidPoints:
        """The points of p3, p4, p5 and, with p6p7, p6 and p7."""
        levels = range(3, 8 if self.p6p7 else 6)
        return PyramidPoints(tuple(2**level for level in levels), self.form.centred)
