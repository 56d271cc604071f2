"""The predictor with any engine: threads, interleaving, pictures, filters, memory, no mxnet."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from mxrcnn.config import ConfigError
from mxrcnn.data.records import DataError, Detections
from mxrcnn.export.model import export_onnx
from mxrcnn.inference.detector import Detector
from mxrcnn.inference.mxnet_engine import MXNetEngine
from mxrcnn.inference.onnx_engine import OnnxEngine
from mxrcnn.inference.predictor import Predictor
from mxrcnn.runs.checkpoint import CheckpointError
from symnet.machine import mx, physical_cores
from tests.conftest import REPO
from tests.test_export import make_detector
from tests.threads import FAMILIES, by_turns, dataset, images, in_threads, same

ENGINES = ("mxnet", "onnxruntime")


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """Makes the predictor of (family, engine), once."""
    made = {}

    def make(name: str, engine: str) -> Predictor:
        if (name, "mxnet") not in made:
            made[name, "mxnet"] = make_detector(name, {})
        if (name, engine) not in made:
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            made[name, engine] = Predictor.load(export_onnx(made[name, "mxnet"], path))
        return made[name, engine]

    return make


@pytest.fixture(scope="module")
def classic(predictors):
    return predictors(FAMILIES[0], "mxnet")


# --- several users of one predictor -------------------------------------------------------------

SMALL = ((60, 100), (100, 60), (60, 100))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "family", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("mask")) for n in FAMILIES]
)
def test_threads_and_turns(predictors, family, engine, tmp_path):
    """`python -m tests.threads` does the same with 8 threads and more of everything."""
    predictor = predictors(family, engine)
    pixels = images(SMALL)
    assert in_threads(predictor, pixels, threads=3, count=3) == (0, [])
    assert by_turns(predictor, dataset(tmp_path, pixels)) == 0


def test_threads_that_push_each_others_graphs_out(classic):
    detector = Detector(classic.symbol, *classic.params, classic.config, memory=0)
    assert in_threads(detector, images(SMALL), threads=3, count=4) == (0, [])
    assert len(detector.engine.held) == 1


def product(memory=None, check=lambda shapes: None, value=3.0):
    """An engine that multiplies `data` by a parameter."""
    symbol = mx.sym.broadcast_mul(mx.sym.Variable("data"), mx.sym.Variable("scale"), name="out")
    return MXNetEngine(symbol, {"scale": mx.nd.array([value])}, {}, mx.cpu(), memory, check)


def full(*shape, value=2.0):
    return np.full(shape, value, np.float32)


def test_outputs_belong_to_their_handle():
    """Of the same shape, of a released graph, and of parameters that were replaced meanwhile."""
    engine = product(memory=0)
    first, second = engine.start(data=full(5)), engine.start(data=full(5, value=4))
    other = engine.start(data=full(7, value=5))
    engine.set_params({"scale": mx.nd.array([10])}, {})
    replaced = engine.start(data=full(5, value=6))
    del other  # nobody asks
    for handle, value in ((replaced, 60), (second, 12), (first, 6), (first, 6)):
        np.testing.assert_array_equal(handle.result()["out"], full(5, value=value))


def test_an_error_goes_to_the_thread_that_started(monkeypatch):
    engine = product()
    failing = engine.start(data=full(5))
    with monkeypatch.context() as patch:
        patch.setattr(mx.nd.NDArray, "asnumpy", lambda _: 1 / 0)
        after = engine.start(data=full(5, value=4))  # fetches what the first waits for
    np.testing.assert_array_equal(after.result()["out"], full(5, value=12))
    with pytest.raises(ZeroDivisionError):
        failing.result()


def test_graphs_are_let_go_by_their_memory(monkeypatch):
    bound = []
    engine = product(memory=100_000, check=lambda shapes: bound.append(shapes["data"][0]))
    for count in (5000, 10_000, 5000, 1, 5000):  # 20, 40 and almost no kB, 4 each beside outputs
        out = engine.start(data=full(count)).result()["out"]
        np.testing.assert_array_equal(out, full(count, value=6))
    assert bound == [5000, 10_000, 1]
    assert list(engine.held) == [(10_000,), (1,), (5000,)]
    engine.start(data=full(15_000)).result()
    assert sum(engine.held.values()) <= 100_000
    assert list(engine.held) == [(1,), (5000,), (15_000,)]  # the least recently used has gone
    engine.start(data=full(40_000)).result()
    assert list(engine.held) == [(40_000,)]  # too large, and alone


def test_a_default_budget_is_a_share_of_free_memory(monkeypatch):
    class Free:
        free = 400

    monkeypatch.setattr("mxrcnn.inference.mxnet_engine.read_memory", Free)
    assert product().memory == 100


def test_only_one_thread_at_a_time_is_in_mxnet(classic, monkeypatch):
    """Concurrent binding, even of different detectors, fails in MXNet's shape inference."""
    inside, most = [], []
    original = mx.sym.Symbol.bind

    def bind(*args, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        try:
            return original(*args, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(mx.sym.Symbol, "bind", bind)
    engines = [product() for _ in range(3)]
    threads = [threading.Thread(target=lambda e=e: e.start(data=full(3))) for e in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


# --- pictures -----------------------------------------------------------------------------------

#: how each EXIF orientation turns a stored image upright, in NumPy
UPRIGHT = {1: lambda x: x, 3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x, -1)}


def jpeg(pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_kind_of_picture(classic, tmp_path, orientation):
    """A path, bytes and a PIL image are the same; upright by default, stored if asked."""
    stored = images([(60, 100)])[0]
    data = jpeg(stored, orientation)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    kinds = [path, str(path), data, bytearray(data), Image.open(path)]
    upright = UPRIGHT[orientation](stored)
    for exif, pixels in (("upright", upright), ("stored", stored)):
        expected = classic.predict(np.ascontiguousarray(pixels), exif=exif)
        assert expected.orientation == "stored"  # an array is taken as it is
        for found in classic.predict(kinds, exif=exif):
            assert same(found, expected)
            assert (found.orientation, found.size) == (exif, pixels.shape[:2])
        drawn = [np.asarray(classic.predict(path, exif=exif).plot(kind)) for kind in kinds]
        assert all(np.array_equal(picture, drawn[0]) for picture in drawn)
        assert drawn[0].shape == pixels.shape
        assert (drawn[0] != pixels).any()


def test_a_data_set_stays_in_the_pixels_of_its_annotations(classic, tmp_path):
    stored = images([(60, 100)])[0]
    files = dataset(tmp_path, [stored])
    files.records[0].path.write_bytes(jpeg(stored, 6))
    ((_, found, _),) = classic.detect(files, progress=False)
    assert same(found, classic.predict(stored))
    assert (found.orientation, found.size) == ("stored", (60, 100))


def test_a_list_gives_a_list(classic):
    pixels = images(SMALL)
    found = classic.predict(pixels)
    assert [same(a, classic.predict(b)) for a, b in zip(found, pixels)] == [True] * 3
    assert classic.predict([]) == []
    assert isinstance(classic.predict(tuple(pixels[:1])), list)


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (b"no image", DataError, "8 bytes: not a readable image"),
        (jpeg(np.zeros((9, 9, 3), np.uint8), 1)[:60], DataError, "60 bytes: not a readable image"),
        (Image.new("F", (9, 9)), DataError, "PIL image: floating-point pixels"),
        (7, TypeError, "int: expected a path, bytes"),
        ([np.zeros((9, 9), np.uint8)], ValueError, "expected"),
    ],
)
def test_what_is_no_picture(classic, picture, error, message):
    with pytest.raises(error, match=message):
        classic.predict(picture)


# --- what is wanted -----------------------------------------------------------------------------


def test_filters(predictors):
    """Threshold, classes and count; masks stay with their boxes."""
    predictor = predictors(FAMILIES[1], "mxnet")
    image = images(SMALL)[0]
    every = predictor.predict(image)
    middle = float(np.median(every.scores))
    dogs = every.classes == 2
    assert 0 < dogs.sum() < len(every)
    for options, keep in (
        ({"threshold": middle}, every.scores >= middle),
        ({"classes": "dog"}, dogs),
        ({"classes": 2}, dogs),
        ({"classes": ["dog", 3]}, every.classes >= 2),
        ({"classes": []}, np.zeros(len(every), bool)),
        ({"max_detections": 3}, np.arange(3)),
        ({"max_detections": 0}, np.arange(0)),
        (
            {"threshold": middle, "classes": 2, "max_detections": 1},
            np.flatnonzero(dogs & (every.scores >= middle))[:1],
        ),
    ):
        assert same(predictor.predict(image, **options), every[keep]), options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "dgo"}, "no class 'dgo'; the closest of 3 is 'dog'"),
        ({"classes": ["cat", 4]}, "no class 4: numbers are from 1 to 3"),
        ({"classes": 0}, "no class 0"),
        ({"threshold": 50}, "threshold=50: scores are from 0 to 1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"max_detections": -1}, "max_detections=-1"),
        ({"exif": "sideways"}, "exif='sideways': there are upright, stored"),
    ],
)
def test_what_cannot_be_wanted(classic, options, message):
    with pytest.raises(ConfigError, match=message):
        classic.predict(images(SMALL)[0], **options)


def test_the_network_s_own_limit_is_told(classic):
    rows = classic.config.model.detections_per_img
    image = images()[0]
    assert len(classic.predict(image)) == rows
    with pytest.warns(UserWarning, match=f"the network itself gives at most {rows}"):
        classic.predict(image, max_detections=rows + 1)


def test_masks_are_pasted_only_if_wanted(predictors, tmp_path, monkeypatch):
    predictor = predictors(FAMILIES[1], "mxnet")
    files = dataset(tmp_path, images(SMALL[:1]))
    expected = predictor.predict_dataset(files, progress=False)["0"]
    assert expected.masks is not None
    monkeypatch.setattr("mxrcnn.inference.predictor.paste_rle", lambda *_: 1 / 0)
    found = predictor.predict_dataset(files, progress=False, masks=False)["0"]
    assert found.masks is None
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_detections_as_json(predictors):
    found = predictors(FAMILIES[1], "mxnet").predict(images(SMALL)[0], max_detections=4)
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["size"], told["orientation"]) == ([60, 100], "stored")
    assert [row["name"] for row in told["detections"]] == list(found.names)
    assert set(found.names) <= {"cat", "dog", "bird"}
    for row, box, score, k, mask in zip(
        told["detections"], found.boxes, found.scores, found.classes, found.masks
    ):
        np.testing.assert_array_equal(np.float32(row["box"]), box)
        assert (np.float32(row["score"]), row["class"]) == (score, k)
        assert row["mask"] == {"size": [60, 100], "counts": mask["counts"]}
    bare = Detections(found.boxes, found.scores, found.classes)
    assert "name" not in bare.to_dict()["detections"][0]
    with pytest.raises(ValueError, match="class_names"):
        _ = bare.names
    assert bare.plot(images(SMALL)[0]).size == (100, 60)
    with pytest.raises(ValueError, match=r"100 x 60 .* 60 x 100|60 x 100 .* 100 x 60"):
        found.plot(images(SMALL)[1])
    assert Detections.empty().to_dict()["detections"] == []


# --- engines ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_file(classic, tmp_path_factory):
    return export_onnx(classic, tmp_path_factory.mktemp("file") / "model.onnx")


@pytest.mark.parametrize("name", [None, "cpu", "CPU", "CPUExecutionProvider"])
def test_providers_are_chosen_by_name(onnx_file, name):
    assert OnnxEngine(onnx_file, name).provider == "CPUExecutionProvider"


def test_providers_that_are_not_there(onnx_file, monkeypatch):
    with pytest.raises(ConfigError, match=r"'npu': this onnxruntime has .*CPUExecutionProvider"):
        OnnxEngine(onnx_file, "npu")
    # one that onnxruntime was built with and that does not work: it would take the CPU in silence
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(ConfigError, match=r"CUDAExecutionProvider: .* does not work here"):
        OnnxEngine(onnx_file, "cuda")


@pytest.mark.parametrize(
    ("setting", "asked", "threads"),
    [(None, None, physical_cores()), ("3", None, 3), ("2,1", None, 2), ("3", 1, 1)],
)
def test_threads_of_onnxruntime(onnx_file, monkeypatch, setting, asked, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    engine = OnnxEngine(onnx_file, threads=asked)
    assert engine._session.get_session_options().intra_op_num_threads == threads
    with pytest.raises(ConfigError, match="threads=0"):
        OnnxEngine(onnx_file, threads=0)


def test_options_of_the_other_engine(onnx_file, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint: for runs, not for ONNX files"):
        Predictor.load(onnx_file, checkpoint="last")
    with pytest.raises(ConfigError, match="provider: for ONNX files, not for runs"):
        Predictor.load(tmp_path, provider="cpu")
    with pytest.raises(CheckpointError, match=r"an ONNX file, not a run: use Predictor\.load"):
        Detector.load(onnx_file)
    assert not hasattr(Predictor.load(onnx_file), "symbol")


# --- without mxnet ------------------------------------------------------------------------------

WITHOUT_MXNET = """
import runpy, sys
class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("mxnet", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import mxrcnn, mxrcnn.errors, mxrcnn.evaluation.run
from mxrcnn import Detections, Detector, Predictor
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_onnx_files_predict_and_draw_without_mxnet(onnx_file, tmp_path):
    (tmp_path / "photo.png").write_bytes(jpeg(images([(60, 100)])[0], 6))
    done = subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_MXNET, REPO / "tools" / "demo.py"),
            *(onnx_file, tmp_path / "photo.png", "--out", tmp_path, "--threshold", "0.1"),
            *("--max-detections", "5", "--provider", "cpu"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'tools'}"},
    )
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert "5 objects in 60 x 100 pixels, upright" in first
    assert len(rows) == 5
    assert Image.open(tmp_path / "pictures" / "photo.png").size == (60, 100)
