"""The custom operator `proposal_target`: samples RoIs from proposals, and computes their targets.

Letters: B images, P proposals per image, R RoIs per image, G objects, C classes.
The computation is in symnet/geometry/targets.py; this file only handles shapes and strings.
"""

from __future__ import annotations

import ast
import zlib

import numpy as np

from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RoISampling, roi_targets
from symnet.machine import mx

#: proposals are rounded to multiples of this many pixels before they seed the generator
_ROUGH = 8


class ProposalTarget(mx.operator.CustomOp):
    """Samples each image's RoIs; a pure function of its inputs and the seed.

    The random generator is seeded by the operator's seed, the image's objects and the position of
    its best proposal, rounded to _ROUGH pixels. The proposal makes draws differ between epochs. So
    no random state has to be saved, and neither threads nor resuming change the draws. On another
    device, whose arithmetic differs in the last bit, the draws are nearly always the same, unless a
    coordinate is so close to a rounding boundary that the bit decides.
    """

    def __init__(self, prop: ProposalTargetProp) -> None:
        super().__init__()
        self._prop = prop

    def forward(self, is_train, req, in_data, out_data, aux):
        prop = self._prop
        rois = in_data[0].asnumpy()
        gt_boxes = in_data[1].asnumpy().reshape(prop.batch_images, -1, 5)
        outputs = []
        for image, objects in enumerate(gt_boxes):
            proposals = np.ascontiguousarray(rois[rois[:, 0] == image, 1:])
            real = objects[objects[:, 4] > 0]
            place = np.rint(proposals[:1] / _ROUGH) + np.float32(0)  # -0.0 becomes 0.0
            rng = np.random.default_rng([prop.seed, zlib.crc32(real), zlib.crc32(place)])
            boxes, *targets = roi_targets(
                proposals, objects, prop.num_classes, prop.sampling, prop.coder, rng
            )
            with_index = np.insert(boxes, 0, image, axis=1)
            outputs.append((with_index, *targets))
        for out, parts, how in zip(out_data, zip(*outputs), req):
            self.assign(out, how, mx.nd.array(np.concatenate(parts), ctx=out.context))

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        for grad, how in zip(in_grad, req):
            self.assign(grad, how, 0)


@mx.operator.register("proposal_target")
class ProposalTargetProp(mx.operator.CustomOpProp):
    """Inputs and outputs of proposal_target. No gradient flows to the inputs.

    Inputs: rois (B*P, 5) and gt_boxes ((G, 5) for one image, or (B, G, 5) padded with -1).
    Outputs: rois (B*R, 5), label (B*R,), bbox_target (B*R, 4C), bbox_weight (B*R, 4C). with_matched
    adds matched (B*R,): the row of gt_boxes assigned to each foreground RoI, 0 for the others.
    batch_rois is B*R, the RoIs of all images. For fill_with_background and ignore_overlap, see
    RoISampling.
    """

    def __init__(
        self,
        num_classes="21",
        batch_images="1",
        batch_rois="128",
        fg_fraction="0.25",
        fg_overlap="0.5",
        box_stds="(0.1, 0.1, 0.2, 0.2)",
        seed="0",
        box_offset="1",
        with_matched="False",
        fill_with_background="True",
        ignore_overlap="0",
    ):
        super().__init__(need_top_grad=False)
        self.num_classes = int(num_classes)
        self.batch_images = int(batch_images)
        self.batch_rois = int(batch_rois)
        self.sampling = RoISampling(
            num_samples=self.batch_rois // self.batch_images,
            fg_fraction=float(fg_fraction),
            fg_thresh=float(fg_overlap),
            fill_with_background=str(fill_with_background) == "True",
            ignore_overlap=float(ignore_overlap),
        )
        stds = ast.literal_eval(str(box_stds))
        self.coder = BoxCoder(stds=stds, offset=float(box_offset))
        self.with_matched = str(with_matched) == "True"
        self.seed = int(seed)

    def list_arguments(self):
        return ["rois", "gt_boxes"]

    def list_outputs(self):
        outputs = ["rois_output", "label", "bbox_target", "bbox_weight"]
        return outputs + ["matched"] * self.with_matched

    def infer_shape(self, in_shape):
        self._check(tuple(in_shape[1]))
        rois, wide = self.batch_rois, 4 * self.num_classes
        shapes = [(rois, 5), (rois,), (rois, wide), (rois, wide)]
        return in_shape, shapes + [(rois,)] * self.with_matched, []

    def _check(self, gt_boxes: tuple[int, ...]) -> None:
        """Raise ValueError for invalid settings. An error in __init__ would crash the process."""
        images = self.batch_images
        if self.batch_rois % images:
            raise ValueError(
                f"proposal_target: {self.batch_rois} RoIs (batch_rois) cannot be divided equally "
                f"among {images} images (batch_images)"
            )
        known = all(side > 0 for side in gt_boxes)
        leading = gt_boxes[:-2] or (1,)
        if gt_boxes and known and (leading != (images,) or gt_boxes[-1] != 5):
            raise ValueError(
                f"proposal_target: gt_boxes {gt_boxes}, expected ({images}, G, 5)"
                + (" or (G, 5)" if images == 1 else "")
            )

    def create_operator(self, ctx, shapes, dtypes):
        return ProposalTarget(self)

    def declare_backward_dependency(self, out_grad, in_data, out_data):
        return []
