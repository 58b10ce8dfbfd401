"""Layers that can have coalitions: dense or convolutional, feeding another layer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.neurons.silence import check_silent
from meanfield.program.named_layers import layer_names
from meanfield.program.primitives import PRODUCTS
from meanfield.program.sources import UnitSource
from meanfield.program.steps import Program, trace
from meanfield.program.units import Units, find_units, units_or_none


@dataclasses.dataclass(frozen=True)
class Layers:
    """Layers in the order of the computation.

    Attributes:
        units: their units.
    """

    units: Mapping[str, Units]

    @property
    def sources(self) -> dict[str, Mapping[str, UnitSource]]:
        """By layer, the parameters that feed its units."""
        return {name: units.sources for name, units in self.units.items()}


def find_layers(ensemble: Ensemble, x: Any, names: Sequence[str] | None) -> Layers:
    """The named layers, or all that can have coalitions.

    Args:
        ensemble: a network.
        x: a small batch.
        names: parameter paths without their last name.

    Raises:
        ValueError: a named layer does not exist or cannot have a coalition, or the
            network has no layer that can.
    """
    points = ensemble.mean_params()
    program = trace(ensemble.apply_fn, points, x)
    chosen = _all_layers(program) if names is None else list(names)
    units = {name: find_units(program, name) for name in chosen}
    require(
        bool(units),
        "`model` must have a layer with separate units that feed another layer; got "
        "none. Use a network with a hidden dense or convolutional layer.",
    )
    for name, own in units.items():
        require(
            own.place is not None,
            f"`layers` entry {name!r} is recurrent: its units are inside a loop, where "
            "training cannot restrict them. Name dense or convolutional layers.",
        )
        require(
            _feeds_weights(program, own),
            f"`layers` entry {name!r} computes the network's outputs, which cannot be "
            "left out. Name hidden layers.",
        )
        require(
            own.size >= 2,
            f"`layers` entry {name!r} has one unit; a game needs two players.",
        )
        check_silent(ensemble, program, own, name, x)
    order = sorted(units, key=lambda name: units[name].place or 0)
    return Layers({name: units[name] for name in order})


def _all_layers(program: Program) -> list[str]:
    """Layers that can have coalitions: no look-ups, loops or output layers."""
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
