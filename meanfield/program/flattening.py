"""A jaxpr as a flat list of steps; calls and loops over layers are inlined."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from .jaxprs import CALLS, REMAT, open_jaxpr, scan_counts

MOST_LAYERS = 64  # largest length of a `scan` that is unrolled
_OPENED = frozenset({*CALLS, *REMAT, "custom_vjp_call"})


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A literal operand."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Step:
    """One primitive, with places (numbers) of operands (or literals) and results."""

    eqn: JaxprEqn
    inputs: tuple[Any, ...]
    outputs: tuple[int, ...]


def flatten(
    jaxpr: Any, consts: Sequence[Any], num_params: int | None
) -> tuple[Any, ...]:
    """Steps, constants, inputs, outputs, shapes and rows of a jaxpr; see `Program`.

    Calls are inlined, and so is a `scan` over layers, that is over arrays that depend
    on parameters and not on data. A `scan` is inlined only if the number of parameters
    is given.
    """
    shapes: dict[int, tuple[int, ...]] = {}
    steps: list[Step] = []
    constants: dict[int, Any] = {}
    layers: dict[tuple[int, int], int] = {}

    def new(shape: Any) -> int:
        shapes[len(shapes)] = tuple(shape)
        return len(shapes) - 1

    inputs = tuple(new(var.aval.shape) for var in jaxpr.invars)
    fixed = set(inputs[:num_params]) if num_params else set()
    fed = set(inputs) - fixed

    def add(eqn: Any, items: Sequence[Any]) -> list[int]:
        results = [new(var.aval.shape) for var in eqn.outvars]
        steps.append(Step(eqn, tuple(items), tuple(results)))
        for places in (fed, fixed):
            if any(item in places for item in items if isinstance(item, int)):
                places.update(results)
        return results

    def over_layers(eqn: Any, items: Sequence[Any]) -> bool:
        whole = items[sum(scan_counts(eqn)) :]
        own = {item for item in whole if isinstance(item, int)}
        few = 0 < eqn.params["length"] <= MOST_LAYERS
        return few and bool(own & fixed) and not own & fed

    def unroll(eqn: Any, items: Sequence[Any]) -> list[Any]:
        num_consts, num_carry = scan_counts(eqn)
        held, whole = items[:num_consts], items[num_consts + num_carry :]
        carry = items[num_consts : num_consts + num_carry]
        avals = [var.aval for var in eqn.invars[num_consts + num_carry :]]
        length = eqn.params["length"]
        order = reversed(range(length)) if eqn.params["reverse"] else range(length)
        stacked: dict[int, list[Any]] = {}
        for row in order:
            take = jax.make_jaxpr(
                lambda *a, n=row: [lax.index_in_dim(v, n, keepdims=False) for v in a]
            )(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
            parts = walk(take.jaxpr, take.consts, whole)
            for number, item in enumerate(whole):
                if item in inputs[: num_params or 0]:
                    # If a stack is scanned twice, its layers keep their places.
                    parts[number] = layers.setdefault((item, row), parts[number])
            body = open_jaxpr(eqn.params["jaxpr"])
            results = walk(*body, [*held, *carry, *parts])
            carry, stacked[row] = results[:num_carry], results[num_carry:]
        each = [[stacked[n][k] for n in range(length)] for k in range(len(stacked[0]))]
        together = []
        for var, items in zip(eqn.outvars[num_carry:], each, strict=True):
            one = jax.ShapeDtypeStruct(var.aval.shape[1:], var.aval.dtype)
            stack = jax.make_jaxpr(lambda *a: jnp.stack(a))(*[one] * length)
            together += walk(stack.jaxpr, stack.consts, items)
        return [*carry, *together]

    def walk(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        environment: dict[Any, Any] = dict(zip(jaxpr.invars, args, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            environment[var] = new(np.shape(value))
            constants[environment[var]] = value

        def look(atom: Any) -> Any:
            if isinstance(atom, Literal):
                return Constant(atom.val)
            return environment[atom]

        for eqn in jaxpr.eqns:
            items = [look(atom) for atom in eqn.invars]
            name = eqn.primitive.name
            if name in _OPENED:
                inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                results = walk(*open_jaxpr(inner), items)
            elif name == "scan" and over_layers(eqn, items):
                results = unroll(eqn, items)
            else:
                results = add(eqn, items)
            environment.update(zip(eqn.outvars, results, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    results = walk(jaxpr, consts, inputs)
    rows = {place: own for own, place in layers.items()}
    return tuple(steps), constants, inputs, tuple(results), shapes, rows
