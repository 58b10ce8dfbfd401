"""Runs on both lines of ArviZ: `InferenceData` (0.x) and `DataTree` (1.x)."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import meanfield as mf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

NEW = int(az.__version__.split(".")[0]) >= 1
# ArviZ and what it plots with warn of their own future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def fitted():
    """An ensemble fitted to a noisy plane."""
    key = jax.random.key(0)
    x = jax.random.normal(key, (40, 2))
    y = x @ jnp.array([1.0, -2.0]) + 0.1 * jax.random.normal(jax.random.key(1), (40,))
    network = eqx.nn.MLP(2, 1, 6, 1, key=key)
    result = mf.fit(
        mf.Ensemble.from_model(network, key=key),
        (x, y),
        likelihood=mf.Gaussian(),
        key=key,
        epochs=600,
        batch_size=20,
        progress=False,
        prior=None,
    )
    return result, x, y


def _data(fitted, **settings):
    result, x, y = fitted
    settings = {"likelihood": result.likelihood, "num_samples": 400} | settings
    return mf.to_arviz(result.ensemble, (x, y), key=jax.random.key(3), **settings)


@pytest.fixture(scope="module")
def found(fitted):
    return _data(fitted)


def test_inference_data_hold_what_drawn_subnetworks_say(fitted):
    result, x, y = fitted
    found = _data(fitted, num_samples=80, num_chains=4)
    weight = found["posterior"]["layers.0.weight"]
    assert weight.dims == ("chain", "draw", "layers.0.weight_0", "layers.0.weight_1")
    assert weight.shape == (4, 20, 6, 2)
    assert weight.coords["layers.0.weight_0"].values.tolist() == list(range(6))
    log_prob = found["log_likelihood"]["y"]
    assert log_prob.dims[:3] == ("chain", "draw", "example")
    # The stored weights give the stored log-likelihood by an ordinary forward pass.
    chosen = {
        name: jnp.asarray(found["posterior"][name.replace("/", ".")].values[2, 7])
        for name in result.ensemble.weights()
    }
    network = result.ensemble.model(lambda name, law: chosen[name])
    outputs = jax.vmap(network)(x)[:, 0]
    scale = float(result.likelihood.scale)
    expected = -0.5 * ((y - outputs) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(log_prob.values[2, 7], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["observed_data"]["y"].values, y)
    assert found["constant_data"]["x"].shape == (40, 2)
    predicted = found["posterior_predictive"]["y"].values
    assert abs(predicted.mean((0, 1)) - np.asarray(y)).mean() < 1.0


def test_the_container_is_that_of_the_installed_arviz(found):
    kind = type(found).__name__
    assert kind == ("DataTree" if NEW else "InferenceData")
    groups = {
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "constant_data",
    }
    names = set(found.children) if NEW else set(found.groups())
    assert groups <= names


def test_leave_one_out_agrees_with_the_predictive_density(fitted, found):
    loo = az.loo(found, pointwise=True)
    assert loo.n_data_points == 40
    elpd = loo.elpd if NEW else loo.elpd_loo
    log_prob = found["log_likelihood"]["y"].values.reshape(400, 40)
    inside = np.logaddexp.reduce(log_prob, axis=0).sum() - 40 * np.log(400)
    # Leaving a point out costs, and not much where each of 40 weighs little.
    assert inside - 40 < elpd < inside


def test_compare_prefers_the_noise_that_was_learned(fitted, found):
    scale = 10 * float(fitted[0].likelihood.scale)
    wide = _data(fitted, likelihood=mf.Gaussian(scale=scale))
    table = az.compare({"wide": wide, "learned": found})
    assert table.index[0] == "learned"


def test_posterior_predictive_checks_and_summaries_run(fitted, found):
    table = az.summary(found, var_names=["layers.1.weight"])
    assert len(table) == 6
    if NEW:
        import matplotlib

        matplotlib.use("agg")
        plot = az.plot_ppc_dist(found, backend="matplotlib")
        assert plot is not None
    else:
        axis = az.plot_ppc(found, num_pp_samples=20)
        observed = [line for line in axis.lines if line.get_label() == "Observed"]
        assert len(observed) == 1 or axis.lines


def test_several_targets_have_a_dimension_of_their_own():
    x = jax.random.normal(jax.random.key(0), (12, 3))
    ensemble = mf.Ensemble.from_model(
        eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), key=jax.random.key(1)
    )
    found = mf.to_arviz(
        ensemble,
        (x, np.zeros((12, 2), np.float32)),
        likelihood=mf.Gaussian(0.5),
        num_samples=8,
        key=jax.random.key(2),
    )
    predicted = found["posterior_predictive"]["y"]
    assert predicted.dims == ("chain", "draw", "example", "target_0")
    assert found["log_likelihood"]["y"].shape == (4, 2, 12)


def test_draws_that_do_not_fill_the_chains_are_refused(fitted):
    with pytest.raises(ValueError, match="`num_samples` must be a multiple"):
        _data(fitted, num_samples=7)


def test_unknown_weights_are_named(fitted):
    with pytest.raises(ValueError, match="`var_names` must be among"):
        _data(fitted, var_names=["nothing"])


def test_a_log_likelihood_that_is_nan_is_refused_with_its_example(fitted):
    def likelihood(outputs):
        scale = jnp.where(jnp.arange(len(outputs)) == 5, jnp.nan, 1.0)
        return dist.Normal(outputs[:, 0], scale, validate_args=False)

    with pytest.raises(ValueError, match="log-likelihood of NaN for example 5"):
        _data(fitted, likelihood=likelihood, num_samples=8)


def test_weights_whose_names_are_taken_are_kept_under_names_of_their_own():
    key = jax.random.key(0)
    names = ("y", "x", "chain", "draw", "example", "target_0", "w", "w_1", "b.c")
    shapes = dict.fromkeys(names, (2, 2)) | {"b": {"c": (2, 2)}}
    params = jax.tree.map(
        lambda shape: jax.random.normal(key, shape),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )

    def apply(params, x):
        for weight in jax.tree.leaves(params):
            x = jnp.tanh(x @ weight)
        return x

    certain = lambda name, value, fan_in, key: mf.SpikeSlab(0 * value, value, 0 * value)
    ensemble = mf.Ensemble.from_model((apply, params), initial=certain)
    x, y = jax.random.normal(key, (5, 2)), jnp.arange(5) % 2
    found = mf.to_arviz(ensemble, (x, y), num_samples=8, key=jax.random.key(1))
    posterior = found["posterior"]
    assert set(posterior.data_vars) == {
        *("y_", "x_", "chain_", "draw_", "example_", "target_0_"),
        *("w", "w_1_", "b.c", "b.c_"),
    }
    # With Ξ = 0 each draw is the slab mean.
    for name, weight in ensemble.weights().items():
        variables = {"b/c": "b.c", "b.c": "b.c_", "w": "w"}
        variable = variables.get(name, f"{name}_")
        drawn = posterior[variable].values.reshape(-1, 2, 2)
        np.testing.assert_allclose(drawn[3], weight.mean, rtol=1e-6)
    np.testing.assert_array_equal(found["observed_data"]["y"], y)
    np.testing.assert_allclose(found["constant_data"]["x"], x)
    assert found["log_likelihood"]["y"].shape == (4, 2, 5)
