"""The configs of the two-stage detectors whose RPN has a sigmoid, in torchvision's vocabulary.

What only makes the weights of another project fit (gluoncv's, matterport's) is in the group `form`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from symnet.bodies import get_body
from symnet.config.detector import RegionConfig
from symnet.config.ranges import FROM_1, check_ranges, refuse
from symnet.geometry.anchors import Anchors, AnchorSpec, ClassicLevels, PyramidAnchors
from symnet.parts.rpn import ProposalFilter

#: the stride of c4
C4_STRIDE = 16


@dataclass(frozen=True)
class Form:
    """How projects differ in what they compute; torchvision's form."""

    #: rows of class logits that only take part in the softmax, such as those of ids COCO leaves out
    unused_classes: int = 0
    #: leave anchors that cross the image's border out of training (gluoncv)
    rpn_inside_only: bool = False
    #: an object's best anchor is foreground even below rpn_bg_iou_thresh (gluoncv: it is not)
    rpn_best_below_bg: bool = True
    #: the RPN's targets dx, dy, dw, dh are divided by these (matterport: 0.1, 0.1, 0.2, 0.2)
    rpn_bbox_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    #: one NMS over the proposals of all levels, not one a level (gluoncv, matterport)
    rpn_nms_all: bool = False
    #: upper limit of dw and dh when boxes are decoded; 0: none
    bbox_log_clip: float = math.log(1000 / 16)
    #: box losses are divided by the number of all samples, or are the mean over the four numbers of
    #: each foreground sample (matterport)
    box_loss_mean: Literal["samples", "foreground"] = "samples"
    #: a RoI is only detected as its best class (matterport)
    box_best_class: bool = False
    #: detections with a side below this, in pixels, are left out
    box_min_size: float = 1e-2
    #: clip boxes to the image after NMS (gluoncv), not before
    box_cut_last: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "model.form")


@dataclass(frozen=True)
class TwoStageConfig(RegionConfig):
    """What all detectors of this family have; torchvision's values.

    Only pre_nms_top_n is not torchvision's, which has no such limit: MXNet's NMS of all 90,000
    candidates takes 3 s, of the best 5,000 16 ms.
    """

    num_classes: int = 91
    rpn_min_size: float = 1e-3
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_test: int = 1000
    box_batch_size_per_image: int = 512
    score_thresh: float = 0.05
    pre_nms_top_n: int = 5000
    nms_thresh: float = 0.5

    #: give each object an anchor of its own to learn it, whatever their IoU
    rpn_own_anchor: bool = False
    #: where the RPN's smooth L1 loss turns from square to linear
    rpn_smooth_l1_beta: float = 1 / 9
    #: proposals must score above this
    rpn_score_thresh: float = 0.0
    #: where the box head's smooth L1 loss turns from square to linear
    box_smooth_l1_beta: float = 1 / 9
    #: what fits the weights of torchvision or of another project
    form: Form = Form()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, rpn_pre_nms_top_n_train=FROM_1, rpn_pre_nms_top_n_test=FROM_1)

    @property
    def nms_levels(self) -> int:
        """How many sets of anchors have an NMS of their own."""
        return 1

    def proposal_filter(self, train: bool) -> ProposalFilter:
        """Which boxes become proposals, and how many at most."""
        best = self.rpn_pre_nms_top_n_train if train else self.rpn_pre_nms_top_n_test
        kept = self.rpn_post_nms_top_n_train if train else self.rpn_post_nms_top_n_test
        return ProposalFilter(
            best,
            min(kept, best * self.nms_levels),
            self.rpn_nms_thresh,
            self.rpn_score_thresh,
            self.rpn_min_size,
            tuple(self.form.rpn_bbox_stds),
            self.form.bbox_log_clip,
            per_level=self.nms_levels > 1,
        )


@dataclass(frozen=True)
class PyramidForm(Form):
    """What projects' pyramids and their heads differ in; torchvision's form."""

    #: how p6 is made: by subsampling p5, or by a convolution (gluoncv)
    fpn_extra: Literal["pool", "conv"] = "pool"
    #: anchors on the cells' centres ("classic", gluoncv), or in matterport's form ("last_pixel")
    anchor_form: Literal["torchvision", "classic", "last_pixel"] = "torchvision"
    #: RoIAlign's samples a bin in each direction; 0: crop_and_resize (matterport)
    box_sampling_ratio: int = 2
    #: the side in pixels of a RoI that belongs to box_canonical_level
    box_canonical_size: float = 224
    #: the level of such a RoI; a RoI of twice its side is one level higher
    box_canonical_level: float = 4
    #: added to a RoI's width x2 - x1 when its level is chosen (gluoncv: 1)
    box_level_offset: float = 0
    #: halve pooled RoIs by 3x3 averages before the box head (gluoncv's Mask R-CNN)
    box_avg_pool: bool = False


@dataclass(frozen=True)
class PyramidConfig(TwoStageConfig):
    """A detector with a feature pyramid; torchvision's values."""

    #: channels of every level of the pyramid
    fpn_channels: int = 256
    #: the anchors' sizes in pixels, one for each of the five levels
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    #: channels of the RPN's convolution; 0: as many as the pyramid's
    rpn_channels: int = 0
    #: 3x3 convolutions before the box head's one fully connected layer; 0: two such layers
    box_head_convs: int = 0
    #: outputs of the box head's fully connected layers
    box_head_dim: int = 1024
    form: PyramidForm = PyramidForm()

    def body_strides(self) -> tuple[int, ...]:
        """c2 to c5."""
        return (4, 8, 16, 32)

    @property
    def anchors(self) -> Anchors:
        """The anchors of all levels."""
        sizes, ratios = tuple(self.anchor_sizes), tuple(self.anchor_ratios)
        if self.form.anchor_form != "classic":
            return PyramidAnchors(sizes, ratios, self.form.anchor_form == "last_pixel")
        strides = (4 * 2**level for level in range(len(sizes)))
        return ClassicLevels(
            tuple(AnchorSpec(s, (size / s,), ratios, True) for s, size in zip(strides, sizes))
        )

    @property
    def nms_levels(self) -> int:
        """How many sets of anchors have an NMS of their own."""
        return 1 if self.form.rpn_nms_all else len(self.anchor_sizes)


@dataclass(frozen=True)
class C4Config(TwoStageConfig):
    """A detector on c4 alone; gluoncv's values for Pascal VOC, and its form.

    gluoncv has no bbox_log_clip for Pascal VOC, where untrained layers make boxes that are not
    finite.
    """

    num_classes: int = 21

    #: the anchors' sizes, in strides of 16 pixels
    anchor_scales: tuple[float, ...] = (2, 4, 8, 16, 32)
    #: channels of the RPN's convolution
    rpn_channels: int = 1024

    rpn_min_size: float = 15
    rpn_pre_nms_top_n_train: int = 12000
    rpn_pre_nms_top_n_test: int = 6000
    rpn_post_nms_top_n_test: int = 300
    box_batch_size_per_image: int = 128
    box_roi_size: int = 14
    box_smooth_l1_beta: float = 1.0
    score_thresh: float = 0.01
    pre_nms_top_n: int = 6000
    nms_thresh: float = 0.3
    form: Form = Form(
        rpn_inside_only=True, rpn_best_below_bg=False, box_min_size=0.0, box_cut_last=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rpn_channels:
            refuse(self, "rpn_channels", "must be at least 1; there is no pyramid to take it from")
        if get_body(self.body).head is None:
            refuse(self, "body", "has no layers for RoIs, such as stage 4 of a ResNet")

    def body_strides(self) -> tuple[int, ...]:
        """c4."""
        return (C4_STRIDE,)

    @property
    def anchors(self) -> ClassicLevels:
        """The anchors of c4."""
        scales, ratios = tuple(self.anchor_scales), tuple(self.anchor_ratios)
        return ClassicLevels((AnchorSpec(C4_STRIDE, scales, ratios),))


@dataclass(frozen=True)
class MaskFields:
    """What a mask branch adds to a config."""

    #: side of masks that are stored in their boxes, as data.mini_mask; 0: masks of the image's size
    mini_mask: int = 0
    #: channels of the mask head
    mask_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_masks(1):
            rois = self.box_batch_size_per_image
            refuse(self, "box_positive_fraction", f"leaves none of {rois} RoIs to learn masks from")

    def num_masks(self, images: int) -> int:
        """F: the most RoIs that can be foreground."""
        return images * round(self.box_batch_size_per_image * self.box_positive_fraction)


@dataclass(frozen=True)
class MaskPyramidForm(PyramidForm):
    """The same for a detector with masks."""

    #: as box_sampling_ratio, for masks
    mask_sampling_ratio: int = 2


@dataclass(frozen=True)
class MaskPyramidConfig(MaskFields, PyramidConfig):
    """Mask R-CNN with a feature pyramid; torchvision's values."""

    #: the side of a RoI pooled for its mask, in cells; the mask has twice as many
    mask_roi_size: int = 14
    #: 3x3 convolutions of the mask head
    mask_layers: int = 4
    form: MaskPyramidForm = MaskPyramidForm()

    @property
    def mask_size(self) -> int:
        """S, the side of a mask."""
        return 2 * self.mask_roi_size


@dataclass(frozen=True)
class MaskC4Config(MaskFields, C4Config):
    """Mask R-CNN on c4; gluoncv's values for COCO."""

    num_classes: int = 81
    rpn_post_nms_top_n_test: int = 1000
    rpn_min_size: float = 0.0
    nms_thresh: float = 0.5
    pre_nms_top_n: int = 5000
    form: Form = Form(
        rpn_inside_only=True,
        rpn_best_below_bg=False,
        bbox_log_clip=4.42,
        box_min_size=0.0,
        box_cut_last=True,
    )

    @property
    def mask_size(self) -> int:
        """S, the side of a mask: stage 4 halves the RoI, the mask head doubles it."""
        return 2 * -(-self.box_roi_size // 2)
