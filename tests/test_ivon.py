"""The control IVON of the experiments, on a loss whose posterior is known."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np


def test_a_quadratic_loss_has_its_own_curvature_as_posterior_precision(monkeypatch):
    """With ½ a (w − c)², m = a c/(a + δ) and σ² = 1/(N (a + δ))."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    ivon = importlib.import_module("ivon")
    curvature, centre = jnp.array([0.5, 2.0, 8.0]), jnp.array([1.0, -2.0, 0.5])
    decay, num_data = 0.1, 100

    def loss(params, state, batch, key):
        return 0.5 * jnp.sum(curvature * (params["w"] - centre) ** 2), state

    settings = ivon.Settings(0.3, 1.0, 0.9, 0.999, decay)
    data, batches = jnp.zeros((4, 1)), jnp.zeros((6000, 4), int)
    key, start = jax.random.key(0), {"w": jnp.zeros(3)}
    found = ivon.train_ivon(loss, start, {}, data, batches, num_data, key, settings)
    precision = curvature + decay
    mean, deviation = curvature * centre / precision, (num_data * precision) ** -0.5
    np.testing.assert_allclose(found.mean["w"], mean, atol=0.02)
    np.testing.assert_allclose(found.deviation["w"], deviation, rtol=0.1)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(found.draw)(keys)["w"]
    np.testing.assert_allclose(drawn.std(0), found.deviation["w"], rtol=5 / 8000**0.5)
