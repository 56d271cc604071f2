"""Rare classes: images that come more often, and weights of classes in the losses."""

import dataclasses

import numpy as np
import pytest

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data.plans import TrainingPlan
from mxrcnn.data.repeats import Repeats, draw, most_drawn
from mxrcnn.training.checks import class_weight_table
from symnet.fcos import FCOSConfig, FCOSHead, fcos_losses
from symnet.machine import mx
from symnet.parts.heads import box_head_losses, roi_losses
from symnet.parts.losses import class_weights
from tests.factories import make_dataset, make_record, tiny_config


def record(name, classes, **flags):
    made = make_record(str(name), boxes=[(10, 20, 50, 60)] * len(classes), **flags)
    return dataclasses.replace(made, classes=np.array(classes, np.int64))


def records():
    """100 images: class 1 in all but the last, class 2 in four, class 3 in one (and a crowd)."""
    rows = [[1]] * 94 + [[1, 2, 2]] * 4 + [[1, 3]]
    crowd = record("crowd", [3], crowd=[True])
    return [*(record(k, row) for k, row in enumerate(rows)), crowd]


def test_formula_1():
    repeats = Repeats.of(records(), DataConfig(repeat_thresh=0.25))
    np.testing.assert_allclose(repeats.classes, [1, 2.5, 5])  # sqrt(0.25 / 0.04), / 0.01
    np.testing.assert_allclose(repeats.images, [1] * 94 + [2.5] * 4 + [5, 1])
    told = repeats.describe(("a", "b", "c"))
    assert "5 of 100 images, with 2 rare classes, come up to 5.00 times an epoch (c 5" in told
    assert "no class is rare" in Repeats.of(records(), DataConfig()).describe(("a", "b", "c"))


def test_draws_are_right_in_the_mean_and_of_nearly_constant_number():
    factors = np.array([1, 2.5, 1.3, 4.0, 1.9])  # 10.7
    drawn = np.array([draw(factors, np.random.default_rng(seed)) for seed in range(4000)])
    assert (np.abs(drawn - factors) < 1).all()  # rounded up or down
    assert set(drawn.sum(axis=1)) == {10, 11}
    assert most_drawn(factors) == 11
    np.testing.assert_allclose(drawn.mean(axis=0), factors, atol=0.03)


def test_an_epoch_repeats_the_images_of_rare_classes():
    config = tiny_config(data__repeat_thresh=0.25, train__batch_size=4)
    plan = TrainingPlan(make_dataset(records(), ("a", "b", "c")), config)
    assert plan.steps == 55  # both ways: 2 * 110 images
    rare = []
    for epoch in (0, 1):
        plans = plan.epoch(epoch)
        assert len(plans) == plan.steps
        assert {len(p.records) for p in plans} == {4}
        assert [p.records for p in plans] == [p.records for p in plan.epoch(epoch)]
        names = [r.image_id for p in plans for r in p.records]
        assert set(names) == {r.image_id for r in records()}
        assert names.count("98") == 10  # twice five times
        rare.append([names.count(str(k)) for k in range(94, 98)])
    assert np.array(rare).sum() == 40
    assert rare[0] != rare[1]


WORDS = ("a:2.5", "b:c:0")


def test_weights_by_name():
    config = tiny_config(data__class_names=("x", "a", "b:c"), train__class_weights=WORDS)
    assert class_weight_table(config) == (1, 1, 2.5, 0)
    assert class_weight_table(tiny_config()) == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a",), "'a': expected NAME:WEIGHT"),
        (("a:-1",), "'a:-1': expected NAME:WEIGHT, with a finite weight from 0"),
        (("a:nan",), "expected NAME:WEIGHT"),
        (("d:1",), "'d:1': no such class; there are a, b"),
        (("a:1", "a:2"), "'a:2': a has a weight already"),
    ],
)
def test_weights_that_cannot_be(words, message):
    config = tiny_config(data__class_names=("a", "b"), train__class_weights=words)
    with pytest.raises(ConfigError, match=message):
        class_weight_table(config)


def losses_and_gradients(build, weights, arrays, wanted):
    """The first output of build() and the gradient of `wanted`."""
    with class_weights(weights) as used:
        symbol = build({name: mx.sym.Variable(name) for name in arrays})
    assert bool(used) == bool(weights)
    args = {name: mx.nd.array(value) for name, value in arrays.items()}
    grads = {wanted: mx.nd.zeros_like(args[wanted])}
    executor = symbol.bind(mx.cpu(), args, args_grad=grads, grad_req={wanted: "write"})
    out = executor.forward(is_train=True)[0].asnumpy()
    executor.backward()
    return out, grads[wanted].asnumpy()


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "logits": rng.standard_normal((6, 4)).astype(np.float32),
        "deltas": np.zeros((6, 16), np.float32),
        "label": np.array([0, 1, 2, 3, 2, -1], np.float32),
        "target": np.zeros((6, 16), np.float32),
    }


#: by class id; of the labels of `rows`; 1 for the row that does not count
WEIGHTS, OF_ROWS = (1.0, 0.0, 3.0, 0.5), np.array([1, 0, 3, 0.5, 3, 1])[:, None]


@pytest.mark.parametrize("head", [box_head_losses, roi_losses])
def test_a_weight_multiplies_the_gradient_of_its_samples(head):
    def build(v):
        more = [] if head is box_head_losses else [6]
        args = (v["logits"], v["deltas"], v["label"], v["target"], v["target"], *more)
        return mx.sym.Group(list(head(*args)))

    arrays = rows()
    plain, gradient = losses_and_gradients(build, (), arrays, "logits")
    loss, weighted = losses_and_gradients(build, WEIGHTS, arrays, "logits")
    np.testing.assert_allclose(weighted, gradient * OF_ROWS, atol=1e-6)
    assert np.abs(gradient[:5]).min() > 1e-4
    if head is roi_losses:  # probabilities stay
        np.testing.assert_allclose(loss, plain, atol=1e-6)
        return
    log = arrays["logits"] - np.log(np.exp(arrays["logits"]).sum(axis=1, keepdims=True))
    picked = -log[range(5), arrays["label"][:5].astype(int)]
    np.testing.assert_allclose(loss, (picked * OF_ROWS[:5, 0]).sum() / 5, rtol=1e-5)


def test_a_weight_multiplies_the_focal_loss_of_its_points():
    config = FCOSConfig(num_classes=4)
    channels = 3 + config.form.background_channel
    arrays = {
        "logits": np.random.default_rng(1).standard_normal((1, channels, 1, 6)),
        "ltrb": np.ones((1, 4, 1, 6)),
        "centerness": np.zeros((1, 1, 1, 6)),
        "label": np.array([[-1, 0, 1, 2, 1, -1]]),  # class - 1
        "target": np.ones((1, 6, 4)),
        "centred": np.ones((1, 6)),
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}

    def build(v):
        head = FCOSHead([v["logits"]], [v["ltrb"]], [v["centerness"]])
        return mx.sym.Group(fcos_losses(config, head, [v["label"], v["target"], v["centred"]]))

    _, gradient = losses_and_gradients(build, (), arrays, "logits")
    _, weighted = losses_and_gradients(build, WEIGHTS, arrays, "logits")
    np.testing.assert_allclose(weighted, gradient * OF_ROWS[:, 0], atol=1e-7)
