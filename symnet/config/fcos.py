"""The config of FCOS, in torchvision's vocabulary.

Fields stand in the order in which data flow through the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from symnet.config.detector import DetectorConfig
from symnet.config.ranges import FROM_1, check_ranges, refuse
from symnet.geometry.anchors import PyramidPoints


@dataclass(frozen=True)
class FCOSForm:
    """How projects' FCOS differ in what they compute; torchvision's form."""

    #: the tower that predicts centerness (first paper: classification, second: regression)
    centerness_on: Literal["classification", "regression"] = "regression"
    #: one channel of class scores is the background's, which is never positive and never detected
    background_channel: bool = True
    #: points are the centres of cells, not their corners
    centred: bool = False


@dataclass(frozen=True)
class FCOSConfig(DetectorConfig):
    """torchvision's values."""

    num_classes: int = 91

    #: channels of every level of the pyramid, and of the head
    fpn_channels: int = 256
    #: the pyramid has the levels p6 and p7 besides p3, p4, p5
    p6p7: bool = True
    #: convolutions of each of the head's two towers
    head_layers: int = 4
    #: their normalisation
    head_norm: Literal["group", "none"] = "group"
    #: the probability of every class at every point before training
    prior: float = 0.01
    #: the least and the largest distance, in strides, from a point to its object's farthest side
    size_range: tuple[float, ...] = (4.0, 8.0)
    #: how far from its object's centre a point may lie, in strides; 0: anywhere in the object
    center_sampling_radius: float = 1.5
    #: above 0, points in a crowd or difficult object, and in no other, have no class loss; 0: they
    #: are background
    ignore_overlap: float = 0.0
    #: the weight of positive points in the focal loss; negative ones weigh 1 - focal_alpha
    focal_alpha: float = 0.25
    #: the focal loss's exponent: the larger, the less easy points count
    focal_gamma: float = 2.0
    #: of a point's four distances: 1 - GIoU of the boxes, or the sum of the absolute differences
    box_loss: Literal["giou", "l1"] = "giou"
    #: a factor of the box loss; 0.25 with l1 is the mean of the four differences, not their sum
    box_loss_weight: float = 1.0
    #: detections must score above this
    score_thresh: float = 0.2
    #: the best candidates of each level that go into NMS
    pre_nms_top_n: int = 1000
    #: NMS removes a detection whose IoU with a better one of its class is above this
    nms_thresh: float = 0.6
    #: the most detections of an image
    detections_per_img: int = 100
    #: what fits the weights of torchvision, or a body of its own
    form: FCOSForm = FCOSForm()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, pre_nms_top_n=FROM_1)
        low, high = self.size_range
        if high < 2 * low:
            refuse(
                self,
                "size_range",
                "objects between two levels would have no points: the second "
                "number must be at least twice the first",
            )

    def body_strides(self) -> tuple[int, ...]:
        """c3 to c5."""
        return (8, 16, 32)

    @property
    def points(self) -> PyramidPoints:
        """The points of p3, p4, p5 and, if there are, p6 and p7."""
        levels = range(3, 8 if self.p6p7 else 6)
        return PyramidPoints(tuple(2**level for level in levels), self.form.centred)
