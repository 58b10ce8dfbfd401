"""Whole networks in the phase diagram of wide layers."""

import itertools
import json
import math

import jax
import numpy as np
import pytest

import meanfield as mf
from meanfield.physics.renormalization import (
    ensemble_map,
    fixed_points,
)
from meanfield.physics.renormalization.fixed_points import (
    critical_weight_var,
    fixed_point,
)
from meanfield.physics.renormalization.network_phase import analyze_renormalization


def test_a_network_is_placed_and_followed():
    rng = np.random.default_rng(0)
    weight_var, bias_var = 1.4, 0.05
    net = {}
    for i in range(11):
        net[f"layers/{i}/weight"] = rng.normal(size=(90, 90)) * math.sqrt(
            weight_var / 90
        )
        net[f"layers/{i}/bias"] = rng.normal(size=90) * math.sqrt(bias_var)
    found = analyze_renormalization(net, key=jax.random.key(0), activation="tanh")
    assert list(found.layers) == [f"layers/{i}/weight" for i in range(11)]
    assert found.verdict == "ordered"
    assert found.symmetry.verdict == "symmetric"
    for point in found.layers.values():
        assert abs(point.weight_var - weight_var) < 5 * point.weight_var_error
        assert point.shared_var == point.weight_var
        assert point.sampled is None
        expected = fixed_point(point.weight_var, point.bias_var)
        assert point.drawn == expected
    assert [layer.gradient for layer in found.flow] == sorted(
        (layer.gradient for layer in found.flow), reverse=True
    )
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["verdict"] == "ordered"
    assert len(plain["flow"]) == 9


def test_an_ensemble_is_placed_under_both_readings():
    rng = np.random.default_rng(0)
    shape = (60, 60)
    net = {
        f"layers/{i}/weight": mf.SpikeSlab(
            0.3 * rng.random(shape), rng.normal(size=shape) / 5, rng.random(shape) / 60
        )
        for i in range(3)
    }
    found = analyze_renormalization(net, key=jax.random.key(0), activation="relu")
    for name, point in found.layers.items():
        expected = ensemble_map.weight_variances(net[name], 60)
        assert point.weight_var == pytest.approx(expected.total)
        assert point.shared_var == pytest.approx(expected.shared)
        assert point.sampled.gradient < point.drawn.gradient
    json.dumps(found.to_dict(), allow_nan=False)


def test_infinite_depth_scales_are_written_as_a_word():
    rng = np.random.default_rng(0)
    net = {str(i): rng.choice([-1, 1], (16, 16)) * math.sqrt(2 / 16) for i in range(3)}
    found = analyze_renormalization(net, key=jax.random.key(0))
    assert found.verdict == "critical"
    assert found.gradient_interval == pytest.approx((1.0, 1.0))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "infinite" in text


def test_the_verdict_waits_until_the_sampling_error_allows_it():
    critical = critical_weight_var(0.05)
    verdicts = {}
    for width, num in ((8, 2), (120, 8)):
        rng = np.random.default_rng(1)
        net = {}
        for i in range(num):
            gain = math.sqrt(critical / width)
            net[f"{i}/weight"] = rng.normal(size=(width, width)) * gain
            net[f"{i}/bias"] = rng.normal(size=width) * math.sqrt(0.05)
        found = analyze_renormalization(net, key=jax.random.key(0), activation="tanh")
        verdicts[width] = found.verdict
        assert found.gradient_interval[0] < 1 < found.gradient_interval[1]
    assert verdicts == {8: "cannot tell", 120: "critical"}


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.full((9, 9), 0.5), "one value, 0.5"),
        (np.zeros((9, 9)), "exactly zero"),
        (np.full((9, 9), np.nan), "NaN"),
        (np.ones((7, 7)), "Only 49 weights"),
    ],
)
def test_layers_that_say_nothing_get_no_numbers(weight, reason):
    net = {"a": np.random.default_rng(0).normal(size=(9, 9)), "b": weight}
    found = analyze_renormalization(net, key=jax.random.key(0))
    assert found.layers["b"].verdict == "cannot tell"
    assert reason in found.layers["b"].reason
    assert found.layers["b"].weight_var is None
    assert found.layers["b"].drawn is None
    assert found.verdict == "cannot tell"
    assert found.flow == []


def test_a_network_of_one_layer_has_no_depth():
    found = analyze_renormalization(
        {"w": np.random.default_rng(0).normal(size=(20, 20))}, key=jax.random.key(0)
    )
    assert found.verdict == found.symmetry.verdict == "cannot tell"
    assert "two or more" in found.reason


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="weight of two or more dimensions"):
        analyze_renormalization({"bias": np.ones(4)}, key=jax.random.key(0))
    with pytest.raises(ValueError, match="at least one array of numbers"):
        analyze_renormalization({}, key=jax.random.key(0))


def test_real_networks_are_placed_from_their_files(data_dir):
    path = data_dir / "pretrained_weights" / "cifar10_resnet20.npz"
    with np.load(path) as tensors:
        found = analyze_renormalization(tensors, key=jax.random.key(0))
    convolutions = [name for name in found.layers if "conv" in name]
    assert len(convolutions) == 19
    assert found.layers["layer3.2.conv2.weight"].num_inputs == 576
    assert found.layers["linear.weight"].bias_var > 0
    assert found.verdict == "cannot tell"
    assert "normalised ('bn1" in found.reason
    assert found.symmetry.verdict == "broken"


@pytest.mark.parametrize(
    "other",
    [
        "LayerNorm_0/scale",
        "norms/0/weight",
        "encoder.input_layernorm.weight",
        "bn1_gamma",
        "stem.running_mean",
        "cell/lstm/bias",
        "rnn.weight_hh_l0",
        "LSTMCell_0/hf",
        "attn/q",
        "MultiHeadAttention_0/query",
    ],
)
def test_networks_outside_the_theory_get_no_phase(other):
    rng = np.random.default_rng(0)
    net = {f"{i}/weight": rng.normal(size=(9, 9)) for i in range(3)}
    plain = analyze_renormalization(net, key=jax.random.key(0))
    found = analyze_renormalization(net | {other: np.ones(9)}, key=jax.random.key(0))
    assert plain.verdict == "chaotic"
    assert plain.layers["0/weight"].drawn is not None
    assert found.verdict == "cannot tell"
    assert repr(other) in found.reason
    point = found.layers["0/weight"]
    assert point.drawn is None
    assert point.weight_var is not None
    assert found.symmetry.verdict == plain.symmetry.verdict


@pytest.mark.parametrize(
    "other",
    [
        "abnormality_head.bias",
        "normal/bias",
        "norm_free_net/block/gain",
        "turnnet/bias",
        "inattention_score/bias",
        "ebn/bias",
    ],
)
def test_names_that_only_look_like_a_normalisation_change_no_verdict(other):
    rng = np.random.default_rng(0)
    net = {f"{i}/weight": rng.normal(size=(9, 9)) for i in range(3)}
    plain = analyze_renormalization(net, key=jax.random.key(0))
    found = analyze_renormalization(net | {other: np.ones(9)}, key=jax.random.key(0))
    assert found.verdict == plain.verdict == "chaotic"
    assert found.layers == plain.layers


def test_a_dense_layer_called_norm_is_told_by_its_matrix():
    rng = np.random.default_rng(0)
    net = {f"{i}/weight": rng.normal(size=(9, 9)) for i in range(3)}
    dense = {"norm/weight": rng.normal(size=(9, 9)), "norm/bias": np.ones(9)}
    found = analyze_renormalization(net | dense, key=jax.random.key(0))
    assert found.verdict == "chaotic"
    assert found.layers["norm/weight"].drawn is not None


def test_critical_points_are_found_for_every_shipped_activation():
    for name in ("tanh", "erf", "relu"):
        critical = critical_weight_var(0.05, name)
        below = fixed_points.fixed_point(critical * 0.99, 0.05, name)
        above = fixed_points.fixed_point(critical * 1.01, 0.05, name)
        assert below.gradient < 1 < above.gradient


SIZES = (64, 32, 16, 10)
TURNED = {"out_in": True, "in_out": False}


@pytest.mark.parametrize("layout", TURNED)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    "names", [("W{}", "b{}"), ("w_{}", "bias_{}"), ("{}/m", "{}/b")]
)
def test_shapes_and_biases_tell_what_is_an_input(layout, biases, names):
    rng = np.random.default_rng(1)
    expected, net = {}, {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(SIZES), 1):
        weight, bias = rng.normal(size=(inputs, outputs)), rng.normal(size=outputs)
        weight_name, bias_name = (name.format(i) for name in names)
        net[weight_name] = weight.T if TURNED[layout] else weight
        if biases:
            net[bias_name] = bias
        expected[weight_name] = (
            inputs * np.mean(np.square(weight)),
            np.mean(np.square(bias)) if biases else 0.0,
        )
    found = analyze_renormalization(net, key=jax.random.key(0))
    measured = {n: (p.weight_var, p.bias_var) for n, p in found.layers.items()}
    assert measured.keys() == expected.keys()
    for name in expected:
        assert measured[name] == pytest.approx(expected[name]), name
    assert ("3 of 3 layers have no bias, which counts as 0" in found.reason) == (
        not biases
    )
    # What the caller says is kept.
    other = "in_out" if layout == "out_in" else "out_in"
    found = analyze_renormalization(net, key=jax.random.key(0), layout=other)
    assert [p.num_inputs for p in found.layers.values()] == list(SIZES[1:])
