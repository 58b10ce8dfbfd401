"""Functions of weights, and one weight at several places: exact, or refused by name.

Every program is run under fresh noise and under drawn weights, and is compared with
the ordinary function of many sampled sub-networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import lax
from models import ZOO, make_random

import meanfield as mf
from meanfield.propagation import count_readings
from meanfield.propagation.readings import find_readings

NUMBER = 4000
KEY = jax.random.key(0)


def slab(*shape, seed=0, spike=0.2):
    """Random distributions with means of both signs and unequal variances."""
    rng = np.random.default_rng(seed)
    return mf.SpikeSlab(
        jnp.asarray(rng.uniform(0, spike, shape), jnp.float32),
        jnp.asarray(rng.normal(0.3, 1, shape), jnp.float32),
        jnp.asarray(rng.uniform(0.05, 0.6, shape), jnp.float32),
    )


def numbers(*shape, seed=9):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0.4, 1, shape), jnp.float32)


TWICE = np.array([0, 0, 1, 1, 2, 2, 3, 3])
TURN = (np.arange(8)[:, None] + np.arange(8)) % 4
CORNER = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
BASIS = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
KERNELS = np.random.default_rng(4).normal(size=(9, 2)).astype(np.float32)
ZEROS = jnp.zeros(4)
MASK = np.tril(np.ones((4, 4), np.float32))
X8, X4, IMAGE = numbers(3, 8), numbers(3, 4, seed=8), numbers(2, 1, 5, 5, seed=7)


def standardised(w):
    w = w - w.mean(0)
    return w / jnp.sqrt((w * w).mean(0) + 1e-3)


def spectral(w):
    """Two steps of the power iteration from a fixed vector."""
    u = jnp.ones(w.shape[0]) / 2
    for _ in range(2):
        v = w.T @ u
        v = v / jnp.sqrt(jnp.square(v).sum() + 1e-6)
        u = w @ v
        u = u / jnp.sqrt(jnp.square(u).sum() + 1e-6)
    return w / (1 + jnp.abs(u @ w @ v))


def convolved(w, x):
    return lax.conv_general_dilated(x, w, (1, 1), "VALID")


def in_a_loop(w, x):
    return lax.scan(lambda h, row: (h, row @ (w - w.mean(0))), 0.0, x)[1]


@jax.custom_jvp
def scaled_slope(w, x):
    return x @ w


scaled_slope.defjvp(
    lambda primals, tangents: (
        scaled_slope(*primals),
        100 * (primals[1] @ tangents[0]) + tangents[1] @ primals[0],
    )
)

# Read under fresh noise by default, where it is right; else drawn.
EXACT = {
    "plain product": (lambda w, x: x @ w, slab(8, 2), X8),
    "centred": (lambda w, x: x @ (w - w.mean(0)), slab(8, 2), X8),
    "centred over everything": (lambda w, x: x @ (w - w.mean()), slab(8), X8),
    "basis expansion": (lambda w, x: x @ (BASIS @ w), slab(4, 2), X8),
    "basis expansion from the right": (lambda w, x: x @ (w @ BASIS.T), slab(4, 4), X4),
    "basis on the signal": (lambda w, x: (x @ BASIS) @ w, slab(4, 2), X8),
    "basis by einsum": (
        lambda w, x: jnp.einsum("bi,ik,ko->bo", x, BASIS, w),
        slab(4, 2),
        X8,
    ),
    "merged adapter": (
        lambda p, x: x @ (p["base"] + BASIS @ p["b"]),
        {"base": numbers(8, 2), "b": slab(4, 2)},
        X8,
    ),
    "adapter with a random base": (
        lambda p, x: x @ (p["base"] + 2 * (BASIS @ p["b"])),
        {"base": slab(8, 2, seed=1), "b": slab(4, 2)},
        X8,
    ),
    "kernel from a basis": (
        lambda w, x: convolved((KERNELS @ w).T.reshape(3, 1, 3, 3), x)[..., :2, :2],
        slab(2, 3),
        IMAGE,
    ),
    "weight divided by its sum": (
        lambda w, x: x @ (w / (9 + w.sum(0))),
        slab(8, 2),
        X8,
    ),
    "weight times its mean": (lambda w, x: (x @ w) * w.mean(), slab(8), X8),
    "spectral norm": (lambda w, x: x @ spectral(w), slab(4, 4), X4),
    "sum of the weights alone": (lambda w, x: x.sum() + w.sum(0), slab(8, 2), X8),
    "twice by index": (lambda w, x: x @ w[TWICE], slab(4), X8),
    "twice by take": (lambda w, x: x @ jnp.take(w, TWICE, axis=0), slab(4, 2), X8),
    "twice by concatenation": (lambda w, x: x @ jnp.concatenate([w, w]), slab(4), X8),
    "opposite signs": (lambda w, x: x @ jnp.concatenate([w, -w]), slab(4), X8),
    "concatenated along the outputs": (
        lambda w, x: x @ jnp.concatenate([w, -w], 1),
        slab(4, 2),
        X4,
    ),
    "outputs in another order": (
        lambda w, x: x @ jnp.concatenate([w[:, 2:], w[:, :2]], 1),
        slab(4, 3),
        X4,
    ),
    "stacked and flattened": (
        lambda w, x: x @ jnp.stack([w, w]).T.reshape(8),
        slab(4),
        X8,
    ),
    "kron": (lambda w, x: x @ jnp.kron(w, jnp.array([1.0, -2.0])), slab(4), X8),
    "kron of matrices": (
        lambda w, x: x @ jnp.kron(w, jnp.array([[1.0, 2.0]]).T),
        slab(4, 2),
        X8,
    ),
    "repeat": (lambda w, x: x @ jnp.repeat(w, 2, axis=0), slab(4, 2), X8),
    "broadcast": (lambda w, x: x @ jnp.broadcast_to(w, (8, 2)), slab(1, 2), X8),
    "one number for all": (lambda w, x: x @ (w * jnp.ones((8, 2))), slab(1, 1), X8),
    "broadcast by hand": (
        lambda w, x: (x * jnp.broadcast_to(w[:, None], (4, 2)).reshape(8)).sum(1),
        slab(4),
        X8,
    ),
    "a sum of products by hand": (
        lambda w, x: (x[:, :, None] * w).sum(1),
        slab(8, 2),
        X8,
    ),
    "circulant by index": (lambda w, x: x @ w[TURN], slab(4), X8),
    "symmetric by index": (lambda w, x: x @ w[CORNER], slab(6), X4[:, :3]),
    "toeplitz": (
        lambda w, x: x @ jax.scipy.linalg.toeplitz(w, w[::-1] * 1.0),
        slab(4),
        X4,
    ),
    "rolled rows": (
        lambda w, x: x @ jax.vmap(lambda s: jnp.roll(w, s))(jnp.arange(4)),
        slab(4),
        X4,
    ),
    "symmetric by masks": (
        lambda w, x: x @ (w * MASK + (w * MASK).T),
        slab(4, 4),
        X4,
    ),
    "two masks of one weight": (
        lambda w, x: x @ (w * MASK + w * MASK[::-1]),
        slab(4, 4),
        X4,
    ),
    "rotated kernels side by side": (
        lambda w, x: convolved(jnp.concatenate([w, jnp.rot90(w, 1, (2, 3))]), x)[
            ..., :1, :1
        ],
        slab(1, 1, 3, 3),
        IMAGE,
    ),
    "rotated kernels on copies of the image": (
        lambda w, x: convolved(
            jnp.concatenate([w, jnp.rot90(w, 1, (2, 3))], 1), jnp.tile(x, (1, 2, 1, 1))
        )[..., :1, :1],
        slab(1, 1, 3, 3),
        IMAGE,
    ),
    "kernel by index": (
        lambda w, x: convolved(w[CORNER][None, None], x)[..., :1, :1],
        slab(6),
        IMAGE,
    ),
    "looked-up rows": (lambda e, i: e[i], slab(5, 3), jnp.array([1, 4, 2])),
    "bag of looked-up rows": (
        lambda e, i: e[i].sum(0),
        slab(5, 3),
        jnp.array([1, 4, 1, 1]),
    ),
    "row minus itself": (
        lambda e, i: e[i] - 2 * e[i[::-1]],
        slab(5, 3),
        jnp.array([1, 4, 1]),
    ),
    "row times itself": (
        lambda e, i: (e[i] * e[i[::-1]]).sum(-1),
        slab(5, 3),
        jnp.array([1, 4, 1]),
    ),
    "in a loop": (in_a_loop, slab(8, 2), X8),
    "in a checkpoint": (
        lambda w, x: jax.checkpoint(lambda w, x: x @ (BASIS @ w))(w, x),
        slab(4, 2),
        X8,
    ),
    "in jit in vmap": (
        lambda w, x: jax.vmap(jax.jit(lambda row: row @ w[TWICE]))(x),
        slab(4, 2),
        X8,
    ),
    "in a branch": (
        lambda w, x: lax.cond(x[0, 0] > 0, lambda: x @ w[TWICE], lambda: 0 * x[:, :2]),
        slab(4, 2),
        X8.at[0, 0].set(1.0),
    ),
    "spectral layer": (
        lambda p, x: jnp.fft.irfft(jnp.fft.rfft(x) * (p["re"] + 1j * p["im"]), n=8),
        {"re": slab(5), "im": slab(5, seed=2)},
        X8,
    ),
    "complex with one random part": (
        lambda w, x: jnp.real(jnp.fft.rfft(x) @ (1j * w)),
        slab(5, 2),
        X8,
    ),
    "with a derivative of its own": (scaled_slope, slab(8, 2), X8),
    "product of masked weights": (
        lambda p, x: x @ ((p["a"] * MASK) * p["b"]),
        {"a": slab(4, 4), "b": slab(4, 4, seed=5)},
        X4,
    ),
    "weight standardised": (lambda w, x: x @ standardised(w), slab(8, 2), X8),
    "weight norm": (
        lambda w, x: x @ (w / jnp.linalg.norm(w, axis=0)),
        slab(8, 2),
        X8,
    ),
    "outer product": (lambda w, x: x @ jnp.outer(w, w), slab(4), X4),
    "scattered": (lambda w, x: x @ jnp.zeros(8).at[TWICE].add(w[TWICE]), slab(4), X8),
    "transform of a weight": (
        lambda w, x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), n=8),
        slab(8),
        X8,
    ),
    "inverse": (
        lambda w, x: jnp.linalg.solve(6 * jnp.eye(4) + w, x.T).T,
        slab(4, 4),
        X4,
    ),
    "tiled": (lambda w, x: x @ jnp.tile(w, 2), slab(4), X8),
    "shared spikes behind a basis": (
        lambda w, x: x @ (BASIS @ w),
        mf.SpikeSlab(jnp.full((4, 1), 0.3), numbers(4, 2), jnp.full((4, 2), 0.2)),
        X8,
    ),
}

# No rule under fresh noise; drawn weights take them.
ONLY_DRAWN = {
    "product of two": (
        lambda p, x: x @ (p["a"] @ p["b"]),
        {"a": slab(8, 3), "b": slab(3, 2, seed=1)},
        X8,
    ),
    "exponential": (lambda w, x: x @ -jnp.exp(w), slab(8, 2), X8),
    "softmax": (lambda w, x: x @ jax.nn.softmax(w, 0), slab(8, 2), X8),
    "sorted": (lambda w, x: x @ jnp.sort(w, 0), slab(8, 2), X8),
    "thresholded by itself": (
        lambda w, x: x @ jnp.where(jnp.abs(w) > 0.3, w, 0),
        slab(8, 2),
        X8,
    ),
    "square": (lambda w, x: x @ jnp.square(w), slab(8, 2), X8),
    "symmetric part": (lambda w, x: x @ (w + w.T), slab(4, 4), X4),
}
# Several pre-activations that read one weight: noise by design, exact when drawn.
BY_DESIGN = {
    "siamese difference": (lambda w, x: x @ w - (x + 0.1) @ w, slab(8, 2), X8),
    "average of positions": (lambda w, x: (x @ w).mean(0), slab(8, 2), X8),
    "windows added": (lambda w, x: x[:, :4] @ w + x[:, 4:] @ w, slab(4, 2), X8),
    "kernel padded and added": (
        lambda w, x: (
            x @ jnp.pad(w, ((0, 4), (0, 0))) + x @ jnp.pad(w, ((4, 0), (0, 0)))
        ),
        slab(4, 2),
        X8,
    ),
    "tied layers": (lambda w, x: jnp.tanh(x @ w) @ w.T, slab(8, 2), X8),
    "loop": (
        lambda w, x: lax.scan(lambda h, v: (jnp.tanh(h @ w + v), None), 0 * x[0], x)[0],
        slab(4, 4),
        X4,
    ),
    "loop written out, from zeros": (
        lambda w, x: functools.reduce(
            lambda h, row: jnp.tanh(h @ w + row), x, jnp.zeros(4)
        ),
        slab(4, 4),
        X4,
    ),
    "loop written out, from a constant of zeros": (
        lambda w, x: functools.reduce(lambda h, row: jnp.tanh(h @ w + row), x, ZEROS),
        slab(4, 4),
        X4,
    ),
    "input gradient": (
        lambda w, x: jax.vmap(jax.grad(lambda v: jnp.tanh(v @ w).sum()))(x),
        slab(8, 2),
        X8,
    ),
}
ALL = EXACT | ONLY_DRAWN | BY_DESIGN


def sample(params, key):
    """The parameters of one sub-network."""
    leaves, treedef = jax.tree.flatten(
        params, is_leaf=lambda leaf: isinstance(leaf, mf.SpikeSlab)
    )
    return jax.tree.unflatten(
        treedef,
        [
            leaf.sample(key) if isinstance(leaf, mf.SpikeSlab) else leaf
            for leaf, key in zip(
                leaves, jax.random.split(key, len(leaves)), strict=True
            )
        ],
    )


@functools.cache
def draws(kind, names):
    """Outputs of many draws of many programs, in one compiled program."""

    def one(key):
        found = {}
        for name in names:
            function, params, x = ALL[name]
            if kind == "subnetworks":
                found[name] = function(sample(params, key), x)
            else:
                found[name] = mf.mean_field(function, noise=kind)(params, x, key=key)
        return found

    seeds = {"subnetworks": 1, "weights": 2, "preactivations": 3}
    keys = jax.random.split(jax.random.key(seeds[kind]), NUMBER)
    fast = {"xla_backend_optimization_level": 0}
    return jax.device_get(jax.jit(jax.vmap(one), compiler_options=fast)(keys))


@pytest.mark.parametrize("name", EXACT)
def test_by_default_mean_and_variance_are_those_of_sampled_subnetworks(name):
    got = draws("preactivations", tuple(EXACT))[name]
    assert np.var(got, 0).max() > 1e-3
    oracles.assert_same_law(got, draws("subnetworks", tuple(ALL))[name], floor=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_drawn_weights_have_the_law_of_sampled_subnetworks(name):
    got = draws("weights", tuple(ALL))[name]
    oracles.assert_same_law(got, draws("subnetworks", tuple(ALL))[name], floor=1e-5)


@pytest.mark.parametrize("name", ONLY_DRAWN)
def test_what_has_no_rule_is_refused_with_the_ways_out(name):
    function, params, x = ONLY_DRAWN[name]
    ways = r'noise="weights".*register_rule\(.*`where='
    with pytest.raises(mf.UnsupportedPrimitiveError, match=ways):
        mf.mean_field(function)(params, x, key=KEY)


READ_EXACTLY = {
    "plain product",
    "basis on the signal",
    "a sum of products by hand",
    "concatenated along the outputs",
    "outputs in another order",
    "rotated kernels side by side",
    "looked-up rows",
    "with a derivative of its own",
    "product of masked weights",
}


@pytest.mark.parametrize("name", EXACT)
def test_the_moments_reading_is_exact_or_refused(name):
    function, params, x = EXACT[name]
    read = mf.mean_field(function, reading="moments")
    if name not in READ_EXACTLY:
        with pytest.raises(NotImplementedError, match="random parameter"):
            read(params, x)
        return
    got = read(params, x)
    drawn = draws("subnetworks", tuple(ALL))[name]
    mean, mean_error, var, var_error = oracles.mean_and_errors(drawn)
    assert (np.abs(got.mean - mean) <= 5 * mean_error + 1e-5).all()
    assert (np.abs(got.var - var) <= 5 * var_error + 1e-5).all()


@pytest.mark.parametrize("name", BY_DESIGN)
def test_preactivations_that_share_a_weight_keep_noise_of_their_own(name):
    function, params, x = BY_DESIGN[name]
    assert not readings(function, params, x).drawn


# The signals that each weight meets, pre-activation by pre-activation.
SIGNALS = {
    "siamese difference": jnp.stack([X8, -(X8 + 0.1)]),
    "average of positions": (X8 / 3)[:, None],
    "windows added": jnp.stack([X8[:, :4], X8[:, 4:]]),
    "kernel padded and added": jnp.stack([X8[:, :4], X8[:, 4:]]),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_sum_of_preactivations_has_the_variance_that_the_pages_state(name):
    function, params, x = BY_DESIGN[name]
    signals = SIGNALS[name]
    apart = jnp.square(signals).sum(0) @ params.var
    together = jnp.square(signals.sum(0)) @ params.var
    moments = mf.mean_field(function, reading="moments")(params, x)
    np.testing.assert_allclose(moments.var.reshape(apart.shape), apart, rtol=1e-5)
    for kind, expected in (("preactivations", apart), ("weights", together)):
        got = draws(kind, tuple(ALL if kind == "weights" else SIGNALS))[name]
        _, _, var, error = oracles.mean_and_errors(got)
        found = var.reshape(expected.shape)
        assert (np.abs(found - expected) <= 5 * error.reshape(found.shape)).all()


def readings(function, params, x):
    program = jax.make_jaxpr(function)(params.mean, x)
    return find_readings(program, ["w"], 0, "sampled")


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (lambda w, x: x[:1] @ w, 1),
        (lambda w, x: x @ w, 3),
        (lambda w, x: (x[:2] @ w, x[:1] @ w), 3),
        (lambda w, x: jnp.einsum("bi,io->ob", x, w), 3),
        (lambda w, x: lax.scan(lambda c, v: (c, v @ w), 0.0, x)[1], 3),
        (lambda w, x: lax.scan(lambda c, v: (c, x[0, 0] * v), 0.0, w)[1], 1),
        (lambda w, x: (x[:, :, None] * w).sum(1), 3),
        (lambda w, x: jnp.convolve(x[0], w[:3, 0], mode="valid"), 6),
        (
            lambda w, x: lax.while_loop(
                lambda h: h[0, 0] < 0, lambda h: h + h @ w[:, :1] @ jnp.ones((1, 8)), x
            ),
            np.inf,
        ),
    ],
)
def test_readers_of_a_weight_are_counted(function, times):
    found = readings(function, slab(8, 2), X8)
    assert not found.drawn
    assert found.times["w"] == times


@pytest.mark.parametrize("name", ZOO)
def test_layers_of_the_frameworks_are_all_read_with_noise(name):
    apply, _, params, x = ZOO[name]()
    found = count_readings(apply, make_random(params), x[:1])
    assert not found.drawn
    assert set(found.times.values()) != {0}
