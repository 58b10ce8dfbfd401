"""Entropic complexity of layers, of ensembles, and during training."""

import json
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles_complexity import markov_bits

import meanfield as mf
from meanfield.physics.complexity.dimension import (
    effective_dimension,
)
from meanfield.physics.complexity.entropy import (
    binary_entropy,
    unit_entropies,
)
from meanfield.physics.complexity.measure import measure_complexity
from meanfield.physics.complexity.recording import layer_activations
from meanfield.physics.complexity.spread import (
    complexity_spread,
    sampled_complexity,
)
from meanfield.physics.complexity.trace import ComplexityTrace

KEY = jax.random.key(0)


def test_a_network_whose_units_are_always_on_is_affine_and_has_no_complexity():
    net = eqx.nn.MLP(5, 2, 8, 2, key=KEY)
    biases = lambda m: [layer.bias for layer in m.layers]
    net = eqx.tree_at(
        biases, net, [b + 50.0 * 10**i for i, b in enumerate(biases(net))]
    )
    x = jax.random.normal(KEY, (200, 5))
    recorded = layer_activations(net, x)
    result = measure_complexity(recorded, key=KEY, data="noise")
    assert result.marginal == 0.0
    assert result.joint == 0.0
    assert result.data == "noise"
    assert [layer.always_on for layer in result.layers] == [8, 8, 2]
    ones = np.c_[x, np.ones(200)]
    _, residual, rank, _ = np.linalg.lstsq(ones, recorded["layers/2"], rcond=None)
    rounding = np.finfo(np.float32).eps * np.abs(recorded["layers/2"]).max()
    assert rank == 6
    assert np.sqrt(residual / 200).max() < rounding


def test_dead_units_are_counted_and_all_dead_features_have_no_dimension():
    a = np.random.default_rng(0).normal(size=(400, 5))
    a[:, 3] = -1.0
    result = measure_complexity({"a": a, "b": -np.abs(a), "c": a}, key=KEY, joint=False)
    first, dead, last = result.layers
    assert first.always_off == 1
    assert first.dimension is not None
    assert first.unit_bits[3] == 0
    assert first.dimension.num_features == 4
    assert dead.always_off == 5
    assert dead.marginal == 0.0
    assert dead.dimension is None
    assert dead.verdict == "cannot tell"
    assert "never vary" in dead.reason
    assert last.verdict == "measured"
    assert result.joint is None


def test_features_are_after_the_nonlinearity_except_in_the_last_layer():
    a = np.random.default_rng(1).normal(size=(500, 4)) * [1, 2, 3, 4]
    hidden, outputs = measure_complexity(
        {"a": a, "b": a}, key=KEY, activation=np.tanh, joint=False
    ).layers
    expected = effective_dimension(np.tanh(a), key=KEY, num_shuffles=0).dimension
    plain = effective_dimension(a, key=KEY, num_shuffles=0).dimension
    assert hidden.dimension is not None
    assert outputs.dimension is not None
    np.testing.assert_allclose(hidden.dimension.dimension, expected, rtol=1e-12)
    np.testing.assert_allclose(outputs.dimension.dimension, plain, rtol=1e-12)


def test_a_threshold_moves_the_switch():
    a = np.random.default_rng(2).normal(size=(2000, 1))
    shifted = measure_complexity({"a": a}, key=KEY, threshold=1.0, joint=False)
    expected = float(binary_entropy((a > 1).mean()))
    assert shifted.layers[0].unit_bits.tolist() == [expected]


def test_a_convolution_is_sampled_at_one_position_of_each_example():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3000, 3, 4, 5)) + np.linspace(-1, 1, 5)
    layer = measure_complexity({"conv": a}, key=KEY).layers[0]
    assert layer.num_units == 3
    assert layer.num_examples == 3000
    share = (a > 0).mean(axis=(0, 2, 3))
    slope = np.log2((1 - share) / share)
    error = np.sqrt(share * (1 - share) / 3000) * np.maximum(np.abs(slope), 0.1)
    assert (np.abs(layer.unit_bits - binary_entropy(share)) < 5 * error + 1e-3).all()
    again = measure_complexity({"conv": a}, key=KEY).layers[0]
    other = measure_complexity({"conv": a}, key=jax.random.key(1)).layers[0]
    assert again.unit_bits.tolist() == layer.unit_bits.tolist()
    assert other.unit_bits.tolist() != layer.unit_bits.tolist()


def test_too_few_examples_give_no_number_without_meaning():
    a = np.random.default_rng(4).normal(size=(80, 100))
    layer = measure_complexity({"a": a}, key=KEY).layers[0]
    assert layer.verdict == "cannot tell"
    assert "fewer than the 100 units" in layer.reason
    assert layer.joint is None
    assert layer.dimension is None
    assert layer.marginal is not None  # it looks at one unit at a time
    tiny = measure_complexity({"a": a[:20, :3]}, key=KEY).layers[0]
    assert tiny.marginal is None
    assert "at least 50" in tiny.reason
    some = measure_complexity({"a": a[:, :20]}, key=KEY, joint=False).layers[0]
    assert some.verdict == "few examples"
    assert some.dimension is not None


GOOD = np.random.default_rng(5).normal(size=(60, 3))


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({}, "at least one layer; got none"),
        ({"a": GOOD[:, 0]}, r"'a' must have shape .* got shape \(60,\)"),
        ({"a": GOOD[:0]}, "not be empty"),
        ({"a": np.where(GOOD[7, 1] == GOOD, np.nan, GOOD)}, r"'a'.*at \(7, 1\)"),
        ({"a": GOOD, "b": GOOD + np.inf}, "'b' must be finite"),
        ({"a": GOOD + 1j}, "'a' must be real numbers; got complex128"),
        ({"a": np.full((60, 2), "x")}, "'a' must be real numbers; got <U1"),
        ({"a": GOOD, "b": GOOD[:50]}, "same examples in every layer; got {'a': 60"),
    ],
)
def test_activations_that_cannot_be_used_are_refused_by_layer(activations, message):
    with pytest.raises(ValueError, match=message):
        measure_complexity(activations, key=KEY)


def test_a_nonlinearity_must_keep_the_shape_and_be_finite():
    two = {"a": GOOD, "b": GOOD}
    with pytest.raises(ValueError, match=r"\(60, 3\) in 'a'; got shape \(60,\)\."):
        measure_complexity(two, key=KEY, activation=lambda a: a.sum(axis=1))
    with pytest.raises(ValueError, match="'a'.* with NaN or infinity among them"):
        measure_complexity(two, key=KEY, activation=lambda a: a * np.inf)


def test_half_precision_and_jax_arrays_are_read_like_any_other():
    half = jnp.asarray(GOOD, jnp.bfloat16)
    read = measure_complexity({"a": half}, key=KEY).layers[0]
    same = measure_complexity({"a": np.asarray(half, np.float32)}, key=KEY).layers[0]
    assert read.to_dict() == same.to_dict()


def test_results_go_into_json_in_full():
    a = markov_bits(300, 4, 0.3) - 0.5
    result = measure_complexity({"z": a, "b": a[:, :1], "c": a[:, :2]}, key=KEY)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(plain["layers"]) == ["z", "b", "c"]
    assert plain["joint"] == result.joint
    assert plain["layers"]["z"]["joint"]["interval"][0] >= 0
    assert len(plain["layers"]["z"]["unit_bits"]) == 4


# Ensembles and training


class Toy:
    """Stands for an ensemble: networks that differ in one bias."""

    def __init__(self, noise: float):
        self.noise, self.net = noise, eqx.nn.MLP(3, 2, 6, 1, key=KEY)

    def sample(self, key):
        shift = self.noise * jax.random.normal(key, (6,))
        bias = lambda m: m.layers[0].bias
        return eqx.tree_at(bias, self.net, bias(self.net) + shift)

    def mean_network(self):
        return self.net


X = jax.random.normal(jax.random.key(9), (120, 3))


def test_networks_that_agree_have_no_spread_and_others_have_the_right_one():
    still = sampled_complexity(Toy(0.0), X, key=KEY, num_samples=3)
    first = still.layers[0]
    assert first.marginal is not None
    assert first.marginal.deviation < 1e-12
    assert first.joint is None
    assert first.dimension is not None

    noisy = sampled_complexity(Toy(1.0), X, key=KEY, num_samples=4, joint=True)
    network_key, _ = jax.random.split(KEY)
    values = []
    for key in jax.random.split(network_key, 4):
        states = layer_activations(Toy(1.0).sample(key), X)["layers/0"] > 0
        values.append(unit_entropies(states)[1])
    spread = noisy.layers[0].marginal
    assert spread is not None
    assert spread.num_samples == 4
    np.testing.assert_allclose(spread.mean, np.mean(values), rtol=1e-6)
    np.testing.assert_allclose(spread.deviation, np.std(values, ddof=1), rtol=1e-6)
    assert noisy.layers[0].joint is not None
    json.dumps(noisy.to_dict(), allow_nan=False)


def test_a_spread_needs_two_networks_of_one_shape():
    one = measure_complexity({"a": GOOD}, key=KEY, joint=False)
    other = measure_complexity({"b": GOOD}, key=KEY, joint=False)
    with pytest.raises(ValueError, match="at least two networks"):
        complexity_spread([one])
    with pytest.raises(ValueError, match="same layers in every network"):
        complexity_spread([one, other])


def test_the_callback_measures_the_mean_network_when_its_turn_comes():
    trace = ComplexityTrace(X, key=KEY, every=2, data="noise")
    for epoch in range(1, 6):
        trace(types.SimpleNamespace(epoch=epoch, ensemble=Toy(0.0), history={}))
    assert trace.steps == [2, 4]
    expected = unit_entropies(layer_activations(Toy(0.0).net, X)["layers/0"] > 0)[1]
    assert trace.curve("layers/0", "marginal") == [expected] * 2
    plain = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert plain["steps"] == [2, 4]
    assert plain["layers"]["layers/1"]["joint"][0] is None
    with pytest.raises(ValueError, match="`number` must be one of marginal"):
        trace.curve("layers/0", "size")
    with pytest.raises(ValueError, match="`layer` must be one of the measured layers"):
        trace.curve("layers/7", "marginal")
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        ComplexityTrace(X, key=KEY, every=0)


def test_a_trained_ensemble_has_its_curve_and_its_spread():
    x, y = np.asarray(X), np.asarray(X[:, 0] > 0).astype(np.int32)
    net = eqx.nn.MLP(3, 2, 6, 1, key=KEY)
    ensemble = mf.Ensemble.from_model(net, key=KEY)
    trace = ComplexityTrace(x, key=KEY)
    result = mf.fit(
        ensemble,
        (x, y),
        likelihood=mf.Categorical(),
        key=KEY,
        epochs=3,
        batch_size=40,
        callbacks=(trace,),
        prior=None,
    )
    assert trace.steps == [1, 2, 3]
    trained = layer_activations(result.ensemble.mean_network(), x)
    bits = [unit_entropies(values > 0)[1] for values in trained.values()]
    assert [trace.curve(name, "marginal")[-1] for name in trained] == bits
    spread = sampled_complexity(result.ensemble, x, key=KEY, num_samples=5)
    assert [layer.layer for layer in spread.layers] == ["layers/0", "layers/1"]
    assert spread.layers[0].marginal is not None
    assert spread.layers[0].marginal.deviation > 0
