"""The configs of the two-stage detectors whose RPN has a sigmoid: torchvision's forms, and others'.

Fields stand in the order in which data flow through the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from symnet.bodies import resnet
from symnet.config.ranges import check_order, check_ranges
from symnet.geometry.anchors import Anchors, AnchorSpec, ClassicLevels, PyramidAnchors
from symnet.parts.rpn import ProposalFilter


@dataclass(frozen=True)
class RCNNConfig:
    """What all detectors of this family have; torchvision's values, and its form.

    Only box_pre_nms_top_n is not torchvision's, which has no limit: MXNet's NMS of all 90,000
    candidates takes 3 s, however few are above the score threshold; of the best 5,000 16 ms.
    ValueError names a field out of its range (symnet/config/ranges.py).
    """

    #: classes, with the background
    num_classes: int = 91
    #: rows of class logits that only take part in the softmax, such as of ids that COCO leaves out
    unused_classes: int = 0
    #: layers of the ResNet body
    depth: Literal[18, 34, 50, 101] = 50
    #: where the body strides, see symnet/bodies/resnet.py; "v1d" is gluoncv's, "keras" matterport's
    body_form: resnet.Form = "torchvision"
    #: how the body is normalised: on stored statistics (frozen), or trained by batch or by group
    norm: Literal["frozen", "batch", "group"] = "frozen"
    #: how many of the body's five stages are trained, counted from its end
    trainable_layers: int = 3
    #: heights of anchors over their widths
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    #: an anchor that overlaps an object at least so much is foreground
    rpn_fg_iou_thresh: float = 0.7
    #: an anchor that overlaps all objects less than that is background
    rpn_bg_iou_thresh: float = 0.3
    #: whether anchors that cross the image's border are left out of training (gluoncv)
    rpn_inside_only: bool = False
    #: whether an object's best anchor is foreground even below rpn_bg_iou_thresh (gluoncv: not)
    rpn_best_below_bg: bool = True
    #: whether each object has an anchor of its own that learns it, whatever their overlap
    rpn_own_anchor: bool = False
    #: anchors of an image that the RPN learns from
    rpn_batch_size_per_image: int = 256
    #: the largest share of foreground in them
    rpn_positive_fraction: float = 0.5
    #: what the RPN's targets dx, dy, dw, dh are divided by
    rpn_bbox_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    #: differences below it have a square loss, above it a linear one, in the RPN's box loss
    rpn_smooth_l1_beta: float = 1 / 9
    #: dw and dh of decoded boxes are cut to it; 0: they are not
    bbox_log_clip: float = math.log(1000 / 16)
    #: proposals with a side below it, in pixels, are left out
    rpn_min_size: float = 1e-3
    #: proposals with a score not above it are left out
    rpn_score_thresh: float = 0.0
    #: the best anchors of each level before NMS, in training
    rpn_pre_nms_top_n: int = 2000
    #: the same in testing
    rpn_pre_nms_top_n_test: int = 1000
    #: NMS removes proposals that overlap a better one more than that
    rpn_nms_thresh: float = 0.7
    #: proposals of an image after NMS, in training
    rpn_post_nms_top_n: int = 2000
    #: the same in testing
    rpn_post_nms_top_n_test: int = 1000
    #: a proposal that overlaps an object at least so much is foreground, any other background
    box_fg_iou_thresh: float = 0.5
    #: anchors and RoIs with more of their area in a crowd or difficult object are not background;
    #: 0: they are
    ignore_overlap: float = 0.0
    #: RoIs of an image that the box head learns from
    box_batch_size_per_image: int = 512
    #: the largest share of foreground in them
    box_positive_fraction: float = 0.25
    #: the seed of drawing them
    sampling_seed: int = 0
    #: cells a side that a RoI is pooled to
    box_roi_size: int = 7
    #: what the box head's targets dx, dy, dw, dh are divided by
    box_bbox_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    #: as rpn_smooth_l1_beta, in the box head's loss
    box_smooth_l1_beta: float = 1 / 9
    #: box losses are sums over all samples' number, or means of the foreground's four numbers each
    box_loss_mean: Literal["samples", "foreground"] = "samples"
    #: whether a RoI can only become an object of its best class (matterport)
    box_best_class: bool = False
    #: detections with a side below it, in pixels, are left out
    box_min_size: float = 1e-2
    #: detections with a score not above it are left out
    box_score_thresh: float = 0.05
    #: whether boxes are cut to the image after NMS (gluoncv), not before it
    box_cut_last: bool = False
    #: the best candidates of an image that go into NMS; -1: all
    box_pre_nms_top_n: int = 5000
    #: NMS removes detections that overlap a better one of their class more than that
    box_nms_thresh: float = 0.5
    #: the most detections of an image
    box_detections_per_img: int = 100

    def __post_init__(self) -> None:
        check_ranges(self)
        check_order(self, "rpn_bg_iou_thresh", "rpn_fg_iou_thresh")

    @property
    def rpn_groups(self) -> int:
        """How many sets of anchors go through an NMS of their own."""
        return 1

    def proposal_filter(self, train: bool) -> ProposalFilter:
        """Which boxes become proposals, and how many at most."""
        best = self.rpn_pre_nms_top_n if train else self.rpn_pre_nms_top_n_test
        kept = self.rpn_post_nms_top_n if train else self.rpn_post_nms_top_n_test
        return ProposalFilter(
            best,
            min(kept, best * self.rpn_groups),
            self.rpn_nms_thresh,
            self.rpn_score_thresh,
            self.rpn_min_size,
            tuple(self.rpn_bbox_stds),
            self.bbox_log_clip,
            per_level=self.rpn_groups > 1,
        )


@dataclass(frozen=True)
class FasterRCNNFPNConfig(RCNNConfig):
    """torchvision's values; a field that names gluoncv or matterport is there for their forms."""

    #: the body; "mobilenet1_0" (gluoncv) has neither depth nor body_form
    body: Literal["resnet", "mobilenet1_0"] = "resnet"
    #: channels of every level of the pyramid
    fpn_channels: int = 256
    #: how p6 is made: by subsampling p5, or by a convolution (gluoncv)
    fpn_extra: Literal["pool", "conv"] = "pool"
    #: the anchors' sizes in pixels, one for each of the five levels
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    #: where anchors lie: "classic" on the cells' centres (gluoncv), "last_pixel" (matterport)
    anchor_form: Literal["torchvision", "classic", "last_pixel"] = "torchvision"
    #: channels of the RPN's convolution; 0: as many as the pyramid
    rpn_channels: int = 0
    #: whether one NMS goes over the proposals of all levels (gluoncv, matterport)
    rpn_nms_all: bool = False
    #: RoIAlign's samples a bin in each direction; 0: crop_and_resize (matterport)
    box_sampling_ratio: int = 2
    #: the side in pixels of a RoI that belongs to box_canonical_level
    box_canonical_size: float = 224
    #: the level of such a RoI; twice the side is a level more
    box_canonical_level: float = 4
    #: how much wider than x2 - x1 a RoI is where its level is chosen (gluoncv: 1)
    box_level_offset: float = 0
    #: whether pooled RoIs are halved by 3x3 averages before the box head (gluoncv's masks)
    box_avg_pool: bool = False
    #: 3x3 convolutions before one fully connected layer of the box head; 0: two such layers
    box_head_convs: int = 0
    #: outputs of the box head's fully connected layers
    box_head_dim: int = 1024

    @property
    def anchors(self) -> Anchors:
        """The anchors of all levels."""
        sizes, ratios = tuple(self.anchor_sizes), tuple(self.anchor_ratios)
        if self.anchor_form != "classic":
            return PyramidAnchors(sizes, ratios, self.anchor_form == "last_pixel")
        strides = (4 * 2**level for level in range(len(sizes)))
        return ClassicLevels(
            tuple(AnchorSpec(s, (size / s,), ratios, True) for s, size in zip(strides, sizes))
        )

    @property
    def rpn_groups(self) -> int:
        """How many sets of anchors go through an NMS of their own."""
        return 1 if self.rpn_nms_all else len(self.anchor_sizes)
