"""Which layers of a network can play: dense or convolutional, feeding another layer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.neurons.silence import check_silent
from meanfield.program.steps import Program, trace
from meanfield.program.wiring import (
    Units,
    find_units,
    incoming_axes,
    layer_names,
    named_units,
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers in the order of the computation.

    Attributes:
        units: where their units are read.
        incoming: the parameters that feed them, with the axis that counts units.
    """

    units: Mapping[str, Units]
    incoming: Mapping[str, Mapping[str, int]]


def find_layers(ensemble: Ensemble, x: Any, names: Sequence[str] | None) -> Layers:
    """The named layers, or all that can play.

    Args:
        ensemble: a network.
        x: a small batch.
        names: parameter paths without their last name.

    Raises:
        ValueError: a layer that does not exist or cannot be cut, one that gives the
            network's outputs, or no layer at all.
    """
    points = ensemble.mean_params()
    program = trace(ensemble.apply_fn, points, x)
    chosen = _all_layers(program) if names is None else list(names)
    units = {name: named_units(program, name) for name in chosen}
    require(
        bool(units),
        "`model` has no layer that can play: none whose units can be told apart and "
        "feed another layer. A network with a hidden dense or convolutional layer has.",
    )
    for name, own in units.items():
        require(
            _feeds_weights(program, own),
            f"`layers` entry {name!r} gives the network's outputs, which no coalition "
            "can leave out. Name hidden layers.",
        )
        require(
            own.size >= 2,
            f"`layers` entry {name!r} has one unit; a game needs two players.",
        )
        check_silent(ensemble, program, own, name, x)
    order = sorted(units, key=lambda name: units[name].place)
    return Layers(
        {name: units[name] for name in order},
        {name: incoming_axes(program, units[name]) for name in order},
    )


def _all_layers(program: Program) -> list[str]:
    """Those that can play. Others (look-ups, layers in loops, the last) are left."""
    found = {name: find_units(program, name) for name in layer_names(program)}
    return [
        name
        for name, units in found.items()
        if units is not None and units.size >= 2 and _feeds_weights(program, units)
    ]


def _feeds_weights(program: Program, units: Units) -> bool:
    """Whether the units reach a product or convolution with other weights."""
    for number in program.readers([units.place]):
        step = program.steps[number]
        product = step.eqn.primitive.name in ("dot_general", "conv_general_dilated")
        inputs = [item for item in step.inputs if isinstance(item, int)]
        if product and not all(item in program.from_data for item in inputs):
            return True
    return False
