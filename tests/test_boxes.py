"""Box algebra: fast code against slow reference code, and round trips."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symnet.geometry.boxes import BoxCoder, clip_boxes, flip_boxes, iou
from tests.reference import slow_iou

side = st.floats(1, 300, width=32)
place = st.floats(-50, 400, width=32)
box = st.tuples(place, place, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, min_size=1, max_size=8).map(lambda b: np.array(b, np.float32))


@pytest.mark.parametrize("offset", [0, 1])
@given(a=boxes, b=boxes)
@settings(max_examples=50)
def test_iou_is_the_pixel_loop_s(a, b, offset):
    expected = [[slow_iou(x, y, offset) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_allclose(iou(a, b, offset), expected, atol=1e-5)


def test_iou_of_nothing():
    some = np.array([[0, 0, 10, 10]], np.float32)
    assert iou(some, some[:0]).shape == (1, 0)
    assert iou(some[:0], some).shape == (0, 1)
    point = np.array([[5, 5, 5, 5]], np.float32)
    assert iou(point, point)[0, 0] == 0


@pytest.mark.parametrize("offset", [0, 1])
@given(a=boxes, b=boxes)
@settings(max_examples=50)
def test_decode_undoes_encode(a, b, offset):
    count = min(len(a), len(b))
    coder = BoxCoder(stds=(0.1, 0.1, 0.2, 0.2), offset=offset)
    deltas = coder.encode(a[:count], b[:count])
    np.testing.assert_allclose(coder.decode(a[:count], deltas), b[:count], rtol=1e-3, atol=0.05)


def test_encode_by_hand():
    """A box twice as wide as the reference, shifted right by half of the reference's width."""
    reference = np.array([[0, 0, 9, 9]], np.float32)  # 10 x 10 inclusive
    target = np.array([[0, 0, 19, 9]], np.float32)  # 20 x 10 inclusive
    deltas = BoxCoder(offset=1).encode(reference, target)
    np.testing.assert_allclose(deltas, [[0.5, 0, np.log(2), 0]], atol=1e-6)
    divided = BoxCoder(stds=(0.1, 0.1, 0.2, 0.2), offset=1).encode(reference, target)
    np.testing.assert_allclose(divided, [[5, 0, np.log(2) / 0.2, 0]], atol=1e-5)


def test_decoded_sizes_are_limited():
    coder = BoxCoder(clip=np.log(2.0))
    decoded = coder.decode(np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 50, -50.0]]))
    np.testing.assert_allclose(decoded[0, [0, 2]], [-5, 15], atol=1e-4)


def test_clip_and_flip():
    some = np.array([[-5, 3, 120, 90]], np.float32)
    np.testing.assert_array_equal(clip_boxes(some, 80, 100), [[0, 3, 100, 80]])
    np.testing.assert_array_equal(flip_boxes(some, 100), [[-20, 3, 105, 90]])
    np.testing.assert_array_equal(flip_boxes(flip_boxes(some, 100), 100), some)
