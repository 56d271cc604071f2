"""The loader's anchors compared with contrib.MultiProposal's own."""

import numpy as np
import pytest

from symnet.geometry.anchors import AnchorSpec
from symnet.geometry.boxes import BoxCoder
from symnet.machine import mx

SPECS = [
    (16, (8, 16, 32), (0.5, 1, 2), 1),
    (16, (2, 4, 8, 16), (0.5, 1, 2), 2),
    (8, (4, 7), (0.4, 1, 3), 3),
    (32, (1, 2, 3), (1,), 2),
]


def operator_proposals(spec, scores, deltas, size):
    """All proposals (B, H*W*A, 4) of MultiProposal, by descending score, without NMS."""
    images, _, height, width = scores.shape
    count = spec.num_anchors * height * width
    rois = mx.nd.contrib.MultiProposal(
        cls_prob=mx.nd.array(np.concatenate([1 - scores, scores], axis=1)),
        bbox_pred=mx.nd.array(deltas),
        im_info=mx.nd.array([[*size, 1.0]] * images),
        feature_stride=spec.stride,
        scales=spec.scales,
        ratios=spec.ratios,
        rpn_pre_nms_top_n=count,
        rpn_post_nms_top_n=count,
        threshold=1.0,
        rpn_min_size=0,
    ).asnumpy()
    np.testing.assert_array_equal(rois[:, 0], np.repeat(np.arange(images), count))
    return rois[:, 1:].reshape(images, count, 4)


@pytest.mark.parametrize(("stride", "scales", "ratios", "images"), SPECS)
@pytest.mark.parametrize("moved", [False, True])
def test_anchors_are_the_operator_s(stride, scales, ratios, images, moved):
    spec = AnchorSpec(stride, scales, ratios)
    height, width = 7, 11
    size = (height * stride - 3, width * stride - 5)
    rng = np.random.default_rng(0)
    scores = rng.permutation(images * spec.num_anchors * height * width) + 1.0
    scores = (scores / (len(scores) + 1)).reshape(images, spec.num_anchors, height, width)
    deltas = rng.normal(0, 0.1 * moved, (images, spec.num_anchors, 4, height, width))
    found = operator_proposals(spec, scores, deltas.reshape(images, -1, height, width), size)
    # the operator leaves out cells that begin in the padding or are cut by the image's edge
    whole_rows, whole_columns = size[0] // stride, size[1] // stride
    cells = np.zeros((height, width, spec.num_anchors), bool)
    cells[:whole_rows, :whole_columns] = True
    for image in range(images):
        moves = deltas[image].transpose(2, 3, 0, 1).reshape(-1, 4)
        boxes = BoxCoder(offset=1).decode(spec.grid(height, width), moves)
        boxes = np.clip(boxes, 0, [size[1] - 1, size[0] - 1] * 2)
        score = np.where(cells, scores[image].transpose(1, 2, 0), -1).ravel()
        expected = boxes[np.argsort(-score)][: cells.sum()]
        np.testing.assert_allclose(found[image][: cells.sum()], expected, atol=1e-2 * moved)


def test_the_classic_anchors():
    """The nine anchors of py-faster-rcnn's generate_anchors."""
    anchors = AnchorSpec(16, (8, 16, 32), (0.5, 1, 2)).grid(1, 1)
    expected = [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    np.testing.assert_array_equal(anchors, expected)


def test_the_grid_goes_along_rows_and_cannot_be_changed():
    spec = AnchorSpec(16, (8,), (1,))
    grid = spec.grid(2, 3).reshape(2, 3, 4)
    np.testing.assert_array_equal(grid[1, 2] - grid[0, 0], [32, 16, 32, 16])
    with pytest.raises(ValueError, match="read-only"):
        grid[0, 0] = 0
