"""The config fields that detectors share: classes and body, and the regions of two-stage detectors.

Fields are in the order in which data flow through the network. The fields of a detector's own class
come after them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from symnet.bodies import get_body
from symnet.config.ranges import RANGES, Range, check_order, check_ranges, refuse
from symnet.geometry.targets import RPNSampling
from symnet.machine import Symbol


@dataclass(frozen=True)
class DetectorConfig:
    """Classes and body. Raises ValueError that names an invalid field and its value."""

    #: number of classes, background included
    num_classes: int = 21
    #: network that computes feature maps; `symnet.bodies.list_bodies()` lists all names
    body: str = "resnet50"
    #: the body's normalisation: stored statistics (frozen), or trained batch or group normalisation
    norm: Literal["frozen", "batch", "group"] = "frozen"
    #: how many of the body's five stages (MobileNetV3: six) are trained, counted from the last
    trainable_layers: int = 3

    def __post_init__(self) -> None:
        try:
            body = get_body(self.body)
        except KeyError as error:
            refuse(self, "body", error.args[0])
        stages = {"trainable_layers": Range(0, len(body.stages))}
        check_ranges(self, ranges={**RANGES, **stages})
        missing = [stride for stride in self.body_strides() if stride not in body.channels]
        if missing:
            has = ", ".join(map(str, body.channels))
            refuse(self, "body", f"has no map of stride {missing[0]}; its strides are {has}")
        if self.norm not in body.norms:
            refuse(self, "norm", f"{self.body} has {' and '.join(body.norms)}")
        for option, unset in (("width", 1.0), ("units", ())):
            if option not in body.options and getattr(self, option, unset) != unset:
                refuse(self, option, f"{self.body} has no such setting")

    def body_strides(self) -> Iterable[int | str]:
        """The strides of the feature maps that the detector uses."""
        return ()

    def body_options(self) -> dict[str, Any]:
        """This config's settings for the body, without empty ones."""
        options = {name: getattr(self, name, ()) for name in get_body(self.body).options}
        return {name: value for name, value in options.items() if value != ()}

    def body_norm(self, train: bool) -> str:
        """`norm` for the layers: training graphs fold stored statistics into the weights."""
        return "folded" if train and self.norm == "frozen" else self.norm

    def feature_maps(self, data: Symbol, train: bool) -> dict[int | str, Symbol]:
        """The body's feature maps for images (B, 3, H, W), by stride."""
        return get_body(self.body).maps(data, self.body_norm(train), **self.body_options())


@dataclass(frozen=True)
class RegionConfig(DetectorConfig):
    """The fields of all two-stage detectors, with the original MXNet example's values."""

    #: aspect ratios of the anchors, height / width
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    #: an anchor is foreground if its IoU with an object is at least this
    rpn_fg_iou_thresh: float = 0.7
    #: an anchor is background if its IoU with every object is below this
    rpn_bg_iou_thresh: float = 0.3
    #: an anchor or RoI is not background if more than this fraction of its area lies in a crowd or
    #: difficult object; 0: off
    ignore_overlap: float = 0.0
    #: anchors sampled per image for the RPN's losses
    rpn_batch_size_per_image: int = 256
    #: largest fraction of foreground among them
    rpn_positive_fraction: float = 0.5
    #: drop proposals with a side below this, in pixels of the network's input; in the classic
    #: graphs, in pixels of the original image
    rpn_min_size: float = 16
    #: how many of the best anchors go into NMS, in training, per level if each has its own NMS;
    #: -1, only in the classic graphs: all
    rpn_pre_nms_top_n_train: int = 12000
    #: the same in testing
    rpn_pre_nms_top_n_test: int = 6000
    #: NMS removes a proposal whose IoU with a better one is above this
    rpn_nms_thresh: float = 0.7
    #: proposals per image after NMS, in training
    rpn_post_nms_top_n_train: int = 2000
    #: the same in testing
    rpn_post_nms_top_n_test: int = 300
    #: a proposal is foreground if its IoU with an object is at least this, else background
    box_fg_iou_thresh: float = 0.5
    #: RoIs sampled per image for the box head's losses
    box_batch_size_per_image: int = 128
    #: largest fraction of foreground among them
    box_positive_fraction: float = 0.25
    #: seed of the sampling
    sampling_seed: int = 0
    #: side of a pooled RoI, in cells
    box_roi_size: int = 7
    #: the box head's targets dx, dy, dw, dh are divided by these
    box_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    #: drop detections whose score is not above this
    score_thresh: float = 1e-3
    #: how many of an image's best candidates go into NMS; -1: all
    pre_nms_top_n: int = 2000
    #: NMS removes a detection whose IoU with a better one of its class is above this
    nms_thresh: float = 0.3
    #: largest number of detections per image
    detections_per_img: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order(self, "rpn_bg_iou_thresh", "rpn_fg_iou_thresh")

    def rpn_sampling(self, **options: bool) -> RPNSampling:
        """The rule for which anchors the RPN trains on; options: further ones of RPNSampling."""
        return RPNSampling(
            self.rpn_batch_size_per_image,
            self.rpn_positive_fraction,
            self.rpn_fg_iou_thresh,
            self.rpn_bg_iou_thresh,
            ignore_overlap=self.ignore_overlap,
            **options,
        )


def is_frozen(config: DetectorConfig, name: str) -> bool:
    """True if a parameter belongs to the body and is not trained; see `Body.is_frozen`."""
    return get_body(config.body).is_frozen(name, config.trainable_layers, config.norm)


def is_of_body(config: DetectorConfig, name: str) -> bool:
    """True for the parameters of the body, which --pretrained is expected to supply."""
    return name.startswith(get_body(config.body).prefixes)
