"""Units are the same to the games, which mask them, and to training, which cuts them.

Masking holds a unit at zero wherever the rest of the network reads it. Cutting sets
what feeds it to zero. Where the activation gives 0 at 0, both are one network.
"""

from pathlib import PurePosixPath

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from jax import lax

import meanfield as mf
from meanfield.games.exact import all_coalitions
from meanfield.neurons.silence import silence
from meanfield.program.named_layers import layer_names
from meanfield.program.sources import UnitSource
from meanfield.program.steps import run_loop, trace
from meanfield.program.units import find_units, units_or_none

# Their weights are read once more elsewhere: as rows of a look-up that are cut with
# them, in the other heads of one product, or by a stack of layers that is run twice.
TIED = ("weight_tying", "nnx_stacked")


def layers_with_units(case):
    """By layer, and by recurrent cell, the units that there are."""
    program = trace(case.apply, case.params, case.x)
    names = set(layer_names(program))
    names |= {str(above) for name in names for above in PurePosixPath(name).parents}
    names -= {"."}
    found = {name: units_or_none(program, name) for name in sorted(names)}
    units = {name: own for name, own in found.items() if own is not None}
    # A gate of a recurrent cell is a part of it.
    loops = [name for name, own in units.items() if own.bodies]
    for name in loops:
        if any(str(above) in loops for above in PurePosixPath(name).parents):
            units.pop(name)
    return program, units


def masked(program, params, x, units, mask):
    """Outputs with the units outside held at zero wherever they are read."""

    def hold(loop):
        def change(place, value):
            for read in units.reads:
                if (read.place, read.loop) == (place, loop):
                    shape = [1] * value.ndim
                    shape[read.axis] = -1
                    value = jnp.where(mask[read.owner].reshape(shape), value, 0)
            return value

        return change

    def run(number):
        body = units.bodies[number]
        return lambda step, operands: run_loop(step, body, operands, hold(number))[0]

    loops = {number: run(number) for number in units.bodies}
    values = program.start(params, x)
    return program.results(program.advance(values, change=hold(None), loops=loops))


@pytest.mark.parametrize("name", models.ZOO)
def test_silenced_units_are_the_players(name):
    case = models.ZOO[name]()
    program, found = layers_with_units(case)
    if any(part in name for part in TIED):
        return
    assert found
    ensemble = mf.Ensemble.from_points((case.apply, case.params))
    whole = case.apply(case.params, case.x)
    for layer, units in found.items():
        mask = np.arange(units.size) % 2 == 1
        silent = silence(ensemble, {layer: mask}, {layer: units.sources})
        cut = case.apply(silent.params, case.x)
        played = masked(program, case.params, case.x, units, mask)
        np.testing.assert_allclose(played, cut, rtol=2e-5, atol=1e-6, err_msg=layer)
        assert not np.allclose(cut, whole), layer


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("equinox_conv1d_average_pool", "layers/0"),
        ("equinox_gru_scan", "cell"),
        ("linen_conv2d_max_pool_group_norm_residual", "params/block"),
    ],
)
def test_the_neuron_game_plays_with_the_units_that_training_cuts(name, layer):
    case = models.ZOO[name]()
    ensemble = mf.Ensemble.from_points((case.apply, case.params))
    units = find_units(trace(case.apply, case.params, case.x), layer)
    targets = jnp.zeros_like(case.apply(case.params, case.x))
    game = mf.NeuronGame(
        ensemble,
        layer,
        (case.x, targets),
        likelihood=mf.Gaussian(scale=1.0),
        replacement="zero",
    )
    mask = np.arange(game.num_players) % 2 == 1
    silent = silence(ensemble, {layer: mask}, {layer: units.sources})
    cut = case.apply(silent.params, case.x)
    paid = -np.square(cut).reshape(len(cut), -1).mean(1)
    np.testing.assert_allclose(game.scores(mask[None])[0], paid, rtol=2e-5)


def drawn(number, *shape):
    rng = np.random.default_rng(number)
    return jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)


WEIGHTS = [drawn(0, 4, 3), drawn(1, 3), drawn(2, 3, 4), drawn(3, 4), drawn(4, 4, 2)]
TARGETS = jnp.array([0, 1, 1, 0, 1, 0])
FLAT = {
    "list": (WEIGHTS, list, ("0", "2")),
    "dictionary": (
        dict(zip(("w1", "b1", "w2", "b2", "w3"), WEIGHTS, strict=True)),
        lambda p: [p[n] for n in ("w1", "b1", "w2", "b2", "w3")],
        ("w1", "w2"),
    ),
    "pairs": (
        [(WEIGHTS[0], WEIGHTS[1]), (WEIGHTS[2], WEIGHTS[3]), WEIGHTS[4]],
        lambda p: [*p[0], *p[1], p[2]],
        ("0", "1"),
    ),
}


@pytest.mark.parametrize("kind", FLAT)
def test_flat_parameters_have_layers_by_their_own_names(kind):
    params, listed, names = FLAT[kind]

    def network(params, x):
        w1, b1, w2, b2, w3 = listed(params)
        return jnp.tanh(jnp.tanh(x @ w1 + b1) @ w2 + b2) @ w3

    ensemble = mf.Ensemble.from_points((network, params))
    x = drawn(5, 6, 4)
    w1, b1, w2, b2, w3 = WEIGHTS
    first = jnp.tanh(x @ w1 + b1)
    second = jnp.tanh(first @ w2 + b2)
    layers = {names[0]: (first, lambda h: jnp.tanh(h @ w2 + b2) @ w3)}
    layers[names[1]] = (second, lambda h: h @ w3)
    for name, (units, rest) in layers.items():
        game = mf.NeuronGame(ensemble, name, (x, TARGETS))
        masks = all_coalitions(units.shape[1])
        kept = [jnp.where(mask, units, units.mean(0)) for mask in masks]
        probs = [jax.nn.softmax(rest(part))[jnp.arange(6), TARGETS] for part in kept]
        paid = [float(prob.mean()) for prob in probs]
        np.testing.assert_allclose(game(masks), paid, rtol=1e-5, err_msg=name)
    values = mf.unit_values(ensemble, (x, TARGETS), key=jax.random.key(0)).values
    assert set(values) == set(names)
    mask = np.array([True, False, True])
    program = trace(network, params, x)
    sources = {names[0]: find_units(program, names[0]).sources}
    silent = silence(ensemble, {names[0]: mask}, sources).mean_params()
    expected = jnp.tanh(first * mask @ w2 + b2) @ w3
    np.testing.assert_allclose(network(silent, x), expected, rtol=1e-5, atol=1e-6)
    # A coalition by the same name: the others leave, and their means go into a bias.
    outside = {names[0]: mask}
    shrunk = mf.deploy.shrink((network, params), x, coalition=outside)
    apply, fewer = shrunk.model
    held = jnp.where(mask, first, first.mean(0))
    expected = jnp.tanh(held @ w2 + b2) @ w3
    np.testing.assert_allclose(apply(fewer, x), expected, rtol=1e-5, atol=1e-6)
    assert [leaf.shape for leaf in listed(fewer)] == [
        (4, 2),
        (2,),
        (2, 4),
        (4,),
        (4, 2),
    ]


def block(h, p):
    """A block of a small transformer, from a flat dictionary of arrays."""
    q, k, v = (
        jnp.einsum("btd,de->bte", h, p[n]).reshape(*h.shape[:2], 2, 2) for n in "qkv"
    )
    looks = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k))
    heads = jnp.einsum("bhts,bshe->bthe", looks, v).reshape(h.shape)
    h = h + jnp.einsum("btd,de->bte", heads, p["o"])
    return h + jax.nn.relu(h @ p["up"]) @ p["down"]


def test_blocks_stacked_for_a_scan_have_the_units_of_blocks_one_after_another():
    shapes = dict.fromkeys("qkvo", (4, 4)) | {"up": (4, 5), "down": (5, 4)}
    blocks = [
        {n: drawn(10 * i + j, *s) for j, (n, s) in enumerate(shapes.items())}
        for i in range(2)
    ]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *blocks)

    def listed(params, x):
        h = x[:, :, None] * params["embed"]
        for p in params["blocks"]:
            h = block(h, p)
        return h.mean(1) @ params["out"]

    def scanned(params, x):
        start = x[:, :, None] * params["embed"]
        h, _ = lax.scan(lambda h, p: (block(h, p), None), start, params["blocks"])
        return h.mean(1) @ params["out"]

    rest = {"embed": drawn(7, 4), "out": drawn(8, 4, 3)}
    data = drawn(9, 6, 3), TARGETS
    one, other = (
        mf.Ensemble.from_points((network, rest | {"blocks": own}))
        for network, own in ((listed, blocks), (scanned, stacked))
    )
    key = jax.random.key(0)
    found, expected = (
        mf.unit_values(e, data, key=key, num_nodes=4, num_samples=2).values
        for e in (other, one)
    )
    assert {n.replace("/0", "[0]").replace("/1", "[1]") for n in expected} == {*found}
    for name, values in expected.items():
        same = name.replace("/0", "[0]").replace("/1", "[1]")
        np.testing.assert_allclose(found[same], values, rtol=1e-4, atol=1e-6)
    masks = all_coalitions(2)
    games = [
        mf.NeuronGame(*pair, data) for pair in ((other, "blocks[1]"), (one, "blocks/1"))
    ]
    np.testing.assert_allclose(*(game(masks) for game in games), rtol=1e-5)
    with pytest.raises(ValueError, match="must be a layer with weights"):
        mf.NeuronGame(other, "blocks/up", data)
    with pytest.raises(ValueError, match="cannot be masked.*a group of layers"):
        mf.NeuronGame(one, "blocks", data)
    # Cut away, units and heads are zeros in their own row alone.
    program = trace(scanned, rest | {"blocks": stacked}, data[0])
    cut = {"blocks[1]": jnp.array([True, False]), "blocks[0]/up": jnp.arange(5) != 2}
    sources = {name: find_units(program, name).sources for name in cut}
    silent = silence(other, cut, sources).mean_params()
    for name in "qkv":  # the heads of the second block
        blocks[1] = blocks[1] | {name: blocks[1][name].at[:, 2:].set(0)}
    blocks[0] = blocks[0] | {"up": blocks[0]["up"].at[:, 2].set(0)}
    expected = listed(rest | {"blocks": blocks}, data[0])
    np.testing.assert_allclose(scanned(silent, data[0]), expected, rtol=1e-5)
    shrunk = mf.deploy.shrink((scanned, silent), data[0])
    assert shrunk.largest_difference < 1e-6


def graph_network(params, x):
    """Two layers that add up what the senders of the edges into a node send."""
    senders, receivers = jnp.array([0, 1, 2, 1]), jnp.array([1, 2, 0, 0])

    def layer(h, own, rest):
        sent = (h @ own["w"])[:, senders]
        return rest(jax.vmap(lambda a: jax.ops.segment_sum(a, receivers, 3))(sent))

    h = layer(x, params["one"], lambda h: jax.nn.relu(h + params["one"]["b"]))
    if "mask" in params:
        held = h.mean((0, 1)) if params["mean"] else jnp.zeros(h.shape[-1])
        h = jnp.where(params["mask"], h, held)
    return layer(h, params["two"], lambda h: h.mean(1))


@pytest.mark.parametrize("replacement", ["mean", "zero"])
def test_units_of_a_graph_network_are_those_of_its_layers_at_all_nodes(replacement):
    one, two = {"w": drawn(1, 2, 3), "b": drawn(4, 3)}, {"w": drawn(2, 3, 2)}
    params, x = {"one": one, "two": two}, drawn(3, 6, 3, 2)
    ensemble = mf.Ensemble.from_points((graph_network, params))
    game = mf.NeuronGame(ensemble, "one", (x, TARGETS), replacement=replacement)
    masks = all_coalitions(3)
    paid = []
    for mask in masks:
        held = params | {"mask": jnp.asarray(mask), "mean": replacement == "mean"}
        prob = jax.nn.softmax(graph_network(held, x))[jnp.arange(6), TARGETS]
        paid.append(float(prob.mean()))
    np.testing.assert_allclose(game(masks), paid, rtol=1e-5)
    units = find_units(trace(graph_network, params, x), "one")
    mask = np.array([True, False, True])
    silent = silence(ensemble, {"one": mask}, {"one": units.sources}).mean_params()
    zeroed = {"one": jax.tree.map(lambda a: a * mask, one), "two": two}
    np.testing.assert_array_equal(graph_network(silent, x), graph_network(zeroed, x))
    shrunk = mf.deploy.shrink((graph_network, silent), x)
    assert shrunk.largest_difference < 1e-6


def test_a_parameter_behind_the_pooling_feeds_the_units_too():
    def network(params, x):
        rows = jax.nn.relu(jnp.einsum("bti,io->bto", x, params["one"]["kernel"]))
        rows = rows.mean(1) * params["scale"] + params["shift"]
        return rows @ params["two"]["kernel"]

    rng = np.random.default_rng(0)
    params = {
        "one": {"kernel": rng.normal(size=(3, 4))},
        "scale": rng.normal(size=4),
        "shift": rng.normal(size=4),
        "two": {"kernel": rng.normal(size=(4, 2))},
    }
    params = jax.tree.map(jnp.float32, params)
    units = find_units(trace(network, params, jnp.ones((2, 5, 3))), "one")
    every = (0, 1, 2, 3)
    assert units.sources == {
        "one/kernel": UnitSource(1, every),
        "scale": UnitSource(0, every),
        "shift": UnitSource(0, every),
    }


def test_gates_of_a_recurrent_cell_belong_to_its_units():
    case = models.ZOO["equinox_gru_scan"]()
    units = find_units(trace(case.apply, case.params, case.x), "cell")
    three_gates = (0, 1, 2, 3) * 3
    assert units.place is None
    assert units.sources["cell/weight_ih"] == UnitSource(0, three_gates)
    assert units.sources["cell/weight_hh"] == UnitSource(0, three_gates)
    assert units.sources["cell/bias"] == UnitSource(0, three_gates)


def test_the_activations_of_units_under_a_norm_are_those_that_it_reads():
    case = models.ZOO["linen_conv2d_max_pool_group_norm_residual"]()
    program, found = layers_with_units(case)
    stem = found["params/stem"]
    (read,) = stem.reads
    assert (stem.place, stem.axis) == (read.place, read.axis)
