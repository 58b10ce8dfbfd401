import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az


@pytest.fixture(scope="module")
def fitted():
    key = jax.random.key(0)
    x = jax.random.normal(key, (40, 2))
    y = x @ jnp.array([1.0, -2.0]) + 0.1 * jax.random.normal(jax.random.key(1), (40,))
    ensemble = mf.Ensemble.from_model(eqx.nn.MLP(2, 1, 6, 1, key=key), key=key)
    result = mf.fit(
        ensemble,
        (x, y),
        likelihood=mf.Gaussian(),
        key=key,
        epochs=600,
        batch_size=20,
        progress=False,
    )
    return result, x, y


@pytest.mark.filterwarnings("ignore")
def test_inference_data_hold_what_drawn_subnetworks_say(fitted):
    result, x, y = fitted
    found = mf.to_arviz(
        result.ensemble,
        (x, y),
        likelihood=result.likelihood,
        num_samples=80,
        num_chains=4,
        key=jax.random.key(3),
    )
    weight = found["posterior"]["layers.0.weight"]
    assert weight.dims == ("chain", "draw", "layers.0.weight_0", "layers.0.weight_1")
    assert weight.shape == (4, 20, 6, 2)
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


@pytest.mark.filterwarnings("ignore")
def test_leave_one_out_runs_on_the_inference_data(fitted):
    result, x, y = fitted
    found = mf.to_arviz(
        result.ensemble,
        (x, y),
        likelihood=result.likelihood,
        num_samples=400,
        key=jax.random.key(3),
    )
    loo = az.loo(found)
    mean_log_prob = np.asarray(found["log_likelihood"]["y"].values).mean()
    assert loo.n_data_points == 40
    assert getattr(loo, "elpd", None) is not None or loo.elpd_loo < 40 * mean_log_prob


def test_draws_that_do_not_fill_the_chains_are_refused(fitted):
    result, x, y = fitted
    with pytest.raises(ValueError, match="`num_samples` must be a multiple"):
        mf.to_arviz(
            result.ensemble,
            (x, y),
            likelihood=result.likelihood,
            num_samples=7,
            key=jax.random.key(0),
        )


def test_unknown_weights_are_named(fitted):
    result, x, y = fitted
    with pytest.raises(ValueError, match="`var_names` has"):
        mf.to_arviz(
            result.ensemble,
            (x, y),
            likelihood=result.likelihood,
            var_names=["nothing"],
            key=jax.random.key(0),
        )
