"""Initial weights of lognormal magnitude or critical variance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import meanfield as mf
from meanfield.ensemble.jaynes import (
    critical_initialize,
    jaynes_initialize,
    jaynes_weights,
)
from meanfield.physics.microstructure.lognormal_fit import (
    fit_microstructure,
)


def test_jaynes_weights_are_lognormal_with_the_variance_asked_for():
    w = jaynes_weights((500, 400), key=jax.random.key(0), num_inputs=400, gain=1.7)
    square = 400 * np.square(np.asarray(w, float))
    error = square.std() / math.sqrt(square.size)
    assert abs(square.mean() - 1.7) < 5 * error
    fit = fit_microstructure(w)
    assert fit.verdict == "lognormal"
    assert abs(fit.sigma - 0.65) < 5 * fit.sigma_error
    assert abs(fit.sign_z) < 5
    again = jaynes_weights((500, 400), key=jax.random.key(0), num_inputs=400, gain=1.7)
    assert bool((w == again).all())


def test_jaynes_weights_of_no_width_have_one_magnitude():
    w = jaynes_weights((5, 8), key=jax.random.key(0), num_inputs=8, gain=2, sigma=0)
    np.testing.assert_allclose(np.abs(w), 0.5, rtol=1e-6)


@pytest.mark.parametrize("initialize", [jaynes_initialize, critical_initialize])
def test_initialisation_gives_every_layer_its_variance(initialize):
    params = {
        "conv/weight": jnp.zeros((100, 20, 3, 3)),
        "dense/kernel": jnp.zeros((300, 200)),
        "bias": jnp.arange(3.0),
        "name": jnp.tanh,
        "slab": mf.SpikeSlab(
            jnp.full((200, 300), 0.25),
            jnp.zeros((200, 300)),
            jnp.full((200, 300), 1e-3),
        ),
    }
    amount = {"gain": 2.0} if initialize is jaynes_initialize else {"weight_var": 2.0}
    fresh = initialize(params, key=jax.random.key(2), **amount)
    assert fresh["name"] is jnp.tanh
    assert bool((fresh["bias"] == params["bias"]).all())
    for name, inputs in (("conv/weight", 180), ("dense/kernel", 300)):
        square = inputs * np.square(np.asarray(fresh[name], float))
        assert abs(square.mean() - 2) < 5 * square.std() / math.sqrt(square.size)
    slab = fresh["slab"]
    second = 300 * np.asarray(slab.var + slab.mean**2, float)
    assert abs(second.mean() - 2) < 5 * second.std() / math.sqrt(second.size)
    assert bool((slab.spike_prob == 0.25).all())


def test_initialisation_refuses_what_cannot_have_the_variance():
    key = jax.random.key(0)
    wide = mf.SpikeSlab(jnp.zeros((9, 100)), jnp.zeros((9, 100)), jnp.ones((9, 100)))
    with pytest.raises(ValueError, match="small enough in 'w' that slab means"):
        critical_initialize({"w": wide}, key=key, weight_var=2.0)
    absent = mf.SpikeSlab(*[jnp.ones((9, 9))] * 3)
    with pytest.raises(ValueError, match="share 0 of connections"):
        jaynes_initialize({"w": absent}, key=key)
    with pytest.raises(ValueError, match="weight of two or more dimensions"):
        jaynes_initialize({"b": jnp.ones(3)}, key=key)
    with pytest.raises(ValueError, match="`gain` must be positive"):
        jaynes_initialize({"w": jnp.ones((3, 3))}, key=key, gain=0)
    with pytest.raises(ValueError, match="`gain` must be positive"):
        jaynes_weights((3, 3), key=key, num_inputs=3, gain=-1.0)
    with pytest.raises(ValueError, match="`num_inputs` must be at least 1"):
        jaynes_weights((3, 3), key=key, num_inputs=0)
    with pytest.raises(ValueError, match="`sigma` must be at least 0"):
        jaynes_weights((3, 3), key=key, num_inputs=3, sigma=-0.1)
