"""π and Ξ learned around a trained network whose weights are held."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_networks import KEY, KINDS, X, Y, model

import meanfield as mf
from meanfield.data import load
from meanfield.ensemble.networks import mlp

SETTINGS = {"key": KEY, "hold": "means", "progress": False}
RULES = {
    "published": {"prior": None},
    "projected": {
        "prior": mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0),
        "parametrization": mf.learning.Projected(1e-6),
    },
    "bound": {"prior": mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")},
    "selective": {"prior": "selective"},
}


def pair():
    """A function and its parameters, some of them point values."""
    params = {
        "in": jnp.ones((4, 5)) / 3,
        "bias": jnp.zeros(5),
        "out": jnp.eye(5)[:, 2:],
    }
    return (lambda p, x: jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"]), params


def held_parts(ensemble):
    """Every array but π and Ξ, by path name."""
    weights = ensemble.weights()
    means = ensemble.with_weights({n: w.slab_mean for n, w in weights.items()}).params
    is_key = lambda a: jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
    arrays = jax.tree.leaves(eqx.filter(means, eqx.is_array))
    return [jax.random.key_data(a) if is_key(a) else a for a in arrays]


@pytest.mark.parametrize(
    ("kind", "rule"), list(zip([*KINDS, "pair"], RULES, strict=True))
)
def test_all_but_the_distributions_around_the_weights_stays_equal_to_the_bit(
    kind, rule
):
    net = pair() if kind == "pair" else model(kind, 0.3)
    start = mf.ensemble.from_weights(0.05, spike_prob=0.1)
    ensemble = mf.Ensemble.from_model(net, initial=start)
    settings = SETTINGS | RULES[rule] | {"epochs": 2, "batch_size": 8}
    found = mf.fit(ensemble, (X, Y), **settings).ensemble
    for one, other in zip(held_parts(found), held_parts(ensemble), strict=True):
        np.testing.assert_array_equal(one, other)
    for name, weight in found.weights().items():
        old = ensemble.weights()[name]
        for part in ("spike_prob", "slab_var"):
            assert (getattr(weight, part) != getattr(old, part)).mean() > 0.5
    assert found.training == ensemble.training  # It can still be trained further.


def test_a_linear_model_has_the_distributions_of_the_closed_form():
    r"""With Σ x x' diagonal the bound is a sum over the weights.

    Ξ = 1 / (A/σ² + 1/s²) and
    ln π/(1 − π) = ln π₀/(1 − π₀) + [A (Ξ + m²) − 2 B m] / 2σ² + KL(N(m, Ξ)‖N(0, s²)),
    where A = Σ x² and B = Σ x y.
    """
    n, noise, scale, inclusion = 64, 0.5, 0.8, 0.3
    signs = np.array([[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]])
    x = np.tile(signs, (n // 4, 1)) * np.array([0.3, 0.5, 0.2])
    y = x @ np.array([0.6, -0.3, 0.5]) + noise * np.random.default_rng(0).normal(size=n)
    means = np.array([0.5, -0.2, 0.3])
    a, b = (x**2).sum(0), x.T @ y
    var = 1 / (a / noise**2 + 1 / scale**2)
    slab = 0.5 * ((var + means**2) / scale**2 - 1 - np.log(var / scale**2))
    logit = np.log((1 - inclusion) / inclusion) + slab
    logit += (a * (var + means**2) - 2 * b * means) / (2 * noise**2)

    params = {"w": jnp.asarray(means[:, None], jnp.float32)}
    ensemble = mf.Ensemble.from_model((lambda p, x: (x @ p["w"])[:, 0], params))
    result = mf.fit(
        ensemble,
        (jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)),
        likelihood=mf.Gaussian(scale=noise),
        prior=mf.SpikeSlabPrior(inclusion_prob=inclusion, slab_scale=scale),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 1000)),
        epochs=1000,
        batch_size=n,
        **SETTINGS,
    )
    weight = result.ensemble.weights()["w"]
    expected = 1 / (1 + np.exp(-logit))
    assert 0.02 < expected.min() < expected.max() < 0.95
    np.testing.assert_allclose(
        weight.slab_var[:, 0], var, rtol=0.05
    )  # the noise of 1,000 steps
    np.testing.assert_allclose(weight.spike_prob[:, 0], expected, atol=0.02)


def test_without_a_step_the_ensemble_is_the_trained_network():
    ensemble = mf.Ensemble.from_model(pair(), initial=mf.ensemble.from_weights(0.0))
    settings = SETTINGS | {"prior": None, "epochs": 1, "batch_size": 8}
    found = mf.fit(ensemble, (X, Y), optimizer=optax.sgd(0.0), **settings).ensemble
    apply, params = pair()
    np.testing.assert_array_equal(found(X, key=KEY), jax.jit(apply)(params, X))


def test_the_likelihood_is_learned_while_the_network_is_held():
    likelihood = mf.Gaussian(scale="learned")
    apply, params = pair()
    ensemble = mf.Ensemble.from_model((lambda p, x: apply(p, x)[:, 0], params))
    settings = SETTINGS | {"prior": None, "epochs": 2, "batch_size": 8}
    result = mf.fit(ensemble, (X, X[:, 0]), likelihood=likelihood, **settings)
    before, after = (jax.tree.leaves(part) for part in (likelihood, result.likelihood))
    assert (np.array(before) != np.array(after)).all()


@pytest.fixture(scope="module")
def digits():
    """Digits in three parts, and a point network that learned from the first."""
    data = load("digits")
    x = jnp.concatenate([data.x_train, data.x_test]).reshape(-1, 64)
    y = np.concatenate([data.y_train, data.y_test])
    parts = [(x[rows], y[rows]) for rows in np.split(np.arange(len(x)), [700, 1500])]
    point = mf.Ensemble.from_points(mlp((64, 32, 10), key=KEY))
    fit = mf.fit(point, parts[0], key=KEY, epochs=40, prior=None, progress=False)
    return parts, fit.ensemble.mean_network()


def test_labels_of_a_trained_network_are_certified_without_training_it(digits):
    (train, held, test), net = digits
    right = lambda net: float((jax.vmap(net)(test[0]).argmax(1) == test[1]).mean())
    ensemble = mf.Ensemble.from_model(net)
    prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned")
    optimizer = optax.chain(
        optax.adam(5e-3), mf.learning.scale_steps({"spike_logit": 10.0})
    )
    settings = SETTINGS | {"epochs": 40, "temperature": 0.3, "optimizer": optimizer}
    found = mf.fit(ensemble, train, prior=prior, **settings).ensemble
    labels = mf.label_connections(found, data=held, key=KEY, epsilon=0.03)
    assert labels.fractions["layers/0/weight"]["absent"] > 0.5
    absent = {n: a == mf.Label.ABSENT for n, a in labels.labels.items()}
    choose = lambda name, weight: jnp.where(absent[name], 0, weight.mean)
    assert right(found.model(choose)) > right(net) - 0.06


def test_a_hold_that_cannot_be_is_refused():
    ensemble = mf.Ensemble.from_model(pair())
    with pytest.raises(ValueError, match="`hold` must be 'means' or None; got 'all'"):
        mf.fit(ensemble, (X, Y), **(SETTINGS | {"hold": "all"}))
    point = mf.Ensemble.from_points(pair())
    with pytest.raises(ValueError, match="from_model\\(model\\) without a key"):
        mf.fit(point, (X, Y), **SETTINGS)


def test_a_run_with_held_means_is_not_continued_without(tmp_path):
    ensemble = mf.Ensemble.from_model(pair())
    settings = SETTINGS | {"prior": None, "batch_size": 8}
    settings |= {"checkpoint": tmp_path, "optimizer": optax.adam(1e-3)}
    mf.fit(ensemble, (X, Y), epochs=1, **settings)
    with pytest.raises(ValueError, match="another"):
        mf.fit(ensemble, (X, Y), epochs=2, **(settings | {"hold": None}))
    resumed = mf.fit(ensemble, (X, Y), epochs=2, **settings)
    whole = mf.fit(ensemble, (X, Y), epochs=2, **(settings | {"checkpoint": None}))
    for one, other in zip(
        jax.tree.leaves(resumed.ensemble.params),
        jax.tree.leaves(whole.ensemble.params),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
