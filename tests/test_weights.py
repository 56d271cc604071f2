"""Reading pretrained parameters: every format, and every way a file can be wrong."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.errors import USER_ERRORS
from mxrcnn.weights.reading import FIRST_LAYER, WeightsError, match_params, read_params
from symnet import get_vgg_test
from symnet.machine import mx

#: what the network of these tests has
SHAPES = {FIRST_LAYER: (4, 3, 3, 3), "conv1_1_bias": (4,), "fc6_weight": (5, 8), "bn_mean": (4,)}


def arrays_of(shapes=SHAPES, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_params(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    mx.nd.save(str(path), {name: mx.nd.array(v, dtype=v.dtype) for name, v in arrays.items()})
    return path


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def prefixed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {("aux:" if name == "bn_mean" else "arg:") + name: v for name, v in arrays.items()}


def vgg_shapes(width: int = 8) -> dict[str, tuple[int, ...]]:
    """The parameters of the complete test graph, by name."""
    symbol = get_vgg_test((8, 16, 32), (0.5, 1, 2), 16, 6000, 300, 0.7, 16, 21, 16, (7, 7))
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 32 * width, 32 * width), im_info=(1, 3))
    named = dict(zip(symbol.list_arguments(), shapes))
    return {name: shape for name, shape in named.items() if name not in ("data", "im_info")}


# Formats


@pytest.mark.parametrize("dress", [prefixed, dict])
def test_params_with_and_without_prefixes(tmp_path, dress):
    arrays = arrays_of()
    used, report = match_params(write_params(tmp_path / "a.params", dress(arrays)), SHAPES)
    assert used.keys() == SHAPES.keys()
    for name, value in used.items():
        np.testing.assert_array_equal(value, arrays[name])
    assert report.lines() == [
        f"{tmp_path / 'a.params'}: 4 parameters used",
        f"  assumed: {FIRST_LAYER} expects RGB (if not, --channel-order bgr)",
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("write", [write_params, write_npz])
def test_values_become_contiguous_float32(tmp_path, write, dtype):
    arrays = {name: value.astype(dtype) for name, value in arrays_of().items()}
    path = write(tmp_path / ("a.params" if write is write_params else "a.npz"), arrays)
    used, _ = match_params(path, SHAPES)
    for name, value in used.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        want = arrays[name].astype(np.float32)
        flipped = name == FIRST_LAYER and write is write_npz
        np.testing.assert_array_equal(value, want[:, ::-1] if flipped else want)


@pytest.mark.parametrize(
    ("write", "name", "order", "converted"),
    [
        (write_npz, "a.npz", "auto", True),
        (write_npz, "a.npz", "rgb", False),
        (write_npz, "a.npz", "bgr", True),
        (write_params, "a.params", "auto", False),
        (write_params, "a.params", "rgb", False),
        (write_params, "a.params", "bgr", True),
    ],
)
def test_channel_order_is_converted_in_the_first_layer_only_and_told(
    tmp_path, write, name, order, converted
):
    arrays = arrays_of()
    used, report = match_params(write(tmp_path / name, arrays), SHAPES, order)
    first = arrays.pop(FIRST_LAYER)
    np.testing.assert_array_equal(used[FIRST_LAYER], first[:, [2, 1, 0]] if converted else first)
    for key, value in arrays.items():
        np.testing.assert_array_equal(used[key], value)
    assert any("BGR -> RGB" in line for line in report.lines()) == converted
    assert any("assumed" in line for line in report.lines()) == (order == "auto")


@pytest.mark.parametrize(
    ("shapes", "flipped"),
    [
        ({"conv0_weight": (8, 3, 7, 7), "fc_weight": (2, 8)}, {"conv0_weight"}),
        (
            {"bn_data_gamma": (3,), "bn_data_moving_mean": (3,), "conv0_weight": (8, 3, 7, 7)},
            {"bn_data_gamma", "bn_data_moving_mean", "conv0_weight"},
        ),
        ({FIRST_LAYER: (4, 3, 3, 3), "conv1_2_weight": (4, 3, 3, 3)}, {FIRST_LAYER}),
        ({"a_weight": (4, 3, 3, 3), "b_weight": (4, 3, 3, 3)}, "a_weight, b_weight"),
        ({"fc6_weight": (4, 3)}, "found none"),
    ],
)
def test_any_networks_first_layer_can_expect_bgr(tmp_path, shapes, flipped):
    """The image normalisation before it, in mx-rcnn's ResNets, is converted too."""
    arrays = arrays_of(shapes)
    path = write_params(tmp_path / "a.params", arrays)
    if isinstance(flipped, str):
        with pytest.raises(WeightsError, match=rf"a\.params: --channel-order bgr: .*{flipped}"):
            match_params(path, shapes, "bgr")
        return
    used, _ = match_params(path, shapes, "bgr")
    for name, value in arrays.items():
        axis = min(1, value.ndim - 1)
        want = np.flip(value, axis) if name in flipped else value
        np.testing.assert_array_equal(used[name], want)


def test_shared_vgg16_fills_all_convolutions(shared_data):
    path = shared_data.parent / "weights" / "vgg16_conv_f16.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    shapes = vgg_shapes()
    used, report = match_params(path, shapes)
    assert sorted(used) == sorted(name for name in shapes if name.startswith("conv"))
    assert len(used) == 26
    assert (report.surplus, report.misshapen) == ([], [])
    assert sorted(report.missing) == sorted(set(shapes) - set(used))
    with np.load(path) as stored:
        want = stored[FIRST_LAYER].astype(np.float32)
        np.testing.assert_array_equal(used[FIRST_LAYER], want[:, [2, 1, 0]])
        np.testing.assert_array_equal(used["conv1_2_weight"], stored["conv1_2_weight"])


def test_model_zoo_vgg16_with_classifier(tmp_path):
    """Names of MXNet's own vgg16-0000.params: conv*_*, fc6, fc7; fc8 is reported as left out."""
    shapes = {"fc6_weight": (6, 25088), "fc6_bias": (6,), "fc7_weight": (6, 6), "fc7_bias": (6,)}
    network = {**{k: s for k, s in vgg_shapes().items() if k.startswith("conv1")}, **shapes}
    arrays = arrays_of({**network, "fc8_weight": (1000, 6), "fc8_bias": (1000,)})
    used, report = match_params(write_params(tmp_path / "a.params", prefixed(arrays)), network)
    assert used.keys() == network.keys()
    assert report.surplus == ["fc8_bias", "fc8_weight"]
    assert any("left out: fc8_bias, fc8_weight" in line for line in report.lines())


def test_names_of_the_whole_graph_are_the_originals():
    names = {name.rpartition("_")[0] for name in vgg_shapes()}
    convs = [f"conv{i}_{j}" for i, n in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, n + 1)]
    heads = ["rpn_conv_3x3", "rpn_cls_score", "rpn_bbox_pred", "fc6", "fc7", "cls_score"]
    assert names == {*convs, *heads, "bbox_pred"}


# What does not fit


def test_missing_surplus_and_misshapen_are_all_listed(tmp_path):
    stored = {"fc6_weight": (5, 9), "bn_mean": (4,), "fc8_weight": (2, 2), "b": (1,), "a": (1,)}
    path = write_params(tmp_path / "a.params", prefixed(arrays_of(stored)))
    used, report = match_params(path, SHAPES)
    assert list(used) == report.used == ["bn_mean"]
    assert report.missing == [FIRST_LAYER, "conv1_1_bias"]
    assert report.surplus == ["a", "b", "fc8_weight"]
    assert report.misshapen == ["fc6_weight (5, 9), the network has (5, 8)"]
    text = "\n".join(report.lines())
    for word in ("1 parameters used", *report.missing, *report.surplus, *report.misshapen):
        assert word in text


@pytest.mark.parametrize(
    "stored",
    [{"vgg0_conv0_weight": (4, 3, 3, 3)}, {FIRST_LAYER: (9, 3, 3, 3)}, {FIRST_LAYER: (4,)}],
)
@pytest.mark.parametrize("write", [write_params, write_npz])
def test_a_file_of_which_nothing_fits_is_refused(tmp_path, write, stored):
    path = write(tmp_path / ("a.params" if write is write_params else "a.npz"), arrays_of(stored))
    with pytest.raises(WeightsError, match="nothing in it fits") as caught:
        match_params(path, SHAPES)
    for name in (str(path), "fc6_weight", *stored):
        assert name in str(caught.value)


# Broken and malicious files


class Malicious:
    """Creates a file of this name when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["member", "whole file", "raw member", "params"])
def test_pickles_are_never_loaded(tmp_path, kind):
    trap = tmp_path / "trap"
    path = tmp_path / ("a.params" if kind == "params" else "a.npz")
    objects = np.array([Malicious(trap)], dtype=object)
    if kind == "member":
        np.savez(path, conv1_1_bias=np.zeros(4), bad=objects)
    elif kind == "raw member":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bad.npy", pickle.dumps(Malicious(trap)))
    else:
        path.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(USER_ERRORS, match=str(path)):
        read_params(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()  # the trap works


@pytest.mark.parametrize("write", [write_params, write_npz])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, write, share):
    path = write(tmp_path / ("a.params" if write is write_params else "a.npz"), arrays_of())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(USER_ERRORS) as caught:
        read_params(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged_npz_is_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, conv1_1_bias=np.arange(1000.0))
    whole = bytearray(path.read_bytes())
    messages = []
    for place in range(60, len(whole) - 120, 40):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            value = read_params(path)["conv1_1_bias"]
        except WeightsError as error:
            messages.append(str(error))
        else:  # what was hit tells nothing, such as the time
            np.testing.assert_array_equal(value, np.arange(1000))
    assert len(messages) > 10
    assert all(message.startswith(f"{path}: ") for message in messages)


@pytest.mark.parametrize(
    "value", [np.array([1, np.nan]), np.array([np.inf, 1]), np.array([1e300, 1])]
)
@pytest.mark.parametrize("write", [write_params, write_npz])
def test_values_that_are_not_finite_are_refused(tmp_path, write, value):
    path = tmp_path / ("a.params" if write is write_params else "a.npz")
    write(path, {"conv1_1_bias": np.zeros(4), "fc6_weight": value})
    with pytest.raises(WeightsError, match=r"a\.(params|npz): fc6_weight .*not finite"):
        read_params(path)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([1j]), np.array([b"a"])])
def test_arrays_that_are_not_numbers_are_refused(tmp_path, value):
    with pytest.raises(WeightsError, match=r"a\.npz: names holds"):
        read_params(write_npz(tmp_path / "a.npz", {"names": value}))


def test_an_npy_under_the_name_of_an_npz_is_refused(tmp_path):
    with open(tmp_path / "a.npz", "wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(WeightsError, match=r"a\.npz"):
        read_params(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.pkl", "a.onnx", "params", "a.params.zip"])
def test_other_endings_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"expected \.params, \.npz"):
        read_params(tmp_path / name)


@pytest.mark.parametrize("name", ["a.params", "a.npz", "a.txt", "."])
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(WeightsError, match="no such file"):
        read_params(tmp_path / name)


def test_params_without_names_are_refused(tmp_path):
    mx.nd.save(str(tmp_path / "a.params"), [mx.nd.zeros(3)])
    with pytest.raises(USER_ERRORS, match=r"a\.params: its arrays have no names"):
        read_params(tmp_path / "a.params")
