"""The learning rate schedule: warm-up, decay, and resuming at any step."""

import pytest

from mxrcnn.config import TrainConfig
from mxrcnn.runs.checkpoint import TrainState
from mxrcnn.training.optimizer import _Scheduler
from mxrcnn.training.schedule import StepSchedule, make_schedule
from symnet.machine import mx


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (9, 1.0), (10, 0.1), (19, 0.1), (20, 0.01), (1_000_000, 0.01)],
)
def test_lr_falls_from_the_milestone_on(step, expected):
    assert StepSchedule(1.0, (10, 20), 0.1)(step) == pytest.approx(expected)


def test_without_milestones_lr_is_constant():
    schedule = StepSchedule(0.3, (), 0.1)
    assert {schedule(step) for step in (0, 1, 10**9)} == {0.3}


def test_warmup_is_linear_and_ends_at_lr():
    schedule = StepSchedule(2.0, (), 0.1, warmup_steps=4, warmup_factor=0.5)
    assert [schedule(step) for step in range(6)] == pytest.approx([1, 1.25, 1.5, 1.75, 2, 2])


def test_a_milestone_inside_the_warmup_counts():
    schedule = StepSchedule(1.0, (2,), 0.1, warmup_steps=4, warmup_factor=0.0)
    assert [schedule(step) for step in range(5)] == pytest.approx([0, 0.25, 0.05, 0.075, 0.1])


@pytest.mark.parametrize(("epochs", "milestones"), [((), ()), ((7,), (70,)), ((9, 7), (70, 90))])
def test_config_gives_epochs_and_the_schedule_has_steps(epochs, milestones):
    train = TrainConfig(lr=0.5, lr_decay_epoch=epochs, warmup_steps=3, warmup_factor=0.2)
    assert make_schedule(train, 10) == StepSchedule(0.5, milestones, 0.1, 3, 0.2)


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
    schedule = StepSchedule(1.0, (2, 5), 0.1)
    optimizer = mx.optimizer.SGD(
        learning_rate=1.0, lr_scheduler=_Scheduler(schedule), begin_num_update=done
    )
    weight = mx.nd.zeros(1)
    for step in range(done, done + 4):
        before = weight.asscalar()
        optimizer.update(0, weight, mx.nd.ones(1), None)
        assert before - weight.asscalar() == pytest.approx(schedule(step), rel=1e-3)
