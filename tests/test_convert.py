"""Other projects' files become runs: what fits, what is reported, what is refused, the result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import Config, ConfigError, make_config, override
from mxrcnn.data.synthetic import SHAPES, ensure_synthetic
from mxrcnn.data.transforms import padded_size, prepare_image, stack_images
from mxrcnn.data.voc import VOC_CLASSES
from mxrcnn.errors import USER_ERRORS
from mxrcnn.inference.detector import Detector
from mxrcnn.runs.checkpoint import CheckpointError, RunFolder, load_arrays
from mxrcnn.training.configure import TrainRequest
from mxrcnn.training.run import prepare
from mxrcnn.weights.convert import TABLE, ConvertRequest, convert, run_convert, write_run
from mxrcnn.weights.formats import WeightsError
from mxrcnn.weights.names import COCO_CLASSES, COCO_GAPS, gaps_last
from mxrcnn.weights.reading import read_params
from mxrcnn.weights.sources import network_shapes
from mxrcnn.weights.torchvision import resnet_classifier, today, torchvision_name
from symnet.machine import mx
from symnet.parts.norms import NORM_EPS
from tests.factories import Picture, make_voc
from tests.test_fcos_parity import load_recipe
from tests.test_tools import tool  # noqa: F401 - a fixture
from tests.test_torchvision_parity import pairwise_iou
from tests.torch_files import write_pth, write_torchs

#: slim enough to be quick
SLIM = {"model.body": "resnet18", "model.fpn_channels": 16, "model.box_head_dim": 8}
SLIM_WORDS = ("short_side=64", "long_side=96")


def values(shapes, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {name: 0.05 * rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in made:
        if name.endswith(("_gamma", "_moving_var", "running_var")):
            made[name] = np.abs(made[name]) + 1
    return {name: value.astype(np.float32) for name, value in made.items()}


def slim_state(
    network="faster_rcnn_r50_fpn", num_classes=4, body="resnet18"
) -> dict[str, np.ndarray]:
    """A small detector's parameters under torchvision's names."""
    settings = {**SLIM, "model.body": body, "model.num_classes": num_classes}
    if "mask" in network:
        settings["model.mask_channels"] = 8
    shapes = network_shapes(override(make_config(network), settings))
    return {torchvision_name(name): value for name, value in values(shapes).items()}


def resnet18_state() -> dict[str, np.ndarray]:
    """torchvision's classifier of ten classes."""
    body = "backbone.body."
    state = {n[len(body) :]: v for n, v in slim_state().items() if n.startswith(body)}
    state["bn1.num_batches_tracked"] = np.zeros(())
    return {**state, "fc.weight": np.zeros((10, 512)), "fc.bias": np.zeros(10)}


def request(tmp_path, state, **more) -> ConvertRequest:
    path = write_pth(tmp_path / "a.pth", state)
    return ConvertRequest(str(path), str(tmp_path / "run"), words=SLIM_WORDS, **more)


# torchvision's detectors, in the files that torch writes


KINDS = {
    "faster_r50_fpn": "faster_rcnn_r50_fpn",
    "mask_r50_fpn": "mask_rcnn_r50_fpn",
    "fcos_r50_fpn": "fcos_r50_fpn",
    "faster_mobilenet_v3_large_fpn": "faster_rcnn_mobilenet_v3_large_fpn",
}


def write_golden(path: Path, kind: str, recipe) -> Path:
    """A golden model's checkpoint: with torch's own pickle, or one like it for MobileNetV3."""
    if "mobilenet" not in kind:
        return write_torchs(path, kind, recipe.recipe_param)
    shapes = network_shapes(override(make_config(KINDS[kind]), {"model.num_classes": 21}))
    names = {torchvision_name(name): shape for name, shape in shapes.items()}
    names["backbone.body.0.1.num_batches_tracked"] = ()
    state = {n: recipe.recipe_param(n, s, recipe.ADJUST_MOBILENET) for n, s in names.items()}
    return write_pth(path, state)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_goldens_come_out_of_a_converted_checkpoint(kind, shared_golden, tmp_path):
    recipe = load_recipe(shared_golden)
    path = write_golden(tmp_path / "a.pth", kind, recipe)
    told = run_convert(
        ConvertRequest(str(path), str(tmp_path / "run"), words=("short_side=256", "long_side=384"))
    )
    path.unlink()  # 170 MB
    assert not any("missing" in line or "unused" in line for line in told)
    detector = Detector.load(tmp_path / "run")
    assert detector.config.network == KINDS[kind]
    assert detector.class_names == VOC_CLASSES
    golden = np.load(shared_golden / f"torchvision_{kind}.npz")
    images = [golden["image0"], golden["image1"]]
    samples = [prepare_image(image, detector.config.data) for image in images]
    batch = stack_images(samples, padded_size([s.size for s in samples], 32))
    outputs = detector.forward(batch, np.stack([sample.im_info for sample in samples]))
    for number, image in enumerate(images):
        found = detector.detections(outputs, number, *image.shape[:2])
        labels = golden[f"det_labels{number}"]
        real = labels > 0  # torchvision's FCOS also detects background
        boxes, scores = golden[f"det_boxes{number}"][real], golden[f"det_scores{number}"][real]
        away = np.abs(found.boxes[:, None] - boxes).max(axis=2)
        away[found.classes[:, None] != labels[real]] = np.inf
        match = away.argmin(axis=0)
        assert len(set(match.tolist())) == len(boxes) > 50
        assert away.min(axis=0).max() < 0.1
        np.testing.assert_allclose(found.scores[match], scores, atol=1e-3)
        if "fcos" not in kind:
            assert len(found) == len(boxes)
            assert pairwise_iou(found.boxes, boxes)[match, np.arange(len(boxes))].min() > 0.99
    assert "mask" not in kind or len(found.masks) == len(found)


MOBILENET = "faster_rcnn_mobilenet_v3_large_fpn"
MOBILENET_320 = "faster_rcnn_mobilenet_v3_large_320_fpn"


@pytest.mark.parametrize(
    ("file", "network", "taken", "side"),
    [
        ("a.pth", None, MOBILENET, 800),
        ("a.pth", MOBILENET_320, MOBILENET_320, 320),
        ("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", None, MOBILENET_320, 320),
        ("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", MOBILENET, MOBILENET, 800),
    ],
)
def test_the_two_forms_of_mobilenet_v3(tmp_path, file, network, taken, side):
    """They have the same layers: the file's name decides, and that is said."""
    path = write_pth(tmp_path / file, slim_state(MOBILENET, 91, "mobilenet_v3_large"))
    found = convert(ConvertRequest(str(path), str(tmp_path / "run"), network=network))
    assert not found.flaws()
    assert (found.config.network, found.config.data.short_side) == (taken, side)
    assert found.config.model.rpn_post_nms_top_n_test == (150 if side == 320 else 1000)
    assert (found.config.model.num_classes, found.config.model.fpn_channels) == (81, 16)
    assert f"as its name has {'' if '320' in file else 'no '}320" in "\n".join(found.source.notes)


def test_a_mobilenet_v3_classifier_keeps_its_epsilon(tmp_path):
    state = slim_state(MOBILENET, 21, "mobilenet_v3_large")
    body = "backbone.body."
    state = {n.replace(body, "features."): v for n, v in state.items() if n.startswith(body)}
    heads = {f"classifier.{n}.{leaf}": np.zeros(2) for n in (0, 3) for leaf in ("weight", "bias")}
    found = convert(request(tmp_path, {**state, **heads}))
    assert (found.config.network, found.config.model.body) == (MOBILENET, "mobilenet_v3_large")
    assert not found.flaws()
    assert set(found.source.left_out) == set(heads)
    theirs, ours = state["features.4.block.1.1.running_var"], f"{body}4.block.1.1_moving_var"
    np.testing.assert_allclose(found.params[ours] + NORM_EPS, theirs + 1e-3, rtol=1e-6)
    theirs, ours = state["features.16.0.weight"], f"{body}16.0_weight"
    np.testing.assert_array_equal(found.params[ours], theirs)
    for network in ("fcos_r50_fpn", "mask_rcnn_r50_fpn"):
        other = convert(request(tmp_path, {**state, **heads}, network=network))
        assert other.config.model.body == "mobilenet_v3_large"
        assert not other.flaws()


def test_older_names_of_torchvision(tmp_path):
    new = slim_state("mask_rcnn_r50_fpn", 21)
    old = {
        re.sub(r"(_blocks\.\d)\.0\.|(head\.conv)\.0\.0\.", r"\1\2.", name): value
        for name, value in new.items()
        if "mask_head" not in name
    }
    for layer in range(4):
        for leaf in ("weight", "bias"):
            name = f"roi_heads.mask_head.{layer}.0.{leaf}"
            old[f"roi_heads.mask_head.mask_fcn{layer + 1}.{leaf}"] = new[name]
    assert "rpn.head.conv.weight" in old
    assert "backbone.fpn.inner_blocks.0.weight" in old
    assert {today(name) for name in old} == set(new)
    found = convert(request(tmp_path, old))
    expected = convert(request(tmp_path, new))
    assert found.config.network == "mask_rcnn_r18_fpn"
    assert found.params.keys() == expected.params.keys()
    for name, value in expected.params.items():
        np.testing.assert_array_equal(found.params[name], value)


def test_rows_of_coco_ids():
    ids = np.repeat(np.arange(91), 4)
    kept = gaps_last(ids[:, None], 4)[:, 0]
    assert kept.tolist() == [k for k in range(91) if k not in COCO_GAPS for _ in range(4)]
    last = gaps_last(np.arange(91)[:, None], keep=True)[:, 0]
    assert last.tolist() == [*(k for k in range(91) if k not in COCO_GAPS), *COCO_GAPS]
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    state = slim_state(num_classes=91)
    rng = np.random.default_rng(1)
    state["roi_heads.box_predictor.cls_score.weight"] = rng.normal(size=(91, 8))
    state["roi_heads.box_predictor.cls_score.bias"] = rng.normal(size=91)
    run_convert(request(folder, state))
    return folder / "run", state


def test_coco_ids_become_80_classes_whose_scores_stay(coco_run):
    """The softmax still has 91 rows, so scores are the same as with all ids."""
    run, state = coco_run
    config = RunFolder(run).config()
    assert (config.model.num_classes, config.model.form.unused_classes) == (81, 10)
    assert config.data.class_names == COCO_CLASSES
    detector = Detector.load(run)
    symbol = RunFolder(run).symbol("test")
    internals = symbol.get_internals()
    args = {n: v.asnumpy() for n, v in detector.params[0].items()}
    order = [k for k in range(91) if k not in COCO_GAPS]
    for leaf in ("weight", "bias"):
        rows = args[f"roi_heads.box_predictor.cls_score_{leaf}"]
        theirs = state[f"roi_heads.box_predictor.cls_score.{leaf}"].astype(np.float32)
        np.testing.assert_array_equal(rows, theirs[[*order, *COCO_GAPS]])
        deltas = args[f"roi_heads.box_predictor.bbox_pred_{leaf}"]
        theirs = state[f"roi_heads.box_predictor.bbox_pred.{leaf}"]
        kept = theirs.reshape(91, 4, -1)[order].reshape(deltas.shape)
        np.testing.assert_array_equal(deltas, kept)
    assert "cls_prob_output" in internals.list_outputs()
    found = detector.predict(np.full((64, 96, 3), 99, np.uint8))
    assert len(found)
    assert found.classes.max() <= 80


NINETY = tuple(f"class{number}" for number in range(90))


@pytest.mark.parametrize(
    ("given", "classes", "unused", "said"),
    [
        (None, COCO_CLASSES, 10, "assumed        1  its 90 classes are COCO's ids, 10 of which"),
        ("coco", COCO_CLASSES, 10, ""),
        (",".join(NINETY[:80]), NINETY[:80], 10, ""),
        (",".join(NINETY), NINETY, 0, ""),
    ],
)
def test_ninety_classes_are_cocos_ids_or_the_users_own(tmp_path, given, classes, unused, said):
    state = slim_state(num_classes=91)
    conversion = convert(request(tmp_path, state, class_names=given))
    model = conversion.config.model
    assert conversion.config.data.class_names == classes
    assert (model.num_classes, model.form.unused_classes) == (len(classes) + 1, unused)
    assert said in "\n".join(conversion.summary())
    assert ("assumed" in "\n".join(conversion.summary())) == bool(said)
    if not unused:
        for name, value in conversion.params.items():
            np.testing.assert_array_equal(value, state[torchvision_name(name)])


@pytest.mark.parametrize(
    ("names", "converted", "unused", "said"),
    [
        (NINETY, False, 0, "its 90 classes are those of this data set"),
        (COCO_CLASSES, False, 10, "its 90 classes are COCO's ids"),
        (COCO_CLASSES, True, 10, "using its settings and its last checkpoint, step-00000000"),
        (
            SHAPES[:2],
            False,
            0,
            "newly initialised: roi_heads.box_predictor.cls_score_weight (91, 8)",
        ),
    ],
)
def test_fine_tuning_with_ninety_classes(tmp_path, names, converted, unused, said, capsys):
    """The head is kept if the number of classes is the same, whichever way they are counted."""
    state, root = slim_state(num_classes=91), tmp_path / "voc"
    make_voc(root, {"a": Picture()})
    asked = request(tmp_path, state)
    if converted:
        run_convert(asked)
    names = tuple(dict.fromkeys(("dog", *names)))[: len(names)]
    words = (f"class_names={','.join(names)}", *SLIM_WORDS)
    config, params = fine_tune(tmp_path, root, asked.to if converted else asked.source, *words)
    assert (config.model.num_classes, config.model.form.unused_classes) == (len(names) + 1, unused)
    out = capsys.readouterr().out
    assert said in out
    assert ("newly initialised" in out) == (len(names) == 2)
    rows = 91 if len(names) > 2 else 3
    assert len(params["roi_heads.box_predictor.cls_score_weight"]) == rows


# Classifiers, and fine-tuning


def test_a_classifier_becomes_a_body_that_is_to_be_trained(tmp_path):
    told = run_convert(request(tmp_path, resnet18_state()))
    assert any("train it" in line for line in told)
    config = RunFolder(tmp_path / "run").config()
    assert (config.network, config.model.body) == ("faster_rcnn_r18_fpn", "resnet18")
    assert config.data.std == (58.395, 57.12, 57.375)
    with pytest.raises(CheckpointError, match="train it first"):
        Detector.load(tmp_path / "run")
    table = (tmp_path / "run" / TABLE).read_text().splitlines()
    assert "used\tbackbone.body.conv1_weight\t(64, 3, 7, 7)\tconv1.weight" in table
    assert "left out\t-\tthe classifier's own classes\tfc.bias" in table
    assert any(line.startswith("missing\trpn.head.cls_logits_weight") for line in table)


@pytest.mark.parametrize(
    ("network", "key", "value"),
    [
        ("mask_rcnn_r18_fpn", "body", "resnet18"),
        ("mask_rcnn_r50_fpn", "body", "resnet18"),
        ("fcos_r50_fpn", "body", "resnet18"),
    ],
)
def test_other_networks_take_a_classifier(tmp_path, network, key, value):
    found = convert(request(tmp_path, resnet18_state(), network=network))
    assert found.config.network == network
    assert getattr(found.config.model, key) == value
    assert len(found.params) == 100


def gluoncv_resnet18(body: str) -> dict[str, np.ndarray]:
    """A classifier's body under gluoncv's names."""
    shapes = network_shapes(
        override(make_config("faster_rcnn_r50_fpn"), {**SLIM, "model.body": body})
    )
    prefix = "backbone.body."
    state = {re.sub("_(?!.*_)", ".", n[len(prefix) :]): s for n, s in shapes.items() if prefix in n}
    state = {re.sub(r"_moving\.", ".running_", name): shape for name, shape in state.items()}
    return {name: np.zeros(shape, np.float32) for name, shape in state.items()}


def test_gluoncv_v1d_becomes_a_body(tmp_path):
    state = gluoncv_resnet18("resnet18_v1d")
    assert {"conv1.6.weight", "bn1.running_var", "layer2.0.downsample.2.gamma"} <= state.keys()
    found = convert(request(tmp_path, state, network="mask_rcnn_r50_fpn"))
    assert found.config.model.body == "resnet18_v1d"
    assert len(found.params) == len(state)


def test_gluoncv_v1c_is_refused(tmp_path):
    """It has v1d's stem, but shortcuts without average pooling."""
    state = {
        re.sub(r"downsample\.([12])", lambda found: f"downsample.{int(found[1]) - 1}", name): value
        for name, value in gluoncv_resnet18("resnet18_v1d").items()
    }
    with pytest.raises(WeightsError, match=r"does not fit.*\n.*in the network but not in the file"):
        convert(request(tmp_path, state))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("data") / "set", 4, 2, (64, 96))


def fine_tune(tmp_path, data_root, pretrained, *words) -> tuple[Config, dict]:
    settings = {"train.pretrained": str(pretrained), "data.root": str(data_root)}
    settings.update({"data.dataset": "voc", "data.imageset": "2007_train"})
    trainer = prepare(TrainRequest(settings=settings, words=words, out=str(tmp_path / "tuned")))
    params = {k.partition(":")[2]: v.asnumpy() for k, v in trainer.network.params().items()}
    return trainer.config, params


def test_fine_tuning_a_converted_run_with_other_classes(tmp_path, data_root, capsys):
    state = slim_state()
    run_convert(request(tmp_path, state, class_names="a,b,c"))
    config, params = fine_tune(tmp_path, data_root, tmp_path / "run")
    assert (config.network, config.model.body) == ("faster_rcnn_r18_fpn", "resnet18")
    assert (config.data.mean, config.data.resize) == ((123.675, 116.28, 103.53), "linear")
    assert (config.data.short_side, config.model.fpn_channels) == (64, 16)
    assert config.model.num_classes == 1 + len(config.data.class_names) == 5
    anew = []
    for name, value in params.items():
        theirs = state[torchvision_name(name)]
        if value.shape == theirs.shape:
            np.testing.assert_array_equal(value, theirs)
        else:
            anew.append(name)
    assert len(anew) == 4
    assert all("box_predictor" in name for name in anew)
    said = capsys.readouterr().out
    assert "newly initialised: roi_heads.box_predictor.cls_score_weight (4, 8)" in said


def test_fine_tuning_from_the_file_itself(tmp_path, data_root):
    path = write_pth(tmp_path / "a.pth", resnet18_state())
    words = ("fpn_channels=16", "box_head_dim=8", *SLIM_WORDS, "channel_order=bgr")
    config, params = fine_tune(tmp_path, data_root, path, *words, "std=1,2,3")
    first = resnet18_state()["conv1.weight"]
    np.testing.assert_array_equal(params["backbone.body.conv1_weight"], first[:, ::-1])
    assert (config.network, config.model.body) == ("faster_rcnn_r18_fpn", "resnet18")
    assert config.data.std == (1, 2, 3)  # the user's
    weight = resnet18_state()["layer3.1.conv2.weight"]
    np.testing.assert_array_equal(params["backbone.body.layer3.1.conv2_weight"], weight)


def test_a_converted_run_is_a_run(tmp_path, data_root, tool):  # noqa: F811
    """Test it, run the demo, fine-tune it on other classes, and run the demo again, as users do."""
    state = slim_state(num_classes=len(SHAPES) + 1)
    path, run, tuned = write_pth(tmp_path / "a.pth", state), tmp_path / "run", tmp_path / "tuned"
    few = ("rpn_post_nms_top_n_test=50", "detections_per_img=20", "rpn_post_nms_top_n_train=100")
    words = ("--set", *SLIM_WORDS, *few, "score_thresh=0.01")
    names = ("--class-names", ",".join(SHAPES))

    def says(*args) -> str:
        code, out, errors = tool(*args)
        assert code == 0, errors
        return out

    says("convert", path, "--to", run, *names, *words)
    voc = ("--dataset", "voc", "--data-root", data_root)
    tested = ("--imageset", "2007_test", "--pictures", 0)
    assert all(name in says("test", run, *voc, *tested) for name in SHAPES[:1])
    image = next(data_root.glob("*/JPEGImages/*"))
    shown = says("demo", run, image, "--out", tmp_path / "demo", "--threshold", 0.0)
    assert re.search(r"[1-9]\d* objects in \d+ x \d+ pixels, upright\n", shown)
    others = make_voc(tmp_path / "voc", {"a": Picture(), "b": Picture(), "c": Picture(objects=())})
    others = ("--dataset", "voc", "--data-root", others, "--imageset", "2007_train")
    told = says("train", "--pretrained", run, *others, "--epochs", 1, "--out", tuned)
    assert (
        "these layers are newly initialised: roi_heads.box_predictor.cls_score_weight (6, 8)"
        in told
    )
    assert f"done: {tuned}" in told
    config = RunFolder(tuned).config()
    assert config.data.class_names == ("dog",)
    assert config.model.fpn_channels == 16
    before, after = (load_arrays(RunFolder(f).folder() / "model.params") for f in (run, tuned))
    layer4 = "arg:backbone.body.layer4.1.conv2_weight"
    assert (before[layer4] != after[layer4]).asnumpy().any()
    stem = "arg:backbone.body.conv1_weight"
    np.testing.assert_array_equal(before[stem].asnumpy(), after[stem].asnumpy())
    assert " pixels, upright\n" in says("demo", tuned, image, "--out", tmp_path / "demo")


def classifier_shapes(depth: int, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """torchvision's ResNet by the paper's table 1, with its names."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = (outputs,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", 64, 3, 7)
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        sizes = ((1, width), (3, width), (1, 4 * width)) if depth >= 50 else ((3, width),) * 2
        for block in range(count):
            name, inputs = f"layer{stage + 1}.{block}.", channels
            for number, (kernel, outputs) in enumerate(sizes, start=1):
                add(f"{name}conv{number}", f"{name}bn{number}", outputs, inputs, kernel)
                inputs = outputs
            if block == 0 and (stage > 0 or depth >= 50):
                add(f"{name}downsample.0", f"{name}downsample.1", inputs, channels, 1)
            channels = inputs
    return {**shapes, "fc.weight": (classes, channels), "fc.bias": (classes,)}


@pytest.mark.parametrize(("depth", "entries"), [(18, 122), (34, 218), (50, 320), (101, 626)])
def test_resnet_classifiers_of_torchvision(depth, entries):
    """The numbers of entries are those of torchvision's state dicts."""
    shapes = classifier_shapes(depth)
    assert len(shapes) == entries
    source = resnet_classifier({n: np.broadcast_to(np.float32(1), s) for n, s in shapes.items()})
    network, settings = next(iter(source.networks.items()))
    assert network == f"faster_rcnn_r{depth}_fpn"
    wanted = network_shapes(override(make_config(network), settings))
    body = {name: shape for name, shape in wanted.items() if name.startswith("backbone.body.")}
    assert {name: value.shape for name, value in source.params.items()} == body
    counters = [n for n, why in source.left_out.items() if why == "a batch counter"]
    assert len(counters) == len(body) // 5
    assert len(source.left_out) == len(counters) + 2


def test_a_resnet34_goes_through_a_file(tmp_path):
    rng = np.random.default_rng(0)
    state = {n: rng.random(s, np.float32) for n, s in classifier_shapes(34, 10).items()}
    found = convert(request(tmp_path, state))
    assert (found.config.network, found.config.model.body) == ("faster_rcnn_r34_fpn", "resnet34")
    assert not found.flaws()
    name = "layer3.5.conv2.weight"
    np.testing.assert_array_equal(found.params[f"backbone.body.{name[:-7]}_weight"], state[name])


def test_vgg16_of_torchvision_brings_its_normalisation(tmp_path):
    shapes = network_shapes(make_config("faster_rcnn_vgg16"))
    convolutions = [name for name in shapes if name.startswith("conv") and "weight" in name]
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {}
    for place, name in zip(places, convolutions):
        for leaf in ("weight", "bias"):
            shape = shapes[name.replace("weight", leaf)]
            state[f"features.{place}.{leaf}"] = np.full(shape, place, np.float32)
    state["classifier.6.weight"] = np.zeros((10, 8), np.float32)
    np.savez(tmp_path / "a.npz", **state)  # of Caffe's it would expect BGR
    found = convert(ConvertRequest(str(tmp_path / "a.npz"), ""))
    assert not any("BGR" in line for line in found.summary())
    assert found.config.network == "faster_rcnn_vgg16"
    assert found.config.data.std == (58.395, 57.12, 57.375)
    assert found.source.left_out == {"classifier.6.weight": "the classifier's own classes"}
    for place, name in zip(places, convolutions):
        assert (found.params[name] == place).all()


# Files in names that networks here have


def test_mx_rcnn_params(tmp_path):
    config = override(make_config("faster_rcnn_r50v2_c4"), {"model.num_classes": 21})
    shapes = network_shapes(config)
    arrays = values(shapes)
    auxs = {name for name in shapes if "_moving_" in name}
    named = {f"{'aux' if n in auxs else 'arg'}:{n}": mx.nd.array(v) for n, v in arrays.items()}
    named["arg:bbox_pred_weight_test"] = mx.nd.zeros((84, 2048))
    mx.nd.save(str(tmp_path / "a.params"), named)
    asked = ConvertRequest(str(tmp_path / "a.params"), "", partial=True, channel_order="bgr")
    found = convert(asked)
    np.testing.assert_array_equal(found.params["conv0_weight"], arrays["conv0_weight"][:, ::-1])
    np.testing.assert_array_equal(found.params["bn_data_beta"], arrays["bn_data_beta"][::-1])
    assert found.config.network == "faster_rcnn_r50v2_c4"
    assert found.config.data.class_names == VOC_CLASSES
    assert found.config.data.mean == (0, 0, 0)
    assert found.unplaced == ["bbox_pred_weight_test"]
    assert found.params.keys() == shapes.keys()
    with pytest.raises(WeightsError, match="bbox_pred_weight_test"):
        convert(ConvertRequest(asked.source, ""))


def test_the_shared_vgg16_is_turned_to_rgb(shared_data):
    path = shared_data.parent / "weights" / "vgg16_conv_f16.npz"
    found = convert(ConvertRequest(str(path), ""))
    assert found.config.network == "faster_rcnn_vgg16"
    assert len(found.params) == 26
    with np.load(path) as stored:
        want = stored["conv1_1_weight"].astype(np.float32)[:, ::-1]
    np.testing.assert_array_equal(found.params["conv1_1_weight"], want)
    assert any("BGR -> RGB" in line for line in found.summary())
    assert any("conv1_1_weight expects BGR, like Caffe's" in line for line in found.summary())


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_safetensors(tmp_path, dtype):
    arrays = {"conv1.weight": np.array([[1, -2], [0.5, 3]], np.float32), "n": np.zeros((0, 2))}
    header, data = {}, b""
    for name, value in arrays.items():
        value = value.astype(np.float32)
        as_bf16 = (value.view(np.uint32) >> 16).astype(np.uint16)
        stored = {"F32": value, "F16": value.astype(np.float16), "BF16": as_bf16}[dtype].tobytes()
        place = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": place}
        data += stored
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + data
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole)
    found = read_params(path)
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    path.write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match=r"a\.safetensors: damaged or truncated"):
        read_params(path)


# What is refused, and what is left behind


def damaged(state, kind) -> dict[str, np.ndarray]:
    state = dict(state)
    if kind == "missing":
        del state["rpn.head.cls_logits.weight"]
    elif kind == "misshapen":
        state["rpn.head.cls_logits.weight"] = np.zeros((5, 16, 1, 1))
    else:
        state["roi_heads.box_head.extra.weight"] = np.zeros((3, 3))
    return state


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("missing", "1 in the network but not in the file: rpn.head.cls_logits_weight"),
        ("misshapen", r"1 with another shape: rpn.head.cls_logits_weight \(5, 16, 1, 1\)"),
        ("unknown", "1 in the file but not in the network: roi_heads.box_head.extra"),
    ],
)
def test_half_a_match_is_refused_unless_asked_for(tmp_path, kind, why):
    asked = request(tmp_path, damaged(slim_state(num_classes=21), kind))
    with pytest.raises(WeightsError, match=why):
        run_convert(asked)
    assert not (tmp_path / "run").exists()
    found = convert(request(tmp_path, damaged(slim_state(num_classes=21), kind), partial=True))
    assert len(found.flaws()) == 1 or kind == "misshapen"
    assert found.params


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "3 classes besides the background: name them"),
        ({"class_names": "a,b"}, "3 different names are needed"),
        ({"class_names": "a,b,b"}, "3 different names are needed"),
        ({"class_names": "voc"}, "3 different names are needed"),
        ({"class_names": "a,b,c", "network": "fcos_r50_fpn"}, "fits faster_rcnn_r18_fpn"),
    ],
)
def test_questions_that_the_user_has_to_answer(tmp_path, more, why):
    with pytest.raises(ConfigError, match=why):
        run_convert(request(tmp_path, slim_state(), **more))


def test_unknown_files_are_named_with_what_they_hold(tmp_path):
    path = write_pth(tmp_path / "a.pth", {"encoder.w": np.zeros((2, 3))})
    with pytest.raises(WeightsError, match=r"match no known model.*encoder\.w \(2, 3\)"):
        convert(ConvertRequest(str(path), ""))


def test_a_run_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    conversion = convert(request(tmp_path, slim_state(), class_names="a,b,c"))

    def full(*_):
        raise CheckpointError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("mxrcnn.runs.checkpoint.save_arrays", full)
        with pytest.raises(USER_ERRORS, match="disk full"):
            write_run(conversion, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    write_run(conversion, tmp_path / "run")
    with pytest.raises(CheckpointError, match="already exists"):
        write_run(conversion, tmp_path / "run")


def load_photos(shared_data, size: tuple[int, int], count: int = 2) -> list[np.ndarray]:
    """The first photos, resized to (height, width): (H, W, 3) uint8."""
    paths = sorted((shared_data / "photos").glob("*.jpg"))[:count]
    assert len(paths) == count
    return [np.asarray(Image.open(p).convert("RGB").resize(size[::-1])) for p in paths]
