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

import meanfield as mf
from meanfield.neurons.silence import silence
from meanfield.program.sources import UnitSource
from meanfield.program.steps import run_loop, trace
from meanfield.program.units import find_units, layer_names, units_or_none

# Their weights are read once more elsewhere: as rows of a look-up that are cut with
# them, or in the other heads of one product.
TIED = ("weight_tying",)
NO_UNITS = ("stacked_layers",)


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
    if any(part in name for part in (*NO_UNITS, *TIED)):
        assert not found or "weight_tying" in name
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
