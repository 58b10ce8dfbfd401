"""The transformation rule by rule: gradients, loops, refusals, types, devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax
from models import draws_of_weights, keys, make_random, place_weights, signal

import meanfield as mf
from meanfield.propagation import registry

NUMBER = 4000
KEY = jax.random.key(0)


def slab(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return make_random(jnp.asarray(rng.standard_normal(shape), jnp.float32), seed)


def layer(weight, x):
    """The published layer: z = x w / √N."""
    return x @ weight / np.sqrt(x.shape[1])


# Gradients: generalized back-propagation, by hand and by finite differences.


def hand_derived(weight, x, error, key):
    """Noise read off the draw, and the published gradients for it."""
    pi, m, xi = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(weight))
    a = np.asarray(x, np.float64)
    z = np.asarray(mf.mean_field(layer)(weight, x, key=key), np.float64)
    mean, width = oracles.gbp_layer(pi, m, xi, a, 0.0)
    noise = np.where(width > 0, (z - mean) * np.sqrt(a.shape[1]), 0)
    noise = noise / np.where(width > 0, width, 1)
    return oracles.gbp_gradients(pi, m, xi, a, noise, width, np.asarray(error))


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_are_generalized_back_propagation(jit):
    weight, x, error = slab(5, 3), signal(4, 5), signal(4, 3, seed=1)

    def loss(weight, x):
        return jnp.sum(error * mf.mean_field(layer)(weight, x, key=KEY))

    gradient = jax.grad(loss, argnums=(0, 1))
    by_weight, by_input = (jax.jit(gradient) if jit else gradient)(weight, x)
    expected, expected_input = hand_derived(weight, x, error, KEY)
    for got, wanted in zip(jax.tree.leaves(by_weight), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(by_input, expected_input, rtol=2e-4, atol=2e-5)


def test_terms_of_a_silent_unit_vanish_from_the_gradient():
    pi, m, xi = jnp.zeros((5, 3)), signal(5, 3), jnp.zeros((5, 3))
    weight, x, error = mf.SpikeSlab(pi, m, xi), signal(4, 5), signal(4, 3, seed=1)

    def loss(weight, x):
        return jnp.sum(error * mf.mean_field(layer)(weight, x, key=KEY))

    by_weight, by_input = jax.grad(loss, argnums=(0, 1))(weight, x)
    expected, expected_input = hand_derived(weight, x, error, KEY)
    for got, wanted in zip(jax.tree.leaves(by_weight), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_input, expected_input, rtol=1e-5, atol=1e-6)
    silent = jax.grad(loss)(slab(5, 3), jnp.zeros((4, 5)))
    for leaf in jax.tree.leaves(silent):
        np.testing.assert_array_equal(leaf, jnp.zeros((5, 3)))


def test_gradients_agree_with_finite_differences_through_two_layers():
    with x64():
        rng = np.random.default_rng(3)
        draw = lambda low, high, *shape: jnp.asarray(rng.uniform(low, high, shape))
        params = [
            mf.SpikeSlab(draw(0.1, 0.9, *s), draw(-1, 1, *s), draw(0.1, 1, *s))
            for s in ((4, 3), (3, 2))
        ]
        x = jnp.asarray(rng.standard_normal((5, 4)))

        def network(params, x):
            return jnp.tanh(jnp.tanh(x @ params[0]) @ params[1])

        @jax.jit
        def loss(params):
            z = mf.mean_field(network)(params, x, key=KEY)
            return jnp.sum(jnp.square(z) * jnp.arange(1, 11).reshape(5, 2))

        got = jax.tree.leaves(jax.grad(loss)(params))
        flat, treedef = jax.tree.flatten(params)
        for number, leaf in enumerate(flat):
            index = np.unravel_index(number % leaf.size, leaf.shape)
            ends = []
            for step in (1e-6, -1e-6):
                moved = list(flat)
                moved[number] = leaf.at[index].add(step)
                ends.append(float(loss(jax.tree.unflatten(treedef, moved))))
            slope = (ends[0] - ends[1]) / 2e-6
            assert float(got[number][index]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_the_written_out_derivative_of_the_variance_is_the_true_one():
    weight = slab(6, 5)

    def plain(spike, mean, var):
        return (1 - spike) * (var + spike * jnp.square(mean))

    leaves = jax.tree.leaves(weight)
    got = jax.jacobian(lambda *parts: mf.SpikeSlab(*parts).var.sum(), (0, 1, 2))(
        *leaves
    )
    wanted = jax.jacobian(lambda *parts: plain(*parts).sum(), (0, 1, 2))(*leaves)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    twice = jax.hessian(lambda m: mf.SpikeSlab(leaves[0], m, leaves[2]).var.sum())
    by_hand = jax.hessian(lambda m: plain(leaves[0], m, leaves[2]).sum())
    np.testing.assert_allclose(twice(leaves[1]), by_hand(leaves[1]), rtol=1e-5)


# Loops and branches, each against explicit sampling of the weights.


def stepwise(weights, x):
    """A scan over random rows; every step's result is kept."""
    return lax.scan(lambda carry, w: (carry, x @ w), 0.0, weights)[1]


def carried(weights, x):
    """The weight travels as the state of a loop."""
    return lax.scan(lambda w, row: (w, row @ w), weights[0], x)[1]


def constant(weights, x):
    """The weight is a constant of the loop."""
    return lax.scan(lambda carry, row: (carry, row @ weights[1]), 0.0, x)[1]


def everything_at_once(weights, x):
    def step(carry, inputs):
        row, w = inputs
        return carry, (row @ carry, row @ w, row @ weights[2])

    return jnp.concatenate(lax.scan(step, weights[0], (x[:3], weights))[1])


def nested(weights, x):
    def outer(carry, w):
        rows = lax.scan(lambda c, row: (c, row @ w), 0.0, x)[1]
        return carry, lax.cond(carry > 0, lambda r: 2 * r, lambda r: r, rows)

    return lax.scan(outer, 1.0, weights)[1]


def either(weights, x, flag):
    return lax.cond(
        flag, lambda w, x: x @ w[0], lambda w, x: 1 - 2 * (x @ w[1]), weights, x
    )


def switched(weights, x):
    branches = [lambda x, n=n: x @ weights[n] for n in range(3)]
    return jnp.stack([lax.switch(jnp.asarray(n), branches, x) for n in (2, 0, 1)])


def while_rows(weights, x):
    def body(state):
        step, rows = state
        w = lax.dynamic_index_in_dim(weights, step, keepdims=False)
        return step + 1, rows.at[step].set(x @ w)

    start = (jnp.asarray(0), jnp.zeros((3, x.shape[0], weights.shape[2])))
    return lax.while_loop(lambda state: state[0] < 3, body, start)[1]


def counted(weights, x):
    body = lambda n, z: z.at[n].set(x @ weights[1])
    return lax.fori_loop(0, 3, body, jnp.zeros((3, x.shape[0], weights.shape[2])))


@jax.custom_jvp
def own_derivative(w, x):
    return 2 * (x @ w)


own_derivative.defjvp(
    lambda primals, tangents: (own_derivative(*primals), 2 * (primals[1] @ tangents[0]))
)


PROGRAMS = {
    "scan over random rows": stepwise,
    "scan with a random carry": carried,
    "scan with a random constant": constant,
    "scan with all three": everything_at_once,
    "cond in scan in scan": nested,
    "cond, taken": lambda w, x: either(w, x, True),
    "cond, not taken": lambda w, x: either(w, x, False),
    "switch": switched,
    "while loop": while_rows,
    "fori loop": counted,
    "checkpoint": lambda w, x: jax.checkpoint(lambda w, x: x @ w[0])(w, x),
    "checkpoint in scan": lambda w, x: lax.scan(
        jax.checkpoint(lambda c, w: (c, x @ w)), 0.0, w
    )[1],
    "custom derivative": lambda w, x: own_derivative(w[0], x),
    "look-up": lambda w, x: w[0, jnp.asarray([2, 0, 2])] * 2,
    "sum of two layers": lambda w, x: x @ w[0] + jnp.square(x) @ w[1],
    "batched product": lambda w, x: jnp.einsum("bi,nij->nbj", x, w),
    "weights first": lambda w, x: jnp.einsum("nij,bi->njb", w, x),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_control_flow_follows_explicit_weight_sampling(name, compiled):
    program, weights, x = PROGRAMS[name], slab(3, 4, 2), signal(3, 4)
    ensemble = mf.mean_field(program)
    if not compiled:  # One draw outside jit is the draw inside vmap and jit.
        one = ensemble(weights, x, key=keys(2)[1])
        both = jax.vmap(lambda key: ensemble(weights, x, key=key))(keys(2))
        np.testing.assert_allclose(one, both[1], rtol=1e-5, atol=1e-6)
        return
    run = jax.jit(jax.vmap(lambda key: ensemble(weights, x, key=key)))
    drawn = draws_of_weights(weights, NUMBER)
    explicit = jax.jit(jax.vmap(lambda d: program(place_weights(weights, d), x)))
    oracles.assert_same_law(run(keys(NUMBER)), explicit(drawn))


def test_every_step_of_a_loop_draws_noise_of_its_own():
    x = jnp.broadcast_to(signal(1, 4), (6, 4))
    z = mf.mean_field(constant)(slab(3, 4, 2), x, key=KEY)
    assert len(np.unique(np.asarray(z)[:, 0])) == 6


# Refusals: the primitive, the parameter's path, the two ways out.


@jax.custom_vjp
def straight_through(w):
    return jnp.sign(w)


straight_through.defvjp(lambda w: (jnp.sign(w), None), lambda _, g: (g,))


def while_random(w, x):
    return lax.while_loop(lambda z: z[0, 0] < 1, lambda z: z + 1, x @ w)


REFUSED = {
    "sort": (lambda p, x: x @ jnp.sort(p["w"]), "sort", "sampled"),
    "function of a weight": (lambda p, x: x @ jnp.cos(p["w"]), "cos", "sampled"),
    "custom_vjp": (
        lambda p, x: x @ straight_through(p["w"]),
        "custom_vjp_call",
        "sampled",
    ),
    "comparison": (lambda p, x: x[0, 0] * (p["w"][0, 0] > 0), "gt", "sampled"),
    "integer": (
        lambda p, x: x[0, p["w"][0, 0].astype(int)],
        "convert_element_type",
        "sampled",
    ),
    "product of weights": (
        lambda p, x: x @ (p["w"] @ p["v"]),
        "dot_general",
        "sampled",
    ),
    "weight plus itself": (lambda p, x: x @ (p["w"] + p["w"]), "mul|add", "sampled"),
    "square of a weight": (lambda p, x: x @ jnp.square(p["w"]), "square", "sampled"),
    "cond": (
        lambda p, x: lax.cond((x @ p["w"])[0, 0] > 0, lambda: 1.0, lambda: 2.0),
        "cond",
        "moments",
    ),
    "while": (lambda p, x: while_random(p["w"], x), "while", "moments"),
    "cholesky": (
        lambda p, x: jnp.linalg.cholesky((x.T @ x) * p["w"][0, 0]),
        "cholesky",
        "moments",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name_path_and_ways_out(name):
    function, primitive, reading = REFUSED[name]
    params, x = {"w": slab(4, 4), "v": slab(4, 4, seed=1)}, signal(3, 4)
    with pytest.raises(mf.UnsupportedPrimitiveError) as caught:
        mf.mean_field(function, reading=reading)(params, x, key=KEY)
    message = str(caught.value)
    assert any(f"`{each}`" in message for each in primitive.split("|"))
    assert "`w`" in message
    assert "register_rule(" in message
    assert "`where=`" in message
    assert f"in the {reading} reading" in message


def test_a_path_is_named_as_it_lies_in_the_tree():
    params = {"encoder": [{"kernel": slab(4, 4)}]}
    where = r"`cos` at .*test_propagation\.py:\d+ has .* `encoder/0/kernel`"
    with pytest.raises(mf.UnsupportedPrimitiveError, match=where):
        mf.mean_field(lambda p, x: x @ jnp.cos(p["encoder"][0]["kernel"]))(
            params, signal(3, 4), key=KEY
        )


def test_what_is_drawn_may_decide_in_the_sampled_reading():
    def choose(w, x):
        z = x @ w
        return lax.cond(z[0, 0] > 0, lambda z: z, lambda z: -z, z)

    draws = jax.vmap(lambda k: mf.mean_field(choose)(slab(4, 2), signal(3, 4), key=k))
    assert (draws(keys(50))[:, 0, 0] > 0).all()


def test_plain_arguments_run_as_they_are_whatever_the_primitive():
    def network(p, x):
        return straight_through(jnp.sort(x)) @ p["w"], jnp.linalg.qr(p["v"])[0]

    params = {"w": slab(4, 2), "v": signal(4, 4)}
    z, q = mf.mean_field(network)(params, signal(3, 4), key=KEY)
    assert z.shape == (3, 2)
    np.testing.assert_array_equal(q, jnp.linalg.qr(params["v"])[0])


def test_a_rule_of_the_users_own_is_followed(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @mf.register_rule("cumsum", reading="sampled")
    def running_sum(equation, weight):
        return equation.contract(equation.bind(weight.mean), equation.bind(weight.var))

    @mf.register_rule("cos", reading="sampled")
    def of_the_drawn_weight(equation, weight):
        return equation.bind(equation.draw(weight))

    def network(w, x):
        return jnp.cumsum(w, axis=0) * x[:, None] + jnp.cos(w)

    weight, x = slab(4, 2), signal(4)
    first = lambda w, x: jnp.cumsum(w, axis=0) * x[:, None]
    run = jax.vmap(lambda key: mf.mean_field(first)(weight, x, key=key))
    drawn = draws_of_weights(weight, NUMBER)
    explicit = jax.vmap(lambda d: first(place_weights(weight, d), x))(drawn)
    oracles.assert_same_law(run(keys(NUMBER)), explicit)
    assert mf.mean_field(network)(weight, x, key=KEY).shape == (4, 2)
    with pytest.raises(mf.UnsupportedPrimitiveError, match="`cumsum`.*moments reading"):
        mf.mean_field(first, reading="moments")(weight, x)


def test_bad_readings_and_missing_keys_are_said():
    with pytest.raises(
        ValueError, match="`reading` must be 'sampled', 'moments' or 'delta'"
    ):
        unchecked(mf.mean_field)(layer, reading="exact")
    with pytest.raises(ValueError, match="`reading` must be.*got 'exact'"):
        unchecked(mf.register_rule)("sin", lambda equation, x: x, reading="exact")
    with pytest.raises(ValueError, match="`key` is needed.*got None.*jax.random.key"):
        mf.mean_field(layer)(slab(4, 2), signal(3, 4))


def unchecked(function):
    """The function without the types that only the tests check."""
    return getattr(function, "__wrapped__", function)


# Number types and devices.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_number_types_have_the_same_law(dtype):
    with x64(dtype == "float64"):
        whole, x = slab(6, 3), signal(4, 6)
        weight = jax.tree.map(lambda leaf: leaf.astype(dtype), whole)
        ensemble = mf.mean_field(lambda w, x: jnp.tanh(x @ w))
        run = jax.vmap(lambda key: ensemble(weight, x.astype(dtype), key=key))
        z = run(keys(NUMBER))
        assert z.dtype == dtype
        assert bool(jnp.isfinite(z).all())
        drawn = draws_of_weights(whole, NUMBER)
        explicit = jax.vmap(lambda d: place_weights(whole, d))(drawn)
        exact = x @ explicit
        got = jax.vmap(
            lambda key: mf.mean_field(lambda w, x: x @ w)(
                weight, x.astype(dtype), key=key
            )
        )(keys(NUMBER))
        # Rounding of the weights themselves: half a unit in the last place.
        floor = 1e-6 if dtype == "float64" else float(jnp.finfo(dtype).eps)
        oracles.assert_same_law(got, exact, floor=floor)
        loss = lambda w: jnp.sum(ensemble(w, x.astype(dtype), key=KEY))
        gradient = jax.tree.leaves(jax.grad(loss)(weight))
        assert all(g.dtype == dtype and bool(jnp.isfinite(g).all()) for g in gradient)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, meanfield as mf
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
put = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
full = lambda value, *shape: jnp.full(shape, value)
weight = mf.SpikeSlab(full(0.3, 6, 8), jnp.arange(48.0).reshape(6, 8), full(0.5, 6, 8))
x = jnp.arange(24.0).reshape(4, 6) / 10
f = jax.jit(lambda w, x: mf.mean_field(lambda w, x: jnp.tanh((x @ w) / 60))(
    w, x, key=jax.random.key(1)))
whole = f(weight, x)
split = f(put(weight, P(None, "model")), put(x, P("data")))
assert len(split.sharding.device_set) == 4, split.sharding
np.testing.assert_allclose(whole, split, rtol=1e-6, atol=1e-6)
print("equal")
"""


def test_noise_does_not_depend_on_how_arrays_are_split_over_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "equal" in done.stdout


def x64(on=True):
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64

    return enable_x64(on)
