"""The layers: precision, normalisation, losses and constants, each in a graph of a few nodes."""

from __future__ import annotations

import numpy as np
import pytest

from symnet.machine import has_bf16, mx
from symnet.ops import precision as precision_module
from symnet.ops.precision import (
    BFLOAT16,
    PRECISIONS,
    exact_layers,
    float32,
    precision,
    unsafe_layers,
)
from symnet.ops.tensors import constant, softplus
from symnet.parts import norms
from symnet.parts.layers import conv, conv_levels, deconv, fc, relu, shared_parameters
from symnet.parts.losses import binary_cross_entropy, mean_loss
from symnet.parts.norms import conv_norm, fold_norms, group_norm_levels, norm
from tests.test_losses import numeric_gradient

needs_bf16 = pytest.mark.skipif(
    not has_bf16(), reason="the processor has no bfloat16: MXNet's results are not of that speed"
)


def random_values(symbol, seed=0, **shapes):
    """Values of all arguments; `shapes` suffice to infer the others."""
    found, _, _ = symbol.infer_shape(**shapes)
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in zip(symbol.list_arguments(), found)
    }


def forward(symbol, **values):
    """The outputs of a test pass."""
    args = {name: mx.nd.array(value) for name, value in values.items()}
    return [out.asnumpy() for out in symbol.bind(mx.cpu(), args, grad_req="null").forward()]


def backward(symbol, **values):
    """(outputs, gradients by name) of a training pass; the outputs' gradients are all 1."""
    args = {name: mx.nd.array(value) for name, value in values.items()}
    grads = {name: mx.nd.zeros(value.shape) for name, value in args.items()}
    executor = symbol.bind(mx.cpu(), args, args_grad=grads)
    outputs = executor.forward(is_train=True)
    executor.backward([mx.nd.ones(out.shape) for out in outputs])
    gradients = {name: grad.asnumpy() for name, grad in grads.items()}
    return [out.asnumpy() for out in outputs], gradients


# --- precision ----------------------------------------------------------------------------------


def small_network(name):
    """Every kind of layer in one precision: (B, 3, 8, 8) -> (B, 5), float32.

    Its last layer has so few outputs that it is always float32.
    """
    with precision(name):
        data = relu(conv(mx.sym.Variable("data"), "conv", 16), "relu")
        data = conv_norm(data, "body", "norm", 16, kind="folded", channels=16)
        data = deconv(data, "up", 16)
        return float32(fc(fc(data, "fc", 32), "few", 5))


def small_values():
    values = random_values(small_network("fp32"), data=(4, 3, 8, 8))
    return {k: np.abs(v) + 0.5 if k.endswith("_moving_var") else v for k, v in values.items()}


def types(symbol):
    arguments, outputs, _ = symbol.infer_type(data=np.float32)
    return dict(zip(symbol.list_arguments(), arguments)), outputs


def cosine(one, other):
    return (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())


@needs_bf16
def test_bf16_is_nearly_fp32_and_so_are_its_gradients():
    values = small_values()
    (exact,), gradients = backward(small_network("fp32"), **values)
    (low,), low_gradients = backward(small_network("bf16"), **values)
    error = np.abs(low - exact).max() / np.abs(exact).max()
    assert 0 < error < 2**-6  # 8 bits, four layers
    for name, gradient in gradients.items():
        if name == "data":
            continue
        assert low_gradients[name].dtype == np.float32
        assert cosine(gradient, low_gradients[name]) > 0.999, name


@needs_bf16
def test_stored_bf16_is_bf16():
    """For convolutions, rounding weights before storing them equals rounding them in each pass."""

    def last_map(name):
        with precision(name):
            return float32(small_network(name).get_internals()["up_output"])

    stored = last_map("bf16_stored")
    wanted, _ = types(stored)
    given = {name: small_values()[name] for name in stored.list_arguments()}
    args = {
        name: mx.nd.amp_cast(mx.nd.array(value), dtype=wanted[name])
        if wanted[name] == BFLOAT16
        else mx.nd.array(value)
        for name, value in given.items()
    }
    (found,) = stored.bind(mx.cpu(), args, grad_req="null").forward()
    np.testing.assert_array_equal(found.asnumpy(), forward(last_map("bf16"), **given)[0])


@needs_bf16
def test_fully_connected_layers_are_float32_in_training():
    def last(name):
        with precision(name):
            return float32(fc(mx.sym.Variable("data"), "fc", 64))

    values = random_values(last("fp32"), data=(4, 64))
    wanted = forward(last("fp32"), **values)[0]
    np.testing.assert_array_equal(forward(last("bf16"), **values)[0], wanted)
    wanted_type, _ = types(last("bf16_stored"))
    assert wanted_type["fc_weight"] == BFLOAT16


@pytest.mark.parametrize("side", [1, 2, 8])
def test_fc_for_int8_is_the_same_sum(side):
    with precision("int8"):
        as_conv = fc(mx.sym.Variable("data"), "fc", 8, side)
    plain = fc(mx.sym.Variable("data"), "fc", 8)
    values = random_values(plain, data=(3, 128))
    wanted = forward(plain, **values)[0]
    values["fc_weight"] = values["fc_weight"].reshape(8, -1, side, side)
    found = forward(as_conv, **values)[0]
    assert found.shape == (3, 8, 1, 1)
    np.testing.assert_allclose(found[..., 0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_layers_that_predict_are_known():
    with precision("int8"):
        data = mx.sym.Variable("data")
        maps = conv(conv(data, "hidden", 4), "map", 2, kernel=1, predicts=True)
        levels = conv_levels([maps], "levels", 2, predicts=True)
        rows = fc(fc(levels[0], "fc", 8), "score", 3, predicts=True)
    assert set(exact_layers(rows)) == {"map", "levels.0", "score"}


@pytest.mark.parametrize("name", PRECISIONS)
def test_types_of_parameters(name):
    arguments, outputs = types(small_network(name))
    layers = {f"{layer}_{leaf}" for layer in ("conv", "up", "fc") for leaf in ("weight", "bias")}
    assert layers < set(arguments)
    assert arguments["few_weight"] == np.float32
    stored = {layer for layer, dtype in arguments.items() if dtype != np.float32}
    assert stored == (layers if name == "bf16_stored" else set())
    assert all(arguments[layer] == BFLOAT16 for layer in stored)
    assert outputs == [np.float32]


@pytest.mark.parametrize("name", PRECISIONS)
def test_all_precisions_have_the_same_arguments(name):
    assert small_network(name).list_arguments() == small_network("fp32").list_arguments()


def has_casts():
    graph = conv(mx.sym.Variable("data"), "conv", 16)
    return "amp_cast" in graph.tojson(remove_amp_cast=False)


def test_precision_is_of_its_block_alone():
    with precision("bf16"):
        assert has_casts()
        with precision("fp32"):
            assert not has_casts()
        assert has_casts()
    assert not has_casts()


def test_precision_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), precision("bf16"):
        raise ZeroDivisionError
    assert not has_casts()


def test_an_unknown_precision_is_answered_with_those_there_are():
    message = "'fp16': choose from fp32, bf16, bf16_stored"
    with pytest.raises(ValueError, match=message), precision("fp16"):
        pass
    assert not has_casts()


# --- convolutions -------------------------------------------------------------------------------


def test_convolution_and_deconvolution_by_hand():
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 0, 1] = 2  # twice the pixel above
    symbol = conv(mx.sym.Variable("data"), "conv", 1)
    (found,) = forward(symbol, data=image, conv_weight=kernel, conv_bias=[5])
    np.testing.assert_array_equal(found[0, 0], [[5, 5, 5], [5, 7, 9], [11, 13, 15]])

    weight = np.float32([[[[1, 2], [3, 4]]]])
    symbol = deconv(mx.sym.Variable("data"), "up", 1)
    (found,) = forward(symbol, data=image[:, :, :1, :2], up_weight=weight, up_bias=[10])
    np.testing.assert_array_equal(found[0, 0], [[10, 10, 11, 12], [10, 10, 13, 14]])


def test_levels_share_their_parameters():
    maps = [mx.sym.Variable(name) for name in ("a", "b")]
    both = mx.sym.Group(conv_levels(maps, "head", 4))
    assert sorted(both.list_arguments()) == ["a", "b", "head_bias", "head_weight"]
    values = random_values(both, a=(1, 2, 4, 4), b=(1, 2, 2, 2))
    outputs, gradients = backward(both, **values)
    singles = []
    for name, output in zip("ab", outputs):
        alone = conv(mx.sym.Variable(name), "head", 4)
        used = {key: values[key] for key in alone.list_arguments()}
        (expected,), single = backward(alone, **used)
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
        singles.append(single)
    for name in ("head_weight", "head_bias"):
        expected = singles[0][name] + singles[1][name]
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-4, atol=1e-5)


# --- normalisation ------------------------------------------------------------------------------


def slow_group_norm(data, gamma, beta, groups):
    """Wu and He 2018: mean and variance of each image's channel groups; one scale per channel."""
    out = np.zeros(data.shape)
    size = data.shape[1] // groups
    for image in range(len(data)):
        for group in range(groups):
            channels = slice(group * size, (group + 1) * size)
            part = data[image, channels].astype(np.float64)
            out[image, channels] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return out * gamma[:, None, None] + beta[:, None, None]


def group_case(channels, groups):
    """Maps (2, channels, 3, 2) whose channels differ."""
    symbol = norm(mx.sym.Variable("data"), "gn", "group", channels, groups=groups)
    values = random_values(symbol, data=(2, channels, 3, 2))
    values["data"] = 3 * values["data"] + np.arange(channels).reshape(channels, 1, 1)
    return symbol, values


def test_group_norm():
    symbol, values = group_case(8, 4)
    assert symbol.list_arguments() == ["data", "gn_gamma", "gn_beta"]
    (found,) = forward(symbol, **values)
    expected = slow_group_norm(values["data"], values["gn_gamma"], values["gn_beta"], 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_of_group_norm():
    symbol, values = group_case(4, 2)
    mx.test_utils.check_numeric_gradient(
        symbol, values, numeric_eps=1e-2, rtol=0.05, atol=2e-3, dtype=np.float32
    )
    _, found = backward(symbol, **values)  # of the sum: exact
    ones = np.ones(4)
    exact = slow_group_norm(values["data"], ones, 0 * ones, 2).sum(axis=(0, 2, 3))
    np.testing.assert_allclose(found["gn_gamma"], exact, atol=1e-4)
    np.testing.assert_allclose(found["gn_beta"], np.full(4, 2 * 3 * 2), atol=1e-4)


def test_groups_divide_the_channels():
    """12 channels in at most 8 groups give 4 groups."""
    symbol, values = group_case(12, 8)
    (found,) = forward(symbol, **values)
    expected = slow_group_norm(values["data"], values["gn_gamma"], values["gn_beta"], 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_group_norm_of_levels_shares_its_parameters():
    maps = [mx.sym.Variable(name) for name in ("a", "b")]
    symbol = mx.sym.Group(group_norm_levels(maps, "gn", 6, groups=2))
    assert sorted(symbol.list_arguments()) == ["a", "b", "gn_beta", "gn_gamma"]
    values = random_values(symbol, a=(2, 6, 4, 3), b=(2, 6, 2, 2))
    for name, found in zip("ab", forward(symbol, **values)):
        expected = slow_group_norm(values[name], values["gn_gamma"], values["gn_beta"], 2)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def norm_case(kind, stride=2, groups=2):
    symbol = conv_norm(mx.sym.Variable("data"), "c", "n", 6, 3, stride, groups, kind, channels=4)
    rng = np.random.default_rng(0)
    params = {
        "data": rng.normal(0, 1, (2, 4, 6, 8)),
        "c_weight": rng.normal(0, 1, (6, 2, 3, 3)),
        "n_gamma": rng.normal(1, 0.3, 6),
        "n_beta": rng.normal(0, 1, 6),
        "n_moving_mean": rng.normal(0, 1, 6),
        "n_moving_var": rng.uniform(0.3, 2, 6),
    }
    return symbol, params


def norm_pass(kind):
    """(output, gradients, stored statistics afterwards) of a training pass, weighted at random."""
    symbol, values = norm_case(kind)
    arrays = {name: mx.nd.array(value) for name, value in values.items()}
    args = {name: arrays[name] for name in symbol.list_arguments()}
    grads = {name: mx.nd.zeros(value.shape) for name, value in args.items()}
    auxs = {name: arrays[name] for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), args, args_grad=grads, aux_states=auxs)
    (out,) = executor.forward(is_train=True)
    weights = np.random.default_rng(1).normal(0, 1, out.shape)
    executor.backward([mx.nd.array(weights)])
    mx.nd.waitall()  # the statistics are written by the backward pass, unknown to who reads them
    left = {name: arrays[name].asnumpy() for name in ("n_moving_mean", "n_moving_var")}
    return out.asnumpy(), {name: grad.asnumpy() for name, grad in grads.items()}, left


def test_folded_is_frozen():
    """The same maps and gradients of weights and image; strided and in groups."""
    frozen, frozen_gradients, _ = norm_pass("frozen")
    folded, folded_gradients, _ = norm_pass("folded")
    np.testing.assert_allclose(folded, frozen, atol=1e-4)
    for name in ("c_weight", "data"):
        expected = frozen_gradients[name]
        np.testing.assert_allclose(folded_gradients[name], expected, atol=1e-4 * expected.max())


def test_frozen_statistics_scale_and_shift():
    _, values = norm_case("frozen")
    plain = conv(mx.sym.Variable("data"), "c", 6, 3, 2, 2, bias=False)
    (maps,) = forward(plain, data=values["data"], c_weight=values["c_weight"])
    gamma, beta, mean, var = (
        values[f"n_{leaf}"].reshape(6, 1, 1)
        for leaf in ("gamma", "beta", "moving_mean", "moving_var")
    )
    expected = (maps - mean) / np.sqrt(var + 1e-5) * gamma + beta
    np.testing.assert_allclose(norm_pass("frozen")[0], expected, atol=1e-4)


def test_norms_are_folded_into_stored_convolutions():
    """The parameters of a graph for stored bfloat16, run in float32; other graphs keep theirs."""

    def graph(name):
        with precision(name):
            return conv_norm(mx.sym.Variable("data"), "c", "n", 16, kind="frozen", channels=4)

    rng = np.random.default_rng(0)
    arrays = {
        "c_weight": mx.nd.array(rng.normal(0, 1, (16, 4, 3, 3))),
        "n_gamma": mx.nd.array(rng.normal(1, 0.3, 16)),
        "n_beta": mx.nd.array(rng.normal(0, 1, 16)),
        "n_moving_mean": mx.nd.array(rng.normal(0, 1, 16)),
        "n_moving_var": mx.nd.array(rng.uniform(0.3, 2, 16)),
    }
    assert fold_norms(graph("fp32"), arrays) == arrays
    stored = graph("bf16_stored")
    assert stored.list_arguments() == ["data", "c_weight", "c_bias"]
    folded = fold_norms(stored, arrays)
    data = rng.normal(0, 1, (2, 4, 5, 6))
    values = {name: folded[name].asnumpy() for name in ("c_weight", "c_bias")}
    (found,) = forward(conv(mx.sym.Variable("data"), "c", 16), data=data, **values)
    frozen = graph("fp32")
    args = {"data": mx.nd.array(data), **arrays}
    auxs = {name: args.pop(name) for name in frozen.list_auxiliary_states()}
    (expected,) = frozen.bind(mx.cpu(), args, grad_req="null", aux_states=auxs).forward()
    np.testing.assert_allclose(found, expected.asnumpy(), atol=1e-4)


def test_batch_norm_moves_its_statistics_and_frozen_does_not():
    _, values = norm_case("batch")
    _, _, frozen = norm_pass("frozen")
    out, _, moved = norm_pass("batch")
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), values["n_beta"], atol=1e-4)
    plain = conv(mx.sym.Variable("data"), "c", 6, 3, 2, 2, bias=False)
    (maps,) = forward(plain, data=values["data"], c_weight=values["c_weight"])
    for name, now in (
        ("n_moving_mean", maps.mean((0, 2, 3))),
        ("n_moving_var", maps.var((0, 2, 3))),
    ):
        np.testing.assert_array_equal(frozen[name], np.float32(values[name]))
        expected = 0.9 * values[name] + 0.1 * now
        np.testing.assert_allclose(moved[name], expected, rtol=1e-3)


def twice(kind: str) -> mx.sym.Symbol:
    """A normalised convolution applied two times, with the same parameters."""
    with shared_parameters():
        data = conv_norm(mx.sym.Variable("data"), "c", "n", 4, kind=kind, channels=4)
        with mx.name.Prefix("again."):
            return relu(conv_norm(data, "c", "n", 4, kind=kind, channels=4), "relu")


@pytest.mark.parametrize("kind", norms.NORMS)
def test_two_passes_share_their_parameters(kind):
    both, once = twice(kind), conv_norm(mx.sym.Variable("data"), "c", "n", 4, kind=kind, channels=4)
    assert both.list_arguments() == once.list_arguments()
    assert both.list_auxiliary_states() == once.list_auxiliary_states()
    assert "again.relu_output" in both.list_outputs()
    rng = np.random.default_rng(0)
    shapes = once.infer_shape(data=(2, 4, 6, 6))
    arrays = {
        name: mx.nd.array(rng.uniform(0.5, 1, shape))
        for names, found in (
            (once.list_arguments(), shapes[0]),
            (once.list_auxiliary_states(), shapes[2]),
        )
        for name, shape in zip(names, found)
    }

    def run(symbol, data):
        args = {n: data if n == "data" else arrays[n] for n in symbol.list_arguments()}
        auxs = {n: arrays[n] for n in symbol.list_auxiliary_states()}
        return symbol.bind(mx.cpu(), args, aux_states=auxs, grad_req="null").forward()[0]

    expected = mx.nd.relu(run(once, run(once, arrays["data"]))).asnumpy()
    np.testing.assert_allclose(run(both, arrays["data"]).asnumpy(), expected, rtol=1e-5)


def test_norms_of_two_passes_are_folded_once():
    with precision("int8"):
        stored = twice("frozen")
    rng = np.random.default_rng(0)
    leaves = (*(f"n_{leaf}" for leaf in norms.STATISTICS), "c_weight")
    params = {
        n: mx.nd.array(rng.uniform(0.5, 1, (4, 4, 3, 3)[: 1 + 3 * ("c_" in n)])) for n in leaves
    }
    folded = fold_norms(stored, params)
    assert folded.keys() == {*leaves, "c_bias"}
    assert stored.list_arguments() == ["data", "c_weight", "c_bias"]


def test_an_unknown_normalisation_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'layer': choose from batch, group, frozen, folded"):
        norm(mx.sym.Variable("data"), "n", "layer", 4)


# --- losses -------------------------------------------------------------------------------------

LOGITS = np.float32([-100, -100, -30, -2, -0.1, 0.5, 3, 30, 100, 100, 100])
TARGETS = np.float32([0, 1, 0.5, 1, 0, 0.3, 1, 0, 1, 0, 0.25])


def test_binary_cross_entropy_at_any_logit():
    symbol = mean_loss(
        binary_cross_entropy(
            mx.sym.Variable("logits"), mx.sym.BlockGrad(mx.sym.Variable("target"))
        ),
        "loss",
        1,
    )
    (found,), gradients = backward(symbol, logits=LOGITS, target=TARGETS)
    exact = np.float64(LOGITS)
    # -t log p - (1 - t) log(1 - p), where log(1 + exp x) = logaddexp(0, x)
    expected = TARGETS * np.logaddexp(0, -exact) + (1 - TARGETS) * np.logaddexp(0, exact)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    probability = 1 / (1 + np.exp(-exact))
    np.testing.assert_allclose(gradients["logits"], probability - TARGETS, atol=1e-6)
    assert found.max() == 100
    assert not gradients["target"].any()


def test_softplus_is_finite_and_never_negative():
    (found,) = forward(softplus(mx.sym.Variable("x")), x=[-1e4, -100, 0, 100, 1e4])
    np.testing.assert_allclose(found, [0, 0, np.log(2), 100, 1e4], rtol=1e-6)


def test_the_gradient_of_a_mean_loss_is_the_sum_s_over_its_samples():
    symbol = mean_loss(mx.sym.square(mx.sym.Variable("x")), "loss", 4)
    values = np.float64([1, -2, 3])
    (found,), gradients = backward(symbol, x=values)
    np.testing.assert_allclose(found, values**2)
    expected = numeric_gradient(lambda x: (x**2).sum() / 4, values)
    np.testing.assert_allclose(gradients["x"], expected, atol=1e-6)


@pytest.mark.parametrize("values", [[[1.5, -2, 1e-3], [0, 7, 1 / 3]], [4.0], np.ones((2, 1, 3))])
def test_constant(values):
    (found,) = forward(constant(np.float32(values)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(values))


@pytest.mark.parametrize(
    ("cells", "filters", "amx", "refused"),
    [
        ((6, 8), 64, True, True),
        ((3, 11), 64, True, True),
        ((7, 7), 64, True, False),
        ((4, 8), 64, True, False),
        ((6, 8), 8, True, False),  # stays float32
        ((6, 8), 64, False, False),
    ],
)
def test_maps_on_which_onednn_corrupts_memory_are_refused(
    monkeypatch, cells, filters, amx, refused
):
    monkeypatch.setattr(precision_module, "uses_amx", lambda: amx)
    with precision("bf16"):
        hidden = conv(mx.sym.Variable("data"), "three", 32)
        symbol = conv(hidden, "one", filters, kernel=1)
    assert unsafe_layers(symbol, "bf16", data=(1, 3, *cells)) == ["one"] * refused
