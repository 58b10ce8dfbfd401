"""Models with a state, number types, and numbers that no run can mean."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import meanfield as mf
from meanfield.learning.divergence import total_kl
from meanfield.learning.parametrization import Unconstrained

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (12, 4)), jnp.arange(12) % 3


class Net(nnx.Module):
    def __init__(self, layer):
        self.inner = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.layer = layer

    def __call__(self, x):
        return self.inner(self.layer(x))


class Counter(nnx.Module):
    def __init__(self):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls.set_value(self.calls.get_value() + 1)
        return x


class Noisy(nnx.Module):
    def __init__(self, scale):
        self.rngs, self.scale = nnx.Rngs(1), scale

    def __call__(self, x):
        noise = jax.random.normal(self.rngs.params(), x.shape)
        return x + noise if self.scale else x


def test_a_state_that_decides_nothing_is_moved_by_fit_alone():
    ensemble = mf.Ensemble.from_model(Net(Counter()))
    result = mf.fit(
        ensemble, (X, Y), key=KEY, epochs=2, batch_size=6, progress=False, prior=None
    )
    assert result.ensemble(X, key=KEY).shape == (12, 4)
    assert float(result.ensemble.sample(KEY).layer.calls.get_value()) == 4


def test_randomness_that_evaluation_cannot_switch_off_is_refused_by_name():
    ensemble = mf.Ensemble.from_model(Net(Noisy(True)))
    with pytest.raises(ValueError, match=r"changes of \['layer/rngs/default/count'\]"):
        ensemble(X, key=KEY)


def test_a_random_key_that_decides_nothing_is_no_state():
    net = Net(Noisy(False))
    ensemble = mf.Ensemble.from_points(net)
    np.testing.assert_allclose(ensemble(X, key=KEY), net(X), rtol=1e-5)


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.first = eqx.nn.Linear(4, 3, key=KEY)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="ema")

    def __call__(self, x, state):
        return self.norm(self.first(x), state)


class Frozen(eqx.Module):
    net: Normed
    state: eqx.nn.State

    def __call__(self, x):
        return self.net(x, self.state)[0]


@pytest.mark.parametrize("as_pair", [False, True])
def test_the_statistics_of_equinox_are_not_learned(as_pair):
    net, state = eqx.nn.make_with_state(Normed)()
    run = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = run(3 + 2 * X, state)
    model = Frozen(eqx.nn.inference_mode(net), state)
    given = ((lambda m, x: jax.vmap(m)(x)), model) if as_pair else model
    ensemble = mf.Ensemble.from_model(given)
    settings = {"key": KEY, "epochs": 2, "batch_size": 6, "progress": False}
    settings["prior"] = None
    result = mf.fit(ensemble, (X, Y), **settings)
    before = jax.tree.leaves(state)
    after = jax.tree.leaves(result.ensemble.params.state)
    assert all(name.startswith("state/") for name in ensemble.frozen)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    moved = result.ensemble.params.net.first.bias - net.first.bias
    assert jnp.abs(moved).max() > 0


def test_float16_weights_are_refused_by_name():
    net = eqx.nn.Linear(4, 3, key=KEY)
    half = jax.tree.map(lambda a: a.astype(jnp.float16), net)
    with pytest.raises(
        ValueError, match=r"must not have float16 weights.*got \['weight'\].*bfloat16"
    ):
        mf.Ensemble.from_model(half)
    wide = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net)
    assert mf.Ensemble.from_model(wide)(X, key=KEY).shape == (12, 3)


def test_the_divergence_of_bfloat16_weights_is_that_of_their_values():
    rng = np.random.default_rng(0)
    parts = (
        rng.uniform(0.88, 0.92, (300, 100)),
        rng.normal(0, 0.05, (300, 100)),
        rng.uniform(0.9, 1.1, (300, 100)),
    )
    half = mf.SpikeSlab(*(jnp.asarray(part, jnp.bfloat16) for part in parts))
    prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0)
    pi, m, xi = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(half))
    coin = pi * np.log(pi / 0.9) + (1 - pi) * np.log((1 - pi) / 0.1)
    slab = (1 - pi) * 0.5 * (xi - 1 - np.log(xi) + m**2)
    exact = (coin + slab).sum()
    assert half.kl(prior).dtype == jnp.float32
    assert float(half.kl(prior).sum()) == pytest.approx(exact, rel=1e-4)
    assert float(total_kl({"w": half}, prior)) == pytest.approx(exact, rel=1e-4)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    for name in ("spike_logit", "log_slab_std"):
        numbers = [getattr(Unconstrained().encode(w), name) for w in (half, whole)]
        np.testing.assert_array_equal(numbers[0], numbers[1].astype(jnp.bfloat16))


def test_bfloat16_losses_are_summed_in_float32():
    net = eqx.nn.Linear(4, 3, key=KEY)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net)
    ensemble = mf.Ensemble.from_model(half, key=KEY)
    prior = mf.SpikeSlabPrior(inclusion_prob=0.3, slab_scale=1.0)
    result = mf.fit(
        ensemble,
        (X.astype(jnp.bfloat16), Y),
        prior=prior,
        key=KEY,
        epochs=1,
        batch_size=12,
        progress=False,
    )
    numbers = Unconstrained().encode(ensemble.weights()["weight"])
    exact = float(Unconstrained().kl(numbers, prior).sum()) / 12
    assert result.history["kl"][0] == pytest.approx(exact, rel=1e-5)


def unchecked(function):
    """The function without the types that only the tests check."""
    return getattr(function, "__wrapped__", function)


@pytest.mark.parametrize("num_data", [-5, 0, float("nan"), 2.5, float("inf")])
def test_a_number_of_examples_that_cannot_be_is_refused(num_data):
    ensemble = mf.Ensemble.from_model(eqx.nn.Linear(4, 3, key=KEY))
    with pytest.raises(ValueError, match="`num_data` must be a whole number, at least"):
        unchecked(mf.fit)(
            ensemble,
            (X, Y),
            key=KEY,
            prior=mf.SpikeSlabPrior(inclusion_prob=0.5),
            num_data=num_data,
            batch_size=12,
        )


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_variance_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="`slab_var` must"):
        mf.SpikeSlab([0.5], [1.0], [bad])
    with pytest.raises(ValueError, match="`slab_mean` must be finite"):
        mf.SpikeSlab([0.5], [bad], [1.0])
