"""The optimizers' formulas, and clipping by the norm of the whole gradient."""

import math

import numpy as np
import pytest

from mxrcnn.config import ConfigError, TrainConfig
from mxrcnn.training.average import Average
from mxrcnn.training.optimizer import (
    NormClipper,
    gradient_norm,
    make_optimizer,
    named_arrays,
    optimizer_options,
)
from mxrcnn.training.schedule import Schedule
from mxrcnn.training.workers import check_own_pace
from symnet.machine import mx

NAMES = ("conv_weight", "conv_bias", "bn_gamma", "bn_beta")


def updater_of(step=0, lr=0.1, **settings):
    train = TrainConfig(**{"clip_gradient": 0.0, **settings})
    options = optimizer_options(train, Schedule(lr), step, 2, 1)
    return mx.optimizer.get_updater(make_optimizer(train.optimizer, NAMES, options))


def run(updater, grads, first=0):
    """The values (4, 6) of NAMES after updates with grads (steps, 4, 6) from 1."""
    weights = [mx.nd.ones(6) for _ in NAMES] if first == 0 else first
    for step in grads:
        updater(list(range(4)), [mx.nd.array(g) for g in step], weights)
    return weights


@pytest.mark.parametrize("norms", [True, False])
def test_adamw_is_torchs(norms):
    """torch.optim.AdamW's single-tensor form, in float64; parts=2 halves the gradients."""
    grads = np.random.default_rng(0).standard_normal((5, 4, 6)).astype(np.float32)
    decay, lr, betas = 0.2, 0.1, (0.8, 0.95)
    found = run(
        updater_of(optimizer="adamw", weight_decay=decay, betas=betas, decay_norms=norms), grads
    )
    for row, name in enumerate(NAMES):
        weight, mean, square = np.ones(6), np.zeros(6), np.zeros(6)
        decays = name.endswith("_weight") or (norms and name.endswith("_gamma"))
        for count, grad in enumerate(grads[:, row] / 2, 1):
            weight *= 1 - lr * decay * decays
            mean = betas[0] * mean + (1 - betas[0]) * grad
            square = betas[1] * square + (1 - betas[1]) * grad**2
            unbiased = np.sqrt(square / (1 - betas[1] ** count)) + 1e-8
            weight -= lr / (1 - betas[0] ** count) * mean / unbiased
        np.testing.assert_allclose(found[row].asnumpy(), weight, rtol=1e-5, atol=1e-6)


def test_adamw_goes_on_where_it_stopped():
    grads = np.random.default_rng(1).standard_normal((4, 4, 6))
    whole = run(updater_of(optimizer="adamw"), grads)
    first = updater_of(optimizer="adamw")
    weights = run(first, grads[:2])
    second = updater_of(2, optimizer="adamw")
    second.states, second.states_synced = first.states, dict.fromkeys(range(4), True)
    for one, other in zip(run(second, grads[2:], weights), whole):
        assert one.asnumpy().tobytes() == other.asnumpy().tobytes()
    assert list(named_arrays("adamw", "a", first.states[0])) == ["mean:a", "var:a"]


def test_only_scales_of_norms_are_spared_from_decay():
    nothing = np.zeros((1, 4, 6))
    for norms, moved in ((True, [1, 0, 1, 0]), (False, [1, 0, 0, 0])):
        found = run(updater_of(weight_decay=0.5, decay_norms=norms), nothing)
        assert [int(w[0].asscalar() < 1) for w in found] == moved


@pytest.mark.parametrize("count", [3, (1 << 16) + 5, 30_000_000])
def test_the_norm_of_large_gradients(count):
    """Summed in one float32, 3e7 elements would give a norm 30 % too small."""
    found = gradient_norm([mx.nd.full((count,), 1.1), mx.nd.full((2, 2), 2)])
    assert found == pytest.approx(math.sqrt(1.21 * count + 16), rel=1e-5)


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 1 / 3), (2.5, 2.5 / 3), (4.0, 1.0)])
def test_clipping_by_the_norm(limit, factor):
    """The mean gradient has norm 3; its elements are clipped after that."""
    grads = np.zeros((1, 4, 6))
    grads[0, 0, :2], grads[0, 2, 0] = 4, 2  # halved: 2, 2, 1
    settings = {"momentum": 0.0, "weight_decay": 0.0, "clip_gradient": 0.9}
    clipper = NormClipper(updater_of(lr=1.0, **settings), limit)
    found = run(clipper, grads)
    expected = 1 - np.minimum(grads[0] / 2 * factor, 0.9)
    np.testing.assert_allclose([w.asnumpy() for w in found], expected, atol=1e-5)
    assert clipper.take() == {"grad_norm": pytest.approx(3), "clipped": float(limit < 3)}
    assert clipper.take() == {}


@pytest.mark.parametrize(
    "setting",
    [{"optimizer": "adamw"}, {"clip_norm": 1.0}, {"accumulate": 2}, {"ema": 0.9}, {"patience": 1}],
)
def test_what_workers_at_their_own_pace_do_not_have(setting):
    with pytest.raises(ConfigError, match=f"train.{next(iter(setting))}=.*not with .*dist_async"):
        check_own_pace(TrainConfig(kvstore="dist_async", **setting))


def test_the_average_by_hand():
    """The decay is (1 + n) / (10 + n) until that exceeds 0.25: 2/11, 3/12, then 0.25."""
    average = Average(0.25, {"a": mx.nd.array([1.0, 2.0]), "b": mx.nd.array([0.1])})
    for count, value in enumerate((3.0, 5.0, 7.0), 1):
        average.update(count, {"a": mx.nd.array([value, 2.0]), "b": mx.nd.array([0.1])})
    first = 2 / 11 * 1 + 9 / 11 * 3
    second = 0.25 * first + 0.75 * 5
    expected = [0.25 * second + 0.75 * 7, 2.0]
    np.testing.assert_allclose(average.arrays["a"].asnumpy(), expected, rtol=1e-6)
    assert average.arrays["b"].asscalar() == np.float32(0.1)  # what does not move, stays
