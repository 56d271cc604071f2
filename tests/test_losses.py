"""The gradients of each loss against explicit losses, and their means over a batch of images.

SoftmaxOutput and MakeLoss return gradients of losses that they never compute. Here the losses are
written out in float64 and differentiated numerically.
"""

from dataclasses import replace

import numpy as np
import pytest

from symnet import get_detector
from symnet.detector import ImageTargetsInput
from symnet.geometry.targets import pad_objects
from symnet.machine import mx
from symnet.parts.heads import roi_losses
from symnet.parts.metrics import rcnn_metrics
from symnet.parts.rpn import rpn_head, rpn_losses

IGNORE = -1


def cross_entropy(logits, labels, count):
    """Sum over labels >= 0 of the log loss of logits (N, C), divided by count."""
    logits = logits - logits.max(axis=1, keepdims=True)
    log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    counted = labels >= 0
    return -log_prob[counted, labels[counted].astype(int)].sum() / count


def smooth_l1(difference, sigma):
    """Fast R-CNN's robust loss; sigma squared determines where it becomes linear."""
    size = np.abs(difference)
    turn = 1 / sigma**2
    return np.where(size < turn, 0.5 * sigma**2 * size**2, size - 0.5 * turn)


def numeric_gradient(loss, array, step=1e-5):
    """Central differences of a scalar function of an array."""
    array = array.astype(np.float64)
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = array.copy()
        moved[index] += step
        above = loss(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - loss(moved)) / (2 * step)
    return gradient


def backward(symbol, **values):
    """(outputs, gradients by name, of all arguments) of a symbol's training pass."""
    args = {name: mx.nd.array(value) for name, value in values.items()}
    grads = {name: mx.nd.zeros(value.shape) for name, value in args.items()}
    executor = symbol.bind(mx.cpu(), args, args_grad=grads)
    outputs = [output.asnumpy() for output in executor.forward(is_train=True)]
    executor.backward()
    return outputs, {name: grad.asnumpy() for name, grad in grads.items()}


# --- the RPN's losses ---------------------------------------------------------------------------


def rpn_case(images, seed=0):
    """The head of 3 anchors on a map of 2 x 4 cells, and values for all its inputs."""
    rng = np.random.default_rng(seed)
    head = rpn_head(mx.sym.Variable("feature"), num_anchors=3, channels=8)
    labels = [mx.sym.Variable(name) for name in ("label", "bbox_target", "bbox_weight")]
    symbol = mx.sym.Group(rpn_losses(head, *labels, num_samples=10 * images))
    shapes, _, _ = symbol.infer_shape(feature=(images, 5, 2, 4), bbox_weight=(images, 12, 2, 4))
    values = {
        name: rng.normal(0, 0.7, shape) for name, shape in zip(symbol.list_arguments(), shapes)
    }
    values["label"] = rng.integers(-1, 2, (images, 3 * 2 * 4)).astype(float)
    values["bbox_weight"] = rng.integers(0, 2, (images, 12, 2, 4)).astype(float)
    return symbol, values


def rpn_hidden(symbol, values):
    """The head's hidden layer (B, F, H, W)."""
    hidden = symbol.get_internals()["rpn_relu_output"]
    used = {name: mx.nd.array(values[name]) for name in hidden.list_arguments()}
    return hidden.bind(mx.cpu(), used).forward()[0].asnumpy().astype(np.float64)


def pointwise(weight, bias, feature):
    """A 1x1 convolution: (B, F, H, W) -> (B, out, H, W)."""
    return np.einsum("of,bfhw->bohw", weight[:, :, 0, 0], feature) + bias[:, None, None]


@pytest.mark.parametrize("images", [1, 2])
def test_rpn_class_loss_is_the_mean_over_sampled_anchors(images):
    """Channels of rpn_cls_score: background of all anchors, then object of all anchors."""
    symbol, values = rpn_case(images)
    hidden = rpn_hidden(symbol, values)
    _, found = backward(symbol, **values)
    labels = values["label"].ravel()

    def loss(weight, bias):
        score = pointwise(weight, bias, hidden)
        logits = np.stack([score[:, :3].ravel(), score[:, 3:].ravel()], axis=1)
        return cross_entropy(logits, labels, (labels >= 0).sum())

    weight, bias = values["rpn_cls_score_weight"], values["rpn_cls_score_bias"]
    expected = numeric_gradient(lambda moved: loss(moved, bias), weight)
    np.testing.assert_allclose(found["rpn_cls_score_weight"], expected, atol=1e-5)
    expected = numeric_gradient(lambda moved: loss(weight, moved), bias)
    np.testing.assert_allclose(found["rpn_cls_score_bias"], expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


@pytest.mark.parametrize("images", [1, 2])
def test_rpn_box_loss_is_the_sum_over_the_number_of_samples(images):
    symbol, values = rpn_case(images)
    hidden = rpn_hidden(symbol, values)
    outputs, found = backward(symbol, **values)

    def losses(weight, bias):
        difference = pointwise(weight, bias, hidden) - values["bbox_target"]
        return values["bbox_weight"] * smooth_l1(difference, 3)

    weight, bias = values["rpn_bbox_pred_weight"], values["rpn_bbox_pred_bias"]
    np.testing.assert_allclose(outputs[1], losses(weight, bias), atol=1e-4)
    count = 10 * images
    expected = numeric_gradient(lambda moved: losses(moved, bias).sum() / count, weight)
    np.testing.assert_allclose(found["rpn_bbox_pred_weight"], expected, atol=1e-5)
    expected = numeric_gradient(lambda moved: losses(weight, moved).sum() / count, bias)
    np.testing.assert_allclose(found["rpn_bbox_pred_bias"], expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


def test_rpn_without_any_label_has_no_gradient():
    symbol, values = rpn_case(1)
    values["label"][:] = IGNORE
    values["bbox_weight"][:] = 0
    _, found = backward(symbol, **values)
    parameters = [name for name in found if name.startswith("rpn_")]
    assert len(parameters) == 6
    assert not any(found[name].any() for name in parameters)


# --- the box head's losses ----------------------------------------------------------------------

ROI_INPUTS = ("cls_score", "bbox_pred", "label", "bbox_target", "bbox_weight")


def roi_case(rois=12, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    symbol = mx.sym.Group(
        roi_losses(*(mx.sym.Variable(name) for name in ROI_INPUTS), num_samples=rois)
    )
    values = {
        "cls_score": rng.normal(0, 1, (rois, classes)),
        "bbox_pred": rng.normal(0, 1.5, (rois, 4 * classes)),
        "label": rng.integers(-1, classes, rois).astype(float),
        "bbox_target": rng.normal(0, 1.5, (rois, 4 * classes)),
        "bbox_weight": rng.integers(0, 2, (rois, 4 * classes)).astype(float),
    }
    return symbol, values


@pytest.mark.parametrize("seed", range(3))
def test_roi_losses_are_sums_over_the_number_of_rois(seed):
    symbol, values = roi_case(seed=seed)
    outputs, found = backward(symbol, **values)
    expected = numeric_gradient(
        lambda logits: cross_entropy(logits, values["label"], 12), values["cls_score"]
    )
    np.testing.assert_allclose(found["cls_score"], expected, atol=1e-6)

    def losses(predicted):
        return values["bbox_weight"] * smooth_l1(predicted - values["bbox_target"], 1)

    np.testing.assert_allclose(outputs[1], losses(values["bbox_pred"]), atol=1e-5)
    expected = numeric_gradient(lambda moved: losses(moved).sum() / 12, values["bbox_pred"])
    np.testing.assert_allclose(found["bbox_pred"], expected, atol=1e-6)


def test_ignored_labels_give_no_gradient():
    symbol, values = roi_case()
    ignored = values["label"] == IGNORE
    _, found = backward(symbol, **values)
    assert 0 < ignored.sum() < len(ignored)
    assert not found["cls_score"][ignored].any()
    assert found["cls_score"][~ignored].all()


# --- the whole graph ----------------------------------------------------------------------------

SIZE = (64, 96)


def one_image(config, seed, objects=3):
    """The inputs of one image of noise."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (objects, 2))
    sides = rng.uniform(14, 22, (objects, 2))
    classes = rng.integers(1, config.num_classes, (objects, 1))
    boxes = np.concatenate([corners, corners + sides, classes], axis=1).astype(np.float32)
    detector = get_detector("faster_rcnn_vgg16")
    labels = detector.assign_targets(config, ImageTargetsInput(boxes, SIZE, SIZE), rng)
    return {
        "data": rng.normal(0, 1, (3, *SIZE)),
        "im_info": [*SIZE, 1],
        "gt_boxes": pad_objects([boxes], 4)[0],
        **labels,
    }


@pytest.fixture(scope="module")
def config():
    """No dropout, and room for all proposals: nothing is random, and all count equally."""
    return get_detector("faster_rcnn_vgg16").config(
        num_classes=4,
        width=0.05,
        box_head_dim=32,
        anchor_scales=(1, 2),
        rpn_batch_size_per_image=24,
        rpn_post_nms_top_n_train=20,
        rpn_min_size=2,
        box_batch_size_per_image=40,
        box_positive_fraction=1.0,
        box_dropout=0.0,
    )


def train_pass(config, images, box_std=0.05):
    """(outputs by name, gradients by name) of the training graph for those images."""
    detector = get_detector("faster_rcnn_vgg16")
    symbol = detector.train_symbol(config, len(images))
    batch = {name: np.stack([image[name] for image in images]) for name in images[0]}
    shapes, _, _ = symbol.infer_shape(**{name: value.shape for name, value in batch.items()})
    for name, shape in zip(symbol.list_arguments(), shapes):
        if name not in batch:
            rng = np.random.default_rng(list(name.encode()))
            batch[name] = detector.init(config, name, shape, rng, True)
            if "bbox_pred" in name:
                batch[name] = rng.normal(0, box_std, shape)
    outputs, gradients = backward(symbol, **batch)
    names = [name[: -len("_output")] for name in symbol.list_outputs()]
    parameters = {name: gradients[name] for name in gradients if name not in images[0]}
    return dict(zip(names, outputs)), parameters


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2), (1, 2, 3)])
def test_gradients_of_a_batch_are_the_mean_of_its_images(config, seeds):
    images = {seed: one_image(config, seed) for seed in set(seeds)}
    for image in images.values():
        assert (image["label"] >= 0).sum() == config.rpn_batch_size_per_image
    single = {seed: train_pass(config, [image]) for seed, image in images.items()}
    outputs, batch = train_pass(config, [images[seed] for seed in seeds])
    for place, seed in enumerate(seeds):
        label = single[seed][0]["label_blockgrad"][0]
        np.testing.assert_array_equal(outputs["label_blockgrad"][place], label)
        assert (label > 0).sum() > 0
    for name, gradient in batch.items():
        expected = np.mean([single[seed][1][name] for seed in seeds], axis=0)
        tolerance = 1e-4 * np.abs(expected).max()
        assert tolerance > 0, name
        np.testing.assert_allclose(gradient, expected, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("images", [1, 2])
def test_without_objects_the_box_losses_are_exactly_0(config, images):
    outputs, gradients = train_pass(
        config, [one_image(config, seed, objects=0) for seed in range(images)]
    )
    for name in ("rpn_bbox_loss", "bbox_loss_reshape"):
        assert not outputs[name].any()
    for layer in ("rpn_bbox_pred", "bbox_pred"):
        assert not gradients[f"{layer}_weight"].any()
        assert not gradients[f"{layer}_bias"].any()
    for layer in ("rpn_cls_score", "cls_score", "conv1_1"):
        assert gradients[f"{layer}_weight"].any()
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("proposals", [20, 3])
def test_the_class_loss_in_the_log_is_the_one_that_is_trained(config, proposals):
    """Even with fewer proposals than RoIs to sample, as in small images."""
    config = replace(config, rpn_post_nms_top_n_train=proposals)
    image = one_image(config, 4)
    outputs, gradients = train_pass(config, [image])
    label = outputs["label_blockgrad"]
    logits = np.log(outputs["cls_prob_reshape"][0])

    def logged(bias):
        scores = np.exp(logits + bias)
        prob = scores / scores.sum(axis=1, keepdims=True)
        arrays = (mx.nd.array(x) for x in (prob[None], outputs["bbox_loss_reshape"], label))
        loss, count = rcnn_metrics(*arrays)["RCNNLogLoss"]
        return (loss / count).asscalar()

    expected = numeric_gradient(logged, np.zeros(config.num_classes), step=1e-2)
    np.testing.assert_allclose(gradients["cls_score_bias"], expected, atol=2e-4)
    assert np.abs(expected).max() > 0.02


def test_the_box_head_s_gradients_in_the_graph(config):
    """cls_score and bbox_pred get the gradients of the losses of the sampled RoIs."""
    image = one_image(config, 4)
    outputs, gradients = train_pass(config, [image])
    label = outputs["label_blockgrad"][0]
    one_hot = np.eye(config.num_classes)[np.maximum(label, 0).astype(int)]
    difference = (outputs["cls_prob_reshape"][0] - one_hot) * (label >= 0)[:, None]
    expected = difference.sum(axis=0) / config.box_batch_size_per_image
    np.testing.assert_allclose(gradients["cls_score_bias"], expected, atol=1e-5)
    boxes = gradients["bbox_pred_bias"].reshape(-1, 4)
    seen = np.isin(np.arange(config.num_classes), label[label > 0])
    np.testing.assert_array_equal(boxes.any(axis=1), seen)
