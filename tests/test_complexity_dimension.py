"""Effective dimension of features, and the recording of pre-activations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meanfield.physics.complexity.dimension import (
    effective_dimension,
    isotropic_dimension,
    isotropic_participation,
    spectrum_dimensions,
)
from meanfield.physics.complexity.recording import layer_activations

KEY = jax.random.key(0)


def exact_cloud(spectrum: np.ndarray, examples: int = 64) -> np.ndarray:
    """Features whose sample covariance has exactly this spectrum."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(examples, len(spectrum)))
    basis, _ = np.linalg.qr(noise - noise.mean(axis=0))
    turn, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return basis * np.sqrt(spectrum) @ turn + 3.0


def test_equal_variances_count_as_the_rank():
    result = effective_dimension(exact_cloud(np.r_[np.ones(5), np.zeros(4)]), key=KEY)
    np.testing.assert_allclose([result.dimension, result.participation], 5, rtol=1e-9)
    assert result.num_features == 9
    assert not result.enough


def test_a_geometric_spectrum_meets_its_closed_sums():
    r, d = 0.6, 12
    k = np.arange(d)
    norm = (1 - r**d) / (1 - r)
    p = r**k / norm
    dimension = np.exp(np.log(norm) - np.log(r) * np.sum(k * p))
    participation = norm**2 * (1 - r**2) / (1 - r ** (2 * d))
    result = effective_dimension(exact_cloud(r**k), key=KEY)
    np.testing.assert_allclose(result.dimension, dimension, rtol=1e-9)
    np.testing.assert_allclose(result.participation, participation, rtol=1e-9)


@pytest.mark.parametrize(
    ("examples", "features", "dimension", "participation"),
    [(1000, 100, 95.05, 90.81), (2000, 500, 441.35, 400.2)],
)
def test_isotropic_data_meet_their_null(examples, features, dimension, participation):
    x = np.random.default_rng(4).normal(size=(examples, features))
    result = effective_dimension(x, key=KEY, num_shuffles=1)
    assert result.dimension_null == isotropic_dimension(features, examples)
    assert result.participation_null == isotropic_participation(features, examples)
    errors = result.dimension_error, result.participation_error
    assert errors[0] < 0.004 * dimension
    assert errors[1] < 0.004 * participation
    for null in (result.dimension_null, dimension):
        assert abs(result.dimension - null) < 5 * errors[0]
    for null in (result.participation_null, participation):
        assert abs(result.participation - null) < 5 * errors[1]
    assert result.dimension_shuffled is not None
    difference = result.dimension_shuffled - result.dimension
    assert abs(difference) < 5 * np.sqrt(2) * errors[0]


def test_the_participation_ratio_never_exceeds_the_dimension():
    rng = np.random.default_rng(5)
    for _ in range(100):
        d, pr = spectrum_dimensions(rng.gamma(0.3, size=rng.integers(1, 30)))
        assert 1 - 1e-12 <= pr <= d * (1 + 1e-12)


def test_scale_shift_and_rotation_change_nothing_and_dead_features_do_not_count():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(200, 5)) * [3, 2, 1, 1, 0.5]
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    base = effective_dimension(x, key=KEY, num_shuffles=0)
    padded = np.c_[1e-7 * x @ turn + 2e-7, np.full((200, 3), 7.0)]
    moved = effective_dimension(padded, key=KEY, num_shuffles=0)
    np.testing.assert_allclose(moved.dimension, base.dimension, rtol=1e-9)
    assert moved.num_features == 5
    assert moved.dimension_shuffled is None
    huge = effective_dimension(x * 1e200, key=KEY, num_shuffles=0)
    np.testing.assert_allclose(huge.dimension, base.dimension, rtol=1e-9)


def test_the_error_of_a_dimension_is_the_spread_over_samples():
    rng = np.random.default_rng(7)
    scale = np.array([3.0, 2.0, 1.0, 1.0, 0.5])
    results = [
        effective_dimension(rng.normal(size=(300, 5)) * scale, key=KEY, num_shuffles=0)
        for _ in range(300)
    ]
    for name in ("dimension", "participation"):
        values = [getattr(result, name) for result in results]
        errors = [getattr(result, f"{name}_error") for result in results]
        # A standard deviation of 300 samples is known to 4 %; five times that.
        assert 0.8 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.2


def test_shuffling_removes_the_correlations_and_keeps_the_variances():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4000, 1)) + 0.1 * rng.normal(size=(4000, 4))
    result = effective_dimension(x, key=KEY)
    assert result.dimension < 1.1
    assert result.dimension_shuffled is not None
    assert result.dimension_shuffled > 3.99


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((20, 3)), "got only constant features"),
        (np.full((20, 3), np.nan), "must be finite; got NaN or infinity at .0, 0."),
        (np.random.default_rng(0).normal(size=(5, 9)), "at least as many .* 9; got 5"),
    ],
)
def test_dimension_refuses_data_without_one(features, message):
    with pytest.raises(ValueError, match=message):
        effective_dimension(features, key=KEY)


# Recording


def test_every_layer_is_recorded_in_forward_order():
    net = eqx.nn.MLP(4, 3, 6, 11, key=KEY)
    x = jax.random.normal(KEY, (7, 4))
    recorded = layer_activations(net, x, batch_size=3)
    assert list(recorded) == [f"layers/{i}" for i in range(12)]
    h = x
    for name, layer in zip(recorded, net.layers, strict=True):
        z = h @ layer.weight.T + layer.bias
        np.testing.assert_allclose(recorded[name], z, rtol=1e-5, atol=1e-6)
        h = jax.nn.relu(z)


class Mixed(eqx.Module):
    """A convolution, an embedding-free norm, and one linear layer used twice."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    twice: eqx.nn.Linear

    def __call__(self, x):
        h = self.norm(self.conv(x)).mean(axis=(1, 2))
        return self.twice(jnp.tanh(self.twice(h))) * self.twice.out_features


def test_convolutions_and_layers_used_twice_are_recorded_and_norms_are_not():
    net = Mixed(
        eqx.nn.Conv2d(1, 4, 3, key=KEY),
        eqx.nn.LayerNorm((4, 3, 3)),
        eqx.nn.Linear(4, 4, key=KEY),
    )
    recorded = layer_activations(net, jnp.ones((2, 1, 5, 5)))
    shapes = {name: value.shape for name, value in recorded.items()}
    assert shapes == {"conv": (2, 4, 3, 3), "twice": (2, 4), "twice#2": (2, 4)}


class Scanned(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return jax.lax.scan(lambda h, _: (self.layer(h), None), x, None, length=2)[0]


class Idle(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x):
        return x


def test_recording_refuses_what_it_cannot_follow():
    linear, x = eqx.nn.Linear(3, 3, key=KEY), jnp.ones((2, 3))
    assert list(layer_activations(linear, x)) == ["model"]
    with pytest.raises(ValueError, match="outside of scan, vmap"):
        layer_activations(Scanned(linear), x)
    with pytest.raises(ValueError, match="must call one of its layers"):
        layer_activations(Idle(linear), x)
    with pytest.raises(ValueError, match="must have a layer with a `weight`"):
        layer_activations(eqx.nn.LayerNorm(3), x)
    with pytest.raises(TypeError, match="must be an Equinox module; got function"):
        layer_activations(lambda x: x, x)
    with pytest.raises(ValueError, match="`x` must hold examples"):
        layer_activations(linear, x[:0])
