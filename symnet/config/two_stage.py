"""Configs of the two-stage detectors whose RPN has a sigmoid, in torchvision's vocabulary.

The group `form` has the settings that only make another project's weights fit (gluoncv's,
matterport's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from symnet.bodies import get_body
from symnet.bodies.body import FIRST_OF_32
from symnet.config.detector import RegionConfig
from symnet.config.ranges import FROM_1, check_ranges, refuse
from symnet.geometry.anchors import Anchors, AnchorSpec, ClassicLevels, PyramidAnchors
from symnet.parts.rpn import ProposalFilter

#: the stride of c4
C4_STRIDE = 16


@dataclass(frozen=True)
class Form:
    """Differences between projects; the defaults are torchvision's."""

    #: class logits that only take part in the softmax, such as those of COCO's unused ids
    unused_classes: int = 0
    #: do not train anchors that cross the image's border (gluoncv)
    rpn_inside_only: bool = False
    #: an object's best anchor is foreground even below rpn_bg_iou_thresh (gluoncv: False)
    rpn_best_below_bg: bool = True
    #: the RPN's targets dx, dy, dw, dh are divided by these (matterport: 0.1, 0.1, 0.2, 0.2)
    rpn_bbox_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    #: one NMS over the proposals of all levels instead of one per level (gluoncv, matterport)
    rpn_nms_all: bool = False
    #: upper limit of dw and dh when boxes are decoded; 0: none
    bbox_log_clip: float = math.log(1000 / 16)
    #: divide box losses by the number of all samples, or average them over the four numbers of each
    #: foreground sample (matterport)
    box_loss_mean: Literal["samples", "foreground"] = "samples"
    #: detect a RoI only as its best class (matterport)
    box_best_class: bool = False
    #: drop detections with a side below this, in pixels
    box_min_size: float = 1e-2
    #: clip boxes to the image after NMS (gluoncv) instead of before
    box_cut_last: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "model.form")


@dataclass(frozen=True)
class TwoStageConfig(RegionConfig):
    """The fields of all detectors of this family, with torchvision's values.

    Only pre_nms_top_n differs: torchvision has no such limit, but MXNet's NMS takes 3 s for all
    90,000 candidates, and 16 ms for the best 5,000.
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

    #: match each object with an anchor of its own, whatever their IoU
    rpn_own_anchor: bool = False
    #: the RPN's smooth L1 loss is quadratic below this, linear above
    rpn_smooth_l1_beta: float = 1 / 9
    #: drop proposals whose score is not above this
    rpn_score_thresh: float = 0.0
    #: the box head's smooth L1 loss is quadratic below this, linear above
    box_smooth_l1_beta: float = 1 / 9
    #: settings that only make another project's weights fit
    form: Form = Form()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test")
        check_ranges(self, ranges=dict.fromkeys(names, FROM_1))

    @property
    def nms_levels(self) -> int:
        """How many sets of anchors have an NMS of their own."""
        return 1

    def proposal_filter(self, train: bool) -> ProposalFilter:
        """The rule for which boxes become proposals, and how many."""
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
    """Differences between projects' pyramids and heads; the defaults are torchvision's."""

    #: p6 is p5 subsampled (pool), or a convolution (gluoncv)
    fpn_extra: Literal["pool", "conv"] = "pool"
    #: anchors centred on cell corners, on cell centres (classic: gluoncv), or matterport's
    anchor_form: Literal["torchvision", "classic", "last_pixel"] = "torchvision"
    #: RoIAlign's samples per bin in each direction; 0: crop_and_resize (matterport)
    box_sampling_ratio: int = 2
    #: side in pixels of a RoI on box_canonical_level
    box_canonical_size: float = 224
    #: level of such a RoI; a RoI with twice its side is one level higher
    box_canonical_level: float = 4
    #: added to a RoI's width x2 - x1 when its level is chosen (gluoncv: 1)
    box_level_offset: float = 0
    #: halve pooled RoIs by 3x3 average pooling before the box head (gluoncv's Mask R-CNN)
    box_avg_pool: bool = False


@dataclass(frozen=True)
class PyramidConfig(TwoStageConfig):
    """A detector with a feature pyramid; torchvision's values."""

    #: channels of every level of the pyramid
    fpn_channels: int = 256
    #: anchor sizes in pixels, one for each of the five levels; with MobileNetV3 all on every level
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    #: channels of the RPN's convolution; 0: the same as the pyramid's
    rpn_channels: int = 0
    #: 3x3 convolutions before one fully connected layer in the box head; 0: two such layers only
    box_head_convs: int = 0
    #: outputs of the box head's fully connected layers
    box_head_dim: int = 1024
    form: PyramidForm = PyramidForm()

    #: the strides of the pyramid's levels
    LEVELS: ClassVar[tuple[int, ...]] = (4, 8, 16, 32, 64)
    #: how many of them, the finest first, RoIs are pooled from
    ROI_LEVELS: ClassVar[int] = 4
    #: True if every level has all anchor sizes; else each has its own
    ALL_SIZES: ClassVar[bool] = False

    def body_strides(self) -> tuple[int | str, ...]:
        """The strides of c2 to c5."""
        return (4, 8, 16, 32)

    @property
    def anchors(self) -> Anchors:
        """The anchors of all levels."""
        sizes, ratios = tuple(self.anchor_sizes), tuple(self.anchor_ratios)
        if self.form.anchor_form != "classic":
            last_pixel = self.form.anchor_form == "last_pixel"
            shared = self.LEVELS if self.ALL_SIZES else ()
            return PyramidAnchors(sizes, ratios, last_pixel, shared)
        each = [sizes] * len(self.LEVELS) if self.ALL_SIZES else [(size,) for size in sizes]
        return ClassicLevels(
            tuple(
                AnchorSpec(stride, tuple(size / stride for size in own), ratios, True)
                for stride, own in zip(self.LEVELS, each)
            )
        )

    @property
    def nms_levels(self) -> int:
        """How many sets of anchors have an NMS of their own."""
        return 1 if self.form.rpn_nms_all else len(self.LEVELS)


@dataclass(frozen=True)
class CoarsePyramidConfig(PyramidConfig):
    """A pyramid of two maps of stride 32 and one of 64: torchvision's MobileNetV3 detectors.

    RoIs are pooled from the first map alone.
    """

    body: str = "mobilenet_v3_large"
    rpn_score_thresh: float = 0.05

    LEVELS: ClassVar[tuple[int, ...]] = (32, 32, 64)
    ROI_LEVELS: ClassVar[int] = 1
    ALL_SIZES: ClassVar[bool] = True

    def body_strides(self) -> tuple[int | str, ...]:
        """The first and the last map of stride 32."""
        return (FIRST_OF_32, 32)


@dataclass(frozen=True)
class C4Config(TwoStageConfig):
    """A detector on c4 alone, with gluoncv's values for Pascal VOC.

    Unlike here, gluoncv has no bbox_log_clip for Pascal VOC, so untrained layers produce non-finite
    boxes.
    """

    num_classes: int = 21

    #: anchor sizes in strides of 16 pixels
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
        """The stride of c4."""
        return (C4_STRIDE,)

    @property
    def anchors(self) -> ClassicLevels:
        """The anchors of c4."""
        scales, ratios = tuple(self.anchor_scales), tuple(self.anchor_ratios)
        return ClassicLevels((AnchorSpec(C4_STRIDE, scales, ratios),))


@dataclass(frozen=True)
class MaskFields:
    """The fields that a mask branch adds."""

    #: side of masks that are cropped to their boxes, same as data.mini_mask; 0: full-size masks
    mini_mask: int = 0
    #: channels of the mask head
    mask_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_masks(1):
            rois = self.box_batch_size_per_image
            refuse(self, "box_positive_fraction", f"leaves none of {rois} RoIs to learn masks from")

    def num_masks(self, images: int) -> int:
        """F, the largest number of foreground RoIs."""
        return images * round(self.box_batch_size_per_image * self.box_positive_fraction)


@dataclass(frozen=True)
class MaskPyramidForm(PyramidForm):
    """PyramidForm with masks."""

    #: like box_sampling_ratio, for masks
    mask_sampling_ratio: int = 2


@dataclass(frozen=True)
class MaskPyramidConfig(MaskFields, PyramidConfig):
    """Mask R-CNN with a feature pyramid; torchvision's values."""

    #: side of a RoI pooled for its mask, in cells; the mask has twice the side
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
