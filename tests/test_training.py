"""Training: metrics, frozen parameters, several devices, non-finite losses, the run's files."""

import json
import math
import sys

import numpy as np
import pytest

from mxrcnn.config import ConfigError, contexts, make_config, override
from mxrcnn.data import open_dataset
from mxrcnn.data.synthetic import ensure_synthetic
from mxrcnn.evaluation.core import evaluate
from mxrcnn.evaluation.voc import evaluate_voc
from mxrcnn.inference.detector import Detector
from mxrcnn.runs.checkpoint import Best, RunFolder
from mxrcnn.training import curves
from mxrcnn.training.configure import TrainRequest, with_classes
from mxrcnn.training.curves import LossPlot
from mxrcnn.training.loop import _postfix, train
from mxrcnn.training.metrics import NonFiniteLossError, RunningMetrics
from mxrcnn.training.network import seeded_model
from mxrcnn.training.run import prepare
from mxrcnn.training.trainer import Trainer
from symnet import get_detector
from symnet.machine import mx
from tests.factories import TINY, tiny_config

METRICS = {"RPNAcc", "RPNLogLoss", "RPNL1Loss", "RCNNAcc", "RCNNLogLoss", "RCNNL1Loss"}
SMALL = {"data.dataset": "voc", "data.imageset": "2007_train", "train.batch_size": 2}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 6, 3, (96, 128))


@pytest.fixture
def begin(data_root, tmp_path):
    """Starts a run in tmp_path/run; settings are named `train__lr=1`."""

    def start(**settings) -> Trainer:
        named = {key.replace("__", "."): value for key, value in settings.items()}
        settings = {**TINY, **SMALL, "data.root": str(data_root), **named}
        return prepare(TrainRequest(settings=settings, out=str(tmp_path / "run")))

    return start


def slow_class_metrics(prob, label):
    """Accuracy and mean log loss of rows prob (N, C) with label >= 0."""
    rows = [(p, int(k)) for p, k in zip(prob, label) if k >= 0]
    correct = [int(np.argmax(p) == k) for p, k in rows]
    losses = [-math.log(p[k] + 1e-14) for p, k in rows]
    return np.mean(correct), np.mean(losses)


def softmax(x, axis):
    x = np.exp(x)
    return x / x.sum(axis, keepdims=True)


def test_the_six_metrics_equal_slow_ones():
    rng = np.random.default_rng(0)
    images, anchors, height, width, rois, classes = 2, 3, 4, 5, 7, 6
    rpn_prob = softmax(rng.normal(size=(images, 2, anchors * height, width)), 1)
    rpn_loss = rng.random((images, 4 * anchors, height, width))
    rpn_label = rng.integers(-1, 2, (images, anchors * height * width))
    prob = softmax(rng.normal(size=(images, rois, classes)), 2)
    loss = rng.random((images, rois, 4 * classes))
    label = rng.integers(-1, classes, (images, rois))
    outputs = {
        "rpn_cls_prob": rpn_prob,
        "rpn_bbox_loss": rpn_loss,
        "cls_prob_reshape": prob,
        "bbox_loss_reshape": loss,
        "label_blockgrad": label,
    }
    pairs = get_detector("faster_rcnn_vgg16").metrics(
        {name: mx.nd.array(value) for name, value in outputs.items()},
        {"label": mx.nd.array(rpn_label)},
    )
    found = {name: s.asscalar() / c.asscalar() for name, (s, c) in pairs.items()}

    rpn_rows = np.stack([rpn_prob[:, k].ravel() for k in (0, 1)], axis=1)
    rpn_acc, rpn_log = slow_class_metrics(rpn_rows, rpn_label.ravel())
    rcnn_acc, rcnn_log = slow_class_metrics(prob.reshape(-1, classes), label.ravel())
    rcnn_log *= (label >= 0).mean()  # trained and logged per row, be it counted or not
    expected = {
        "RPNAcc": rpn_acc,
        "RPNLogLoss": rpn_log,
        "RPNL1Loss": rpn_loss.sum() / (rpn_label == 1).sum(),
        "RCNNAcc": rcnn_acc,
        "RCNNLogLoss": rcnn_log,
        "RCNNL1Loss": loss.sum() / (label > 0).sum(),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_metrics_of_a_batch_without_any_label():
    pairs = get_detector("faster_rcnn_vgg16").metrics(
        {
            "rpn_cls_prob": mx.nd.ones((1, 2, 2, 2)) / 2,
            "rpn_bbox_loss": mx.nd.zeros((1, 4, 2, 2)),
            "cls_prob_reshape": mx.nd.ones((1, 3, 4)) / 4,
            "bbox_loss_reshape": mx.nd.zeros((1, 3, 16)),
            "label_blockgrad": -mx.nd.ones((1, 3)),
        },
        {"label": -mx.nd.ones((1, 4))},
    )
    metrics = RunningMetrics(get_detector("faster_rcnn_vgg16").losses)
    metrics.add(0, ("a",), {name: [pair] for name, pair in pairs.items()})
    metrics.absorb(everything=True)
    means = metrics.take()
    assert means == {**dict.fromkeys(METRICS), "RCNNLogLoss": 0.0}  # of all rows
    assert _postfix({**means, "images_per_second": 2.0}).startswith("RPNLog - RPNL1 - ")


def pair(total: float, count: float):
    return mx.nd.array([total]), mx.nd.array([count])


def test_running_metrics_are_means_over_steps_and_devices():
    metrics = RunningMetrics(["Loss"])
    metrics.add(0, ("a",), {"Loss": [pair(1, 2), pair(5, 2)], "Acc": [pair(1, 1), pair(0, 1)]})
    metrics.add(1, ("b",), {"Loss": [pair(2, 4), pair(0, 0)], "Acc": [pair(1, 1), pair(1, 1)]})
    metrics.absorb(everything=True)
    assert metrics.take() == {"Loss": 1.0, "Acc": 0.75}
    assert metrics.take() == {}


def test_running_metrics_leave_the_newest_steps_alone():
    """Reading a step that is still being computed would wait for it."""
    metrics = RunningMetrics(["Loss"])
    for step in range(5):
        metrics.add(step, ("a",), {"Loss": [pair(step, 1)]})
    metrics.absorb()
    assert metrics.take() == {"Loss": 1.0}  # steps 0, 1, 2
    metrics.absorb(everything=True)
    assert metrics.take() == {"Loss": 3.5}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_loss_names_step_images_and_loss(bad):
    metrics = RunningMetrics(["Loss"])
    metrics.add(6, ("good",), {"Loss": [pair(1, 1)], "Acc": [pair(math.nan, 1)]})
    metrics.add(7, ("left", "right"), {"Loss": [pair(1, 1), pair(bad, 1)], "Acc": [pair(1, 1)] * 2})
    with pytest.raises(NonFiniteLossError, match=r"Loss is .* at step 7, images: left, right"):
        metrics.absorb(everything=True)


def test_non_finite_losses_are_found_within_a_few_steps():
    metrics = RunningMetrics(["Loss"])

    def go_on():
        for step in range(100):
            metrics.add(step, (step,), {"Loss": [pair(math.nan, 1)]})

    with pytest.raises(NonFiniteLossError, match="at step 0, images: 0"):
        go_on()
    assert len(metrics._waiting) < 15


def test_a_training_that_explodes_stops_and_keeps_the_last_good_checkpoint(begin):
    trainer = begin(train__epochs=3)
    train(trainer, 0)
    good = trainer.run.steps()
    trainer = prepare(TrainRequest(resume=str(trainer.run.path), settings={"train.epochs": 9}))
    args = trainer.network.module.get_params()[0]
    args["cls_score_bias"][:] = math.nan
    trainer.network.module.set_params(args, {})
    with pytest.raises(NonFiniteLossError, match=rf"RCNNLogLoss is nan at step {good[-1]}, images"):
        train(trainer, 0)
    assert trainer.run.steps() == good
    _, params, momentum = trainer.run.load_state()
    assert all(np.isfinite(v.asnumpy()).all() for v in [*params.values(), *momentum.values()])


@pytest.mark.parametrize("lr", [1e12, 1e38])
def test_a_learning_rate_that_explodes(begin, lr):
    """Also at once: the first losses are finite, what the first update leaves is not."""
    trainer = begin(train__lr=lr, train__checkpoint_steps=1)
    with pytest.raises(NonFiniteLossError, match="step"):
        train(trainer, 0)
    for step in trainer.run.steps():
        path = trainer.run.folder(step) / "model.params"
        assert all(np.isfinite(v.asnumpy()).all() for v in mx.nd.load(str(path)).values())


def test_no_checkpoint_while_a_loss_that_is_not_finite_waits_to_be_read(begin):
    trainer = begin()
    trainer.metrics.add(0, ("a", "b"), {"RPNLogLoss": [pair(math.nan, 1)]})
    with pytest.raises(NonFiniteLossError, match="RPNLogLoss is nan at step 0, images: a, b"):
        trainer.save()
    assert trainer.run.steps() == []


def snapshot(trainer: Trainer) -> dict[str, np.ndarray]:
    return {name: value.asnumpy() for name, value in trainer.network.params().items()}


def test_fixed_parameters_do_not_move_and_the_others_do(begin):
    trainer = begin(train__fixed=("conv1", "conv2"), train__lr=0.01)
    before = snapshot(trainer)
    train(trainer, 0)
    moved = {name for name, value in snapshot(trainer).items() if (value != before[name]).any()}
    fixed = {name for name in before if name.startswith(("arg:conv1", "arg:conv2"))}
    assert len(fixed) == 8
    assert moved == set(before) - fixed
    assert {f"arg:{name}" for name in trainer.network.momentum()} == moved


def test_without_pretrained_parameters_nothing_is_fixed_by_default(begin, data_root, tmp_path):
    settings = {k: v for k, v in TINY.items() if k != "train.fixed"}
    settings = {**settings, **SMALL, "data.root": str(data_root)}
    trainer = prepare(TrainRequest(settings=settings, out=str(tmp_path / "run")))
    assert trainer.config.train.fixed == ()


def test_pretrained_parameters_are_used_and_reported(begin, tmp_path, capsys):
    shapes = begin().network.shapes
    (tmp_path / "run").rename(tmp_path / "before")
    rng = np.random.default_rng(0)
    stored = {
        "arg:conv3_1_weight": rng.normal(size=shapes["conv3_1_weight"]),
        "arg:fc6_weight": rng.normal(size=(5, 5)),
        "arg:fc8_weight": rng.normal(size=(3,)),
    }
    path = tmp_path / "their.params"
    mx.nd.save(str(path), {name: mx.nd.array(value) for name, value in stored.items()})
    capsys.readouterr()
    trainer = begin(train__pretrained=str(path))
    told = capsys.readouterr().out
    lines = [line.strip() for line in told.splitlines()]
    assert f"{path}: 1 parameters used" in lines
    assert any(line.startswith("not in the file") and "conv1_1_weight" in line for line in lines)
    assert any(line.startswith("in the file but not") and "fc8_weight" in line for line in lines)
    assert any(line.startswith("wrong shape") and "fc6_weight (5, 5)" in line for line in lines)
    loaded = snapshot(trainer)["arg:conv3_1_weight"]
    np.testing.assert_array_equal(loaded, stored["arg:conv3_1_weight"].astype(np.float32))


def test_two_devices_resume_to_the_bit(data_root, tmp_path):
    config = tiny_config(
        data__dataset="voc",
        data__root=str(data_root),
        train__batch_size=4,
        train__checkpoint_steps=1,
        train__keep=9,
        train__lr=0.01,
    )
    dataset = open_dataset(config.data, "2007_train")
    config = with_classes(config, dataset)
    devices = [mx.cpu(0), mx.cpu(1)]
    whole = Trainer(config, RunFolder(tmp_path / "run"), dataset, None, devices)
    whole.begin()
    train(whole, 0)
    expected = snapshot(whole)
    for step in whole.run.steps()[1:]:
        (whole.run.checkpoints / f"step-{step:08d}").rename(tmp_path / f"later{step}")
    resumed = Trainer(config, whole.run, dataset, None, devices)
    resumed.resume()
    assert resumed.state.step == 1
    train(resumed, 0)
    for name, value in snapshot(resumed).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_batch_that_devices_cannot_share(data_root, tmp_path):
    config = tiny_config(data__dataset="voc", data__root=str(data_root), train__batch_size=3)
    dataset = open_dataset(config.data, "2007_train")
    with pytest.raises(ConfigError, match="batch_size=3: cannot be shared equally by 2 devices"):
        Trainer(config, RunFolder(tmp_path / "run"), dataset, None, [mx.cpu(0), mx.cpu(1)])


@pytest.mark.parametrize(
    ("gpus", "message"),
    [("0", "MXNet sees 0 GPUs"), ("a", "expected numbers"), ("0,,1", "expected numbers")],
)
def test_gpus_that_are_not_there(gpus, message):
    if mx.context.num_gpus():
        pytest.skip("there are GPUs here")
    with pytest.raises(ConfigError, match=message):
        contexts(gpus)


def test_what_a_run_leaves(begin, tmp_path):
    trainer = begin(
        data__val_imageset="2007_test",
        train__epochs=2,
        train__log_interval=2,
        train__val_every=1,
        train__tensorboard=True,
        data__augment=("basic", "mosaic:1"),
    )
    result = train(trainer, 0)
    run = trainer.run
    assert (result.step, result.stopped_by) == (12, None)
    assert result.metrics.keys() == METRICS
    assert run.steps() == [6, 12]

    rows = run.read_log()
    train_rows = [row for row in rows if row["kind"] == "train"]
    keys = {"kind", "step", "epoch", "lr", "images_per_second", "waiting"}
    assert [row["step"] for row in train_rows] == [2, 4, 6, 8, 10, 12]
    assert all(row.keys() == keys | METRICS for row in train_rows)
    assert train_rows[0]["epoch"] == pytest.approx(1 / 3, abs=1e-4)
    val_rows = [row for row in rows if row["kind"] == "val"]
    assert [(row["step"], row["epoch"]) for row in val_rows] == [(6, 1), (12, 2)]
    best = max(val_rows, key=lambda row: row["mAP"])
    assert run.best() == Best(best["step"], "voc07 mAP", best["mAP"])
    assert {row["metric"] for row in val_rows} == {"voc07"}
    assert {path.name for path in (run.path / "val_pictures").iterdir()} == {
        "epoch_0001.jpg",
        "epoch_0002.jpg",
    }
    counts = [row for row in rows if row["kind"] == "augmentation"]
    assert [(row["epoch"], row["steps"]) for row in counts] == [(1, 6), (2, 6)]
    assert all(row["kept"] > 0 and row["left_out"]["cut off"] > 0 for row in counts)

    assert (run.path / "losses.png").read_bytes().startswith(b"\x89PNG")
    events = list((run.path / "tensorboard").glob("events.out.tfevents*"))
    assert events
    assert b"RPNLogLoss" in b"".join(path.read_bytes() for path in events)
    assert run.config() == trainer.config
    assert run.config().data.class_names == ("circle", "cross", "square", "star", "triangle")


def test_the_validation_is_that_of_the_saved_checkpoint(begin):
    """The number in best.json is what testing that checkpoint gives."""
    settings = {"data__val_imageset": "2007_test", "train__val_metric": "coco"}
    trainer = begin(**settings, train__epochs=3, train__lr=0.005)
    train(trainer, 0)
    detector = Detector.load(trainer.run.path, "best")
    found = detector.predict_dataset(trainer.validation.dataset, progress=False)
    report = evaluate(trainer.validation.dataset, found, "coco")
    best = trainer.run.best()
    assert best == Best(best.step, "coco AP", report.metrics["AP"])
    row = next(r for r in trainer.run.read_log() if r["kind"] == "val" and r["step"] == best.step)
    assert (row["metric"], row["AP"]) == ("coco", best.value)
    assert row.keys() == {"kind", "step", "epoch", "metric", "AP", "AP50", "AP75"}


def test_val_every(begin):
    trainer = begin(data__val_imageset="2007_test", train__epochs=5, train__val_every=2)
    train(trainer, 0)
    rows = [row["epoch"] for row in trainer.run.read_log() if row["kind"] == "val"]
    assert rows == [2, 4, 5]  # and always after the last


def test_losses_are_drawn_at_checkpoints_and_a_failure_stops_nothing(begin, monkeypatch, capsys):
    drawn = []

    def fail(rows, path):
        drawn.append(rows[-1]["step"])
        raise RuntimeError("no font")

    monkeypatch.setattr(curves, "EVERY", 0.0)
    monkeypatch.setattr(curves, "SHARE", 1e9)
    monkeypatch.setattr(curves.viz, "plot_losses", fail)
    trainer = begin(train__epochs=2, train__log_interval=1, train__checkpoint_steps=4)
    assert train(trainer, 0).step == 12
    assert drawn == [4, 6, 8, 12, 12]
    assert capsys.readouterr().out.count("losses.png was not drawn: RuntimeError: no font") == 5


def test_losses_are_drawn_once_a_minute_and_for_a_hundredth_of_the_time(tmp_path, monkeypatch):
    clock, drawn, seconds = [0.0], [], 0.5

    def draw(rows, path):
        drawn.append(clock[0])
        clock[0] += seconds

    monkeypatch.setattr(curves.viz, "plot_losses", draw)
    monkeypatch.setattr(curves.time, "monotonic", lambda: clock[0])
    plot = LossPlot(RunFolder(tmp_path), print)
    for now in range(1, 200, 7):
        clock[0] = float(now)
        plot.draw_if_due()
    assert drawn == [64, 127, 190]
    seconds = 3.0
    for now in range(300, 1000, 7):
        clock[0] = max(clock[0], float(now))
        plot.draw_if_due()
    assert drawn[3:] == [300, 608, 916]


def test_tensorboard_that_is_not_installed(begin, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="--tensorboard needs tensorboardX: pip install"):
        begin(train__tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["faster_rcnn_vgg16", "mask_rcnn_r50_fpn", "fcos_r50_fpn"])
def test_the_seed_reaches_the_sampling_of_rois(network):
    config = override(make_config(network), {"train.seed": 5})
    model = seeded_model(config)
    assert getattr(model, "sampling_seed", None) == (None if "fcos" in network else 5)


@pytest.mark.alone
def test_the_same_seed_gives_the_same_bits_and_another_does_not(begin, tmp_path):
    def result(name, **settings):
        trainer = begin(**settings)
        train(trainer, 0)
        (tmp_path / "run").rename(tmp_path / name)
        return snapshot(trainer)

    first, again, other = result("a"), result("b"), result("c", train__seed=1)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_log_rows_are_json_that_others_can_read(begin):
    trainer = begin(train__log_interval=1)
    train(trainer, 0)
    lines = trainer.run.log.read_text().splitlines()
    assert len(lines) >= trainer.total
    for line in lines:
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


@pytest.mark.slow
def test_four_images_can_be_learnt_by_heart(tmp_path):
    root = ensure_synthetic(tmp_path / "data", 4, 1, (96, 128))
    config = override(
        tiny_config(),
        {
            "data.dataset": "voc",
            "data.root": str(root),
            "data.flip": False,
            "data.short_side": 128,
            "data.long_side": 192,
            "data.std": (58.4, 57.1, 57.4),
            "model.width": 0.25,
            "model.box_head_dim": 256,
            "model.anchor_scales": (2, 4, 6),
            "model.box_batch_size_per_image": 64,
            "model.rpn_post_nms_top_n_train": 200,
            "model.rpn_pre_nms_top_n_test": 1000,
            "model.rpn_post_nms_top_n_test": 100,
            "train.batch_size": 4,
            "train.epochs": 160,
            "train.lr": 0.02,
            "train.lr_decay_epoch": (130,),
            "train.warmup_steps": 30,
            "train.checkpoint_steps": 0,
            "train.log_interval": 50,
        },
    )
    dataset = open_dataset(config.data, "2007_train")
    config = with_classes(config, dataset)
    trainer = Trainer(config, RunFolder(tmp_path / "run"), dataset, None, [mx.cpu()])
    trainer.begin()
    train(trainer, 0)
    detector = Detector.load(tmp_path / "run")
    found = detector.predict_dataset(dataset, progress=False)
    report = evaluate_voc(dataset.records, found, dataset.class_names, metric="voc12")
    assert report.metrics["mAP"] >= 0.9


def test_an_update_is_one_call_a_parameter(monkeypatch):
    """SGD with momentum, weight decay and clipping, without MXNet's slower kernel for several."""
    from mxrcnn.training.optimizer import MxrcnnSGD

    def slow(*_, **__):
        raise AssertionError("the kernel for several parameters")

    monkeypatch.setattr("mxnet.optimizer.optimizer.multi_sgd_mom_update", slow)
    rule = MxrcnnSGD(learning_rate=0.1, momentum=0.9, wd=0.01, clip_gradient=0.5, rescale_grad=2.0)
    updater = mx.optimizer.get_updater(rule)
    weight, grad = mx.nd.array([1.0, -2.0]), mx.nd.array([0.1, 3.0])
    expected, velocity = weight.asnumpy(), np.zeros(2, np.float32)
    for _ in range(2):
        updater(0, grad, weight)
        step = np.clip(2 * grad.asnumpy(), -0.5, 0.5) + 0.01 * expected
        velocity = 0.9 * velocity - 0.1 * step
        expected = expected + velocity
    np.testing.assert_allclose(weight.asnumpy(), expected, rtol=1e-6)
