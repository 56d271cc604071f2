"""The learning rate schedule: warm-up, decay, and resuming at any step."""

import dataclasses

import pytest

from mxrcnn.config import ConfigError, TrainConfig
from mxrcnn.runs.checkpoint import TrainState
from mxrcnn.training.configure import TrainRequest, build_config
from mxrcnn.training.derived import ADAMW, derive
from mxrcnn.training.optimizer import _Scheduler
from mxrcnn.training.schedule import Schedule, make_schedule
from symnet.machine import mx


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (9, 1.0), (10, 0.1), (19, 0.1), (20, 0.01), (1_000_000, 0.01)],
)
def test_lr_falls_from_the_milestone_on(step, expected):
    assert Schedule(1.0, (10, 20), 0.1)(step) == pytest.approx(expected)


def test_without_milestones_lr_is_constant():
    schedule = Schedule(0.3, (), 0.1)
    assert {schedule(step) for step in (0, 1, 10**9)} == {0.3}


def test_warmup_is_linear_and_ends_at_lr():
    schedule = Schedule(2.0, (), 0.1, warmup_steps=4, warmup_factor=0.5)
    assert [schedule(step) for step in range(6)] == pytest.approx([1, 1.25, 1.5, 1.75, 2, 2])


def test_a_milestone_inside_the_warmup_counts():
    schedule = Schedule(1.0, (2,), 0.1, warmup_steps=4, warmup_factor=0.0)
    assert [schedule(step) for step in range(5)] == pytest.approx([0, 0.25, 0.05, 0.075, 0.1])


@pytest.mark.parametrize(("epochs", "milestones"), [((), ()), ((7,), (70,)), ((9, 7), (70, 90))])
def test_config_gives_epochs_and_the_schedule_has_steps(epochs, milestones):
    train = TrainConfig(lr=0.5, lr_decay_epoch=epochs, warmup_steps=3, warmup_factor=0.2)
    assert make_schedule(train, 10) == Schedule(0.5, milestones, 0.1, 3, 0.2, steps=100)


def test_epochs_of_another_length_after_a_change_of_data():
    """25 steps at 10 per epoch are done; the next epoch, 3, begins, with 4 steps per epoch."""
    first = TrainState(25, 3, 0).first_step(4)
    train = TrainConfig(lr=1.0, lr_decay_epoch=(2, 3, 5))
    schedule = make_schedule(train, 4, first)
    rates = [schedule(step) for step in (25, 32, 33, 40)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert [TrainState(s, e, b).first_step(10) for s, e, b in ((0, 0, 0), (25, 2, 5))] == [0, 0]
    assert [TrainState(25 + s, 3 + s // 4, s % 4).first_step(4) for s in range(9)] == [first] * 9


@pytest.mark.parametrize("done", [0, 1, 4, 5, 50])
def test_mxnet_uses_the_schedule_also_after_a_resume(done):
    """An optimizer that starts at update `done` uses the rates of steps done, done + 1, ..."""
    schedule = Schedule(1.0, (2, 5), 0.1)
    optimizer = mx.optimizer.SGD(
        learning_rate=1.0, lr_scheduler=_Scheduler(schedule), begin_num_update=done
    )
    weight = mx.nd.zeros(1)
    for step in range(done, done + 4):
        before = weight.asscalar()
        optimizer.update(0, weight, mx.nd.ones(1), None)
        assert before - weight.asscalar() == pytest.approx(schedule(step), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        # (1 + cos(pi * step / 8)) / 2, by hand
        (
            {"schedule": "cosine"},
            [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060],
        ),
        ({"schedule": "cosine", "lr_final": 0.5}, [1, 0.980970, 0.926777, 0.845671, 0.75]),
        (
            {"schedule": "poly", "poly_power": 1.0},
            [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0],
        ),
        ({"schedule": "poly", "poly_power": 2.0}, [1, 0.765625, 0.5625, 0.390625, 0.25]),
        ({"schedule": "poly"}, [1, 0.886762, 0.771890]),  # power 0.9
        # the warm-up multiplies
        ({"schedule": "poly", "poly_power": 1.0, "warmup_steps": 2}, [0.1, 0.875 * 0.55, 0.75]),
    ],
)
def test_curves_by_hand(settings, rates):
    """Two epochs of four steps."""
    schedule = make_schedule(TrainConfig(lr=1.0, epochs=2, **settings), 4)
    assert [schedule(step) for step in range(len(rates))] == pytest.approx(rates, abs=1e-6)
    assert schedule(8) == schedule(100) == settings.get("lr_final", 0)


def test_curves_after_a_change_of_data():
    """25 steps at 10 per epoch are done, half of 5 epochs; then 4 steps an epoch."""
    first = TrainState(25, 3, 0).first_step(4)
    schedule = make_schedule(TrainConfig(lr=1.0, epochs=6, schedule="cosine"), 4, first)
    assert (schedule(25), schedule(first + 24)) == pytest.approx((0.5, 0))


@pytest.mark.parametrize(
    ("base", "user", "derived", "said"),
    [
        ({}, {}, {}, "learning rate 0.001: the default for 1 image a step"),
        ({}, {"batch_size": 4}, {"lr": 0.004}, "0.001 for 1 image a step, scaled to 4 (linear)"),
        ({}, {"batch_size": 4, "lr_scaling": "sqrt"}, {"lr": 0.002}, "scaled to 4 (sqrt)"),
        ({}, {"batch_size": 4, "lr_scaling": "none"}, {}, "not scaled to 4 (--lr-scaling none)"),
        ({}, {"batch_size": 4, "lr": 0.5}, {}, ""),
        ({"batch_size": 4}, {"batch_size": 2}, {"lr": 0.0005}, "0.001 for 4 images a step"),
        ({}, {"optimizer": "adamw"}, {**ADAMW, "lr": 2.5e-5}, "scaled to 1 (sqrt)"),
        (
            {},
            {"optimizer": "adamw", "batch_size": 16},
            {**ADAMW, "lr": 1e-4},
            "for 16 images a step",
        ),
        (
            {},
            {"optimizer": "adamw", "lr": 0.5, "weight_decay": 0.01, "decay_norms": True},
            {"lr_scaling": "sqrt"},
            "",
        ),
        # as many workers as there are scale it elsewhere, see lr_scale
        ({}, {"kvstore": "dist_sync", "workers": 4}, {}, "learning rate 0.001"),
        (
            {},
            {"epochs": 20},
            {"lr_decay_epoch": (14,)},
            "decays after epoch 14: the default, 7 of 10",
        ),
        ({}, {"epochs": 1}, {"lr_decay_epoch": ()}, "decays never"),
        (
            {"lr_decay_epoch": (16, 22), "epochs": 26},
            {"epochs": 13},
            {"lr_decay_epoch": (8, 11)},
            "",
        ),
        ({}, {"epochs": 20, "lr_decay_epoch": (3,)}, {}, ""),
        ({}, {"epochs": 20, "schedule": "poly"}, {}, ""),
        (
            {"schedule": "cosine"},
            {"lr_decay_epoch": (3,)},
            {"schedule": "step"},
            "schedule step instead of cosine: decay epochs are given",
        ),
        (
            {"schedule": "cosine", "epochs": 3, "lr_decay_epoch": (2,)},
            {"schedule": "step", "epochs": 6},
            {"lr_decay_epoch": (4,)},
            "decays after epoch 4",
        ),
    ],
)
def test_what_follows_from_other_settings(base, user, derived, said):
    base = TrainConfig(**base)
    made = derive(base, dataclasses.replace(base, **user), {f"train.{name}" for name in user})
    assert made.settings == {f"train.{name}": value for name, value in derived.items()}
    assert made.settings.keys() == made.reasons.keys()
    assert said in "\n".join(made.notes)


def test_decay_epochs_of_a_schedule_without_them_are_an_error():
    user = {"schedule": "cosine", "lr_decay_epoch": (3,)}
    with pytest.raises(ConfigError, match="only the schedule step has decay epochs"):
        derive(TrainConfig(), TrainConfig(**user), {f"train.{name}" for name in user})


def test_a_new_run_gets_what_follows_and_says_so():
    words = ("dataset=voc", "root=devkit", "batch_size=2", "epochs=30")
    made = build_config(TrainRequest(words=words))
    assert (made.config.train.lr, made.config.train.lr_decay_epoch) == (0.002, (21,))
    why = made.sources["train.lr"]
    assert why == "the default, 0.001 for 1 image a step, scaled to 2 (linear)"
    assert f"learning rate 0.002: {why}" in made.notes
