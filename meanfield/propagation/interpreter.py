"""Evaluate a jaxpr in which some of the arrays are random.

Equations without random operands are evaluated as they are. For the others the rule of
the primitive is applied. Without a rule, the sampled reading draws the operands if they
can be drawn; otherwise an error is raised. The moments reading first defers functions
of one random array; see `deferred`.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from meanfield.program.jaxprs import (
    CALLS,
    REMAT,
    bind,
    count_uses,
    open_jaxpr,
    read,
    transposes,
)

from .closed_forms import closed_form
from .deferred import Deferred, defer, dtype_of, settle_moments
from .equation import Context, Equation
from .gates import apply_gated
from .joint import CONTRACTIONS, remember_distribution
from .registry import find_rule
from .values import Gated, is_random

# The rules of these primitives pass weights on to the programs inside.
HOLDERS = {*CALLS, *REMAT, "scan", "while", "cond"}


def evaluate(jaxpr: Any, args: Sequence[Any], context: Context) -> list[Any]:
    """Results of a jaxpr: plain arrays, `Random`, or `Deferred` functions of these.

    Args:
        jaxpr: an open jaxpr without constants, or a closed one.
        args: its arguments, plain or `Random`.
        context: the reading and the source of noise.
    """
    jaxpr, consts = open_jaxpr(jaxpr)
    uses, turned = count_uses(jaxpr), transposes(jaxpr)
    environment = dict(zip(jaxpr.constvars, consts, strict=True))

    def store(var: Any, value: Any) -> None:
        # All steps that read a drawable value must use the same draw.
        read_often = uses[var] > 1 and is_random(value) and value.drawable
        if context.reading == "sampled" and read_often:
            value = context.draw(value)
        environment[var] = value

    for var, value in zip(jaxpr.invars, args, strict=True):
        store(var, value)
    for eqn in jaxpr.eqns:
        operands = [read(environment, atom) for atom in eqn.invars]
        if any(is_random(v) or isinstance(v, Deferred | Gated) for v in operands):
            equation = Equation(eqn, context, turned.get(eqn.outvars[0]))
            results = apply_rule(equation, operands)
        else:
            results = bind(eqn, *operands)
        for var, value in zip(eqn.outvars, results, strict=True):
            store(var, value)
    return [read(environment, atom) for atom in jaxpr.outvars]


def apply_rule(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Results of one equation with a random operand."""
    rule = find_rule(equation.name, equation.reading)
    gated = any(isinstance(v, Gated) for v in operands)
    if gated and equation.name not in HOLDERS:
        if equation.reading == "moments":
            operands = [settle_moments(value) for value in operands]
        return [apply_gated(equation, operands)]
    if equation.reading == "moments" and equation.name not in CALLS:
        deferred = defer(equation, operands, rule, closed_form)
        if deferred is not None:
            return list(deferred)
        for value in operands:
            if isinstance(value, Deferred) and jnp.issubdtype(
                dtype_of(value), jnp.integer
            ):
                because = "an integer computed from random numbers has no mean"
                raise equation.refuse(value.root, because=because)
        given, operands = operands, [settle_moments(value) for value in operands]
        if rule is not None and equation.name in CONTRACTIONS:
            result = rule(equation, *operands)
            remember_distribution(equation, given, result)
            return [result]
    if rule is None:
        results = equation.bind(*settle(equation, *operands))
    else:
        results = rule(equation, *operands)
    return results if equation.many else [results]


def settle(equation: Equation, *operands: Any) -> list[Any]:
    """Draw all drawable operands; raise if another random operand is left."""
    for value in operands:
        if is_random(value) and not (equation.reading == "sampled" and value.drawable):
            raise equation.refuse(*operands)
    return [equation.draw(value) for value in operands]
