"""The table: every model of the zoo, unchanged, in every way that JAX runs it."""

import functools
import re
from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from models import (
    PLAIN,
    ZOO,
    compiled,
    draws_of_weights,
    is_weight,
    keys,
    make_certain,
    make_random,
    place_weights,
)

import meanfield as mf
from meanfield.spikeslab import is_spike_slab

NUMBER = 2000
every_model = pytest.mark.parametrize("name", ZOO)
# A loop's body is compiled even outside `jit`.
every_model_without_a_loop = pytest.mark.parametrize(
    "name", [name for name in ZOO if "scan" not in name]
)


def energy(z):
    """An uneven quadratic form: its mean knows mean and variance of every entry."""
    weights = jnp.linspace(0.5, 1.5, z.size).reshape(z.shape)
    return jnp.sum(weights * jnp.square(z)) / 2


def slab_gradients(gradient):
    """Gradients of m and Ξ of all weights, in one row."""
    slabs = filter(is_spike_slab, jax.tree.leaves(gradient, is_leaf=is_spike_slab))
    rows = [leaf.ravel() for s in slabs for leaf in (s.slab_mean, s.slab_var)]
    return jnp.concatenate(rows)


def many(params, function, draws):
    """Pre-activations and gradients of `function(params, draw)` over many draws."""

    def loss(params, draw):
        z = function(params, draw)
        return energy(z), z

    def one(params, draw):
        gradient, z = eqx.filter_grad(loss, has_aux=True)(params, draw)
        return z, slab_gradients(gradient)

    def run(params, draws):
        return jax.vmap(lambda draw: one(params, draw))(draws)

    return compiled(run, params, **PLAIN)(params, draws)


@functools.cache
def by_explicit_sampling(name):
    _, first, params, x = ZOO[name]()
    params = make_random(params)
    draws = draws_of_weights(params, NUMBER)
    return many(params, lambda p, draw: first(place_weights(p, draw), x), draws)


@functools.cache
def by_vmap_over_keys(name):
    _, first, params, x = ZOO[name]()
    ensemble, params = mf.mean_field(first), make_random(params)
    return many(params, lambda p, key: ensemble(p, x, key=key), keys(NUMBER))


def of_tiled_batch(name, jit):
    """One call on a batch that repeats each example: the noise of each is its own."""
    _, first, params, x = ZOO[name]()
    params, ensemble = make_random(params), mf.mean_field(first)

    def run(params, x, key):
        return ensemble(params, x, key=key)

    if jit:
        run = compiled(run, params)
    batch = jnp.tile(x, (NUMBER, *(1,) * (x.ndim - 1)))
    z = run(params, batch, jax.random.key(9))
    return z.reshape(NUMBER, len(x), *z.shape[1:])


@every_model
@pytest.mark.parametrize("way", ["eager", "jit", "vmap over keys", "grad"])
def test_first_preactivations_follow_explicit_weight_sampling(name, way):
    z, gradients = by_explicit_sampling(name)
    if way == "grad":
        got = by_vmap_over_keys(name)[1]
        oracles.assert_same_mean(got, gradients)
        assert np.abs(np.mean(got, axis=0)).max() > 0.01
        return
    if way == "vmap over keys":
        got = by_vmap_over_keys(name)[0]
    else:
        got = of_tiled_batch(name, jit=way == "jit")
    oracles.assert_same_law(got, z)
    assert np.var(got, axis=0).max() > 0.01


@every_model
def test_certain_weights_give_the_ordinary_network_and_absent_ones_silence(name):
    apply, _, params, x = ZOO[name]()
    ensemble, key = mf.mean_field(apply), jax.random.key(1)
    random = make_random(params)
    run = compiled(lambda p: ensemble(p, x, key=key), random, **PLAIN)
    ordinary = compiled(lambda p: apply(p, x), params, **PLAIN)
    np.testing.assert_array_equal(run(make_certain(params)), ordinary(params))
    zeros = jax.tree.map(lambda p: 0 * p if is_weight(p) else p, params)
    absent = make_certain(params, spike_prob=1.0, slab_var=1.0)
    np.testing.assert_array_equal(run(absent), ordinary(zeros))
    noisy = run(random)
    assert np.isfinite(noisy).all()
    assert noisy.shape == ordinary(params).shape
    assert not np.allclose(noisy, ordinary(params), atol=1e-2)


@pytest.mark.optimized
@every_model
def test_the_products_of_the_means_have_their_factors_in_the_ordinary_order(name):
    # W x and xᵀ Wᵀ go to kernels that may sum in different orders.
    apply, _, params, x = ZOO[name]()
    ensemble, random = mf.mean_field(apply), make_random(params)
    run = lowered(lambda p: ensemble(p, x, key=jax.random.key(1)), random)
    missing = products(lowered(lambda p: apply(p, x), params)) - products(run)
    assert not missing


def lowered(function, params):
    arrays, static = eqx.partition(params, eqx.is_array)
    program = jax.jit(lambda arrays: function(eqx.combine(arrays, static)))
    return program.lower(arrays).compile().as_text()


def products(program):
    """The matrix products of a compiled program by their shape, rows before columns."""
    return Counter(re.findall(r"= (\w+\[[\d,]*\])\S* dot\(", program))


@pytest.mark.optimized
@pytest.mark.parametrize(
    "name",
    [
        "linen_mlp_dropout",
        "equinox_gru_scan",
        "nnx_conv2d_max_pool_group_norm_residual",
    ],
)
def test_certain_weights_compiled_with_the_optimiser_differ_in_last_digits_at_most(
    name,
):
    # The optimiser fuses a product and a sum into one rounding where it sees both, and
    # the select of the noise decides whether it does.
    apply, _, params, x = ZOO[name]()
    ensemble, certain = mf.mean_field(apply), make_certain(params)
    got = compiled(lambda p: ensemble(p, x, key=jax.random.key(1)), certain)(certain)
    ordinary = compiled(lambda p: apply(p, x), params)(params)
    unit = np.finfo(np.float32).eps * np.abs(ordinary).max()
    assert np.abs(got - ordinary).max() <= 8 * unit


@pytest.mark.optimized
@every_model_without_a_loop
def test_certain_weights_give_the_ordinary_network_to_the_bit_outside_jit(name):
    apply, _, params, x = ZOO[name]()
    got = mf.mean_field(apply)(make_certain(params), x, key=jax.random.key(1))
    np.testing.assert_array_equal(got, apply(params, x))


@every_model
def test_gradients_at_certainty_are_finite_and_back_propagation_of_the_slab_mean(name):
    apply, _, params, x = ZOO[name]()
    ensemble, key = mf.mean_field(apply), jax.random.key(1)
    certain = make_certain(params)

    def slope(function):
        return lambda params: eqx.filter_grad(lambda p: energy(function(p)))(params)

    run = compiled(slope(lambda p: ensemble(p, x, key=key)), certain, **PLAIN)
    ordinary = compiled(slope(lambda p: apply(p, x)), params, **PLAIN)

    def without_slabs(tree, choose):
        return jax.tree.leaves(
            jax.tree.map(
                lambda leaf: choose(leaf) if is_spike_slab(leaf) else leaf,
                tree,
                is_leaf=is_spike_slab,
            )
        )

    got, expected = run(certain), jax.tree.leaves(ordinary(params))
    by_mean = without_slabs(got, lambda slab: slab.slab_mean)
    for one, other in zip(by_mean, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for leaf in jax.tree.leaves(got, is_leaf=is_spike_slab):
        if is_spike_slab(leaf):
            np.testing.assert_array_equal(leaf.slab_var, jnp.zeros(leaf.shape))
    absent = run(make_certain(params, spike_prob=1.0, slab_var=1.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((got, absent)))
