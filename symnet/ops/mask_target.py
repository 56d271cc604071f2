"""The custom operator `mask_target`: the target mask of each foreground RoI.

Letters: B images, R RoIs of all images, F mask RoIs of all images, G objects, S mask side, h, w
stored mask size. The computation is in symnet/geometry/masks.py; this file only handles shapes.
"""

from __future__ import annotations

import numpy as np

from symnet.geometry.masks import roi_masks, unpack
from symnet.machine import mx


class MaskTarget(mx.operator.CustomOp):
    """Selects foreground RoIs and crops their objects' masks; a pure function of its inputs."""

    def __init__(self, prop: MaskTargetProp) -> None:
        super().__init__()
        self._prop = prop

    def forward(self, is_train, req, in_data, out_data, aux):
        rois, label, matched, gt_boxes, gt_masks = (array.asnumpy() for array in in_data)
        size = self._prop.size
        count = len(out_data[1]) // len(gt_boxes)
        mask_rois = np.full((len(gt_boxes), count, 5), -1, np.float32)
        mask_label = np.zeros((len(gt_boxes), count), np.float32)
        target = np.zeros((len(gt_boxes), count, size, size), np.float32)
        for image, (objects, packed) in enumerate(zip(gt_boxes, gt_masks)):
            rows = np.flatnonzero((rois[:, 0] == image) & (label > 0))[:count]
            mask_rois[image, : len(rows)] = rois[rows]
            mask_label[image, : len(rows)] = label[rows]
            used, which = np.unique(matched[rows].astype(np.int64), return_inverse=True)
            masks = unpack(packed[used], self._prop.mini_mask or 8 * packed.shape[-1])
            frames = objects[used, :4]
            if not self._prop.mini_mask:
                frames = np.tile(np.float32([0, 0, masks.shape[2], masks.shape[1]]), (len(used), 1))
            target[image, : len(rows)] = roi_masks(
                masks, frames, rois[rows, 1:], which.ravel(), size
            )
        for out, value, how in zip(out_data, (mask_rois, mask_label, target), req):
            self.assign(out, how, mx.nd.array(value.reshape(out.shape), ctx=out.context))

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        for grad, how in zip(in_grad, req):
            self.assign(grad, how, 0)


@mx.operator.register("mask_target")
class MaskTargetProp(mx.operator.CustomOpProp):
    """Inputs and outputs of mask_target. No gradient flows to the inputs.

    Inputs: rois (R, 5), label (R,), matched (R,) from proposal_target with_matched; gt_boxes
    (B, G, 5); gt_masks, packed bits uint8: (B, G, h, w/8) of the padded image, or with mini_mask
    (B, G, mini_mask, ...) of the objects' boxes.
    Outputs: mask_rois (F, 5), mask_label (F,) and mask_target (F, S, S): the foreground RoIs, their
    classes, and their objects' masks in 0..1. num_masks is F; unused rows have batch index -1 and
    label 0.
    """

    def __init__(self, num_masks="128", size="28", mini_mask="0"):
        super().__init__(need_top_grad=False)
        self.num_masks, self.size, self.mini_mask = int(num_masks), int(size), int(mini_mask)

    def list_arguments(self):
        return ["rois", "label", "matched", "gt_boxes", "gt_masks"]

    def list_outputs(self):
        return ["mask_rois", "mask_label", "mask_target"]

    def infer_shape(self, in_shape):
        count, size = self.num_masks, self.size
        return in_shape, [(count, 5), (count,), (count, size, size)], []

    def infer_type(self, in_type):
        return [np.float32] * 4 + [np.uint8], [np.float32] * 3, []

    def create_operator(self, ctx, shapes, dtypes):
        return MaskTarget(self)

    def declare_backward_dependency(self, out_grad, in_data, out_data):
        return []
