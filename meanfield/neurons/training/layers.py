"""Which layers of a network can play: dense or convolutional, feeding another layer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.neurons.silence import check_silent
from meanfield.program.primitives import PRODUCTS
from meanfield.program.sources import UnitSource
from meanfield.program.steps import Program, trace
from meanfield.program.units import Units, find_units, layer_names, units_or_none


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers in the order of the computation.

    Attributes:
        units: their units.
    """

    units: Mapping[str, Units]

    @property
    def sources(self) -> dict[str, Mapping[str, UnitSource]]:
        """By layer the parameters that feed its units."""
        return {name: units.sources for name, units in self.units.items()}


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
    units = {name: find_units(program, name) for name in chosen}
    require(
        bool(units),
        "`model` has no layer that can play: none whose units can be told apart and "
        "feed another layer. A network with a hidden dense or convolutional layer has.",
    )
    for name, own in units.items():
        require(
            own.place is not None,
            f"`layers` entry {name!r} is recurrent: its units live in a loop, where "
            "training cannot hold them. Name dense or convolutional layers.",
        )
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
    order = sorted(units, key=lambda name: units[name].place or 0)
    return Layers({name: units[name] for name in order})


def _all_layers(program: Program) -> list[str]:
    """Those that can play. Others (look-ups, layers in loops, the last) are left."""
    found = {name: units_or_none(program, name) for name in layer_names(program)}
    return [
        name
        for name, units in found.items()
        if units is not None
        and units.place is not None
        and units.size >= 2
        and _feeds_weights(program, units)
    ]


def _feeds_weights(program: Program, units: Units) -> bool:
    """Whether the units reach a product or convolution with other weights."""
    assert units.place is not None
    for number in program.readers([units.place]):
        step = program.steps[number]
        product = step.eqn.primitive.name in PRODUCTS
        inputs = [item for item in step.inputs if isinstance(item, int)]
        if product and not all(item in program.from_data for item in inputs):
            return True
    return False
