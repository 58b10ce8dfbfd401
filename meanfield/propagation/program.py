"""A network as a flat list of steps, cut open at the output units of a layer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from meanfield.checks import require
from meanfield.trees import named_leaves

from .deferred import ENTRYWISE
from .jaxprs import CALLS, REMAT, bind, open_jaxpr

_MOVES = frozenset(
    "transpose reshape broadcast_in_dim convert_element_type copy".split()
)
_OPENED = frozenset({*CALLS, *REMAT, "custom_vjp_call"})


@dataclasses.dataclass(frozen=True)
class Step:
    """One primitive: places of its operands (or literals) and of its results."""

    eqn: JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Units:
    """Where the output units of a layer are read.

    Attributes:
        place: the value that the rest of the network reads, after the activation.
        axis: its axis that counts the units.
        size: number of units.
    """

    place: int
    axis: int
    size: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A network function of parameters and a batch, as steps on numbered values.

    Attributes:
        steps: in order; calls are opened.
        inputs: places of the arrays of (params, x), in tree order.
        constants: places and values known from the start.
        outputs: places (or literals) of the results.
        shapes: shape of every value.
        leaves: place of every parameter by path name.
        finish: from the results to what the network returns.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    constants: dict[int, Any]
    outputs: tuple[Any, ...]
    shapes: dict[int, tuple[int, ...]]
    leaves: dict[str, int]
    finish: Callable[[list[Any]], Any]

    def run(
        self, params: Any, x: Any, change: Callable[[int, Any], Any] | None = None
    ) -> Any:
        """The network's outputs, each value passed through ``change(place, value)``."""
        values = dict(self.constants)
        arrays = jax.tree.leaves(eqx.filter((params, x), eqx.is_array))
        values.update(zip(self.inputs, arrays, strict=True))
        for step in self.steps:
            operands = [_read(values, item) for item in step.inputs]
            for place, value in zip(
                step.outputs, bind(step.eqn, *operands), strict=True
            ):
                values[place] = value if change is None else change(place, value)
        return self.finish([_read(values, item) for item in self.outputs])

    def units(self, layer: str) -> Units:
        """The output units of a layer.

        Args:
            layer: a parameter path without its last name, such as ``"layers/1"``.

        Raises:
            ValueError: there is no such layer, or its units cannot be told apart.
        """
        own = {
            name: place
            for name, place in self.leaves.items()
            if name.rpartition("/")[0] == layer and len(self.shapes[place]) >= 2
        }
        layers = sorted(
            {
                name.rpartition("/")[0]
                for name, place in self.leaves.items()
                if len(self.shapes[place]) >= 2
            }
        )
        require(
            bool(own),
            f"`layer` must be a layer with weights; got {layer!r}. There are {layers}.",
        )
        found = self._contraction(set(own.values()))
        require(
            found is not None,
            f"the units of `layer` {layer!r} cannot be masked: its weights meet no "
            "product or convolution of the network's outer level (a layer inside a "
            "loop, or a look-up, has no units here). Choose another layer.",
        )
        assert found is not None
        return self._follow(*found)

    def _contraction(self, places: set[int]) -> tuple[int, int, int] | None:
        """Step, value and unit axis of the first product with one of the places."""
        for number, step in enumerate(self.steps):
            hits = [i for i, item in enumerate(step.inputs) if item in places]
            if not hits:
                continue
            name = step.eqn.primitive.name
            if name in _MOVES:
                places |= set(step.outputs)
            elif name == "dot_general":
                axis = _free_axis(step.eqn, self.shapes, step.inputs, hits[0])
                return None if axis is None else (number, step.outputs[0], axis)
            elif name == "conv_general_dilated":
                axis = step.eqn.params["dimension_numbers"].out_spec[1]
                return number, step.outputs[0], axis
        return None

    def _follow(self, start: int, place: int, axis: int) -> Units:
        """Along entry by entry steps to the value that is read otherwise."""
        axes = {place: axis}
        for step in self.steps[start + 1 :]:
            touched = [item for item in step.inputs if item in axes]
            if not touched:
                continue
            out = step.outputs[0]
            name = step.eqn.primitive.name
            shape = self.shapes[touched[0]]
            if name == "transpose":
                order = step.eqn.params["permutation"]
                axes[out] = order.index(axes[touched[0]])
            elif name in ("squeeze", "reshape") and _without_ones(
                shape
            ) == _without_ones(self.shapes[out]):
                axes[out] = _same_axis(shape, self.shapes[out], axes[touched[0]])
            elif name in ENTRYWISE and self._only_parameters(step, axes):
                axes[out] = axes[touched[0]]
            else:
                place = max(touched)
                return Units(place, axes[place], self.shapes[place][axes[place]])
        place = max(axes)
        return Units(place, axes[place], self.shapes[place][axes[place]])

    def _only_parameters(self, step: Step, axes: dict[int, int]) -> bool:
        """Whether nothing but the units and constants of the network enter a step."""
        data = self._from_data
        return all(
            item in axes or not isinstance(item, int) or item not in data
            for item in step.inputs
        )

    @property
    def _from_data(self) -> set[int]:
        """Values that depend on the batch."""
        found = set(self.inputs) - set(self.leaves.values())
        for step in self.steps:
            if any(item in found for item in step.inputs if isinstance(item, int)):
                found |= set(step.outputs)
        return found


class _Constant:
    """A literal operand."""

    def __init__(self, value: Any):
        self.value = value


def trace(apply_fn: Callable[..., Any], params: Any, x: Any) -> Program:
    """Stage ``apply_fn(params, x)`` and open its calls."""
    closed, outputs, static = eqx.filter_make_jaxpr(apply_fn)(params, x)
    jaxpr, consts = open_jaxpr(closed)
    shapes: dict[int, tuple[int, ...]] = {}
    steps: list[Step] = []
    constants: dict[int, Any] = {}

    def new(shape: Any) -> int:
        shapes[len(shapes)] = tuple(shape)
        return len(shapes) - 1

    def walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        environment: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            environment[var] = new(np.shape(value))
            constants[environment[var]] = value

        def look(atom: Any) -> Any:
            if isinstance(atom, Literal):
                return _Constant(atom.val)
            return environment[atom]

        for eqn in jaxpr.eqns:
            items = [look(atom) for atom in eqn.invars]
            if eqn.primitive.name in _OPENED:
                inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                results = walk(*open_jaxpr(inner), items)
            else:
                results = [new(_shape_of(var)) for var in eqn.outvars]
                steps.append(Step(eqn, tuple(items), tuple(results)))
            environment.update(zip(eqn.outvars, results, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    inputs = [new(_shape_of(var)) for var in jaxpr.invars]
    results = walk(jaxpr, consts, inputs)
    arrays = [n for n, leaf in named_leaves(params).items() if eqx.is_array(leaf)]
    leaves = dict(zip(arrays, inputs, strict=False))
    treedef = jax.tree.structure(outputs)

    def finish(values: list[Any]) -> Any:
        return eqx.combine(jax.tree.unflatten(treedef, values), static)

    return Program(
        tuple(steps),
        tuple(inputs),
        constants,
        tuple(results),
        shapes,
        leaves,
        finish,
    )


def _read(values: dict[int, Any], item: Any) -> Any:
    return item.value if isinstance(item, _Constant) else values[item]


def _free_axis(
    eqn: JaxprEqn, shapes: dict[int, Any], inputs: Sequence[Any], side: int
) -> int | None:
    """Axis of a product's result that the weight's only free axis becomes."""
    (contracted, batch) = eqn.params["dimension_numbers"]
    free = [
        [
            axis
            for axis in range(len(shapes[item]))
            if axis not in contracted[number] and axis not in batch[number]
        ]
        for number, item in enumerate(inputs)
    ]
    if len(free[side]) != 1 or batch[0]:
        return None
    return 0 if side == 0 else len(free[0])


def _shape_of(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _same_axis(old: Sequence[int], new: Sequence[int], axis: int) -> int:
    """The axis of a shape that differs by axes of length one."""
    rank = sum(size != 1 for size in old[:axis])
    return [a for a, size in enumerate(new) if size != 1][rank]
