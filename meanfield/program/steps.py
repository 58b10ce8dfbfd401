"""A network as a flat list of steps on numbered values, which can be run in parts.

The number of a value is called its place.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax

from meanfield.trees import named_leaves

from .flattening import Constant, Step, flatten
from .jaxprs import bind, open_jaxpr, scan_counts


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A network function of parameters and a batch, as steps on numbered values.

    Attributes:
        steps: all steps in order; calls and a `scan` over layers are inlined, but the
            bodies of other loops are not.
        inputs: places of the arrays of (params, x), in tree order.
        constants: places and values known from the start.
        outputs: places (or literals) of the results.
        shapes: shape of every value.
        leaves: place of every parameter by path name.
        rows: places that hold one layer of a parameter in which layers are stacked for
            a `scan`: its path name and the number of the layer.
        finish: function from the results to the network's return value.
    """

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    constants: dict[int, Any]
    outputs: tuple[Any, ...]
    shapes: dict[int, tuple[int, ...]]
    leaves: dict[str, int]
    finish: Callable[[list[Any]], Any]
    rows: Mapping[int, tuple[str, int]] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, int]:
        """Places of parameters by path name; layers of a stack as ``"layers[0]/w"``."""
        stacked = {name for name, _ in self.rows.values()}
        found = {n: place for n, place in self.leaves.items() if n not in stacked}
        for place, (name, row) in self.rows.items():
            parent, slash, last = name.rpartition("/")
            found[f"{parent}[{row}]{slash}{last}" if slash else f"{name}[{row}]"] = (
                place
            )
        return found

    def start(self, params: Any, x: Any) -> dict[int, Any]:
        """Values of the inputs and constants by place."""
        arrays = jax.tree.leaves(eqx.filter((params, x), eqx.is_array))
        return {**self.constants, **dict(zip(self.inputs, arrays, strict=True))}

    def advance(
        self,
        values: dict[int, Any],
        numbers: Iterable[int] | None = None,
        *,
        change: Callable[[int, Any], Any] | None = None,
        loops: Mapping[int, Callable[[Step, list[Any]], list[Any]]] | None = None,
    ) -> dict[int, Any]:
        """Run steps, and add their results to `values`.

        Args:
            values: values by place.
            numbers: numbers of the steps to run, in order; all by default.
            change: every result is replaced by ``change(place, value)``.
            loops: functions (step, operands) -> results that replace some steps.
        """
        for number in range(len(self.steps)) if numbers is None else numbers:
            step = self.steps[number]
            operands = [self.read(values, item) for item in step.inputs]
            if loops is not None and number in loops:
                results = loops[number](step, operands)
            else:
                results = bind(step.eqn, *operands)
            for place, value in zip(step.outputs, results, strict=True):
                values[place] = value if change is None else change(place, value)
        return values

    def results(self, values: Mapping[int, Any]) -> Any:
        """The network's return value."""
        return self.finish([self.read(values, item) for item in self.outputs])

    def read(self, values: Mapping[int, Any], item: Any) -> Any:
        """An operand: a value by its place, or a literal."""
        return item.value if isinstance(item, Constant) else values[item]

    @functools.cached_property
    def from_data(self) -> frozenset[int]:
        """Places whose values depend on the batch."""
        return self.depending(set(self.inputs) - set(self.leaves.values()))

    def depending(self, places: Iterable[int]) -> frozenset[int]:
        """These places, and all places that are computed from them."""
        found = set(places)
        for step in self.steps:
            if any(item in found for item in step.inputs if isinstance(item, int)):
                found |= set(step.outputs)
        return frozenset(found)

    def readers(self, places: Iterable[int]) -> list[int]:
        """Numbers of the steps, in order, that depend on these places."""
        found = self.depending(places)
        return [
            number
            for number, step in enumerate(self.steps)
            if any(item in found for item in step.inputs if isinstance(item, int))
        ]


def body_of(step: Step, is_data: Sequence[bool]) -> Program:
    """The body of a `scan` as a program.

    Args:
        step: a `scan`.
        is_data: for each operand, whether it depends on the batch. Constants of the
            loop that do not are treated as parameters, all other operands as data.
    """
    jaxpr, consts = open_jaxpr(step.eqn.params["jaxpr"])
    steps, constants, inputs, outputs, shapes, _ = flatten(jaxpr, consts, None)
    num_consts, _ = scan_counts(step.eqn)
    known = {
        str(number): place
        for number, place in enumerate(inputs)
        if number < num_consts and not is_data[number]
    }
    return Program(steps, inputs, constants, outputs, shapes, known, tuple)


def run_loop(
    step: Step,
    body: Program,
    operands: Sequence[Any],
    change: Callable[[int, Any], Any],
    seen: Callable[[int, Any], Any] = lambda place, value: None,
) -> tuple[list[Any], dict[int, Any]]:
    """Run a `scan` with every value in its body replaced by ``change(place, value)``.

    Args:
        step: the `scan`.
        body: its body.
        operands: operands of the step.
        change: ``change(place in the body, value)``, also for incoming carries.
        seen: ``seen(place, value)``, called before the change: a value to record, or
            None.

    Returns:
        The step's results, and the recorded values, stacked over the steps of the loop.
    """
    num_consts, num_carry = scan_counts(step.eqn)
    consts = list(operands[:num_consts])
    init = list(operands[num_consts : num_consts + num_carry])
    xs = list(operands[num_consts + num_carry :])

    def once(carry: list[Any], slices: list[Any]) -> Any:
        kept: dict[int, Any] = {}

        def pass_through(place: int, value: Any) -> Any:
            note = seen(place, value)
            if note is not None:
                kept[place] = note
            return change(place, value)

        arrays = [*consts, *carry, *slices]
        values = dict(body.constants)
        for place, value in zip(body.inputs, arrays, strict=True):
            values[place] = pass_through(place, value)
        body.advance(values, change=pass_through)
        results = [body.read(values, item) for item in body.outputs]
        return results[:num_carry], (results[num_carry:], kept)

    carry, (stacked, kept) = jax.lax.scan(
        once,
        init,
        xs,
        length=step.eqn.params["length"],
        reverse=step.eqn.params["reverse"],
    )
    return [*carry, *stacked], kept


def trace(apply_fn: Callable[..., Any], params: Any, x: Any) -> Program:
    """Stage ``apply_fn(params, x)`` and inline its calls."""
    closed, outputs, static = eqx.filter_make_jaxpr(apply_fn)(params, x)
    arrays = [n for n, leaf in named_leaves(params).items() if eqx.is_array(leaf)]
    jaxpr, consts = open_jaxpr(closed)
    own = len(arrays)
    steps, constants, inputs, results, shapes, rows = flatten(jaxpr, consts, own)
    leaves = dict(zip(arrays, inputs, strict=False))
    names = {place: name for name, place in leaves.items()}
    rows = {p: (names[whole], row) for p, (whole, row) in rows.items()}
    treedef = jax.tree.structure(outputs)

    def finish(values: list[Any]) -> Any:
        return eqx.combine(jax.tree.unflatten(treedef, values), static)

    return Program(steps, inputs, constants, results, shapes, leaves, finish, rows)
