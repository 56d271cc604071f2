"""The custom operator `proposal_target`, a thin wrapper of symnet.geometry.targets.roi_targets."""

import zlib

import numpy as np
import pytest

import symnet.ops.proposal_target  # noqa: F401 - registers the operator
from symnet.geometry.boxes import BoxCoder
from symnet.geometry.targets import RoISampling, pad_objects, roi_targets
from symnet.machine import mx

NAMES = ("rois", "label", "bbox_target", "bbox_weight")


def random_boxes(rng, count, height=200, width=300):
    corners = rng.uniform(0, 1, (count, 2)) * [width, height]
    return np.concatenate([corners, corners + rng.uniform(10, 80, (count, 2))], axis=1)


def make_inputs(images, proposals=300, objects=6, seed=0, classes=21):
    """rois (B*P, 5), half of them near objects, and gt_boxes (B, G, 5)."""
    rng = np.random.default_rng(seed)
    rois, gt_boxes = [], []
    for image in range(images):
        boxes = random_boxes(rng, objects)
        near = boxes[rng.integers(0, objects, proposals // 2)] + rng.normal(
            0, 3, (proposals // 2, 4)
        )
        all_boxes = np.concatenate([near, random_boxes(rng, proposals - len(near))])
        rois.append(np.insert(all_boxes, 0, image, axis=1))
        gt_boxes.append(np.insert(boxes, 4, rng.integers(1, classes, objects), axis=1))
    return np.float32(np.concatenate(rois)), np.float32(gt_boxes)


def run(rois, gt_boxes, **options):
    outputs = mx.nd.Custom(
        mx.nd.array(rois), mx.nd.array(gt_boxes), op_type="proposal_target", **options
    )
    return dict(zip(NAMES, (output.asnumpy() for output in outputs)))


def assert_same(first, second):
    for name in NAMES:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_it_is_roi_targets_image_by_image(images):
    rois, gt_boxes = make_inputs(images, classes=5)
    found = run(
        rois,
        gt_boxes,
        num_classes=5,
        batch_images=images,
        batch_rois=64 * images,
        fg_fraction=0.5,
        fg_overlap=0.6,
        box_stds=(0.1, 0.2, 0.3, 0.4),
        seed=7,
    )
    assert [found[n].shape for n in NAMES] == [
        (64 * images, 5),
        (64 * images,),
        (64 * images, 20),
        (64 * images, 20),
    ]
    np.testing.assert_array_equal(found["rois"][:, 0], np.repeat(np.arange(images), 64))
    for image in range(images):
        proposals = np.ascontiguousarray(rois[rois[:, 0] == image, 1:])
        place = np.rint(proposals[:1] / 8) + np.float32(0)
        expected = roi_targets(
            proposals,
            gt_boxes[image],
            5,
            RoISampling(64, 0.5, 0.6),
            BoxCoder(stds=(0.1, 0.2, 0.3, 0.4), offset=1),
            np.random.default_rng([7, zlib.crc32(gt_boxes[image]), zlib.crc32(place)]),
        )
        rows = slice(64 * image, 64 * (image + 1))
        np.testing.assert_array_equal(found["rois"][rows, 1:], expected[0])
        for name, values in zip(NAMES[1:], expected[1:]):
            np.testing.assert_array_equal(found[name][rows], values, err_msg=name)
        assert (expected[1] > 0).sum() == 32


def test_defaults_are_the_classic_values():
    rois, gt_boxes = make_inputs(1)
    found = run(rois, gt_boxes)
    explicit = run(
        rois,
        gt_boxes,
        num_classes=21,
        batch_images=1,
        batch_rois=128,
        fg_fraction=0.25,
        fg_overlap=0.5,
        box_stds=(0.1, 0.1, 0.2, 0.2),
        seed=0,
    )
    assert_same(found, explicit)
    assert found["bbox_target"].shape == (128, 84)
    assert (found["label"] > 0).sum() == 32
    assert (found["label"] == 0).sum() == 96


def test_the_seed_decides_what_is_drawn():
    rois, gt_boxes = make_inputs(2)
    first, again, other = (
        run(rois, gt_boxes, batch_images=2, batch_rois=128, seed=seed) for seed in (3, 3, 4)
    )
    assert_same(first, again)
    assert (first["rois"] != other["rois"]).any()


def test_what_is_drawn_does_not_depend_on_the_place_in_the_batch():
    rois, gt_boxes = make_inputs(1)
    alone = run(rois, gt_boxes)
    second = rois + np.float32([1, 0, 0, 0, 0])
    other, other_boxes = make_inputs(1, seed=9)
    both = run(
        np.concatenate([other, second]),
        np.concatenate([other_boxes, gt_boxes]),
        batch_images=2,
        batch_rois=256,
    )
    for name in NAMES[1:]:
        np.testing.assert_array_equal(both[name][128:], alone[name])
    np.testing.assert_array_equal(both["rois"][128:, 1:], alone["rois"][:, 1:])


def test_a_place_of_minus_zero_draws_as_zero_does():
    rois, gt_boxes = make_inputs(1)
    rois[0, 1:] = 1e-9, 1e-9, 40, 40
    minus = rois.copy()
    minus[0, 1:3] = -1e-9
    np.testing.assert_array_equal(run(rois, gt_boxes)["label"], run(minus, gt_boxes)["label"])
    np.testing.assert_allclose(run(rois, gt_boxes)["rois"], run(minus, gt_boxes)["rois"], atol=1e-6)


def test_flat_batched_and_padded_objects_are_the_same():
    rois, gt_boxes = make_inputs(1)
    flat = run(rois, gt_boxes[0])
    assert_same(flat, run(rois, gt_boxes))
    assert_same(flat, run(rois, pad_objects([gt_boxes[0]], 40)))
    assert_same(flat, run(rois, pad_objects([gt_boxes[0]], 40)[0]))


def test_images_without_objects_are_background():
    rois, gt_boxes = make_inputs(2)
    gt_boxes[1] = -1
    found = run(rois, gt_boxes, batch_images=2, batch_rois=128)
    assert (found["label"][:64] > 0).any()
    assert (found["label"][64:] == 0).all()
    assert not found["bbox_target"][64:].any()
    assert not found["bbox_weight"][64:].any()


@pytest.mark.parametrize(("fill", "counted"), [(True, 128), (False, 10 + 6)])
def test_fewer_candidates_than_rois_and_proposals_that_are_not_finite(fill, counted):
    rois, gt_boxes = make_inputs(1, proposals=20)
    rois[::2, 1:] = np.nan
    found = run(rois, gt_boxes, fill_with_background=fill)
    assert np.isfinite(found["rois"]).all()
    assert np.isfinite(found["bbox_target"]).all()
    assert (found["label"] >= 0).sum() == counted
    assert len(np.unique(found["rois"][found["label"] >= 0], axis=0)) == 10 + 6
    assert not found["bbox_weight"][found["label"] <= 0].any()


@pytest.mark.parametrize(("how", "left"), [("write", 0), ("add", 7)])
def test_no_gradient_flows_to_rois_and_objects(how, left):
    rois, gt_boxes = make_inputs(1)
    symbol = mx.sym.Custom(
        mx.sym.Variable("rois"), mx.sym.Variable("gt_boxes"), op_type="proposal_target"
    )
    inputs = {"rois": mx.nd.array(rois), "gt_boxes": mx.nd.array(gt_boxes)}
    grads = {name: mx.nd.full(value.shape, 7) for name, value in inputs.items()}
    executor = symbol.bind(mx.cpu(), inputs, args_grad=grads, grad_req=how)
    outputs = executor.forward(is_train=True)
    executor.backward([mx.nd.ones(output.shape) for output in outputs])
    for name, grad in grads.items():
        assert (grad.asnumpy() == left).all(), name


@pytest.mark.parametrize(
    ("shape", "images", "message"),
    [
        (
            (3, 4, 5),
            3,
            "128 RoIs (batch_rois) cannot be divided equally among 3 images (batch_images)",
        ),
        ((3, 4, 5), 2, "gt_boxes (3, 4, 5), expected (2, G, 5)"),
        ((4, 5), 2, "gt_boxes (4, 5), expected (2, G, 5)"),
        ((1, 4, 6), 1, "gt_boxes (1, 4, 6), expected (1, G, 5) or (G, 5)"),
    ],
)
def test_what_cannot_work_is_said(shape, images, message, capfd):
    """MXNet prints the message. Raised by the operator's __init__ it would be a crash."""
    with pytest.raises(mx.MXNetError):
        run(make_inputs(images)[0], np.ones(shape), batch_images=images)
    assert message in "".join(capfd.readouterr())
